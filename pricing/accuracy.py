"""How good estimates were: what was expected before each call against what its bill said. Integers and exact sums.

Only bills of the server's own usage speak, for the others are estimates themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from .entries import Entry
from .learned import quantile
from .money import Usd
from .totals import tokens_of


class Accuracy(NamedTuple):
    """Of the calls of one kind that can be compared.

    calls              posted with the server's own usage, after an estimate with a price
    estimated, actual  Usd, what they were expected to cost, all together, and what they did
    error_median       per mille of the actual cost: half of the estimates were off by no more, up or down
    error_p95          the same of 95 % of them
    over_worst         calls that cost more than the worst case that a budget held for them; there should be none
    input_exact        calls whose input tokens were counted exactly before the send, of `counted`
    within_p95         calls whose output was no larger than its foreseen 95th percentile, of `counted`
    counted            calls of which the expected tokens are known
    """

    calls: int
    estimated: Usd
    actual: Usd
    error_median: int | None
    error_p95: int | None
    over_worst: int
    input_exact: int
    within_p95: int
    counted: int


class _Tally:
    def __init__(self) -> None:
        self.calls = self.over_worst = self.input_exact = self.within_p95 = self.counted = 0
        self.estimated = self.actual = 0
        self.errors: list[int] = []

    def add(self, entry: Entry) -> None:
        assert entry.cost is not None
        assert entry.estimate is not None
        guess, cost = entry.estimate.pico, entry.cost.pico
        self.calls += 1
        self.estimated += guess
        self.actual += cost
        self.over_worst += entry.worst is not None and cost > entry.worst.pico
        if cost:
            self.errors.append(abs(guess - cost) * 1000 // cost)
        if entry.expected:
            read, written = tokens_of(entry.usage)
            self.counted += 1
            self.input_exact += read == entry.expected.get("input_tokens")
            self.within_p95 += written <= entry.expected.get("output_p95", -1)

    def done(self) -> Accuracy:
        ordered = sorted(self.errors)
        median, p95 = (quantile(ordered, percent) if ordered else None for percent in (50, 95))
        sums = Usd(self.estimated), Usd(self.actual)
        return Accuracy(
            self.calls, *sums, median, p95, self.over_worst, self.input_exact, self.within_p95, self.counted
        )


def accuracy(entries: Iterable[Entry], part: Callable[[Entry], str]) -> dict[str, Accuracy]:
    """Compare estimates with bills, by part (see totals.part_of)."""
    tallies: dict[str, _Tally] = {}
    for entry in entries:
        if entry.state == "posted" and entry.exact and entry.cost is not None and entry.estimate is not None:
            tallies.setdefault(part(entry), _Tally()).add(entry)
    return {name: tally.done() for name, tally in tallies.items()}
