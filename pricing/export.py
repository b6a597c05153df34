"""A ledger as a table, for whatever reads tables: CSV, JSON Lines, Parquet, pandas. One row per entry, amounts exact.

Components, usages, expectations and tags have a column for each name that some entry has: `cost.input`,
`usage.output_tokens`, `expected.output_tokens`, `tag.team`. Amounts are decimals (texts in CSV and JSON), times UTC.
"""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

from .entries import Entry
from .errors import ConfigError
from .money import Usd

if TYPE_CHECKING:
    import pandas

FORMATS = ("csv", "jsonl", "parquet")
BATCH = 10_000
"""Rows of a Parquet file written at a time."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""With these a spreadsheet's formula begins, or may: OWASP, CSV injection."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GROUPS = {"components": "cost", "usage": "usage", "expected": "expected", "tags": "tag"}
_AMOUNTS = ("estimate", "worst", "cost")
_TIMES = {"created_us": "created", "closed_us": "closed"}
_PLAIN = [_TIMES.get(name, name) for name in Entry._fields if name not in _GROUPS]


def row_of(entry: Entry) -> dict[str, Any]:
    """One entry as one flat row; what it does not have is left out."""
    row: dict[str, Any] = {}
    value: Any
    for name, value in zip(Entry._fields, entry, strict=True):
        if name in _GROUPS:
            row.update((f"{_GROUPS[name]}.{_clean(key)}", _clean(one)) for key, one in value.items())
        elif name in _TIMES:
            row[_TIMES[name]] = None if value is None else _EPOCH + timedelta(microseconds=value)
        else:
            row[name] = _clean(value)
    return row


def columns_of(entries: Iterable[Entry]) -> list[str]:
    """Every column that these entries have, in an order of their own: facts first, then each group by name."""
    found: set[str] = set()
    for entry in entries:
        for group, prefix in _GROUPS.items():
            found.update(f"{prefix}.{_clean(key)}" for key in getattr(entry, group))
    order = list(_GROUPS.values())
    return [*_PLAIN, *sorted(found, key=lambda name: (order.index(name.partition(".")[0]), name))]


def write_csv(entries: Callable[[], Iterable[Entry]], file: IO[str]) -> int:
    """Write a CSV with a header; return the number of its rows. `entries` is asked twice: first for the columns.

    A text that a spreadsheet would take for a formula has a ' before it.
    """
    writer = csv.DictWriter(file, columns_of(entries()), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    count = 0
    for entry in entries():
        writer.writerow({name: "" if value is None else _cell(value) for name, value in row_of(entry).items()})
        count += 1
    return count


def write_jsonl(entries: Callable[[], Iterable[Entry]], file: IO[str]) -> int:
    """Write one JSON object per entry, without what it does not have; return their number."""
    count = 0
    for entry in entries():
        row = {
            name: value if isinstance(value, int) else _text(value)
            for name, value in row_of(entry).items()
            if value is not None
        }
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        count += 1
    return count


def write_parquet(entries: Callable[[], Iterable[Entry]], path: str) -> int:
    """Write a Parquet file: amounts as decimal128(38, 12), times as microseconds of UTC.

    Raises  ConfigError without pyarrow
    """
    arrow, parquet = needed("pyarrow"), needed("pyarrow.parquet", extra="pyarrow")
    columns = columns_of(entries())
    schema = arrow.schema([(name, _arrow_type(arrow, name)) for name in columns])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        rows = (row_of(entry) for entry in entries())
        while batch := list(islice(rows, BATCH)):
            count += len(batch)
            table = {name: [_exact(row.get(name)) for row in batch] for name in columns}
            writer.write_table(arrow.Table.from_pydict(table, schema=schema))
    return count


def to_pandas(entries: Iterable[Entry]) -> pandas.DataFrame:
    """A DataFrame: amounts are decimal.Decimal (exact), times are UTC timestamps, counts nullable integers.

    Raises  ConfigError without pandas
    """
    frames: Any = needed("pandas")
    kept = list(entries)
    columns = columns_of(kept)
    rows = [row_of(entry) for entry in kept]
    data = {}
    for name in columns:
        values = [_exact(row.get(name)) for row in rows]
        kind = _kind(name)
        data[name] = frames.Series(values, dtype={"time": "datetime64[us, UTC]", "count": "Int64"}.get(kind, "object"))
    return frames.DataFrame(data, columns=columns)


def needed(module: str, extra: str = "") -> Any:
    """Import an optional package. Raises ConfigError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = extra or module
        raise ConfigError(f"this needs {name}: pip install 'ratecard[{name}]'") from error


def first_to_last(entries: Iterable[Entry], last: int) -> Iterator[Entry]:
    """The entries up to an id: what is written meanwhile is in no export by halves."""
    for entry in entries:
        if entry.id > last:
            return
        yield entry


def _kind(name: str) -> str:
    """What a column holds: amount, time, count, flag or text."""
    group = name.partition(".")[0] if "." in name else ""
    if name in _AMOUNTS or group == "cost":
        return "amount"
    if name in _TIMES.values():
        return "time"
    if name in ("batch", "exact"):
        return "flag"
    return "count" if group in ("usage", "expected") or name in _COUNTS else "text"


_COUNTS = ("id", "attempt", "wait_us", "latency_us")


def _arrow_type(arrow: Any, name: str) -> Any:
    return {
        "amount": arrow.decimal128(38, 12),
        "time": arrow.timestamp("us", tz="UTC"),
        "flag": arrow.bool_(),
        "count": arrow.int64(),
        "text": arrow.string(),
    }[_kind(name)]


def _clean(value: Any) -> Any:
    """Half of a character, which tags may hold, is no text of any of these formats: it is spelt out."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _exact(value: Any) -> Any:
    return value.decimal() if isinstance(value, Usd) else value


def _cell(value: Any) -> str:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else str(value)
