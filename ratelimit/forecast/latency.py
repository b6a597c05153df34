"""How long replies take: (base + tokens × time per token) × lognormal jitter, learned from a ledger or assumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pricing.entries import Entry
from pricing.estimate import Replies
from pricing.export import needed
from pricing.spend import sizes_of
from pricing.totals import tokens_of

from ..emulator.latency import Latency, character, reasons

if TYPE_CHECKING:
    from .workload import Ints

ENOUGH = 20
"""Replies of a model before they say how long the next ones take."""
KEPT = 256
"""The latest replies of a model that are looked at."""
_LEAST_SIGMA = 1e-6
_FARTHEST = 8.0  # standard deviations: of 10^15 replies none takes longer


class Pace(NamedTuple):
    """How fast a model writes.

    base_us, token_us  µs   before the first token, and for each
    sigma                   of the logarithm of the jitter
    basis                   where the numbers come from, in words
    """

    base_us: float
    token_us: float
    sigma: float
    basis: str

    def median_us(self, tokens: Any) -> Any:
        """How long half of the replies of so many tokens take at most."""
        return self.base_us + self.token_us * tokens


def assumed(model: str) -> Pace:
    """The pace of a model of which no reply is known: that of its kind in the emulator, which nobody published."""
    kind, usual = character(model), Latency()
    what = "a pro model" if "-pro" in model else "a reasoning model" if reasons(model) else "a model"
    rate = f"{kind.base_ms / 1000:g} s and {kind.token_us / 1000:g} ms per token"
    return Pace(kind.base_ms * 1_000, kind.token_us, usual.sigma, f"assumed: {rate}, plausible for {what}")


def learned(entries: Iterable[Entry]) -> dict[str, Pace]:
    """Learn the pace of models from ledger entries, the newest first: a line through their replies (Theil-Sen).

    Source  Sen: Estimates of the regression coefficient based on Kendall's tau (JASA 1968)
    """
    seen: dict[str, list[tuple[int, int]]] = {}
    for entry in entries:
        if entry.usage and entry.latency_us:
            found = seen.setdefault(entry.asked_model or entry.model, [])
            if len(found) < KEPT:
                found.append((tokens_of(entry.usage)[1], entry.latency_us))
    return {model: _fit(model, replies) for model, replies in seen.items() if len(replies) >= ENOUGH}


def _fit(model: str, replies: list[tuple[int, int]]) -> Pace:
    np = needed("numpy", extra="pandas")
    tokens, took_us = (np.array(column, float) for column in zip(*replies, strict=True))
    first, second = np.triu_indices(len(tokens), 1)
    apart = tokens[second] - tokens[first]
    slopes = ((took_us[second] - took_us[first])[apart != 0]) / apart[apart != 0]
    token_us = max(0.0, float(np.median(slopes))) if len(slopes) else 0.0
    base_us = max(1_000.0, float(np.median(took_us - token_us * tokens)))
    off = np.log(took_us / (base_us + token_us * tokens))
    sigma = 1.4826 * float(np.median(np.abs(off - np.median(off))))  # as the deviation of a normal, outliers aside
    rate = f"{base_us / 1e6:.1f} s and {token_us / 1_000:.1f} ms per token"
    return Pace(base_us, token_us, sigma, f"learned: {rate}, from {len(replies)} replies of {model}")


class Replying:
    """How long each request is in the air, and when the last reply is there.

    paces    of each model
    kinds    what is known of replies; kind (n,) says of which each request is
    model, output, latency_us  (n,)   -1: not known
    """

    def __init__(
        self,
        paces: Mapping[str, Pace],
        models: tuple[str, ...],
        kinds: tuple[Replies, ...],
        columns: tuple[Ints, Ints, Ints, Ints],
    ) -> None:
        self._np = needed("numpy", extra="pandas")
        self._paces = [paces.get(model) or assumed(model) for model in models]
        self._kinds = kinds
        self._model, self._kind, self._output, self._latency_us = columns

    def bases(self) -> dict[str, int]:
        """Where the numbers come from → for how many requests."""
        np = self._np
        found: dict[str, int] = {}
        told = self._latency_us >= 0
        for place, pace in enumerate(self._paces):
            if number := int(((self._model == place) & ~told).sum()):
                found[pace.basis] = found.get(pace.basis, 0) + number
        if told.any():
            found["as the trace says"] = int(np.sum(told))
        return found

    def draw_us(self, rng: Any) -> Ints:
        """Draw how long each request is in the air (µs)."""
        np = self._np
        count = len(self._model)
        tokens = np.maximum(self._output, 0).astype(float)
        for place, kind in enumerate(self._kinds):
            mine = np.flatnonzero((self._kind == place) & (self._output < 0))
            if len(mine) and kind.prior is not None:
                sizes = np.minimum(np.array(sizes_of(kind.prior), float), kind.most)
                if kind.choices == 1:
                    tokens[mine] = rng.choice(sizes, len(mine))
                else:  # the largest of so many is as far up as the one root of one luck
                    luck = rng.random(len(mine)) ** (1 / kind.choices)
                    tokens[mine] = np.sort(sizes)[np.minimum((luck * len(sizes)).astype(np.int64), len(sizes) - 1)]
        base, rate, sigma = (np.array(column)[self._model] for column in self._columns())
        took = (base + rate * tokens) * np.exp(sigma * rng.standard_normal(count))
        drawn: Ints = np.where(self._latency_us >= 0, self._latency_us, took).astype(np.int64)
        return drawn

    def _columns(self) -> tuple[tuple[float, ...], ...]:
        paces = self._paces or [Pace(0, 0, 0, "")]
        return tuple(zip(*((pace.base_us, pace.token_us, pace.sigma) for pace in paces), strict=True))

    def ends_us(self, act_us: Ints, shares: tuple[float, ...]) -> tuple[int, ...]:
        """Say when the last reply is there (µs), at these quantiles: replies are as if drawn, each by itself.

        Who was admitted long before the end is not among the last: only those count of whom a reply might be. Above the
        median a reply twice as large as the largest seen is as likely as any other one, as it is for the cost.
        """
        np = self._np
        if not len(act_us):
            return (0,) * len(shares)
        told = self._latency_us >= 0
        sure_us = int((act_us + self._latency_us)[told].max()) if told.any() else 0
        if told.all():
            return (sure_us,) * len(shares)
        chances = {wide: self._chance(np, act_us, ~told, wide) for wide in {share > 0.5 for share in shares}}
        found = []
        for share in shares:
            log_chance, high = chances[share > 0.5]
            below, above = float(act_us.max()), high
            while above - below > 1_000:  # a millisecond
                middle = (below + above) / 2
                below, above = (below, middle) if log_chance(middle) >= math.log(share) else (middle, above)
            found.append(max(sure_us, round(above)))
        return tuple(found)

    def _chance(self, np: Any, act_us: Ints, open_: Any, wide: bool) -> tuple[Callable[[float], float], float]:
        """The chance that all replies are there (its logarithm, as a function of time), and when they surely are.

        wide  there may be a reply larger than all that were seen
        """
        parts = [self._tail(np, act_us, open_, model, wide) for model in range(len(self._paces))]
        there = [part for part in parts if part is not None]
        return lambda at_us: math.fsum(chance(at_us) for chance, _ in there), max(last for _, last in there)

    def _tail(
        self, np: Any, act_us: Ints, open_: Any, model: int, wide: bool
    ) -> tuple[Callable[[float], float], float] | None:
        """The same of one model; None where it has no request whose reply is open.

        Of like requests those admitted at about the same time are taken together, at the latest instant among them.
        """
        mine = np.flatnonzero(open_ & (self._model == model))
        if not len(mine):
            return None
        pace = self._paces[model]
        sigma = max(pace.sigma, _LEAST_SIGMA)
        groups: dict[tuple[Any, int], tuple[Any, int]] = {}
        known = mine[self._output[mine] >= 0]
        for size, members in _split(np, known, _rounded(np, self._output[known])):
            groups[size, 1] = members, 1
        rest = mine[self._output[mine] < 0]
        for place, members in _split(np, rest, self._kind[rest]):
            groups[self._kinds[place], 0] = members, self._kinds[place].choices
        terms, last = [], 0.0
        for (what, _), (members, choices) in groups.items():
            if isinstance(what, Replies):
                sizes = sizes_of(what.prior) if what.prior is not None else (0,)
                if wide and what.prior is not None and what.prior.sizes:
                    sizes = (*sizes, 2 * sizes[-1])
                tokens = np.minimum(np.array(sizes, float), what.most)
            else:
                tokens = np.array([what], float)
            centres, weights = np.unique(np.maximum(pace.median_us(tokens), 1.0), return_counts=True)
            longest = float(centres[-1]) * math.exp(sigma * _FARTHEST)
            acts = act_us[members]
            recent = acts[acts >= acts.max() - longest]
            _, place = np.unique((recent - recent.min()) // max(1, int(longest) // 4_000), return_inverse=True)
            tops = np.zeros(int(place.max()) + 1, np.int64)
            np.maximum.at(tops, place, recent)
            # How many replies take longer than so long, once and for all.
            grid = np.linspace(math.log(centres[0]) - sigma * _FARTHEST, math.log(longest), 2_000)
            late = sum(
                weight * _late(np, (grid - math.log(centre)) / sigma)
                for centre, weight in zip(centres.tolist(), weights.tolist(), strict=True)
            )
            there = np.log1p(-np.minimum(late / weights.sum(), 1 - 1e-15))
            terms.append((tops, np.bincount(place) * choices, grid, there))
            last = max(last, float(acts.max()) + longest)

        def log_chance(at_us: float) -> float:
            return sum(
                float((counts * np.interp(np.log(np.maximum(at_us - tops, 1e-3)), grid, there)).sum())
                for tops, counts, grid, there in terms
            )

        return log_chance, last


def _split(np: Any, members: Ints, by: Ints) -> list[tuple[int, Ints]]:
    """Split places by a number that each has."""
    if not len(members):
        return []
    order = np.argsort(by, kind="stable")
    values, starts = np.unique(by[order], return_index=True)
    return list(zip(values.tolist(), np.split(members[order], starts[1:]), strict=True))


def _rounded(np: Any, tokens: Ints) -> Ints:
    """Sizes rounded up by 2 % at most, so that alike ones are one."""
    return np.ceil(1.02 ** np.ceil(np.log(np.maximum(tokens, 1)) / math.log(1.02))).astype(np.int64)  # type: ignore[no-any-return]


def _late(np: Any, deviations: Any) -> Any:
    """The share of a normal distribution above so many deviations."""
    grid, logs = _normal()
    return np.exp(np.interp(deviations, grid, logs))


@lru_cache(maxsize=1)
def _normal() -> tuple[Any, Any]:
    np = needed("numpy", extra="pandas")
    grid = np.linspace(-_FARTHEST, _FARTHEST, 3_201)
    return grid, np.array([math.log(0.5 * math.erfc(one / math.sqrt(2))) for one in grid.tolist()])
