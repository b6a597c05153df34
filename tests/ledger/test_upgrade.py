"""Law: a ledger that an older version wrote opens with every entry as it was, is counted by today's rules, and goes on.

The files are of the versions' own making: in each of two hours, without a run and in run "a", nine entries, of which
one or two stand in each state that there was.
"""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pricing import Budget, Cost, Entry, Ledger, Usd
from pricing.errors import LedgerError
from pricing.prices import PriceRow

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")
OLD = Path(__file__).parents[1] / "data" / "ledger_v1.db.gz"
START_US, HOUR_US = 1_790_000_000_000_000, 3_600_000_000
ADDED = (None, None, None, "", None, None, None, "{}")
"""What the columns of version 3 say of an entry that was written before: nothing."""
HELD, SPENT = 9 + 9, 5 + 9 + 9 + 3 + 9 + 5 * 10**12 + 7
"""What the nine entries of an hour and run hold, and what they spent: their costs, and the unknown at its worst."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of version 1."""
    path = tmp_path / "costs.db"
    path.write_bytes(gzip.decompress(OLD.read_bytes()))
    return path


def rows(path: Path, query: str = "SELECT * FROM entries ORDER BY id") -> list[Any]:
    """What SQLite itself reads."""
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def counted(ledger: Ledger, window: str, run: str | None) -> tuple[int, int]:
    found = ledger.counted(Budget(Usd(1), window, run), run=run)
    return found.spent.pico, found.held.pico


def test_every_entry_stays_as_it_was(path: Path) -> None:
    """Opening changes the version of the file, and no entry."""
    before = rows(path)
    assert (len(before), rows(path, "PRAGMA user_version")) == (36, [(1,)])
    with Ledger(path, now_us=lambda: START_US + HOUR_US) as ledger:
        found = list(ledger.entries())
    assert (rows(path), rows(path, "PRAGMA user_version")) == ([(*row, *ADDED) for row in before], [(3,)])
    assert [entry.state for entry in found] == 4 * [
        "pending", "pending", "posted", "posted", "voided", "expired", "expired", "expired", "expired"
    ]  # fmt: skip
    assert [entry.response_id for entry in found[:9] if entry.response_id] == [
        "attached 0 None", "posted 0 None", "expired 0 None"
    ]  # fmt: skip


def test_budgets_count_old_entries_by_the_new_rule(path: Path) -> None:
    """What had expired counts at its worst case, per run and hour, beyond a dollar and below it."""
    for _ in range(2):  # the second time there is nothing left to do
        with Ledger(path, now_us=lambda: START_US + HOUR_US) as ledger:
            assert counted(ledger, "total", None) == (4 * SPENT, 4 * HELD)
            assert counted(ledger, "hour", None) == (2 * SPENT, 4 * HELD)
            assert counted(ledger, "total", "a") == (2 * SPENT, 2 * HELD)
            assert counted(ledger, "hour", "a") == (SPENT, 2 * HELD)


def test_an_old_entry_takes_late_news(path: Path) -> None:
    """An entry that had expired under version 1 is billed by its response id, once."""
    cost = Cost(Usd(7), {"input": Usd(7)}, ROW, "table")
    with Ledger(path, now_us=lambda: START_US + HOUR_US) as ledger:
        for expected in (True, False):
            answer = ledger.post_response("expired 1 a", endpoint="e", usage=None, cost=cost, model="m")
            assert answer is expected
        assert counted(ledger, "total", None) == (4 * SPENT - (5 * 10**12 + 7) + 7, 4 * HELD)
        assert len(list(ledger.entries())) == 36


def test_threads_that_open_an_old_file_together_upgrade_it_once(path: Path, at_once: Callable[..., Any]) -> None:
    """Eight ledgers opened at the same instant find one upgraded file, and all write to it."""

    def work(number: int) -> int:
        with Ledger(path, now_us=lambda: START_US + HOUR_US) as ledger:
            return ledger.pend(model=str(number), endpoint="e", estimate=Usd(1), worst=Usd(1))

    assert sorted(at_once(work)) == list(range(37, 45))
    with Ledger(path, now_us=lambda: START_US + HOUR_US) as ledger:
        assert counted(ledger, "total", None) == (4 * SPENT, 4 * HELD + 8)


def test_a_row_that_is_deleted_counts_no_more(path: Path) -> None:
    """Deleting a damaged row, as the message advises, takes its charge out of every budget."""
    with Ledger(path, now_us=lambda: START_US + HOUR_US) as ledger:
        entries: list[Entry] = list(ledger.entries())
    db = sqlite3.connect(path)
    db.execute("UPDATE entries SET tags = 'rot' WHERE id = 3")
    db.commit()
    with Ledger(path, now_us=lambda: START_US + HOUR_US) as ledger, pytest.raises(LedgerError, match="delete that row"):
        list(ledger.entries())
    db.execute("DELETE FROM entries WHERE id = 3 OR state = 'pending'")
    db.commit()
    db.close()
    with Ledger(path, now_us=lambda: START_US + HOUR_US) as ledger:
        assert counted(ledger, "total", None) == (4 * SPENT - 5, 0)
        assert list(ledger.entries()) == [each for each in entries if each.id != 3 and each.state != "pending"]


V2_HELD, V2_SPENT = 9 + 9, 5 + 9 + 9 + 3 + 5 * 10**12 + 7 + 7
"""The same of the file of version 2: nine entries, of which one was counted from its text."""


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """A file of version 2."""
    path = tmp_path / "second.db"
    path.write_bytes(gzip.decompress(OLD.with_name("ledger_v2.db.gz").read_bytes()))
    return path


def test_a_file_of_version_2_is_brought_up_to_date(second: Path) -> None:
    """No entry changes, what budgets count is counted anew, and tags that nobody had asked for are counted too."""
    before = rows(second)
    assert (len(before), rows(second, "PRAGMA user_version")) == (36, [(2,)])
    for _ in range(2):
        with Ledger(second, now_us=lambda: START_US + HOUR_US) as ledger:
            assert counted(ledger, "total", None) == (4 * V2_SPENT, 4 * V2_HELD)
            assert counted(ledger, "hour", None) == (2 * V2_SPENT, 4 * V2_HELD)
            assert counted(ledger, "hour", "a") == (V2_SPENT, 2 * V2_HELD)
            found = ledger.counted(Budget(Usd(1), tag="team"), tags={"team": "search"})
            assert (found.spent.pico, found.held.pico) == (2 * V2_SPENT, 2 * V2_HELD)
            assert sum(1 for _ in ledger.entries()) == 36
    assert (rows(second), rows(second, "PRAGMA user_version")) == ([(*row, *ADDED) for row in before], [(3,)])


def test_an_entry_of_version_2_ends_and_is_counted(second: Path) -> None:
    """A call that was in the air during the upgrade posts, gives its hold back, and counts for its team."""
    cost = Cost(Usd(4), {"input": Usd(4)}, ROW, "table")
    with Ledger(second, now_us=lambda: START_US + HOUR_US) as ledger:
        assert ledger.post_response("attached 1 None", endpoint="e", usage=None, cost=cost, model="m")
        assert ledger.post_response("counted 0 a", endpoint="e", usage=None, cost=cost, model="m") is False
        assert counted(ledger, "total", None) == (4 * V2_SPENT + 4 - 3, 4 * V2_HELD - 9)
        found = ledger.counted(Budget(Usd(1), tag="team"), tags={"team": "search"})
        assert (found.spent.pico, found.held.pico) == (2 * V2_SPENT + 4, 2 * V2_HELD - 9)
