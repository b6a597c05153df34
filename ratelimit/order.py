"""Whose turn it is among those who wait for the same limits: classes, their shares, and the order within them.

Order within a class is first come, first served. Between classes it is start-time fair queueing: the next is of the
class that has had the least for its weight, and who is cancelled was never there. The bound: from the moment a request
asks, at most

    (a + l) · Σ weights / w  +  Σ l of every other class

of charge is admitted in its file before it, where w is its class's weight, a the charge of its class ahead of it and l
the largest single charge of a class. So nobody starves, and while all classes wait each gets its share of what the
limits let through within one request (tests/laws/test_order.py).

Where requests are counted per window, a large one leaves room unused while it waits for others to leave the window.
One of the next LOOK_BEHIND of its class may use that, in their order, if the first goes at the same instant all the
same. So whoever is first is delayed by nobody, and whoever comes later only by what is smaller and stands near.

Source  Goyal, Vin, Cheng: Start-time Fair Queueing (SIGCOMM 1996)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import NamedTuple

from .errors import ConfigError
from .ticket import Ticket

LOOK_BEHIND = 64
"""Of how many behind the first one may use room that it cannot."""
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

    __slots__ = ("_gone", "_queues", "_unfit", "ahead", "alive", "key", "leader", "shares")

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
        self._unfit: tuple[int, ...] = ()  # room that nobody near the front can use

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
        self._unfit = ()
        self.count(ticket, 1)

    def drop(self, ticket: Ticket) -> None:
        """Take a ticket out."""
        ticket.file = None
        self.alive -= 1
        self._unfit = ()
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

    def near(self, ticket: Ticket) -> bool:
        """Say whether it stands so near the front of its class that it may use room which the first cannot."""
        return len(self._queues[ticket.priority]) <= LOOK_BEHIND + 1

    def fitting(self, first: Ticket, room_us: Sequence[int]) -> Ticket | None:
        """Find the next behind the first, of its class and of the next few, who asks for no more than this."""
        if self._unfit and all(room <= less for room, less in zip(room_us, self._unfit, strict=True)):
            return None
        for ticket in islice(_in_order(self._queues[first.priority]), 1, 1 + LOOK_BEHIND):
            if ticket.file is self and all(
                us <= room for us, room in zip(ticket.booking.charges_us, room_us, strict=True)
            ):
                return ticket
        self._unfit = tuple(room_us)
        return None

    def everybody(self) -> list[Ticket]:
        """All who stand in it."""
        return [ticket for queue in self._queues.values() for _, ticket in queue if ticket.file is self]


def _in_order(heap: list[tuple[int, Ticket]]) -> Iterator[Ticket]:
    """Who stands in a heap, from the front, at a cost that does not depend on how many do."""
    reached = [(heap[0], 0)] if heap else []
    while reached:
        (_, ticket), at = heappop(reached)
        yield ticket
        for below in range(2 * at + 1, min(2 * at + 3, len(heap))):
            heappush(reached, (heap[below], below))
