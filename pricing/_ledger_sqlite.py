"""The book in a SQLite file: survives `kill -9`, and is shared by threads and processes.

Write-ahead log, synchronous=NORMAL: a committed entry survives the death of the process; `sync` makes it survive the
death of the machine. Amounts are integers of pico-dollars, which fit a column up to 9.2 million dollars per entry; sums
are made in Python.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .budget import Budget
from .errors import LedgerError
from .ledger import HOUR_US, NEXT, Closing, Entry, charge_of, check_budget
from .money import Usd

APPLICATION_ID = 0x72617465  # "rate"
VERSION = 1
BUSY_MS = 15_000

_SCHEMA = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, state TEXT NOT NULL, model TEXT NOT NULL, endpoint TEXT NOT NULL, response_id TEXT,
    custom_id TEXT, run TEXT, tags TEXT NOT NULL, service_tier TEXT, batch INTEGER NOT NULL,
    created_us INTEGER NOT NULL, closed_us INTEGER, estimate INTEGER, worst INTEGER, cost INTEGER,
    components TEXT NOT NULL, row_id TEXT, table_version TEXT, usage TEXT NOT NULL, exact INTEGER NOT NULL, why TEXT
    NOT NULL
) STRICT;
CREATE UNIQUE INDEX entries_by_response ON entries (response_id) WHERE response_id IS NOT NULL;
CREATE INDEX entries_pending ON entries (run, worst) WHERE state = 'pending';
CREATE TABLE spent (
    run TEXT NOT NULL, hour INTEGER NOT NULL, pico INTEGER NOT NULL, PRIMARY KEY (run, hour)
) STRICT, WITHOUT ROWID;
"""
_COLUMNS = ", ".join(Entry._fields)
_INSERT = f"INSERT INTO entries ({_COLUMNS}) VALUES (NULL{', ?' * (len(Entry._fields) - 1)})"
_FIND = "SELECT state, run, created_us, estimate, worst FROM entries WHERE id = ?"
_FIND_RESPONSE = "SELECT id, state FROM entries WHERE response_id = ?"
_CLOSE = (
    "UPDATE entries SET state = ?, closed_us = ?, response_id = COALESCE(?, response_id), model = COALESCE(?, model), "
    "service_tier = COALESCE(?, service_tier), cost = ?, components = ?, row_id = ?, table_version = ?, usage = ?, "
    "exact = ?, why = ? WHERE id = ?"
)
_SPEND = (
    "INSERT INTO spent (run, hour, pico) VALUES (?, ?, ?) "
    "ON CONFLICT (run, hour) DO UPDATE SET pico = pico + excluded.pico"
)


