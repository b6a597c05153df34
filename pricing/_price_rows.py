"""Reading prices.yaml and its overlays: from YAML nodes to rows, fees, adjustments and the words of a table."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from os import PathLike
from pathlib import Path
from types import MappingProxyType

from ._yaml import Node, read_table
from .cards import CardTable, Source, read_model, read_source, read_sources, read_version
from .prices import PICO_PER_USD_PER_MTOK, Adjustment, Fee, Layer, PriceRow, Uplift, load_prices, priced_models

_PERCENT = re.compile(r"[+-](0|[1-9][0-9]{0,3})(\.[0-9]{1,2})?")
MOST_POINTS = 100_000
"""Basis points of the largest surcharge that is believed: ten times the price on top of it."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
_WORDS = ("service_tiers", "token_kinds", "billed_as")
_PARTS = ("rows", "fees", "adjustments", "regional_uplift")
_GIB = 2**30
_UNITS = {"usd_per_minute": 60_000_000, "usd_per_1k": 1_000, "usd_per_gib_day": _GIB}
"""Keys of prices of what is no token → of how many units each is the price: µs, calls or images, bytes × days."""
_PICO_PER_USD = 10**12


class _Words:
    """The service tiers and kinds of tokens of a table: its own, or those of the tables it stands on."""

    def __init__(self, root: Mapping[str, Node], below: tuple[Layer, ...], shipped: bool) -> None:
        self.tier_of: dict[str, str] = {}
        self.billed_as: dict[str, str] = {}
        self.kinds: tuple[str, ...] = ()
        for layer in () if shipped else below or load_prices().layers:
            self.tier_of |= layer.tier_of
            self.billed_as |= layer.billed_as
            self.kinds += layer.kinds
        if "token_kinds" in root:
            for node in root["token_kinds"].items():
                self.kinds += (_name(node),)
        if "service_tiers" in root:
            for tier, names in root["service_tiers"].entries().items():
                self.tier_of[_word(tier, names)] = tier
                self.tier_of |= dict.fromkeys(names.texts(), tier)
        if "billed_as" in root:
            for kind, other in root["billed_as"].mapping(optional=self.kinds).items():
                self.billed_as[kind] = other.text(self.kinds)

    @property
    def tiers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.tier_of.values()))


def read_layer(path: str | PathLike[str], cards: CardTable, below: tuple[Layer, ...], *, overlay: bool) -> Layer:
    """Read one file: a whole table, or what overlays those below. Raises TableError when it is wrong."""
    from .resources import data_path

    required = ("version", "currency", "sources") if overlay else ("version", "currency", "sources", "rows")
    tree = read_table(path)
    root = tree.mapping(required=required, optional=(*_WORDS, *_PARTS))
    read_version(root["version"])
    root["currency"].text(("USD",))
    if not any(part in root for part in _PARTS):
        tree.fail(f"expected at least one of {', '.join(_PARTS)}")
    file = Path(path).name
    words = _Words(root, below, shipped=Path(path) == data_path("prices.yaml"))
    prefix = file + ":" if overlay else ""
    reader = _Reader(file, prefix, read_sources(root["sources"]), cards, words, priced_models(below))
    return Layer(
        file,
        reader.rows(root["rows"]) if "rows" in root else {},
        reader.fees(root["fees"]) if "fees" in root else (),
        tuple(reader.adjustment(node) for node in root["adjustments"].items()) if "adjustments" in root else (),
        reader.uplift(root["regional_uplift"]) if "regional_uplift" in root else None,
        words.tier_of,
        words.billed_as,
        words.kinds,
    )


