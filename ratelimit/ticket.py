"""A place in a line: how a thread, or a task of any event loop, sleeps until it may be its turn.

A ticket says what its holder is going to ask for, and can be woken from any thread; waking one that is not asleep is
remembered.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from .stores.base import Claim

if TYPE_CHECKING:
    from .gate import Gate


class Ticket(ABC):
    """What a line knows of somebody who waits.

    gate      what it waits for
    claim     what it asks the store for
    priority  the class it waits in
    asked_us  µs   when it asked
    order          its place among all that wait: smaller goes first; given by the line
    due_us    µs   when it should next be heard of, once it is first
    loop           the event loop that must run for it to move, or that it keeps from running
    blocks         it is a thread that keeps an event loop from running
    limit          the limit that it last waited for, once it was first
    gone           it has left the line, or was passed over
    """

    __slots__ = ("asked_us", "blocks", "claim", "clock", "due_us", "gate", "gone", "limit", "loop", "order", "priority")

    def __init__(self, gate: Gate, claim: Claim, priority: str) -> None:
        self.gate = gate
        self.clock = gate.clock
        self.claim = claim
        self.priority = priority
        self.asked_us = self.due_us = self.clock.now_us()
        self.order: tuple[int, int] = (0, 0)
        self.gone = False
        self.limit = ""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.blocks = False

    def __lt__(self, other: Ticket) -> bool:
        return self.order < other.order

    def dead(self) -> bool:
        """Say that nobody can hold it any more."""
        return self.gone

    @abstractmethod
    def wake(self) -> None:
        """Make the waiter look again. Callable from any thread."""


class ThreadTicket(Ticket):
    """A waiting thread."""

    __slots__ = ("_event",)

    def __init__(self, gate: Gate, claim: Claim, priority: str) -> None:
        super().__init__(gate, claim, priority)
        self.loop = asyncio._get_running_loop()
        self.blocks = self.loop is not None
        self._event = threading.Event()

    def wait(self, timeout_us: int) -> None:
        """Sleep until woken, or for `timeout_us`."""
        self.clock.wait(self._event, timeout_us)
        self._event.clear()

    def wake(self) -> None:
        self._event.set()


class TaskTicket(Ticket):
    """A waiting task of one event loop."""

    __slots__ = ("_future", "_running", "_woken")

    def __init__(self, gate: Gate, claim: Claim, priority: str) -> None:
        super().__init__(gate, claim, priority)
        self.loop = self._running = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._woken = False

    def dead(self) -> bool:
        return self.gone or self._running.is_closed()

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
        try:
            self._running.call_soon_threadsafe(_finish, future)
        except RuntimeError:
            self.gone = True  # its loop was closed; nobody waits there any more


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
