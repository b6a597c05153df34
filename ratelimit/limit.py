"""A limit as a value: so many units per period. Pure data, integers only."""

from __future__ import annotations

from collections.abc import Mapping
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


Limits = Mapping[str, "int | Limit | Mapping[str, int | Limit]"]
"""What users write: {"rpm": 500, "tpm": 30_000} for every model, {"o3-pro": {"tpm": 30_000}} per model, or both."""


class OwnLimits:
    """Limits given by hand: for every model, and for single ones. Each takes the place of the limit of the same name.

    Raises  ConfigError when `given` is no mapping of limits
    """

    __slots__ = ("by_model", "every")

    def __init__(self, given: Limits | None) -> None:
        if given is not None and (not isinstance(given, Mapping) or not given):
            raise ConfigError(f'limits is a mapping such as {{"rpm": 500, "tpm": 30_000}}, not {given!r}')
        self.every: tuple[Limit, ...] = ()
        self.by_model: dict[str, tuple[Limit, ...]] = {}
        for name, value in (given or {}).items():
            if isinstance(value, Mapping):
                self.by_model[name] = tuple(_limit(key, number) for key, number in value.items())
            else:
                self.every = (*self.every, _limit(name, value))

    def of(self, *names: str) -> tuple[Limit, ...]:
        """The limits of a model known by these names; empty when nothing was said of it."""
        return replaced(self.every, next((self.by_model[name] for name in names if name in self.by_model), ()))


def replaced(limits: tuple[Limit, ...], own: tuple[Limit, ...]) -> tuple[Limit, ...]:
    """Put limits in the place of those of the same name; what has no name among them stays or is added."""
    return tuple(({limit.name: limit for limit in limits} | {limit.name: limit for limit in own}).values())


def _limit(name: str, value: int | Limit) -> Limit:
    return value if isinstance(value, Limit) else named(name, value)
