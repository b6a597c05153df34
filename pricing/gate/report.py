"""A report: what jobs, traces, ledgers or tests come to, as a file that is compared with another one, offline.

The expected cost is a sum of cells (model, service tier, and whether requests are priced as long ones), of which each
keeps how much it has of what, and what that costs: so that the difference of two reports can be explained without
counting or pricing anything again.

Law  the same input gives the same bytes; what is read is what was written (tests/gate/test_report.py)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ..errors import ConfigError
from ..money import Usd

SCHEMA_VERSION = 1
KINDS = ("job", "suite", "trace", "ledger", "tests")
MAX_BYTES = 256 * 1024 * 1024
MOST_REASONS = 100
"""Reasons for having no price that are kept apart in a group."""
OTHER_REASONS = "other reasons"
TOTAL = "total"
"""The name of the whole, which is no group's."""


class Part(NamedTuple):
    """So many tokens (or calls) of a kind, and what they cost in pico-dollars."""

    quantity: int
    pico: int


class Cell(NamedTuple):
    """The requests of a model in a service tier that have a price.

    service_tier  "standard", "batch" …, as prices name it
    long          whether they are priced as long ones
    parts         "input", "cached_input", "output", "web_search_calls" … → Part
    read          when the prices were read at their source: a day, a month or a year; "" where that is not known
    """

    model: str
    service_tier: str
    long: bool
    requests: int
    parts: Mapping[str, Part]
    read: str = ""

    @property
    def key(self) -> tuple[str, str, bool]:
        return self.model, self.service_tier, self.long

    @property
    def pico(self) -> int:
        """What they cost."""
        return sum(part.pico for part in self.parts.values())


class Range(NamedTuple):
    """A number that is not known yet: expected, quantiles, and the largest possible."""

    expected: int
    p5: int
    p50: int
    p95: int
    worst: int

    @classmethod
    def known(cls, number: int) -> Range:
        """A number that is known."""
        return cls(*(number,) * 5)


class Span(NamedTuple):
    """A duration that is not known yet (µs)."""

    p5: int
    p50: int
    p95: int


class Group(NamedTuple):
    """A part of a report: a file, or what a ledger is split into.

    requests   all, with those that have no price
    unpriced   reason → requests without a price: they are in no cost
    bad        lines or rows that are no requests
    input      tokens of all requests, priced or not; output likewise
    cost       pico-dollars; `expected` is the sum of the cells. None where no request has a price
    duration   None where it is not known, and why_unknown says why
    cells      in the order of their keys; those of the whole are the groups'
    """

    name: str
    kind: str
    requests: int
    unpriced: Mapping[str, int]
    bad: int
    input: int
    output: Range
    cost: Range | None
    duration: Span | None
    why_unknown: str
    cells: tuple[Cell, ...]

    @property
    def without_price(self) -> int:
        """How many requests and lines are in no cost."""
        return sum(self.unpriced.values()) + self.bad

    @property
    def expected(self) -> int:
        """The expected cost (pico-dollars) of what has a price."""
        return 0 if self.cost is None else self.cost.expected


class Header(NamedTuple):
    """Where a report comes from.

    version         of ratecard
    at              the day whose prices apply, YYYY-MM-DD
    prices, tiers   digests of the tables
    account         whose limits the durations are of; "" for none
    settings        other settings that numbers depend on, such as region and seed
    """

    version: str
    at: str
    prices: str
    tiers: str
    account: str
    settings: Mapping[str, str]


class Report(NamedTuple):
    """What is known of costs, in parts and in all."""

    header: Header
    groups: tuple[Group, ...]
    total: Group

    def named(self) -> dict[str, Group]:
        """The groups by their names."""
        return {group.name: group for group in self.groups}


def cells_of(groups: Iterable[Group]) -> tuple[Cell, ...]:
    """The cells of groups together."""
    return summed(cell for group in groups for cell in group.cells)


