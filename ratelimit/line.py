"""Who asks the store next: first come, first served, without polling and without a herd.

Only the first in line asks the store, and sleeps exactly as long as the store says; everybody behind sleeps until it is
first. So an admission costs the same however long the line is, a large request is never overtaken into starvation,
and whatever changes the store (a refund, an observation) needs to wake one sleeper only.

A Line is colourless: it never waits. Threads wait on a ThreadTicket, tasks of any event loop on a TaskTicket; both may
stand in the same line.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Protocol

from .clock import Clock


class Ticket(Protocol):
    """A place in a line. `charges_us` is what it is going to ask for."""

    charges_us: tuple[int, ...]

    def wake(self) -> None:
        """Make the waiter look again. Callable from any thread; waking one that is not asleep is remembered."""


class ThreadTicket:
    """A waiting thread."""

    __slots__ = ("_clock", "_event", "charges_us")

    def __init__(self, clock: Clock, charges_us: tuple[int, ...]) -> None:
        self.charges_us = charges_us
        self._clock = clock
        self._event = threading.Event()

    def wait(self, timeout_us: int | None) -> None:
        """Sleep until woken, or for `timeout_us`."""
        self._clock.wait(self._event, timeout_us)
        self._event.clear()

    def wake(self) -> None:
        self._event.set()


class TaskTicket:
    """A waiting task of one event loop."""

    __slots__ = ("_clock", "_future", "_loop", "_woken", "charges_us")

    def __init__(self, clock: Clock, charges_us: tuple[int, ...]) -> None:
        self.charges_us = charges_us
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._woken = False

    async def wait(self, timeout_us: int | None) -> None:
        """Sleep until woken, or for `timeout_us`."""
        future = self._future = self._loop.create_future()
        timer = None
        try:
            # Looked at after the future is in place: a wake from another thread finds either the flag unread or the
            # future.
            if self._woken:
                return
            if timeout_us is not None:
                timer = self._loop.call_later(self._clock.seconds(timeout_us), _finish, future)
            await future
        finally:
            self._future = None
            self._woken = False
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        self._woken = True
        future = self._future
        if future is None or self._loop.is_closed():
            return
        if asyncio._get_running_loop() is self._loop:
            _finish(future)
        else:
            self._loop.call_soon_threadsafe(_finish, future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Line:
    """The waiting requests of one lane, in the order of asking."""

    __slots__ = ("_ahead_us", "_lock", "_queue")

    def __init__(self, width: int) -> None:
        self._lock = threading.RLock()  # re-entrant: see MemoryStore
        self._queue: deque[Ticket] = deque()
        self._ahead_us = [0] * width

    def __len__(self) -> int:
        return len(self._queue)

    def join(self, ticket: Ticket) -> None:
        """Stand at the end of the line."""
        with self._lock:
            self._queue.append(ticket)
            for j, charge_us in enumerate(ticket.charges_us):
                self._ahead_us[j] += charge_us

    def leave(self, ticket: Ticket) -> None:
        """Step out, admitted or not, and let the next one know if it is first now."""
        with self._lock:
            was_first = self._queue[0] is ticket
            if was_first:
                self._queue.popleft()
            else:
                self._queue.remove(ticket)
            for j, charge_us in enumerate(ticket.charges_us):
                self._ahead_us[j] -= charge_us
            first = self._queue[0] if was_first and self._queue else None
        if first is not None:
            first.wake()

    def is_first(self, ticket: Ticket) -> bool:
        """Say whether it is this ticket's turn to ask the store."""
        return self._queue[0] is ticket

    def nudge(self) -> None:
        """Wake the first in line: the store has changed and its sleep may be too long."""
        try:
            self._queue[0].wake()
        except IndexError:
            return

    def ahead_us(self) -> tuple[int, ...]:
        """Sum what everybody in line is going to ask for (µs per limit)."""
        with self._lock:
            return tuple(self._ahead_us)
