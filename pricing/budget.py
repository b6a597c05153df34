"""Budgets: so much money per window. The ledger checks them in the same step in which it writes a pending entry.

A call is admitted only if what is spent, what is held by calls in the air, and its own worst case fit together: that
is why concurrency cannot overshoot a budget.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple

from .errors import ConfigError
from .money import Usd

US_PER_S = 1_000_000
WINDOWS = ("total", "hour", "day", "month")
_FORM = re.compile(r"\$?\s*([\d.,_]+)\s*(?:usd|\$|dollars?)?\s*(?:(?:/|per)\s*(\w+))?", re.IGNORECASE)


class Budget(NamedTuple):
    """A cap on spending.

    amount  Usd
    window  total | hour | day | month (calendar windows, UTC)
    run     count only the entries of this run; None counts the whole ledger
    """

    amount: Usd
    window: str = "total"
    run: str | None = None

    @classmethod
    def parse(cls, text: str | int, *, run: str | None = None) -> Budget:
        """Read "25 USD/day", "$5", "100 USD per month".

        Raises  ConfigError when it is no positive amount, or the window is unknown; TypeError for a float
        """
        if isinstance(text, float):
            raise TypeError(f"money is never a float: write it as text, such as {str(text)!r}")
        match = _FORM.fullmatch(str(Usd.parse(text)) if type(text) is int else str(text).strip())
        if match is None:
            raise ConfigError(f'a budget is written like "25 USD/day" or "5 USD", not {text!r}')
        amount = Usd.parse(match[1].replace("_", ""))
        window = (match[2] or "total").lower()
        if window not in WINDOWS:
            raise ConfigError(f"unknown budget window {window!r}; known: {', '.join(WINDOWS[1:])}, or none for a total")
        if amount <= Usd.ZERO:
            raise ConfigError(f"a budget is more than nothing, not {text!r}")
        return cls(amount, window, run)

    def start_us(self, now_us: int) -> int:
        """The instant (µs since the epoch, UTC) at which the window that holds `now_us` began."""
        if self.window == "total":
            return 0
        if self.window in ("hour", "day"):
            length_us = (3_600 if self.window == "hour" else 86_400) * US_PER_S
            return now_us - now_us % length_us
        month = datetime.fromtimestamp(now_us // US_PER_S, UTC).replace(
            day=1, hour=0, minute=0, second=0, microsecond=0
        )
        return int(month.timestamp()) * US_PER_S

    def __str__(self) -> str:
        return f"{self.amount} USD" + ("" if self.window == "total" else f"/{self.window}")
