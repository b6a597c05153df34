"""Clocks. Time is an integer of microseconds, and whoever waits is told for how long by the clock's own measure.

`now_us` orders and measures; it is never a date. Dates (which price row, which tier scheme) come from the wall, once,
at the door. Scaled and virtual clocks exist so that the same code runs a demo thirty times faster, or a simulated
month in a second.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import Protocol

from .errors import ConfigError

US_PER_S = 1_000_000
LONGEST_WAIT_S = 10 * 365 * 86_400


class Clock(Protocol):
    """What a limiter needs of time."""

    def now_us(self) -> int:
        """Read the clock (µs, never decreasing)."""

    def seconds(self, duration_us: int) -> float:
        """Turn a duration of this clock into seconds of the event loop or of the wall."""

    def wait(self, event: threading.Event, timeout_us: int | None) -> None:
        """Block this thread until the event is set or the time is over (None: for as long as it takes)."""


def is_number(value: object) -> bool:
    """Say whether a setting is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_wait_us(name: str, seconds: float) -> int:
    """Read a setting that says how long somebody may wait (s) as µs. Raises ConfigError when it is no such number."""
    if not is_number(seconds) or not 0 <= seconds < LONGEST_WAIT_S:
        raise ConfigError(f"{name} is a number of seconds, 0 or more, or None for no bound, not {seconds!r}")
    return round(seconds * US_PER_S)


class MonotonicClock:
    """The machine's steady clock."""

    __slots__ = ()

    def now_us(self) -> int:
        return time.monotonic_ns() // 1000

    def seconds(self, duration_us: int) -> float:
        return duration_us / US_PER_S

    def wait(self, event: threading.Event, timeout_us: int | None) -> None:
        event.wait(None if timeout_us is None else self.seconds(timeout_us))


_BOOT_TIME = getattr(time, "CLOCK_BOOTTIME", None)


class HostClock(MonotonicClock):
    """The time that all processes of this machine share, and that goes on when they end: µs since it was started.

    Nobody can set it, and it counts while the machine sleeps. A system that has no such clock (it is Linux's) lends the
    wall's, which may be set: forward by x, and what was spent is forgiven as after x; back, and whoever shares a store
    goes on from the latest instant that is written there.
    """

    __slots__ = ()

    def now_us(self) -> int:
        return (time.time_ns() if _BOOT_TIME is None else time.clock_gettime_ns(_BOOT_TIME)) // 1000

    def boot(self) -> str:
        """Say which start of the machine this time counts from; "" for the wall's."""
        if _BOOT_TIME is None:
            return ""
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip()
        except (OSError, UnicodeError):  # then time tells: it runs backwards
            return "unknown"


class ScaledClock(MonotonicClock):
    """A clock that runs `speed` times faster than the wall: a minute of limits in 60 / speed seconds."""

    __slots__ = ("_speed",)

    def __init__(self, speed: float) -> None:
        self._speed = speed

    def now_us(self) -> int:
        return int(time.monotonic_ns() * self._speed) // 1000

    def seconds(self, duration_us: int) -> float:
        return duration_us / US_PER_S / self._speed


class LoopClock:
    """The running event loop's clock: under a VirtualTimeLoop, time that costs nothing."""

    __slots__ = ()

    def now_us(self) -> int:
        return int(asyncio.get_running_loop().time() * US_PER_S)

    def seconds(self, duration_us: int) -> float:
        return duration_us / US_PER_S

    def wait(self, event: threading.Event, timeout_us: int | None) -> None:
        raise RuntimeError("LoopClock is for async code: use `areserve`, or a MonotonicClock for threads")
