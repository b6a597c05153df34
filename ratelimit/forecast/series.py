"""A forecast over time, in so many equal steps: what charts show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pricing.export import needed

if TYPE_CHECKING:
    from pricing.spend import Interval

    from .outlook import Outlook
    from .workload import Workload

STEPS = 120


class Series(NamedTuple):
    """Columns of (k,) steps, at their ends.

    until_us                 when each ends
    waiting, in_the_air      requests that are there and not admitted; admitted and not answered
    spent, low, high         pico-dollars: expected, and as much as nine in ten such jobs lie between
    rates                    limit → units taken of it in its period before each instant, what it lets through in a
                             period, and the period (µs)
    """

    until_us: Any
    waiting: Any
    in_the_air: Any
    spent: Any
    low: Any
    high: Any
    rates: dict[str, tuple[Any, float, int]]


def series(work: Workload, found: Outlook, cost: Interval | None, picos: Any) -> Series:
    """Lay out a forecast over time.

    picos  (m,)  what each request is expected to cost
    """
    np = needed("numpy", extra="pandas")
    act, ends = found.schedule.act_us, found.schedule.act_us + found.takes_us
    arrivals = work.arrival_us[found.goes]
    last_us = max(int(ends.max(initial=1)), 1)
    edges = np.linspace(0, last_us, STEPS + 1)[1:]

    def by(instants: Any) -> Any:
        return np.searchsorted(np.sort(instants), edges, side="right")

    admitted = by(act)
    order = np.argsort(ends, kind="stable")
    paid = np.concatenate(([0.0], np.cumsum(picos[found.goes][order].astype(float))))
    spent = paid[np.searchsorted(ends[order], edges, side="right")]
    low = high = spent
    if cost is not None and cost.mean:
        low, high = spent * (cost.p5 / cost.mean), spent * (cost.p95 / cost.mean)
    rates = {}
    begun = np.argsort(act, kind="stable")
    acts = act[begun]
    for rule, limit in zip(found.lanes.rules, found.lanes.limits, strict=True):
        if limit.unit == "concurrent":
            continue
        through = np.concatenate(([0.0], np.cumsum(rule.charges_us[found.goes][begun].astype(float))))
        until, since = (np.searchsorted(acts, at, side="right") for at in (edges, edges - limit.period_us))
        capacity = float(limit.capacity)
        rates[rule.name] = (through[until] - through[since]) * (capacity / limit.period_us), capacity, limit.period_us
    return Series(edges, by(arrivals) - admitted, admitted - by(ends), spent, low, high, rates)
