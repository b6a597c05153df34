"""What a ledger does about budgets: ask each whether a call fits, and tell whoever listens of thresholds.

Each threshold is told once per window, by whichever process reaches it first: the book remembers.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from .budget import LENGTHS_US, Alert, Budget, Scope
from .entries import Entry
from .errors import LedgerError, OverBudget
from .money import Usd

if TYPE_CHECKING:
    from .ledger import Book

_LOG = logging.getLogger("pricing.budget")


class Counted(NamedTuple):
    """What a budget counts for a call, before that call."""

    budget: Budget
    scope: Scope
    spent: Usd
    held: Usd


def check_budgets(
    budgets: Iterable[Budget], entry: Entry, count: Callable[[Budget, Scope], tuple[Usd, Usd]]
) -> list[Counted]:
    """Let each budget that the call of an entry is subject to say what it counts.

    Raises  OverBudget when one has no room for it
    """
    counted = []
    for budget in budgets:
        scope = budget.scope(entry.run, entry.tags)
        if scope is not None:
            spent, held = count(budget, scope)
            budget.check(spent, held, entry.worst, entry.created_us)
            counted.append(Counted(budget, scope, spent, held))
    return counted


def check_together(
    budgets: Iterable[Budget], entries: Sequence[Entry], count: Callable[[Budget, Scope], tuple[Usd, Usd]]
) -> list[Counted]:
    """Let each budget say what it counts for entries that are sent together, all of them or none: lines of a batch.

    They are of one run and have the same tags, so a budget is asked once, for their sum.

    Raises  OverBudget when one has no room for them
    """
    if not entries:
        return []
    priced = [entry.worst for entry in entries if entry.worst is not None]
    probes = [entry for entry in entries if entry.worst is None][:1]
    if priced:
        probes.append(
            max((entry for entry in entries if entry.worst is not None), key=lambda one: one.worst or Usd.ZERO)
        )
    counted = []
    for budget in budgets:
        scope = budget.scope(entries[0].run, entries[0].tags)
        if scope is None:
            continue
        spent, held = count(budget, scope)
        together = [] if budget.window == "call" else [probes[-1]._replace(worst=sum(priced, Usd.ZERO))]
        for entry in (*probes, *(together if priced else ())):
            budget.check(spent, held, entry.worst, entry.created_us)
        counted.append(Counted(budget, scope, spent, held))
    return counted


class Watch:
    """Tells of thresholds: after a call was admitted or refused, and again when it has ended."""

    def __init__(self, book: Book, now_us: Callable[[], int], lease_us: int) -> None:
        self._book = book
        self._lease_us = lease_us
        self._now_us = now_us
        self._under: dict[int | str, list[tuple[Budget, Scope]]] = {}
        """Calls in the air, by the ids of their entries, and batches, by their own → the budgets that may tell."""
        self._told: set[tuple[str, int, int]] = set()

    def count(self, budget: Budget, scope: Scope) -> tuple[Usd, Usd]:
        """What a budget counts now: spent and held."""
        now_us = self._now_us()
        return self._book.counted(budget, scope, now_us, now_us - self._lease_us)

    def admitted(self, sent: int | str, counted: Iterable[Counted]) -> None:
        """Note what a call, or a batch, was admitted under."""
        under = []
        for budget, scope, spent, held in counted:
            if budget.thresholds and budget.window != "call":
                under.append((budget, scope))
                self._tell(budget, scope, spent, held, budget.reached(spent))
        if under:
            self._under[sent] = under

    def refused(self, error: OverBudget, run: str | None, tags: Mapping[str, str]) -> None:
        """Tell that a budget has no room: all of its thresholds are reached.

        A call that could cost more than the whole budget tells nothing of how full that is.
        """
        budget: Budget = error.budget
        scope = budget.scope(run, tags)
        if scope is not None and error.estimate is not None and error.retry_after_us is None:
            full = error.estimate <= budget.amount
            self._tell(budget, scope, error.spent, error.held, budget.reached(error.spent, full))

    def ended(self, entry_id: int) -> None:
        """Look at the budgets of a call that has ended."""
        self._look(self._under.pop(entry_id, ()))

    def settled(self, batch_id: str | None) -> None:
        """Look at the budgets of a batch of which lines have ended; more of them may follow."""
        self._look(self._under.get(batch_id or "", ()))

    def _look(self, under: Iterable[tuple[Budget, Scope]]) -> None:
        for budget, scope in under:
            with suppress(LedgerError):  # within another call's turn, or closed: the next call tells
                spent, held = self.count(budget, scope)
                self._tell(budget, scope, spent, held, budget.reached(spent))

    def ended_response(self, response_id: str) -> None:
        """Look at the budgets of a response that a poll has ended."""
        if self._under:
            entry = self._book.find(response_id)
            if entry is not None:
                self.ended(entry.id)

    def _tell(self, budget: Budget, scope: Scope, spent: Usd, held: Usd, percents: Iterable[int]) -> None:
        for percent in percents:
            now_us = self._now_us()
            mark_us = now_us if budget.rolling else budget.start_us(now_us)
            every_us = LENGTHS_US[budget.window] if budget.rolling else 1
            name = f"{budget.amount}/{budget.window}/{budget.zone}/{budget.rolling} {scope[0]}={scope[1]}"
            for word, usual in ((budget.action, "block"), (budget.unpriced, "refuse")):
                name += "" if word == usual else f" {word}"  # books of before have the usual ones without a word
            if (name, percent, mark_us) in self._told:
                continue
            first = self._book.first_time(name, percent, mark_us, every_us)
            if not budget.rolling:
                self._told.add((name, percent, mark_us))
            if first:
                _publish(Alert(budget, percent, spent, held, scope[1]))


def _publish(alert: Alert) -> None:
    """Tell the log, the callback, and the current span where OpenTelemetry is there. None of them stops a call."""
    budget, percent, spent, held, part = alert
    of = f" ({part})" if part else ""
    _LOG.warning("budget %s%s: %d %% reached, %s spent and %s held", budget, of, percent, spent.format(), held.format())
    if budget.on_threshold is not None:
        try:
            budget.on_threshold(alert)
        except Exception:
            _LOG.exception("budget %s: on_threshold failed", budget)
    try:
        trace = importlib.import_module("opentelemetry.trace")
    except ImportError:
        return
    facts = {"budget": str(budget), "part": part, "percent": percent, "spent_usd": str(spent), "held_usd": str(held)}
    trace.get_current_span().add_event("pricing.budget.threshold", facts)
