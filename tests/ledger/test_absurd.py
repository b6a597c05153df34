"""Law: a number that nobody can mean neither keeps an entry pending nor spoils a sum; both books treat it alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from pricing import Budget, Cost, Entry, Ledger, Usage, Usd
from pricing.errors import LedgerError, OverBudget
from pricing.prices import PriceRow

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")
TOP = 2**63 - 1
HUGE = [
    pytest.param(TOP + 1, id="a column and one"),
    pytest.param(10**30, id="10^30"),
    pytest.param(10**5_000, id="unprintable"),  # Python refuses to write so many digits
]


def priced(pico: int, components: dict[str, Usd] | None = None) -> Cost:
    """A cost of so many pico-dollars."""
    return Cost(Usd(pico), components or {"input": Usd(pico)}, ROW, "table")


def pend(ledger: Ledger, **given: Any) -> int:
    return ledger.pend(**{"model": "m", "endpoint": "e", "estimate": Usd(1), "worst": Usd(2)} | given)


def spent_and_held(ledger: Ledger) -> tuple[int, int]:
    with pytest.raises(OverBudget) as refused:
        pend(ledger, budgets=[Budget(Usd(0))])
    return refused.value.spent.pico, refused.value.held.pico


def readable(ledger: Ledger) -> list[Entry]:
    """The entries, after everything that prints them was tried."""
    json.dumps(ledger.totals().as_dict())
    return list(ledger.entries())


@pytest.mark.parametrize("field", ["estimate", "worst"])
@pytest.mark.parametrize("amount", [*HUGE, pytest.param(-TOP - 2, id="negative")])
def test_an_absurd_estimate_is_refused_whole(ledger: Ledger, field: str, amount: int) -> None:
    """An amount of 9.2 million dollars is kept, and one pico-dollar more is a LedgerError that writes nothing."""
    for budgets in ([], [Budget(Usd(10**6_000))]):
        with pytest.raises(LedgerError, match="million dollars") as caught:
            pend(ledger, **{field: Usd(amount)}, budgets=budgets)
        assert f"ledger {ledger.path or 'in memory'}" in str(caught.value)
    assert readable(ledger) == []
    pend(ledger, **{field: Usd(TOP)})
    assert [getattr(entry, field) for entry in readable(ledger)] == [Usd(TOP)]


POSTS: dict[str, Callable[..., bool]] = {
    "post": lambda ledger, entry_id, **news: ledger.post(entry_id, response_id="r", **news),
    "post_response": lambda ledger, _, **news: ledger.post_response("r", endpoint="e", model="m", **news),
}


@pytest.mark.parametrize("way", POSTS)
@pytest.mark.parametrize("pico", HUGE)
def test_an_absurd_cost_is_posted_without_a_price(ledger: Ledger, way: str, pico: int) -> None:
    """The entry ends, once, says why it has no price, is in no sum, and takes its worst case from budgets."""
    entry_id = pend(ledger)
    ledger.attach(entry_id, "r")
    for cost in (priced(pico), priced(5, {"input": Usd(pico), "output": Usd(5 - pico)})):
        assert POSTS[way](ledger, entry_id, usage=Usage(7), cost=cost) is (cost.total.pico == pico)
    (entry,) = readable(ledger)
    assert (entry.state, entry.cost, entry.components, entry.usage["input_tokens"]) == ("posted", None, {}, 7)
    assert "9.2 million dollars" in entry.why
    assert spent_and_held(ledger) == (2, 0)
    assert (ledger.totals().posted, ledger.totals().unpriced_count) == (Usd(0), 1)


@pytest.mark.parametrize("way", POSTS)
@pytest.mark.parametrize("count", HUGE)
def test_absurd_counts_are_not_kept(ledger: Ledger, way: str, count: int) -> None:
    """A usage that nobody can have used leaves the cost as it is, its counts out, and a note in their place."""
    entry_id = pend(ledger)
    ledger.attach(entry_id, "r")
    assert POSTS[way](ledger, entry_id, usage=Usage(1, 2, 3, 4, count), cost=priced(5), why="said")
    (entry,) = readable(ledger)
    assert (entry.state, entry.cost, entry.usage) == ("posted", Usd(5), {})
    assert entry.why == "said; token counts that nobody can have used are not kept"
    assert spent_and_held(ledger) == (5, 0)
    assert ledger.totals().output_tokens == 0


def test_the_largest_cost_is_kept(ledger: Ledger) -> None:
    """A cost of 9.2 million dollars is posted as it is, and so is a count as large as that."""
    assert ledger.post(pend(ledger), usage=Usage(TOP), cost=priced(TOP))
    (entry,) = readable(ledger)
    assert (entry.cost, entry.usage["input_tokens"]) == (Usd(TOP), TOP)
    assert spent_and_held(ledger) == (TOP, 0)
