"""Why a cost changed: the difference of two reports, split exactly into price, tokens, volume and model or tier.

For each group, with requests n, cost c and the cells of both reports; old is 0, new is 1:

    volume  c₀ · (n₁ − n₀) / n₀: as many more requests as there are, each as it was on average. Where cells came and
            none went, their whole cost is volume, and n₁ counts the others; where some went and none came, likewise
    price   of a cell that both have: what its new tokens cost now, less what they would have cost at the old price
    tokens  of such a cell: new tokens a request less old ones (caching and tool calls are tokens here), at the old
            price. Of a model or tier that only the new report has: its tokens a request less those of the requests that
            went away, at its own price
    model   the rest: requests that are answered by another model, in another tier, or priced as long ones

A group that only one report has is volume. Each effect is rounded to the pico-dollar so that their sum stays exact (the
largest remainders are rounded up), and the effects of groups add up to those of the whole.

Law  the four effects add up to the change, whatever the reports are (tests/gate/test_change.py)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

from ..money import Usd
from .report import Cell, Group, Part, Report

_NOTHING = Part(0, 0)


class Effects(NamedTuple):
    """What of a change is due to what (pico-dollars)."""

    price: int
    tokens: int
    volume: int
    model: int

    @property
    def change(self) -> int:
        """All of it."""
        return sum(self)


class Difference(NamedTuple):
    """A group in two reports.

    mark           "+" new, "-" gone, "~" changed, "=" the same
    before, after  Group; None where the report does not have it
    effects        of the expected cost
    facts          what changed, in words
    """

    name: str
    mark: str
    before: Group | None
    after: Group | None
    effects: Effects
    facts: tuple[str, ...]


class Change(NamedTuple):
    """Two reports.

    groups       those whose cost changed most first, then by name
    total        Difference of the whole; its effects are the sums of the groups'
    new_prices   whether the price tables differ, or something costs otherwise
    """

    groups: tuple[Difference, ...]
    total: Difference
    new_prices: bool


def change_of(before: Report, after: Report) -> Change:
    """Compare two reports."""
    old, new = before.named(), after.named()
    groups = [_difference(name, old.get(name), new.get(name)) for name in sorted({*old, *new})]
    groups.sort(key=lambda one: (-abs(one.effects.change), one.name))
    whole = Effects(
        *(sum(column) for column in zip(*(one.effects for one in groups), strict=True)) if groups else (0,) * 4
    )
    mark = "~" if any(one.mark != "=" for one in groups) else "="
    total = Difference(after.total.name, mark, before.total, after.total, whole, ())
    moved = any(one.effects.price for one in groups)  # also by another day
    return Change(tuple(groups), total, moved or before.header.prices != after.header.prices)


def _difference(name: str, before: Group | None, after: Group | None) -> Difference:
    effects = effects_of(before.cells if before else (), after.cells if after else ())
    if before is None or after is None:
        return Difference(name, "-" if after is None else "+", before, after, effects, ())
    same = before._replace(kind=after.kind, why_unknown=after.why_unknown) == after
    return Difference(name, "=" if same else "~", before, after, effects, tuple(_facts(before, after)))


def effects_of(before: Sequence[Cell], after: Sequence[Cell]) -> Effects:
    """Split the difference of what cells cost."""
    old, new = {cell.key: cell for cell in before}, {cell.key: cell for cell in after}
    cost_0, cost_1 = sum(cell.pico for cell in before), sum(cell.pico for cell in after)
    count_0, count_1 = sum(cell.requests for cell in before), sum(cell.requests for cell in after)
    if not count_0 or not count_1:
        return Effects(0, 0, cost_1 - cost_0, 0)
    gone, came = [old[key] for key in old.keys() - new.keys()], [new[key] for key in new.keys() - old.keys()]
    volume = Fraction(0)
    if gone and not came:
        left, count_0 = sum(cell.pico for cell in gone), count_0 - sum(cell.requests for cell in gone)
        volume, cost_there = Fraction(-left), cost_0 - left
    elif came and not gone:
        volume, cost_there = Fraction(sum(cell.pico for cell in came)), cost_0
        count_1 -= sum(cell.requests for cell in came)
    else:
        cost_there = cost_0
    if count_0:
        volume += Fraction(cost_there * (count_1 - count_0), count_0)
    price = tokens = Fraction(0)
    for key in old.keys() & new.keys():
        scale = Fraction(new[key].requests, old[key].requests)
        for was, now in _pairs(old[key], new[key]):
            if was.quantity and now.quantity:
                rate = Fraction(was.pico, was.quantity)
                price += now.pico - rate * now.quantity
                tokens += rate * (now.quantity - was.quantity * scale)
            else:  # a kind of token that one of them has not has no second price
                tokens += now.pico - was.pico * scale
    went = sum(cell.requests for cell in gone)
    for cell in came if gone else ():
        for name, now in cell.parts.items():
            used = sum(one.parts.get(name, _NOTHING).quantity for one in gone)
            if used and now.quantity:
                rate = Fraction(now.pico, now.quantity)
                tokens += rate * (now.quantity - Fraction(used * cell.requests, went))
    rest = cost_1 - cost_0 - volume - price - tokens
    return Effects(*_rounded([price, tokens, volume, rest]))


def _pairs(old: Cell, new: Cell) -> Iterator[tuple[Part, Part]]:
    for name in {**old.parts, **new.parts}:
        yield old.parts.get(name, _NOTHING), new.parts.get(name, _NOTHING)


def _rounded(parts: Sequence[Fraction]) -> list[int]:
    """Round numbers whose sum is whole so that it stays."""
    whole = [math.floor(part) for part in parts]
    rest = [part - floor for part, floor in zip(parts, whole, strict=True)]
    missing = sum(rest)
    assert missing.denominator == 1
    for place in sorted(range(len(parts)), key=lambda place: (-rest[place], place))[: int(missing)]:
        whole[place] += 1
    return whole


def _facts(before: Group, after: Group) -> Iterator[str]:
    """Say what changed: models, volume, tokens, prices."""
    old, new = {cell.key: cell for cell in before.cells}, {cell.key: cell for cell in after.cells}
    gone, came = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    if gone and came:
        yield f"{_names(gone, came)} → {_names(came, gone)}"
    elif came:
        yield f"also {_names(came, ())}"
    elif gone:
        yield f"no longer {_names(gone, ())}"
    if before.requests != after.requests:
        yield f"requests {before.requests:,} → {after.requests:,}"
    for key in sorted(old.keys() & new.keys()) if len(old.keys() | new.keys()) > 1 else ():
        if old[key].requests != new[key].requests:
            yield f"{_name(key, tier=True)} {old[key].requests:,} → {new[key].requests:,} requests"
    if before.requests and after.requests:
        was, now = _each(before.input, before.requests), _each(after.input, after.requests)
        if was != now:
            yield f"input {was:,} → {now:,} tokens a request"
        was, now = _each(before.output.expected, before.requests), _each(after.output.expected, after.requests)
        if was != now:
            yield f"output {was:,} → {now:,} tokens a request"
    for key in sorted(old.keys() & new.keys()):
        for name in sorted(old[key].parts.keys() & new[key].parts.keys()):
            first, second = old[key].parts[name], new[key].parts[name]
            if first.quantity and second.quantity and first.pico * second.quantity != second.pico * first.quantity:
                yield f"{name.replace('_', ' ')} of {_name(key)} {_rates(name, first, second)}"
    if before.without_price != after.without_price:
        yield f"without a price {before.without_price:,} → {after.without_price:,}"


def _each(number: int, requests: int) -> int:
    return round(Fraction(number, requests))


def _names(keys: Sequence[tuple[str, str, bool]], others: Sequence[tuple[str, str, bool]]) -> str:
    """Name models; with the tier where it is not the usual one, or the only thing that differs."""
    same = {key[0] for key in keys} & {key[0] for key in others}
    return ", ".join(_name(key, tier=key[0] in same) for key in keys)


def _name(key: tuple[str, str, bool], *, tier: bool = False) -> str:
    model, service_tier, long = key
    words = [
        word for word in (service_tier if tier or service_tier != "standard" else "", "long" if long else "") if word
    ]
    return f"{model} ({', '.join(words)})" if words else model


def _rates(name: str, first: Part, second: Part) -> str:
    """What a part costs in both: per million tokens, or per thousand calls."""
    per, what = (1_000, "a thousand") if name.endswith("calls") else (1_000_000, "a million")
    was, now = (Usd(round(Fraction(part.pico * per, part.quantity))).format() for part in (first, second))
    return f"{was} → {now} {what}"
