"""A limit as a value: so many units per period. Pure data, integers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .errors import ConfigError

Unit = Literal["requests", "tokens", "images"]

US_PER_S = 1_000_000
MINUTE_US = 60 * US_PER_S
DAY_US = 86_400 * US_PER_S


@dataclass(frozen=True, slots=True)
class Limit:
    """`capacity` units per `period_us`, refilled continuously; a bucket that starts full.

    name       str   the field's word: rpm, tpm, rpd, tpd, ipm
    unit       str   what is counted: requests, tokens or images
    capacity   int   units per period, and the largest single demand
    period_us  µs    time in which an empty bucket is full again
    burst_us   µs    how much of the period may be spent at once; the whole period unless a server enforces a
                     shorter window (1 s quantised: burst_us = 1_000_000)

    Raises  ConfigError when a number is not a positive integer or the burst is longer than the period.
    """

    name: str
    unit: Unit
    capacity: int
    period_us: int = MINUTE_US
    burst_us: int = 0  # 0 means the whole period; __post_init__ fills it in

    def __post_init__(self) -> None:
        for key in ("capacity", "period_us", "burst_us"):
            value = getattr(self, key)
            if type(value) is not int or value < (0 if key == "burst_us" else 1):
                raise ConfigError(f"limit {self.name}: {key} must be a positive whole number, not {value!r}")
        if not self.burst_us:
            object.__setattr__(self, "burst_us", self.period_us)
        if self.burst_us > self.period_us:
            raise ConfigError(f"limit {self.name}: burst_us {self.burst_us} is longer than its period {self.period_us}")

    def charge_us(self, demand: int) -> int:
        """Turn `demand` units into bucket time, rounded up: multiply first, divide once, never in our favour."""
        return -(-demand * self.period_us // self.capacity)

    @property
    def largest(self) -> int:
        """The largest demand (units) that can ever be admitted at once."""
        return self.capacity * self.burst_us // self.period_us


KNOWN: dict[str, tuple[Unit, int]] = {
    "rpm": ("requests", MINUTE_US),
    "tpm": ("tokens", MINUTE_US),
    "rpd": ("requests", DAY_US),
    "tpd": ("tokens", DAY_US),
    "ipm": ("images", MINUTE_US),
}
"""The limits OpenAI names on its model pages: unit and period of each."""


def named(name: str, capacity: int) -> Limit:
    """Build the Limit that OpenAI calls `name` ("rpm", "tpm", …) with `capacity` units per period."""
    try:
        unit, period_us = KNOWN[name]
    except KeyError:
        raise ConfigError(f"unknown limit {name!r}; known: {', '.join(KNOWN)}") from None
    return Limit(name, unit, capacity, period_us)
