"""Law: Ctrl-C at any step of any call leaves a ledger whose sums are those of its entries, and that goes on.

The exception is raised at every point at which the interpreter lets a signal in: where a function is entered, and
where a call into C returns. Each point has its own run of the same story.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pricing
from pricing import Budget, Cost, Ledger, Usd
from pricing.errors import OverBudget
from pricing.prices import PriceRow

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")
START_US = 1_790_000_000_000_000
OURS = str(Path(pricing.__file__).parent / "_ledger")


class Interrupt:
    """Raises KeyboardInterrupt at one point of the code of the books: the first, the second, the third …"""

    def __init__(self, point: int) -> None:
        self.point, self.left = point, point

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "c_return") and frame.f_code.co_filename.startswith(OURS):
            self.left -= 1
            if self.left == 0:
                sys.setprofile(None)
                raise KeyboardInterrupt


def story(ledger: Ledger) -> Iterator[int]:
    """Every way in which an entry is written and ends; yields the number of calls that have returned."""

    def pend(*budgets: Budget) -> int:
        return ledger.pend(model="m", endpoint="e", estimate=Usd(3), worst=Usd(9), budgets=budgets)

    def post(entry_id: int, name: str) -> bool:
        cost = Cost(Usd(5), {"input": Usd(5)}, ROW, "table")
        return ledger.post(entry_id, usage=None, cost=cost, response_id=name)

    cost = Cost(Usd(7), {"input": Usd(7)}, ROW, "table")
    yield post(pend(), "a")
    yield ledger.attach(pend(Budget(Usd(10**9), "day")), "b")
    yield post(pend(), "b")
    yield ledger.expire(pend(), "cut", "c")
    yield ledger.post_response("c", endpoint="e", usage=None, cost=cost, model="m")
    yield ledger.post_response("d", endpoint="e", usage=None, cost=cost, model="m")
    yield ledger.void(pend(), "HTTP 500")
    yield ledger.attach(pend(), "d")


def check(ledger: Ledger) -> None:
    """Budgets count what the entries say."""
    entries = list(ledger.entries())
    with pytest.raises(OverBudget) as refused:
        ledger.pend(model="m", endpoint="e", estimate=None, worst=Usd(1), budgets=[Budget(Usd(0))])
    unknown = [entry for entry in entries if entry.state == "expired"]
    spent = sum(entry.cost.pico for entry in entries if entry.cost is not None) + 9 * len(unknown)
    held = sum(entry.worst.pico for entry in entries if entry.state == "pending" and entry.worst is not None)
    assert (refused.value.spent.pico, refused.value.held.pico) == (spent, held)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_ctrl_c_at_any_point_breaks_nothing(tmp_path: Path, kind: str) -> None:
    """What had returned is kept, the call at hand is done or not, and what comes after it is written and counted."""
    whole = Ledger(now_us=lambda: START_US)
    after = [[], *(list(whole.entries()) for _ in story(whole))]
    point, done = 0, False
    while not done:
        point += 1
        path = tmp_path / f"{point}.db" if kind == "sqlite" else None
        ledger, returned = Ledger(path, now_us=lambda: START_US), 0
        before = sys.getprofile()
        try:
            sys.setprofile(Interrupt(point))
            for _ in story(ledger):
                returned += 1
            done = True
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(before)
        check(ledger)
        for old, new, found in zip(after[returned], after[min(returned + 1, 8)], ledger.entries(), strict=False):
            assert found in (old, new)
        again = Ledger(path) if path else ledger
        assert len(list(story(again))) == 8
        check(again)
        check(ledger)
        ledger.close()
        again.close()
    assert point > 100
