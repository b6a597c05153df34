"""How large replies are, learned from a ledger: what the next of their kind will take, in place of others' traffic.

A kind is a model, a reasoning effort and the tags of a call. Where there are too few replies of just that kind, those
of the model and effort speak, and then those of the model; where these are too few as well, nobody does.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping

from .entries import Entry
from .estimate import Prior
from .totals import tokens_of

ENOUGH = 20
"""Replies of a kind before they say anything of the next: of fewer, the 95th percentile is not among them."""
KEPT = 256
"""The latest replies of a kind: what a model does changes."""
OFTEN = 16
"""New replies after which a kind is looked at again: an answer may be so many replies old."""
MOST_KINDS = 1_000
"""Kinds remembered, the newest."""

RECALLED = 2_000
"""The latest entries of a ledger from which sizes are learned."""

Kind = tuple[str, ...]


def quantile(ordered: list[int], percent: int) -> int:
    """The smallest of these (in order, at least one) that so many per cent of them do not exceed."""
    return ordered[-(-len(ordered) * percent // 100) - 1]


class _Sizes:
    """The latest replies of a kind, and what was last said of them."""

    __slots__ = ("latest", "new", "prior")

    def __init__(self, kept: int) -> None:
        self.latest: deque[int] = deque(maxlen=kept)
        self.new = 0
        self.prior: Prior | None = None


class Learned:
    """The output sizes of past replies, by kind; the latest `kept` of each."""

    __slots__ = ("_kept", "_kinds")

    def __init__(self, entries: Iterable[Entry] = (), *, kept: int = KEPT) -> None:
        self._kept = kept
        self._kinds: OrderedDict[Kind, _Sizes] = OrderedDict()
        for entry in entries:
            if entry.usage:
                self.add(entry.asked_model or entry.model, entry.effort, entry.tags, tokens_of(entry.usage)[1])

    def add(self, model: str, effort: str, tags: Mapping[str, str], output: int) -> None:
        """Note how many output tokens a reply had, reasoning included."""
        for kind in _kinds(model, effort, tags):
            sizes = self._kinds.get(kind)
            if sizes is None:
                sizes = self._kinds[kind] = _Sizes(self._kept)
                if len(self._kinds) > MOST_KINDS:
                    self._kinds.popitem(last=False)
            sizes.latest.append(output)
            sizes.new += 1

    def foresee(self, model: str, effort: str, tags: Mapping[str, str]) -> Prior | None:
        """What the next such reply will take, by the narrowest kind that has enough replies; None where none has."""
        for kind in _kinds(model, effort, tags):
            sizes = self._kinds.get(kind)
            if sizes is None or len(sizes.latest) < ENOUGH:
                continue
            if sizes.prior is None or sizes.new >= OFTEN:
                ordered = sorted(sizes.latest)
                mean, name = sum(ordered) // len(ordered), " ".join(part for part in kind if part)
                source = f"{len(ordered)} replies of {name} in the ledger"
                p50, p95 = quantile(ordered, 50), quantile(ordered, 95)
                sizes.prior, sizes.new = Prior(mean, p50, p95, source, tuple(ordered)), 0
            return sizes.prior
        return None


def _kinds(model: str, effort: str, tags: Mapping[str, str]) -> Iterator[Kind]:
    """The kinds a call is of, from the narrowest on; no two alike."""
    if tags:
        yield (model, effort, *(f"{name}={value}" for name, value in sorted(tags.items())))
    yield model, effort
    yield (model,)