def summed(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """Cells with those of one key added up, in the order of their keys."""
    found: dict[tuple[str, str, bool], Cell] = {}
    for cell in cells:
        there = found.get(cell.key)
        found[cell.key] = cell if there is None else _added(there, cell)
    return tuple(found[key] for key in sorted(found))


def unpriced_of(groups: Iterable[Group]) -> dict[str, int]:
    """How many requests of groups have no price, by reason; whoever sums the same groups finds the same.

    So many reasons are kept apart, in the order of the alphabet; they are a server's words, and may all differ.
    """
    found = Counter[str]()
    for group in groups:
        found.update(group.unpriced)
    kept = {reason: found[reason] for reason in sorted(found.keys() - {OTHER_REASONS})[:MOST_REASONS]}
    if others := found.total() - sum(kept.values()):
        kept[OTHER_REASONS] = others
    return kept


def _added(one: Cell, other: Cell) -> Cell:
    parts = dict(one.parts)
    for name, part in other.parts.items():
        before = parts.get(name, Part(0, 0))
        parts[name] = Part(before.quantity + part.quantity, before.pico + part.pico)
    read = min(filter(None, (one.read, other.read)), default="")
    return one._replace(requests=one.requests + other.requests, parts=parts, read=read)


def as_document(report: Report) -> dict[str, Any]:
    """The report as JSON has it: amounts are texts of dollars, durations are seconds."""
    return {
        "schema_version": SCHEMA_VERSION,
        "header": {**report.header._asdict(), "settings": dict(sorted(report.header.settings.items()))},
        "total": _group(report.total),
        "groups": [_group(group) for group in sorted(report.groups, key=lambda group: group.name)],
    }


def dumps(report: Report) -> str:
    """The report as the text of a file: the same report, the same bytes."""
    return json.dumps(as_document(report), indent=2, ensure_ascii=True, sort_keys=True) + "\n"


def _group(group: Group) -> dict[str, Any]:
    document = {
        "name": group.name,
        "kind": group.kind,
        "requests": group.requests,
        "unpriced": dict(sorted(group.unpriced.items())),
        "bad": group.bad,
        "tokens": {"input": group.input, "output": group.output._asdict()},
        "cost": None if group.cost is None else {name: _usd(pico) for name, pico in group.cost._asdict().items()},
        "duration": None if group.duration is None else {k: _seconds(us) for k, us in group.duration._asdict().items()},
        "why_unknown": group.why_unknown,
    }
    if group.name != TOTAL:
        document["cells"] = [_cell(cell) for cell in sorted(group.cells, key=lambda cell: cell.key)]
    return document


def _cell(cell: Cell) -> dict[str, Any]:
    parts = {name: {"quantity": part.quantity, "usd": _usd(part.pico)} for name, part in sorted(cell.parts.items())}
    return {**cell._asdict(), "parts": parts}


def _usd(pico: int) -> str:
    return str(Usd(pico))


def _seconds(us: int) -> str:
    return f"{us // 1_000_000}.{us % 1_000_000:06d}"


def load_report(path: str | PathLike[str]) -> Report:
    """Read a report from its file.

    Raises  ConfigError with the file, and the key where something is wrong
    """
    file = str(path)
    try:
        with Path(path).open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{file}: larger than {MAX_BYTES:,} bytes: this is no report")
    try:
        document = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: no JSON: {error}") from error
    return _Reader(file).report(document)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _Reader:
    """Reads a document, and says which key of which file is wrong."""

    def __init__(self, file: str) -> None:
        self._file = file

    def report(self, document: Any) -> Report:
        root = self._object(document, "")
        version = root.get("schema_version")
        if type(version) is not int or "groups" not in root:
            self._fail("", "this is no report of ratecard: `ratecard baseline write` makes one")
        if version > SCHEMA_VERSION:
            self._fail(
                "schema_version", f"{version} is newer than this ratecard knows ({SCHEMA_VERSION}): update ratecard"
            )
        if version < 1:
            self._fail("schema_version", f"there has never been a version {version}")
        header = self._object(root.get("header"), "header")
        version_, at, prices, tiers, account = (
            self._text(header.get(name), f"header.{name}") for name in Header._fields[:-1]
        )
        self._day(at, "header.at")
        settings = {
            name: self._text(value, f"header.settings.{name}")
            for name, value in self._object(header.get("settings"), "header.settings").items()
        }
        groups = tuple(self._group(one, f"groups[{place}]") for place, one in enumerate(self._list(root, "groups")))
        names = set[str]()
        for group in groups:
            if group.name in names or group.name == TOTAL:
                self._fail("groups", f"{group.name!r} is no name for a group, or two have it")
            names.add(group.name)
        total = self._group(root.get("total"), TOTAL, whole=True)._replace(cells=cells_of(groups))
        self._add_up(total, groups)
        return Report(Header(version_, at, prices, tiers, account, settings), groups, total)

    def _add_up(self, total: Group, groups: Sequence[Group]) -> None:
        """The whole is what its groups are together: else somebody has edited it."""
        for key, whole, parts in (
            ("requests", total.requests, sum(group.requests for group in groups)),
            ("bad", total.bad, sum(group.bad for group in groups)),
            ("unpriced", dict(total.unpriced), unpriced_of(groups)),
            ("tokens.input", total.input, sum(group.input for group in groups)),
            ("cost.expected", total.expected, sum(group.expected for group in groups)),
        ):
            if whole != parts:
                self._fail(f"{TOTAL}.{key}", "is not what the groups add up to: was the file edited by hand?")

    def _group(self, value: Any, key: str, *, whole: bool = False) -> Group:
        document = self._object(value, key)
        kind = self._text(document.get("kind"), f"{key}.kind")
        unpriced = self._object(document.get("unpriced"), f"{key}.unpriced")
        tokens = self._object(document.get("tokens"), f"{key}.tokens")
        output = self._object(tokens.get("output"), f"{key}.tokens.output")
        cost, span = document.get("cost"), document.get("duration")
        cells = () if whole else self._list(document, "cells", key)
        group = Group(
            self._text(document.get("name"), f"{key}.name"),
            kind,
            self._number(document.get("requests"), f"{key}.requests"),
            {reason: self._number(count, f"{key}.unpriced.{reason}") for reason, count in unpriced.items()},
            self._number(document.get("bad"), f"{key}.bad"),
            self._number(tokens.get("input"), f"{key}.tokens.input"),
            self._ordered(
                Range(*(self._number(output.get(name), f"{key}.tokens.output.{name}") for name in Range._fields)),
                f"{key}.tokens.output",
            ),
            None if cost is None else self._range(cost, f"{key}.cost"),
            None if span is None else self._span(span, f"{key}.duration"),
            self._text(document.get("why_unknown"), f"{key}.why_unknown"),
            tuple(self._cell(cell, f"{key}.cells[{place}]") for place, cell in enumerate(cells)),
        )
        if not whole and sum(cell.pico for cell in group.cells) != group.expected:
            self._fail(f"{key}.cost.expected", "is not the sum of its cells: was the file edited by hand?")
        return group

    def _cell(self, value: Any, key: str) -> Cell:
        document = self._object(value, key)
        parts = {}
        for name, part in self._object(document.get("parts"), f"{key}.parts").items():
            there = self._object(part, f"{key}.parts.{name}")
            quantity = self._number(there.get("quantity"), f"{key}.parts.{name}.quantity")
            parts[name] = Part(quantity, self._pico(there.get("usd"), f"{key}.parts.{name}.usd"))
        if not isinstance(long := document.get("long"), bool):
            self._fail(f"{key}.long", "expected true or false")
        requests = self._number(document.get("requests"), f"{key}.requests")
        if not requests:
            self._fail(f"{key}.requests", "expected a number above 0")
        model, tier, read = (
            self._text(document.get(name), f"{key}.{name}") for name in ("model", "service_tier", "read")
        )
        if read:
            self._day(read + "-01-01"[: 10 - len(read)] if len(read) in (4, 7) else read, f"{key}.read")
        return Cell(model, tier, long, requests, parts, read)

    def _day(self, text: str, key: str) -> None:
        try:
            date.fromisoformat(text)
        except ValueError:
            self._fail(key, f"expected a date, YYYY-MM-DD, found {_shown(text)}")

    def _range(self, value: Any, key: str) -> Range:
        document = self._object(value, key)
        return self._ordered(Range(*(self._pico(document.get(name), f"{key}.{name}") for name in Range._fields)), key)

    def _ordered(self, found: Range, key: str) -> Range:
        if not found.p5 <= found.p50 <= found.p95 <= found.worst:
            self._fail(key, "p5, p50, p95 and worst do not rise: was the file edited by hand?")
        return found

    def _span(self, value: Any, key: str) -> Span:
        document = self._object(value, key)
        # Seconds with six decimals are µs, as dollars with twelve are pico-dollars.
        return Span(*(self._pico(document.get(name), f"{key}.{name}") // 1_000_000 for name in Span._fields))

    def _pico(self, value: Any, key: str) -> int:
        if not isinstance(value, str):
            self._fail(key, f"expected a decimal number as a text, found {_shown(value)}")
        try:
            pico = Usd.parse(value).pico
        except ConfigError:
            self._fail(key, f"expected a decimal number as a text, found {_shown(value)}")
        if pico < 0:
            self._fail(key, f"expected nothing below 0, found {_shown(value)}")
        return pico

    def _number(self, value: Any, key: str) -> int:
        if type(value) is not int or value < 0:
            self._fail(key, f"expected a whole number, found {_shown(value)}")
        return value

    def _text(self, value: Any, key: str) -> str:
        if not isinstance(value, str):
            self._fail(key, f"expected a text, found {_shown(value)}")
        return value

    def _object(self, value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._fail(key, f"expected an object, found {_shown(value)}")
        return value

    def _list(self, document: Mapping[str, Any], name: str, key: str = "") -> Sequence[Any]:
        value = document.get(name)
        if not isinstance(value, list):
            self._fail(f"{key}.{name}" if key else name, f"expected a list, found {_shown(value)}")
        return value

    def _fail(self, key: str, message: str) -> NoReturn:
        raise ConfigError(f"{self._file}: {key}: {message}" if key else f"{self._file}: {message}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 40 else text[:40] + "…"
