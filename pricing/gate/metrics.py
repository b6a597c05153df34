"""What rules can be about: numbers of a report, each with its unit; and how people write such numbers."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from ..errors import ConfigError
from ..money import Usd
from .report import Group

USD, TOKENS, DURATION, COUNT = "USD", "tokens", "s", "count"


class Metric(NamedTuple):
    """A number of a group, or of the whole.

    unit     USD (pico-dollars), tokens, s (µs) or count
    of       reads it; None where it is not known
    priced   whether requests without a price are missing in it
    """

    name: str
    unit: str
    of: Callable[[Group], int | None]
    priced: bool = False


def _cost(name: str) -> Metric:
    return Metric(f"cost.{name}", USD, lambda group: None if group.cost is None else getattr(group.cost, name), True)


def _per_request(group: Group) -> int | None:
    priced = group.requests - sum(group.unpriced.values())
    return -(-group.cost.expected // priced) if group.cost is not None and priced else None


def _written(name: str) -> Metric:
    return Metric(f"tokens.output.{name}", TOKENS, lambda group: getattr(group.output, name))


def _tokens(name: str) -> Metric:
    return Metric(f"tokens.{name}", TOKENS, lambda group: group.input + getattr(group.output, name))


def _duration(name: str) -> Metric:
    return Metric(
        f"duration.{name}", DURATION, lambda group: None if group.duration is None else getattr(group.duration, name)
    )


METRICS = {
    metric.name: metric
    for metric in (
        *(_cost(name) for name in ("expected", "p50", "p95", "worst")),
        Metric("cost.per_request", USD, _per_request, True),
        Metric("tokens.input", TOKENS, lambda group: group.input),
        *(_written(name) for name in ("expected", "p50", "p95", "worst")),
        *(_tokens(name) for name in ("expected", "p50", "p95", "worst")),
        *(_duration(name) for name in ("p50", "p95")),
        Metric("requests", COUNT, lambda group: group.requests),
        Metric("unpriced", COUNT, lambda group: group.without_price),
    )
}
ALIASES = {"cost": "cost.p50", "tokens": "tokens.p50", "tokens.output": "tokens.output.p50", "duration": "duration.p50"}

_UNITS_US = {"s": 10**6, "m": 60 * 10**6, "min": 60 * 10**6, "h": 3_600 * 10**6, "d": 86_400 * 10**6}
_NUMBER = re.compile(r"(\d[\d_,]*(?:\.\d+)?)\s*([a-zA-Z]*)")
_PERCENT = re.compile(r"(\d[\d_,]*(?:\.\d+)?)\s*%")
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "tokens": 1, "requests": 1}


def metric_of(name: str) -> Metric:
    """Find a metric by its name. Raises ConfigError that offers the nearest one."""
    found = METRICS.get(ALIASES.get(name, name))
    if found is not None:
        return found
    near = difflib.get_close_matches(name, [*METRICS, *ALIASES], 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(METRICS)}"
    raise ConfigError(f"unknown metric {name!r}{hint}")


def read_amount(text: str, unit: str) -> int:
    """Read a number as people write it, such as "12.50", "$20", "150k", "2h": exact, in the unit of a metric.

    Raises  ConfigError when it is no such number
    """
    text = text.strip()
    if unit == USD:
        return _read_usd(text)
    match = _NUMBER.fullmatch(text)
    sizes = _UNITS_US if unit == DURATION else _SCALE
    what = "a duration such as 90s, 45m, 2h or 1d" if unit == DURATION else "a number such as 500, 150k or 2.5m"
    if match is None or (scale := sizes.get(match[2].lower())) is None:
        raise ConfigError(f"{text!r} is not {what}")
    number = Fraction(_plain(match[1], text)) * scale
    if number.denominator != 1 or number >= 10**18:
        raise ConfigError(f"{text!r} is not {what}")
    return int(number)


def read_change(text: str, unit: str) -> Fraction | int:
    """Read how much a number may change: "5%" as a fraction (1/20), anything else as an amount.

    Raises  ConfigError when it is neither
    """
    text = text.strip().removeprefix("+")
    match = _PERCENT.fullmatch(text)
    return Fraction(_plain(match[1], text)) / 100 if match else read_amount(text, unit)


def _read_usd(text: str) -> int:
    pico = Usd.parse(re.sub(r"\s*USD$", "", text, flags=re.IGNORECASE)).pico
    if pico < 0:
        raise ConfigError(f"{text!r} is less than nothing")
    return pico


def _plain(number: str, text: str) -> str:
    """A number without signs between its thousands; "2,5" is refused, as it is for money."""
    if "," in number and not re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", number):
        raise ConfigError(f"{text!r} is no number: commas stand between thousands")
    return number.replace(",", "").replace("_", "")


def shown(number: int, unit: str) -> str:
    """Print a number of a unit for people."""
    if unit == USD:
        return Usd(number).format()
    if unit == DURATION:
        return _shown_duration(number)
    return f"{number:,} tokens" if unit == TOKENS else f"{number:,}"


def shown_change(number: int, unit: str) -> str:
    """The same with its sign: "+$2.21"."""
    sign = "+" if number > 0 else "-" if number < 0 else "±"
    return sign + shown(abs(number), unit)


def percent(change: int, before: int) -> str:
    """A change in per cent of what was before: "+21.7%"; "" where nothing was."""
    if not before:
        return ""
    tenths = round(Fraction(change * 1000, before))
    sign = "+" if tenths > 0 else "-" if tenths < 0 else "±"
    whole, tenth = divmod(abs(tenths), 10)
    return f"{sign}{whole:,}.{tenth}%"


def _shown_duration(us: int) -> str:
    if us < 60 * 10**6:
        tenths = (us + 50_000) // 100_000
        return f"{tenths // 10}.{tenths % 10} s"
    minutes, seconds = divmod((us + 500_000) // 10**6, 60)
    if minutes < 60:
        return f"{minutes}:{seconds:02d} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d} h"
