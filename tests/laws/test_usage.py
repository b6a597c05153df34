"""Law: whatever a reply says it used, each token is in exactly one count, and the counts add up to the totals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.usage import FIELDS, Usage

CHAT = {
    "prompt_tokens": 12_345,
    "completion_tokens": 6_789,
    "total_tokens": 19_134,
    "prompt_tokens_details": {"cached_tokens": 2_000, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 5_000,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
RESPONSES = {
    "input_tokens": 12_345,
    "input_tokens_details": {"cached_tokens": 2_000, "cache_write_tokens": 345},
    "output_tokens": 6_789,
    "output_tokens_details": {"reasoning_tokens": 5_000},
    "total_tokens": 19_134,
}


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        pytest.param(CHAT, Usage(10_345, 2_000, 0, 1_789, 5_000), id="chat"),
        pytest.param(RESPONSES, Usage(10_000, 2_000, 345, 1_789, 5_000), id="responses"),
        pytest.param({"prompt_tokens": 8, "total_tokens": 8}, Usage(8), id="embeddings"),
        pytest.param({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}, Usage(5, 0, 0, 7), id="legacy"),
        pytest.param(
            {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "prompt_tokens_details": None,
                "completion_tokens_details": None,
            },
            Usage(9, 0, 0, 1),
            id="null details",
        ),
        pytest.param(
            {"input_tokens": 3, "output_tokens": 0, "input_tokens_details": {"cached_tokens": None}},
            Usage(3),
            id="null cached",
        ),
    ],
)
def test_real_shapes_are_read_exactly(stated: dict[str, Any], expected: Usage) -> None:
    """The usage objects of Responses, Chat, Embeddings and legacy Completions are read to the token, without notes."""
    usage = Usage.from_response(stated)
    assert usage == expected
    assert usage is not None
    assert usage.notes == ()
    assert usage.total_input == stated.get("input_tokens", stated.get("prompt_tokens"))
    assert usage.total_output == stated.get("output_tokens", stated.get("completion_tokens", 0))
    assert Usage(**usage.as_dict()) == usage
    assert hash(Usage(**usage.as_dict())) == hash(usage)


@pytest.mark.parametrize("absent", [None, {}, [], "usage", 7, {"total_tokens": 5}, {"output_tokens": 5}])
def test_no_usage_is_none(absent: Any) -> None:
    """Where there is no usage object, or it does not say what was read, the answer is None and never zero tokens."""
    assert Usage.from_response(absent) is None


@pytest.mark.parametrize("bad", [None, -1, 2.5, 1000.0, "12", True, [], {}, 10**9 + 1, 10**30, 10**5000], ids=type)
@pytest.mark.parametrize("names", [("input_tokens", "output_tokens"), ("prompt_tokens", "completion_tokens")])
@pytest.mark.parametrize("which", [0, 1], ids=["input", "output"])
def test_a_total_that_is_no_count_is_no_usage(bad: Any, names: tuple[str, str], which: int) -> None:
    """A total that is null, text, a fraction, negative or absurd makes the usage unreadable: never $0, never more."""
    assert Usage.from_response({names[0]: 10, names[1]: 10, names[which]: bad}) is None


def test_an_output_left_out_is_none_only_where_the_total_agrees() -> None:
    """Embeddings state no output; a reply whose total is above its input has produced something that is not stated."""
    assert Usage.from_response({"prompt_tokens": 8}) == Usage(8)
    assert Usage.from_response({"prompt_tokens": 8, "total_tokens": 20}) is None


KEYS = (
    "input_tokens", "output_tokens", "prompt_tokens", "completion_tokens",
    "input_tokens_details", "output_tokens_details",
    "prompt_tokens_details", "completion_tokens_details", "cached_tokens", "cache_write_tokens", "reasoning_tokens",
)  # fmt: skip
PAIRS = {
    "input_tokens": ("output_tokens", "input_tokens_details", "output_tokens_details"),
    "prompt_tokens": ("completion_tokens", "prompt_tokens_details", "completion_tokens_details"),
}
keys = st.sampled_from(KEYS) | st.text(max_size=5)
scalars = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8)
json_like = st.recursive(
    scalars | st.integers(0, 50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=12,
)
sane = st.integers(0, 10**7)


def stated_totals(usage: dict[str, Any]) -> tuple[Any, Any]:
    """The totals as the reply states them; the names of the Responses API go first."""
    first = "input_tokens" if "input_tokens" in usage else "prompt_tokens"
    return usage.get(first), usage.get(PAIRS[first][0])


def is_sane(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 10**9


@given(st.dictionaries(keys, json_like, max_size=8))
def test_no_reply_breaks_the_reading(stated: dict[str, Any]) -> None:
    """Any JSON at all: nothing is raised, no count is negative, sane totals are kept, others are no usage."""
    usage = Usage.from_response(stated)
    if usage is None:
        if "input_tokens" in stated or "prompt_tokens" in stated:
            total_in, total_out = stated_totals(stated)
            assert not is_sane(total_in) or not is_sane(total_out)
        return
    counts = usage.as_dict()
    assert tuple(counts) == FIELDS
    assert all(is_sane(count) for count in counts.values())
    total_in, total_out = stated_totals(stated)
    assert usage.total_input == total_in
    assert usage.total_output == (total_out or 0)
    assert all(isinstance(note, str) and len(note) < 200 for note in usage.notes)


@given(st.sampled_from(list(PAIRS)), sane, sane, sane, sane, sane)
def test_contradictions_are_clamped_and_named(
    name: str, total_in: int, total_out: int, cached: int, written: int, reasoning: int
) -> None:
    """A part larger than its whole is cut to the whole and named; the totals stand. Consistent replies: no notes."""
    out_name, inside, outside = PAIRS[name]
    usage = Usage.from_response(
        {
            name: total_in,
            out_name: total_out,
            inside: {"cached_tokens": cached, "cache_write_tokens": written},
            outside: {"reasoning_tokens": reasoning},
        }
    )
    assert usage is not None
    assert usage.total_input == total_in
    assert usage.total_output == total_out
    assert usage.cached_input_tokens == min(cached, total_in)
    assert usage.cache_write_tokens == min(written, total_in - usage.cached_input_tokens)
    assert usage.reasoning_tokens == min(reasoning, total_out)
    wrong = {
        "cached_tokens": cached > total_in,
        "cache_write_tokens": written > total_in - usage.cached_input_tokens,
        "reasoning_tokens": reasoning > total_out,
    }
    assert [note.split()[0] for note in usage.notes] == [part for part, is_wrong in wrong.items() if is_wrong]


@pytest.mark.parametrize(
    ("bad", "shown"),
    [(-1, "negative"), (10**5000, "absurd"), (2.5, "float"), ("12", "str"), (True, "bool"), ([], "list"), ({}, "dict")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nonsense_parts_are_zero_and_named(bad: Any, shown: str) -> None:
    """A part that is no count is taken as 0, its whole stands; the note shows its name and kind, never its text."""
    usage = Usage.from_response(
        {
            "input_tokens": 10,
            "output_tokens": 5,
            "input_tokens_details": {"cached_tokens": bad},
            "output_tokens_details": {"reasoning_tokens": bad},
        }
    )
    assert usage == Usage(10, 0, 0, 5)
    assert usage is not None
    assert usage.notes == (f"cached_tokens is {shown}: taken as 0", f"reasoning_tokens is {shown}: taken as 0")
