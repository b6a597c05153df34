"""The limits of the tier table, as they are read: tiers by scheme, and rows of limits by model, scheme and tier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from types import MappingProxyType
from typing import NamedTuple

from pricing._yaml import Node
from pricing.cards import CardTable, Source, read_model, read_source

from .limit import KNOWN, Limit, named

_ORDER = {name: place for place, name in enumerate(KNOWN)}

Rows = dict[tuple[str, str, str], "Row"]
"""What has been read so far, by model, name of the scheme, and tier."""


class Tier(NamedTuple):
    """How an account gets into a tier, and what it may spend there per month (US dollars)."""

    qualification: str
    usd_per_month: int


@dataclass(frozen=True, slots=True, eq=False)
class Scheme:
    """A set of tiers that was in force from one day to another (inclusive; None: open)."""

    name: str
    effective_from: date | None
    effective_until: date | None
    tiers: Mapping[str, Tier]
    source: Source


class Part(NamedTuple):
    """Limits that some requests of a model pass in the place of the model's own: a separate pool of the table.

    above               input tokens  requests of more than so many; None: not by length
    service_tier                      requests served in it, such as ultrafast; None: not by service tier
    batch_queue_tokens  input tokens  of such requests that may be enqueued in the Batch API; None when not published
    """

    above: int | None
    service_tier: str | None
    limits: tuple[Limit, ...]
    batch_queue_tokens: int | None
    source: Source


@dataclass(slots=True, eq=False)
class Row:
    """What the table says of a model in a tier of a scheme. offered: False where the tier does not have the model."""

    scheme: Scheme
    offered: bool = True
    limits: tuple[Limit, ...] = ()
    batch_queue_tokens: int | None = None
    parts: tuple[Part, ...] = ()
    sources: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()
    shares: str = ""


def read_schemes(node: Node, sources: Mapping[str, Source]) -> tuple[Scheme, ...]:
    """Read the dated schemes, from old to new."""
    schemes: list[Scheme] = []
    for item in node.items():
        fields = item.mapping(required=("name", "source", "tiers"), optional=("effective_from", "effective_until"))
        start = fields["effective_from"].date() if "effective_from" in fields else None
        until = fields["effective_until"].date() if "effective_until" in fields else None
        name = fields["name"].text()
        if any(scheme.name == name for scheme in schemes):
            fields["name"].fail(f"duplicate scheme {name!r}")
        if start is not None and until is not None and until < start:
            fields["effective_until"].fail(f"expected a day from {start} on, found {until}")
        if schemes:
            before = schemes[-1].effective_until
            if before is None or start is None or start <= before:
                item.fail(f"schemes go from old to new: expected effective_from after {before}, found {start}")
        tiers = {}
        for tier, row in fields["tiers"].entries().items():
            facts = row.mapping(required=("qualification", "usd_per_month"))
            tiers[tier] = Tier(facts["qualification"].text(), facts["usd_per_month"].integer())
        schemes.append(Scheme(name, start, until, MappingProxyType(tiers), read_source(fields["source"], sources)))
    if not schemes:
        node.fail("expected at least one scheme")
    return tuple(schemes)


def read_limits(
    node: Node,
    sources: Mapping[str, Source],
    schemes: tuple[Scheme, ...],
    cards: CardTable,
    rows: Rows,
) -> None:
    """Read one entry of `limits` into `rows`."""
    fields = node.mapping(required=("model", "scheme", "source"), optional=("note", "tiers", "shares", "pools"))
    model = read_model(fields["model"], cards)
    names = [scheme.name for scheme in schemes]
    scheme = schemes[names.index(fields["scheme"].text(names))]
    source = read_source(fields["source"], sources)
    notes = (fields["note"].text(),) if "note" in fields else ()
    if "shares" in fields:
        if "tiers" in fields or "pools" in fields:
            fields["shares"].fail("shares stands in the place of tiers and pools: the other model's limits hold")
        _share(fields["shares"], model, scheme, source, notes, cards, rows)
        return
    if "tiers" not in fields:
        node.fail("missing key 'tiers'")
    for tier, (node_, facts) in _by_tier(fields["tiers"], scheme, schemes).items():
        row = rows.setdefault((model, scheme.name, tier), Row(scheme))
        if row.shares or not row.offered:
            node_.fail(f"{model} has limits in {tier} already")
        if "supported" in facts:
            if facts["supported"].boolean() or len(facts) > 1:
                node_.fail("supported: false stands alone; a supported model has limits instead")
            if row.limits:
                node_.fail(f"{model} has limits in {tier} already")
            row.offered = False
        else:
            limits, queue = _numbers(node_, facts)
            for limit in limits:
                if limit.name in (known.name for known in row.limits):
                    node_.fail(f"{model} has limits in {tier} already: {limit.name}")
            row.limits = tuple(sorted((*row.limits, *limits), key=lambda limit: _ORDER[limit.name]))
            row.batch_queue_tokens = row.batch_queue_tokens if queue is None else queue
        row.sources, row.notes = (*row.sources, source), (*row.notes, *notes)
    for part in fields["pools"].items() if "pools" in fields else ():
        _pool(part, model, source, scheme, schemes, rows)


def _by_tier(node: Node, scheme: Scheme, schemes: tuple[Scheme, ...]) -> dict[str, tuple[Node, dict[str, Node]]]:
    found = {}
    for tier, row in node.entries().items():
        if tier not in scheme.tiers:
            other = next((f"; {tier} is in {each.name}" for each in schemes if tier in each.tiers), "")
            known = ", ".join(scheme.tiers)
            row.fail(f"unknown tier {tier!r} in scheme {scheme.name}; its tiers are {known}{other}")
        found[tier] = row, row.mapping(optional=("supported", "batch_queue_tokens", *KNOWN))
    return found


def _numbers(node: Node, facts: Mapping[str, Node]) -> tuple[tuple[Limit, ...], int | None]:
    limits = tuple(named(name, facts[name].integer(1)) for name in KNOWN if name in facts)
    if not limits:
        node.fail(f"expected at least one of {', '.join(KNOWN)}")
    return limits, facts["batch_queue_tokens"].integer(1) if "batch_queue_tokens" in facts else None


def _pool(
    node: Node,
    model: str,
    source: Source,
    scheme: Scheme,
    schemes: tuple[Scheme, ...],
    rows: Rows,
) -> None:
    """Read a separate pool: the limits of requests above so many input tokens, or of a service tier."""
    fields = node.mapping(required=("tiers",), optional=("above", "service_tier", "note"))
    if ("above" in fields) is ("service_tier" in fields):
        node.fail("expected above or service_tier, one of them")
    above = fields["above"].integer(1) if "above" in fields else None
    service_tier = fields["service_tier"].text() if "service_tier" in fields else None
    notes = (fields["note"].text(),) if "note" in fields else ()
    for tier, (at, facts) in _by_tier(fields["tiers"], scheme, schemes).items():
        row = rows.get((model, scheme.name, tier))
        if row is None or not row.offered:
            at.fail(f"{model} has no limits in {tier} that a pool could stand beside")
        if any((part.above, part.service_tier) == (above, service_tier) for part in row.parts):
            at.fail(f"{model} has such a pool in {tier} already")
        if "supported" in facts:
            facts["supported"].fail("a pool has limits; leave out the tier where it has none")
        row.parts += (Part(above, service_tier, *_numbers(at, facts), source),)
        row.notes += notes


def _share(
    node: Node,
    model: str,
    scheme: Scheme,
    source: Source,
    notes: tuple[str, ...],
    cards: CardTable,
    rows: Rows,
) -> None:
    """Read that a model is counted together with another one, whose limits stand before."""
    other = read_model(node, cards)
    theirs = {tier: row for (of, name, tier), row in rows.items() if (of, name) == (other, scheme.name)}
    if not theirs or any(row.shares for row in theirs.values()):
        node.fail(f"{other} has no limits of its own before this line in scheme {scheme.name}")
    for tier, row in theirs.items():
        if (model, scheme.name, tier) in rows:
            node.fail(f"{model} has limits in {tier} already")
        rows[model, scheme.name, tier] = replace(row, sources=(*row.sources, source), notes=notes, shares=other)