class _Reader:
    """Reads the parts of one file.

    priced  models that have rows so far: in the files below, and in this one as they are read
    """

    def __init__(
        self,
        file: str,
        prefix: str,
        sources: Mapping[str, Source],
        cards: CardTable,
        words: _Words,
        priced: set[str],
    ) -> None:
        self.file, self.prefix, self.sources, self.cards, self.words = file, prefix, sources, cards, words
        self.priced = priced

    def rows(self, node: Node) -> dict[tuple[str, str], list[PriceRow]]:
        """Read the rows by model and tier, each from old to new; a row without an end ends where the next begins."""
        found: dict[tuple[str, str], list[PriceRow]] = {}
        for item in node.items():
            row = self._row(item)
            line = found.setdefault((row.model, row.service_tier), [])
            if line:
                before = line[-1]
                if row.effective_from <= before.effective_from:
                    item.fail(
                        f"rows of one model and tier go from old to new: {row.effective_from} follows {before.id}"
                    )
                if before.effective_until is None:
                    until = row.effective_from - timedelta(days=1)
                    long = before.long and replace(before.long, effective_until=until)
                    line[-1] = replace(before, effective_until=until, long=long)
                elif before.effective_until >= row.effective_from:
                    item.fail(f"overlaps {before.id}, which holds until {before.effective_until}")
            line.append(row)
        return found

    def _row(self, node: Node) -> PriceRow:
        prices = ("usd_per_mtok", "usd_per_minute", "usd_per_1k")
        fields = node.mapping(
            required=("model", "service_tier", "effective_from", "source"),
            optional=("effective_until", *prices, "long_context"),
        )
        model = fields["model"].text()
        if not self.prefix or self.cards.named(model) is not None:  # an overlay may price what no card names
            model = read_model(fields["model"], self.cards)
        self.priced.add(model)
        tier = fields["service_tier"].text(self.words.tiers)
        days = _days(fields)
        if not any(key in fields for key in prices):
            node.fail("missing key 'usd_per_mtok'; or usd_per_minute, or usd_per_1k")
        pico: Mapping[str, int] = MappingProxyType({})
        as_input = False
        if "usd_per_mtok" in fields:
            pico, as_input = self._tokens(fields["usd_per_mtok"])
        per_unit: dict[str, tuple[int, int]] = {}
        if "usd_per_minute" in fields:
            per_unit["audio_us"] = _per(fields["usd_per_minute"], "usd_per_minute")
        if "usd_per_1k" in fields:
            for kind, price in fields["usd_per_1k"].entries().items():
                per_unit[_word(kind, price)] = _per(price, "usd_per_1k")
        name = f"{self.prefix}{model}/{tier}/{days[0]}"
        source = read_source(fields["source"], self.sources)
        words = self.words.billed_as
        above = long = None
        if "long_context" in fields:
            rule = fields["long_context"].mapping(required=("above",), optional=("usd_per_mtok", "source"))
            above = rule["above"].integer(1)
            if "usd_per_mtok" in rule:
                more, full = self._tokens(rule["usd_per_mtok"])
                told = read_source(rule["source"], self.sources) if "source" in rule else source
                long = PriceRow(
                    f"{name}>{above}", model, tier, *days, more, full, told, file=self.file, billed_as=words
                )
        return PriceRow(
            name, model, tier, *days, pico, as_input, source,
            file=self.file, per_unit=per_unit, above=above, long=long, billed_as=words,
        )  # fmt: skip

    def _tokens(self, node: Node) -> tuple[Mapping[str, int], bool]:
        pico: dict[str, int] = {}
        as_input = False
        for kind, price in node.mapping(required=("input",), optional=self.words.kinds).items():
            if kind == "cached_input" and price._value == "input":
                as_input = True
            else:
                pico[kind] = int(price.decimal() * PICO_PER_USD_PER_MTOK)
        return MappingProxyType(pico), as_input

    def fees(self, node: Node) -> tuple[Fee, ...]:
        found: list[Fee] = []
        for item in node.items():
            fields = item.mapping(
                required=("fee", "effective_from", "source"),
                optional=("effective_until", *_UNITS, "models"),
            )
            kind = _name(fields["fee"])
            units = [key for key in _UNITS if key in fields]
            if len(units) != 1:
                item.fail(f"expected one of {', '.join(_UNITS)}")
            pico, per = _per(fields[units[0]], units[0])
            start, until = _days(fields)
            fee = Fee(
                f"{self.prefix}{kind}/{start}", self.file, kind, start, until, pico, per,
                self._models(fields.get("models")),
                read_source(fields["source"], self.sources),
            )  # fmt: skip
            for number, other in enumerate(found):
                if (other.kind, other.models) == (kind, fee.models):
                    if start <= other.effective_from:
                        item.fail(f"fees of one kind go from old to new: {start} follows {other.id}")
                    if other.effective_until is None or other.effective_until >= start:
                        found[number] = other._replace(effective_until=start - timedelta(days=1))
            found.append(fee)
        return tuple(found)

    def adjustment(self, node: Node) -> Adjustment:
        fields = node.mapping(
            required=("percent", "effective_from", "source"),
            optional=("effective_until", "models", "service_tiers"),
        )
        points = _basis_points(fields["percent"])
        tiers = None
        if "service_tiers" in fields:
            tiers = frozenset(item.text(self.words.tiers) for item in fields["service_tiers"].items())
        read_source(fields["source"], self.sources)
        return Adjustment(self.file, points, self._models(fields.get("models")), tiers, *_days(fields))

    def uplift(self, node: Node) -> Uplift:
        fields = node.mapping(required=("percent", "models", "not_before", "source"), optional=("hosts",))
        read_source(fields["source"], self.sources)
        models = self._models(fields["models"])
        hosts = {host: region.text() for host, region in fields["hosts"].entries().items()} if "hosts" in fields else {}
        return Uplift(_basis_points(fields["percent"]), models or frozenset(), fields["not_before"].date(), hosts)

    def _models(self, node: Node | None) -> frozenset[str] | None:
        if node is None:
            return None
        return frozenset(
            item.text() if item.text() in self.priced else read_model(item, self.cards) for item in node.items()
        )


def _days(fields: Mapping[str, Node]) -> tuple[date, date | None]:
    start = fields["effective_from"].date()
    until = fields["effective_until"].date() if "effective_until" in fields else None
    if until is not None and until < start:
        fields["effective_until"].fail(f"expected a day from {start} on, found {until}")
    return start, until


def _per(node: Node, key: str) -> tuple[int, int]:
    pico, per = int(node.decimal() * _PICO_PER_USD), _UNITS[key]
    common = math.gcd(pico, per)
    return pico // common, per // common


def _basis_points(node: Node) -> int:
    text = node.text()
    if not _PERCENT.fullmatch(text):
        node.fail(f'expected a percentage with its sign, such as "-15" or "+2.5", found {text[:40]!r}')
    whole, _, part = text[1:].partition(".")
    points = int(whole) * 100 + int(part.ljust(2, "0") or 0)
    if text[0] == "-" and points >= 10_000:
        node.fail(f"{text} % takes off all that there is: what is free is a row with prices of 0")
    if points > MOST_POINTS:
        node.fail(f"{text} % is more than +1000 %: more than ten times the price is a typing error")
    return -points if text[0] == "-" else points


def _name(node: Node) -> str:
    return _word(node.text(), node)


def _word(name: str, node: Node) -> str:
    if not _NAME.fullmatch(name) or len(name) > 64:
        node.fail(f"expected a name of small letters, digits and _, found {name[:40]!r}")
    return name
