"""Laws of the verdict: nothing unknown passes, nothing unpriced passes unasked, and every limit is where it says."""

from __future__ import annotations

from datetime import date
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pricing.gate.judge import judge
from pricing.gate.metrics import METRICS
from pricing.gate.report import Cell, Part, Report, Span
from pricing.gate.rules import Config, Override, Rule, read_rule

from .builders import group, header, report, reports

metrics = st.sampled_from(sorted(METRICS)).map(METRICS.__getitem__)
limits = st.integers(0, 10**14)
rules = st.builds(
    Rule, st.just("rule"), metrics, st.none() | limits, st.none() | limits | st.fractions(0, 3), st.none() | limits,
    st.integers(0, 10**12), st.sampled_from([(), ("*",), ("*.jsonl",)]), st.just(()), st.sampled_from(["warn", "fail"]),
)  # fmt: skip


def cell(pico: int, requests: int = 10, model: str = "o3", read: str = "") -> Cell:
    return Cell(model, "standard", False, requests, {"input": Part(1_000, pico)}, read)


def costs(pico: int, name: str = "a.jsonl") -> Report:
    return report(group(name, (cell(pico),)))


@given(reports, st.none() | reports, st.lists(rules, max_size=4))
def test_no_rule_on_cost_passes_on_what_has_no_price(made: Report, before: Report | None, some: list[Rule]) -> None:
    """By default: neither a rule on the whole, nor one on a group; and the gate fails for it in any case."""
    verdict = judge(made, before, Config(rules=tuple(some)))
    named = {**made.named(), "total": made.total}
    for check in verdict.checks:
        if check.rule.metric.priced and check.subject in named and named[check.subject].without_price:
            assert check.status in ("warn", "fail") or check.rule.name == "prices"
    if made.total.without_price:
        assert verdict.status == "fail"


@given(reports, st.none() | reports, st.lists(rules, max_size=4), st.sampled_from(["fail", "warn", "ignore"]))
def test_no_rule_passes_on_what_is_not_known(made: Report, before: Report | None, some: list[Rule], level: str) -> None:
    """A cost, or a duration, of which nothing is known is never within its limit."""
    verdict = judge(made, before, Config(rules=tuple(some), unpriced=level, missing=level, stale="ignore"))
    for check in verdict.checks:
        if check.value is None and check.status == "pass":
            # Only what has no price can have no cost, and the gate was told to ignore that.
            assert level == "ignore"
            assert check.rule.metric.priced


@given(reports, st.none() | reports, st.lists(rules, max_size=4))
def test_the_verdict_is_the_worst_of_the_checks(made: Report, before: Report | None, some: list[Rule]) -> None:
    """Worst first, and nothing worse than what was found; the same input, the same verdict."""
    config = Config(rules=tuple(some))
    verdict = judge(made, before, config)
    order = ["fail", "warn", "overridden", "pass"]
    places = [order.index(check.status) for check in verdict.checks]
    assert places == sorted(places)
    assert verdict.status == ("pass" if not places or places[0] > 1 else order[places[0]])
    assert judge(made, before, config) == verdict


@given(st.integers(0, 10**14), st.integers(0, 10**14))
def test_the_most_is_allowed_and_not_a_pico_dollar_more(pico: int, most: int) -> None:
    """`max` is the most that passes."""
    rule = Rule("r", METRICS["cost.expected"], most)
    assert judge(costs(pico), None, Config(rules=(rule,))).status == ("pass" if pico <= most else "fail")


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.fractions(0, 3) | st.integers(0, 10**9))
def test_a_change_is_measured_against_the_baseline(before: int, after: int, allowed: Fraction | int) -> None:
    """So much more, or less, passes: as a share of what was, or as an amount."""
    most = allowed * before if isinstance(allowed, Fraction) else allowed
    for rule, moved in (
        (Rule("r", METRICS["cost.expected"], increase=allowed), after - before),
        (Rule("r", METRICS["cost.expected"], decrease=allowed), before - after),
    ):
        found = judge(costs(after), costs(before), Config(rules=(rule,)))
        assert found.status == ("pass" if moved <= most else "fail")
        assert found.checks[0].change == after - before


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_small_changes_are_noise(before: int, after: int, least: int) -> None:
    """Below `min_change` nothing breaks a rule on changes."""
    rule = Rule("r", METRICS["cost.expected"], increase=Fraction(0), least=least)
    noise = abs(after - before) < least or after <= before
    assert judge(costs(after), costs(before), Config(rules=(rule,))).status == ("pass" if noise else "fail")


