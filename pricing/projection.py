"""What the days ahead will cost, given those behind: trend, weekdays and an interval, honest where little is known.

Each day is a level times its weekday's factor; level and trend are smoothed exponentially and the trend is damped, with
the smoothing that has foreseen the past days best. The interval is that of 1,000 paths whose days are off by as much,
relatively, as the foreseen days of the past were. Of fewer than three whole days nothing is said; of fewer than
fourteen, nothing of weekdays.

Source  Gardner and McKenzie: Forecasting Trends in Time Series (Management Science 1985); Hyndman and Athanasopoulos:
        Forecasting, Principles and Practice, 5.5 (bootstrapped residuals). Its coverage is measured in
        benchmarks/forecast_ledger.py
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import ConfigError
from .export import needed
from .money import PICO

if TYPE_CHECKING:
    import pandas

RUNS = 1_000
LEAST_DAYS = 3
WEEKLY_FROM = 14
TREND_FROM = 28
"""A line through fewer days is mostly chance."""
KEPT_DAYS = 120
"""Older days say nothing of the next ones."""
_ALPHAS = (0.05, 0.1, 0.2, 0.35, 0.5)
_BETAS = (0.0, 0.05, 0.2)
_DAMPINGS = (0.85, 0.98)
_SHRINK = 0.3
"""A weekday's factor is drawn to 1 as by so many weeks of no difference; more would bias the level."""
_TINY = 1e-9


class Ahead(NamedTuple):
    """A number that is not known yet: expected, and quantiles. Integers of pico-dollars."""

    mean: int
    p5: int
    p50: int
    p95: int


class Day(NamedTuple):
    """A day: what it cost, or will; `cost` is an Ahead of equal numbers for a day that is over."""

    day: date
    cost: Ahead


class Projection(NamedTuple):
    """What a part of a ledger comes to.

    name      of the part: a value for each of `by`
    days      whole days of history
    requests, unpriced   so far; those without a price are in no sum
    spent     pico-dollars since the start of the period
    total     Ahead of the whole period; None where too little is known
    series    the days of the period
    paths     (runs, k) pico-dollars of each day to come; None as above
    notes     what a reader should know
    """

    name: tuple[str, ...]
    days: int
    requests: int
    unpriced: int
    spent: int
    total: Ahead | None
    series: tuple[Day, ...]
    paths: Any
    notes: tuple[str, ...]


def day_number(day: date) -> int:
    """Days since 1970."""
    return (day - date(1970, 1, 1)).days


def month_end(day: date) -> date:
    """The last day of a month."""
    return (day.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)


def project(
    sums: pandas.DataFrame,
    by: Sequence[str] = (),
    *,
    now: datetime,
    until: date | None = None,
    since: date | None = None,
    seed: int = 0,
) -> list[Projection]:
    """Project what each part of a ledger comes to.

    sums   by day, as `daily` gives them
    by     columns of `sums` that make a part; none: the whole is one
    now    the day that is not over, and how much of it is
    until  the last day; the end of the month unless told
    since  the first day of the period; the first of the month of `now` unless told

    → the parts, the dearest first
    Raises  ConfigError when `until` is over already
    """
    pandas = needed("pandas")
    today = now.astimezone(UTC).date()
    until, since = until or month_end(today), since or today.replace(day=1)
    if until < today:
        raise ConfigError(f"until {until}: that day is over; today is {today}")
    before = sums[sums["day"] <= day_number(today)]
    keys = list(by)
    parts = before.groupby(keys, sort=True) if keys else [((), before)]
    found = []
    for place, (key, part) in enumerate(parts):
        name = tuple(map(str, key if isinstance(key, tuple) else (key,)))
        found.append(_projected(pandas, name, part, now, since, until, (seed, place)))
    return sorted(found, key=lambda one: (-(one.total.mean if one.total else one.spent), one.name))


