"""Where a job stands, and how it ended: what the live line shows and the summary prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Literal, NamedTuple

from pricing.cost import Cost, Unpriced
from pricing.ledger import Totals
from pricing.money import Usd

from .clock import US_PER_S
from .job import BadLine

MOST_MESSAGES = 20
"""Messages kept per error code: some servers put a number of their own into each, and a job has a million lines."""
MINUTE_US = 60 * US_PER_S
LONGEST_KEPT = 5
SHORTEST_US = 50_000
"""A shorter wait is none for people (it would print as 0.0 s): the line itself takes some microseconds."""

StoppedBy = Literal["", "budget", "unpriced", "quota", "auth", "interrupted", "error"]


@dataclass
class Failure:
    """Why lines failed: how many an error code hit, and how many of them with which words."""

    count: int = 0
    messages: dict[str, int] = field(default_factory=dict)

    def add(self, message: str) -> None:
        """Count one line."""
        self.count += 1
        if message in self.messages or len(self.messages) < MOST_MESSAGES:
            self.messages[message] = self.messages.get(message, 0) + 1


class Wait(NamedTuple):
    """One request's wait for admission."""

    waited_us: int
    custom_id: str
    limit: str
    tokens: int


@dataclass
class Waits:
    """What the requests of a job waited for: totals by limit, and the longest few."""

    by_limit: dict[str, tuple[int, int]] = field(default_factory=dict)  # limit → how many, µs together
    longest: list[Wait] = field(default_factory=list)

    def add(self, wait: Wait) -> None:
        """Note a wait, where it is one."""
        if wait.waited_us < SHORTEST_US:
            return
        count, sum_us = self.by_limit.get(wait.limit, (0, 0))
        self.by_limit[wait.limit] = (count + 1, sum_us + wait.waited_us)
        heappush(self.longest, wait)
        if len(self.longest) > LONGEST_KEPT:
            heappop(self.longest)

    def as_dict(self) -> dict[str, Any]:
        return {
            "by_limit": {
                limit: {"requests": count, "seconds": _seconds(sum_us)}
                for limit, (count, sum_us) in self.by_limit.items()
            },
            "longest": [
                {
                    "custom_id": wait.custom_id,
                    "limit": wait.limit,
                    "seconds": _seconds(wait.waited_us),
                    "tokens": wait.tokens,
                }
                for wait in sorted(self.longest, reverse=True)
            ],
        }


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
    latest: dict[tuple[int, str], int] = field(default_factory=dict)  # (second, lane) → tokens, of about a minute
    started_us: int = 0
    first_admission_us: int | None = None
    last_admission_us: int = 0
    finished_us: int = 0
    stopped: str = ""
    stopped_by: StoppedBy = ""
    failures: dict[str, Failure] = field(default_factory=dict)
    most_in_flight: int = 0
    spent: Usd = Usd.ZERO
    unpriced: int = 0
    waits: Waits = field(default_factory=Waits)

    def admitted(self, now_us: int, lane: str, tokens: int) -> None:
        """Count a request that is about to be sent."""
        self.attempts += 1
        self.tokens_admitted += tokens
        if self.first_admission_us is None:
            self.first_admission_us = now_us
        self.last_admission_us = now_us
        self._forget(now_us)
        key = (now_us // US_PER_S, lane)
        self.latest[key] = self.latest.get(key, 0) + tokens
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def last_minute(self, now_us: int) -> tuple[int, set[str]]:
        """The tokens that were admitted in the trailing minute, and the lanes that admitted anything in it."""
        self._forget(now_us)
        return sum(self.latest.values()), {lane for _, lane in self.latest}

    def _forget(self, now_us: int) -> None:
        # They stand in the order of time.
        while self.latest and (oldest := next(iter(self.latest)))[0] * US_PER_S <= now_us - MINUTE_US:
            del self.latest[oldest]

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
        self.failures.setdefault(code, Failure()).add(str(said.get("message") or ""))

    def failure_groups(self) -> list[tuple[int, str, str]]:
        """How many lines failed with which code and message, the most frequent first."""
        groups = [(n, code, words) for code, failure in self.failures.items() for words, n in failure.messages.items()]
        return sorted(groups, key=lambda group: -group[0])

    @property
    def not_sent(self) -> int:
        """Lines without a result: those that were not read are among them, where the job's length is known."""
        unread = max(0, (self.total or 0) - self.read)
        unread -= min(unread, max(0, self.kept - self.skipped))
        return self.read + unread - self.done - self.failed - self.bad - self.skipped

    def add_refusal(self, kind: str) -> None:
        """Count a 429."""
        self.refusals[kind] = self.refusals.get(kind, 0) + 1

    @property
    def refused(self) -> int:
        """429s met, of every kind."""
        return sum(self.refusals.values())


@dataclass
class Report:
    """How a job ended; `as_dict` is what `--json` prints (decimals as strings).

    minimum_us  µs   the least time in which the account's limits admit this work, all of it ready at the start
    totals           what the ledger has for the job, all its runs together; this_run: for the latest of them
    """

    progress: Progress
    minimum_us: int
    binding_limit: str
    bad_lines: list[BadLine]
    totals: Totals
    this_run: Totals
    by_model: dict[str, Totals]

    @property
    def exit_code(self) -> int:
        """0 everything is done, 3 a budget said no, 1 something failed, was bad, or stopped the job otherwise."""
        p = self.progress
        if p.stopped_by in ("budget", "unpriced"):
            return 3
        return 1 if p.failed or p.bad or p.stopped else 0

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
            "stopped_by": p.stopped_by or None,
            "failures": {
                code: {
                    "count": failure.count,
                    "first_message": next(iter(failure.messages)),
                    "messages": [{"message": words, "count": n} for words, n in failure.messages.items()],
                }
                for code, failure in p.failures.items()
            },
            "requests": {"attempts": p.attempts, "refused_429": p.refused, "refused_by_kind": dict(p.refusals)},
            "seconds": {
                "wall": _seconds(p.finished_us - p.started_us),
                "last_admission": _seconds(self.admission_us),
                "theoretical_minimum": _seconds(self.minimum_us),
            },
            "binding_limit": self.binding_limit or None,
            "waits": p.waits.as_dict(),
            "tokens_admitted": p.tokens_admitted,
            "cost": self.totals.as_dict(),
            "cost_this_run": self.this_run.as_dict(),
            "cost_by_model": {model: totals.as_dict() for model, totals in self.by_model.items()},
            "bad_lines": [{"line": bad.number, "reason": bad.reason} for bad in self.bad_lines],
        }


def _seconds(us: int) -> str:
    return f"{us // US_PER_S}.{us % US_PER_S:06d}"[:-3]
