"""Fault rules: reading them, and on which requests they fire."""

from __future__ import annotations

import pytest

from ratelimit.emulator.faults import KINDS, Fault, FaultPlan, parse_faults
from ratelimit.errors import ConfigError


def test_a_string_a_list_and_json_say_the_same() -> None:
    """The command line, the admin page and the constructor share one notation."""
    rules = (Fault("429", rate=0.25), Fault("cut_stream", every=5, model="gpt-4o"), Fault("500"))
    assert parse_faults("429:rate=0.25; cut_stream:every=5,model=gpt-4o ;500") == rules
    assert parse_faults([{"kind": 429, "rate": 0.25}, rules[1], {"kind": "500"}]) == rules
    assert parse_faults('[{"kind": "429", "rate": 0.25}]') == rules[:1]
    assert parse_faults(None) == parse_faults("") == ()


@pytest.mark.parametrize(
    "wrong",
    [
        "418",
        "500:every=0",
        "500:rate=2",
        "500:rate",
        "500:every=x",
        "500:colour=3",
        "500:endpoint=chat",
        "cut_stream:endpoint=poll",
        "[1",
        {"kind": "500"},
        [{"rate": 0.1}],
        [5],
        5,
    ],
)
def test_a_rule_that_cannot_be_read_is_refused(wrong: object) -> None:
    """A typing error in a rule is an error at once, not a fault that never comes."""
    with pytest.raises(ConfigError, match=r"fault"):
        parse_faults(wrong)  # type: ignore[arg-type]  # the point of the test


def picks(plan: FaultPlan, requests: int, **about: str) -> list[int]:
    """The requests, counted from 1, that meet a fault."""
    asked = {"endpoint": "responses", "model": "o3-pro", **about}
    return [nth for nth in range(1, requests + 1) if plan.pick(asked["endpoint"], asked["model"])]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("500", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ("500:every=3", [3, 6, 9]),
        ("500:first=2", [1, 2]),
        ("500:after=7", [8, 9, 10]),
        ("500:after=2,every=4", [6, 10]),
        ("500:count=3,every=2", [2, 4, 6]),
        ("500:rate=0", []),
        ("500:rate=1,first=3,after=1", [2, 3, 4]),
        ("500:model=gpt-4o", []),
        ("500:endpoint=embeddings", []),
        ("500:endpoint=poll", []),
    ],
)
def test_when_a_rule_fires(rule: str, expected: list[int]) -> None:
    """`every`, `first`, `after`, `count` and the filters pick the requests they name."""
    assert picks(FaultPlan(parse_faults(rule)), 10) == expected


def test_the_seed_decides_which_share_fails() -> None:
    """The same seed fails the same requests; another seed fails others; the share is about right."""
    rules = parse_faults("503:rate=0.2")
    first, again, other = (picks(FaultPlan(rules, seed), 500) for seed in (1, 1, 2))
    assert first == again != other
    assert 70 <= len(first) <= 130


def test_a_request_that_does_not_stream_is_no_chance_for_a_stream_fault() -> None:
    """cut_stream:every=2 means each second stream, whatever else is asked in between."""
    plan = FaultPlan(parse_faults("cut_stream:every=2"))
    streams = [False, True, False, True, True, False, True]
    met = [plan.pick("responses", "gpt-4o", stream) for stream in streams]
    assert met == [None, None, None, "cut_stream", None, None, "cut_stream"]


def test_polls_meet_only_their_own_faults() -> None:
    """A rule without an endpoint never touches the polling of background responses."""
    assert picks(FaultPlan([Fault(kind) for kind in KINDS]), 3, endpoint="poll") == []
    assert picks(FaultPlan(parse_faults("500:endpoint=poll,every=2")), 4, endpoint="poll") == [2, 4]
