"""Stored responses: what GET /v1/responses/{id} finds, and how a background response grows up by itself.

Nothing runs in the background. A stored response knows when it leaves the queue and when it is done, in emulated time,
and whoever asks is told the state of that moment.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from .plan import Plan
from .replies import Stamp

State = Literal["queued", "in_progress", "completed", "cancelled"]

_MOST_STORED = 100_000


class Stored:
    """One response and the instants of its life (µs, emulated)."""

    __slots__ = ("billed", "cancelled", "done_us", "plan", "stamp", "starts_us")

    def __init__(self, plan: Plan, stamp: Stamp, starts_us: int, done_us: int) -> None:
        self.plan = plan
        self.stamp = stamp
        self.starts_us = starts_us
        self.done_us = done_us
        self.cancelled = False
        self.billed = not plan.background  # a plain response is billed by the call that waited for it

    def state(self, now_us: int) -> State:
        """Say where it stands now."""
        if self.cancelled:
            return "cancelled"
        if now_us >= self.done_us:
            return "completed"
        return "in_progress" if now_us >= self.starts_us else "queued"


class Shelf:
    """The latest responses, by id."""

    __slots__ = ("_running", "_stored")

    def __init__(self) -> None:
        self._stored: OrderedDict[str, Stored] = OrderedDict()
        self._running: dict[str, Stored] = {}

    def put(self, key: str, stored: Stored) -> None:
        """Keep a response; the oldest leaves when the shelf is full."""
        self._stored[key] = stored
        if not stored.billed:
            self._running[key] = stored
        if len(self._stored) > _MOST_STORED:
            self._stored.popitem(last=False)

    def get(self, key: str) -> Stored | None:
        """Find a response, or None."""
        return self._stored.get(key)

    def cancel(self, key: str, stored: Stored, now_us: int) -> bool:
        """Stop a background response. A second time, or when it has ended, nothing changes and the answer is False."""
        if stored.state(now_us) not in ("queued", "in_progress"):
            return False
        stored.cancelled = True
        self._running.pop(key, None)
        return True

    def finished(self, now_us: int) -> list[Stored]:
        """Take the background responses that were completed since the last call: each is returned once."""
        done = [key for key, stored in self._running.items() if stored.state(now_us) == "completed"]
        found = [self._running.pop(key) for key in done]
        for stored in found:
            stored.billed = True
        return found

    def clear(self) -> None:
        """Forget everything."""
        self._stored.clear()
        self._running.clear()
