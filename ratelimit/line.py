"""Who asks the store next: in order, without polling and without a herd.

Everybody who waits for limits that touch each other stands in one Line. It is sorted into files: those who wait for the
same limits with the same headroom form one, and only the first of a file asks the store, and sleeps exactly as long as
the store says; everybody behind sleeps until it is first. So an admission costs the same however long the line is, and
whatever changes the store needs to wake only the first ones.

Order within a class of a file is first come, first served. Between classes it is start-time fair queueing: the next is
of the class that has had the least for its weight, and who is cancelled was never there. The bound: from the moment a
request asks, at most

    (a + l) · Σ weights / w  +  Σ l of every other class

of charge is admitted in its file before it, where w is its class's weight, a the charge of its class ahead of it and l
the largest single charge of a class. So nobody starves, and while all classes wait each gets its share of what the
limits let through within one request (tests/laws/test_order.py). The first of another file may go before a first that
comes earlier only where that does not delay it: the store is told their claims. Which first comes earlier is fair
queueing again, over all the files.

A class that leaves a share of the burst free steps back for those for whom it is left, until they have taken as much
as it leaves; then it is its turn.

A Line is colourless: it never waits (tickets do). A ticket whose loop is closed, or whose holder has not stirred for
STALL_US after its time (a stopped loop, a blocked one), is passed over with all of its loop; when it stirs, it takes
its old place again.

Source  Goyal, Vin, Cheng: Start-time Fair Queueing (SIGCOMM 1996)
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from .errors import ConfigError, NeverFits, QueueFull
from .forks import reset_in_child
from .stores.base import Booking
from .ticket import Ticket

if TYPE_CHECKING:
    from .gate import Gate

PATIENCE_US, PATIENCE_MORE_US = 5_000_000, 10_000
"""How often somebody behind looks whether the first is still there; the longer the line, the less often, so that a
long line does not wake in a herd. Nobody counts on it: whoever is next is woken."""
STALL_US = 5_000_000
"""A first that is silent for so long after its time is passed over."""
_SCALE = 1 << 20
_LEAST_KEPT = 64


class Priority(NamedTuple):
    """A class of requests.

    weight  int    its share of what the limits let through, relative to the other classes that wait
    leave   float  the share of every limit's burst that it leaves free for the others, 0 ≤ leave < 1
    """

    weight: int = 1
    leave: float = 0.0


class Rank(NamedTuple):
    """The class that a request waits in, as the shells need it: its name, and what it leaves free (ppm)."""

    priority: str
    spare_ppm: int


Classes = Mapping[str, "int | Mapping[str, int | float]"]
"""What users write: {"interactive": 8, "batch": {"weight": 1, "leave": 0.1}}."""


class Priorities:
    """The classes of one limiter; requests that name none are normal, or of the first class.

    Raises  ConfigError when `given` is no mapping of names to weights
    """

    __slots__ = ("_ranks", "_usual", "classes")

    def __init__(self, given: Classes | None) -> None:
        if given is not None and (not isinstance(given, Mapping) or not given):
            raise ConfigError(f'priorities is a mapping such as {{"interactive": 8, "batch": 1}}, not {given!r}')
        self.classes: dict[str, Priority] = {}
        for name, value in ({"high": 9, "normal": 3, "low": 1} if given is None else given).items():
            if not isinstance(name, str) or not name:
                raise ConfigError(f"priorities: a class has a name such as interactive, not {name!r}")
            settings = value if isinstance(value, Mapping) else {"weight": value}
            if not settings or not settings.keys() <= {"weight", "leave"}:
                raise ConfigError(f"priority {name}: it has a weight and may leave a share, not {value!r}")
            one = Priority(**settings)  # type: ignore[arg-type]  # looked at next
            if type(one.weight) is not int or one.weight < 1:
                raise ConfigError(f"priority {name}: its weight is a whole number of at least 1, not {one.weight!r}")
            if isinstance(one.leave, bool) or not isinstance(one.leave, int | float) or not 0 <= one.leave < 1:
                raise ConfigError(f"priority {name}: leave is a share, 0 ≤ leave < 1, not {one.leave!r}")
            self.classes[name] = one
        self._ranks = {name: Rank(name, round(one.leave * 1_000_000)) for name, one in self.classes.items()}
        self._usual = self._ranks.get("normal") or next(iter(self._ranks.values()))

    def named(self, name: str | None) -> Rank:
        """The class of a request. Raises ConfigError for an unknown one."""
        if name is None:
            return self._usual
        try:
            return self._ranks[name]
        except (KeyError, TypeError):  # unknown, or not even a name
            raise ConfigError(f"unknown priority {name!r}; known: {', '.join(self.classes)}") from None


class Shares:
    """Virtual time: it tells where in the order of all classes a class's next request starts.

    Law  while all wait, what each class got differs from its share by one request at most (tests/laws/test_order.py)
    """

    __slots__ = ("_classes", "_finish", "now")

    def __init__(self, classes: Mapping[str, Priority]) -> None:
        self._classes = classes
        self._finish = dict.fromkeys(classes, 0)
        self.now = 0

    def start(self, name: str, since: int) -> int:
        """The start tag of a class's next request, which asked when the virtual time was `since`."""
        return max(self._finish[name], since)

    def serve(self, name: str, start: int, cost_us: int) -> None:
        """Count what a request took."""
        self.now = max(self.now, start)
        self._finish[name] = max(self._finish[name], start) + cost_us * _SCALE // self._classes[name].weight


