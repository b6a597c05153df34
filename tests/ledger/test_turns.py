"""Law: an ending that garbage collection, or a signal, puts in the middle of another call is neither lost nor doubled.

The garbage is real: a cycle whose finalizer ends an entry, collected where the ledger runs code of its caller's (a
budget's window inside the transaction, the components of a cost inside an ending).
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pricing import Budget, Cost, Ledger, Usd
from pricing.errors import LedgerError, OverBudget
from pricing.prices import PriceRow

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")


def priced(pico: int, components: Any = None) -> Cost:
    """A cost of so many pico-dollars."""
    return Cost(Usd(pico), {"input": Usd(pico)} if components is None else components, ROW, "table")


def pend(ledger: Ledger, *budgets: Budget, worst: int = 9) -> int:
    return ledger.pend(model="m", endpoint="e", estimate=Usd(3), worst=Usd(worst), budgets=budgets)


def spent_and_held(ledger: Ledger) -> tuple[int, int]:
    """What a budget counts, told by a refusal that writes nothing."""
    with pytest.raises(OverBudget) as refused:
        pend(ledger, Budget(Usd(0)))
    return refused.value.spent.pico, refused.value.held.pico


class Abandoned:
    """Something in a cycle, such as a half-read stream, that ends its entry when it is collected."""

    def __init__(self, end: Callable[[], Any], answers: list[Any]) -> None:
        self.end, self.answers, self.me = end, answers, self

    def __del__(self) -> None:
        try:
            self.answers.append(self.end())
        except LedgerError as error:
            self.answers.append(error)


@pytest.fixture
def answers() -> Iterator[list[Any]]:
    """What the finalizers were told; nothing is collected until a test's own code does it."""
    gc.collect()
    gc.disable()
    yield []
    gc.enable()


class Collecting(Budget):
    """A budget in whose check garbage is collected: the ledger asks for its window inside the transaction."""

    def start_us(self, now_us: int) -> int:
        gc.collect()
        return super().start_us(now_us)


class Parts(Mapping[str, Usd]):
    """Components of a cost in whose writing garbage is collected."""

    def keys(self) -> KeysView[str]:
        gc.collect()
        return super().keys()

    def items(self) -> ItemsView[str, Usd]:
        gc.collect()
        return super().items()

    def __getitem__(self, name: str) -> Usd:
        return {"input": Usd(5)}[name]

    def __iter__(self) -> Iterator[str]:
        return iter(["input"])

    def __len__(self) -> int:
        return 1


ENDINGS: dict[str, Callable[[Ledger, int], bool]] = {
    "post": lambda ledger, entry_id: ledger.post(entry_id, usage=None, cost=priced(5)),
    "post with an id": lambda ledger, entry_id: ledger.post(entry_id, usage=None, cost=priced(5), response_id="new"),
    "void": lambda ledger, entry_id: ledger.void(entry_id, "HTTP 500"),
    "expire": lambda ledger, entry_id: ledger.expire(entry_id, "cut"),
    "attach": lambda ledger, entry_id: ledger.attach(entry_id, "attached"),
    "post the response": lambda ledger, _: ledger.post_response(
        "r", endpoint="e", usage=None, cost=priced(5), model=""
    ),
    "expire the response": lambda ledger, _: ledger.expire_response("r", "gone"),
}


@pytest.mark.parametrize("way", ENDINGS)
@pytest.mark.parametrize("room", [100, 0], ids=["admitted", "refused"])
def test_an_ending_in_the_middle_of_a_budget_s_check_is_kept(
    ledger: Ledger, answers: list[Any], way: str, room: int
) -> None:
    """Whether the outer call is admitted or refused, and so rolled back, the ending is there, as if it came after."""
    alone = Ledger(now_us=lambda: 1_790_000_000_000_000)
    for each in (ledger, alone):
        each.attach(entry_id := pend(each), "r")
    Abandoned(lambda: ENDINGS[way](ledger, entry_id), answers)
    if room:
        assert pend(ledger, Collecting(Usd(room))) == pend(alone)
    else:
        with pytest.raises(OverBudget):
            pend(ledger, Collecting(Usd(room)))
    assert answers == [True]
    assert ENDINGS[way](alone, entry_id) is True
    assert list(ledger.entries()) == list(alone.entries())
    assert spent_and_held(ledger) == spent_and_held(alone)


