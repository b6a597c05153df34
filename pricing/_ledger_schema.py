"""The tables of a ledger file: how they are made, and how an older file's are brought up to date.

What budgets count is kept by triggers (the charge is `ledger.charge_of` in SQL), so that an entry begins and ends in
one statement each, which is one transaction. Sums are kept in dollars and the pico-dollars beyond them, because a
column ends at 9.2 million dollars.
"""

from __future__ import annotations

import re
import sqlite3
import time

from .errors import LedgerError
from .money import PICO

APPLICATION_ID = 0x72617465  # "rate"
VERSION = 2  # 1 counted an expired entry at its estimate, and let it change no more
BUSY_MS = 15_000

_TABLES = (
    """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, state TEXT NOT NULL, model TEXT NOT NULL, endpoint TEXT NOT NULL, response_id TEXT,
    custom_id TEXT, run TEXT, tags TEXT NOT NULL, service_tier TEXT, batch INTEGER NOT NULL,
    created_us INTEGER NOT NULL, closed_us INTEGER, estimate INTEGER, worst INTEGER, cost INTEGER,
    components TEXT NOT NULL, row_id TEXT, table_version TEXT, usage TEXT NOT NULL, exact INTEGER NOT NULL, why TEXT
    NOT NULL
) STRICT
""",
    "CREATE UNIQUE INDEX entries_by_response ON entries (response_id) WHERE response_id IS NOT NULL",
    """
CREATE TABLE sums (
    run TEXT NOT NULL, hour INTEGER NOT NULL,
    spent_usd INTEGER NOT NULL, spent_pico INTEGER NOT NULL, held_usd INTEGER NOT NULL, held_pico INTEGER NOT NULL,
    PRIMARY KEY (run, hour)
) STRICT, WITHOUT ROWID
""",
)

_SUMS = {
    f"{name}_{unit}": f"({amount}) {operator} {PICO}"
    for name, amount in (
        ("spent", "CASE WHEN state IN ('posted', 'expired') THEN COALESCE(cost, worst, estimate, 0) ELSE 0 END"),
        ("held", "CASE state WHEN 'pending' THEN COALESCE(worst, 0) ELSE 0 END"),
    )
    for unit, operator in (("usd", "/"), ("pico", "%"))
}
"""What an entry adds to each column of its sums."""


def _change(*rows: str, columns: str = "") -> str:
    """Add what an entry counts, as "+ new", and take away what it counted, as "- old"; in all columns, or in some."""
    changes = []
    for column, amount in _SUMS.items():
        if column.startswith(columns):
            parts = (
                f"{row[:2]}" + re.sub(r"\b(state|cost|worst|estimate)\b", rf"{row[2:]}.\1", amount) for row in rows
            )
            changes.append(f"{column} = {column} {' '.join(parts)}")
    return ", ".join(changes)


_KEY = "run = COALESCE(old.run, '') AND hour = old.created_us / 3600000000"
_TRIGGERS = (
    # Entries are only ever inserted pending.
    f"""
CREATE TRIGGER entries_begin AFTER INSERT ON entries BEGIN
    INSERT INTO sums (run, hour, {", ".join(_SUMS)}) VALUES (COALESCE(new.run, ''), new.created_us / 3600000000, 0, 0,
        COALESCE(new.worst, 0) / {PICO}, COALESCE(new.worst, 0) % {PICO})
    ON CONFLICT (run, hour) DO UPDATE SET
        held_usd = held_usd + excluded.held_usd, held_pico = held_pico + excluded.held_pico; END
""",
    # The first end and the later news apart, because the first is the everyday one and has less to do.
    f"""
CREATE TRIGGER entries_end AFTER UPDATE OF state ON entries WHEN old.state = 'pending' BEGIN UPDATE sums SET
    held_usd = held_usd - COALESCE(old.worst, 0) / {PICO}, held_pico = held_pico - COALESCE(old.worst, 0) % {PICO},
    {_change("+ new", columns="spent")} WHERE {_KEY}; END
""",
    f"""
CREATE TRIGGER entries_news AFTER UPDATE OF state, cost ON entries WHEN old.state <> 'pending' BEGIN UPDATE sums SET
    {_change("+ new", "- old", columns="spent")} WHERE {_KEY}; END
""",
    # For a row that somebody deletes because it is damaged.
    f"""
CREATE TRIGGER entries_gone AFTER DELETE ON entries BEGIN UPDATE sums SET {_change("- old")} WHERE {_KEY}; END
""",
)
_COUNT = f"""
INSERT INTO sums (run, hour, {", ".join(_SUMS)})
SELECT COALESCE(run, ''), created_us / 3600000000, {", ".join(f"SUM({part})" for part in _SUMS.values())}
FROM entries GROUP BY 1, 2
"""


def prepare(db: sqlite3.Connection, path: str) -> None:
    """Make a new file a ledger, or bring an older one up to date.

    Raises  LedgerError when it is a database of something else, or a newer ratecard's
    """
    # In one transaction, because another process may be making the tables of this file right now.
    db.execute("BEGIN")
    application, version = _pragma(db, "application_id"), _pragma(db, "user_version")
    tables = db.execute("SELECT 1 FROM sqlite_master").fetchone()
    db.execute("COMMIT")
    if application != APPLICATION_ID:
        if application or tables:
            raise LedgerError(f"{path} is a SQLite database of something else, not a ledger; name another file")
        _retry(db, "PRAGMA journal_mode = WAL")
        _retry(db, "BEGIN EXCLUSIVE")
        # Another process may have made the tables while this one waited.
        if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in (*_TABLES, *_TRIGGERS):
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
    """Version 1 → 2: the entries stay as they are; what budgets count of them is counted anew."""
    for statement in ("DROP TRIGGER entries_begin", "DROP TRIGGER entries_end", "DELETE FROM sums", _COUNT, *_TRIGGERS):
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {VERSION}")


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
