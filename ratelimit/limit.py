"""A limit as a value: so many units per period. Pure data, integers only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from .errors import ConfigError

Unit = Literal["requests", "tokens", "images", "concurrent"]
UNITS = ("requests", "tokens", "images", "concurrent")

US_PER_S = 1_000_000
MINUTE_US = 60 * US_PER_S
DAY_US = 86_400 * US_PER_S


@dataclass(frozen=True, slots=True)
class Limit:
    """`capacity` units per `period_us`, refilled continuously; a bucket that starts full.

    name       str   the field's word: rpm, tpm, rpd, tpd, ipm, concurrency
    unit       str   what is counted: requests, tokens, images, or what is in the air at once ("concurrent")
    capacity   int   units per period, and the largest single demand
    period_us  µs    time in which an empty bucket is full again
    burst_us   µs    how much of the period may be spent at once; the whole period unless a server allows less
    window     bool  the server counts per window of burst_us instead of refilling continuously: 60,000 a minute
                     enforced as 1,000 a second is burst_us=1_000_000, window=True; a fixed or sliding minute is
                     window=True

    What is in the air at once ("concurrent") has no period: it counts slots, one a request.

    Raises  ConfigError when a number is not a positive integer, the burst is longer than the period, or a word is
            unknown
    """

    name: str
    unit: Unit
    capacity: int
    period_us: int = MINUTE_US
    burst_us: int = 0  # 0 means the whole period; __post_init__ fills it in
    window: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ConfigError(f"a limit has a name such as rpm or tpm, not {self.name!r}")
        if self.unit not in UNITS:
            raise ConfigError(f"limit {self.name}: unit is one of {', '.join(UNITS)}, not {self.unit!r}")
        if not isinstance(self.window, bool) or (self.window and self.unit == "concurrent"):
            raise ConfigError(f"limit {self.name}: window is True or False (False for slots), not {self.window!r}")
        for key in ("capacity", "period_us", "burst_us"):
            value = getattr(self, key)
            if type(value) is not int or value < (0 if key == "burst_us" else 1):
                raise ConfigError(f"limit {self.name}: {key} must be a positive whole number, not {value!r}")
        if self.unit == "concurrent":
            # One of `capacity` slots a request, also after headroom made the capacity smaller.
            object.__setattr__(self, "period_us", self.capacity)
            object.__setattr__(self, "burst_us", self.capacity)
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
    "concurrency": ("concurrent", MINUTE_US),
}
"""Limits by name: unit and period. `concurrency` is what may be in the air at once; its period says nothing."""


def named(name: str, capacity: int) -> Limit:
    """Build the Limit that OpenAI calls `name` ("rpm", "tpm", …) with `capacity` units per period."""
    try:
        unit, period_us = KNOWN[name]
    except KeyError:
        raise ConfigError(f"unknown limit {name!r}; known: {', '.join(KNOWN)}") from None
    return Limit(name, unit, capacity, period_us)


def canonical(model: str) -> str:
    """The name under which a model is counted: its card's for aliases and snapshots, its own where no card is known."""
    from pricing.cards import resolve

    card = resolve(model)
    return card.model if card else model


Limits = Mapping[str, "int | Limit | Mapping[str, int | Limit]"]
"""What users write: {"rpm": 500, "tpm": 30_000} for every model, {"o3-pro": {"tpm": 30_000}} per model, or both."""


class OwnLimits:
    """Limits given by hand: for every model, and for single ones. Each takes the place of the limit of the same name.

    An alias or a snapshot means the model: whoever asks first, by whichever name, meets the same limits.

    Raises  ConfigError when `given` is no mapping of limits, or says two things of one model
    """

    __slots__ = ("by_model", "every")

    def __init__(self, given: Limits | None) -> None:
        if given is not None and (not isinstance(given, Mapping) or not given):
            raise ConfigError(f'limits is a mapping such as {{"rpm": 500, "tpm": 30_000}}, not {given!r}')
        self.by_model: dict[str, tuple[Limit, ...]] = {}
        written: dict[str, str] = {}
        for name, value in (given or {}).items():
            if isinstance(value, Mapping):
                if not isinstance(name, str) or not name:
                    raise ConfigError(f"limits: a model has a name such as o3-pro, not {name!r}")
                if not value:
                    raise ConfigError(f"limits of {name}: the mapping is empty; give at least one, or leave it out")
                limits, model = _limits(value, f"limits of {name}: "), canonical(name)
                if limits != self.by_model.setdefault(model, limits):
                    raise ConfigError(
                        f"limits of {name}: {written[model]} is the same model ({model}) and is given other limits; "
                        "say it once"
                    )
                written.setdefault(model, name)
        self.every = _limits({name: value for name, value in (given or {}).items() if not isinstance(value, Mapping)})

    def of(self, model: str) -> tuple[Limit, ...]:
        """The limits of a model, by its canonical name; empty when nothing was said of it."""
        return replaced(self.every, self.by_model.get(model, ()))


