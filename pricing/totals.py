"""Totals of a ledger: sums over entries, and over the parts that entries fall into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from .entries import Entry
from .errors import ConfigError
from .money import Usd
from .usage import INPUT


class Totals:
    """Sums over entries.

    posted            Usd of the posted entries that have a price
    pending_estimate  Usd of the pending ones, at their estimates; expired_estimate likewise
    unpriced_count    posted entries without a price: they are in no sum
    """

    __slots__ = (
        "estimated_count",
        "expired_count",
        "expired_estimate",
        "input_tokens",
        "output_tokens",
        "pending_count",
        "pending_estimate",
        "posted",
        "posted_count",
        "unpriced_count",
        "voided_count",
    )

    def __init__(self) -> None:
        self.posted = self.pending_estimate = self.expired_estimate = Usd.ZERO
        self.posted_count = self.pending_count = self.expired_count = self.voided_count = 0
        self.unpriced_count = self.estimated_count = self.input_tokens = self.output_tokens = 0

    def add(self, entry: Entry) -> None:
        """Count one entry."""
        if entry.state == "posted":
            self.posted_count += 1
            self.estimated_count += not entry.exact
            if entry.cost is None:
                self.unpriced_count += 1
            else:
                self.posted += entry.cost
            read, written = tokens_of(entry.usage)
            self.input_tokens += read
            self.output_tokens += written
        elif entry.state == "pending":
            self.pending_count += 1
            self.pending_estimate += entry.estimate or Usd.ZERO
        elif entry.state == "expired":
            self.expired_count += 1
            self.expired_estimate += entry.estimate or Usd.ZERO
        else:
            self.voided_count += 1

    def as_dict(self) -> dict[str, Any]:
        """The sums by name, amounts as decimal texts."""
        return {name: str(v) if isinstance(v := getattr(self, name), Usd) else v for name in sorted(self.__slots__)}

    def __eq__(self, other: object) -> bool:
        return self.as_dict() == other.as_dict() if isinstance(other, Totals) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a running sum is no key

    def __repr__(self) -> str:
        return f"Totals({self.as_dict()})"


def fold(entries: Iterable[Entry]) -> Totals:
    """Sum entries."""
    totals = Totals()
    for entry in entries:
        totals.add(entry)
    return totals


def tokens_of(usage: Mapping[str, int]) -> tuple[int, int]:
    """The tokens of a usage that were read, and those that were written, reasoning included."""
    read = written = 0
    for name, count in usage.items():
        if name.endswith("_tokens") and "/" not in name:
            if name.startswith(INPUT):
                read += count
            else:
                written += count
    return read, written


PARTS: dict[str, Callable[[Entry], str]] = {
    "model": lambda entry: entry.model,
    "asked_model": lambda entry: entry.asked_model or entry.model,
    "service_tier": lambda entry: entry.service_tier or "",
    "endpoint": lambda entry: entry.endpoint,
    "run": lambda entry: entry.run or "",
    "effort": lambda entry: entry.effort,
    "attempt": lambda entry: "" if entry.attempt is None else str(entry.attempt),
    "row": lambda entry: entry.row_id or "",
    "state": lambda entry: entry.state,
    "hour": lambda entry: f"{_day(entry)} {_at(entry):%H}:00",
    "day": lambda entry: _day(entry),
    "month": lambda entry: f"{_at(entry):%Y-%m}",
}
"""What a ledger can be split by, besides tags; times are UTC."""


def part_of(by: str | Sequence[str]) -> Callable[[Entry], str]:
    """Tell into which part an entry falls: by "model", "day", "tag:team" …, or by several of them.

    Raises  ConfigError for what a ledger cannot be split by
    """
    keys = [_key(by)] if isinstance(by, str) else [_key(name) for name in by]
    if len(keys) == 1:
        return keys[0]
    return lambda entry: ", ".join(key(entry) or "-" for key in keys)


def _key(by: str) -> Callable[[Entry], str]:
    if by in PARTS:
        return PARTS[by]
    kind, _, name = by.partition(":")
    if kind == "tag" and name:
        return lambda entry: entry.tags.get(name, "")
    raise ConfigError(f"totals are by {', '.join(PARTS)} or tag:NAME, not {by!r}")


def _at(entry: Entry) -> datetime:
    return datetime.fromtimestamp(entry.created_us // 1_000_000, UTC)


def _day(entry: Entry) -> str:
    return str(_at(entry).date())
