"""What the days ahead will cost, given those behind: trend, weekdays and an interval, honest where little is known.

Each day is a level times its weekday's factor; level and trend are smoothed exponentially and the trend is damped, with
the smoothing that has foreseen the past days best. The interval is that of 1,000 paths whose days are off by as much,
relatively, as the foreseen days of the past were. Of fewer than three whole days nothing is said; of fewer than
fourteen, nothing of weekdays.

A product breaks at zeros, so three things are kept from them. Days before real use, which cost next to nothing, are no
history. Weekdays that cost next to nothing say next to nothing of the level. And a day that was foreseen when the level
was a small part of today's counts as that part of a day, its error taken against the level around it: a jump from
nothing is not infinitely wrong.

Source  Gardner and McKenzie: Forecasting Trends in Time Series (Management Science 1985); Hyndman and Athanasopoulos:
        Forecasting, Principles and Practice, 5.5 (bootstrapped residuals). Its coverage is measured in
        benchmarks/forecast_ledger.py
"""

from __future__ import annotations

from calendar import monthrange
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
MOST_AHEAD_DAYS = 3_660
"""Ten years."""
_SHRINK = 0.1
"""A weekday's factor is drawn to 1 as by so many weeks of no difference; more would bias the level."""
_QUIET = 0.3
"""A weekday of this factor says half as much of the level as it would say if weekdays were alike."""
_REAL = 0.2
"""Real use begins with a week that costs this part of a usual one."""
_MOST = 5
"""No path's level goes beyond so many times the highest day's: errors upon errors would, and lift the mean alone."""
_TINY = 1e-9
"""Of an average day: what keeps divisions from zero."""


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
    days      whole days of history that it goes by
    requests, unpriced   so far; those without a price are in no sum
    spent     pico-dollars since the start of the period
    total     Ahead of the whole period; None where too little is known
    series    the days of the period
    paths     (runs, k) dollars of each day to come; None as above, and for parts, of which there may be many
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

    @property
    def priced(self) -> bool:
        """Whether any of its requests has a price; else `spent` is no amount."""
        return not self.requests or self.unpriced < self.requests


def day_number(day: date) -> int:
    """Days since 1970."""
    return (day - date(1970, 1, 1)).days