class File:
    """Those who wait for the same limits with the same headroom: a queue per class, and whose turn it is.

    key      what they wait for
    ahead    by class: the sum of what they are going to ask for (µs per limit)
    alive    how many stand in it
    shares   what each class of it got
    leader   whom the line last saw as the first
    """

    __slots__ = ("_gone", "_queues", "ahead", "alive", "key", "leader", "shares")

    def __init__(self, key: tuple[object, ...], classes: Mapping[str, Priority]) -> None:
        self.key = key
        self.ahead: dict[str, tuple[int, ...]] = {}
        self.alive = 0
        self.shares = Shares(classes)
        self.leader: Ticket | None = None
        # Heaps, and not plain queues, because who was passed over comes back to an old place. Who leaves is taken out
        # later: when it comes to the front, or when most are gone.
        self._queues: dict[str, list[tuple[int, Ticket]]] = {}
        self._gone = 0

    def first(self) -> Ticket | None:
        """Whose turn it is: of the heads of the classes, the one with the smallest start tag, or else the older."""
        first = None
        for queue in self._queues.values():
            while queue and queue[0][1].file is not self:
                heappop(queue)
                self._gone -= 1
            if queue:
                head = queue[0][1]
                if head.start < 0:
                    head.start = self.shares.start(head.priority, head.since)
                if first is None or (head.start, head.number) < (first.start, first.number):
                    first = head
        return first

    def add(self, ticket: Ticket) -> None:
        """Put a ticket at its place."""
        ticket.file = self
        ticket.since, ticket.start = self.shares.now, -1
        heappush(self._queues.setdefault(ticket.priority, []), (ticket.number, ticket))
        self.alive += 1
        self.count(ticket, 1)

    def drop(self, ticket: Ticket) -> None:
        """Take a ticket out."""
        ticket.file = None
        self.alive -= 1
        self._gone += 1
        self.count(ticket, -1)
        if self._gone > self.alive + _LEAST_KEPT:
            for queue in self._queues.values():
                queue[:] = [entry for entry in queue if entry[1].file is self]
                heapify(queue)
            self._gone = 0

    def count(self, ticket: Ticket, sign: int) -> None:
        """Add what a ticket asks for to the sum of its class, or take it off again."""
        charges_us = ticket.booking.charges_us
        ahead_us = self.ahead.get(ticket.priority, (0,) * len(charges_us))
        self.ahead[ticket.priority] = tuple(a + sign * b for a, b in zip(ahead_us, charges_us, strict=True))

    def everybody(self) -> list[Ticket]:
        """All who stand in it."""
        return [ticket for queue in self._queues.values() for _, ticket in queue if ticket.file is self]


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
            self._add(ticket)

    def leave(self, ticket: Ticket, served: bool) -> None:
        """Step out, admitted or not, and let those who are first now know."""
        with self.lock:
            file = ticket.file
            if file is None:
                return  # it never stood here, was passed over, or stands in the line of the process that forked
            was_first = served or file.first() is ticket
            if served:
                self._count_served(ticket, file)
            self._drop(ticket)
            if was_first:
                self._wake_first()

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
            # A thread that blocks its own event loop would wait for ever behind a task of it.
            if first is not ticket and not (first and ticket.blocks and first.loop is ticket.loop):
                return None
            ticket.due_us = now_us
            if ticket.booking.spare_ppm and ticket.yielded_us >= ticket.booking.spare_us():
                ticket.booking.spare_ppm = 0
            if len(self._files) == 1:
                return ()
            place = self._place(ticket)
            earlier = []
            for other in list(self._files.values()):
                one = self._first(other, now_us, ticket) if other is not file else None
                if (
                    one is not None
                    and self._place(one) < place
                    and _touch(one.booking, ticket.booking)
                    and not (ticket.blocks and one.loop is ticket.loop)
                ):
                    earlier.append(one)
            return tuple(one.booking for one in sorted(earlier, key=self._place))

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
        """Where a first stands among those of all files; it is fixed when it is first asked for."""
        if first.place < 0:
            first.place = self._shares.start(first.priority, self._shares.now)
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
