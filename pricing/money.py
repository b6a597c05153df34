"""Usd: an exact amount of money.

A price per million tokens with at most six decimals is a whole number of pico-dollars per token, so every cost is an
integer and nothing is ever rounded but the printing.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation, localcontext
from functools import total_ordering
from typing import ClassVar

from .errors import ConfigError

PICO = 10**12
"""Pico-dollars in a dollar."""

_HALF_UP = Context(rounding=ROUND_HALF_UP)
"""Of our own, because a thread's decimal context may round otherwise, or trap."""

_GROUPED = re.compile(r"[-+]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?")
"""Thousands as "1,234.50" has them. "2,50" is refused: in half of the world it is two and a half, not 250."""


@total_ordering
class Usd:
    """An exact amount of US dollars, held as an integer of pico-dollars (10⁻¹² $). Immutable; floats are refused."""

    __slots__ = ("pico",)

    pico: int
    ZERO: ClassVar[Usd]

    def __init__(self, pico: int) -> None:
        if type(pico) is not int:
            raise TypeError(f"Usd takes whole pico-dollars, not {type(pico).__name__}; use Usd.parse for dollars")
        _set_pico(self, pico)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Usd is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("Usd is immutable")

    @classmethod
    def parse(cls, dollars: str | int | Decimal) -> Usd:
        """Read dollars exactly: "0.06", "$1,234.50", 25, Decimal("2.5").

        Raises  ConfigError for anything that is no amount, or has more than 12 decimals; TypeError for a float
        """
        if isinstance(dollars, bool | float):
            raise TypeError(f"money is never a {type(dollars).__name__}: write it as text, such as {str(dollars)!r}")
        if isinstance(dollars, int) and abs(dollars) >= 10**1000:  # Python refuses to print it
            raise ConfigError("not an amount of dollars: a number of more than a thousand digits")
        try:
            amount = Decimal(_plain(dollars) if isinstance(dollars, str) else dollars)
        except (InvalidOperation, ValueError):
            raise ConfigError(f"not an amount of dollars: {dollars!r}") from None
        # copy_abs, because abs would round, or overflow, as the thread's decimal context says
        if not amount.is_finite() or amount.copy_abs() >= 10**15:
            raise ConfigError(f"not an amount of dollars: {dollars!r}")
        sign, digits, exponent = amount.as_tuple()
        assert isinstance(exponent, int)
        if not any(digits):
            return cls.ZERO
        shift = exponent + 12
        whole, rest = (digits, ()) if shift >= 0 else (digits[:shift], digits[shift:])
        if any(rest):
            raise ConfigError(f"{dollars!r} has more than 12 decimals: an amount of money has fewer")
        number = int("".join(map(str, whole))) * 10 ** max(shift, 0)
        return cls(-number if sign else number)

    def decimal(self) -> Decimal:
        """The amount in dollars, exactly."""
        return Decimal(str(self))

    def format(self, places: int | None = None) -> str:
        """Print for people, rounded half up: "$1,234.50"; amounts under a cent keep two significant digits."""
        if places is not None and not 0 <= places <= 12:
            raise ConfigError(f"an amount is printed with 0 to 12 decimals, not {places}")
        pico = abs(self.pico)
        if places is None:
            places = 2
            while places < 12 and 0 < pico < PICO // 100 and pico * 10**places < 10 * PICO:
                places += 1
        unit: int = 10 ** (12 - places)
        rounded = (pico + unit // 2) // unit
        whole, part = divmod(rounded, 10**places)
        text = f"${whole:,}" + (f".{part:0{places}d}" if places else "")
        return "-" + text if self.pico < 0 and rounded else text

    def __str__(self) -> str:
        whole, part = divmod(abs(self.pico), PICO)
        text = f"{whole}.{part:012d}".rstrip("0").rstrip(".")
        return "-" + text if self.pico < 0 else text

    def __format__(self, spec: str) -> str:
        """Print as a number does: f"{amount:.2f}" is rounded half up, f"{amount:>10}" is all of it in ten places."""
        if not spec:
            return str(self)
        plain = spec if spec[-1].isalpha() or spec[-1] == "%" else spec + "f"  # else Decimal writes 1E-12
        with localcontext(_HALF_UP):
            return format(self.decimal(), plain)

    def __repr__(self) -> str:
        return f"Usd.parse({str(self)!r})"

    def __add__(self, other: Usd | int) -> Usd:
        if isinstance(other, Usd):
            return Usd(self.pico + other.pico)
        if type(other) is int and other == 0:
            return self  # so that sum() needs no start
        return NotImplemented

    __radd__ = __add__

    def __sub__(self, other: Usd) -> Usd:
        return Usd(self.pico - other.pico) if isinstance(other, Usd) else NotImplemented

    def __neg__(self) -> Usd:
        return Usd(-self.pico)

    def __mul__(self, times: int) -> Usd:
        return Usd(self.pico * times) if type(times) is int else NotImplemented

    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        return self.pico == other.pico if isinstance(other, Usd) else NotImplemented

    def __lt__(self, other: Usd) -> bool:
        return self.pico < other.pico if isinstance(other, Usd) else NotImplemented

    def __hash__(self) -> int:
        return hash(("Usd", self.pico))

    def __bool__(self) -> bool:
        return self.pico != 0

    def __reduce__(self) -> tuple[type[Usd], tuple[int]]:
        return Usd, (self.pico,)


def _plain(text: str) -> str:
    """Take the dollar sign and the commas between thousands out of a text: "-$1,234.50" → "-1234.50"."""
    text = text.strip()
    sign = text[:1] if text[:1] in ("-", "+") else ""
    number = sign + text[len(sign) :].removeprefix("$").strip()
    return number.replace(",", "") if _GROUPED.fullmatch(number) else number


_set_pico = Usd.__dict__["pico"].__set__  # four times in every cost: half the time of object.__setattr__
Usd.ZERO = Usd(0)
