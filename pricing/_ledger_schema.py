"""The tables of a ledger file: how they are made, and how an older file's are brought up to date.

What budgets count is kept by triggers (the charge is `entries.charge_of` in SQL), so that an entry begins and ends in
one statement each, which is one transaction. It is kept for the ledger as a whole, for each run, and for each value of
those tags that some budget has asked for. Sums are kept in dollars and the pico-dollars beyond them, because a column
ends at 9.2 million dollars; and by day as well as by quarter of an hour, so that a month is counted in few rows.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

from .budget import DAY_US, SLOT_US
from .errors import LedgerError
from .money import PICO

APPLICATION_ID = 0x72617465  # "rate"
VERSION = 3
"""1 counted an expired entry at its estimate, and let it change no more; 2 counted by run and hour only, and did not
keep what was asked for, the attempt, the wait, the latency, the request's id and what was expected."""
BUSY_MS = 15_000

_ENTRIES = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, state TEXT NOT NULL, model TEXT NOT NULL, endpoint TEXT NOT NULL, response_id TEXT,
    custom_id TEXT, run TEXT, tags TEXT NOT NULL, service_tier TEXT, batch INTEGER NOT NULL,
    created_us INTEGER NOT NULL, closed_us INTEGER, estimate INTEGER, worst INTEGER, cost INTEGER,
    components TEXT NOT NULL, row_id TEXT, table_version TEXT, usage TEXT NOT NULL, exact INTEGER NOT NULL, why TEXT
    NOT NULL
) STRICT
"""
_ADDED = (
    "request_id TEXT",
    "asked_model TEXT",
    "asked_tier TEXT",
    "effort TEXT NOT NULL DEFAULT ''",
    "attempt INTEGER",
    "wait_us INTEGER",
    "latency_us INTEGER",
    "expected TEXT NOT NULL DEFAULT '{}'",
)
"""Columns that version 3 has added."""
_ADD = tuple(f"ALTER TABLE entries ADD COLUMN {column}" for column in _ADDED)

_COUNTERS = (
    "CREATE TABLE watched (tag TEXT PRIMARY KEY, path TEXT NOT NULL) STRICT, WITHOUT ROWID",
    """