class SqliteBook:
    """Entries in a SQLite file, through one connection per process."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        _BOOKS.add(self)
        with self._lock, self._reporting():
            self._connect()

    def insert(self, entry: Entry, budgets: tuple[Budget, ...]) -> int:
        row = _row(entry)
        with self._writing(explicit=bool(budgets)) as db:
            for budget in budgets:
                spent, held = self._spent_in(db, budget, entry.created_us), self._held(db, budget.run)
                check_budget(budget, spent, held, entry.worst)
            entry_id = db.execute(_INSERT, row).lastrowid
        assert entry_id is not None
        return entry_id

    def attach(self, entry_id: int, response_id: str) -> bool:
        with self._writing(explicit=False) as db:
            changed = db.execute(
                "UPDATE OR IGNORE entries SET response_id = ? WHERE id = ? AND state = 'pending'",
                (response_id, entry_id),
            )
            return changed.rowcount == 1

    def close_entry(self, entry_id: int, event: str, closing: Closing) -> bool:
        with self._writing() as db:
            found = db.execute(_FIND, (entry_id,)).fetchone()
            if found is None or (found[0], event) not in NEXT:
                return False
            if event == "post" and closing.response_id:
                other = db.execute(_FIND_RESPONSE, (closing.response_id,)).fetchone()
                if other is not None and other[0] != entry_id:
                    if other[1] == "posted":
                        duplicate = Closing("voided", closing.closed_us, why=f"duplicate of entry {other[0]}")
                        self._end(db, entry_id, found, duplicate)
                        return False
                    # An entry that was never posted had this id; this one has the news, so it takes the id over.
                    db.execute("UPDATE entries SET response_id = NULL WHERE id = ?", (other[0],))
            self._end(db, entry_id, found, closing)
            return True

    def close_response(self, response_id: str, closing: Closing, fallback: Entry) -> bool:
        with self._writing() as db:
            waiting = db.execute(_FIND_RESPONSE, (response_id,)).fetchone()
            if waiting is not None and waiting[1] != "pending":
                return False
            entry_id: Any = waiting[0] if waiting is not None else db.execute(_INSERT, _row(fallback)).lastrowid
            self._end(db, entry_id, db.execute(_FIND, (entry_id,)).fetchone(), closing)
            return True

    def entries(self, state: str | None, since_us: int | None, run: str | None) -> Iterator[Entry]:
        wanted, values = ["id > ?"], [0]
        for column, operator, value in (("state", "=", state), ("created_us", ">=", since_us), ("run", "=", run)):
            if value is not None:
                wanted.append(f"{column} {operator} ?")
                values.append(value)  # type: ignore[arg-type]  # SQLite takes texts and numbers alike
        query = f"SELECT {_COLUMNS} FROM entries WHERE {' AND '.join(wanted)} ORDER BY id LIMIT 1000"
        while True:
            # Page by page, so that a long ledger is read in little memory and writers are not held up.
            # The lock, because this connection would also read what another thread is about to commit or roll back.
            with self._lock, self._reporting():
                rows = self._connected().execute(query, values).fetchall()
            for row in rows:
                yield _entry(row)
            if len(rows) < 1000:
                return
            values[0] = rows[-1][0]

    def sync(self) -> None:
        with self._lock, self._reporting():
            self._connected().execute("PRAGMA wal_checkpoint(FULL)").fetchall()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _end(self, db: sqlite3.Connection, entry_id: int, found: tuple[Any, ...], closing: Closing) -> None:
        _, run, created_us, estimate, worst = found
        db.execute(
            _CLOSE,
            (
                closing.state,
                closing.closed_us,
                closing.response_id,
                closing.model,
                closing.service_tier,
                _column(closing.cost),
                _amounts(closing.components),
                closing.row_id,
                closing.table_version,
                _json(closing.usage),
                int(closing.exact),
                closing.why,
                entry_id,
            ),
        )
        charge = charge_of(closing, _usd(estimate), _usd(worst))
        if charge:
            db.execute(_SPEND, (run or "", created_us // HOUR_US, charge))

    def _spent_in(self, db: sqlite3.Connection, budget: Budget, now_us: int) -> Usd:
        query, values = "SELECT pico FROM spent WHERE hour >= ?", [budget.start_us(now_us) // HOUR_US]
        if budget.run is not None:
            query += " AND run = ?"
            values.append(budget.run)  # type: ignore[arg-type]  # as above
        return Usd(sum(pico for (pico,) in db.execute(query, values)))

    def _held(self, db: sqlite3.Connection, run: str | None) -> Usd:
        query, values = "SELECT worst FROM entries WHERE state = 'pending' AND worst IS NOT NULL", []
        if run is not None:
            query += " AND run = ?"
            values.append(run)
        return Usd(sum(pico for (pico,) in db.execute(query, values)))

    @contextmanager
    def _writing(self, explicit: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction; a single statement needs no explicit one."""
        with self._lock, self._reporting():
            db = self._connected()
            if not explicit:
                yield db
                return
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # a full disk has rolled back already
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn SQLite's complaints into one that names the file and what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise LedgerError(f"ledger {self._path}: {error}{_advice(str(error))}") from error
        except OverflowError as error:
            raise LedgerError(f"ledger {self._path}: an amount above 9.2 million dollars in one entry") from error
        except UnicodeEncodeError as error:
            raise LedgerError(f"ledger {self._path}: {error.object[:80]!a} is no text that can be written") from error

    def _connected(self) -> sqlite3.Connection:
        """The connection; made again after a fork. The caller holds the lock."""
        if self._connection is None:
            self._connect()
        assert self._connection is not None
        return self._connection

    def _connect(self) -> None:
        try:
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
        except sqlite3.Error as error:
            raise LedgerError(f"ledger {self._path}: {error}{_advice(str(error))}") from error
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        self._connection = db

    def _prepare(self, db: sqlite3.Connection) -> None:
        # In one transaction, because another process may be making the tables of this file right now.
        db.execute("BEGIN")
        application, version = _pragma(db, "application_id"), _pragma(db, "user_version")
        tables = db.execute("SELECT 1 FROM sqlite_master").fetchone()
        db.execute("COMMIT")
        if application != APPLICATION_ID:
            if application or tables:
                raise LedgerError(
                    f"{self._path} is a SQLite database of something else, not a ledger; name another file"
                )
            _retry(db, "PRAGMA journal_mode = WAL")
            _retry(db, "BEGIN EXCLUSIVE")
            # Another process may have made the tables while this one waited.
            if not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in _SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {VERSION}")
            db.execute("COMMIT")
        elif version > VERSION:
            raise LedgerError(
                f"{self._path} was written by a newer ratecard (ledger version {version}); upgrade this one"
            )
        db.execute("PRAGMA synchronous = NORMAL")