def test_many_endings_in_one_check_are_all_kept(ledger: Ledger, answers: list[Any]) -> None:
    """A thousand abandoned streams that one collection finds inside a refused call are each written."""
    ids = [pend(ledger) for _ in range(1_000)]
    for entry_id in ids:
        Abandoned(lambda entry_id=entry_id: ledger.void(entry_id, "cut"), answers)
    with pytest.raises(OverBudget):
        pend(ledger, Collecting(Usd(1)))
    assert answers == [True] * 1_000
    assert [(entry.id, entry.state) for entry in ledger.entries()] == [(entry_id, "voided") for entry_id in ids]


def test_an_ending_within_an_ending_of_the_same_entry_counts_once(ledger: Ledger, answers: list[Any]) -> None:
    """A poll that posts a response, interrupted by the finalizer that posts the same entry, is one bill."""
    entry_id = pend(ledger)
    ledger.attach(entry_id, "r")
    Abandoned(lambda: ledger.post(entry_id, usage=None, cost=priced(7)), answers)
    assert ledger.post_response("r", endpoint="e", usage=None, cost=priced(5, Parts()), model="m")
    assert len(answers) == 1
    assert [(entry.state, entry.cost) for entry in ledger.entries()] == [("posted", Usd(5))]
    assert spent_and_held(ledger) == (5, 0)


def test_a_call_within_a_call_is_refused_and_not_written(ledger: Ledger, answers: list[Any]) -> None:
    """A finalizer that would send a call while another is checked gets a LedgerError: no overshoot, nothing written."""
    for budgets in ((), (Budget(Usd(9)),)):
        Abandoned(lambda budgets=budgets: pend(ledger, *budgets), answers)
    pend(ledger, Collecting(Usd(9)))
    assert [type(answer) for answer in answers] == [LedgerError] * 2
    assert spent_and_held(ledger) == (0, 9)
    assert len(list(ledger.entries())) == 1


class Signalling(Budget):
    """A budget in whose check a signal arrives."""

    def start_us(self, now_us: int) -> int:
        signal.raise_signal(signal.SIGTERM)
        return super().start_us(now_us)


def test_an_ending_in_a_signal_handler_is_kept(ledger: Ledger) -> None:
    """A handler that closes what is in the air, while a call is refused on the same thread, loses nothing."""
    entry_id = pend(ledger)
    before = signal.signal(signal.SIGTERM, lambda *_: ledger.expire(entry_id, "terminated"))
    try:
        with pytest.raises(OverBudget):
            pend(ledger, Signalling(Usd(1)))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [entry.state for entry in ledger.entries()] == ["expired"]


def test_a_ledger_closed_in_the_middle_of_a_call_closes_after_it(tmp_path: Path, answers: list[Any]) -> None:
    """A finalizer that closes the file does not take it from under the call at hand."""
    path = tmp_path / "costs.db"
    ledger = Ledger(path)
    Abandoned(ledger.close, answers)
    pend(ledger, Collecting(Usd(9)))
    assert answers == [None]
    with Ledger(path) as again:
        assert again.totals().pending_count == 1


def test_an_ending_that_cannot_be_written_later_is_told(tmp_path: Path, answers: list[Any]) -> None:
    """The outer call is not blamed for the ending that waited for it; sync and close say that it is missing."""
    ledger = Ledger(tmp_path / "costs.db")
    entry_id = pend(ledger)
    Abandoned(lambda: ledger.void(entry_id, "", latency_us=2**64), answers)
    assert pend(ledger, Collecting(Usd(100))) == entry_id + 1
    assert answers == [True]
    for act in (ledger.sync, ledger.close):
        with pytest.raises(LedgerError, match="no column"):
            act()
    with Ledger(tmp_path / "costs.db") as again:
        assert [entry.state for entry in again.entries()] == ["pending", "pending"]
