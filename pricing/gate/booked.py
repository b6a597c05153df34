"""What a ledger has booked, as groups of a report: exactly, and without keeping the entries.

Posted entries are known: each component of their cost is a part, with the tokens or calls that it was for. What is
pending or expired has no bill; as in a report of the ledger it counts at its estimate, apart from what was posted: as
the parts `pending_estimate` and `expired_estimate`, whose quantities are calls. Its range goes from nothing to its
worst case (of its output: to what nineteen of twenty such replies have). What is voided is no request.

Law  a group's parts add up to the ledger's own totals, to the pico-dollar (tests/gate/test_booked.py)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, NamedTuple

from ..entries import Entry
from ..totals import part_of, tokens_of
from .report import MOST_REASONS, OTHER_REASONS, TOTAL, Cell, Group, Part, Range, cells_of, unpriced_of

if TYPE_CHECKING:
    from ..prices import PriceTable

NAMELESS = "-"
"""The part of entries that do not say to which they belong."""
_NO_DURATION = "a ledger tells what calls cost, not how long they take together"
_US_PER_S = 1_000_000

_COMPONENTS = {
    "input_tokens": "input",
    "cached_input_tokens": "cached_input",
    "cache_write_tokens": "cache_write",
    "output_tokens": "output",
    "reasoning_tokens": "output",
}
_ROW = re.compile(r"(.+)/([^/]+)/\d{4}-\d{2}-\d{2}(>\d+)?( .*)?", re.DOTALL)
"""A price row's id: model, tier, first day, for long requests, as discounted."""


class _Place(NamedTuple):
    """The cell that an entry belongs to, and when its prices were read."""

    model: str
    service_tier: str
    long: bool
    read: str


def groups_of(
    entries: Iterable[Entry],
    by: str | Sequence[str] | Callable[[Entry], str],
    *,
    kind: str = "ledger",
    prices: PriceTable | None = None,
) -> tuple[Group, ...]:
    """Sum entries into groups by what a ledger is split by ("model", "tag:team" …), by several of these, or a function.

    kind    of the groups: what the report is of
    prices  the table that tells when prices were read, and how it names the model of a call that has no bill; the
            shipped one unless told
    →  by name; a part in which nothing may have been billed has no group

    Raises  ConfigError for what a ledger cannot be split by
    """
    part = by if callable(by) else part_of(by)
    places = _Places(prices)
    groups: dict[str, _Sums] = {}
    for entry in entries:
        if entry.state == "voided":
            continue
        name = part(entry) or NAMELESS
        if name == TOTAL:
            name = f"({TOTAL})"  # a report keeps that name for the whole
        sums = groups.get(name)
        if sums is None:
            sums = groups[name] = _Sums(places)
        sums.add(entry)
    return tuple(groups[name].group(name, kind) for name in sorted(groups))


def together(groups: Sequence[Group], name: str = TOTAL, kind: str = "ledger") -> Group:
    """Sum groups into one: the whole of a report, or parts of one thing. Durations are not added.

    cost  None where there are requests and none of them has a price; that of no requests is known to be nothing
    """
    requests, nothing = sum(group.requests for group in groups), Range.known(0)
    costs = [group.cost for group in groups if group.cost is not None]
    return Group(
        name,
        kind,
        requests,
        unpriced_of(groups),
        sum(group.bad for group in groups),
        sum(group.input for group in groups),
        _sum([nothing, *(group.output for group in groups)]),
        None if requests and not costs else _sum([nothing, *costs]),
        None,
        _NO_DURATION,
        cells_of(groups),
    )


def _sum(ranges: Sequence[Range]) -> Range:
    return Range(*map(sum, zip(*ranges, strict=True)))


def _count(unpriced: dict[str, int], reason: str) -> None:
    if reason not in unpriced and len(unpriced) >= MOST_REASONS:
        reason = OTHER_REASONS
    unpriced[reason] = unpriced.get(reason, 0) + 1


