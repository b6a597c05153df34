"""What many requests will cost together, with an interval: how large their replies are, nobody knows yet.

The expected cost and the largest possible one are sums over requests, so those of two files add up to those of both.
Quantiles do not add up: they come from a seeded simulation of the total. In each of its runs the past replies of a kind
are weighed anew (the Bayesian bootstrap), because few replies say little of the next ones, and then every request draws
one. The 95th percentile also reckons with a reply twice as large as the largest seen, as likely as any other one: large
replies are rare, and those who saw few have seldom seen the largest.

Source  Rubin: The Bayesian Bootstrap (Annals of Statistics 1981); the coverage is measured in benchmarks/forecast.py
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .estimate import Prior
from .export import needed
from .money import Usd

if TYPE_CHECKING:
    import numpy as np

    from .estimate import Replies

    Ints = np.ndarray[Any, np.dtype[np.int64]]

RUNS = 1_000
"""Runs of the simulation: of so many, the 5th and the 95th percentile are told to a per cent or so of the spread."""
MOST_PICO = 1 << 61
"""2.3 million dollars: the most that one request may cost, so that sums of its parts stay within 64 bits."""
TOO_DEAR = "it may cost more than 2.3 million dollars, which is more than is reckoned with"
_POINTS = 200
"""Sizes that stand for a prior of which only quantiles are published."""
_ONE_BY_ONE = 200
"""Of so few requests each draws its reply; the sum of more is as good as normal."""
_AT_ONCE = 2_048


class Interval(NamedTuple):
    """A total that is not known yet.

    mean            expected; adds up over parts
    p5, p50, p95    nine in ten such totals lie between the first and the last
    worst           the largest possible; adds up over parts
    """

    mean: int
    p5: int
    p50: int
    p95: int
    worst: int

    def usd(self) -> dict[str, Usd]:
        """The numbers as amounts, where they are pico-dollars."""
        return {name: Usd(pico) for name, pico in self._asdict().items()}


class Money(NamedTuple):
    """What requests cost, by column; (n,) each.

    fixed   pico-dollars   all but the output
    rate    pico-dollars   per output token
    worst   pico-dollars   the most it can be
    why                    place in `reasons` of those without a price; -1: it has one
    """

    fixed: Ints
    rate: Ints
    worst: Ints
    why: Ints
    reasons: tuple[str, ...]

    def unpriced(self) -> dict[str, int]:
        """How many requests have no price, by reason."""
        found = Counter(self.why[self.why >= 0].tolist())
        return {self.reasons[place]: number for place, number in sorted(found.items())}


class Spending(NamedTuple):
    """What requests will come to.

    requests   that have a price
    unpriced   reason → those that have none: they are in no sum
    cost       Interval of pico-dollars; None where no request has a price
    output     Interval of output tokens, of all requests
    """

    requests: int
    unpriced: Mapping[str, int]
    cost: Interval | None
    output: Interval


def spending(
    money: Money, kinds: Sequence[Replies], kind: Ints, known: Ints, *, seed: int = 0, runs: int = RUNS
) -> Spending:
    """Foresee what requests come to.

    kinds   (k,)           what is known of replies, by kind
    kind    (n,)           the kind of each request
    known   (n,) tokens    the size of a reply that is known; -1 where it is not
    """
    np = needed("numpy", extra="pandas")
    priced = money.why < 0
    told = known >= 0
    per_token = np.where(priced, money.rate, 0)
    certain = exact_sum(money.fixed[priced]) + exact_sum((per_token * np.maximum(known, 0))[priced & told])
    certain_tokens = exact_sum(known[told])
    # A reply that is known is as large as it is: no worse one can come.
    ceiling = np.where(told, money.fixed + per_token * np.maximum(known, 0), money.worst)
    most = np.array([one.most * one.choices for one in kinds] or [0], np.int64)
    worst_tokens = certain_tokens + exact_sum(most[kind[~told]])
    groups = _groups(np, kinds, kind[~told], per_token[~told])
    rng = np.random.default_rng(seed)
    totals = _Totals(np, runs)
    for prior, members in groups.items():
        totals.add(prior, members, rng)
    requests = int(priced.sum())
    cost = totals.interval(0, certain, exact_sum(ceiling[priced])) if requests else None
    return Spending(requests, money.unpriced(), cost, totals.interval(1, certain_tokens, worst_tokens))


class _Group(NamedTuple):
    """Requests alike: how many choices in all, the most tokens of each, and what a token costs."""

    draws: int
    most: int
    pico: int


def _groups(np: Any, kinds: Sequence[Replies], kind: Ints, rate: Ints) -> dict[Prior, list[_Group]]:
    """Gather alike requests by the prior that speaks for them."""
    found: dict[Prior, Counter[tuple[int, int]]] = {}
    if not len(kind):
        return {}
    rates, place = np.unique(rate, return_inverse=True)
    keys, counts = np.unique(kind.astype(np.int64) * len(rates) + place, return_counts=True)
    for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
        one = kinds[key // len(rates)]
        if one.prior is not None:
            # What no reply of the kind ever reached is no cap: so the groups are few.
            most = min(one.most, 2 * sizes_of(one.prior)[-1])
            found.setdefault(one.prior, Counter())[most, int(rates[key % len(rates)])] += count * one.choices
    return {prior: [_Group(draws, *key) for key, draws in sorted(members.items())] for prior, members in found.items()}


class _Totals:
    """The runs of the simulation: (2, runs) cost and tokens, each plain and with the unseen reply."""

    def __init__(self, np: Any, runs: int) -> None:
        self._np, self._runs = np, runs
        self._plain, self._wide = np.zeros((2, runs)), np.zeros((2, runs))
        self._mean = [0, 0]

    def add(self, prior: Prior, members: list[_Group], rng: Any) -> None:
        """Add requests for which one prior speaks."""
        np = self._np
        sizes = np.array(sizes_of(prior), np.int64)
        count = len(sizes)
        for one in members:
            whole = int(np.minimum(sizes, one.most).sum())
            self._mean[0] += one.draws * -(-whole * one.pico // count)
            self._mean[1] += one.draws * -(-whole // count)
        weights = rng.standard_exponential((self._runs, count + 1))
        seed = int(rng.integers(1 << 32))
        for sums, points, parts in (
            (self._plain, sizes, weights[:, :count]),
            (self._wide, np.append(sizes, 2 * sizes[-1]), weights),
        ):
            shares = parts / parts.sum(1, keepdims=True)
            # The same luck for both, so that what was not seen can only make it more.
            sums += self._drawn(points, shares, members, np.random.default_rng(seed))

    def _drawn(self, sizes: Ints, shares: Any, members: list[_Group], rng: Any) -> Any:
        np = self._np
        sums = np.zeros((2, self._runs))
        if sum(one.draws for one in members) <= _ONE_BY_ONE:
            below = np.cumsum(shares, 1)
            for one in members:
                luck = rng.random((self._runs, one.draws))
                places = np.stack([np.searchsorted(row, each) for row, each in zip(below, luck, strict=True)])
                tokens = np.minimum(sizes[np.minimum(places, len(sizes) - 1)], one.most).sum(1)
                sums += np.array([[one.pico], [1]]) * tokens
            return sums
        for start in range(0, len(members), _AT_ONCE):
            some = members[start : start + _AT_ONCE]
            draws, most, pico = (np.array(column, float) for column in zip(*some, strict=True))
            capped = np.minimum(sizes[:, None], most).astype(float)
            mean = shares @ capped
            spread = np.sqrt(np.maximum(shares @ capped**2 - mean**2, 0) * draws)
            tokens = mean * draws + spread * rng.standard_normal(mean.shape)
            tokens = np.clip(tokens, draws * capped.min(0), draws * capped.max(0))
            sums += np.stack([tokens @ pico, tokens.sum(1)])
        return sums

    def interval(self, row: int, certain: int, worst: int) -> Interval:
        """Quantiles of the runs, with what is certain added."""
        low, middle = self._np.quantile(self._plain[row], (0.05, 0.5))
        high = max(middle, self._np.quantile(self._wide[row], 0.95))
        p5, p50, p95 = (min(worst, certain + round(float(part))) for part in (low, middle, high))
        return Interval(min(worst, certain + self._mean[row]), p5, p50, p95, worst)


def expected(reply: Replies, pico: int) -> int:
    """What the output of a request is expected to come to at so many pico-dollars a token; at 1: its tokens.

    Law  the mean of `spending` is the sum of these (tests/forecast/test_job.py)
    """
    if reply.prior is None:
        return 0
    sizes = sizes_of(reply.prior)
    return reply.choices * -(-sum(min(size, reply.most) for size in sizes) * pico // len(sizes))


def sizes_of(prior: Prior) -> tuple[int, ...]:
    """Reply sizes in order, that stand for a prior: the replies themselves where they were learned.

    Of others' traffic the median, the 95th percentile and the mean are published. Through these goes a curve: flat
    below the median, to the 95th percentile as steep as brings the mean about, and exponential above.
    """
    if prior.sizes:
        return prior.sizes
    found = _CURVES.get(prior)
    if found is None:
        found = _CURVES[prior] = _curve(prior)
    return found


_CURVES: dict[Prior, tuple[int, ...]] = {}


def _curve(prior: Prior) -> tuple[int, ...]:
    from math import log

    def at(share: float, steep: float) -> float:
        if share <= 0.5:
            return float(prior.p50 * (share / 0.5) ** 0.75)
        if share <= 0.95:
            return prior.p50 + (prior.p95 - prior.p50) * float(((share - 0.5) / 0.45) ** steep)
        return prior.p95 * (1 + 0.35 * log(0.05 / (1 - share)))

    shares = [(place + 0.5) / _POINTS for place in range(_POINTS)]
    low, high = 0.2, 20.0
    for _ in range(40):
        steep = (low * high) ** 0.5
        if sum(at(share, steep) for share in shares) / _POINTS > prior.mean:
            low = steep
        else:
            high = steep
    return tuple(sorted(max(1, round(at(share, high))) for share in shares))


def exact_sum(column: Ints) -> int:
    """The sum of a column, however large: 9.2 million dollars are the most that 64 bits hold in pico-dollars."""
    return (int((column >> 32).sum()) << 32) + int((column & 0xFFFFFFFF).sum())


def joined(parts: Iterable[Money]) -> Money:
    """Put the columns of several parts one after another."""
    np = needed("numpy", extra="pandas")
    columns: list[list[Any]] = [[], [], [], []]
    reasons: dict[str, int] = {}
    for part in parts:
        places = np.array([reasons.setdefault(reason, len(reasons)) for reason in part.reasons] + [-1], np.int64)
        for column, values in zip(columns, (part.fixed, part.rate, part.worst, places[part.why]), strict=True):
            column.append(values)
    fixed, rate, worst, why = (np.concatenate(one) if one else np.empty(0, np.int64) for one in columns)
    return Money(fixed, rate, worst, why, tuple(reasons))
