"""Who asks the store next: in order, without polling and without a herd.

Everybody who waits for limits that touch each other stands in one Line. It is sorted into files: those who wait for the
same limits with the same headroom form one, and only the first of a file asks the store, and sleeps exactly as long as
the store says; everybody behind sleeps until it is first. So an admission costs the same however long the line is, and
whatever changes the store needs to wake only the first ones.

Order within a class is first come, first served. Between classes it is weighted fair queueing: a class with weight w
gets at least w / Σ weights of what the limits let through, from the moment it asks, so nobody starves. The first of
another file may go before somebody who asked earlier only where that does not delay them: the store is told their
claims.

A Line is colourless: it never waits (tickets do). A ticket whose loop is closed, or whose holder has not stirred for
STALL_US after its time (a stopped loop, a blocked one), is passed over; when it stirs, it takes its old place again.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from .errors import ConfigError, QueueFull
from .stores.base import Claim, Lane
from .ticket import Ticket

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
            settings = value if isinstance(value, Mapping) else {"weight": value}
            if not settings.keys() <= {"weight", "leave"}:
                raise ConfigError(f"priority {name}: it has a weight and may leave a share, not {', '.join(settings)}")
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
        except KeyError:
            raise ConfigError(f"unknown priority {name!r}; known: {', '.join(self.classes)}") from None


class Line:
    """Everybody who waits for one group of lanes.

    priorities  the classes and their weights
    most        how many may wait; None for any number
    """

    def __init__(self, priorities: Priorities, most: int | None = None) -> None:
        self._lock = threading.RLock()  # re-entrant: see MemoryStore
        self._priorities = priorities
        self._most = most
        self._clear()
        _LINES.add(self)

    def _clear(self) -> None:
        self._files: dict[tuple[object, ...], list[Ticket]] = {}
        self.count = 0
        self._waiting = dict.fromkeys(self._priorities.classes, 0)
        self._finish = dict.fromkeys(self._priorities.classes, 0)
        self._virtual = 0
        self._sequence = 0
        self._ahead_us: dict[tuple[str, str], int] = {}
        self._blocking: list[Ticket] = []

    def __len__(self) -> int:
        return self.count

    def join(self, ticket: Ticket) -> None:
        """Stand in line. Raises QueueFull when as many wait as may."""
        with self._lock:
            if self._most is not None and self.count >= self._most:
                raise QueueFull(waiting=self.count, most=self._most)
            name = ticket.priority
            start = max(self._virtual, self._finish[name])
            cost = max(ticket.claim.charges_us) * _SCALE // self._priorities.classes[name].weight
            self._sequence += 1
            self._finish[name] = start + cost
            ticket.order = (start + cost, self._sequence)
            self.count += 1
            self._waiting[name] += 1
            self._add(ticket, 1)
            if ticket.blocks:
                self._blocking.append(ticket)
            heappush(self._files.setdefault(_file(ticket.claim), []), ticket)

    def leave(self, ticket: Ticket, served: bool) -> None:
        """Step out, admitted or not, and let those who are first now know."""
        with self._lock:
            if ticket.order == (0, 0):
                return  # the line was emptied by a fork, or the ticket never stood in it
            name = ticket.priority
            self.count -= 1
            self._waiting[name] -= 1
            self._add(ticket, -1)
            if ticket.blocks:
                self._blocking.remove(ticket)
            if served and ticket.order[0] > self._virtual:
                self._virtual = ticket.order[0]
            if not self._waiting[name]:
                self._finish[name] = 0  # a class of which nobody waits owes nothing for what was cancelled
            ticket.gone = True
            key = _file(ticket.claim)
            file = self._files.get(key, [])
            if len(file) > _LEAST_KEPT and sum(one.gone for one in file[:_LEAST_KEPT]) > _LEAST_KEPT // 2:
                file[:] = [one for one in file if not one.gone]
                heapify(file)
            while file and file[0].dead():
                heappop(file)
                if file:
                    file[0].due_us = ticket.clock.now_us()
            if not file:
                self._files.pop(key, None)
            self._wake_first()

    def turn(self, ticket: Ticket) -> tuple[Claim, ...] | None:
        """Say whether it is this ticket's turn to ask the store: the claims it must not delay, or None."""
        with self._lock:
            now_us = ticket.clock.now_us()
            key = _file(ticket.claim)
            file = self._files.setdefault(key, [])
            if ticket.gone:  # it was passed over, and stirs
                ticket.gone = False
                heappush(file, ticket)
            first = self._first(file, now_us, ticket)
            # A thread that blocks its own event loop would wait for ever behind a task of it.
            if first is not ticket and not (first and ticket.blocks and first.loop is ticket.loop):
                return None
            ticket.due_us = now_us
            if len(self._files) == 1:
                return ()
            claims = []
            for other, waiting in list(self._files.items()):
                if other == key:
                    continue
                one = self._first(waiting, now_us)
                if one is None:
                    del self._files[other]
                elif one < ticket and _touch(one.claim, ticket.claim):
                    claims.append(one)
            return tuple(one.claim._replace(lane=one.gate.lane) for one in sorted(claims))

    def patience_us(self) -> int:
        """How long somebody behind sleeps, unless woken."""
        return PATIENCE_US + PATIENCE_MORE_US * self.count

    def sleeps(self, ticket: Ticket, wait_us: int) -> None:
        """Note that a first one sleeps, and for how long."""
        ticket.due_us = ticket.clock.now_us() + wait_us

    def nudge(self) -> None:
        """Wake the first ones: the store has changed, and their sleep may be too long."""
        if self.count:
            with self._lock:
                self._wake_first()

    def wake_all(self) -> None:
        """Wake everybody: nobody needs to wait any more."""
        with self._lock:
            for file in self._files.values():
                for ticket in list(file):
                    ticket.wake()

    def ahead_us(self, lane: Lane, priority: str) -> tuple[int, ...]:
        """Sum what those of a class who are in line are going to ask for (µs per limit of the lane)."""
        with self._lock:
            return tuple(self._ahead_us.get((priority, key), 0) for key in lane.keys)

    def waiting(self) -> dict[str, int]:
        """How many wait, by class."""
        with self._lock:
            return {name: count for name, count in self._waiting.items() if count}

    def _add(self, ticket: Ticket, sign: int) -> None:
        for key, charge_us in zip(ticket.claim.lane.keys, ticket.claim.charges_us, strict=True):
            at = (ticket.priority, key)
            self._ahead_us[at] = self._ahead_us.get(at, 0) + sign * charge_us

    def _first(self, file: list[Ticket], now_us: int, asking: Ticket | None = None) -> Ticket | None:
        """The first of a file that is still alive; one that does not stir is passed over."""
        while file:
            first = file[0]
            silent = first is not asking and now_us > first.due_us + STALL_US
            if not silent and not first.dead():
                return first
            heappop(file)
            if silent:
                first.gone = True
            if file:
                file[0].due_us = now_us
        return None

    def _wake_first(self) -> None:
        for file in self._files.values():
            if file:
                file[0].wake()
        for ticket in self._blocking:
            ticket.wake()


def _file(claim: Claim) -> tuple[object, ...]:
    """What those who wait for the same have in common: the same limits (of those they are charged for) and headroom."""
    return (claim.lane.keys, tuple(map(bool, claim.charges_us)), claim.spare_ppm)


def _touch(one: Claim, other: Claim) -> bool:
    """Say whether two claims want of the same limit, and the first may object: reserved room is there to be used."""
    if one.spare_ppm > other.spare_ppm:
        return False
    wanted = {key for key, charge_us in zip(one.lane.keys, one.charges_us, strict=True) if charge_us}
    return any(key in wanted for key, charge_us in zip(other.lane.keys, other.charges_us, strict=True) if charge_us)


_LINES: weakref.WeakSet[Line] = weakref.WeakSet()


def _after_fork() -> None:
    """Whoever stood in line stands in the parent's; a lock may have been held by a thread that is not here."""
    for line in list(_LINES):
        line._lock = threading.RLock()
        for file in line._files.values():
            for ticket in file:
                ticket.order = (0, 0)
        line._clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
