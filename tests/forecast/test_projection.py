"""Law: what days will cost is foreseen from the days of real use, whatever zeros there are before and between them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pricing.errors import ConfigError
from pricing.projection import MOST_AHEAD_DAYS, Projection, day_number, project, reached

from .test_ledger import sums

TODAY = date(2026, 11, 25)
NOW = datetime(2026, 11, 25, tzinfo=UTC)


def weeks_ahead(costs: Sequence[float], days: int = 14, now: datetime = NOW) -> Projection:
    """What the days after such days come to, without what was spent before."""
    today = now.date()
    frame = sums(list(costs), today - timedelta(days=1))
    return project(frame, now=now, since=today, until=today + timedelta(days=days - 1))[0]


def noisy(days: int, dollars: float, sigma: float, seed: int) -> list[float]:
    return (dollars * np.exp(sigma * np.random.default_rng(seed).standard_normal(days))).tolist()


@given(st.integers(0, 90), st.sampled_from([0.001, 0.05, 0.3, 5]), st.integers(8, 40), st.integers(0, 99))
@settings(max_examples=60)
def test_idle_days_before_real_use_change_nothing(gap: int, first: float, days: int, seed: int) -> None:
    """A small call and any days of nothing before real use: the projection is that of real use alone, nearly."""
    real = noisy(days, 10, 0.1, seed)
    alone, after = weeks_ahead(real).total, weeks_ahead([first, *[0] * gap, *real]).total
    assert alone is not None
    assert after is not None
    assume(first < 1 or gap >= 7)  # five dollars are half a day of it
    for one, other in zip(after[:3], alone[:3], strict=True):
        assert one == pytest.approx(other, rel=0.15)


def test_the_days_left_out_are_told() -> None:
    """Idle days before real use are no days of history, and a note says how many they are."""
    found = weeks_ahead([0.05, *[0] * 40, *[10] * 24])
    assert found.days == 24
    assert found.notes == ("41 days before 2026-11-01 cost next to nothing beside those since, and are left out",)
    assert found.total is not None
    assert found.total.p50 == pytest.approx(140 * 10**12, rel=0.001)


@given(st.sampled_from([0, 0.001, 0.1, 0.5, 2]), st.integers(21, 100), st.integers(0, 6), st.integers(0, 99))
@settings(max_examples=60)
def test_weekends_at_any_level_are_weekends(weekend: float, days: int, start: int, seed: int) -> None:
    """Ten dollars on five days of the week and less or nothing on two: the next weeks are foreseen within a seventh."""
    now = NOW + timedelta(days=start)
    week = [10.0] * 5 + [weekend] * 2
    at = [(now.date() - timedelta(days=days - place)).weekday() for place in range(days)]
    found = weeks_ahead([week[day] * noise for day, noise in zip(at, noisy(days, 1, 0.02, seed), strict=True)], now=now)
    assert found.total is not None
    assert found.total.p50 == pytest.approx(2 * sum(week) * 10**12, rel=0.15)
    assert found.total.p95 - found.total.p5 < 0.6 * found.total.p50


def test_one_day_a_week_is_foreseen_as_such() -> None:
    """What runs on Mondays alone goes on: fifty dollars twice in two weeks."""
    costs = [50.0 if (TODAY - timedelta(days=56 - place)).weekday() == 0 else 0.0 for place in range(56)]
    found = weeks_ahead(costs)
    assert found.total is not None
    assert found.total.p50 == pytest.approx(100 * 10**12, rel=0.1)
    assert found.days == 56, "six days of nothing before a Monday are a week"


def test_a_weekend_at_the_beginning_is_no_idle_time() -> None:
    """A week of history that begins with a weekend of nothing keeps it: it is all that is known of weekends."""
    found = weeks_ahead([0, 0, 10, 10, 10, 10, 10], now=datetime(2026, 11, 28, tzinfo=UTC))
    assert found.days == 7


@given(st.lists(st.floats(0, 1_000) | st.just(0.0), min_size=3, max_size=120), st.integers(0, 9))
@settings(max_examples=150)
def test_any_history_has_quantiles_in_order(costs: list[float], hours: int) -> None:
    """Whatever the days were, the quantiles are ordered, finite, not negative, and scale with the days."""
    found = weeks_ahead(costs, now=NOW.replace(hour=hours)).total
    assert found is not None
    assert 0 <= found.p5 <= found.p50 <= found.p95
    most = max(costs) * 10**12
    assert found.mean <= 14 * 30 * most + 1
    assume(max(costs) > 0.01)
    scaled = weeks_ahead([1_024 * cost for cost in costs], now=NOW.replace(hour=hours)).total
    assert scaled is not None
    assert scaled.p50 == pytest.approx(1_024 * found.p50, rel=1e-3, abs=1e-4 * 1_024 * most)


def test_a_ledger_without_any_price_is_not_foreseen_at_nothing() -> None:
    """Calls that have no price: nothing is known of what they cost, and it is not $0."""
    frame = sums([0] * 30).assign(unpriced=10)
    (found,) = project(frame, now=NOW)
    assert found.total is None
    assert not found.priced
    assert found.series == ()
    assert found.notes[-1] == "what they cost, and will, is not known"
    (partly,) = project(frame.assign(unpriced=9), now=NOW)
    assert partly.priced
    assert partly.total is not None


def test_what_is_spent_already_needs_no_projection() -> None:
    """An amount that is spent is reached, however short the history; one that is not, nobody can tell."""
    (found,) = project(sums([7]), now=NOW)
    assert found.total is None
    already = reached("budget", 5 * 10**12, 7 * 10**12, found, TODAY, TODAY)
    assert already is not None
    assert already.p5 == already.p95 == TODAY
    assert reached("budget", 9 * 10**12, 7 * 10**12, found, TODAY, TODAY) is None


def test_a_period_lies_ahead_in_order() -> None:
    """The last day is neither over, nor before the first, nor ten years off; the first may be still to come."""
    frame = sums([10] * 30)
    last = TODAY + timedelta(days=MOST_AHEAD_DAYS)
    for until, since, words in (
        (date(2026, 11, 24), None, "that day is over"),
        (date(2026, 12, 31), date(2027, 1, 1), "before 2027-01-01, with which the period begins"),
        (last + timedelta(days=1), None, "3,660 days ahead"),
        (date.max, None, "3,660 days ahead"),
    ):
        with pytest.raises(ConfigError, match=words):
            project(frame, now=NOW, until=until, since=since)
    with pytest.raises(ConfigError, match="nothing is foreseen of the years after"):
        project(frame, now=NOW.replace(year=9999))
    assert project(frame, now=NOW, until=last)[0].series[-1].day == last
    (later,) = project(frame, now=NOW, since=date(2026, 12, 1))
    assert later.total is not None
    assert later.spent == 0
    assert later.total.p50 == pytest.approx(310 * 10**12, rel=0.001)
    assert [later.series[0].day, later.series[-1].day] == [date(2026, 12, 1), date(2026, 12, 31)]


def test_parts_keep_no_paths() -> None:
    """Of the whole the paths are kept, of parts, of which there may be thousands, they are not."""
    frame = sums([10] * 30)
    assert project(frame, now=NOW)[0].paths.shape == (1_000, 6)
    assert project(frame, ("model",), now=NOW)[0].paths is None


def test_day_numbers_are_days_since_1970() -> None:
    """The number of a day is what a timestamp's microseconds over a day's give."""
    assert day_number(TODAY) == int(NOW.timestamp()) // 86_400
