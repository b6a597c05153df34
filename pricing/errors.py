"""Every error of ratecard has one root, and says whose fault it is, what to do, and the numbers.

The tree is shared by both packages; `ratelimit.errors` adds the errors about time and admission. None of these
derives from an error of httpx, httpx2 or openai: a client library that meets one must pass it on untouched instead of
retrying it as a broken connection.
"""

from __future__ import annotations

from os import PathLike
from typing import Any


class RatecardError(Exception):
    """The root: `except RatecardError` catches everything this product raises on purpose.

    Each comes back whole from another process (concurrent.futures, multiprocessing): message and numbers.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.args, self.__dict__)


class ConfigError(RatecardError):
    """The call or a setting is wrong: fix the argument the message names."""


class TableError(ConfigError):
    """A table (YAML) is wrong: the message gives file, line, key and what was expected."""

    def __init__(
        self,
        message: str,
        *,
        file: str | PathLike[str] | None = None,
        line: int | None = None,
        key: str | None = None,
    ) -> None:
        self.file = None if file is None else str(file)
        self.line = line
        self.key = key
        self.reason = message
        place = self.file or "<table>"
        if line is not None:
            place += f":{line}"
        super().__init__(f"{place}: {key}: {message}" if key else f"{place}: {message}")


class UnpricedError(RatecardError):
    """A price was demanded for something no table row prices; it is never taken as $0."""


class LedgerError(RatecardError):
    """The ledger file cannot be read or written; the message names the file."""


class AdmissionError(RatecardError):
    """The request was not sent, and nothing is owed for it."""


class OverBudget(AdmissionError):
    """Sending this request could overshoot a budget, so it was not sent.

    retry_after_us  how long until a slow budget has room for it; None for a budget that blocks
    """

    def __init__(self, message: str, **numbers: Any) -> None:
        super().__init__(message)
        self.budget: Any = numbers.get("budget")
        self.spent: Any = numbers.get("spent")
        self.held: Any = numbers.get("held")
        self.estimate: Any = numbers.get("estimate")
        self.retry_after_us: int | None = numbers.get("retry_after_us")

    @property
    def unpriced(self) -> bool:
        """Whether it was refused because nobody can price it, so that a larger budget would not help."""
        return self.budget is not None and self.estimate is None


def _again(kind: type[RatecardError], args: tuple[Any, ...], numbers: dict[str, Any]) -> RatecardError:
    """Rebuild a pickled error. The message is made already, so `__init__`, which would make it, is not called."""
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(numbers)
    return error
