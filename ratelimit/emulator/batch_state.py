"""A batch and its rules, as values: what is known of it, and how that is told."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ratelimit.errors import ConfigError

from .batch_queues import OwnQueues
from .batch_work import Results, Scan
from .files import Stored

US_PER_S = 1_000_000

OVER_LIMIT = ("failed", "429")
"""What may happen to a batch for which its queue has no room."""


class BatchChange(NamedTuple):
    """A batch came into a state.

    at_us   µs   emulated clock
    """

    at_us: int
    batch_id: str
    status: str


@dataclass(frozen=True, slots=True)
class BatchRules:
    """How batches fare.

    seconds     s, emulated   in which the lines of a batch are answered; None: about ten minutes, drawn, and none at
                              all where replies take no time
    expires     s, emulated   after its creation a batch expires, with the part that is done; None: 24 hours. Where
                              `seconds` is not given, batches then take twice as long
    queue       tokens        that may be enqueued, of every model or by model, in the place of the tier's
    over_limit                what happens to a batch without room: it turns "failed", or the call is refused with "429"

    Raises  ConfigError for anything else
    """

    seconds: float | None = None
    expires: float | None = None
    queue: OwnQueues = None
    over_limit: str = "failed"

    def __post_init__(self) -> None:
        for name in ("seconds", "expires"):
            given = getattr(self, name)
            if given is None:
                continue
            if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1e9:
                raise ConfigError(f"batch_{name} is a number of seconds, not {given!r}")
        if self.expires == 0:
            raise ConfigError("batch_expires is a number of seconds above 0")
        if self.over_limit not in OVER_LIMIT:
            raise ConfigError(f"batch_over_limit is one of {', '.join(OVER_LIMIT)}, not {self.over_limit!r}")


@dataclass(slots=True, eq=False)
class Batch:
    """One batch.

    number    of its creation, from 1
    at        when it came into each state (µs, emulated)
    work_us   µs   in which all its lines are answered
    lines     requests it has, once it is in progress
    goes      of these, how many will have been answered when it ends
    order     in which they are answered, while it is in progress
    late      it will not be done in its window: a fault
    version   counts up when what was to happen to it no longer will
    """

    id: str
    number: int
    endpoint: str
    source: Stored
    metadata: dict[str, str] | None
    keep_s: int | None
    created_us: int
    expires_us: int
    work_us: int
    late: bool = False
    status: str = "validating"
    at: dict[str, int] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    found: Scan | None = None
    order: array[int] | None = None
    lines: int = 0
    goes: int = 0
    held: bool = False
    results: Results = field(default_factory=Results)
    version: int = 0

    def answered(self, now_us: int) -> int:
        """How many of its lines have been answered."""
        if self.status != "in_progress":
            return self.goes
        passed_us = now_us - self.at["in_progress"]
        return self.goes if passed_us >= self.work_us else min(self.goes, self.lines * passed_us // self.work_us)

    def document(self, now_us: int) -> dict[str, Any]:
        """Spell it out as the API does."""

        def stamp(status: str) -> int | None:
            at_us = self.at.get(status)
            return None if at_us is None else at_us // US_PER_S

        results, found = self.results, self.found
        completed, failed = results.completed, results.failed
        if self.order is not None and found is not None:
            done = self.answered(now_us)
            failed = sum(map(found.fails.__getitem__, self.order[:done])) if any(found.fails) else 0
            completed = done - failed
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": found.served if self.lines and found is not None else None,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.source.id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": results.output,
            "error_file_id": results.errors,
            "created_at": self.created_us // US_PER_S,
            "in_progress_at": stamp("in_progress"),
            "expires_at": self.expires_us // US_PER_S,
            "finalizing_at": stamp("finalizing"),
            "completed_at": stamp("completed"),
            "failed_at": stamp("failed"),
            "expired_at": stamp("expired"),
            "cancelling_at": stamp("cancelling"),
            "cancelled_at": stamp("cancelled"),
            "request_counts": {"total": self.lines, "completed": completed, "failed": failed},
            "usage": {
                "input_tokens": results.input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": results.output_tokens,
                "output_tokens_details": {"reasoning_tokens": results.reasoning_tokens},
                "total_tokens": results.input_tokens + results.output_tokens,
            },
            "metadata": self.metadata,
        }
