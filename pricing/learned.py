"""How large replies are, learned from a ledger: what the next of their kind will take, in place of others' traffic.

A kind is a model, a reasoning effort and the tags of a call. Where there are too few replies of just that kind, those
of the model and effort speak, and then those of the model; where these are too few as well, nobody does.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .entries import Entry
from .estimate import Prior
from .totals import tokens_of

ENOUGH = 20
"""Replies of a kind before they say anything of the next: of fewer, the 95th percentile is not among them."""
KEPT = 256
"""The latest replies of a kind: what a model does changes."""
MOST_KINDS = 1_000
"""Kinds remembered; the one that was not seen for longest is forgotten first."""

Kind = tuple[str, ...]


def quantile(ordered: list[int], percent: int) -> int:
    """The smallest of these (in order, at least one) that so many per cent of them do not exceed."""
    return ordered[-(-len(ordered) * percent // 100) - 1]


def effort_of(body: Mapping[str, Any]) -> str:
    """The reasoning effort a request asks for; "" when it names none."""
    reasoning = body.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, Mapping) else body.get("reasoning_effort")
    return effort if isinstance(effort, str) else ""


class Learned:
    """The output sizes of past replies, by kind."""

    __slots__ = ("_kinds",)

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._kinds: OrderedDict[Kind, deque[int]] = OrderedDict()
        for entry in entries:
            if entry.usage:
                self.add(entry.asked_model or entry.model, entry.effort, entry.tags, tokens_of(entry.usage)[1])

    def add(self, model: str, effort: str, tags: Mapping[str, str], output: int) -> None:
        """Note how many output tokens a reply had, reasoning included."""
        for kind in _kinds(model, effort, tags):
            sizes = self._kinds.get(kind)
            if sizes is None:
                sizes = self._kinds[kind] = deque(maxlen=KEPT)
                if len(self._kinds) > MOST_KINDS:
                    self._kinds.popitem(last=False)
            else:
                self._kinds.move_to_end(kind)
            sizes.append(output)

    def foresee(self, model: str, effort: str, tags: Mapping[str, str]) -> Prior | None:
        """What the next such reply will take, by the narrowest kind that has enough replies; None where none has."""
        for kind in _kinds(model, effort, tags):
            sizes = self._kinds.get(kind)
            if sizes is not None and len(sizes) >= ENOUGH:
                ordered = sorted(sizes)
                mean, name = sum(ordered) // len(ordered), " ".join(part for part in kind if part)
                source = f"{len(ordered)} replies of {name} in the ledger"
                return Prior(mean, quantile(ordered, 50), quantile(ordered, 95), source)
        return None


def _kinds(model: str, effort: str, tags: Mapping[str, str]) -> Iterator[Kind]:
    """The kinds a call is of, from the narrowest on; no two alike."""
    if tags:
        yield (model, effort, *(f"{name}={value}" for name, value in sorted(tags.items())))
    yield model, effort
    yield (model,)
