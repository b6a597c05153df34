"""What a ledger spent by day: sums that add up, whatever part of a log they are of.

So a log that outgrows one machine is summed part by part, wherever its parts are, and the sums are added (`merged`).
Amounts stand in two columns of integers, dollars and the pico-dollars beyond them, because one ends at 9.2 million.

Law  the sums of parts, merged, are those of the whole (tests/forecast/test_daily.py)
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from .budget import DAY_US
from .errors import ConfigError, LedgerError
from .export import needed
from .money import PICO, Usd
from .totals import PARTS

if TYPE_CHECKING:
    import pandas

SPLITS = ("model", "asked_model", "service_tier", "endpoint", "run", "effort")
"""What days can be split by, besides tags."""
SUMS = ("requests", "unpriced", "usd", "pico")
_ENDED = ("posted", "expired")
_AMOUNTS = ("cost", "worst", "estimate")
_PLAIN = re.compile(r"[A-Za-z0-9 _.:/-]+")
_FEW = 200_000
"""Rows that one thread sums before others are worth their start."""
_SQL = {"asked_model": "COALESCE(asked_model, model)"}


def check_split(by: Sequence[str]) -> None:
    """Raises ConfigError for what days cannot be split by, and for the same twice."""
    for place, name in enumerate(by):
        if name in by[:place]:
            raise ConfigError(f"days are split by {name!r} once, not twice")
        kind, _, tag = name.partition(":")
        if name not in SPLITS and not (kind == "tag" and tag):
            raise ConfigError(f"days are split by {', '.join(SPLITS)} or tag:NAME, not {name!r}")


def check_columns(frame: pandas.DataFrame, names: Iterable[str]) -> None:
    """Raises ConfigError for a column that a frame has more than once."""
    for name in names:
        if (count := list(frame.columns).count(name)) > 1:
            raise ConfigError(f"the frame has {count} columns named {name!r}; one is understood")


def daily(entries: pandas.DataFrame, by: Sequence[str] = ("model",)) -> pandas.DataFrame:
    """Sum entries by day (UTC) and by what else is asked.

    entries  one row each, as `Ledger.to_pandas` and `ratecard ledger export` give them

    → day (days since 1970), a column for each of `by`, requests, unpriced, usd, pico
    Raises  ConfigError when a column is missing, or there twice, or a day is none
    """
    pandas = needed("pandas")
    check_split(by)
    check_columns(entries, ("created", "state", *_AMOUNTS, "model", *map(_column_name, by)))
    for name in ("created", "state", "cost"):
        if name not in entries.columns:
            raise ConfigError(f"entries of a ledger have the columns created, state and cost; {name} is missing")
    ended = entries[entries["state"].isin(_ENDED)]
    try:
        stamps = pandas.to_datetime(ended["created"], utc=True, format="ISO8601")
    except (TypeError, ValueError) as error:
        raise ConfigError(f"created: {error}") from error
    if stamps.isna().any():
        raise ConfigError(f"created is empty in {int(stamps.isna().sum()):,} rows: no day")
    columns: dict[str, Any] = {"day": (stamps.dt.tz_localize(None).astype("datetime64[us]").astype("int64") // DAY_US)}
    for name in by:
        columns[name] = _split_of(pandas, ended, name)
    picos = [_pico_of(*row) for row in zip(*(_column(ended, name) for name in ("state", *_AMOUNTS)), strict=True)]
    unpriced = (ended["state"] == "posted") & ended["cost"].isna()
    columns |= {
        "requests": 1,
        "unpriced": unpriced.astype("int64"),
        "usd": [pico // PICO for pico in picos],
        "pico": [pico % PICO for pico in picos],
    }
    return merged([pandas.DataFrame(columns, index=ended.index)], by)


def _column(frame: pandas.DataFrame, name: str) -> Any:
    """The values of a column, None where it has none."""
    if name not in frame.columns:
        return [None] * len(frame)
    return frame[name].astype(object).where(frame[name].notna(), None)


def _column_name(split: str) -> str:
    kind, _, tag = split.partition(":")
    return f"tag.{tag}" if kind == "tag" else split


def _split_of(pandas: Any, entries: pandas.DataFrame, name: str) -> Any:
    theirs = _column_name(name)
    if theirs not in entries.columns:
        return ""
    column = entries[theirs].astype("string")
    if name == "asked_model" and "model" in entries.columns:
        column = column.fillna(entries["model"].astype("string"))
    return column.fillna("").astype(object)


def _pico_of(state: str, *amounts: Any) -> int:
    """What a row counts as spent (pico-dollars): its cost; of an expired one else what it held, or estimated."""
    for amount in amounts if state == "expired" else amounts[:1]:
        if amount is not None and amount != "":
            return Usd.parse(str(amount)).pico
    return 0


def merged(parts: Iterable[pandas.DataFrame], by: Sequence[str] = ("model",)) -> pandas.DataFrame:
    """Add sums of parts of a log, in the order of days and names."""
    pandas = needed("pandas")
    frames = list(parts)
    if not frames:
        return empty(by)
    whole = pandas.concat(frames, ignore_index=True)
    if whole.empty:
        return empty(by)
    sums = whole.groupby(["day", *by], sort=True, as_index=False)[list(SUMS)].sum()
    # Carried, so that the sum of many parts ends no column.
    sums["usd"] += sums["pico"] // PICO
    sums["pico"] %= PICO
    return sums


def empty(by: Sequence[str]) -> pandas.DataFrame:
    """No sums: also the shape of what `daily` gives."""
    pandas = needed("pandas")
    kinds = {"day": "int64", **dict.fromkeys(by, "object"), **dict.fromkeys(SUMS, "int64")}
    return pandas.DataFrame({name: pandas.Series([], dtype=kind) for name, kind in kinds.items()})


def daily_of_ledger(
    path: str | os.PathLike[str], by: Sequence[str] = ("model",), *, threads: int | None = None
) -> pandas.DataFrame:
    """The same of a ledger file, which SQLite sums; nothing is written, and whoever writes meanwhile is not held up.

    Raises  ConfigError when it is no ledger, or cannot be split so
    """
    check_split(by)
    try:
        with _opened(path) as db:
            first, last = db.execute("SELECT COALESCE(MIN(id), 0), COALESCE(MAX(id), -1) FROM entries").fetchone()
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"{os.fspath(path)}: no ledger: {error}") from error
    count = max(1, min(threads or os.cpu_count() or 1, (last - first) // _FEW + 1))
    step = -(-(last - first + 1) // count)
    ranges = [(first + place * step, first + (place + 1) * step) for place in range(count)]
    with ThreadPoolExecutor(count) as pool:
        return merged(pool.map(lambda part: _summed(path, by, part), ranges), by)


def _opened(path: str | os.PathLike[str]) -> Any:
    from contextlib import closing

    if not os.path.isfile(path):
        raise ConfigError(f"{os.fspath(path)}: there is no such ledger")
    from pathlib import Path

    db = sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True, timeout=15)
    return closing(db)


def _summed(path: str | os.PathLike[str], by: Sequence[str], ids: tuple[int, int]) -> pandas.DataFrame:
    """Sum the entries of a range of ids."""
    pandas = needed("pandas")
    splits = [_expression(name) for name in by]
    charge = "CASE state WHEN 'posted' THEN COALESCE(cost, 0) ELSE COALESCE(cost, worst, estimate, 0) END"
    # Named by their places: SQLite would take the name of a column for the column.
    keys = ", ".join(f"{split} AS k{place}" for place, split in enumerate(splits))
    groups = ", ".join(["d", *(f"k{place}" for place in range(len(splits)))])
    query = f"""
        SELECT created_us / {DAY_US} AS d, {keys + "," if keys else ""} COUNT(*),
            SUM(state = 'posted' AND cost IS NULL), SUM(({charge}) / {PICO}), SUM(({charge}) % {PICO})
        FROM entries WHERE id >= ? AND id < ? AND state IN ('posted', 'expired') GROUP BY {groups}"""
    try:
        with _opened(path) as db:
            rows = db.execute(query, ids).fetchall()
    except sqlite3.DatabaseError as error:
        raise LedgerError(f"{os.fspath(path)}: cannot be read: {error}") from error
    if not rows:
        return empty(by)
    return pandas.DataFrame(rows, columns=["day", *by, *SUMS])


def _expression(name: str) -> str:
    kind, _, tag = name.partition(":")
    if kind == "tag":
        name = json.dumps(tag).replace("'", "''")
        value = f"tags ->> '$.{name}'"
        if not _PLAIN.fullmatch(tag):  # a path of SQLite knows no escapes; this takes twice as long
            value = f"(SELECT value FROM json_each(tags) WHERE key = json_extract('{name}', '$'))"
        return f"COALESCE(CASE WHEN json_valid(tags) THEN {value} END, '')"
    assert name in PARTS
    return f"COALESCE({_SQL.get(name, name)}, '')"
