"""A run's job file and its ledger: the lines of a batch, what they may cost, and what becomes of that."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from pricing.batches import book, settle
from pricing.budget import Budget
from pricing.ledger import Ledger
from pricing.prices import PriceTable

from ..errors import ConfigError
from ..job import BadLine, Line, parse_line
from ..results import Results, result_line
from .journal import Journal, Step
from .read import batch_line

JOB_TAG = "batch_job"
"""The tag of all entries of a run in the ledger: a budget counts by it."""


def line_at(file: IO[bytes], job: str, number: int, start: int, size: int) -> tuple[Line, bytes]:
    """A line of an open job, and its bytes. Raises ConfigError when it is not what it was."""
    file.seek(start)
    raw = file.read(size)
    line = parse_line(number, raw)
    if isinstance(line, BadLine):
        raise ConfigError(f"{job}:{number}: is not what it was when the run began: {line.reason}")
    return line, raw


class Books:
    """The job of a run, as it was when the run began, and the ledger that its batches are booked in.

    Raises  ConfigError, from every method, when the job file is not what it was
    """

    def __init__(
        self,
        journal: Journal,
        job: str,
        ledger: Ledger,
        *,
        budgets: Sequence[Budget] = (),
        prices: PriceTable | None = None,
        region: str | None = None,
    ) -> None:
        self._journal, self._job, self._ledger = journal, job, ledger
        self._budgets, self._prices, self._region = budgets, prices, region
        self._is = self._stat()

    def _stat(self) -> tuple[int, ...]:
        try:
            found = os.stat(self._job)
        except OSError as error:
            raise ConfigError(f"{self._job}: cannot be read: {error.strerror or error}") from error
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        """The job file, if it is what it was."""
        if self._stat() != self._is:
            raise ConfigError(f"{self._job}: has changed while the run is under way: put it back, and start again")
        with open(self._job, "rb") as file:
            yield file

    def lines(self, no: int, *, every: bool = False) -> Iterator[tuple[Line, bytes]]:
        """The open lines of a batch; or all of them."""
        with self._opened() as file:
            for _, number, start, size in self._journal.lines_of(no, every=every):
                yield line_at(file, self._job, number, start, size)

    def places(self, no: int) -> dict[str, int]:
        """custom_id → place of the open lines of a batch."""
        with self._opened() as file:
            return {
                line_at(file, self._job, number, start, size)[0].custom_id: place
                for place, number, start, size in self._journal.lines_of(no)
            }

    def content(self, no: int) -> Iterator[bytes]:
        """A batch's file."""
        for line, raw in self.lines(no):
            yield batch_line(line, raw) + b"\n"

    def booking(self, step: Step) -> str:
        """The name by which the lines of a try are booked."""
        return f"{self._journal.run}/{step.no}/{step.attempt}"

    def book(self, step: Step, *, within_budgets: bool = True) -> None:
        """Hold what a batch may cost. Raises OverBudget: nothing is held then."""
        lines = ({"custom_id": one.custom_id, "url": one.endpoint, "body": one.body} for one, _ in self.lines(step.no))
        book(
            self._ledger, lines, batch_id=self.booking(step), tags={JOB_TAG: self._journal.run}, prices=self._prices,
            region=self._region, budgets=self._budgets if within_budgets else (),
        )  # fmt: skip

    def undo(self, step: Step, why: str) -> None:
        """Give back what was held for a try that was not served at all; done twice, it is done once."""
        failed = {"code": "batch_failed", "message": why}
        lines = ({"custom_id": line.custom_id, "error": failed} for line, _ in self.lines(step.no, every=True))
        self.settle(step, [], lines)

    def settle(self, step: Step, output: Any, errors: Any) -> None:
        """True up what was held by the lines of a batch's files."""
        settle(self._ledger, self.booking(step), output, errors, prices=self._prices, region=self._region)

    def sync(self) -> None:
        """What was settled survives the death of the machine."""
        self._ledger.sync()

    def write_failures(self, results: Results) -> None:
        """Write the lines that failed. At the end: what is written earlier is taken out when the run goes on."""
        with self._opened() as file:
            for number, start, size, answer in self._journal.failures():
                line, _ = line_at(file, self._job, number, start, size)
                if line.custom_id in results.done:
                    continue
                error = answer.get("error") or (None if "response" in answer else answer)
                told = {key: answer[key] for key in ("response", "error") if key in answer}
                results.write({**result_line(line.custom_id, error=error), **told})
        results.sync()
