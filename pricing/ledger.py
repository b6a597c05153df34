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
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self, overload

from .budget import Budget
from .cost import Cost, Unpriced
from .errors import ConfigError, LedgerError, OverBudget
from .money import Usd
from .usage import Usage

State = Literal["pending", "posted", "voided", "expired"]

NEXT: dict[tuple[str, str], State] = {
    ("pending", "post"): "posted",
    ("pending", "void"): "voided",
    ("pending", "expire"): "expired",
    ("expired", "post"): "posted",
    ("expired", "void"): "voided",
}
"""The whole life of an entry, but for its being found a duplicate; any other event changes nothing."""

HOUR_US = 3_600 * 1_000_000

MOST = 2**63 - 1
"""The largest number that an entry keeps, of pico-dollars (9.2 million dollars) or tokens: a column holds no more."""


class Entry(NamedTuple):
    """One call. Times are µs since the epoch; amounts are Usd; None means not known.

    estimate, worst   before the send: the likely and the largest possible cost
    cost              what it cost; None when it has no price (`why` says why) or is not posted
    exact             the usage is the server's own; False when it was estimated
    """

    id: int
    state: State
    model: str
    endpoint: str
    response_id: str | None
    custom_id: str | None
    run: str | None
    tags: dict[str, str]
    service_tier: str | None
    batch: bool
    created_us: int
    closed_us: int | None
    estimate: Usd | None
    worst: Usd | None
    cost: Usd | None
    components: dict[str, Usd]
    row_id: str | None
    table_version: str | None
    usage: dict[str, int]
    exact: bool
    why: str


class Closing(NamedTuple):
    """How an entry ends; what a book writes into it."""

    state: State
    closed_us: int
    response_id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    cost: Usd | None = None
    components: Mapping[str, Usd] = {}
    row_id: str | None = None
    table_version: str | None = None
    usage: Mapping[str, int] = {}
    exact: bool = True
    why: str = ""


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
            usage = entry.usage
            self.input_tokens += sum(
                usage.get(k, 0) for k in ("input_tokens", "cached_input_tokens", "cache_write_tokens")
            )
            self.output_tokens += usage.get("output_tokens", 0) + usage.get("reasoning_tokens", 0)
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


class Book(Protocol):
    """Where entries are kept: memory, or SQLite. A book swaps state in atomic steps and decides nothing."""

    def insert(self, entry: Entry, budgets: tuple[Budget, ...]) -> int: ...

    def attach(self, entry_id: int, response_id: str, now_us: int) -> bool: ...

    def close_entry(self, entry_id: int, event: str, closing: Closing) -> bool: ...

    def close_response(self, response_id: str, closing: Closing, fallback: Entry | None) -> bool: ...

    def find(self, response_id: str) -> Entry | None: ...

    def entries(self, state: str | None, since_us: int | None, run: str | None) -> Iterator[Entry]: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


def check_budget(budget: Budget, spent: Usd, held: Usd, worst: Usd | None) -> None:
    """Raise OverBudget unless what is spent, what is held and this worst case fit together."""
    if worst is None:
        raise OverBudget(
            f"budget {budget}: this call has no price, so it could cost anything; add a price row or lift the budget",
            budget=budget,
            spent=spent,
            held=held,
        )
    if spent + held + worst > budget.amount:
        raise OverBudget(
            f"budget {budget}: {spent.format()} spent, {held.format()} held by calls in the air, and this call may "
            f"cost up to {worst.format()}; a smaller max_output_tokens makes that less",
            budget=budget,
            spent=spent,
            held=held,
            estimate=worst,
        )


