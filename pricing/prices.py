"""Dated prices: which row prices a call is a question of model, tier and day; its answer is a row with a source."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from os import PathLike
from pathlib import Path
from types import MappingProxyType

from ._yaml import Node, read_table
from .cards import CardTable, Source, load_cards, read_model, read_source, read_sources, read_version
from .resources import data_path

KINDS = ("input", "cached_input", "output")
SERVICE_TIERS = ("standard", "batch", "flex", "priority")
PICO_PER_USD_PER_MTOK = 10**6
"""A dollar per million tokens is a million pico-dollars per token."""

_SAME_PRICE = {"default": "standard", "auto": "standard", "": "standard", "fast": "priority"}
"""Service tiers as requests and replies name them → the price key. Fast is Priority, renamed on 2026-07-30."""


@dataclass(frozen=True, slots=True, eq=False)
class PriceRow:
    """One row: the prices of a model in a service tier from one day to another.

    id               "o3-pro/standard/2025-06-10"
    effective_until  the last day it holds; None while it is in force
    pico_per_token   kind of token → pico-dollars; a kind without a published price is absent
    cached_as_input  True when the table states that cached tokens are billed at the full input price
    """

    id: str
    model: str
    service_tier: str
    effective_from: date
    effective_until: date | None
    pico_per_token: Mapping[str, int]
    cached_as_input: bool
    source: Source


class PriceTable:
    """All rows of one table. `version` names its content, so that a ledger can say which prices were used."""

    def __init__(self, rows: tuple[PriceRow, ...], version: str, cards: CardTable) -> None:
        self.version = version
        self._cards = cards
        self._rows: dict[tuple[str, str], list[PriceRow]] = {}
        for row in rows:
            self._rows.setdefault((row.model, row.service_tier), []).append(row)
        self._found: dict[tuple[str, str | None, date], PriceRow | None] = {}

    def lookup(self, model: str, service_tier: str | None = None, at: date | None = None) -> PriceRow | None:
        """Find the row that prices a call; None when no row does.

        model         model, alias or snapshot
        service_tier  as the reply names it; None, "default" and "auto" are standard
        at            the day of the call (a datetime counts as its day); today unless told
        """
        if at is None:
            at = date.today()
        elif isinstance(at, datetime):
            at = at.date()
        key = (model, service_tier, at)
        try:
            return self._found[key]
        except KeyError:
            if len(self._found) > 4096:
                self._found.clear()
            row = self._found[key] = self._search(*key)
            return row

    def rows(self, model: str) -> list[PriceRow]:
        """List every row of a model, history included, by tier and date."""
        card = self._cards.named(model)
        name = card.model if card else model
        return [row for (of, _), rows in self._rows.items() if of == name for row in rows]

    def tiers(self, model: str) -> list[str]:
        """List the service tiers a model has prices in."""
        return list(dict.fromkeys(row.service_tier for row in self.rows(model)))

    def _search(self, model: str, service_tier: str | None, at: date) -> PriceRow | None:
        card = self._cards.named(model)
        if card is None:
            return None
        tier = _SAME_PRICE.get(service_tier or "", service_tier or "")
        for row in reversed(self._rows.get((card.model, tier), [])):
            if row.effective_from <= at and (row.effective_until is None or at <= row.effective_until):
                return row
        return None


def load_prices(path: str | PathLike[str] | None = None) -> PriceTable:
    """Load the shipped prices (once), or another table.

    Raises  TableError with file, line and key when the table is wrong
    """
    return _shipped() if path is None else _load(path)


@lru_cache(maxsize=1)
def _shipped() -> PriceTable:
    return _load(data_path("prices.yaml"))


def _load(path: str | PathLike[str]) -> PriceTable:
    root = read_table(path).mapping(required=("version", "currency", "sources", "rows"))
    read_version(root["version"])
    root["currency"].text(("USD",))
    sources = read_sources(root["sources"])
    cards = load_cards()
    latest: dict[tuple[str, str], PriceRow] = {}
    rows: list[PriceRow] = []
    for node in root["rows"].items():
        row = _row(node, sources, cards)
        key = (row.model, row.service_tier)
        before = latest.get(key)
        if before is not None:
            if row.effective_from <= before.effective_from:
                node.fail(f"rows of one model and tier go from old to new: {row.effective_from} follows {before.id}")
            if before.effective_until is None:
                # The row before ends the day before this one begins.
                closed = _closed(before, row.effective_from - timedelta(days=1))
                rows[rows.index(before)] = closed
            elif before.effective_until >= row.effective_from:
                node.fail(f"overlaps {before.id}, which holds until {before.effective_until}")
        latest[key] = row
        rows.append(row)
    version = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]
    return PriceTable(tuple(rows), version, cards)


def _closed(row: PriceRow, until: date) -> PriceRow:
    return PriceRow(
        row.id,
        row.model,
        row.service_tier,
        row.effective_from,
        until,
        row.pico_per_token,
        row.cached_as_input,
        row.source,
    )


def _row(node: Node, sources: Mapping[str, Source], cards: CardTable) -> PriceRow:
    fields = node.mapping(
        required=("model", "service_tier", "effective_from", "usd_per_mtok", "source"), optional=("effective_until",)
    )
    model = read_model(fields["model"], cards)
    tier = fields["service_tier"].text(SERVICE_TIERS)
    start = fields["effective_from"].date()
    until = fields["effective_until"].date() if "effective_until" in fields else None
    if until is not None and until < start:
        fields["effective_until"].fail(f"expected a day from {start} on, found {until}")
    pico: dict[str, int] = {}
    cached_as_input = False
    for kind, price in fields["usd_per_mtok"].mapping(required=("input",), optional=KINDS).items():
        if kind == "cached_input" and price._value == "input":
            cached_as_input = True
            continue
        pico[kind] = int(price.decimal() * PICO_PER_USD_PER_MTOK)
    return PriceRow(
        f"{model}/{tier}/{start}",
        model,
        tier,
        start,
        until,
        MappingProxyType(pico),
        cached_as_input,
        read_source(fields["source"], sources),
    )
