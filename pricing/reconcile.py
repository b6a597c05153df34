"""Lay a ledger beside what OpenAI says: its Costs export in dollars, its Usage export in tokens, by UTC day and line.

The provider's figure is the bill, so where it has one that is what a line settles at; ours stands where it has none. A
residual is explained line by line: by model and component, and beside it by what in the ledger is no exact bill.

Source  GET /v1/organization/costs and /v1/organization/usage/…; SDK 3.54 and openapi.yaml 2026-08-21
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from os import PathLike
from typing import Any, NamedTuple

from .cards import resolve
from .entries import Entry
from .errors import ConfigError
from .money import Usd

_KINDS = {
    "input": "input",
    "input_uncached": "input",
    "cached_input": "cached_input",
    "input_cached": "cached_input",
    "cache_write": "cache_write",
    "input_cache_write": "cache_write",
    "output": "output",
}
"""Kinds of tokens as line items and usage rows spell them, without "_tokens" → the component of a cost."""
MOST_DOLLARS = 10**15
"""No bill has more: what says so is no amount."""
_COUNTS = ("input", "cached_input", "cache_write", "output", "requests")

Key = tuple[str, str, str]
"""UTC day, model ("" for what has none), component."""


class Line(NamedTuple):
    """One line of a comparison.

    ours, theirs  amounts (Usd), or counts of tokens and requests; None where a side has no such line
    residual      theirs less ours: what the ledger lacks, or has too much when it is negative
    """

    day: str
    model: str
    component: str
    ours: Usd | int | None
    theirs: Usd | int | None
    residual: Usd | int


class Open(NamedTuple):
    """What of a day's ledger is no exact bill, and may explain a residual: amounts at their estimates."""

    pending: Usd
    expired: Usd
    estimated: Usd
    unpriced_count: int


class Reconciliation(NamedTuple):
    """A ledger beside an export.

    unit        "usd" or "tokens"
    lines       by day, model and component; only of days that the export speaks of
    open        day → what in the ledger is no exact bill
    ours, theirs, residual, settled   sums over the lines (Usd); of tokens only the lines say anything
    """

    unit: str
    lines: list[Line]
    open: dict[str, Open]
    ours: Usd
    theirs: Usd
    residual: Usd
    settled: Usd


