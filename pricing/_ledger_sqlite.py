"""The book in a SQLite file: survives `kill -9`, and is shared by threads and processes.

Write-ahead log, synchronous=NORMAL: a committed entry survives the death of the process; `sync` makes it survive the
death of the machine, or raises. Amounts are integers of pico-dollars, which fit a column up to 9.2 million dollars per
entry; sums are made in Python.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from ._ledger_budgets import Counted, check_budgets, check_together
from ._ledger_rows import encode, ending_of, row_of, usd_of
from ._ledger_schema import APPLICATION_ID, BUSY_MS, BY_LINE, COUNT, FIRST_TIME, HELD, prepare, watch_tag
from ._ledger_turns import Turns, alone, ending
from .budget import DAY_US, EVERYTHING, SLOT_US, Budget, Scope
from .entries import BATCH_US, EVENT, LEASE_OVER, NEXT, Closing, Entry, duplicate, takes
from .errors import LedgerError
from .money import PICO, Usd

_COLUMNS = ", ".join(Entry._fields)
_INSERT = f"INSERT INTO entries ({_COLUMNS}) VALUES (NULL{', ?' * (len(Entry._fields) - 1)})"
_CLOSE = (
    "UPDATE entries SET state = ?, closed_us = ?, response_id = COALESCE(?, response_id), model = COALESCE(?, model), "
    "service_tier = COALESCE(?, service_tier), cost = ?, components = ?, row_id = ?, table_version = ?, usage = ?, "
    "exact = ?, why = ?, request_id = COALESCE(?, request_id), latency_us = COALESCE(?, latency_us) WHERE id = ?"
)
_HELD_FROM = f"created_us + batch * {BATCH_US}"
_LOST = (
    "UPDATE entries SET state = 'expired', closed_us = ?, exact = 0, why = ? "
    f"WHERE state = 'pending' AND {_HELD_FROM} < ?"
)
_LINE = "FROM entries WHERE batch = 1 AND run = ? AND custom_id = ? ORDER BY id DESC LIMIT 1"


def _leaves(event: str) -> str:
    """The states in which an entry still takes this event, in SQL."""
    return "state IN (" + ", ".join(f"'{state}'" for state, each in NEXT if each == event) + ")"


_END = {event: f"{_CLOSE} AND {_leaves(event)}" for _, event in NEXT}
_ATTACH = f"UPDATE OR IGNORE entries SET response_id = ? WHERE id = ? AND {_leaves('post')}"
_COMPLAINTS = (sqlite3.Error, OverflowError, UnicodeError)  # the last from texts, and from SQLite's messages on rot


class SqliteBook(Turns):
    """Entries in a SQLite file, through one connection per process."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._tags: set[str] = set()  # names of tags that are known to be counted apart
        self._oldest_us: int | None = None  # no lease of what holds runs from before; None when that is not known
        _BOOKS.add(self)
        with self._lock, self._reporting():
            self._connect()

    @alone
    def insert(self, entry: Entry, budgets: tuple[Budget, ...], lost_us: int) -> tuple[int, list[Counted]]:
        row = row_of(entry)
        if not budgets:
            counted: list[Counted] = []
            entry_id = self._execute(_INSERT, row).lastrowid
        else:
            with self._writing() as db:
                self._give_up(db, entry.created_us, lost_us)
                counted = check_budgets(
                    budgets, entry, lambda budget, scope: self._count(db, budget, scope, entry.created_us)
                )
                entry_id = db.execute(_INSERT, row).lastrowid
        assert entry_id is not None
        return entry_id, counted

    @alone
    def counted(self, budget: Budget, scope: Scope, now_us: int, lost_us: int) -> tuple[Usd, Usd]:
        with self._writing() as db:
            self._give_up(db, now_us, lost_us)
            return self._count(db, budget, scope, now_us)

    @alone
    def first_time(self, budget: str, percent: int, mark_us: int, every_us: int) -> bool:
        return self._execute(FIRST_TIME, (budget, percent, mark_us, every_us)).rowcount == 1

    @ending
    def attach(self, entry_id: int, response_id: str, now_us: int) -> bool:
        if self._execute(_ATTACH, (response_id, entry_id)).rowcount == 1:
            return True
        with self._writing() as db:  # it ended, or another entry has this response id
            if not _takes(db, entry_id, "post"):
                return False
            holder = _holder(db, response_id)
            if holder is None:
                return db.execute(_ATTACH, (response_id, entry_id)).rowcount == 1
            db.execute(_CLOSE, ending_of(duplicate(holder[0], now_us), entry_id))
            return False

    @ending
    def close_entry(self, entry_id: int, event: str, closing: Closing) -> bool:
        try:
            return self._execute(_END[event], ending_of(closing, entry_id)).rowcount == 1
        except LedgerError as error:
            if not isinstance(error.__cause__, sqlite3.IntegrityError) or closing.response_id is None:
                raise
        with self._writing() as db:  # another entry has this response id
            return _close_entry(db, entry_id, event, closing)

    @ending
    def close_response(self, response_id: str, closing: Closing, fallback: Entry | None) -> bool:
        with self._writing() as db:
            holder = _holder(db, response_id)
            if fallback is None:
                return holder is not None and db.execute(_END["expire"], ending_of(closing, holder[0])).rowcount == 1
            if holder is None:
                holder = (db.execute(_INSERT, row_of(fallback)).lastrowid, "pending", False)
            return _bill(db, holder, closing)

    @alone
    def book_lines(
        self, entries: Sequence[Entry], budgets: tuple[Budget, ...], lost_us: int
    ) -> tuple[list[int], list[Counted]]:
        with self._writing_lines() as db:
            have = f"SELECT 1 {_LINE}"
            fresh = [one for one in entries if db.execute(have, (one.run, one.custom_id)).fetchone() is None]
            counted: list[Counted] = []
            if budgets and fresh:
                now_us = fresh[0].created_us
                self._give_up(db, now_us, lost_us)
                counted = check_together(budgets, fresh, lambda budget, scope: self._count(db, budget, scope, now_us))
            ids = [db.execute(_INSERT, row_of(entry)).lastrowid or 0 for entry in fresh]
            self._oldest_us = None  # they may be of an earlier day
        return ids, counted

    @alone
    def booked_lines(self, batch_id: str, custom_ids: Sequence[str]) -> dict[str, Entry]:
        query = f"SELECT {_COLUMNS} {_LINE}"
        with self._writing_lines() as db:
            rows = {name: db.execute(query, (batch_id, name)).fetchone() for name in custom_ids}
        return {name: self._entry(row) for name, row in rows.items() if row is not None}

    @alone
    def settle_lines(self, news: Sequence[tuple[Entry, Closing]]) -> list[int]:
        with self._writing_lines() as db:
            return [_settle(db, fresh, closing) for fresh, closing in news]

    @contextmanager
    def _writing_lines(self) -> Iterator[sqlite3.Connection]:
        """One transaction that may look for lines of batches: their index comes with the first of them."""
        with self._writing() as db:
            db.execute(BY_LINE)
            yield db

    def find(self, response_id: str) -> Entry | None:
        query = f"SELECT {_COLUMNS} FROM entries WHERE response_id = ?"
        with self._lock, self._reporting():
            row = self._connected().execute(query, (response_id,)).fetchone()
        return None if row is None else self._entry(row)

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
                yield self._entry(row)
            if len(rows) < 1000:
                return
            values[0] = rows[-1][0]

    def latest(self, count: int) -> list[Entry]:
        query = f"SELECT {_COLUMNS} FROM entries WHERE state = 'posted' AND exact = 1 ORDER BY id DESC LIMIT ?"
        with self._lock, self._reporting():
            rows = self._connected().execute(query, (count,)).fetchall()
        return [self._entry(row) for row in rows]

    @alone
    def sync(self) -> None:
        self._catch_up()
        with self._reporting():
            db = self._connected()
            # A commit with synchronous=FULL forces the whole log to disk, and so every commit before it. A checkpoint
            # alone would not: it does nothing, and says so only in its answer, while another process reads or writes.
            db.execute("PRAGMA synchronous = FULL")
            try:
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")  # writes a page, and changes nothing
            finally:
                db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        self._close()

    @ending
    def _close(self) -> bool:
        try:
            self._catch_up()
        finally:
            self._closed = True
            self._disconnect()
        return True

    def _disconnect(self) -> None:
        """Let go of the connection. The caller holds the lock."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _repair(self) -> None:
        db = self._connection
        if db is not None and db.in_transaction:
            db.execute("ROLLBACK")

    def _give_up(self, db: sqlite3.Connection, now_us: int, lost_us: int) -> None:
        """End what is pending for longer than its lease. The entries are only looked through when there may be one."""
        if self._oldest_us is not None and self._oldest_us >= lost_us:
            return
        oldest_us = None
        if db.execute(HELD, EVERYTHING).fetchone() not in (None, (0, 0)):
            db.execute(_LOST, (now_us, LEASE_OVER, lost_us))
            (oldest_us,) = db.execute(f"SELECT MIN({_HELD_FROM}) FROM entries WHERE state = 'pending'").fetchone()
        self._oldest_us = now_us if oldest_us is None else min(oldest_us, now_us)

    def _count(self, db: sqlite3.Connection, budget: Budget, scope: Scope, now_us: int) -> tuple[Usd, Usd]:
        """What a budget counts: spent in its window, and held by everything pending."""
        name, value = scope
        if name.startswith("tag:"):
            value = encode(value)
            if name not in self._tags:
                watch_tag(db, name)
                self._tags.add(name)
        start_us = budget.start_us(now_us)
        day = -(-start_us // DAY_US)  # the first whole one
        usd, pico = db.execute(COUNT, (name, value, start_us // SLOT_US, day * DAY_US // SLOT_US, day)).fetchone()
        held = db.execute(HELD, (name, value)).fetchone() or (0, 0)
        return Usd(usd * PICO + pico), Usd(held[0] * PICO + held[1])

    def _execute(self, statement: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        """One statement, which is one transaction. The caller has its turn, as everywhere below."""
        try:
            return (self._connection or self._connected()).execute(statement, values)
        except _COMPLAINTS as error:
            raise self._report(error) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction of several statements."""
        with self._reporting():
            db = self._connected()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                self._tags.clear()  # what was found out may be taken back as well
                self._oldest_us = None
                if db.in_transaction:  # a full disk has rolled back already
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except _COMPLAINTS as error:
            raise self._report(error) from error

    def _report(self, error: Exception) -> LedgerError:
        """Turn SQLite's complaint into one that names the file and what to do."""
        if isinstance(error, OverflowError):
            return LedgerError(f"ledger {self._path}: a number that no column holds")
        if isinstance(error, UnicodeEncodeError):
            return LedgerError(f"ledger {self._path}: {error.object[:80]!a} is no text that can be written")
        if isinstance(error, UnicodeError):
            return LedgerError(f"ledger {self._path}: the file is damaged: name another file, or restore a backup")
        return LedgerError(f"ledger {self._path}: {error}{_advice(str(error))}")

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        entry = Entry(*row)
        try:
            datetime.fromtimestamp(entry.created_us // 1_000_000, UTC)
            return entry._replace(
                tags={str(name): str(text) for name, text in json.loads(row[7]).items()},
                batch=bool(entry.batch),
                estimate=usd_of(row[12]),
                worst=usd_of(row[13]),
                cost=usd_of(row[14]),
                components={name: Usd(pico) for name, pico in json.loads(row[15]).items()},
                usage={name: int(count) for name, count in json.loads(row[18]).items()},
                exact=bool(entry.exact),
                expected={name: int(count) for name, count in json.loads(row[28]).items()},
            )
        except (ValueError, TypeError, AttributeError, OverflowError, OSError) as error:
            raise LedgerError(
                f"ledger {self._path}: entry {entry.id} is damaged ({error}): restore a backup, or delete that row"
            ) from error

    def _connected(self) -> sqlite3.Connection:
        """The connection; made again after a fork. The caller holds the lock."""
        if self._connection is None:
            if self._closed:
                raise LedgerError(f"ledger {self._path}: closed; what is asked of it now is neither read nor written")
            self._connect()
        assert self._connection is not None
        return self._connection

    def _connect(self) -> None:
        try:
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)
        except sqlite3.Error as error:
            raise self._report(error) from error
        try:
            prepare(db, self._path)
        except BaseException:
            db.close()
            raise
        self._connection = db


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
            book._disconnect()