class Ledger:
    """Entries of calls, in memory or in a SQLite file that threads and processes may share.

    path    the file; None keeps everything in memory
    now_us  the wall clock (µs since the epoch)

    Raises  LedgerError when the file is damaged, is no ledger, or cannot be written; ConfigError when it has no name
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, now_us: Callable[[], int] | None = None) -> None:
        self.path = None if path is None else os.fspath(path)
        if self.path is not None and (not self.path or "\0" in self.path):
            # SQLite would keep an unnamed ledger in a file of its own and throw it away.
            raise ConfigError(f"a ledger's path is the name of a file, not {self.path!r}; None keeps it in memory")
        self._now_us = now_us or (lambda: time.time_ns() // 1000)
        if self.path is None:
            from ._ledger_memory import MemoryBook

            self._book: Book = MemoryBook()
        else:
            from ._ledger_sqlite import SqliteBook

            self._book = SqliteBook(self.path)

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
    ) -> int:
        """Write the pending entry of a call about to be sent; return its id.

        Raises  OverBudget when a budget has no room for the worst case (or there is none); LedgerError when an amount
                is absurd, above 9.2 million dollars: nothing is written
        """
        for amount in (estimate, worst):
            if amount is not None and abs(amount.pico) > MOST:
                raise LedgerError(f"ledger {self.path or 'in memory'}: a call estimated above 9.2 million dollars")
        now_us = self._now_us()
        entry = Entry(
            0, "pending", model, endpoint, None, custom_id, run or None, dict(tags) if tags else {}, service_tier,
            batch, now_us, None, estimate, worst, None, {}, None, None, {}, False, "",
        )  # fmt: skip
        return self._book.insert(entry, tuple(budgets))

    def attach(self, entry_id: int, response_id: str) -> bool:
        """Note the response id of an entry that is pending or expired, so that a later poll finds it.

        When another entry has this response id, this one is voided as a duplicate, and the answer is False.
        """
        return bool(response_id) and self._book.attach(entry_id, response_id, self._now_us())

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
    ) -> bool:
        """End an entry with what it used and cost, even one that had expired. True when that billed it.

        When another entry has this response id, the news are that one's, as with `post_response`, and this one is
        voided as a duplicate.
        """
        closing = self._closing(usage, cost, response_id, model, service_tier, exact, why)
        return self._book.close_entry(entry_id, "post", closing)

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
        closing = self._closing(usage, cost, response_id, model, service_tier, exact, why)
        fresh = Entry(
            0, "pending", model, endpoint, response_id, None, None, {}, service_tier, False, closing.closed_us,
            None, None, None, None, {}, None, None, {}, False, "",
        )  # fmt: skip
        return self._book.close_response(response_id, closing, fresh)

    def expire_response(self, response_id: str, why: str) -> bool:
        """End the pending entry of a response that ended without a usage. False when there is none."""
        closing = Closing("expired", self._now_us(), exact=False, why=why)
        return bool(response_id) and self._book.close_response(response_id, closing, None)

    def void(self, entry_id: int, why: str) -> bool:
        """End an entry as not billed, even one that had expired. False when it had ended before."""
        return self._book.close_entry(entry_id, "void", Closing("voided", self._now_us(), why=why))

    def expire(self, entry_id: int, why: str, response_id: str | None = None) -> bool:
        """End an entry whose cost nobody knows; it counts at its estimate. False when it had ended before.

        By its response id, where that is known, late news find it and replace the estimate.
        """
        closing = Closing("expired", self._now_us(), response_id or None, exact=False, why=why)
        if self._book.close_entry(entry_id, "expire", closing):
            return True
        if response_id:
            self.attach(entry_id, response_id)  # somebody else gave the call up; its news must find it all the same
        return False

    def find(self, response_id: str) -> Entry | None:
        """Find the entry that has this response id, whatever its state."""
        return self._book.find(response_id)

    def entries(
        self, state: State | None = None, since_us: int | None = None, run: str | None = None
    ) -> Iterator[Entry]:
        """Iterate over entries in the order they were written."""
        return self._book.entries(state, since_us, run)

    @overload
    def totals(self, by: None = None, run: str | None = None) -> Totals: ...

    @overload
    def totals(self, by: str, run: str | None = None) -> dict[str, Totals]: ...

    def totals(self, by: str | None = None, run: str | None = None) -> Totals | dict[str, Totals]:
        """Sum the ledger, or its parts by "model", "day" (UTC), "state" or "tag:NAME".

        Raises  ConfigError for another `by`
        """
        if by is None:
            return fold(self.entries(run=run))
        key = _key(by)
        parts: dict[str, Totals] = {}
        for entry in self.entries(run=run):
            parts.setdefault(key(entry), Totals()).add(entry)
        return parts

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

    def _closing(
        self,
        usage: Usage | None,
        cost: Cost | Unpriced | None,
        response_id: str | None,
        model: str | None,
        service_tier: str | None,
        exact: bool,
        why: str,
    ) -> Closing:
        # An empty text names nothing: some servers send "id": "", and those are not all one response.
        response_id, model, service_tier = response_id or None, model or None, service_tier or None
        counts = usage.as_dict() if usage is not None else {}
        # The call is over, so news are never refused; but nobody believes such numbers, and one would spoil every sum.
        if sum(map(abs, counts.values())) > MOST:
            counts = {}
            why = f"{why}; {_NOT_KEPT}" if why else _NOT_KEPT
        if isinstance(cost, Cost) and _absurd(cost):
            cost = Unpriced("a cost above 9.2 million dollars for one call is none")
        if isinstance(cost, Cost):
            notes = "; ".join((why, *cost.notes) if why else cost.notes)
            return Closing(
                "posted", self._now_us(), response_id, model, service_tier, cost.total, cost.components, cost.row_id,
                cost.table_version, counts, exact, notes,
            )  # fmt: skip
        reason = cost.reason if cost is not None else "no cost given"
        why = f"{why}; {reason}" if why else reason
        return Closing("posted", self._now_us(), response_id, model, service_tier, usage=counts, exact=exact, why=why)


def copied(entry: Entry) -> Entry:
    """An entry to give away: what is done to its dictionaries changes no book."""
    tags, components, usage = dict(entry.tags), dict(entry.components), dict(entry.usage)
    return entry._replace(tags=tags, components=components, usage=usage)


def closed(entry: Entry, closing: Closing) -> Entry:
    """An entry after its end. By position: `_replace` takes five times as long."""
    return Entry(
        entry.id,
        closing.state,
        closing.model or entry.model,
        entry.endpoint,
        closing.response_id or entry.response_id,
        entry.custom_id,
        entry.run,
        entry.tags,
        closing.service_tier or entry.service_tier,
        entry.batch,
        entry.created_us,
        closing.closed_us,
        entry.estimate,
        entry.worst,
        closing.cost,
        dict(closing.components),
        closing.row_id,
        closing.table_version,
        dict(closing.usage),
        closing.exact,
        closing.why,
    )


def charge_of(entry: Entry) -> int:
    """What budgets count as spent for an entry (pico-dollars): its cost; while nobody knows that, its worst case."""
    if entry.state not in ("posted", "expired"):
        return 0
    for amount in (entry.cost, entry.worst, entry.estimate):
        if amount is not None:  # not `or`: an estimate of $0 is an estimate
            return amount.pico
    return 0


def takes(state: str, exact: bool, closing: Closing) -> bool:
    """Tell whether news of a response change its entry: it has no bill yet, or an estimated one and this is exact."""
    return (state, "post") in NEXT or (state == "posted" and not exact and closing.exact and closing.cost is not None)


def duplicate(of: int, closed_us: int) -> Closing:
    """How an entry ends whose response another entry has."""
    return Closing("voided", closed_us, why=f"duplicate of entry {of}")


_NOT_KEPT = "token counts that nobody can have used are not kept"


def _absurd(cost: Cost) -> bool:
    for part in cost.components.values():  # a loop and no comprehension: every call comes by here
        if abs(part.pico) > MOST:
            return True
    return abs(cost.total.pico) > MOST


def _key(by: str) -> Callable[[Entry], str]:
    if by in ("model", "state"):
        return lambda entry: str(getattr(entry, by))
    if by == "day":
        return lambda entry: str(datetime.fromtimestamp(entry.created_us // 1_000_000, UTC).date())
    if by.startswith("tag:") and len(by) > 4:
        return lambda entry: entry.tags.get(by[4:], "")
    raise ConfigError(f"totals are by model, day, state or tag:NAME, not {by!r}")