def replaced(limits: tuple[Limit, ...], own: tuple[Limit, ...]) -> tuple[Limit, ...]:
    """Put limits in the place of those of the same name; what has no name among them stays or is added."""
    return tuple(({limit.name: limit for limit in limits} | {limit.name: limit for limit in own}).values())


class Pool(NamedTuple):
    """Limits that several models pass together.

    name         what it is called: "organisation", "project", a family; its limits are named "project-tpm" …
    limits  (n,)
    models       the canonical names of the models that pass it, on top of their own limits; None for every model
    above   int  a pool of its own for requests of more than so many input tokens (long context), instead of the
                 models' own limits; None for all requests
    """

    name: str
    limits: tuple[Limit, ...]
    models: frozenset[str] | None
    above: int | None


Pools = Mapping[str, Mapping[str, "int | Limit | Iterable[str]"]]
"""What users write: {"organisation": {"tpm": 2_000_000}, "o family": {"rpm": 500, "models": ["o3", "o3-pro"]},
"o3 long": {"tpm": 100_000, "models": ["o3"], "above": 128_000}}."""


def read_pools(given: Pools | None) -> tuple[Pool, ...]:
    """Read pools as users write them. Raises ConfigError that names the pool and what is wrong with it."""
    if given is not None and (not isinstance(given, Mapping) or not given):
        raise ConfigError(f'pools is a mapping such as {{"organisation": {{"tpm": 2_000_000}}}}, not {given!r}')
    pools = tuple(_pool(name, settings) for name, settings in (given or {}).items())
    for number, pool in enumerate(pools):
        for other in pools[:number]:
            both = (pool.models or frozenset()) & (other.models or frozenset())
            if both and pool.above is not None and pool.above == other.above:
                raise ConfigError(
                    f"pools {other.name} and {pool.name} are both for requests of {', '.join(sorted(both))} above "
                    f"{pool.above} input tokens, and a request passes one such pool: write their limits in one"
                )
    return pools


def _pool(name: str, settings: object) -> Pool:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"a pool has a name such as organisation, not {name!r}")
    if not isinstance(settings, Mapping):
        raise ConfigError(f'pool {name}: expected a mapping such as {{"tpm": 2_000_000}}, not {settings!r}')
    models, above = settings.get("models"), settings.get("above")
    if models is not None:
        listed = tuple(models) if isinstance(models, Iterable) and not isinstance(models, str | bytes) else ()
        if not listed or not all(isinstance(one, str) for one in listed):
            raise ConfigError(f"pool {name}: models is a list of names, not {models!r}")
        models = frozenset(map(canonical, listed))
    if above is not None and (type(above) is not int or above < 0 or models is None):
        raise ConfigError(f"pool {name}: above is a whole number of input tokens, and needs models")
    limits = _limits(
        {key: value for key, value in settings.items() if key not in ("models", "above")}, f"pool {name}: "
    )
    if not limits:
        raise ConfigError(f"pool {name}: it names no limit; known: {', '.join(KNOWN)}")
    if above is None:
        limits = tuple(replace(limit, name=f"{name}-{limit.name}") for limit in limits)
    return Pool(name, limits, models, above)


def _limits(given: Mapping[str, object], where: str = "") -> tuple[Limit, ...]:
    try:
        limits = {key: value if isinstance(value, Limit) else named(key, value) for key, value in given.items()}  # type: ignore[arg-type]  # Limit refuses what is no number
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from None
    for key, limit in limits.items():
        if limit.name != key:
            raise ConfigError(
                f"{where}{key!r} holds a Limit that is named {limit.name}: call it the same in both places"
            )
    return tuple(limits.values())
