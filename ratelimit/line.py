"""Who asks the store next: in order, without polling and without a herd.

Everybody who waits for limits that touch each other stands in one Line. It is sorted into files: those who wait for the
same limits with the same headroom form one, and only the first of a file asks the store, and sleeps exactly as long as
the store says; everybody behind sleeps until it is first. So an admission costs the same however long the line is, and
whatever changes the store needs to wake only the first ones.

Whose turn it is within a file is in order.py, with the proved bound on how long anybody waits. The first of another
file may go before a first that comes earlier only where that does not delay it: the store is told what it waits for.
Which first comes earlier is fair queueing again, over all the files.

A class that leaves a share of the burst free steps back for those for whom it is left, until they have taken as much
as it leaves; then it is its turn.

A Line is colourless: it never waits (tickets do). A ticket whose loop is closed, or whose holder has not stirred for
STALL_US after its time (a stopped loop, a blocked one), is passed over with all of its loop; when it stirs, it takes
its old place again.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import NeverFits, QueueFull
from .forks import reset_in_child
from .order import File, Priorities, Shares
from .stores.base import Booking
from .ticket import Ticket

if TYPE_CHECKING:
    from .gate import Gate

PATIENCE_US, PATIENCE_MORE_US = 5_000_000, 10_000
"""How often somebody behind looks whether the first is still there; the longer the line, the less often, so that a
long line does not wake in a herd. Nobody counts on it: whoever is next is woken."""
STALL_US = 5_000_000
"""A first that is silent for so long after its time is passed over."""
_LAST = (1 << 256, 0)
"""A place behind everybody's."""


