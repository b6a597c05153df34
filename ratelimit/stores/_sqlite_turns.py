"""Turns: one call at a time changes the file through a connection, whatever threads, garbage and forks do meanwhile.

A collection of garbage, or a signal, may run any code between two steps of a transaction, on the same thread: it may
close an abandoned stream, and that ends a booking. A lock cannot keep it out (it would wait for its own thread for
ever), so what ends something waits in a queue until the outer call is over. So does what could not be written because
another process held the file for too long.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from ..errors import StoreUnavailable
from ._sqlite_file import LimitsFile

T = TypeVar("T")

END_BUSY_S = 0.25
"""How long an end waits for a process that holds the file: it can be written later."""
MOST_LATER = 100_000
"""So many ends may wait to be written; then the oldest are given up, and what they had back to give stays charged."""
_COMPLAINTS = (sqlite3.Error, OverflowError)  # the last from a number that no column holds


class Turns:
    """What a store on a file needs for taking turns. After a fork, parent and child connect again."""

    def __init__(self, file: LimitsFile) -> None:
        self._file = file
        self._lock = threading.RLock()
        self._busy = False
        self._later: deque[Callable[[sqlite3.Connection], object]] = deque(maxlen=MOST_LATER)
        _ALL.add(self)

    def _restart(self, db: sqlite3.Connection) -> None:
        """Take over what was written before the machine was started."""
        raise AssertionError("every store has its own")

    def _undone(self) -> None:
        """Forget what a transaction would have made true that is taken back."""
        raise AssertionError("every store has its own")

    def _forked(self) -> None:
        """Forget, in a child, what its parent holds and waits for."""
        raise AssertionError("every store has its own")

    def _change(self, act: Callable[[sqlite3.Connection], T], busy_s: float | None = None) -> T:
        """Do something in one transaction, and before it what could not be written earlier. Raises StoreUnavailable."""
        with self._lock:
            result = self._transact(act, busy_s)
            self._catch_up()  # what garbage has ended meanwhile
            return result

    def _end(self, act: Callable[[sqlite3.Connection], object]) -> None:
        """Do something that needs no answer: now, or with the next transaction."""
        with self._lock:
            self._later.append(act)
            self._catch_up()

    def _catch_up(self) -> None:
        with suppress(StoreUnavailable):  # the next transaction tries again, and says so
            while self._later and not self._busy:
                self._transact(lambda db: None, END_BUSY_S)

    def _transact(self, act: Callable[[sqlite3.Connection], T], busy_s: float | None) -> T:
        file = self._file
        if self._busy:
            raise StoreUnavailable(
                f"limits {file.path}: a finalizer or signal handler interrupted another call: not admitted"
            )
        try:
            self._busy = True
            db = file.begin(busy_s)
            if file.restarted and file.restart(db):
                self._restart(db)
            pending = tuple(self._later)
            for end in pending:
                with suppress(OverflowError):  # a number that no column holds: what was charged stays charged
                    end(db)
            result = act(db)
            db.execute("COMMIT")
            file.restarted = False
            for _ in pending:
                self._later.popleft()
            return result
        except _COMPLAINTS as error:
            self._undo()
            raise file.report(error) from error
        except BaseException:
            self._undo()
            raise
        finally:
            self._busy = False

    def _undo(self) -> None:
        self._file.roll_back()
        self._undone()


_ALL: weakref.WeakSet[Turns] = weakref.WeakSet()
_FORK = threading.RLock()
_forking: list[Turns] = []


def _before_fork() -> None:
    """Close the connections, and hold the locks, until the fork is over: SQLite's must not be carried into a child,
    where its locks on the file are not held any more, and nobody knows."""
    _FORK.acquire()
    for one in list(_ALL):
        one._lock.acquire()
        _forking.append(one)
        one._file.disconnect()


def _after_fork(child: bool) -> None:
    while _forking:
        one = _forking.pop()
        if child:
            one._later.clear()  # the parent's, who does it
            one._forked()
        one._lock.release()
    _FORK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(False),
        after_in_child=lambda: _after_fork(True),
    )
