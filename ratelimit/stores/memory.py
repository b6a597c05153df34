"""The store of one process: dictionaries under a lock, shared by threads and event loops alike."""

from __future__ import annotations

import threading

from ..clock import Clock, MonotonicClock
from ..gcra import Bucket
from .base import Booking, Lane

INITIAL_SLACK_US = 100_000
"""Burst left unused before anything is known of the network: a first connection is slower than a warm one."""
MAX_SLACK_SHARE = 20
"""At most 1/20 of a burst is ever given to jitter: past that the cause is not the network."""


MAX_SLACK_US = 2_000_000
"""At most so much is ever learned at once, however late a request was."""


class _Cell(Bucket):
    """A bucket and the part of its burst that is kept for delay jitter."""

    __slots__ = ("slack_us", "slack_wanted_us")

    def __init__(self) -> None:
        super().__init__()
        self.slack_us = -1  # fixed at first use, when the burst is known
        self.slack_wanted_us = INITIAL_SLACK_US


class MemoryStore:
    """Limits in this process's memory. `clock` is any ratelimit.clock.Clock."""

    def __init__(self, clock: Clock | None = None, *, initial_slack_us: int = INITIAL_SLACK_US) -> None:
        self.clock: Clock = clock or MonotonicClock()
        self._initial_slack_us = initial_slack_us
        self._lock = threading.RLock()  # re-entrant: collected garbage may settle an abandoned stream in between
        self._cells: dict[str, _Cell] = {}
        self._lanes: dict[tuple[str, ...], tuple[tuple[_Cell, int], ...]] = {}
        self._latest_us = 0

    def reserve(self, lane: Lane, charges_us: tuple[int, ...], horizon_us: int = 0) -> Booking | int:
        with self._lock:
            cells = self._lanes.get(lane.keys) or self._open(lane)
            now_us = self._now_us()
            act_us = now_us
            for (cell, burst_us), charge_us in zip(cells, charges_us, strict=True):
                if charge_us:
                    at_us = cell.tat_us + charge_us - burst_us + cell.slack_us
                    if at_us > act_us:
                        act_us = at_us
            if act_us - now_us > horizon_us:
                return act_us - now_us
            numbers = []
            backlogs_us = []
            slack_us = MAX_SLACK_US
            for (cell, _), charge_us in zip(cells, charges_us, strict=True):
                backlogs_us.append(cell.tat_us - act_us)
                numbers.append(cell.charge(act_us, charge_us) if charge_us else 0)
                if cell.slack_us < slack_us:
                    slack_us = cell.slack_us
            return Booking(lane, charges_us, tuple(numbers), tuple(backlogs_us), act_us - now_us, slack_us)

    def settle(self, booking: Booking, charges_us: tuple[int, ...]) -> None:
        with self._lock:
            if not booking.open:
                return
            booking.open = False
            cells = self._lanes[booking.lane.keys]
            for (cell, _), booked_us, true_us, number in zip(
                cells, booking.charges_us, charges_us, booking.numbers, strict=True
            ):
                if true_us < booked_us:
                    cell.refund(number, booked_us - true_us)
                elif true_us > booked_us:
                    cell.surcharge(true_us - booked_us, self._now_us())

    def release(self, booking: Booking) -> None:
        self.settle(booking, (0,) * len(booking.charges_us))

    def observe(self, key: str, backlog_us: int) -> None:
        with self._lock:
            self._cell(key).raise_to(self._now_us() + backlog_us)

    def widen(self, key: str, slack_us: int) -> None:
        with self._lock:
            cell = self._cell(key)
            cell.slack_wanted_us = max(cell.slack_wanted_us, slack_us)
            for keys, cells in self._lanes.items():
                if key in keys:
                    burst_us = cells[keys.index(key)][1]
                    cell.slack_us = min(cell.slack_wanted_us, burst_us // MAX_SLACK_SHARE)

    def backlog_us(self, key: str) -> int:
        with self._lock:
            return max(0, self._cell(key).tat_us - self._now_us())

    def slack_us(self, key: str) -> int:
        with self._lock:
            return max(0, self._cell(key).slack_us)

    def _now_us(self) -> int:
        # A clock that steps back must never look like a bucket that has refilled less, nor like one refilled twice.
        now_us = self.clock.now_us()
        if now_us > self._latest_us:
            self._latest_us = now_us
        return self._latest_us

    def _cell(self, key: str) -> _Cell:
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = _Cell()
            cell.slack_wanted_us = self._initial_slack_us
        return cell

    def _open(self, lane: Lane) -> tuple[tuple[_Cell, int], ...]:
        cells = tuple((self._cell(key), limit.burst_us) for key, limit in zip(lane.keys, lane.limits, strict=True))
        for cell, burst_us in cells:
            cell.slack_us = min(cell.slack_wanted_us, burst_us // MAX_SLACK_SHARE)
        self._lanes[lane.keys] = cells
        return cells
