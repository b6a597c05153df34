"""The server's side of a limit: a bucket that drains continuously, and the rule that all limits must agree.

What a server keeps of a limit is a `Meter`. The bucket here is the one that was recorded; `windows` has the others. A
bucket holds a *level*: what has been charged and not yet drained. It starts at nothing, drains at capacity / period,
and a request enters when the level plus its charge stays within the capacity. To keep this exact without fractions the
level is counted in units × µs of the period: one unit charged raises it by `period_us`, one µs of time lowers it by
`capacity`. This code shares nothing with `ratelimit.gcra` on purpose: the two are checked against each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from ratelimit.limit import Limit, Unit

Refused = Literal["rate", "too_large"]


class Refusal(NamedTuple):
    """Why a request did not enter.

    bucket     the limit that refused
    kind       rate: later · too_large: never
    used       units that the message calls used, rounded up
    requested  units asked for
    wait_us    µs until it would enter if nothing else came; 0 for too_large
    again_ms   ms that the message tells to wait
    """

    bucket: Meter
    kind: Refused
    used: int
    requested: int
    wait_us: int
    again_ms: int


class Meter(Protocol):
    """What a server keeps of one limit of one pool. Reading it is right only at the instant it was last drained to.

    capacity   units per period: the limit that headers and messages name
    """

    name: str
    unit: Unit
    capacity: int
    period_us: int

    def drain(self, now_us: int) -> None:
        """Let time pass up to `now_us`. A clock that steps back drains nothing."""

    def charge(self, units: int) -> None:
        """Take `units`; the caller has checked that they fit."""

    def refusal(self, units: int) -> Refusal | None:
        """Say why `units` cannot enter now, or None when they can."""

    @property
    def remaining(self) -> int:
        """What the header calls remaining (units of the limit)."""

    @property
    def used(self) -> int:
        """What messages call used (units of the limit): capacity − remaining."""

    @property
    def reset_us(self) -> int:
        """Time until all of it is free again if nothing else came (µs)."""


class Bucket:
    """A limit that refills continuously."""

    __slots__ = ("_ceiling", "_level", "_updated_us", "capacity", "name", "period_us", "unit")

    def __init__(self, limit: Limit, now_us: int = 0) -> None:
        self.name = limit.name
        self.unit = limit.unit
        self.capacity = limit.capacity
        self.period_us = limit.period_us
        self._ceiling = limit.capacity * limit.burst_us  # a server that enforces a shorter window lets less in at once
        self._level = 0
        self._updated_us = now_us

    def drain(self, now_us: int) -> None:
        """Let time pass up to `now_us`. A clock that steps back drains nothing."""
        elapsed_us = now_us - self._updated_us
        if elapsed_us > 0:
            self._updated_us = now_us
            level = self._level - elapsed_us * self.capacity
            self._level = level if level > 0 else 0

    def charge(self, units: int) -> None:
        """Take `units`; the caller has checked that they fit."""
        self._level += units * self.period_us

    def refusal(self, units: int) -> Refusal | None:
        """Say why `units` cannot enter now, or None when they can."""
        need = units * self.period_us
        over = self._level + need - self._ceiling
        if over <= 0 or not units:
            return None
        if need > self._ceiling:
            return Refusal(self, "too_large", self.used, units, 0, 0)
        return Refusal(self, "rate", self.used, units, -(-over // self.capacity), self._again_ms(units))

    def _again_ms(self, units: int) -> int:
        """(used + requested − limit) / limit × period, cut to whole ms.

        Source  six error bodies 2023-12 … 2026-09 (1352.76 → 1.352s)
        """
        return (self.used + units - self.capacity) * (self.period_us // 1000) // self.capacity

    @property
    def remaining(self) -> int:
        """Whole units that would still fit, rounded down as the headers do."""
        return max(0, (self._ceiling - self._level) // self.period_us)

    @property
    def used(self) -> int:
        """Units in the bucket, rounded up: capacity − remaining, never above the capacity."""
        return self.capacity - self.remaining

    @property
    def reset_us(self) -> int:
        """Time until the bucket is empty again (µs, rounded down).

        It follows the exact level, not the rounded `remaining`: "30000 / 29967 / 65ms" was recorded, 33 units would be
        66 ms.

        Source  1,025 of 1,025 recorded triples (2024–2026) fit one level with both roundings
        """
        return self._level // self.capacity


def admit(buckets: Sequence[Meter], charges: Sequence[int], now_us: int) -> Refusal | None:
    """Charge every bucket, or none: all limits are checked together at one instant.

    buckets  (n,)        one per limit of the pool
    charges  (n,) units  what the request takes from each
    now_us   µs          the server's clock
    →  None when it entered; else the refusal with the longest wait (one that never fits before all others)

    Law  levels equal an oracle in fractions at every instant (tests/emulator/test_buckets.py)
    """
    worst: Refusal | None = None
    for bucket, units in zip(buckets, charges, strict=True):
        bucket.drain(now_us)
        refusal = bucket.refusal(units)
        if refusal is not None and (
            worst is None or (refusal.kind == "too_large", refusal.wait_us) > (worst.kind == "too_large", worst.wait_us)
        ):
            worst = refusal
    if worst is None:
        for bucket, units in zip(buckets, charges, strict=True):
            bucket.charge(units)
    return worst
