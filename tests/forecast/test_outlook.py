"""Laws of the forecast: no limit is broken, more is never slower, and what binds is what one would wait for."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing import Usd
from pricing.budget import Budget
from ratelimit.forecast.capped import spending_rule
from ratelimit.forecast.lanes import Account, lanes
from ratelimit.forecast.outlook import AIR, ARRIVALS, REPLIES, Setting, outlook

from .conftest import workload

SETTING = Setting({})
AT = date(2026, 7, 20)
"""A day on which all the models here were there."""
sizes = st.lists(st.integers(1, 900), min_size=1, max_size=60)


def own(rpm: int, tpm: int, **more: Any) -> Account:
    return Account(limits={"rpm": rpm, "tpm": tpm}, at=AT, **more)


@given(sizes, st.integers(1, 60), st.integers(900, 5_000), st.integers(33, 60))
def test_the_plan_never_breaks_a_limit(tokens: list[int], rpm: int, tpm: int, concurrency: int) -> None:
    """Between any two admissions no limit lets through more than a full bucket and what came in meanwhile."""
    work = workload(tokens, latency_us=[5_000_000] * len(tokens))
    act = outlook(work, own(rpm, tpm, concurrency=concurrency), SETTING, relief=False).schedule.act_us.tolist()
    assert len(act) == len(tokens)
    for taken, capacity in (([1] * len(tokens), rpm), (tokens, tpm)):
        for first in range(len(act)):
            through = 0
            for last in range(first, len(act)):
                through += taken[last]
                minutes = (act[last] - act[first]) / 60e6
                assert through <= capacity * (1 + minutes) + 1e-6 * capacity
    for instant in act:
        assert sum(one <= instant < one + 5_000_000 for one in act) <= concurrency


@given(sizes, st.integers(1, 60), st.integers(900, 5_000), st.integers(40, 60), st.integers(0, 30))
def test_more_capacity_never_takes_longer(tokens: list[int], rpm: int, tpm: int, concurrency: int, more: int) -> None:
    """A larger limit or more in the air: every quantile of the duration is as short or shorter."""
    work = workload(tokens, latency_us=[3_000_000] * len(tokens))
    before = outlook(work, own(rpm, tpm, concurrency=concurrency), SETTING).duration
    assert before is not None
    for account in (own(rpm + more, tpm), own(rpm, tpm + 100 * more), own(rpm, tpm, concurrency=concurrency + more)):
        after = outlook(work, account._replace(concurrency=max(concurrency, account.concurrency)), SETTING).duration
        assert after is not None
        assert all(one <= other for one, other in zip(after, before, strict=True))


@given(sizes)
@settings(max_examples=25)
def test_relaxing_is_never_slower(tokens: list[int]) -> None:
    """Whatever the forecast says that relaxing buys is at least nothing lost."""
    found = outlook(workload(tokens, latency_us=[1_000_000] * len(tokens)), own(20, 2_000), SETTING)
    assert found.duration is not None
    assert all(one.duration.p50 <= found.duration.p50 for one in found.relief)


def test_relaxing_names_what_binds_then() -> None:
    """Twice the slower of two models' limits leaves the other one's to wait for."""
    work = workload([100] * 60, models=["o3", "gpt-4.1"], latency_us=[1] * 60)
    account = Account(limits={"o3": {"tpm": 600}, "gpt-4.1": {"tpm": 900}}, at=AT)
    found = outlook(work, account, SETTING)
    assert found.binding == "tpm of o3"
    assert found.relief[0][::2] == ("twice tpm of o3", "tpm of gpt-4.1")


def test_each_limit_is_named_where_it_binds() -> None:
    """RPM, TPM, the requests in the air, arrivals and the last replies: each is what binds where it does."""
    quick = [1_000] * 300
    cases = {
        "rpm of o3": (workload([1] * 300, latency_us=quick), own(60, 10**9)),
        "tpm of o3": (workload([1_000] * 300, latency_us=quick), own(10**6, 60_000)),
        AIR: (workload([1] * 300, latency_us=[60_000_000] * 300), own(10**6, 10**9, concurrency=50)),
        REPLIES: (workload([1] * 300, latency_us=[60_000_000] * 300), own(10**6, 10**9)),
        ARRIVALS: (workload([1] * 300, latency_us=quick, arrivals=[n * 10**6 for n in range(300)]), own(10**6, 10**9)),
    }
    for name, (work, account) in cases.items():
        found = outlook(work, account, SETTING)
        assert found.binding == name
        assert abs(sum(found.shares.values()) - 1) < 0.01
        assert found.phases[0].from_us == 0
        assert found.duration is not None
        assert abs(found.phases[-1].until_us - found.duration.p50) <= 1
        assert all(one.until_us == next_.from_us for one, next_ in zip(found.phases, found.phases[1:], strict=False))


def test_what_never_fits_is_named_and_holds_up_nobody() -> None:
    """A request larger than the limit is listed with the numbers, and the others go as if it were not there."""
    found = outlook(workload([10, 5_000, 10], latency_us=[1] * 3), own(100, 1_000), SETTING)
    assert found.refused == {"takes more than tpm of o3 ever lets through at once (5,000 > 1,000)": 1}
    assert found.goes.tolist() == [True, False, True]
    assert found.duration is not None
    assert found.duration.p50 < 1_000


def test_a_tier_without_the_model_sends_none_of_it() -> None:
    """Models that a tier does not have, or of which no limits are known, are listed; no duration is made up."""
    found = outlook(workload([10], models=["o3-pro"]), Account("free", at=AT), SETTING)
    assert found.duration is None
    assert list(found.refused) == ["o3-pro is not supported in the free tier"]
    unknown = outlook(workload([10], models=["nobody-knows-this"]), Account("tier_1", at=AT), SETTING)
    assert unknown.duration is None
    assert "no limits are published for nobody-knows-this" in next(iter(unknown.refused))


def test_a_budget_per_day_is_a_limit_on_spending() -> None:
    """What a day may cost decides how many days it takes."""
    work = workload([100] * 10, latency_us=[1] * 10, output=0)
    day = 86_400 * 10**6
    budget = spending_rule(Budget(Usd(500), "day"), np.full(10, 200))
    setting = SETTING._replace(budget=budget)
    found = outlook(work, own(1_000, 10**6), setting)
    assert budget is not None
    assert found.binding == budget.name == "budget 0.0000000005 USD/day"
    assert found.duration is not None
    assert round(found.duration.p50 / day) == 4, "two a day: the last two go after four days"


def test_models_of_one_pool_share_a_line_and_others_do_not() -> None:
    """The lanes are the limiter's: a pool of the organisation is one limit for all."""
    work = workload([500] * 4, models=["o3", "gpt-4.1"], latency_us=[1] * 4)
    apart = outlook(work, Account(limits={"tpm": 1_200}, at=AT), SETTING)
    assert apart.schedule.act_us.max() == 0
    shared = outlook(work, Account(limits={"rpm": 100}, pools={"organisation": {"tpm": 1_200}}, at=AT), SETTING)
    assert shared.schedule.act_us.max() > 30 * 10**6
    assert {rule.name for rule in lanes(work, Account(pools={"organisation": {"tpm": 1_200}}, at=AT)).rules} == {
        "organisation-tpm"
    }


def test_slots_of_a_limit_are_slots_in_the_forecast() -> None:
    """A limit on requests in the air makes them wait for one another."""
    work = workload([1] * 4, latency_us=[1_000_000] * 4)
    found = outlook(work, Account(limits={"concurrency": 2}, at=AT), SETTING)
    assert found.schedule.act_us.tolist() == [0, 0, 1_000_000, 1_000_000]
    assert found.binding in ("concurrency of o3", REPLIES)
