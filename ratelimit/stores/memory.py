"""The store of one process: dictionaries under a lock, shared by threads and event loops alike."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

from ..cells import Cell, Slots, Window
from ..clock import Clock, MonotonicClock
from ..forks import reset_in_child
from ..gcra import Bucket
from ..limit import Limit
from .base import Booking, Lane
from .decide import INITIAL_SLACK_US, Claim, behind, earliest_us, fit, rooms_us, slack_us


class _Held:
    """The slots that a booking holds. Those of a booking that is dropped without an end come back too."""

    __slots__ = ("_slots", "_store")

    def __init__(self, store: MemoryStore, slots: list[tuple[Slots, int]]) -> None:
        self._store = store
        self._slots = slots

    def free(self) -> None:
        """Give them back; a second time is a no-op."""
        with self._store._lock:
            for cell, charge_us in self._slots:
                cell.free(charge_us)
            self._slots = []

    __del__ = free


class MemoryStore:
    """Limits in this process's memory. `clock` is any ratelimit.clock.Clock."""

    def __init__(self, clock: Clock | None = None, *, initial_slack_us: int = INITIAL_SLACK_US) -> None:
        self.clock: Clock = clock or MonotonicClock()
        self._read_us = self.clock.now_us
        self._initial_slack_us = initial_slack_us
        self._lock = threading.RLock()  # re-entrant: collected garbage may settle an abandoned stream in between
        self._cells: dict[str, Cell] = {}
        self._bursts_us: dict[str, int] = {}
        self._braced_us: dict[str, int] = {}
        self._lanes: dict[str, weakref.WeakSet[Lane]] = {}  # who has a cell open under a key
        self._latest_us = self._stepped_us = 0
        reset_in_child(self)

    def after_fork(self) -> None:
        """Free every slot: the requests that hold them are the parent's, and end there."""
        self._lock = threading.RLock()
        for key, cell in list(self._cells.items()):
            if isinstance(cell, Slots):
                self._replace(key, Slots())

    def open(self, lane: Lane) -> None:
        with self._lock:
            self._open(lane)

    def reserve(self, booking: Booking, ahead: Sequence[Booking] = ()) -> int | None:
        lane, charges_us = booking.lane, booking.charges_us
        with self._lock:
            cells, plain, holds = lane.opened or self._open(lane)
            now_us = act_us = self._now_us()
            if plain and not booking.spare_ppm and not ahead:
                for (cell, burst_us), charge_us in zip(cells, charges_us):  # noqa: B905  # of one lane: of one length
                    at_us = cell.tat_us + charge_us - burst_us + cell.slack_us
                    if at_us > act_us and charge_us:
                        act_us = at_us
                    if cell.closed_until_us > act_us:
                        act_us = cell.closed_until_us
            else:
                asked = Claim(lane.keys, cells, charges_us, booking.spare_ppm)
                act_us = earliest_us(asked, now_us)
                if act_us == now_us:
                    before = [self._claim(one) for one in ahead]
                    if holds and not fit(asked, before):
                        return 0
                    if ahead:
                        act_us = behind(asked, before, now_us)
            if act_us > now_us:
                return act_us - now_us
            place = []
            for (cell, _), charge_us in zip(cells, charges_us):  # noqa: B905  # as above
                tat_us = cell.tat_us
                place.append((cell, cell.charge(now_us, charge_us) if charge_us else 0, tat_us - now_us))
            booking.place = place
            booking.charged = lane, charges_us
            booking.open = True
            if holds:
                pairs = zip(cells, charges_us, strict=True)
                booking.held = _Held(self, [(cell, us) for (cell, _), us in pairs if isinstance(cell, Slots)])
            return None

    def room_us(self, booking: Booking, wait_us: int) -> Sequence[int]:
        with self._lock:
            now_us = self._now_us()
            return rooms_us(self._claim(booking), now_us, now_us + wait_us)

    def settle(self, booking: Booking, charges_us: Sequence[int]) -> None:
        with self._lock:
            if not booking.open:
                return
            booking.open = False
            for (cell, number, _), booked_us, true_us in zip(booking.place, booking.charges_us, charges_us):  # noqa: B905  # as above
                if true_us < booked_us:
                    cell.refund(number, booked_us - true_us)
                elif true_us > booked_us:
                    cell.surcharge(true_us - booked_us, self._now_us())

    def release(self, booking: Booking) -> None:
        self.settle(booking, (0,) * len(booking.charges_us))
        self.finish(booking)

    def finish(self, booking: Booking) -> None:
        held, booking.held = booking.held, None
        if held is not None:
            held.free()

    def leave(self, booking: Booking) -> None:
        """Nothing: who waits stands in this process's lines."""

    def look_us(self, booking: Booking, wait_us: int) -> int | None:
        return None

    def arrived(self, booking: Booking, ago_us: int) -> None:
        with self._lock:
            by_us = self._now_us() - ago_us
            for cell, number, _ in booking.place:
                if isinstance(cell, Window):
                    cell.arrived(number, by_us)

    def clears(self, booking: Booking, place: int, within_us: int) -> None:
        with self._lock:
            cell, number, _ = booking.place[place]
            if isinstance(cell, Window):
                cell.clears(number, self._now_us() + within_us)

    def observe(self, key: str, backlog_us: int, clear_us: int | None = None) -> None:
        with self._lock:
            cell = self._cells.get(key)
            if cell is not None:
                now_us = self._now_us()
                cell.raise_to(now_us + backlog_us, now_us, clear_us)

    def close(self, key: str, wait_us: int) -> None:
        with self._lock:
            cell = self._cells.get(key)
            if cell is not None:
                cell.closed_until_us = max(cell.closed_until_us, self._now_us() + wait_us)

    def widen(self, key: str, slack_us: int) -> None:
        with self._lock:
            cell = self._cells.get(key)
            if cell is not None and not isinstance(cell, Slots):
                cell.slack_wanted_us = max(cell.slack_wanted_us, slack_us)
                self._keep(key, cell)

    def brace(self, key: str, slack_us: int) -> None:
        with self._lock:
            self._braced_us[key] = slack_us
            cell = self._cells.get(key)
            if cell is not None and not isinstance(cell, Slots):
                self._keep(key, cell)

    def wait_us(self, key: str, ahead_us: int, charge_us: int, burst_us: int) -> int:
        with self._lock:
            cell, now_us = self._cells.get(key), self._now_us()
            if cell is None:
                return 0
            if isinstance(cell, Bucket) and ahead_us:
                cell = cell.copy()
                cell.charge(now_us, ahead_us)
                ahead_us = 0
            return cell.earliest_us(ahead_us + charge_us, burst_us, now_us) - now_us

    def backlog_us(self, key: str) -> int:
        with self._lock:
            cell = self._cells.get(key)
            return cell.spent_us(self._now_us()) if cell is not None else 0

    def slack_us(self, key: str) -> int:
        with self._lock:
            cell = self._cells.get(key)
            return cell.slack_us if cell is not None else 0

    def _now_us(self) -> int:
        now_us = self._read_us() + self._stepped_us
        if now_us < self._latest_us:
            # A clock that steps back must never look like a bucket that has refilled less, nor like one refilled twice;
            # nor may everybody wait until it has caught up: time goes on from the latest instant seen.
            self._stepped_us += self._latest_us - now_us
            return self._latest_us
        self._latest_us = now_us
        return now_us

    def _open(self, lane: Lane) -> tuple[tuple[tuple[Cell, int], ...], bool, bool]:
        cells = tuple(
            (self._cell(key, limit), burst_us)
            for key, limit, (*_, burst_us) in zip(lane.keys, lane.limits, lane.plan, strict=True)
        )
        for key in lane.keys:
            self._lanes.setdefault(key, weakref.WeakSet()).add(lane)
        plain = all(isinstance(cell, Bucket) for cell, _ in cells)
        lane.opened = cells, plain, any(isinstance(cell, Slots) for cell, _ in cells)
        return lane.opened  # type: ignore[no-any-return]  # a lane keeps what a store likes

    def _claim(self, booking: Booking) -> Claim:
        """What a booking asks for, read once: another thread may put a limit in force meanwhile."""
        lane, charges_us = booking.lane, booking.charges_us
        return Claim(lane.keys, (lane.opened or self._open(lane))[0], charges_us, booking.spare_ppm)

    def _cell(self, key: str, limit: Limit) -> Cell:
        cell = self._cells.get(key)
        if cell is None or isinstance(cell, Window) != limit.window:
            fresh: Cell
            if limit.unit == "concurrent":
                fresh = Slots()
            elif limit.window:
                fresh = Window(limit.burst_us)
            else:
                fresh = Bucket()
            fresh.slack_wanted_us = self._initial_slack_us if cell is None else cell.slack_wanted_us
            if cell is not None:
                now_us = self._now_us()
                spent_us = cell.spent_us(now_us)
                if limit.window:
                    spent_us = min(spent_us, limit.burst_us)  # a bucket's minute closes no window of a second
                fresh.raise_to(now_us + spent_us, now_us)
            cell = fresh
            self._replace(key, fresh)  # what was booked in the old cell stays charged in the new one
        if isinstance(cell, Window):
            cell.window_us = limit.burst_us
        self._bursts_us[key] = limit.burst_us
        if not isinstance(cell, Slots):
            self._keep(key, cell)
        return cell

    def _keep(self, key: str, cell: Cell) -> None:
        wanted_us = max(cell.slack_wanted_us, self._braced_us.get(key, 0))
        cell.slack_us = slack_us(wanted_us, self._bursts_us[key])

    def _replace(self, key: str, cell: Cell) -> None:
        """Put another cell in the place of one; the lanes that pass it look again."""
        self._cells[key] = cell
        for lane in self._lanes.pop(key, ()):
            lane.opened = None
