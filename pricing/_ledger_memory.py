"""The book of one process: entries in a dictionary, changed in turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from ._ledger_budgets import Counted, check_budgets, check_together
from ._ledger_turns import Turns, alone, ending
from .budget import SLOT_US, Budget, Scope
from .entries import (
    EVENT,
    LEASE_OVER,
    NEXT,
    Closing,
    Entry,
    charge_of,
    closed,
    copied,
    duplicate,
    held_from_us,
    line_of,
    scopes_of,
    takes,
)
from .money import Usd


class MemoryBook(Turns):
    """Keeps entries for as long as the process lives."""

    def __init__(self) -> None:
        super().__init__()
        self._entries: dict[int, Entry] = {}
        self._pending: set[int] = set()
        self._by_response: dict[str, int] = {}  # response id → the one entry that has it
        self._by_line: dict[tuple[str, str], int] = {}  # batch and custom_id → the last entry of that line
        self._spent: dict[Scope, dict[int, int]] = {}  # part of the ledger → slot → pico-dollars
        self._held: dict[Scope, int] = {}
        self._marks: dict[tuple[str, int], int] = {}
        self._last = 0

    @alone
    def insert(self, entry: Entry, budgets: tuple[Budget, ...], lost_us: int) -> tuple[int, list[Counted]]:
        if budgets:
            self._give_up(lost_us, entry.created_us)
        counted = check_budgets(budgets, entry, lambda budget, scope: self._count(budget, scope, entry.created_us))
        return self._begin(entry).id, counted

    @alone
    def counted(self, budget: Budget, scope: Scope, now_us: int, lost_us: int) -> tuple[Usd, Usd]:
        self._give_up(lost_us, now_us)
        return self._count(budget, scope, now_us)

    @alone
    def first_time(self, budget: str, percent: int, mark_us: int, every_us: int) -> bool:
        before = self._marks.get((budget, percent))
        if before is not None and before > mark_us - every_us:
            return False
        self._marks[budget, percent] = mark_us
        return True

    @ending
    def attach(self, entry_id: int, response_id: str, now_us: int) -> bool:
        entry = self._entries.get(entry_id)
        if entry is None or (entry.state, "post") not in NEXT:
            return False
        holder = self._holder(response_id)
        if holder is not None and holder is not entry:
            self._end(entry, duplicate(holder.id, now_us))
            return False
        self._claim(entry, response_id)
        self._entries[entry_id] = entry._replace(response_id=response_id)
        return True

    @ending
    def close_entry(self, entry_id: int, event: str, closing: Closing) -> bool:
        return self._close_entry(entry_id, event, closing)

    def _close_entry(self, entry_id: int, event: str, closing: Closing) -> bool:
        entry = self._entries.get(entry_id)
        if entry is None or (entry.state, event) not in NEXT:
            return False
        if closing.response_id:
            holder = self._holder(closing.response_id)
            if holder is not None and holder is not entry:
                billed = event == "post" and self._bill(holder, closing)
                self._end(entry, duplicate(holder.id, closing.closed_us))
                return billed
            self._claim(entry, closing.response_id)
        self._end(entry, closing)
        return True

    @ending
    def close_response(self, response_id: str, closing: Closing, fallback: Entry | None) -> bool:
        holder = self._holder(response_id)
        if fallback is None:
            if holder is None or (holder.state, "expire") not in NEXT:
                return False
            self._end(holder, closing)
            return True
        if holder is None:
            holder = self._begin(fallback)
            self._by_response[response_id] = holder.id
        return self._bill(holder, closing)

    @alone
    def book_lines(
        self, entries: Sequence[Entry], budgets: tuple[Budget, ...], lost_us: int
    ) -> tuple[list[int], list[Counted]]:
        fresh = [entry for entry in entries if line_of(entry) not in self._by_line]
        counted: list[Counted] = []
        if budgets and fresh:
            now_us = fresh[0].created_us
            self._give_up(lost_us, now_us)
            counted = check_together(budgets, fresh, lambda budget, scope: self._count(budget, scope, now_us))
        return [self._begin(entry).id for entry in fresh], counted

    @alone
    def booked_lines(self, batch_id: str, custom_ids: Sequence[str]) -> dict[str, Entry]:
        found = ((name, self._by_line.get((batch_id, name))) for name in custom_ids)
        return {name: copied(self._entries[entry_id]) for name, entry_id in found if entry_id is not None}

    @alone
    def settle_lines(self, news: Sequence[tuple[Entry, Closing]]) -> list[int]:
        return [self._settle(fresh, closing) for fresh, closing in news]

    def _settle(self, fresh: Entry, closing: Closing) -> int:
        line = line_of(fresh)
        entry_id = None if line is None else self._by_line.get(line)
        if entry_id is None or self._entries[entry_id].state == "voided":
            if closing.state == "voided" or (closing.response_id and self._holder(closing.response_id)):
                return 0
            entry_id = self._begin(fresh).id
        return entry_id if self._close_entry(entry_id, EVENT[closing.state], closing) else 0

    def find(self, response_id: str) -> Entry | None:
        with self._lock:
            entry_id = self._by_response.get(response_id)
            return None if entry_id is None else copied(self._entries[entry_id])

    def entries(self, state: str | None, since_us: int | None, run: str | None) -> Iterator[Entry]:
        with self._lock:
            snapshot = list(self._entries.values())
        for entry in snapshot:
            if (
                (state is None or entry.state == state)
                and (since_us is None or entry.created_us >= since_us)
                and (run is None or entry.run == run)
            ):
                yield copied(entry)

    def latest(self, count: int) -> list[Entry]:
        with self._lock:
            known = (entry for entry in reversed(self._entries.values()) if entry.state == "posted" and entry.exact)
            return [copied(entry) for entry in islice(known, count)]

    def sync(self) -> None:
        """Memory has nothing to force."""

    def close(self) -> None:
        """Memory has nothing to close."""

    def _repair(self) -> None:
        self._pending.clear()
        self._by_response.clear()
        self._by_line.clear()
        self._spent.clear()
        self._held.clear()
        for entry in self._entries.values():
            if entry.state == "pending":
                self._pending.add(entry.id)
                self._hold(entry, 1)
            if entry.response_id is not None:
                self._by_response[entry.response_id] = entry.id
            if (line := line_of(entry)) is not None:
                self._by_line[line] = entry.id
            self._spend(entry, charge_of(entry))

    def _begin(self, entry: Entry) -> Entry:
        self._last += 1
        entry = Entry(self._last, *entry[1:])
        self._entries[entry.id] = entry
        self._pending.add(entry.id)
        self._hold(entry, 1)
        if (line := line_of(entry)) is not None:
            self._by_line[line] = entry.id
        return entry

    def _holder(self, response_id: str) -> Entry | None:
        """The entry that has this response id. A voided one gives it up: it said that nothing was billed."""
        entry_id = self._by_response.get(response_id)
        if entry_id is None:
            return None
        entry = self._entries[entry_id]
        if entry.state != "voided":
            return entry
        del self._by_response[response_id]
        self._entries[entry_id] = entry._replace(response_id=None)
        return None

    def _bill(self, entry: Entry, closing: Closing) -> bool:
        if takes(entry.state, entry.exact, closing):
            self._end(entry, closing)
            return entry.state != "posted"
        return False

    def _claim(self, entry: Entry, response_id: str) -> None:
        """Let this entry be found by this response id, and no longer by the one it may have had."""
        if entry.response_id is not None:
            del self._by_response[entry.response_id]
        self._by_response[response_id] = entry.id

    def _end(self, entry: Entry, closing: Closing) -> None:
        self._entries[entry.id] = ended = closed(entry, closing)
        if entry.state == "pending":
            self._pending.discard(entry.id)
            self._hold(entry, -1)
        self._spend(entry, charge_of(ended) - charge_of(entry))

    def _give_up(self, lost_us: int, now_us: int) -> None:
        """End what is pending for longer than its lease."""
        for entry_id in [one for one in self._pending if held_from_us(self._entries[one]) < lost_us]:
            self._end(self._entries[entry_id], Closing("expired", now_us, exact=False, why=LEASE_OVER))

    def _hold(self, entry: Entry, sign: int) -> None:
        if entry.worst is not None:
            for scope in scopes_of(entry):
                self._held[scope] = self._held.get(scope, 0) + sign * entry.worst.pico

    def _spend(self, entry: Entry, charge: int) -> None:
        if charge:
            slot = entry.created_us // SLOT_US
            for scope in scopes_of(entry):
                slots = self._spent.setdefault(scope, {})
                slots[slot] = slots.get(slot, 0) + charge

    def _count(self, budget: Budget, scope: Scope, now_us: int) -> tuple[Usd, Usd]:
        first = budget.start_us(now_us) // SLOT_US
        spent = sum(pico for slot, pico in self._spent.get(scope, {}).items() if slot >= first)
        return Usd(spent), Usd(self._held.get(scope, 0))
