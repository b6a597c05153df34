"""Where a job stands, and how it ended: what the live line shows and the summary prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pricing.cost import Cost, Unpriced
from pricing.ledger import Totals
from pricing.money import Usd

from .clock import US_PER_S
from .job import BadLine


@dataclass
class Failure:
    """Why lines failed: an error code, how many lines it hit, and the words of the first."""

    count: int
    message: str


@dataclass
class Progress:
    """Where a job stands. Counts are lines unless a name says otherwise; times are µs of the limiter's clock."""

    total: int | None = None
    read: int = 0
    kept: int = 0  # results that an earlier run left; `skipped` counts those met so far
    skipped: int = 0
    done: int = 0
    failed: int = 0
    bad: int = 0
    in_flight: int = 0
    attempts: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    tokens_admitted: int = 0
    started_us: int = 0
    first_admission_us: int | None = None
    last_admission_us: int = 0
    finished_us: int = 0
    stopped: str = ""
    failures: dict[str, Failure] = field(default_factory=dict)
    most_in_flight: int = 0
    spent: Usd = Usd.ZERO
    unpriced: int = 0

    def add_cost(self, cost: Cost | Unpriced) -> None:
        """Count what a reply cost."""
        if isinstance(cost, Unpriced):
            self.unpriced += 1
        else:
            self.spent += cost.total

    def add_failure(self, result: Mapping[str, Any]) -> None:
        """Count a line that ended without a good reply, by its error code."""
        self.failed += 1
        response, error = result["response"], result["error"]
        if response is not None:
            body = response["body"]
            error = body.get("error") if isinstance(body, Mapping) else None
        said = error if isinstance(error, Mapping) else {}
        code = str(said.get("code") or said.get("type") or "no error code")
        if response is not None:
            code = f"HTTP {response['status_code']} {code}"
        found = self.failures.setdefault(code, Failure(0, str(said.get("message") or "")))
        found.count += 1

    @property
    def not_sent(self) -> int:
        """Lines without a result: those that were not read are among them, where the job's length is known."""
        unread = max(0, (self.total or 0) - self.read)
        unread -= min(unread, max(0, self.kept - self.skipped))
        return self.read + unread - self.done - self.failed - self.bad - self.skipped

    @property
    def refused(self) -> int:
        """429s met, of every kind."""
        return sum(self.refusals.values())


@dataclass
class Report:
    """How a job ended; `as_dict` is what `--json` prints (decimals as strings).

    minimum_us  µs   the least time in which the account's limits admit this work, all of it ready at the start
    """

    progress: Progress
    minimum_us: int
    binding_limit: str
    bad_lines: list[BadLine]
    totals: Totals
    by_model: dict[str, Totals]

    @property
    def admission_us(self) -> int:
        """From the start to the last admission (µs)."""
        return max(0, self.progress.last_admission_us - self.progress.started_us)

    def as_dict(self) -> dict[str, Any]:
        p = self.progress
        return {
            "lines": {
                "read": p.read,
                "done": p.done,
                "failed": p.failed,
                "bad": p.bad,
                "skipped_as_done": p.skipped,
                "not_sent": p.not_sent,
            },
            "stopped": p.stopped or None,
            "failures": {
                code: {"count": failure.count, "first_message": failure.message} for code, failure in p.failures.items()
            },
            "requests": {"attempts": p.attempts, "refused_429": p.refused, "refused_by_kind": dict(p.refusals)},
            "seconds": {
                "wall": _seconds(p.finished_us - p.started_us),
                "last_admission": _seconds(self.admission_us),
                "theoretical_minimum": _seconds(self.minimum_us),
            },
            "binding_limit": self.binding_limit or None,
            "tokens_admitted": p.tokens_admitted,
            "cost": self.totals.as_dict(),
            "cost_by_model": {model: totals.as_dict() for model, totals in self.by_model.items()},
            "bad_lines": [{"line": bad.number, "reason": bad.reason} for bad in self.bad_lines],
        }


def _seconds(us: int) -> str:
    return f"{us // US_PER_S}.{us % US_PER_S:06d}"[:-3]
