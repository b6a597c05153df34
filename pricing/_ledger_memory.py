"""The book of one process: entries in a dictionary, changed in turns."""

from __future__ import annotations

from collections.abc import Iterator

from ._ledger_turns import Turns, alone, ending
from .budget import Budget
from .ledger import HOUR_US, NEXT, Closing, Entry, charge_of, check_budget, closed, copied, duplicate, takes
from .money import Usd


class MemoryBook(Turns):
    """Keeps entries for as long as the process lives."""

    def __init__(self) -> None:
        super().__init__()
        self._entries: dict[int, Entry] = {}
        self._pending: set[int] = set()
        self._by_response: dict[str, int] = {}  # response id → the one entry that has it
        self._spent: dict[tuple[str | None, int], int] = {}  # (run, hour) → pico-dollars
        self._last = 0

    @alone
    def insert(self, entry: Entry, budgets: tuple[Budget, ...]) -> int:
        for budget in budgets:
            check_budget(budget, self._spent_in(budget, entry.created_us), self._held(budget.run), entry.worst)
        return self._begin(entry).id

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

    def sync(self) -> None:
        """Memory has nothing to force."""

    def close(self) -> None:
        """Memory has nothing to close."""

    def _repair(self) -> None:
        self._pending.clear()
        self._by_response.clear()
        self._spent.clear()
        for entry in self._entries.values():
            if entry.state == "pending":
                self._pending.add(entry.id)
            if entry.response_id is not None:
                self._by_response[entry.response_id] = entry.id
            self._spend(entry, charge_of(entry))

    def _begin(self, entry: Entry) -> Entry:
        self._last += 1
        entry = Entry(self._last, *entry[1:])
        self._entries[entry.id] = entry
        self._pending.add(entry.id)
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
        self._pending.discard(entry.id)
        self._spend(entry, charge_of(ended) - charge_of(entry))

    def _spend(self, entry: Entry, charge: int) -> None:
        if charge:
            key = (entry.run, entry.created_us // HOUR_US)
            self._spent[key] = self._spent.get(key, 0) + charge

    def _spent_in(self, budget: Budget, now_us: int) -> Usd:
        first_hour, only = budget.start_us(now_us) // HOUR_US, budget.run or None
        return Usd(sum(pico for (run, hour), pico in self._spent.items() if hour >= first_hour and only in (None, run)))

    def _held(self, run: str | None) -> Usd:
        held = 0
        for entry_id in self._pending:
            entry = self._entries[entry_id]
            if (not run or run == entry.run) and entry.worst is not None:
                held += entry.worst.pico
        return Usd(held)
