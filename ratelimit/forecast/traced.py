"""The forecast of a trace: who waits how long in which tier, how many at once, and how full the limits are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pricing.columns import Tokens, money_of
from pricing.estimate import Replies, replies
from pricing.export import needed
from pricing.learned import RECALLED, Learned
from pricing.prices import load_prices
from pricing.spend import Spending
from pricing.tokens import Count

from ..clock import US_PER_S
from ..errors import ConfigError
from ..once import learned_from
from .choices import replacements, tiers_for
from .job import paces_of, spent_of
from .lanes import Account, Lanes
from .outlook import Outlook, Setting, outlook
from .schedule import Schedule
from .trace import Trace, read_trace
from .workload import MODES, ONLINE, Reading, Workload

MINUTE_US = 60 * US_PER_S
OVER_US = (US_PER_S, 10 * US_PER_S)
"""Waits of more than so long are counted."""


class Filled(NamedTuple):
    """How full a limit is, as shares of what it lets through: on average, and in the fullest minute (or its period)."""

    limit: str
    sustained: float
    peak: float


class View(NamedTuple):
    """What a trace meets in an account.

    waits        p50, p95, p99 and the longest (µs)
    delayed      (µs, share of the requests that wait longer) …
    backlog      most requests waiting at a time
    in_the_air   most requests in the air at a time
    filled       of each limit, the fullest first
    """

    account: Account
    outlook: Outlook
    waits: tuple[int, int, int, int]
    delayed: tuple[tuple[int, float], ...]
    backlog: int
    in_the_air: int
    filled: tuple[Filled, ...]


class TraceForecast(NamedTuple):
    """What a trace comes to: costs by mode, and what it meets in each account.

    go        the requests that can be sent in `main`: the sums are of these
    spending  as the rows ask for; `unpriced` has all rows without a price, and so has each of by_mode
    main      looked at in detail; the outlooks of the other views have no columns
    """

    trace: Trace
    work: Workload
    go: Workload
    spending: Spending
    by_mode: Mapping[str, Spending]
    main: View
    views: tuple[View, ...]
    facts: tuple[str, ...]


def forecast_trace(
    source: Any,
    reading: Reading,
    accounts: Sequence[Account],
    *,
    model: str | None = None,
    over_us: Sequence[int] = OVER_US,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> TraceForecast:
    """Foresee what becomes of a trace.

    accounts  to look at, the first in detail; one without a tier or limits stands for all tiers that know the models

    Raises  ConfigError when the trace or an account cannot be used
    """
    trace = read_trace(source, model=model, progress=progress)
    work = workload_of(trace, reading)
    if not len(work):
        first = trace.bad[0]
        raise ConfigError(f"none of the {trace.bad_rows:,} rows is a request; row {first.number}: {first.reason}")
    for asked, _ in reading.swap:
        if asked not in trace.models:
            raise ConfigError(
                f"--swap {asked}=…: no request of the trace is for {asked}; they are for {_some(trace.models)}"
            )
    wanted, chosen = [one._replace(at=one.at or reading.at) for one in accounts], True
    if len(wanted) == 1 and wanted[0].tier is None and not wanted[0].limits:
        tiers = tiers_for(work.models)
        if not tiers:
            raise ConfigError(f"no tier has limits for {_some(work.models)}; give your own: --rpm and --tpm")
        wanted, chosen = [wanted[0]._replace(tier=tier) for tier in tiers], False
    setting = Setting(paces_of(reading.ledger), trace=True, seed=seed)
    views: list[View] = []
    best: View | None = None
    for account in wanted:
        view = _view(work, account, setting, over_us)
        if best is None or (not chosen and _rank(view) < _rank(best)):
            best = view
        # The columns of one account are enough to hold: of ten million requests they take half a gigabyte.
        views = [one if one.account == best.account else _light(one) for one in (*views, view)]
    assert best is not None
    goes = best.outlook.goes
    go = work if goes.all() else work.where(goes)
    costs = {mode: spent_of(work, goes, mode, seed) for mode in work.money}
    _, facts = replacements(work.models, reading.at)
    return TraceForecast(trace, work, go, costs[ONLINE], costs, best, tuple(views), tuple(facts))


def _some(names: Sequence[str]) -> str:
    """A few names for a message."""
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "")


def _rank(view: View) -> tuple[int, int]:
    """First come those in which nobody is refused and 19 of 20 wait less than a second; then those of short waits."""
    refused = sum(view.outlook.refused.values())
    return (0, 0) if not refused and view.waits[1] < US_PER_S else (1 + refused, view.waits[1])


def _light(view: View) -> View:
    """A view without the columns of its requests."""
    np = needed("numpy", extra="pandas")
    none = np.empty(0, np.int64)
    found = view.outlook
    lanes = found.lanes._replace(rules=(), line=none, goes=none, why=none)
    light = found._replace(schedule=Schedule(none, none), takes_us=none, goes=none, why=none, lanes=lanes)
    return view._replace(outlook=light)


def workload_of(trace: Trace, reading: Reading) -> Workload:
    """The requests of a trace as columns. What is charged at admission is taken to be their input tokens.

    Raises  TableError when an overlay is wrong
    """
    np = needed("numpy", extra="pandas")
    swap = dict(reading.swap)
    models = tuple(swap.get(model, model) for model in trace.models)
    prices = load_prices(overlay=reading.prices)
    if reading.region is not None:
        prices.check_region(reading.region)
    kinds = _kinds(models, learned_from(reading.ledger, RECALLED))
    most = np.array([kind.most for kind in kinds], np.int64)[trace.model]
    tokens = Tokens(trace.model, trace.tier, trace.input, trace.cached, np.where(trace.output < 0, most, trace.output))
    money = {
        mode: money_of(
            tokens,
            models,
            trace.tiers,
            service_tier=None if mode == ONLINE else mode,
            at=reading.at,
            prices=prices,
            region=reading.region,
        )
        for mode in MODES
        if mode == ONLINE or any(prices.lookup(model, mode, reading.at) for model in models)
    }
    zeros = np.zeros(len(trace.row), np.int64)
    return Workload(
        models, trace.tiers, kinds, trace.row, trace.model, trace.tier, trace.model, trace.input, trace.cached,
        trace.input, zeros, trace.output, trace.arrival_us, trace.latency_us, money,
    )  # fmt: skip


def _kinds(models: Sequence[str], learned: Learned) -> tuple[Replies, ...]:
    """What is known of the replies of each model, where the trace does not have them."""
    none = Count(0, 0, 0)
    return tuple(
        replies(
            {},
            "/v1/embeddings" if "embedding" in model else "/v1/responses",
            model,
            none,
            learned.foresee(model, "", {}),
        )
        for model in models
    )


def _view(work: Workload, account: Account, setting: Setting, over_us: Sequence[int]) -> View:
    np = needed("numpy", extra="pandas")
    found = outlook(work, account, setting, relief=False)
    arrivals = work.arrival_us[found.goes]
    act = found.schedule.act_us
    waits = act - arrivals
    at = np.quantile(waits, (0.5, 0.95, 0.99, 1.0)) if len(waits) else np.zeros(4)
    delayed = tuple((us, float((waits > us).mean()) if len(waits) else 0.0) for us in over_us)
    admitted, ended = np.sort(act), np.sort(act + found.takes_us)
    # Who has come at an instant and is not admitted then; who is admitted at once never waited.
    backlog = np.arange(1, len(act) + 1) - np.searchsorted(admitted, arrivals, side="right")
    air = np.arange(1, len(act) + 1) - np.searchsorted(ended, admitted, side="right")
    filled = sorted(_filled(np, work, found.lanes), key=lambda one: -one.sustained)
    p50, p95, p99, longest = (round(float(one)) for one in at)
    return View(
        account,
        found,
        (p50, p95, p99, longest),
        delayed,
        int(backlog.max(initial=0)),
        int(air.max(initial=0)),
        tuple(filled),
    )


def _filled(np: Any, work: Workload, found: Lanes) -> list[Filled]:
    """How full each limit would be if nobody waited."""
    filled = []
    last_us = max(1, int(work.arrival_us[-1]))
    for rule, limit in zip(found.rules, found.limits, strict=True):
        if rule.slots:
            continue
        # Bucket time: a limit lets through as much of it as time passes.
        width_us = max(MINUTE_US, min(limit.period_us, 86_400 * US_PER_S))
        # Of a long time most minutes are empty: only those are summed in which somebody comes.
        bins = work.arrival_us // width_us
        sums = np.add.reduceat(rule.charges_us, np.flatnonzero(np.diff(bins, prepend=-1)))
        filled.append(
            Filled(
                rule.name, float(rule.charges_us.sum()) / max(last_us, width_us), float(sums.max(initial=0)) / width_us
            )
        )
    return filled