def _projected(
    pandas: Any, name: tuple[str, ...], part: Any, now: datetime, since: date, until: date, seed: tuple[int, int]
) -> Projection:
    np = needed("numpy", extra="pandas")
    now = now.astimezone(UTC)
    today = day_number(now.date())
    by_day: dict[int, int] = {}
    for day, usd, pico in zip(part["day"].tolist(), part["usd"].tolist(), part["pico"].tolist(), strict=True):
        by_day[day] = by_day.get(day, 0) + usd * PICO + pico
    first = max(min(by_day, default=today), today - KEPT_DAYS)
    past = np.array([by_day.get(day, 0) / PICO for day in range(first, today)])
    spent = sum(pico for day, pico in by_day.items() if day >= day_number(since))
    begun = max(day_number(since), min(by_day, default=today))
    over = [Day(_date(day), Ahead(*(by_day.get(day, 0),) * 4)) for day in range(begun, today)]
    requests, unpriced = int(part["requests"].sum()), int(part["unpriced"].sum())
    notes = [f"{unpriced:,} of {requests:,} requests have no price and are in no sum"] if unpriced else []
    if len(past) < LEAST_DAYS:
        notes.append(f"{len(past)} whole days are too few to project: {LEAST_DAYS} are needed")
        return Projection(name, len(past), requests, unpriced, spent, None, tuple(over), None, tuple(notes))
    if len(past) < WEEKLY_FROM:
        notes.append(f"{len(past)} days tell nothing of weekdays: from {WEEKLY_FROM} on they are looked at")
    ahead = day_number(until) - today + 1
    paths = _paths(np, past, first, ahead, np.random.default_rng(seed))
    # Of today only the rest is to come.
    left = 1 - (now.hour * 3_600 + now.minute * 60 + now.second) / 86_400
    paths[:, 0] *= left
    so_far = by_day.get(today, 0)
    days = [
        Day(_date(today + place), _ahead(np, paths[:, place], so_far if not place else 0)) for place in range(ahead)
    ]
    total = _ahead(np, paths.sum(1), spent)
    return Projection(name, len(past), requests, unpriced, spent, total, (*over, *days), paths, tuple(notes))


def _date(day: int) -> date:
    return date(1970, 1, 1) + timedelta(days=day)


def _ahead(np: Any, dollars: Any, certain: int) -> Ahead:
    p5, p50, p95 = np.quantile(dollars, (0.05, 0.5, 0.95))
    return Ahead(*(certain + round(float(one) * PICO) for one in (dollars.mean(), p5, p50, p95)))


def _weekdays(np: Any, past: Any, first: int) -> Any:
    """(7,) factors of the weekdays; ones where there are fewer than two weeks."""
    factors = np.ones(7)
    if len(past) < WEEKLY_FROM or past.sum() <= 0:
        return factors
    weekday = (first + np.arange(len(past)) + 3) % 7  # 1970-01-01 was a Thursday
    # Against the mean of the week around a day, so that a trend is no weekday.
    around = np.convolve(np.pad(past, 3, mode="reflect"), np.ones(7) / 7, mode="valid")
    ratio = past / np.maximum(around, _TINY)
    for place in range(7):
        mine = ratio[weekday == place]
        factors[place] = (mine.sum() + _SHRINK) / (len(mine) + _SHRINK)
    return factors / factors.mean()