@pytest.mark.parametrize(("level", "status"), [("fail", "fail"), ("warn", "warn"), ("ignore", "pass")])
def test_a_missing_baseline_is_what_the_gate_says(level: str, status: str) -> None:
    """No baseline, or none of a group: never a pass by chance, and never worse than the rule itself."""
    for rule in (read_rule("cost:+5%"), read_rule("cost[a.jsonl]:+5%")):
        config = Config(rules=(rule,), missing=level)
        assert judge(costs(5), None, config).status == status
    config = Config(rules=(read_rule("cost[a.jsonl]:+5%"),), missing=level)
    assert judge(costs(5), costs(5, "b.jsonl"), config).status == status
    soft = Config(rules=(read_rule("cost:+5%", "warn"),), missing=level)
    assert judge(costs(5), None, soft).status == ("warn" if status == "fail" else status)


def test_a_group_that_is_gone_counts_as_nothing() -> None:
    """A job that does no work any more is a decrease of all of it."""
    verdict = judge(costs(5, "b.jsonl"), costs(5), Config(rules=(read_rule("cost[*]:-50%"),)))
    assert {check.subject: check.status for check in verdict.checks} == {"a.jsonl": "fail", "b.jsonl": "warn"}


def test_a_glob_without_a_group_is_said() -> None:
    """A rule that is about nothing would guard nothing, silently."""
    (check,) = judge(costs(5), None, Config(rules=(read_rule("cost[jbos/*]>1"),))).checks
    assert check.status == "fail"
    assert check.why == "no group's name matches: there are a.jsonl"


def test_overrides_hold_until_their_last_day_and_are_listed() -> None:
    """What they let pass is said with the reason; when they are over, they let nothing pass; unused ones are told."""
    rule = read_rule("cost>0")
    some = tuple(Override(what, "agreed", date(2026, 11, 25)) for what in (rule.name, "cost.p95"))
    for day, status, states in (
        ("2026-11-25", "pass", ["in force", "unused"]),
        ("2026-11-26", "fail", ["expired", "expired"]),
    ):
        made = costs(5)
        made = made._replace(header=header(day))
        verdict = judge(made, None, Config(rules=(rule,), overrides=some))
        assert verdict.status == status
        assert [one.state for one in verdict.overrides] == states
    (check,) = judge(costs(5), None, Config(rules=(rule,), overrides=some)).checks
    assert check.status == "overridden"
    assert check.why.endswith("more than $0.00; allowed until 2026-11-25: agreed")
    elsewhere = (some[0]._replace(select=("b*",)),)
    assert judge(costs(5), None, Config(rules=(rule,), overrides=elsewhere)).status == "fail"


@given(st.dates(date(2026, 7, 1), date(2027, 12, 31)), st.sampled_from(["2026", "2026-07", "2026-07-15"]))
def test_old_prices_are_told(day: date, read: str) -> None:
    """Prices read longer ago than the gate allows: with the models and the days."""
    last = {"2026": date(2026, 12, 31), "2026-07": date(2026, 7, 31), "2026-07-15": date(2026, 7, 15)}[read]
    assume(day >= last)
    made = report(group("a", (cell(5, read=read),)), head=header(str(day)))
    verdict = judge(made, None, Config(stale_days=45))
    assert verdict.status == ("warn" if (day - last).days > 45 else "pass")
    if verdict.checks:
        assert f"prices of o3 were read {(day - last).days} days ago ({read})" in verdict.checks[0].why


def test_the_reason_carries_the_numbers() -> None:
    """Value, what it was, the change as an amount and in per cent, and what is allowed."""
    (check,) = judge(costs(12_410 * 10**9), costs(10_200 * 10**9), Config(rules=(read_rule("cost:+5%"),))).checks
    assert check.why == "cost.p50 is $12.41 ($10.20 before), +$2.21 (+21.7%) against the baseline, more than +5%"


def test_durations_are_judged_like_any_number() -> None:
    """Known ones by their limit; unknown ones never pass, and say why they are unknown."""
    rule = read_rule("duration.p95>1h")
    known = report(group("a", (cell(5),), duration=Span(1, 2, 3_600 * 10**6 + 1), why_unknown=""))
    unknown = report(group("a", (cell(5),)))
    assert judge(known, None, Config(rules=(rule,))).checks[0].why == "duration.p95 is 1:00 h, more than 1:00 h"
    assert judge(unknown, None, Config(rules=(rule,))).checks[0].why == "duration.p95 is not known: no tier is given"
    assert {judge(one, None, Config(rules=(rule,))).status for one in (known, unknown)} == {"fail"}
