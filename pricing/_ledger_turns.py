"""Turns: one call at a time changes a book, even when garbage is collected in the middle of it.

A collection of garbage, or a signal, may run any code between two steps of a call, on the same thread: it may close an
abandoned stream, and that ends an entry. A lock cannot keep it out (it would wait for its own thread for ever), and
letting it in would make it part of a transaction that may be rolled back, or change what the outer call has read. So
an ending waits in a queue until the outer call is over.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from typing import Concatenate, NoReturn, ParamSpec, TypeVar

from .errors import LedgerError, RatecardError

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound="Turns")


class Turns:
    """What a book needs for taking turns: a lock for other threads, and a queue for calls within a call."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._busy = False
        self._later: deque[Callable[[], object]] = deque()

    def _repair(self) -> None:
        """Undo what a call has left half done that a signal's exception (Ctrl-C) ended at whichever step it was."""
        raise AssertionError("every book has its own")

    def _catch_up(self) -> None:
        """Write the endings that waited. One that cannot be written stays in the queue, and raises."""
        while self._later:
            act, outer = self._later.popleft(), self._busy
            try:
                self._busy = True
                act()
            except BaseException:
                self._later.appendleft(act)  # done twice it does nothing the second time
                self._repair()
                raise
            finally:
                self._busy = outer

    def _end_turn(self) -> None:
        with suppress(LedgerError):  # not this call's fault; the next turn tries again, and sync and close say so
            self._catch_up()


def alone(act: Callable[Concatenate[T, P], R]) -> Callable[Concatenate[T, P], R]:
    """Let a call have its turn; within another call's turn it is refused, for its answer cannot wait."""
    return _in_turn(act, _refuse)


def ending(act: Callable[Concatenate[T, P], bool]) -> Callable[Concatenate[T, P], bool]:
    """Let an ending have its turn; within another call's turn it is written right after that, and answers True."""
    return _in_turn(act, _wait)


def _refuse(book: Turns, call: Callable[[], object]) -> NoReturn:
    raise LedgerError("a finalizer or signal handler interrupted another call to this ledger: not written")


def _wait(book: Turns, call: Callable[[], object]) -> bool:
    book._later.append(call)
    return True


def _in_turn(
    act: Callable[Concatenate[T, P], R], within: Callable[[Turns, Callable[[], R]], R]
) -> Callable[Concatenate[T, P], R]:
    """Let a call have its turn; within another call's turn, `within` says what becomes of it."""

    @wraps(act)
    def in_turn(self: T, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            if self._busy:
                return within(self, partial(act, self, *args, **kwargs))
            try:
                self._busy = True
                return act(self, *args, **kwargs)
            except RatecardError:
                raise
            except BaseException:
                self._repair()
                raise
            finally:
                self._busy = False  # before any call, for an interrupt comes with a call
                if self._later:
                    self._end_turn()

    return in_turn
