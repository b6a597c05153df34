"""What the server saw, counted independently of any client: the witness for tests and benchmarks."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple


class Admission(NamedTuple):
    """One decision of the limits.

    at_us     µs     emulated clock (since 1970): what the buckets saw
    wall_us   µs     the clock the emulator was given, the wall by default
    model     str    as the request named it
    pool      str    whose buckets it passed
    requests, tokens, images   units charged, or asked for when refused
    verdict   str    "admitted", the name of the limit that refused ("tpm"), or "too_large"
    """

    at_us: int
    wall_us: int
    model: str
    pool: str
    requests: int
    tokens: int
    images: int
    verdict: str


class Bill:
    """Tokens of generated replies: what the account would be charged for."""

    __slots__ = ("calls", "input_tokens", "output_tokens", "reasoning_tokens")

    def __init__(self) -> None:
        self.calls = self.input_tokens = self.output_tokens = self.reasoning_tokens = 0

    def add(self, input_tokens: int, output_tokens: int, reasoning_tokens: int) -> None:
        """Add one reply. `output_tokens` includes the reasoning, as usage objects do."""
        self.calls += 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.reasoning_tokens += reasoning_tokens

    def as_dict(self) -> dict[str, int]:
        """Spell it out for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


class Counters:
    """Everything GET /_emulator tells, except the buckets."""

    def __init__(self, log_size: int) -> None:
        self.requests = 0
        self.admitted = 0
        self.charged_tokens = 0
        self.refused: dict[str, int] = {}
        self.invalid: dict[str, int] = {}
        self.faults: dict[str, int] = {}
        self.polls = 0
        self.cancelled = 0
        self.in_flight = 0
        self.peak_in_flight = 0
        self.first_admission_us: int | None = None
        self.last_admission_us: int | None = None
        self.usage = Bill()
        self.untold = Bill()
        self.by_model: dict[str, Bill] = {}
        self.by_service_tier: dict[str, Bill] = {}
        self.log: deque[Admission] = deque(maxlen=log_size)

    def decided(self, admission: Admission) -> None:
        """Note a decision of the limits."""
        self.log.append(admission)
        if admission.verdict == "admitted":
            self.admitted += 1
            self.charged_tokens += admission.tokens
            if self.first_admission_us is None:
                self.first_admission_us = admission.wall_us
            self.last_admission_us = admission.wall_us
        else:
            self.refused[admission.verdict] = self.refused.get(admission.verdict, 0) + 1

    def entered(self) -> None:
        """One more request being answered."""
        self.in_flight += 1
        if self.in_flight > self.peak_in_flight:
            self.peak_in_flight = self.in_flight

    def billed(self, model: str, service_tier: str, tokens: tuple[int, int, int], told: bool) -> None:
        """Note a generated reply: (input, output, reasoning) tokens, and whether its usage reached the client."""
        self.usage.add(*tokens)
        if not told:
            self.untold.add(*tokens)
        for key, bills in ((model, self.by_model), (service_tier, self.by_service_tier)):
            bill = bills.get(key)
            if bill is None:
                bill = bills[key] = Bill()
            bill.add(*tokens)

    def as_dict(self) -> dict[str, Any]:
        """Spell it out for JSON."""
        return {
            "requests": self.requests,
            "admitted": self.admitted,
            "refused": dict(self.refused),
            "refused_total": sum(self.refused.values()),
            "invalid": dict(self.invalid),
            "faults": dict(self.faults),
            "charged_tokens": self.charged_tokens,
            "polls": self.polls,
            "cancelled": self.cancelled,
            "in_flight": self.in_flight,
            "peak_in_flight": self.peak_in_flight,
            "first_admission_us": self.first_admission_us,
            "last_admission_us": self.last_admission_us,
            "usage": self.usage.as_dict(),
            "usage_untold": self.untold.as_dict(),
            "usage_by_model": {model: bill.as_dict() for model, bill in sorted(self.by_model.items())},
            "usage_by_service_tier": {tier: bill.as_dict() for tier, bill in sorted(self.by_service_tier.items())},
        }


def count(counts: dict[str, int], key: str) -> None:
    """Add one to a named count."""
    counts[key] = counts.get(key, 0) + 1
