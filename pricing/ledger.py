"""The ledger: what every call cost, exactly once.

An entry is written `pending` before a call is sent and ends once: `posted` when its usage is known, `voided` when it
was not billed. `expired` says that nobody knows (it then counts at its estimate, and for a budget at its worst case),
until somebody does: late news replaces it. A crash leaves a visible pending entry, never a hole. Posting is idempotent
by response id: one response is one bill, however often it is polled, and whichever entries report it.

Numbers, names and ids are stored; never a prompt, a reply or a key.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, overload

from ._ledger_budgets import Counted, Watch
from ._ledger_closing import posting, text_of, told
from .budget import US_PER_S, Budget, Scope
from .cost import Cost, Unpriced
from .entries import MOST, Closing, Entry, State
from .errors import ConfigError, LedgerError, OverBudget
from .money import Usd
from .totals import Totals, fold, part_of
from .usage import Usage

if TYPE_CHECKING:
    import pandas

__all__ = ["Entry", "Ledger", "Totals", "fold"]

LEASE_S = 3_600
"""How long a call is held at most: longer than any HTTP request lives. A later end is still taken."""


class Book(Protocol):
    """Where entries are kept: memory, or SQLite. A book swaps state in atomic steps and decides nothing."""

    def insert(self, entry: Entry, budgets: tuple[Budget, ...], lost_us: int) -> tuple[int, list[Counted]]: ...

    def counted(self, budget: Budget, scope: Scope, now_us: int, lost_us: int) -> tuple[Usd, Usd]: ...

    def first_time(self, budget: str, percent: int, mark_us: int, every_us: int) -> bool: ...

    def attach(self, entry_id: int, response_id: str, now_us: int) -> bool: ...

    def close_entry(self, entry_id: int, event: str, closing: Closing) -> bool: ...

    def close_response(self, response_id: str, closing: Closing, fallback: Entry | None) -> bool: ...

    def find(self, response_id: str) -> Entry | None: ...

    def book_lines(
        self, entries: Sequence[Entry], budgets: tuple[Budget, ...], lost_us: int
    ) -> tuple[list[int], list[Counted]]: ...

    def booked_lines(self, batch_id: str, custom_ids: Sequence[str]) -> dict[str, Entry]: ...

    def settle_lines(self, news: Sequence[tuple[Entry, Closing]]) -> list[int]: ...

    def entries(self, state: str | None, since_us: int | None, run: str | None) -> Iterator[Entry]: ...

    def latest(self, count: int) -> list[Entry]: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


class Ledger:
    """Entries of calls, in memory or in a SQLite file that threads and processes may share.

    path     the file; None keeps everything in memory
    create   whether a file that is not there is made; who only reads says False
    lease_s  how long a budget holds a call of which nobody has told how it ended; from then on it counts as one whose
             cost nobody knows, in the window of its sending
    now_us   the wall clock (µs since the epoch)
    budgets  what clients that book here keep besides their own budgets; none unless somebody sets them

    Raises  LedgerError when the file is damaged, is no ledger, or cannot be written; ConfigError when it has no name
    """

    budgets: tuple[Budget, ...] = ()

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        create: bool = True,
        lease_s: int = LEASE_S,
        now_us: Callable[[], int] | None = None,
    ) -> None:
        self.path = None if path is None else os.fspath(path)
        if self.path is not None and (not self.path or "\0" in self.path):
            # SQLite would keep an unnamed ledger in a file of its own and throw it away.
            raise ConfigError(f"a ledger's path is the name of a file, not {self.path!r}; None keeps it in memory")
        if type(lease_s) is not int or lease_s <= 0:
            raise ConfigError(f"lease_s is a whole number of seconds, more than none; not {lease_s!r}")
        if self.path is not None and not create:
            if not os.path.exists(self.path):
                raise LedgerError(f"{self.path}: no such ledger")
            if os.path.isfile(self.path) and not os.path.getsize(self.path):
                raise LedgerError(f"{self.path}: not a ledger: the file is empty")  # SQLite would make it one
        self._lease_us = lease_s * US_PER_S
        self._now_us = now_us or (lambda: time.time_ns() // 1000)
        if self.path is None:
            from ._ledger_memory import MemoryBook

            self._book: Book = MemoryBook()
        else:
            from ._ledger_sqlite import SqliteBook

            self._book = SqliteBook(self.path)
        self._watch = Watch(self._book, self._now_us, self._lease_us)

    def pend(
        self,
        *,
        model: str,
        endpoint: str,
        estimate: Usd | None,
        worst: Usd | None = None,
        tags: Mapping[str, str] | None = None,
        service_tier: str | None = None,
        batch: bool = False,
        custom_id: str | None = None,
        run: str | None = None,
        budgets: Iterable[Budget] = (),
        effort: str = "",
        attempt: int | None = None,
        wait_us: int | None = None,
        expected: Mapping[str, int] | None = None,
    ) -> int:
        """Write the pending entry of a call about to be sent; return its id.

        effort … expected  as Entry has them

        Raises  OverBudget when a budget has no room for the worst case (or there is none); LedgerError when an amount
                is absurd, above 9.2 million dollars: nothing is written
        """
        self._believe(estimate, worst)
        run, model, tier = text_of(run), told(model), text_of(service_tier)
        entry = Entry(
            0, "pending", model, told(endpoint), None,
            None if custom_id is None else told(custom_id), run,
            dict(tags) if tags else {}, tier, batch, self._now_us(),
            None, estimate, worst, None, {}, None, None, {}, False, "",
            None, model, tier, told(effort), attempt, wait_us, None, expected or {},
        )  # fmt: skip
        try:
            entry_id, counted = self._book.insert(entry, tuple(budgets), entry.created_us - self._lease_us)
        except OverBudget as refused:
            self._watch.refused(refused, run, entry.tags)
            raise
        if counted:
            self._watch.admitted(entry_id, counted)
        return entry_id

    def attach(self, entry_id: int, response_id: str) -> bool:
        """Note the response id of an entry that is pending or expired, so that a later poll finds it.

        When another entry has this response id, this one is voided as a duplicate, and the answer is False.
        """
        return bool(response_id) and self._book.attach(entry_id, told(response_id), self._now_us())

    def post(
        self,
        entry_id: int,
        *,
        usage: Usage | None,
        cost: Cost | Unpriced | None,
        response_id: str | None = None,
        model: str | None = None,
        service_tier: str | None = None,
        exact: bool = True,
        why: str = "",
        request_id: str | None = None,
        latency_us: int | None = None,
    ) -> bool:
        """End an entry with what it used and cost, even one that had expired. True when that billed it.

        When another entry has this response id, the news are that one's, as with `post_response`, and this one is
        voided as a duplicate.
        """
        closing = posting(
            self._now_us(), usage, cost, response_id, model, service_tier, exact, why, request_id, latency_us
        )
        return self._ended(entry_id, "post", closing)

    def post_response(
        self,
        response_id: str,
        *,
        endpoint: str,
        usage: Usage | None,
        cost: Cost | Unpriced | None,
        model: str,
        service_tier: str | None = None,
        exact: bool = True,
        why: str = "",
    ) -> bool:
        """Post a response by its id, as polls do: its entry, or a new one when there is none.

        → True when that billed it, once only; exact news correct a bill that was not, and answer False

        Raises  ConfigError without an id: nothing could tell a second post from the first
        """
        if not response_id:
            raise ConfigError("post_response needs the id of the response")
        response_id = told(response_id)
        closing = posting(self._now_us(), usage, cost, response_id, model, service_tier, exact, why)
        fresh = Entry(
            0, "pending", told(model), told(endpoint), response_id, None, None, {}, text_of(service_tier), False,
            closing.closed_us, None, None, None, None, {}, None, None, {}, False, "",
        )  # fmt: skip
        billed = self._book.close_response(response_id, closing, fresh)
        self._watch.ended_response(response_id)
        return billed

    def expire_response(self, response_id: str, why: str) -> bool:
        """End the pending entry of a response that ended without a usage. False when there is none."""
        closing = Closing("expired", self._now_us(), exact=False, why=told(why))
        if not response_id or not self._book.close_response(told(response_id), closing, None):
            return False
        self._watch.ended_response(told(response_id))
        return True

    def void(self, entry_id: int, why: str, *, request_id: str | None = None, latency_us: int | None = None) -> bool:
        """End an entry as not billed, even one that had expired. False when it had ended before."""
        closing = Closing(
            "voided", self._now_us(), why=told(why), request_id=text_of(request_id), latency_us=latency_us
        )
        return self._ended(entry_id, "void", closing)

    def expire(
        self,
        entry_id: int,
        why: str,
        response_id: str | None = None,
        *,
        request_id: str | None = None,
        latency_us: int | None = None,
    ) -> bool:
        """End an entry whose cost nobody knows; it counts at its estimate. False when it had ended before.

        By its response id, where that is known, late news find it and replace the estimate.
        """
        closing = Closing(
            "expired", self._now_us(), text_of(response_id), exact=False, why=told(why),
            request_id=text_of(request_id), latency_us=latency_us,
        )  # fmt: skip
        if self._ended(entry_id, "expire", closing):
            return True
        if response_id:
            self.attach(entry_id, response_id)  # somebody else gave the call up; its news must find it all the same
        return False

    def find(self, response_id: str) -> Entry | None:
        """Find the entry that has this response id, whatever its state."""
        return self._book.find(told(response_id))

    def book_lines(self, entries: Sequence[Entry], budgets: Iterable[Budget] = ()) -> list[int]:
        """Write the pending entries of a batch about to be submitted, all of them or none: `batches.book` calls this.

        entries  with the batch's id as `run`; one whose run and custom_id are there already is left out
        → ids of those that were written

        Raises  as `pend` does; a budget has to have room for all of them together
        """
        for entry in entries:
            self._believe(entry.estimate, entry.worst)
        try:
            ids, counted = self._book.book_lines(entries, tuple(budgets), self._now_us() - self._lease_us)
        except OverBudget as refused:
            self._watch.refused(refused, entries[0].run, entries[0].tags)
            raise
        if counted:
            self._watch.admitted(entries[0].run or "", counted)
        return ids

    def booked_lines(self, batch_id: str, custom_ids: Sequence[str]) -> dict[str, Entry]:
        """Find the entries of these lines of a batch, by custom_id; where a line has several, the last."""
        return self._book.booked_lines(batch_id, custom_ids)

    def settle_lines(self, news: Sequence[tuple[Entry, Closing]]) -> list[int]:
        """End the entries of lines of a batch in one transaction: `batches.settle` calls this.

        news  of one batch: for each line the entry it gets if it has none, or a voided one; and how it ends
        → for each the id of the entry that it changed, 0 where it changed none
        """
        changed = self._book.settle_lines(news)
        if any(changed):
            self._watch.settled(news[0][0].run)
        return changed

    def now_us(self) -> int:
        """The ledger's wall clock, µs since the epoch."""
        return self._now_us()

    def entries(
        self, state: State | None = None, since_us: int | None = None, run: str | None = None
    ) -> Iterator[Entry]:
        """Iterate over entries in the order they were written."""
        return self._book.entries(state, since_us, None if run is None else told(run))

    def latest(self, count: int) -> list[Entry]:
        """The entries last written whose usage is the server's own, newest first, at most so many."""
        return self._book.latest(count)

    def counted(self, budget: Budget, *, run: str | None = None, tags: Mapping[str, str] | None = None) -> Counted:
        """What a budget counts at this moment for a call of this run with these tags: spent and held.

        Raises  ConfigError when such a call is none of the budget's business
        """
        scope = budget.scope(run, tags or {})
        if scope is None:
            raise ConfigError(f"budget {budget} does not count a call of run {run!r} with the tags {dict(tags or {})}")
        return Counted(budget, scope, *self._watch.count(budget, scope))

    @overload
    def totals(self, by: None = None, run: str | None = None) -> Totals: ...

    @overload
    def totals(self, by: str | Sequence[str], run: str | None = None) -> dict[str, Totals]: ...

    def totals(self, by: str | Sequence[str] | None = None, run: str | None = None) -> Totals | dict[str, Totals]:
        """Sum the ledger, or its parts by "model", "day" (UTC), "tag:NAME" …, or by several of them.

        Raises  ConfigError for another `by`
        """
        if by is None:
            return fold(self.entries(run=run))
        key = part_of(by)
        parts: dict[str, Totals] = {}
        for entry in self.entries(run=run):
            parts.setdefault(key(entry), Totals()).add(entry)
        return parts

    def to_pandas(self, run: str | None = None) -> pandas.DataFrame:
        """The entries as a DataFrame, one row each: amounts are decimal.Decimal, times UTC (see pricing.export).

        Raises  ConfigError without pandas
        """
        from .export import to_pandas

        return to_pandas(self.entries(run=run))

    def sync(self) -> None:
        """Force what was written to disk, so that it survives the death of the machine.

        Raises  LedgerError when that could not be done, or an ending still waits to be written
        """
        self._book.sync()

    def close(self) -> None:
        """Close the file; a second close does nothing, and any other use of it is a LedgerError.

        Raises  LedgerError when an ending could not be written; the file is closed all the same
        """
        self._book.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _believe(self, *amounts: Usd | None) -> None:
        for amount in amounts:
            if amount is not None and abs(amount.pico) > MOST:
                raise LedgerError(f"ledger {self.path or 'in memory'}: a call estimated above 9.2 million dollars")

    def _ended(self, entry_id: int, event: str, closing: Closing) -> bool:
        done = self._book.close_entry(entry_id, event, closing)
        self._watch.ended(entry_id)
        return done
