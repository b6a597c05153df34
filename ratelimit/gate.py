"""A gate: one lane of limits, the line in front of it, and the arithmetic both shells share. It never waits."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence

from .cells import room_us
from .clock import US_PER_S, Clock
from .context import CURRENT, Deadline
from .demand import Demand
from .errors import DeadlineExceeded, NeverFits, WouldWait
from .events import Signals
from .limit import Limit
from .line import PATIENCE_US, Line
from .stores.base import Booking, Lane, Store
from .stores.decide import MAX_SLACK_US
from .ticket import Ticket

COLLECT_EVERY_S = 5.0
ENOUGH_REPLIES = 20
"""After so many replies it is known how late requests reach the server."""
OPENING_US = 2_000
"""What it takes to open a connection, and so by how much each of a crowd delays those behind it (measured: 1.7 ms)."""
COUNTED_BY = 16
TOLD_FOR_US = 600 * US_PER_S
"""How long a limit that the server has shown refuses what is larger, without another reply that shows it."""


class Gate:
    """Everything the two shells need to wait for one lane.

    full      (n,)  the limits before headroom was taken off
    table     (n,)  the same as they were before the server said otherwise
    look_us   µs    when the headers of a reply are worth looking at again
    slowed_us µs    when the server last asked to slow down; ramp_us when the next step up is due, 0 for none
    edges           the server's resets are taken for the edges of its windows; not once a window has refused anything
    told_us   µs    when the server last showed a limit that is not larger than the one in force
    lowered_us µs   by limit: when a smaller one of the server was put in force
    odd             429s in a row, by limit, that no continuous bucket would have made; negative: that one would have
    longer    (…)   (input tokens, gate): what passes a pool of its own above so many input tokens, largest first
    sent, heard     requests that went out, and replies that came, until there are ENOUGH_REPLIES
    ramp            raises a limit that was slowed down by its next step, once that is due
    served          gate by service tier, for those that have a pool of their own
    seen            capacity by limit name that the last reply showed where it is not the one in force
    """

    __slots__ = (
        "clock",
        "edges",
        "full",
        "heard",
        "lane",
        "line",
        "longer",
        "look_us",
        "lowered_us",
        "odd",
        "ramp",
        "ramp_name",
        "ramp_us",
        "seen",
        "sent",
        "served",
        "signals",
        "slowed_us",
        "store",
        "table",
        "told_us",
    )

    def __init__(
        self, store: Store, clock: Clock, lane: Lane, full: tuple[Limit, ...], line: Line, signals: Signals
    ) -> None:
        self.store = store
        self.signals = signals
        self.clock = clock
        self.full = self.table = full
        self.look_us = self.ramp_us = self.slowed_us = self.told_us = 0
        self.ramp_name = ""
        self.ramp: Callable[[Gate], None] | None = None
        self.sent = self.heard = 0
        self.odd: dict[str, int] = {}
        self.lowered_us: dict[str, int] = {}
        self.edges = True
        self.line = line
        self.longer: tuple[tuple[int, Gate], ...] = ()
        self.served: dict[str, Gate] = {}
        self.seen: dict[str, int] = {}
        self.lane = lane
        store.open(lane)

    def obey(self, key: str, full: Limit, reduced: Limit) -> None:
        """Put a limit in force in the place of the one that has its cell, or as one more; for those in line too."""
        with self.line.lock:
            lane = self.lane
            if key in lane.keys:
                at = lane.keys.index(key)
                self.full = (*self.full[:at], full, *self.full[at + 1 :])
                lane = Lane(lane.name, (*lane.limits[:at], reduced, *lane.limits[at + 1 :]), lane.keys)
            else:
                self.full = (*self.full, full)
                self.table = (*self.table, full)
                lane = Lane(lane.name, (*lane.limits, reduced), (*lane.keys, key))
            self.lane = lane
            self.line.claim_again(self)
        # Not under the line's lock: garbage that another thread collects in the store may nudge the line.
        opened = None
        while opened is not self.lane:  # another limit may come into force meanwhile
            opened = self.lane
            self.store.open(opened)
        self.line.nudge()

    def charges_us(self, lane: Lane, demand: Demand) -> list[int]:
        """Turn a demand into bucket time per limit. Raises NeverFits when a limit could never admit it."""
        charges_us: list[int] = []
        for kind, period_us, capacity, burst_us in lane.plan:
            charge_us = -(-demand[kind] * period_us // capacity)  # type: ignore[operator]  # kinds are its numbers
            if charge_us > burst_us:
                charge_us = self._whole(lane, demand, len(charges_us))
            charges_us.append(charge_us)
        return charges_us

    def passes(self, booking: Booking) -> bool:
        """Charge a booking at once, where nobody waits and there is room. Raises QuotaSpent while that lasts."""
        if self.signals.halt is not None:
            self.signals.check(self.clock.now_us())
        return not self.line.count and self.store.reserve(booking) is None

    def _whole(self, lane: Lane, demand: Demand, place: int) -> int:
        """What to charge for more than can be spent at once: all of a burst that was made small since, or NeverFits.

        What was learned (a window, "slow down", a limit that no reply has shown for a while) is not the server's last
        word: a request that fits the table's limit waits for the whole burst, and the server is left to judge.
        """
        limit, declared = lane.limits[place], self.table[place]
        kind, _, _, burst_us = lane.plan[place]
        amount: int = demand[kind]  # type: ignore[assignment]
        stale = self.clock.now_us() > self.told_us + TOLD_FOR_US
        learned = limit.window and not declared.window
        lowered = self.full[place].capacity < declared.capacity
        if amount <= declared.largest and (learned or (lowered and (stale or self.ramp_us))):
            return burst_us
        raise NeverFits(limit=limit.name, demand=amount, capacity=limit.largest, model=lane.name)

    def waits_us(self, booking: Booking, ahead_us: Sequence[int]) -> tuple[int, ...]:
        """Foresee, for each limit, how long a request waits for it at least behind so much of its own class (µs)."""
        lane, store = booking.lane, self.store
        waits_us = []
        for limit, key, before_us, charge_us in zip(lane.limits, lane.keys, ahead_us, booking.charges_us, strict=True):
            if not charge_us:
                waits_us.append(0)
                continue
            if limit.unit == "concurrent":
                before_us = 0  # nobody knows when a slot is free
            free_us = room_us(charge_us, limit.burst_us, store.slack_us(key), booking.spare_ppm)
            waits_us.append(store.wait_us(key, before_us, charge_us, free_us))
        return tuple(waits_us)

    def wait_us(self, booking: Booking, ahead_us: Sequence[int]) -> tuple[int, str]:
        """The longest of these waits, and the limit it is for."""
        waits_us = self.waits_us(booking, ahead_us)
        longest_us = max(waits_us)
        return longest_us, booking.lane.limits[waits_us.index(longest_us)].name

    def going(self) -> None:
        """Count a request that is about to go out while nothing is known of its way.

        A crowd that finds no connection open arrives late, and together: the margin is as large as the crowd is until
        replies tell. Nothing is lost by that, for what is kept back goes as soon as they do.
        """
        self.sent += 1
        if self.sent % COUNTED_BY == 0:
            self._brace(min(self.sent * OPENING_US, MAX_SLACK_US))

    def told(self) -> None:
        """Count a reply; after enough of them the margin is what they have shown."""
        self.heard += 1
        if self.heard == ENOUGH_REPLIES and self.sent >= COUNTED_BY:
            self._brace(0)
            self.line.nudge()

    def _brace(self, slack_us: int) -> None:
        for key in self.lane.keys:
            self.store.brace(key, slack_us)

    def patient_us(self, deadline: Deadline, priority: str, max_wait_us: int | None) -> int:
        """How long a request may wait (µs): as long as max_wait says, and not beyond the deadline of its block.

        Raises  DeadlineExceeded when that has passed
        """
        left_us = deadline.left_us()
        if left_us < 0:
            self._refused(priority, "")
            raise DeadlineExceeded(limit=self.lane.name, retry_after_s=None, left_s=left_us / US_PER_S)
        return left_us if max_wait_us is None else min(max_wait_us, left_us)

    def check_wait(self, booking: Booking, priority: str, max_wait_us: int | None) -> None:
        """Refuse at once, before standing in line, what could not be admitted within `max_wait_us`."""
        if max_wait_us is not None:
            wait_us, name = self.wait_us(booking, self.line.ahead_us(booking, priority))
            if wait_us > max_wait_us:
                self._refused(priority, name)
                raise self._would_wait(name, wait_us, max_wait_us, max_wait_us)

    def patience_us(self, ticket: Ticket, wait_us: int, exact: bool, max_wait_us: int | None) -> int:
        """How long to sleep now: what the store said, or until it is worth looking who is first.

        wait_us  what the store said; 0 when it was not asked, or does not know
        exact    it depends on nobody else

        Raises WouldWait when that would be past max_wait: the line moved slower than foreseen
        """
        pause_us = wait_us
        if not (exact and wait_us):
            patience_us = self.line.patience_us()
            pause_us = min(wait_us or patience_us, patience_us)
        look_us = self.store.look_us(ticket.booking, wait_us)
        if look_us is not None:
            pause_us = min(pause_us, look_us)
        if not wait_us and self.clock.now_us() - ticket.asked_us > PATIENCE_US:
            self._collect(ticket)
        if max_wait_us is None:
            return pause_us
        left_us = ticket.asked_us + max_wait_us - self.clock.now_us()
        if (exact and wait_us > left_us) or left_us < 0:
            booking = ticket.booking
            foreseen_us, name = self.wait_us(booking, (0,) * len(booking.charges_us))
            limit = name if foreseen_us else self.tightest(booking)
            raise self._would_wait(limit, max(wait_us, foreseen_us), max_wait_us, left_us)
        return min(pause_us, left_us + 1)

    def _would_wait(self, limit: str, wait_us: int, max_wait_us: int, left_us: int) -> WouldWait:
        """Say that a wait is too long: for the deadline, where that comes first, or for max_wait (`left_us` of it)."""
        retry_after_s = wait_us / US_PER_S if wait_us else None
        deadline = CURRENT.get().deadline
        if deadline is not None and (until_us := deadline.left_us()) <= left_us:
            return DeadlineExceeded(limit=limit, retry_after_s=retry_after_s, left_s=until_us / US_PER_S)
        max_wait_s = max_wait_us / US_PER_S
        bound = f"max_wait ({max_wait_s:g} s) is over" if left_us < 0 else ""
        return WouldWait(limit=limit, retry_after_s=retry_after_s, max_wait_s=max_wait_s, bound=bound)

    def _refused(self, priority: str, limit: str) -> None:
        """Tell listeners that a request was refused before it stood in line."""
        if self.signals.listeners:
            self.signals.emit("gave_up", self.clock.now_us(), self.lane.name, limit, priority=priority, waited_us=0)

    def stands(self, ticket: Ticket, wait_us: int) -> None:
        """Note what somebody waits for whom the store has refused, and let a small one use the room that he cannot."""
        if self.ramp_us and self.clock.now_us() >= self.ramp_us and self.ramp is not None:
            self.ramp(self)  # those who wait already would never see their limit rise again
        booking = ticket.booking
        booking.waited_for = self.tightest(booking)
        if wait_us and booking.lane.windowed and self.line.count > 1:
            self.line.fill(ticket, self.store.room_us(booking, wait_us))

    def _collect(self, ticket: Ticket) -> None:
        """Free the slots of what nobody can reach any more: a stream that was abandoned hangs in a cycle of garbage."""
        now_s = time.monotonic()  # a search costs real time, whatever clock the limiter lives by
        if now_s > self.line.collected_s + COLLECT_EVERY_S and any(
            one.unit == "concurrent" for one in ticket.booking.lane.limits
        ):
            self.line.collected_s = now_s
            gc.collect()

    def queued(self, ticket: Ticket) -> None:
        """Tell listeners that a request is about to join the line."""
        wait_us, limit = self.wait_us(ticket.booking, self.line.ahead_us(ticket.booking, ticket.priority))
        self.signals.emit(
            "queued",
            ticket.asked_us,
            self.lane.name,
            limit,
            priority=ticket.priority,
            wait_us=wait_us,
            ahead=self.line.count,
        )

    def gave_up(self, ticket: Ticket) -> None:
        """Tell the store, and listeners, that a request has left the line without being admitted."""
        self.store.leave(ticket.booking)
        if not self.signals.listeners:
            return
        now_us = self.clock.now_us()
        self.signals.emit(
            "gave_up",
            now_us,
            self.lane.name,
            ticket.booking.waited_for,
            priority=ticket.priority,
            waited_us=now_us - ticket.asked_us,
        )

    def tightest(self, booking: Booking) -> str:
        """The name of the limit that makes this booking wait: the one it exceeds by most, or else would fill most."""
        lane = booking.lane
        most, tightest = (-1, -1), lane.limits[0]
        for limit, key, charge_us in zip(lane.limits, lane.keys, booking.charges_us, strict=True):
            if charge_us:
                filled_us, burst_us = self.store.backlog_us(key) + charge_us, limit.burst_us
                # Slots and bucket time have no common measure; the part that is filled is one.
                over = (max(0, filled_us - burst_us), filled_us * 1_000_000 // burst_us)
                if over > most:
                    most, tightest = over, limit
        return tightest.name
