"""The contract of a store: it swaps state, and decides nothing the core has not decided.

A lane is the set of limits one model's requests pass together; the store keeps a cell per key. `reserve` is one
atomic step over all of them, and its answer carries durations, never instants, so that a store may have a clock of
its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..limit import Limit

KINDS = ("requests", "tokens", "images", "concurrent")
"""Units in the order of a Demand."""


class Lane:
    """The limits that requests to one model (or one shared pool) pass together.

    name    str    what people call it: the model or the pool
    limits  (n,)   the limits, in a fixed order
    keys    (n,)   the cell of each limit in the store; lanes that share a key share the cell
    plan    (n,)   (place of the unit in KINDS, period_us, capacity, burst_us) of each limit, ready for arithmetic
    opened         what the one store that keeps this lane remembers about it
    """

    __slots__ = ("__weakref__", "keys", "limits", "name", "opened", "plan", "windowed")

    def __init__(self, name: str, limits: tuple[Limit, ...], keys: tuple[str, ...]) -> None:
        self.name = name
        self.limits = limits
        self.keys = keys
        self.plan = tuple(map(_plan, limits))
        self.windowed = any(limit.window for limit in limits)
        self.opened: Any = None

    def units(self, place: int, us: int) -> int:
        """Turn bucket time of the limit at this place into whole units."""
        _, period_us, capacity, _ = self.plan[place]
        return us * capacity // period_us


def _plan(limit: Limit) -> tuple[int, int, int, int]:
    """Get one limit ready for arithmetic.

    A window is left by whole charges: where each was rounded up, the last unit that fits would wait for a whole window.
    So a unit weighs a whole number of µs there, rounded down where as many as may fit into the window all the same.
    """
    kind, unit_us = KINDS.index(limit.unit), limit.period_us // limit.capacity
    if limit.window and unit_us and limit.burst_us // unit_us == limit.largest:
        return kind, unit_us * limit.capacity, limit.capacity, limit.burst_us
    return kind, limit.period_us, limit.capacity, limit.burst_us


class Booking:
    """What a request asks of its lane, and what `reserve` has charged for it; it ends once, settled or released.

    lane        the limits it passes
    charges_us  (n,) µs  bucket time charged per limit of the lane
    spare_ppm   ppm      the share of every burst that must stay free afterwards
    place       (n,)     per limit, once charged: its cell, the number of the charge there, the backlog (µs) it found
    charged              lane and charges_us as they were charged: a limit that changes until the line has been left
                         changes the others
    open                 it is charged, and has not ended
    asked_us    µs       when it came to wait in line, by the limiter's clock; 0 until then
    held                 the slots it holds, until the store is told that the request has ended
    """

    __slots__ = ("asked_us", "charged", "charges_us", "held", "lane", "open", "place", "spare_ppm")

    def __init__(self, lane: Lane, charges_us: Sequence[int], spare_ppm: int = 0) -> None:
        self.lane = lane
        self.charges_us = charges_us
        self.spare_ppm = spare_ppm
        self.place: Sequence[tuple[Any, int, int]] = ()
        self.charged: tuple[Lane, Sequence[int]] | None = None
        self.open = False
        self.asked_us = 0
        self.held: Any = None

    def spare_us(self) -> int:
        """How much it leaves free of the limit on which that is least."""
        limits = zip(self.lane.limits, self.charges_us, strict=True)
        least_us = min((limit.burst_us for limit, charge_us in limits if charge_us), default=0)
        return least_us * self.spare_ppm // 1_000_000


class Store(Protocol):
    """Swap the state of many limits in one atomic step. Every method may be called from any thread."""

    def open(self, lane: Lane) -> None:
        """Make the cells of a lane known; a lane whose limits differ from those in force changes them."""

    def reserve(self, booking: Booking, ahead: Sequence[Booking] = ()) -> int | None:
        """Charge every limit of the lane now, if all of them conform.

        ahead  what others, who asked earlier, are waiting for: this must not delay them; in the order of asking

        → None when the booking is charged, or the time (µs, exact without `ahead`) until it could be; 0 where nobody
          knows, because slots are taken: whoever frees one wakes the line. A refusal changes nothing
        """

    def room_us(self, booking: Booking, wait_us: int) -> Sequence[int]:
        """Say, per limit, how much others may be charged now without delaying a booking that waits so long.

        → µs; ≤ 0 for nothing. It is a hint: whoever is to take it asks `reserve`, with the booking as `ahead`
        """

    def settle(self, booking: Booking, charges_us: Sequence[int]) -> None:
        """End a booking at its true charges: refund too much, add too little. A second end is a no-op."""

    def release(self, booking: Booking) -> None:
        """End a booking that was never used: everything still outstanding goes back."""

    def finish(self, booking: Booking) -> None:
        """Note that the request has ended: its slots are free. A second time is a no-op."""

    def leave(self, booking: Booking) -> None:
        """Note that a booking that was refused waits no more."""

    def look_us(self, booking: Booking, wait_us: int) -> int | None:
        """Say for how long (µs) one that was told to wait so long may sleep before it asks again.

        → None where nobody outside this process changes what is stored: then whoever frees room wakes the line
        """

    def arrived(self, booking: Booking, ago_us: int) -> None:
        """Learn that the request of a booking had reached the server `ago_us` before now."""

    def clears(self, booking: Booking, place: int, within_us: int) -> None:
        """Learn that what a booking took of the limit at this place is free again within so long."""

    def observe(self, key: str, backlog_us: int, clear_us: int | None = None) -> None:
        """Learn that the server's bucket holds at least this backlog now. Observations only tighten.

        clear_us  µs  when it will have room, as the server says; only a limit that counts per window asks
        """

    def close(self, key: str, wait_us: int) -> None:
        """Let nothing pass for so long: a cool-down. A longer one that runs already stays."""

    def widen(self, key: str, slack_us: int) -> None:
        """Keep at least this much of the burst unused: the delay jitter between us and the server."""

    def brace(self, key: str, slack_us: int) -> None:
        """Keep this much unused until told otherwise (0: what was learned), for little is known of the way yet."""

    def wait_us(self, key: str, ahead_us: int, charge_us: int, burst_us: int) -> int:
        """Foresee how long a charge waits at least, behind so much that is admitted before it (µs; 0: not at all)."""

    def backlog_us(self, key: str) -> int:
        """Read how much bucket time is spent at this moment (µs)."""

    def slack_us(self, key: str) -> int:
        """Read how much of the burst is kept unused (µs)."""
