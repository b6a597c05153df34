"""Budgets in a forecast: windows against the clock one by one, what cannot be foreseen refused, one verdict for all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing import Usd
from pricing.budget import LENGTHS_US, Budget
from ratelimit.errors import ConfigError
from ratelimit.forecast.capped import spending_rule, total_of
from ratelimit.forecast.job import JobForecast, Wish, forecast_job
from ratelimit.forecast.lanes import Account
from ratelimit.forecast.schedule import FIXED, SLOW, Rule, admissions, walk
from ratelimit.forecast.workload import ONLINE, Reading

AT = date(2026, 7, 20)
WINDOW = 1_000


def foresee(path: Path, budget: str | None, **more: Any) -> JobForecast:
    wish = Wish(Account("tier_1", at=AT), budget=None if budget is None else Budget.parse(budget), **more)
    return forecast_job(str(path), Reading(at=AT), wish)


def one_by_one(arrivals: list[int], charges: list[int], kind: str) -> list[int]:
    """When each may go, by looking at every instant in turn."""
    acts: list[int] = []
    now = 0
    for arrival, charge in zip(arrivals, charges, strict=True):
        now = max(now, arrival)
        while True:
            began = now - now % WINDOW
            spent = sum(one for act, one in zip(acts, charges, strict=False) if act >= began) + charge
            opened = WINDOW if kind == FIXED else max(WINDOW // 2, now - began)
            if not charge or spent <= opened:
                break
            now += 1
        acts.append(now)
    return acts


@given(st.lists(st.tuples(st.integers(0, 4_000), st.integers(0, WINDOW - 1)), min_size=1, max_size=25),
       st.sampled_from([FIXED, SLOW]), st.integers(0, 60))  # fmt: skip
def test_windows_open_when_a_clock_says_so(crowd: list[tuple[int, int]], kind: str, other: int) -> None:
    """Calendar windows, slow ones too: at once and one by one every request goes when a plain clock lets it."""
    arrivals = sorted(there for there, _ in crowd)
    charges = [charge for _, charge in crowd]
    rules = [Rule("budget", np.array(charges, np.int64), WINDOW, WINDOW, kind=kind)]
    there = np.array(arrivals, np.int64)
    expected = one_by_one(arrivals, charges, kind)
    assert admissions(there, rules).act_us.tolist() == expected
    assert walk(there, rules, there * 0, most=10**9).act_us.tolist() == expected
    both = [*rules, Rule("rpm", np.full(len(crowd), other, np.int64), 120)]
    assert admissions(there, both).act_us.tolist() == walk(there, both, there * 0, most=10**9).act_us.tolist()


@given(st.lists(st.integers(0, 10**13), min_size=1, max_size=20), st.integers(1, 10**13),
       st.sampled_from(sorted(LENGTHS_US)), st.sampled_from(["block", "slow"]))  # fmt: skip
def test_no_window_is_overspent(picos: list[int], amount: int, window: str, action: str) -> None:
    """What goes within a window costs no more than the budget; only what is dearer than all of it never goes."""
    rule = spending_rule(Budget(Usd(amount), window, action=action), np.array(picos, np.int64))
    assert rule is not None
    fits = rule.charges_us <= rule.burst_us
    # A slow one opens its last part when the window is over; a charge is rounded up to a µs.
    assert all(pico <= amount for pico, fit in zip(picos, fits, strict=True) if fit)
    assert all(pico * (1 + 2e-6) >= amount for pico, fit in zip(picos, fits, strict=True) if not fit)
    kept = rule._replace(charges_us=rule.charges_us[fits])
    act = admissions(np.zeros(int(fits.sum()), np.int64), [kept]).act_us
    spent: dict[int, int] = {}
    for instant, pico in zip(act.tolist(), np.array(picos)[fits].tolist(), strict=True):
        spent[instant // LENGTHS_US[window]] = spent.get(instant // LENGTHS_US[window], 0) + pico
    assert all(one <= amount for one in spent.values())


def test_what_a_budget_says_is_what_it_does(write_job: Callable[..., Path]) -> None:
    """Three hours' worth end as the third begins; what only warns limits nothing, and slow is slower."""
    bodies = [{"model": "o3", "input": "word " * n, "max_output_tokens": 20} for n in range(1, 60)]
    path = write_job(bodies)
    plain = foresee(path, None)
    assert plain.spending.cost is not None
    third = Usd(plain.spending.cost.mean * 10 // 27)  # 2.7 windows
    took = {}
    for words in ("", " rolling", " slow", " warn"):
        found = foresee(path, f"{third!s} USD/hour{words}")
        assert found.outlook.duration is not None
        took[words] = found.outlook.duration.p50 / 3_600e6
    assert 2 <= took[""] < 2.1
    assert 2 <= took[" rolling"] < 2.1
    assert 2.6 < took[" slow"] < 3
    assert plain.outlook.duration is not None
    assert took[" warn"] == plain.outlook.duration.p50 / 3_600e6
    assert total_of(Budget.parse("5 USD warn")) is None


@pytest.mark.parametrize(("budget", "words"), [
    ("5 USD/hour tag:team=x", "a forecast knows no tags"),
    ("5 USD tag:team", "a forecast knows no tags"),
    ("5 USD run:nightly", "a forecast knows no runs"),
    ("0.001 USD/call", "how large single replies will be, a forecast does not know"),
])  # fmt: skip
def test_what_cannot_be_foreseen_is_refused(write_job: Callable[..., Path], budget: str, words: str) -> None:
    """A budget of a tag, a run or a single call is no total, and is not taken for one."""
    with pytest.raises(ConfigError, match=words):
        foresee(write_job([{"model": "o3", "input": "word"}]), budget)


def test_the_verdict_goes_by_the_budget_of_the_headline(write_job: Callable[..., Path]) -> None:
    """Under an hourly budget every online choice takes its hours, and one that sends nothing is never the cheapest."""
    path = write_job([{"model": "o3", "input": "word " * 50, "max_output_tokens": 50}] * 20)
    cost = foresee(path, None).spending.cost
    assert cost is not None
    hourly = f"{Usd(cost.mean // 4)!s} USD/hour"
    found = foresee(path, hourly, tiers=("tier_1", "tier_2"), deadline_us=3_600 * 10**6)
    assert found.outlook.duration is not None
    assert found.outlook.duration.p50 > 3 * 3_600e6
    online = [one for one in found.choices if one.mode == ONLINE]
    assert online[0].duration == found.outlook.duration
    assert all(one.duration is not None and one.duration.p50 > 3 * 3_600e6 for one in online)
    assert found.cheapest is None
    batch = next(one for one in found.choices if one.mode == "batch")
    assert not batch.foreseen
    assert any("not foreseen" in note for note in batch.notes)
    nothing = foresee(path, "0.00001 USD/hour", tiers=("tier_1",))
    assert nothing.outlook.duration is None
    assert nothing.cheapest is None
    assert all(one.missing == 20 for one in nothing.choices if one.mode != "batch")


def test_models_share_a_budget(write_job: Callable[..., Path]) -> None:
    """A budget is one for all lines: two models spend it together."""
    bodies = [{"model": model, "input": "word " * 50, "max_output_tokens": 50} for model in ("o3", "gpt-4.1") * 10]
    path = write_job(bodies)
    cost = foresee(path, None).spending.cost
    assert cost is not None
    found = foresee(path, f"{Usd(cost.mean * 10 // 25)!s} USD/day")
    assert found.outlook.duration is not None
    assert 2 <= found.outlook.duration.p50 / 86_400e6 < 2.1