CREATE TABLE sums (
    scope TEXT NOT NULL, value TEXT NOT NULL, kind INTEGER NOT NULL, slot INTEGER NOT NULL,
    usd INTEGER NOT NULL, pico INTEGER NOT NULL, PRIMARY KEY (scope, value, kind, slot)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE alerts (
    budget TEXT NOT NULL, percent INTEGER NOT NULL, mark_us INTEGER NOT NULL, PRIMARY KEY (budget, percent)
) STRICT, WITHOUT ROWID
""",
)
_QUARTER, _DAY, _HELD = 0, 1, 2
"""Kinds of sums: spent in a quarter of an hour, in a day (UTC); held. All in one table, for a commit costs as much as
the pages it changes."""
_BY_RESPONSE = "CREATE UNIQUE INDEX entries_by_response ON entries (response_id) WHERE response_id IS NOT NULL"
BY_LINE = "CREATE INDEX IF NOT EXISTS entries_by_line ON entries (run, custom_id) WHERE batch = 1"
"""Made with the first batch, so that a file without one pays nothing for it; what is a ledger does not depend on it."""

COUNT = """
SELECT COALESCE(SUM(usd), 0), COALESCE(SUM(pico), 0) FROM (
    SELECT usd, pico FROM sums WHERE scope = ?1 AND value = ?2 AND kind = 0 AND slot >= ?3 AND slot < ?4
    UNION ALL SELECT usd, pico FROM sums WHERE scope = ?1 AND value = ?2 AND kind = 1 AND slot >= ?5)
"""
"""Spent in a part of the ledger: scope, value, first quarter, the quarter at which days begin, first day."""
HELD = "SELECT usd, pico FROM sums WHERE scope = ? AND value = ? AND kind = 2"
FIRST_TIME = """
INSERT INTO alerts VALUES (?1, ?2, ?3)
ON CONFLICT DO UPDATE SET mark_us = excluded.mark_us WHERE mark_us <= excluded.mark_us - ?4
"""


def _charge(row: str) -> str:
    """What a row counts as spent: `entries.charge_of`."""
    amount = f"COALESCE({row}.cost, {row}.worst, {row}.estimate, 0)"
    return f"(CASE WHEN {row}.state IN ('posted', 'expired') THEN {amount} ELSE 0 END)"


_ADD_UP = "ON CONFLICT DO UPDATE SET usd = usd + excluded.usd, pico = pico + excluded.pico;"


def _parts(row: str) -> tuple[tuple[str, str, str, str], ...]:
    """The parts of the ledger that a row may belong to: name, when it does, scope and value, and where they stand.

    Each is a trigger of its own, because SQLite inserts one row much faster than the rows of a query.
    """
    value = f"(CASE WHEN json_valid({row}.tags) THEN {row}.tags -> path END)"
    return (
        ("all", "true", "'', ''", ""),
        ("run", f"{row}.run <> ''", f"'run', {row}.run", ""),
        ("tag", f"{row}.tags <> '{{}}'", f"tag, {value}", f"FROM watched WHERE {value} IS NOT NULL"),
    )


def _row(values: str, source: str) -> str:
    return f"SELECT {values} {source}" if source else f"VALUES ({values})"


def _hold(name: str, event: str, row: str, when: str, sign: str) -> Iterator[str]:
    """Triggers that add what a pending row holds, or take it away."""
    usd, pico = (f"{sign}({row}.worst {op} {PICO})" for op in ("/", "%"))
    for part, is_in, key, source in _parts(row):
        yield f"""
CREATE TRIGGER {name}_{part} AFTER {event} ON entries WHEN {when} AND {row}.worst <> 0 AND {is_in} BEGIN
    INSERT INTO sums {_row(f"{key}, {_HELD}, 0, {usd}, {pico}", source)} {_ADD_UP} END
"""


def _spend(name: str, event: str, row: str, when: str, *signed: tuple[str, str]) -> Iterator[str]:
    """Triggers that add what rows count as spent, each with its sign, by quarter and by day."""
    usd, pico = (" ".join(f"{sign} {charge} {op} {PICO}" for sign, charge in signed) for op in ("/", "%"))
    for part, is_in, key, source in _parts(row):
        rows = (
            _row(f"{key}, {kind}, {row}.created_us / {length_us}, {usd}, {pico}", source)
            for kind, length_us in ((_QUARTER, SLOT_US), (_DAY, DAY_US))
        )
        both = " ".join(f"INSERT INTO sums {each} {_ADD_UP}" for each in rows)
        yield f"CREATE TRIGGER {name}_{part} AFTER {event} ON entries WHEN {when} AND {is_in} BEGIN {both} END"


_PENDING, _ENDED = "old.state = 'pending'", "old.state <> 'pending'"
_TRIGGERS = (
    *_hold("entries_begin", "INSERT", "new", "new.state = 'pending'", ""),
    *_hold("entries_free", "UPDATE OF state", "old", _PENDING, "-"),
    *_spend("entries_end", "UPDATE OF state", "new", f"{_PENDING} AND {_charge('new')} <> 0", ("+", _charge("new"))),
    *_spend("entries_news", "UPDATE OF state, cost", "new", _ENDED, ("+", _charge("new")), ("-", _charge("old"))),
    # For a row that somebody deletes because it is damaged.
    *_spend("entries_gone", "DELETE", "old", _ENDED, ("-", _charge("old"))),
    *_hold("entries_lost", "DELETE", "old", _PENDING, "-"),
)


def _recount(scope: str, value: str) -> tuple[str, ...]:
    """Count everything anew for the parts that an expression names; rows for which it is NULL belong to none."""
    charge, parts = _charge("entries"), ", ".join(f"SUM({{0}} {op} {PICO})" for op in ("/", "%"))
    sums = (
        f"INSERT INTO sums SELECT {scope}, {value}, {kind}, created_us / {length_us}, {parts.format(charge)} "
        f"FROM entries WHERE {value} IS NOT NULL AND {charge} <> 0 GROUP BY 2, 4"
        for kind, length_us in ((_QUARTER, SLOT_US), (_DAY, DAY_US))
    )
    held = (
        f"INSERT INTO sums SELECT {scope}, {value}, {_HELD}, 0, {parts.format('worst')} FROM entries "
        f"WHERE {value} IS NOT NULL AND state = 'pending' AND worst <> 0 GROUP BY 2"
    )
    return (*sums, held)


def watch_tag(db: sqlite3.Connection, scope: str) -> None:
    """Let a tag ("tag:team") be counted by its values from now on, and count what there is. Within a transaction."""
    path = f'$."{scope.removeprefix("tag:")}"'
    if db.execute("INSERT OR IGNORE INTO watched VALUES (?, ?)", (scope, path)).rowcount == 1:
        for statement in _recount(f"'{scope}'", f"(CASE WHEN json_valid(tags) THEN tags -> '{path}' END)"):
            db.execute(statement)


_OTHERS = (
    "SELECT 1 FROM sqlite_master WHERE tbl_name NOT IN ("
    + ", ".join(
        f"'{name}'"
        for name in (
            "limits_about",
            "limits_cells",
            "limits_owners",
            "limits_held",
            "limits_waiting",
            "sqlite_sequence",
        )
    )
    + ")"
)
"""Whether there are tables beside those of limits that processes share, which may live in a ledger's file."""


def prepare(db: sqlite3.Connection, path: str) -> None:
    """Make a new file a ledger, or bring an older one up to date.

    Raises  LedgerError when it is a database of something else, or a newer ratecard's
    """
    # In one transaction, because another process may be making the tables of this file right now.
    db.execute("BEGIN")
    application, version = _pragma(db, "application_id"), _pragma(db, "user_version")
    tables = db.execute(_OTHERS).fetchone()
    db.execute("COMMIT")
    if application != APPLICATION_ID:
        if application or tables:
            raise LedgerError(f"{path} is a SQLite database of something else, not a ledger; name another file")
        _retry(db, "PRAGMA journal_mode = WAL")
        _retry(db, "BEGIN EXCLUSIVE")
        # Another process may have made the tables while this one waited.
        if not db.execute(_OTHERS).fetchone():
            for statement in (_ENTRIES, _BY_RESPONSE, *_ADD, *_COUNTERS, *_TRIGGERS):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")
    elif version > VERSION:
        raise LedgerError(f"{path} was written by a newer ratecard (ledger version {version}); upgrade this one")
    elif version < VERSION:
        _retry(db, "BEGIN IMMEDIATE")
        if _pragma(db, "user_version") < VERSION:  # else another process has just done it
            _upgrade(db)
        db.execute("COMMIT")
    db.execute("PRAGMA synchronous = NORMAL")


def _upgrade(db: sqlite3.Connection) -> None:
    """Bring version 1 or 2 up to date: the entries stay as they are; what budgets count of them is counted anew."""
    old = db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for statement in (
        *(f"DROP TRIGGER {name}" for (name,) in old),
        "DROP TABLE sums",
        *_ADD,
        *_COUNTERS,
        *_TRIGGERS,
        *_recount("''", "''"),
        *_recount("'run'", "NULLIF(run, '')"),
        f"PRAGMA user_version = {VERSION}",
    ):
        db.execute(statement)


def _retry(db: sqlite3.Connection, statement: str) -> None:
    """Run a statement that SQLite may refuse at once, without its busy timeout: several processes open one new file."""
    deadline_s = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            db.execute(statement).fetchall()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline_s:
                raise
            time.sleep(0.005)


def _pragma(db: sqlite3.Connection, name: str) -> int:
    value: int = db.execute(f"PRAGMA {name}").fetchone()[0]
    return value
