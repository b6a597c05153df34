"""Servers that count per window instead of refilling continuously: aligned windows, and a sliding one.

A window admits `allowance` units: the limit's share of the window's length, in whole units (6,000 a minute enforced per
second is 100). Headers and messages name the limit per minute; `remaining` is what the window would still let in, and
what is not remaining is called used: so a refusal is one for which used + requested exceeds the limit, as in a bucket.
Integers only; nothing is shared with `ratelimit.cells`: the two are checked against each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Literal, get_args

from ratelimit.errors import ConfigError
from ratelimit.limit import MINUTE_US, US_PER_S, Limit

from .buckets import Bucket, Meter, Refusal

WindowName = Literal["continuous", "second", "ten-seconds", "minute", "minute-from-first", "sliding-minute"]

WINDOWS: tuple[WindowName, ...] = get_args(WindowName)
"""How limits per minute may be enforced."""

_LENGTHS_US = {"second": US_PER_S, "ten-seconds": 10 * US_PER_S}


def meter(limit: Limit, window: str, now_us: int) -> Meter:
    """Start counting a limit the way a server with this kind of window does.

    Only limits per minute follow the kind of window; others are continuous, unless the Limit itself says window=True.

    Raises  ConfigError where the window is too short to ever admit a single unit
    """
    if limit.period_us == MINUTE_US and window != "continuous":
        length_us = _LENGTHS_US.get(window, MINUTE_US)
        if window == "sliding-minute":
            return Sliding(limit, length_us, now_us)
        return Aligned(limit, length_us, now_us, from_first=window == "minute-from-first")
    return Aligned(limit, limit.burst_us, now_us) if limit.window else Bucket(limit, now_us)


class _Window(ABC):
    """What both kinds of window have in common: an allowance, what is used of it, and how that is told."""

    __slots__ = ("_allowance", "_now_us", "_used", "_window_us", "capacity", "name", "period_us", "unit")

    def __init__(self, limit: Limit, window_us: int, now_us: int) -> None:
        self.name = limit.name
        self.unit = limit.unit
        self.capacity = limit.capacity
        self.period_us = limit.period_us
        self._window_us = window_us
        self._allowance = limit.capacity * window_us // limit.period_us
        if not self._allowance:
            raise ConfigError(
                f"{limit.capacity} {limit.unit} in {limit.period_us / US_PER_S:g} s cannot be enforced in windows of "
                f"{window_us / US_PER_S:g} s: none would ever be admitted"
            )
        self._now_us = now_us
        self._used = 0

    @abstractmethod
    def drain(self, now_us: int) -> None:
        """Let time pass up to `now_us`. A clock that steps back drains nothing."""

    @abstractmethod
    def charge(self, units: int) -> None:
        """Take `units`; the caller has checked that they fit."""

    @abstractmethod
    def _frees_us(self, over: int) -> int:
        """The instant at which at least `over` of the units used are free again."""

    def refusal(self, units: int) -> Refusal | None:
        if units > self._allowance:
            return Refusal(self, "too_large", self.used, units, 0, 0)
        over = self._used + units - self._allowance
        if over <= 0 or not units:
            return None
        wait_us = self._frees_us(over) - self._now_us
        # Nobody recorded how a window's wait is rounded: up, so that whoever obeys is not refused again.
        return Refusal(self, "rate", self.used, units, wait_us, -(-wait_us // 1000))

    @property
    def remaining(self) -> int:
        return self._allowance - self._used

    @property
    def used(self) -> int:
        return self.capacity - self.remaining

    @property
    def reset_us(self) -> int:
        """Time until nothing of what was admitted counts any more (µs)."""
        return self._frees_us(self._used) - self._now_us if self._used else 0


class Aligned(_Window):
    """Windows that follow each other: from one multiple of their length on the server's clock to the next, or each from
    the first request after the last one's end (`from_first`). Across an edge twice the allowance may pass at once.
    """

    __slots__ = ("_ends_us", "_from_first")

    def __init__(self, limit: Limit, window_us: int, now_us: int, from_first: bool = False) -> None:
        super().__init__(limit, window_us, now_us)
        self._from_first = from_first
        self._ends_us = now_us

    def drain(self, now_us: int) -> None:
        self._now_us = max(self._now_us, now_us)
        if self._now_us >= self._ends_us:
            self._used = 0

    def charge(self, units: int) -> None:
        if units and self._now_us >= self._ends_us:
            passed_us = 0 if self._from_first else self._now_us % self._window_us
            self._ends_us = self._now_us - passed_us + self._window_us
        self._used += units

    def _frees_us(self, over: int) -> int:
        return self._ends_us


class Sliding(_Window):
    """The last stretch of time, exactly: every admission is remembered, and counts for one length of the window."""

    __slots__ = ("_log",)

    def __init__(self, limit: Limit, window_us: int, now_us: int) -> None:
        super().__init__(limit, window_us, now_us)
        self._log: deque[tuple[int, int]] = deque()  # (end_us, units), oldest first

    def drain(self, now_us: int) -> None:
        self._now_us = max(self._now_us, now_us)
        while self._log and self._log[0][0] <= self._now_us:
            self._used -= self._log.popleft()[1]

    def charge(self, units: int) -> None:
        if units:
            self._log.append((self._now_us + self._window_us, units))
            self._used += units

    def _frees_us(self, over: int) -> int:
        log = iter(self._log)
        while over > 0:
            ends_us, units = next(log)
            over -= units
        return ends_us