_BOOKS: weakref.WeakSet[SqliteBook] = weakref.WeakSet()
_FORK = threading.RLock()
_forking: list[SqliteBook] = []


def _before_fork() -> None:
    """Close the connections, and hold the locks, until the fork is over.

    A SQLite connection must not be carried into a child, not even unused: POSIX locks stay with the parent while the
    child's copy believes that it has them, so the parent's close would take the write-ahead log away under the
    child's writes.
    """
    _FORK.acquire()
    for book in list(_BOOKS):
        book._lock.acquire()
        _forking.append(book)
        with suppress(sqlite3.Error):
            book.close()


def _after_fork() -> None:
    """Let go of the locks; both sides connect again when they next need to."""
    while _forking:
        _forking.pop()._lock.release()
    _FORK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


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


def _advice(problem: str) -> str:
    if "not a database" in problem or "malformed" in problem:
        return "; the file is damaged or is something else: name another file, or restore a backup"
    if "unable to open" in problem:
        return "; is it a folder, or is its folder missing?"
    if "readonly" in problem:
        return "; it cannot be written by this user"
    if "locked" in problem:
        return f"; another process has held it for {BUSY_MS // 1000} s"
    return ""


def _row(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.state,
        entry.model,
        entry.endpoint,
        entry.response_id,
        entry.custom_id,
        entry.run,
        _json(entry.tags),
        entry.service_tier,
        int(entry.batch),
        entry.created_us,
        entry.closed_us,
        _column(entry.estimate),
        _column(entry.worst),
        _column(entry.cost),
        _amounts(entry.components),
        entry.row_id,
        entry.table_version,
        _json(entry.usage),
        int(entry.exact),
        entry.why,
    )


def _entry(row: tuple[Any, ...]) -> Entry:
    entry = Entry(*row)
    return entry._replace(
        tags=json.loads(row[7]),
        batch=bool(entry.batch),
        estimate=_usd(row[12]),
        worst=_usd(row[13]),
        cost=_usd(row[14]),
        components={name: Usd(pico) for name, pico in json.loads(row[15]).items()},
        usage=json.loads(row[18]),
        exact=bool(entry.exact),
    )


def _json(mapping: Any) -> str:
    return json.dumps(mapping) if mapping else "{}"


def _amounts(components: Any) -> str:
    return json.dumps({name: amount.pico for name, amount in components.items()}) if components else "{}"


def _column(amount: Usd | None) -> int | None:
    return None if amount is None else amount.pico


def _usd(pico: int | None) -> Usd | None:
    return None if pico is None else Usd(pico)