class _Sums:
    """A group in the making."""

    def __init__(self, places: _Places) -> None:
        self._places = places
        self._requests = self._input = 0
        self._unpriced: dict[str, int] = {}
        self._output = [0] * len(Range._fields)
        self._known = self._expected = self._worst = 0  # pico-dollars; `known` is what was posted
        self._cells: dict[_Place, tuple[list[int], dict[str, list[int]]]] = {}

    def add(self, entry: Entry) -> None:
        """Count one entry that may have been billed."""
        self._requests += 1
        if entry.state == "posted":
            read, written = tokens_of(entry.usage)
            self._input += read
            for place in range(len(self._output)):
                self._output[place] += written
            if entry.cost is None:
                _count(self._unpriced, entry.why or "no cost given")
                return
            pico = entry.cost.pico
            self._known += pico
            self._expected += pico
            self._worst += pico
            self._cell(entry, _parts(entry, pico, self._places.billed_as))
            return
        told = entry.expected
        mean, p50, p95 = (told.get(name, 0) for name in ("output_tokens", "output_p50", "output_p95"))
        self._input += told.get("input_tokens", 0)
        for place, count in enumerate((mean, 0, p50, p95, max(mean, p95))):
            self._output[place] += count
        if entry.estimate is None:
            _count(self._unpriced, f"{entry.state}, and no price was known before it was sent")
            return
        likely = entry.estimate.pico
        self._expected += likely
        self._worst += max(likely, likely if entry.worst is None else entry.worst.pico)
        self._cell(entry, {f"{entry.state}_estimate": (1, likely)})

    def _cell(self, entry: Entry, parts: Mapping[str, tuple[int, int]]) -> None:
        place = self._places.of(entry)
        there = self._cells.get(place)
        if there is None:
            there = self._cells[place] = ([0], {})
        there[0][0] += 1
        for name, (quantity, pico) in parts.items():
            sums = there[1].setdefault(name, [0, 0])
            sums[0] += quantity
            sums[1] += pico

    def group(self, name: str, kind: str) -> Group:
        cells = (
            Cell(*place[:3], requests, {part: Part(*sums) for part, sums in parts.items()}, place.read)
            for place, ((requests,), parts) in self._cells.items()
        )
        priced = self._requests > sum(self._unpriced.values())
        group = Group(
            name,
            kind,
            self._requests,
            self._unpriced,
            0,
            self._input,
            Range(*self._output),
            Range(self._expected, self._known, self._expected, self._worst, self._worst) if priced else None,
            None,
            _NO_DURATION,
            tuple(cells),
        )
        return group._replace(cells=cells_of([group]))  # one of each key, in their order


def _parts(entry: Entry, pico: int, billed_as: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """What an entry has of what: component → quantity, and pico-dollars. They add up to its cost, whatever it says."""
    amounts = {name: amount.pico for name, amount in entry.components.items()}
    if sum(amounts.values()) != pico:
        return {"other": (1, pico)}
    quantities: dict[str, int] = {}
    for name, count in entry.usage.items():
        component = _COMPONENTS.get(name) or _component(name, amounts, billed_as)
        quantities[component] = quantities.get(component, 0) + count
    if "regional_uplift" in amounts:
        quantities["regional_uplift"] = sum(tokens_of(entry.usage))
    return {
        name: (quantities.get(name, 0), amounts.get(name, 0))
        for name in {**amounts, **quantities}
        if quantities.get(name) or amounts.get(name)
    }


def _component(name: str, amounts: Mapping[str, int], billed_as: Mapping[str, str]) -> str:
    """The component by which a count was billed: its own name, or that of the kind whose price it has."""
    kind = name.removesuffix("_tokens")
    if kind in amounts:
        return kind
    model, slash, bare = kind.rpartition("/")
    return f"{model}{slash}{billed_as.get(bare, bare)}"


class _Places:
    """Finds the cells of entries, and remembers: a ledger has few price rows and many entries."""

    def __init__(self, prices: PriceTable | None) -> None:
        self._given = prices
        self._found: dict[tuple[object, ...], _Place] = {}

    @property
    def _prices(self) -> PriceTable:
        if self._given is None:
            from ..cost import shipped_prices

            self._given = shipped_prices()
        return self._given

    @property
    def billed_as(self) -> Mapping[str, str]:
        return self._prices.billed_as

    def of(self, entry: Entry) -> _Place:
        key: tuple[object, ...] = (entry.row_id, entry.model)
        long = 0
        if entry.row_id is None:
            day = datetime.fromtimestamp(entry.created_us // _US_PER_S, UTC).date()
            long = entry.expected.get("input_tokens", 0)
            key = (entry.model, entry.service_tier, entry.batch, day, long)
        found = self._found.get(key)
        if found is None:
            if len(self._found) > 4096:
                self._found.clear()
            found = self._by_row(entry) if entry.row_id is not None else self._by_model(entry, day, long)
            self._found[key] = found
        return found

    def _by_row(self, entry: Entry) -> _Place:
        """By the row that priced it, even one of an overlay that is not here."""
        assert entry.row_id is not None
        match = _ROW.fullmatch(entry.row_id)
        if match is None:
            return _Place(entry.model, self._tier(entry), False, "")
        model, tier, long = match[1], match[2], match[3] is not None
        file, colon, rest = model.partition(":")
        if colon and file != "ft":
            model = rest
        for row in self._prices.rows(model):
            for one in (row, row.long):
                if one is not None and (entry.row_id == one.id or entry.row_id.startswith(f"{one.id} ")):
                    return _Place(model, tier, long, one.source.read)
        return _Place(model, tier, long, "")

    def _by_model(self, entry: Entry, day: date, input_tokens: int) -> _Place:
        """By the row that would price it: it has no bill yet."""
        tier = self._tier(entry)
        row = self._prices.lookup(entry.model, tier, day)
        if row is None:
            return _Place(entry.model, tier, False, "")
        long = row.above is not None and input_tokens > row.above
        priced = row.at_length(input_tokens) or row
        return _Place(row.model, row.service_tier, long, priced.source.read)

    def _tier(self, entry: Entry) -> str:
        return "batch" if entry.batch else self._prices.tier(entry.service_tier)