def _paths(np: Any, past: Any, first: int, ahead: int, rng: Any) -> Any:
    """(runs, ahead) dollars of the days to come."""
    factors = _weekdays(np, past, first)
    weekday = (first + np.arange(len(past) + ahead) + 3) % 7
    level_days = past / np.maximum(factors[weekday[: len(past)]], _TINY)
    alpha, beta, damping = (one.ravel() for one in np.meshgrid(_ALPHAS, _BETAS, _DAMPINGS))
    rise, unsure = _trend(np, level_days)
    level = np.full(len(alpha), max(0.0, float(level_days[:7].mean() - rise * 4)))
    slope = rise / damping
    off, foreseen_days = np.zeros((2, len(past), len(alpha)))
    for place, value in enumerate(level_days):
        foreseen = foreseen_days[place] = level + damping * slope
        off[place] = value - foreseen
        slope = damping * slope + alpha * beta * off[place]
        level = foreseen + alpha * off[place]
    best = int((off[1:] ** 2).sum(0).argmin())
    alpha, beta, damping = float(alpha[best]), float(beta[best]), float(damping[best])
    scale = np.maximum(np.abs(foreseen_days[:, best]), max(level_days.mean(), _TINY) * 0.05)
    errors = (off[:, best] / scale)[1:]
    if len(past) < WEEKLY_FROM:
        errors = np.concatenate((errors, -errors))  # a few days may all have been off to one side
    free = len(past) - (1 if len(past) < WEEKLY_FROM else 8)  # degrees of freedom: a level, and the weekdays
    # Few days have seldom seen the worst: as Student's t against the normal.
    errors = (errors - errors.mean()) * (1 + 1.6 / free)
    # The level itself is known to no better than its days are alike.
    wobble = errors.std() / np.sqrt(free)
    levels, slopes = np.full(RUNS, level[best]), slope[best] + unsure * rng.standard_normal(RUNS)
    # The level itself is known to no better than its days are alike.
    wobble = errors.std() / np.sqrt(free) if len(errors) else 0.0
    levels = levels * np.maximum(0, 1 + wobble * rng.standard_normal(RUNS))
    paths = np.empty((RUNS, ahead))
    for place in range(ahead):
        foreseen = np.maximum(0, levels + damping * slopes)
        error = rng.choice(errors, RUNS) * foreseen
        paths[:, place] = np.maximum(0, foreseen + error) * factors[weekday[len(past) + place]]
        slopes = damping * slopes + alpha * beta * error
        levels = np.maximum(0, foreseen + alpha * error)
    return paths


def _trend(np: Any, levels: Any) -> tuple[float, float]:
    """The slope of a line through the days, drawn to 0 by as much as it may be chance, and how unsure that is."""
    count = len(levels)
    if count < TREND_FROM:
        return 0.0, 0.0
    at = np.arange(count) - (count - 1) / 2
    slope = float((at * levels).sum() / (at**2).sum())
    off = levels - levels.mean() - slope * at
    error = float(np.sqrt((off**2).sum() / (count - 2) / (at**2).sum()))
    sure = (slope / max(error, _TINY)) ** 2
    kept = sure / (sure + 1)
    return slope * kept, error * kept


class Reached(NamedTuple):
    """When an amount is reached.

    name             what it is
    amount, spent    pico-dollars: of it, and of it so far
    p5, p50, p95     days: in one of twenty cases by the first already; None: not by `horizon`
    """

    name: str
    amount: int
    spent: int
    p5: date | None
    p50: date | None
    p95: date | None
    horizon: date


def reached(name: str, amount: int, spent: int, found: Projection, today: date, horizon: date) -> Reached | None:
    """Say when spending reaches an amount, going by the paths of a projection; None where it has none.

    spent  pico-dollars of what counts for it so far, today included
    """
    if found.paths is None:
        return None
    np = needed("numpy", extra="pandas")
    if spent >= amount:
        return Reached(name, amount, spent, today, today, today, horizon)
    days = min(found.paths.shape[1], (horizon - today).days + 1)
    sums = np.cumsum(found.paths[:, :days], 1) + spent / PICO
    there = sums >= amount / PICO
    when = np.where(there.any(1), there.argmax(1), days)
    quantiles = [int(one) for one in np.quantile(when, (0.05, 0.5, 0.95), method="higher")]
    first, middle, last = (today + timedelta(days=one) if one < days else None for one in quantiles)
    return Reached(name, amount, spent, first, middle, last, horizon)
