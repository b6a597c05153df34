"""Dated prices: which row prices a call is a question of model, tier and day; its answer is a row with a source.

A table may be overlaid with files of negotiated prices and discounts. Service tiers, kinds of tokens and fees are what
the tables say they are: a new one is a line there, not code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import lru_cache
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from .cards import CardTable, Source, load_cards
from .errors import ConfigError
from .resources import data_path

PICO_PER_USD_PER_MTOK = 10**6
"""A dollar per million tokens is a million pico-dollars per token."""

ANY_OTHER = "standard"
"""The tier of a reply that names none."""


class _Common(NamedTuple):
    input: int | None
    cached_input: int | None
    cache_write: int | None
    output: int | None
    reasoning: int | None


@dataclass(frozen=True, slots=True, eq=False)
class PriceRow:
    """One row: the prices of a model in a service tier from one day to another.

    id               "o3-pro/standard/2025-06-10"; of an overlay's row, with its file: "acme.yaml:o3-pro/…"
    effective_until  the last day it holds; None while it is in force
    pico_per_token   kind of token → pico-dollars; a kind without a published price is absent
    cached_as_input  True when the table states that cached tokens are billed at the full input price
    file             the name of the file that states it
    per_unit         what is no token ("audio_us", "images") → pico-dollars for so many of it
    above            input tokens above which the whole request is priced by `long`; None where no such rule is known
    long             the row above that; None where the rule is known and its prices are not
    billed_as        kind of token → the kind whose price it has where the row has none of its own
    common           pico-dollars per token of the five fields of a Usage; None where there is no price
    dearest          the same of the dearest kind of input (but of caches kept longer than a request asks for unasked),
                     and of output
    """

    id: str
    model: str
    service_tier: str
    effective_from: date
    effective_until: date | None
    pico_per_token: Mapping[str, int]
    cached_as_input: bool
    source: Source
    file: str = ""
    per_unit: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    above: int | None = None
    long: PriceRow | None = None
    billed_as: Mapping[str, str] = field(default_factory=dict)
    common: _Common = field(init=False)
    dearest: tuple[int | None, int | None] = field(init=False)

    def __post_init__(self) -> None:
        """Look up beforehand what every cost asks."""
        rates = self.pico_per_token

        def rate(kind: str) -> int | None:
            return rates.get(kind, rates.get(self.billed_as.get(kind, "")))

        cached = rates.get("input") if self.cached_as_input else rate("cached_input")
        common = _Common(rate("input"), cached, rate("cache_write"), rate("output"), rate("reasoning"))
        written = {kind: pico for kind, pico in rates.items() if kind.startswith("output") or kind == "reasoning"}
        read = (pico for kind, pico in rates.items() if kind not in written and not kind.startswith("cache_write_"))
        object.__setattr__(self, "common", common)
        object.__setattr__(self, "dearest", (max(read, default=None), max(written.values(), default=None)))

    def at_length(self, input_tokens: int) -> PriceRow | None:
        """The row for a request of so many input tokens; None where the table has no price for its length."""
        return self if self.above is None or input_tokens <= self.above else self.long


class Fee(NamedTuple):
    """What a call of a tool costs, or a session, or storage, whatever the model; dated like a row.

    kind       as a Usage counts it: "web_search_calls" …
    pico, per  pico-dollars for so many of it
    models     the models it is for; None for all
    """

    id: str
    file: str
    kind: str
    effective_from: date
    effective_until: date | None
    pico: int
    per: int
    models: frozenset[str] | None
    source: Source

    def holds(self, at: date) -> bool:
        return self.effective_from <= at and (self.effective_until is None or at <= self.effective_until)

    def is_for(self, model: str) -> bool:
        return self.models is None or model in self.models


class Adjustment(NamedTuple):
    """A discount (or surcharge) on the token prices of the tables below.

    basis_points   -1500 takes 15 % off
    models, tiers  what it is for; None for all
    """

    file: str
    basis_points: int
    models: frozenset[str] | None
    tiers: frozenset[str] | None
    effective_from: date
    effective_until: date | None

    def applies(self, row: PriceRow, at: date) -> bool:
        if at < self.effective_from or (self.effective_until is not None and at > self.effective_until):
            return False
        return (self.models is None or row.model in self.models) and (
            self.tiers is None or row.service_tier in self.tiers
        )


class Uplift(NamedTuple):
    """What processing in a chosen region adds to token prices.

    models        the models that it is added for
    older_than    models released before this day have none; of others nobody knows
    hosts         hosts that process in a region → its name
    """

    basis_points: int
    models: frozenset[str]
    older_than: date
    hosts: Mapping[str, str] = MappingProxyType({})


class Layer(NamedTuple):
    """What one file states."""

    file: str
    rows: Mapping[tuple[str, str], list[PriceRow]]
    fees: tuple[Fee, ...]
    adjustments: tuple[Adjustment, ...]
    uplift: Uplift | None
    tier_of: Mapping[str, str]
    billed_as: Mapping[str, str]
    kinds: tuple[str, ...]


def priced_models(layers: Iterable[Layer]) -> set[str]:
    """The models that some file has rows for, as rows name them."""
    return {model for layer in layers for model, _ in layer.rows}


class PriceTable:
    """All rows of a table and of what overlays it. `version` names the content, so that a ledger can say what priced.

    tier_of    service tier as requests and replies name it → as rows do
    kinds      the kinds of tokens that rows may price
    billed_as  kind of token → the kind whose price it has where it has none of its own
    """

    def __init__(self, layers: Iterable[Layer], version: str, cards: CardTable) -> None:
        self.version = version
        self.layers = tuple(layers)
        self._cards = cards
        self.tier_of: dict[str, str] = {}
        self.billed_as: dict[str, str] = {}
        self.kinds = tuple(dict.fromkeys(kind for layer in self.layers for kind in layer.kinds))
        self._regions: dict[str, str] = {}
        for layer in self.layers:
            self.tier_of |= layer.tier_of
            self.billed_as |= layer.billed_as
            if layer.uplift is not None:
                self._regions |= layer.uplift.hosts
        self._priced = priced_models(self.layers)
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

    def tier(self, service_tier: str | None) -> str:
        """The tier as rows name it: "default" → "standard", "fast" → "priority"; an unknown name as it is."""
        return self.tier_of.get(service_tier, service_tier) if service_tier else ANY_OTHER

    def rows(self, model: str) -> list[PriceRow]:
        """List every row of a model, history included, by tier and date; those of overlays come last."""
        name = self._name(model)
        return [row for layer in self.layers for (of, _), rows in layer.rows.items() if of == name for row in rows]

    def tiers(self, model: str) -> list[str]:
        """List the service tiers a model has prices in."""
        return list(dict.fromkeys(row.service_tier for row in self.rows(model)))

    def fee(self, kind: str, model: str, at: date) -> Fee | None:
        """Find what a call of a tool costs on a day, or a session, or storage; None when no fee is known."""
        name = self._name(model)
        for layer in reversed(self.layers):
            for fee in reversed(layer.fees):
                if fee.kind == kind and fee.holds(at) and fee.is_for(name):
                    return fee
        return None

    def fees(self, model: str, at: date) -> list[Fee]:
        """List what tools and storage cost with a model on a day."""
        kinds = dict.fromkeys(fee.kind for layer in self.layers for fee in layer.fees)
        found = (self.fee(kind, model, at) for kind in kinds)
        return [fee for fee in found if fee is not None]

    def check_region(self, region: str) -> None:
        """Raise ConfigError for a region that no host of the API processes in."""
        known = sorted(set(self._regions.values()))
        if region not in known:
            raise ConfigError(f"unknown region {region!r}; known: {', '.join(known)}")

    def uplift(self, model: str) -> int | None:
        """Basis points that regional processing adds to the token prices of a model; None when nobody knows."""
        card, name = self._cards.named(model), self._name(model)
        for layer in reversed(self.layers):
            if layer.uplift is None:
                continue
            if name in layer.uplift.models:
                return layer.uplift.basis_points
            if card is not None:
                # What had a price on a day was released by then, whether or not a source tells when.
                known = card.released or min((row.effective_from for row in self.rows(model)), default=None)
                return 0 if known is not None and known < layer.uplift.older_than else None
        return None

    def without_card(self) -> list[str]:
        """List the models that overlays price and no card names: a name that was mistyped is among them."""
        return sorted(model for model in self._priced if self._cards.named(model) is None)

    def has_price(self, model: str, at: date) -> bool:
        """Whether some service tier of a model has a price on a day."""
        return any(self.lookup(model, tier, at) is not None for tier in self.tiers(model))

    def region_of(self, host: str) -> str | None:
        """Name the region that a host of the API processes in; None for the hosts that choose none."""
        return self._regions.get(host)

    def _name(self, model: str) -> str:
        """The model as rows name it: by its card; without one by itself, or as any fine-tune of its base."""
        card = self._cards.named(model)
        if card is not None:
            return card.model
        if model not in self._priced and (base := self._cards.resolve(model)) is not None:
            return f"ft:{base.model}"
        return model

    def _search(self, model: str, service_tier: str | None, at: date) -> PriceRow | None:
        key = (self._name(model), self.tier(service_tier))
        above: list[Layer] = []
        for layer in reversed(self.layers):
            for row in reversed(layer.rows.get(key, [])):
                if row.effective_from <= at and (row.effective_until is None or at <= row.effective_until):
                    for other in reversed(above):
                        row = _adjusted(row, other, at)
                    return row
            above.append(layer)
        return None


def load_prices(
    path: str | PathLike[str] | None = None,
    *,
    overlay: str | PathLike[str] | Iterable[str | PathLike[str]] | None = None,
) -> PriceTable:
    """Load the shipped prices (once), or another table, under overlays of negotiated prices and discounts.

    path     a complete table instead of the shipped one
    overlay  a file, or several: each goes before those it overlays, on its days

    Raises  TableError with file, line and key when a table is wrong
    """
    table = _shipped() if path is None else _load(path)
    files = [overlay] if isinstance(overlay, str | PathLike) else list(overlay or ())
    return _overlaid(table, files) if files else table


@lru_cache(maxsize=1)
def _shipped() -> PriceTable:
    return _load(data_path("prices.yaml"))


def _load(path: str | PathLike[str]) -> PriceTable:
    from ._price_rows import read_layer

    cards = load_cards()
    layer = read_layer(path, cards, (), overlay=False)
    return PriceTable([layer], hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12], cards)


def _overlaid(table: PriceTable, files: list[str | PathLike[str]]) -> PriceTable:
    from ._price_rows import read_layer

    layers, digest = list(table.layers), hashlib.sha256(table.version.encode())
    for file in files:
        layers.append(read_layer(file, load_cards(), tuple(layers), overlay=True))
        digest.update(Path(file).read_bytes())
    return PriceTable(layers, digest.hexdigest()[:12], load_cards())


def _adjusted(row: PriceRow, layer: Layer, at: date) -> PriceRow:
    """The row as a layer above it discounts it; the last of its adjustments that applies does."""
    for change in reversed(layer.adjustments):
        if change.applies(row, at):
            return _changed(row, change)
    return row


def _changed(row: PriceRow, change: Adjustment) -> PriceRow:
    whole, part = divmod(abs(change.basis_points), 100)
    sign = "-" if change.basis_points < 0 else "+"
    factor = 10_000 + change.basis_points

    def times(pico: int) -> int:
        return -(-pico * factor // 10_000)  # no discount is larger than agreed: a fraction of a pico-dollar counts

    return replace(
        row,
        id=f"{row.id} {sign}{whole}{f'.{part:02d}' if part else ''} % by {change.file}",
        pico_per_token=MappingProxyType({kind: times(pico) for kind, pico in row.pico_per_token.items()}),
        long=None if row.long is None else _changed(row.long, change),
    )