def _after_fork() -> None:
    """Let go of the locks; both sides connect again when they next need to."""
    while _forking:
        _forking.pop()._lock.release()
    _FORK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def _takes(db: sqlite3.Connection, entry_id: int, event: str) -> bool:
    row = db.execute("SELECT state FROM entries WHERE id = ?", (entry_id,)).fetchone()
    return row is not None and (row[0], event) in NEXT


def _close_entry(db: sqlite3.Connection, entry_id: int, event: str, closing: Closing) -> bool:
    """End an entry whose response another entry may have. Within a transaction."""
    if not _takes(db, entry_id, event):
        return False
    holder = _holder(db, closing.response_id) if closing.response_id else None
    if holder is None or holder[0] == entry_id:
        return db.execute(_CLOSE, ending_of(closing, entry_id)).rowcount == 1
    db.execute(_CLOSE, ending_of(duplicate(holder[0], closing.closed_us), entry_id))
    return event == "post" and _bill(db, holder, closing)


def _settle(db: sqlite3.Connection, fresh: Entry, closing: Closing) -> int:
    """End the entry of a line of a batch; the id of the entry that this changed, or 0."""
    row = db.execute(f"SELECT id, state {_LINE}", (fresh.run, fresh.custom_id)).fetchone()
    if row is None or row[1] == "voided":
        if closing.state == "voided" or (closing.response_id and _holder(db, closing.response_id)):
            return 0
        row = (db.execute(_INSERT, row_of(fresh)).lastrowid,)
    return row[0] if _close_entry(db, row[0], EVENT[closing.state], closing) else 0


def _holder(db: sqlite3.Connection, response_id: str) -> Any:
    """Id, state and exactness of the entry that has this response id, or None.

    A voided one gives it up: it said that nothing was billed.
    """
    row = db.execute("SELECT id, state, exact FROM entries WHERE response_id = ?", (response_id,)).fetchone()
    if row is not None and row[1] == "voided":
        db.execute("UPDATE entries SET response_id = NULL WHERE id = ?", (row[0],))
        return None
    return row


def _bill(db: sqlite3.Connection, holder: Any, closing: Closing) -> bool:
    entry_id, state, exact = holder
    if takes(state, bool(exact), closing):
        db.execute(_CLOSE, ending_of(closing, entry_id))
        return bool(state != "posted")
    return False


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
