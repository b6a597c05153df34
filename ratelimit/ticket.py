"""A place in a line: how a thread, or a task of any event loop, sleeps until it may be its turn.

A ticket says what its holder is going to ask for, and can be woken from any thread; waking one that is not asleep is
remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .order import File
    from .reservation import Reservation


class Ticket(ABC):
    """What a line knows of somebody who waits.

    booking     what it asks the store for
    gate        what it waits for
    priority    the class it waits in
    asked_us    µs   when it asked
    number           how many joined the line before it
    file             where it stands; None when it has left the line, or was passed over
    since            the virtual time of its file when it joined
    start            its start tag among the classes of its file, from when it heads its class; −1 before
    place            its start tag among the first ones of all files, from when it is compared with them; −1 before
    yielded_us  µs   what went past it into the room that it leaves free
    fills            it may ask now, although it is not first: it fits into room that the first cannot use
    due_us      µs   when it should next be heard of, once it is first
    loop             the event loop that must run for it to move, or that it keeps from running
    blocks           it is a thread that keeps an event loop from running
    """

    __slots__ = (
        "asked_us",
        "blocks",
        "booking",
        "clock",
        "due_us",
        "file",
        "fills",
        "gate",
        "loop",
        "number",
        "place",
        "priority",
        "since",
        "start",
        "yielded_us",
    )

    def __init__(self, booking: Reservation, priority: str) -> None:
        self.booking = booking
        self.gate = booking.gate
        self.clock = self.gate.clock
        self.priority = priority
        self.asked_us = self.due_us = booking.asked_us = self.clock.now_us()
        self.number = self.since = self.yielded_us = 0
        self.start = self.place = -1
        self.file: File | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.blocks = self.fills = False

    def dead(self) -> bool:
        """Say that nobody can hold it any more."""
        return False

    @abstractmethod
    def wake(self) -> None:
        """Make the waiter look again. Callable from any thread."""


class Bell(threading.Event):
    """An Event that can be set from inside its own methods, as collected garbage may do that settles a stream.

    threading.Event holds a lock meanwhile, and would wait for itself.
    """

    def __init__(self) -> None:
        self._silent = threading.Lock()
        self._silent.acquire()

    def is_set(self) -> bool:
        return not self._silent.locked()

    def set(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is set already
            self._silent.release()

    def clear(self) -> None:
        self._silent.acquire(blocking=False)

    def wait(self, timeout: float | None = None) -> bool:
        rung = self._silent.acquire(timeout=-1 if timeout is None else min(max(timeout, 0), threading.TIMEOUT_MAX))
        if rung:
            self.set()
        return rung


class ThreadTicket(Ticket):
    """A waiting thread."""

    __slots__ = ("_event",)

    def __init__(self, booking: Reservation, priority: str) -> None:
        super().__init__(booking, priority)
        self.loop = asyncio._get_running_loop()
        self.blocks = self.loop is not None
        self._event = Bell()

    def wait(self, timeout_us: int) -> None:
        """Sleep until woken, or for `timeout_us`."""
        self.clock.wait(self._event, timeout_us)
        self._event.clear()

    def wake(self) -> None:
        self._event.set()


class TaskTicket(Ticket):
    """A waiting task of one event loop."""

    __slots__ = ("_future", "_running", "_woken")

    def __init__(self, booking: Reservation, priority: str) -> None:
        super().__init__(booking, priority)
        self.loop = self._running = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._woken = False

    def dead(self) -> bool:
        return self._running.is_closed()

    async def wait(self, timeout_us: int) -> None:
        """Sleep until woken, or for `timeout_us`."""
        future = self._future = self._running.create_future()
        timer = None
        try:
            # Looked at after the future is in place: a wake from another thread finds either the flag unread or the
            # future.
            if self._woken:
                return
            timer = self._running.call_later(self.clock.seconds(timeout_us), _finish, future)
            await future
        finally:
            self._future = None
            self._woken = False
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        self._woken = True
        future = self._future
        if future is None:
            return
        if asyncio._get_running_loop() is self._running:
            _finish(future)
            return
        with contextlib.suppress(RuntimeError):  # its loop was closed; nobody waits there any more
            self._running.call_soon_threadsafe(_finish, future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
