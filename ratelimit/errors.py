"""The errors of admission, on top of the tree in `pricing.errors`.

An AdmissionError means: not sent, nothing owed. A server's 429 is not an error of ours; it is a response.
"""

from __future__ import annotations

import sys
import warnings

from pricing.errors import (
    AdmissionError,
    ConfigError,
    LedgerError,
    OverBudget,
    RatecardError,
    TableError,
    UnpricedError,
)

__all__ = [
    "AdmissionError",
    "ConfigError",
    "DeadlineExceeded",
    "LedgerError",
    "NeverFits",
    "NotOffered",
    "OverBudget",
    "QueueFull",
    "QuotaSpent",
    "RatecardError",
    "RatecardWarning",
    "StoreUnavailable",
    "TableError",
    "UnpricedError",
    "WouldWait",
    "warn",
]


class RatecardWarning(UserWarning):
    """Something the account should know soon: a model near its shutdown date, a tier scheme that has ended."""


class StoreUnavailable(RatecardError):
    """The state that limits are shared through cannot be read or written, so nothing is admitted; the message names it.

    What was sent already is not touched by it.
    """


_OURS = ("ratelimit", "pricing", "openai", "httpx", "httpx2", "asyncio")


def warn(text: str) -> None:
    """Give a RatecardWarning that points at the line of the program which made the call, not into a library."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, RatecardWarning, stacklevel=level)


class WouldWait(AdmissionError):
    """Admission would take longer than `max_wait` allows.

    retry_after_s  s  when there may be room; None where nobody knows: a slot is freed by the end of a request
    """

    def __init__(self, *, limit: str, retry_after_s: float | None, max_wait_s: float, bound: str = "") -> None:
        self.limit = limit
        self.retry_after_s = retry_after_s
        self.max_wait_s = max_wait_s
        known = retry_after_s is not None
        chance = f"next chance in {retry_after_s:.3f} s" if known else "nobody knows when there will be room"
        super().__init__(f"{limit}: {chance}, {bound or f'max_wait is {max_wait_s:g} s'}")


class DeadlineExceeded(WouldWait):
    """Admission would come after the deadline that is shared by a block of calls (`ratelimit.context.deadline`).

    left_s  s  what was left until then; negative when it had passed
    """

    def __init__(self, *, limit: str, retry_after_s: float | None, left_s: float) -> None:
        self.left_s = left_s
        bound = f"the deadline is in {left_s:.3f} s" if left_s >= 0 else f"the deadline was {-left_s:.3f} s ago"
        super().__init__(limit=limit, retry_after_s=retry_after_s, max_wait_s=max(0.0, left_s), bound=bound)


class NeverFits(AdmissionError):
    """The request is larger than a whole limit, so no waiting would ever admit it."""

    def __init__(self, *, limit: str, demand: int, capacity: int, model: str = "") -> None:
        self.limit = limit
        self.demand = demand
        self.capacity = capacity
        about = f" of {model}" if model else ""
        super().__init__(
            f"{limit}{about}: the request needs {demand:,} and the whole limit is {capacity:,}; "
            "send a smaller request, or use a higher tier or the Batch API"
        )


class NotOffered(AdmissionError):
    """The model card or the tier says no to this request; the message names the fact and its source."""


class QueueFull(AdmissionError):
    """As many requests wait for admission as `max_queue` allows."""

    def __init__(self, *, waiting: int, most: int) -> None:
        self.waiting = waiting
        self.most = most
        super().__init__(f"{waiting} requests wait for admission already, and max_queue is {most}; send it later")


class QuotaSpent(AdmissionError):
    """The server has said that the account's quota or spend limit is used up: waiting does not help."""

    def __init__(self, *, code: str, message: str, retry_after_s: float) -> None:
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        super().__init__(
            f"the account's quota is spent ({code}): add credit or raise the limit; not sent, and nothing else is for "
            f"{retry_after_s:.0f} s. The server said: {message}"
        )