def month_end(day: date) -> date:
    """The last day of a month."""
    return day.replace(day=monthrange(day.year, day.month)[1])


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
    until  the last day; the end of the month (of `since`, if that is later) unless told
    since  the first day of the period; the first of the month of `now` unless told

    → the parts, the dearest first
    Raises  ConfigError when `until` is over already, before `since`, or more than ten years ahead, or `now` so late
    """
    today = now.astimezone(UTC).date()
    if (date.max - today).days < MOST_AHEAD_DAYS:
        raise ConfigError(f"now {today}: nothing is foreseen of the years after")
    until, since = until or month_end(max(today, since or today)), since or today.replace(day=1)
    if until < today:
        raise ConfigError(f"until {until}: that day is over; today is {today}")
    if until < since:
        raise ConfigError(f"until {until}: that is before {since}, with which the period begins")
    if (until - today).days > MOST_AHEAD_DAYS:
        raise ConfigError(f"until {until}: nothing is foreseen for more than {MOST_AHEAD_DAYS:,} days ahead")
    before = sums[sums["day"] <= day_number(today)]
    keys = list(by)
    parts = before.groupby(keys, sort=True) if keys else [((), before)]
    found = []
    for place, (key, part) in enumerate(parts):
        name = tuple(map(str, key if isinstance(key, tuple) else (key,)))
        one = _projected(name, part, now.astimezone(UTC), since, until, (seed, place))
        found.append(one._replace(paths=None) if keys else one)
    return sorted(found, key=lambda one: (-(one.total.mean if one.total else one.spent), one.name))


def _projected(
    name: tuple[str, ...], part: Any, now: datetime, since: date, until: date, seed: tuple[int, int]
) -> Projection:
    np = needed("numpy", extra="pandas")
    today, begin = day_number(now.date()), day_number(since)
    by_day: dict[int, int] = {}
    for day, usd, pico in zip(part["day"].tolist(), part["usd"].tolist(), part["pico"].tolist(), strict=True):
        by_day[day] = by_day.get(day, 0) + usd * PICO + pico
    first = max(min(by_day, default=today), today - KEPT_DAYS)
    past = np.array([by_day.get(day, 0) / PICO for day in range(first, today)])
    spent = sum(pico for day, pico in by_day.items() if day >= begin)
    over = [
        Day(_date(day), Ahead(*(by_day.get(day, 0),) * 4))
        for day in range(max(begin, min(by_day, default=today)), today)
    ]
    requests, unpriced = int(part["requests"].sum()), int(part["unpriced"].sum())
    notes = [f"{unpriced:,} of {requests:,} requests have no price and are in no sum"] if unpriced else []
    unknown = Projection(name, len(past), requests, unpriced, spent, None, tuple(over), None, ())
    if not unknown.priced:
        return unknown._replace(series=(), notes=(*notes, "what they cost, and will, is not known"))
    if len(past) < LEAST_DAYS:
        notes.append(f"{len(past)} whole days are too few to project: {LEAST_DAYS} are needed")
        return unknown._replace(notes=tuple(notes))
    if idle := min(_idle(np, past), len(past) - LEAST_DAYS):
        first, past = first + idle, past[idle:]
        notes.append(f"{idle} days before {_date(first)} cost next to nothing beside those since, and are left out")
    if len(past) < WEEKLY_FROM:
        notes.append(f"{len(past)} days tell nothing of weekdays: from {WEEKLY_FROM} on they are looked at")
    paths = _paths(np, past, first, day_number(until) - today + 1, np.random.default_rng(seed))
    # Of today only the rest is to come.
    paths[:, 0] *= 1 - (now.hour * 3_600 + now.minute * 60 + now.second) / 86_400
    later = max(0, begin - today)  # days to come before the period
    so_far = {0: by_day.get(today, 0)}
    days = [
        Day(_date(today + place), _ahead(np, paths[:, place], so_far.get(place, 0)))
        for place in range(later, paths.shape[1])
    ]
    total = _ahead(np, paths[:, later:].sum(1), spent)
    return Projection(name, len(past), requests, unpriced, spent, total, (*over, *days), paths, tuple(notes))


def _date(day: int) -> date:
    return date(1970, 1, 1) + timedelta(days=day)


def _ahead(np: Any, dollars: Any, certain: int) -> Ahead:
    p5, p50, p95 = np.quantile(dollars, (0.05, 0.5, 0.95))
    return Ahead(*(certain + round(float(one) * PICO) for one in (dollars.mean(), p5, p50, p95)))


def _idle(np: Any, past: Any) -> int:
    """How many days there are before real use: before a day, and a week from it, that cost some part of what is usual.

    A usual week is one in which, or in cheaper ones, half of the money was spent. The dearest day alone makes none.
    """
    kept = np.minimum(past, np.sort(past)[-2])
    sums = np.concatenate((np.zeros(7), np.cumsum(kept)))
    ending = sums[7:] - sums[:-7]  # each: the seven days that end with this one
    beginning = np.concatenate((ending[6:], kept[::-1].cumsum()[::-1][-6:]))
    order = np.argsort(ending, kind="stable")
    spent = np.cumsum(kept[order])
    usual = ending[order][np.searchsorted(spent, spent[-1] / 2)]
    real = kept >= _REAL * usual / 7
    idle = int((real & (beginning >= _REAL * usual)).argmax())
    if idle >= 7:
        return idle
    # Of less than a week, those that are such days every week, as far as one sees, are weekdays and no idle ones.
    return int((np.flatnonzero(real[7 : 7 + idle]) + 1).max(initial=0))


def _weekdays(np: Any, past: Any, first: int) -> Any:
    """(7,) factors of the weekdays; ones where there are fewer than two weeks."""
    factors = np.ones(7)
    if len(past) < WEEKLY_FROM:
        return factors
    # Against the mean of the week around a day, so that a trend is no weekday; at the ends the next week stands in.
    around = np.convolve(np.concatenate((past[4:7], past, past[-7:-4])), np.ones(7) / 7, mode="valid")
    busy = around > past.mean() / 1_000
    weekday = _weekday(np, first, len(past))
    ratio = past / np.maximum(around, _TINY)
    for place in range(7):
        mine = ratio[busy & (weekday == place)]
        factors[place] = (mine.sum() + _SHRINK) / (len(mine) + _SHRINK)
    return factors / factors.mean()


def _weekday(np: Any, first: int, count: int) -> Any:
    return (first + np.arange(count) + 3) % 7  # 1970-01-01 was a Thursday


def _paths(np: Any, past: Any, first: int, ahead: int, rng: Any) -> Any:
    """(runs, ahead) dollars of the days to come; `past` are days of real use."""
    count, weekly = len(past), len(past) >= WEEKLY_FROM
    unit = past.mean() or 1.0
    past = past / unit
    factors = _weekdays(np, past, first)[_weekday(np, first, count + ahead)]
    # How much each day says of the level.
    telling = factors**2 / (factors**2 + _QUIET**2)
    told, lifted = telling[:count], past / np.maximum(factors[:count], _TINY)
    alpha, beta, damping = (one.ravel() for one in np.meshgrid(_ALPHAS, _BETAS, _DAMPINGS))
    rise, unsure = _trend(np, lifted, told)
    level = np.full(len(alpha), max(0.0, float(np.average(lifted[:7], weights=told[:7]) - rise * 4)))
    slope = rise / damping
    off, levels_then = np.zeros((2, count, len(alpha)))
    for place in range(count):
        foreseen = levels_then[place] = level + damping * slope
        off[place] = lifted[place] - foreseen
        moved = told[place] * off[place]
        slope = damping * slope + alpha * beta * moved
        level = foreseen + alpha * moved
    best = int(((told[1:, None] * off[1:]) ** 2).sum(0).argmin())
    alpha, beta, damping = float(alpha[best]), float(beta[best]), float(damping[best])
    errors, weights = _errors(np, off[:, best], np.maximum(levels_then[:, best], 0), lifted, told, float(level[best]))
    if not weekly:  # a few days may all have been off to one side
        errors, weights = np.concatenate((errors, -errors)), np.concatenate((weights, weights)) / 2
    # Degrees of freedom: a level, and the weekdays, which fit the days they were taken from better than others.
    free = count - (8 if weekly else 1)
    fitted = np.sqrt(count / (count - 7)) if weekly else 1.0
    # Few days have seldom seen the worst: as Student's t against the normal.
    errors = (errors - weights @ errors) * fitted * (1 + 1.6 / free)
    # The level itself is known to no better than its days are alike.
    wobble = np.sqrt(weights @ errors**2 / free)
    slopes = slope[best] + unsure * rng.standard_normal(RUNS)
    levels = level[best] * np.maximum(0, 1 + wobble * rng.standard_normal(RUNS))
    most = _MOST * float(lifted.max())
    paths = np.empty((RUNS, ahead))
    for place, (factor, tells) in enumerate(zip(factors[count:].tolist(), telling[count:].tolist(), strict=True)):
        foreseen = np.maximum(0, levels + damping * slopes)
        error = rng.choice(errors, RUNS, p=weights) * foreseen
        paths[:, place] = np.maximum(0, foreseen + error) * factor
        slopes = damping * slopes + alpha * beta * tells * error
        levels = np.clip(foreseen + alpha * tells * error, 0, most)
    return paths * unit


def _errors(np: Any, off: Any, foreseen: Any, lifted: Any, told: Any, now: float) -> tuple[Any, Any]:
    """By how much of the level each day but the first was off, and how much it counts; the weights add up to 1.

    off, foreseen, lifted   (n,) what a day was off by, its level foreseen, and found, weekdays aside
    told                    (n,) how much it says of the level
    now                     the level after all of them
    """
    week = np.ones(7)
    around = (np.convolve(lifted * told, week) / np.convolve(told, week))[3 : 3 + len(off)]
    scale = np.maximum(np.maximum(foreseen, around / 2), 0.05 * max(float(lifted.mean()), _TINY))
    weights = told * np.minimum(1, (foreseen + _TINY) / max(now, _TINY))
    return (off / scale)[1:], weights[1:] / weights[1:].sum()


def _trend(np: Any, levels: Any, told: Any) -> tuple[float, float]:
    """The slope of a line through the days, drawn to 0 by as much as it may be chance, and how unsure that is."""
    count = len(levels)
    if count < TREND_FROM:
        return 0.0, 0.0
    at = np.arange(count) - np.average(np.arange(count), weights=told)
    spread = float(told @ at**2)
    slope = float(told @ (at * levels)) / spread
    off = levels - np.average(levels, weights=told) - slope * at
    error = float(np.sqrt(told @ off**2 / (count - 2) / spread))
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
    """Say when spending reaches an amount, going by the paths of a projection; None where nothing tells.

    spent  pico-dollars of what counts for it so far, today included
    """
    if spent >= amount:
        return Reached(name, amount, spent, today, today, today, horizon)
    if found.paths is None:
        return None
    np = needed("numpy", extra="pandas")
    days = min(found.paths.shape[1], (horizon - today).days + 1)
    sums = np.cumsum(found.paths[:, :days], 1) + spent / PICO
    there = sums >= amount / PICO
    when = np.where(there.any(1), there.argmax(1), days)
    quantiles = [int(one) for one in np.quantile(when, (0.05, 0.5, 0.95), method="higher")]
    first, middle, last = (today + timedelta(days=one) if one < days else None for one in quantiles)
    return Reached(name, amount, spent, first, middle, last, horizon)