class Line:
    """Everybody who waits for one group of lanes.

    priorities  the classes and their weights
    most        how many may wait; None for any number
    """

    def __init__(self, priorities: Priorities, most: int | None = None) -> None:
        self.lock = threading.RLock()  # re-entrant: see MemoryStore
        self._classes = priorities.classes
        self._most = most
        self._clear()
        reset_in_child(self)

    def _clear(self) -> None:
        self._files: dict[tuple[object, ...], File] = {}
        self._shares = Shares(self._classes)
        self._waiting = dict.fromkeys(self._classes, 0)
        self._blocking: list[Ticket] = []
        self.count = 0
        self.collected_s = 0.0  # when the garbage was last searched for slots
        self._number = 0

    def after_fork(self) -> None:
        """Forget whoever stands in line: they stand in the parent's."""
        self.lock = threading.RLock()
        for file in self._files.values():
            for ticket in file.everybody():
                ticket.file = None
        self._clear()

    def __len__(self) -> int:
        return self.count

    def join(self, ticket: Ticket) -> None:
        """Stand in line. Raises QueueFull when as many wait as may."""
        with self.lock:
            if self._most is not None and self.count >= self._most:
                raise QueueFull(waiting=self.count, most=self._most)
            self._number += 1
            ticket.number = self._number
            file = self._add(ticket)
            ticket.fills = ticket.booking.lane.windowed and file.near(ticket)  # the first sleeps: it looks for itself

    def leave(self, ticket: Ticket, served: bool) -> None:
        """Step out, admitted or not, and let those who are first now know."""
        with self.lock:
            file = ticket.file
            if file is not None:  # it never stood here, was passed over, or stands in the line of the forking process
                was_first = served or file.first() is ticket
                if served:
                    self._count_served(ticket, file)
                self._drop(ticket)
                if was_first:
                    self._wake_first()
            booking = ticket.booking
            if booking.charged is not None:  # it may have claimed again since, for all that stand here do
                booking.lane, booking.charges_us = booking.charged

    def turn(self, ticket: Ticket) -> tuple[Booking, ...] | None:
        """Say whether it is this ticket's turn to ask the store: what it must not delay, or None.

        Raises  NeverFits when a limit became smaller than what the ticket waits for
        """
        with self.lock:
            now_us = ticket.clock.now_us()
            if ticket.booking.lane is not ticket.gate.lane:
                self._claim_again(ticket)
            file = ticket.file
            if file is None:  # it was passed over, and stirs
                file = self._add(ticket)
            first = self._first(file, now_us, ticket)
            fills, ticket.fills = ticket.fills, False
            # A thread that blocks its own event loop would wait for ever behind a task of it.
            its_turn = first is ticket or (first and ticket.blocks and first.loop is ticket.loop)
            if its_turn:
                ticket.due_us = now_us
                if ticket.booking.spare_ppm and ticket.yielded_us >= ticket.booking.spare_us():
                    ticket.booking.spare_ppm = 0
                if len(self._files) == 1:
                    return ()
            elif not fills or first is None or first.priority != ticket.priority:
                return None
            firsts = [self._first(other, now_us, ticket) for other in list(self._files.values())]
            for one in firsts:
                if one is not None:
                    self._place(one)  # all of them first: it may put one that asked later behind
            place = self._place(ticket) if its_turn else _LAST
            earlier = []
            for one in firsts:
                if (
                    one is not None
                    and one is not ticket
                    and self._place(one) < place
                    and _touch(one.booking, ticket.booking)
                    and not (ticket.blocks and one.loop is ticket.loop)
                ):
                    earlier.append(one)
            return tuple(one.booking for one in sorted(earlier, key=self._place))

    def fill(self, first: Ticket, room_us: Sequence[int]) -> None:
        """Let the next of its class that fits into room which the first of a file cannot use ask for it.

        room_us  (n,) µs  per limit: what may be charged without delaying the first
        """
        with self.lock:
            file = first.file
            if file is not None and file.first() is first and min(room_us) >= 0 < max(room_us):
                ticket = file.fitting(first, room_us)
                if ticket is not None:
                    ticket.fills = True
                    ticket.wake()

    def patience_us(self) -> int:
        """How long somebody behind sleeps, unless woken."""
        return PATIENCE_US + PATIENCE_MORE_US * self.count

    def sleeps(self, ticket: Ticket, pause_us: int) -> None:
        """Note that a first one sleeps, and for how long."""
        ticket.due_us = ticket.clock.now_us() + pause_us

    def nudge(self) -> None:
        """Wake the first ones: the store has changed, and their sleep may be too long."""
        if self.count:
            with self.lock:
                self._wake_first()

    def wake_all(self) -> None:
        """Wake everybody: nobody needs to wait any more."""
        with self.lock:
            for file in self._files.values():
                for ticket in file.everybody():
                    ticket.wake()

    def claim_again(self, gate: Gate) -> None:
        """Let everybody at a gate ask for what they want by its new limits."""
        with self.lock:
            for file in list(self._files.values()):
                for ticket in file.everybody():
                    if ticket.gate is gate:
                        try:
                            self._claim_again(ticket)
                        except NeverFits:
                            ticket.wake()  # its holder finds out for itself
            self._wake_first()

    def ahead_us(self, booking: Booking, priority: str) -> tuple[int, ...]:
        """Sum what those of a class who wait for the same are going to ask for (µs per limit of the lane)."""
        with self.lock:
            file = self._files.get(_key(booking))
            return (file.ahead.get(priority) if file else None) or (0,) * len(booking.charges_us)

    def waiting(self) -> dict[str, int]:
        """How many wait, by class."""
        with self.lock:
            return {name: count for name, count in self._waiting.items() if count}

    def _add(self, ticket: Ticket) -> File:
        key = _key(ticket.booking)
        file = self._files.get(key)
        if file is None:
            file = self._files[key] = File(key, self._classes)
        file.add(ticket)
        ticket.place = -1
        self.count += 1
        self._waiting[ticket.priority] += 1
        if ticket.blocks:
            self._blocking.append(ticket)
        if len(self._files) > 1 and file.alive > 1 and file.first() is ticket:
            self._wake_first()  # whoever stood back for the one that was first need not do so any more
        return file

    def _drop(self, ticket: Ticket) -> None:
        file = ticket.file
        assert file is not None
        file.drop(ticket)
        if not file.alive:
            del self._files[file.key]
        self.count -= 1
        self._waiting[ticket.priority] -= 1
        if ticket.blocks:
            self._blocking.remove(ticket)
        if not self.count:
            self._shares = Shares(self._classes)

    def _claim_again(self, ticket: Ticket) -> None:
        """Charge by the limits that are in force now. Raises NeverFits."""
        booking, gate, file = ticket.booking, ticket.gate, ticket.file
        lane = gate.lane
        charges_us = gate.charges_us(lane, booking.demand)
        if file is not None and file.key == _key(Booking(lane, charges_us, booking.spare_ppm)):
            file.count(ticket, -1)
            booking.lane, booking.charges_us = lane, charges_us
            file.count(ticket, 1)
            return
        if file is not None:
            self._drop(ticket)
        booking.lane, booking.charges_us = lane, charges_us
        if file is not None:
            self._add(ticket)

    def _first(self, file: File, now_us: int, asking: Ticket) -> Ticket | None:
        """The first of a file that is still alive; one that does not stir is passed over, with all of its loop.

        One whose loop runs, for somebody of it asks, is only late.
        """
        passed = False
        while (first := file.first()) is not None:
            if first is not file.leader:
                file.leader, first.due_us = first, now_us
            late = now_us - first.due_us >= STALL_US
            if first is asking or not (
                first.dead() or (late and (first.loop is None or first.loop is not asking.loop))
            ):
                break
            self._pass_over(first)
            passed = True
        if passed:
            self._wake_first()
        return first

    def _pass_over(self, first: Ticket) -> None:
        """Take out one that cannot move, and the other tasks of its loop, which cannot either."""
        self._drop(first)
        if first.loop is not None and not first.blocks:
            for file in list(self._files.values()):
                for ticket in file.everybody():
                    if ticket.loop is first.loop and not ticket.blocks:
                        self._drop(ticket)

    def _place(self, first: Ticket) -> tuple[int, int]:
        """Where a first stands among those of all files: it is found when it is first asked for, and then only put
        behind those of its class who asked earlier, and become first later, for what it wants too.
        """
        if first.place < 0:
            first.place = self._shares.start(first.priority, self._shares.now)
            for file in self._files.values():
                one = file.leader
                if (
                    one is not None
                    and one.priority == first.priority
                    and one.number > first.number
                    and 0 <= one.place < first.place
                    and _meet(first.booking, one.booking)
                ):
                    one.place = first.place
        return first.place, first.number

    def _count_served(self, ticket: Ticket, file: File) -> None:
        cost_us = max(ticket.booking.charges_us)
        start = ticket.start if ticket.start >= 0 else file.shares.start(ticket.priority, ticket.since)
        file.shares.serve(ticket.priority, start, cost_us)
        self._shares.serve(ticket.priority, self._place(ticket)[0], cost_us)
        for other in self._files.values():
            one = other.leader
            if one is None or one.booking.spare_ppm <= ticket.booking.spare_ppm:
                continue
            if _meet(one.booking, ticket.booking):
                one.yielded_us += cost_us

    def _wake_first(self) -> None:
        for file in list(self._files.values()):
            first = file.first()
            while first is not None and first.dead():
                self._pass_over(first)
                first = file.first()
            if first is not None:
                first.wake()
        for ticket in self._blocking:
            ticket.wake()


def _key(booking: Booking) -> tuple[object, ...]:
    """What those who wait for the same have in common: the same limits (of those they are charged for) and headroom."""
    return (booking.lane.keys, tuple(map(bool, booking.charges_us)), booking.spare_ppm)


def _touch(one: Booking, other: Booking) -> bool:
    """Say whether the first of two may object to the other: reserved room is there to be used."""
    return one.spare_ppm <= other.spare_ppm and _meet(one, other)


def _meet(one: Booking, other: Booking) -> bool:
    """Say whether two want of the same limit."""
    wanted = {key for key, charge_us in zip(one.lane.keys, one.charges_us, strict=True) if charge_us}
    return any(key in wanted for key, charge_us in zip(other.lane.keys, other.charges_us, strict=True) if charge_us)