def read_export(path: str | PathLike[str]) -> list[Mapping[str, Any]]:
    """Read an export: a page as the API gives it, a list of pages, or a page or bucket per line. Its buckets.

    Raises  ConfigError with the line, when it is neither; when its last page says that more follow
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    try:
        documents = [_json(text)]
    except (ValueError, RecursionError):
        documents = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    documents.append(_json(line))
                except (ValueError, RecursionError) as error:
                    raise ConfigError(f"{path}:{number}: no JSON: {error}") from error
    found = list(_mappings(documents))
    pages = [one for one in found if "data" in one]
    if pages and pages[-1].get("has_more") is True:
        raise ConfigError(
            f"{path}: its last page says has_more: the days after it are missing. Fetch the pages that follow "
            "(page=<its next_page>, or a larger limit=) and give all of them, in their order, in one file"
        )
    buckets = [one for one in found if "results" in one and not isinstance(one.get("data"), list)]
    if not buckets:
        raise ConfigError(f"{path}: expected pages of GET /v1/organization/costs or /usage/…, found no bucket")
    for bucket in buckets:
        if type(bucket.get("start_time")) is not int or not isinstance(bucket.get("results"), list):
            raise ConfigError(f"{path}: a bucket has a start_time in seconds and results; found {str(bucket)[:100]}")
        for row in bucket["results"]:
            if not isinstance(row, Mapping):
                raise ConfigError(f"{path}: a result is a JSON object; found {str(row)[:100]}")
    return buckets


def reconcile(entries: Iterable[Entry], buckets: Iterable[Mapping[str, Any]]) -> Reconciliation:
    """Compare the entries of the days that an export speaks of with it. Costs and usage are told apart by their rows.

    Raises  ConfigError when the export mixes them, or has a currency that is not US dollars
    """
    kept = list(buckets)
    rows = [row for bucket in kept for row in bucket["results"] if isinstance(row, Mapping)]
    kinds = {"amount" in row for row in rows}
    if len(kinds) > 1:
        raise ConfigError("an export is of costs or of usage; this one mixes them: reconcile one after the other")
    costs = kinds != {False}
    days = {_day(bucket["start_time"]) for bucket in kept}
    theirs = _costs(kept) if costs else _usage(kept)
    ours, doubts = _ours(entries, days, costs)
    if costs:
        ours = _as_told(ours, theirs)
    lines = []
    for key in sorted({*ours, *theirs}):
        mine, other = ours.get(key), theirs.get(key)
        lines.append(Line(*key, _unit(mine, costs), _unit(other, costs), _unit((other or 0) - (mine or 0), costs)))
    sums = sum(ours.values()), sum(theirs.values())
    settled = sum(theirs[key] if key in theirs else ours[key] for key in {*ours, *theirs})
    amounts = (sums[0], sums[1], sums[1] - sums[0], settled) if costs else (0, 0, 0, 0)
    return Reconciliation("usd" if costs else "tokens", lines, doubts, *map(Usd, amounts))


def _costs(buckets: Iterable[Mapping[str, Any]]) -> dict[Key, int]:
    found: dict[Key, int] = defaultdict(int)
    for bucket in buckets:
        for row in bucket["results"]:
            pico = _pico(row["amount"])
            found[_day(bucket["start_time"]), *line_item(row.get("line_item"))] += pico
    return dict(found)


def _pico(amount: Any) -> int:
    """Read an amount. A JSON number with more digits than money has is rounded to the pico-dollar."""
    if isinstance(amount, Mapping) and str(amount.get("currency", "usd")).lower() == "usd":
        value = amount.get("value")
        if isinstance(value, int | float | Decimal | str) and not isinstance(value, bool):
            try:
                exact = Decimal(str(value))
                if abs(exact) <= MOST_DOLLARS:
                    return round(exact.scaleb(12))
            except (ArithmeticError, ValueError):  # no number, or one of more digits than Python reads
                pass
    raise ConfigError(f"an amount is a value in USD, not {str(amount)[:60]}")


def line_item(text: Any) -> tuple[str, str]:
    """Read a line item: "gpt-6-astra, input_tokens" and "input_tokens" both occur. → model, component."""
    if not isinstance(text, str) or not text.strip():
        return "", ""
    model, comma, kind = text.rpartition(", ")
    if not comma and not _is_kind(kind) and resolve(kind) is not None:
        return _model(kind), ""
    kind = kind.strip().lower().replace(" ", "_")
    short = kind.removesuffix("_tokens")
    return _model(model), _KINDS.get(short, short)


def _is_kind(text: str) -> bool:
    return text.strip().lower().replace(" ", "_").removesuffix("_tokens") in _KINDS


def _usage(buckets: Iterable[Mapping[str, Any]]) -> dict[Key, int]:
    found: dict[Key, int] = defaultdict(int)
    for bucket in buckets:
        for row in bucket["results"]:
            day, model = _day(bucket["start_time"]), _model(row.get("model") or "")
            read, cached, written = (_count(row, f"input_{kind}tokens") for kind in ("", "cached_", "cache_write_"))
            counts = (read - cached - written, cached, written, _count(row, "output_tokens"))
            for component, count in zip(_COUNTS, (*counts, _count(row, "num_model_requests")), strict=True):
                if count:
                    found[day, model, component] += count
    return dict(found)


def _ours(entries: Iterable[Entry], days: set[str], costs: bool) -> tuple[dict[Key, int], dict[str, Open]]:
    found: dict[Key, int] = defaultdict(int)
    doubts: dict[str, list[int]] = {}
    for entry in entries:
        day = _day(entry.created_us // 1_000_000)
        if day not in days or entry.state == "voided":
            continue
        estimate = entry.estimate.pico if entry.estimate is not None else 0
        doubt = doubts.setdefault(day, [0, 0, 0, 0])
        if entry.state != "posted":
            doubt[entry.state == "expired"] += estimate
            continue
        if not entry.exact and entry.cost is not None:
            doubt[2] += entry.cost.pico
        doubt[3] += entry.cost is None
        model = _model(entry.model)
        if costs:
            for component, amount in entry.components.items():
                found[day, model, component.removesuffix("_tokens")] += amount.pico
        else:
            for component, count in (*_tokens(entry.usage), ("requests", 1)):
                if count:
                    found[day, model, component] += count
    opened = {
        day: Open(Usd(pending), Usd(expired), Usd(counted), unpriced)
        for day, (pending, expired, counted, unpriced) in doubts.items()
        if pending or expired or counted or unpriced
    }
    return dict(found), opened


def _as_told(ours: Mapping[Key, int], theirs: Mapping[Key, int]) -> dict[Key, int]:
    """Ours, added up to the detail in which each day of theirs is told: by line, by component, by model, or as one."""
    detail: dict[str, set[tuple[bool, bool]]] = defaultdict(set)
    for day, model, component in theirs:
        detail[day].add((bool(model), bool(component)))
    found: dict[Key, int] = defaultdict(int)
    for (day, model, component), pico in ours.items():
        told = detail[day]
        by_model, by_component = any(m for m, _ in told) or not told, any(c for _, c in told) or not told
        found[day, model if by_model else "", component if by_component else ""] += pico
    return dict(found)


def _tokens(usage: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for name, count in usage.items():
        if name.endswith("_tokens") and "/" not in name:
            kinds = (("cached_input", "cached_input_"), ("cache_write", "cache_write_"), ("input", "input_"))
            yield next((kind for kind, prefix in kinds if name.startswith(prefix)), "output"), count


def _count(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name)
    return value if type(value) is int and value > 0 else 0


def _unit(value: int | None, costs: bool) -> Any:
    return Usd(value) if costs and value is not None else value


def _model(name: str) -> str:
    """A model by its card's name, so that a snapshot and its alias are one line; another name as it is."""
    card = resolve(name.strip())
    return card.model if card is not None else name.strip()


def _day(seconds: int) -> str:
    try:
        return str(datetime.fromtimestamp(seconds, UTC).date())
    except (ValueError, OverflowError, OSError):
        return str(date.max)


def _json(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def _mappings(documents: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    """The pages and the buckets of an export, each page before what it holds."""
    for document in documents:
        if isinstance(document, list):
            yield from _mappings(document)
        elif isinstance(document, Mapping):
            yield document
            if isinstance(document.get("data"), list):
                yield from _mappings(document["data"])
