"""The file that processes share limits through: how it is opened, locked and found wanting.

One transaction at a time changes it (BEGIN IMMEDIATE), in a write-ahead log. synchronous=NORMAL forces nothing to disk
on a commit, only now and then when the log is copied back. So a commit survives the death of every process; a machine
that loses power may forget the last ones, and loses nothing by that: what was spent before it stopped is counted as
just spent when it starts again. The file may be a ledger's too: its tables are named `limits_…`, and have a version of
their own.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from contextlib import suppress

from ..errors import StoreUnavailable

VERSION = 1
_LEDGER_ID = 0x72617465
"""The application id of a ledger (pricing): its tables and ours may share a file."""
_SCHEMA = (
    "CREATE TABLE limits_about (version INTEGER NOT NULL, boot TEXT NOT NULL) STRICT",
    """
CREATE TABLE limits_cells (
    key TEXT NOT NULL UNIQUE, kind INTEGER NOT NULL, at_us INTEGER NOT NULL, tat_us INTEGER NOT NULL,
    wanted_us INTEGER NOT NULL, closed_us INTEGER NOT NULL, braced_us INTEGER NOT NULL, braced_by INTEGER NOT NULL,
    braced_until_us INTEGER NOT NULL, window_us INTEGER NOT NULL, seq INTEGER NOT NULL, first INTEGER NOT NULL,
    state BLOB NOT NULL
) STRICT
""",
    """
CREATE TABLE limits_owners (
    id INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, start INTEGER NOT NULL, space INTEGER NOT NULL,
    renewed_us INTEGER NOT NULL
) STRICT
""",
    """
CREATE TABLE limits_held (
    key TEXT NOT NULL, owner INTEGER NOT NULL, held INTEGER NOT NULL, PRIMARY KEY (key, owner)
) STRICT, WITHOUT ROWID
""",
    """
CREATE TABLE limits_waiting (
    owner INTEGER NOT NULL, file TEXT NOT NULL, asked_us INTEGER NOT NULL, until_us INTEGER NOT NULL,
    spare_ppm INTEGER NOT NULL, wants TEXT NOT NULL, PRIMARY KEY (owner, file)
) STRICT, WITHOUT ROWID
""",
)
_AFTER_A_START = (
    "DELETE FROM limits_owners",
    "DELETE FROM limits_held",
    "DELETE FROM limits_waiting",
)


class LimitsFile:
    """One connection to the file, made again after a fork. The caller lets one thread at a time use it.

    boot    which start of the machine the clock counts from
    busy_s  how long to wait for another process that holds the file
    """

    def __init__(self, path: str, boot: str, busy_s: float) -> None:
        self.path = path
        self._boot = boot
        self._busy_s = busy_s
        self._db: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None
        self._statements: dict[tuple[str, int], str] = {}
        self.restarted = False

    def begin(self, busy_s: float | None = None) -> sqlite3.Connection:
        """Begin a transaction that may write. Raises StoreUnavailable."""
        try:
            db = self._db or self._connect()
            self._wait_for(db, "BEGIN IMMEDIATE", self._busy_s if busy_s is None else busy_s)
        except sqlite3.Error as error:
            raise self.report(error) from error
        if self._identity() != self._inode:
            db.execute("ROLLBACK")
            raise StoreUnavailable(
                f"limits {self.path}: the file was deleted or replaced while it was in use, so what others spend is "
                "not known any more; restart the processes that use it"
            )
        return db

    def reading(self) -> sqlite3.Connection:
        """A connection for one reading statement. Raises StoreUnavailable."""
        try:
            return self._db or self._connect()
        except sqlite3.Error as error:
            raise self.report(error) from error

    def roll_back(self) -> None:
        """Take back what a transaction has done so far, if one runs."""
        if self._db is not None and self._db.in_transaction:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def disconnect(self) -> None:
        """Let go of the connection; the next call makes another one."""
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    def report(self, error: Exception) -> StoreUnavailable:
        """Turn a complaint into one that names the file and what to do."""
        problem = str(error)
        return StoreUnavailable(f"limits {self.path}: {problem}{_advice(problem, self._busy_s)}")

    def _connect(self) -> sqlite3.Connection:
        if self._inode is not None and self._identity() != self._inode:
            raise StoreUnavailable(f"limits {self.path}: the file was deleted or replaced; restart the processes")
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=0)
        try:
            self._prepare(db)
            self._inode = self._identity()
        except BaseException:
            db.close()
            raise
        self._db = db
        return db

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _prepare(self, db: sqlite3.Connection) -> None:
        busy_s = self._busy_s
        self._wait_for(db, "SELECT 1 FROM sqlite_master", busy_s)
        ours = "SELECT 1 FROM sqlite_master WHERE name = 'limits_about'"
        if db.execute(ours).fetchone() is None:
            (application,) = db.execute("PRAGMA application_id").fetchone()
            others = db.execute("SELECT 1 FROM sqlite_master").fetchone()
            # Another process may be making the tables right now: then it is not another program's file.
            if application != _LEDGER_ID and (application or others) and db.execute(ours).fetchone() is None:
                raise StoreUnavailable(
                    f"limits {self.path}: a SQLite database of something else; name another file, or a ledger"
                )
            self._wait_for(db, "PRAGMA journal_mode = WAL", busy_s)
            self._wait_for(db, "BEGIN IMMEDIATE", busy_s)
            if db.execute(ours).fetchone() is None:
                for statement in _SCHEMA:
                    db.execute(statement)
                db.execute("INSERT INTO limits_about VALUES (?, ?)", (VERSION, self._boot))
            db.execute("COMMIT")
        row = db.execute("SELECT version, boot FROM limits_about").fetchone()
        if row is None or row[0] > VERSION:
            version = "unknown" if row is None else row[0]
            raise StoreUnavailable(
                f"limits {self.path}: written by a newer ratecard (limits version {version}); upgrade this one, or "
                "name another file"
            )
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA wal_autocheckpoint = 4000")
        self.restarted = row[1] != self._boot

    def restart(self, db: sqlite3.Connection) -> bool:
        """Say whether what is written is of before the machine was started, and clear away who held something then.

        Within a transaction: another process may have done so.
        """
        (boot,) = db.execute("SELECT boot FROM limits_about").fetchone()
        if boot == self._boot:
            return False
        for statement in _AFTER_A_START:
            db.execute(statement)
        db.execute("UPDATE limits_about SET boot = ?", (self._boot,))
        return True

    def _wait_for(self, db: sqlite3.Connection, statement: str, busy_s: float) -> None:
        """Run a statement, and again while another process holds the file.

        Not by SQLite's own patience: it sleeps up to 0.1 s at a time, and a lock here lasts 0.1 ms.
        """
        until_s, pause_s = 0.0, 0.000_05
        while True:
            try:
                db.execute(statement).fetchall()
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise
                now_s = time.monotonic()
                until_s = until_s or now_s + busy_s
                if now_s >= until_s:
                    raise
            time.sleep(pause_s * (0.5 + random.random()))
            pause_s = min(2 * pause_s, 0.005)


def _advice(problem: str, busy_s: float) -> str:
    if "not a database" in problem or "malformed" in problem:
        return "; the file is damaged or is something else: delete it while nobody uses it, or name another"
    if "unable to open" in problem:
        return "; is it a folder, or is its folder missing?"
    if "readonly" in problem:
        return "; it cannot be written by this user, and what nobody writes down nobody else can obey"
    if "locked" in problem:
        return f"; another process has held it for {busy_s:g} s"
    return ""
