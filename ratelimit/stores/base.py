"""The contract of a store: it swaps state, and decides nothing the core has not decided.

A lane is the set of limits one model's requests pass together; the store keeps a bucket per key. `reserve` is one
atomic step over all of them, and its answer carries durations, never instants, so that a store may have a clock of
its own.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..limit import Limit


class Lane(NamedTuple):
    """The limits that requests to one model (or one shared pool) pass together.

    name    str    what people call it: the model or the pool
    limits  (n,)   the limits, in a fixed order
    keys    (n,)   the bucket of each limit in the store; lanes that share a key share the bucket
    """

    name: str
    limits: tuple[Limit, ...]
    keys: tuple[str, ...]


class Booking:
    """A place in time that `reserve` has taken; it ends exactly once, settled or released.

    charges_us   (n,) µs   bucket time charged per limit of the lane
    backlogs_us  (n,) µs   backlog each bucket had before this charge (how busy the lane was)
    delay_us          µs   how long from now until the act instant; 0 = go now
    slack_us          µs   the least part of a burst kept for delay jitter when it was made
    """

    __slots__ = ("backlogs_us", "charges_us", "delay_us", "lane", "numbers", "open", "slack_us")

    def __init__(
        self,
        lane: Lane,
        charges_us: tuple[int, ...],
        numbers: tuple[int, ...],
        backlogs_us: tuple[int, ...],
        delay_us: int,
        slack_us: int = 0,
    ) -> None:
        self.lane = lane
        self.charges_us = charges_us
        self.numbers = numbers
        self.backlogs_us = backlogs_us
        self.delay_us = delay_us
        self.slack_us = slack_us
        self.open = True


class Store(Protocol):
    """Swap the state of many limits in one atomic step. Every method may be called from any thread."""

    def reserve(self, lane: Lane, charges_us: tuple[int, ...], horizon_us: int = 0) -> Booking | int:
        """Book the earliest conforming instant if it is at most `horizon_us` away.

        → a Booking, or the exact time (µs) until a reservation could succeed; a refusal changes nothing
        """

    def settle(self, booking: Booking, charges_us: tuple[int, ...]) -> None:
        """End a booking at its true charges: refund too much, add too little. A second end is a no-op."""

    def release(self, booking: Booking) -> None:
        """End a booking that was never used: everything still outstanding goes back."""

    def observe(self, key: str, backlog_us: int) -> None:
        """Learn that the server's bucket holds at least this backlog now. Observations only tighten."""

    def widen(self, key: str, slack_us: int) -> None:
        """Keep at least this much of the burst unused: the delay jitter between us and the server (see `Margin`)."""

    def backlog_us(self, key: str) -> int:
        """Read how much bucket time is spent at this moment (µs)."""

    def slack_us(self, key: str) -> int:
        """Read how much of the burst is kept unused (µs)."""
