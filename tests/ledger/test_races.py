"""Law: threads that end the same entries, or tell of the same responses, at the same instant bill each once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

from pricing import Cost, Ledger, Usd
from pricing.prices import PriceRow

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")


def priced(pico: int) -> Cost:
    """A cost of so many pico-dollars."""
    return Cost(Usd(pico), {"input": Usd(pico)}, ROW, "table-1")


def pend(ledger: Ledger) -> int:
    return ledger.pend(model="m", endpoint="responses", estimate=Usd(3), worst=Usd(9))


def test_one_response_polled_by_eight_threads_is_billed_once(shared: list[Ledger], at_once: Callable[..., Any]) -> None:
    """Of eight threads that post the same new response at the same instant, one is told True, and one entry exists."""
    for number in range(200):
        answers = at_once(
            lambda i, number=number: shared[i].post_response(
                f"resp_{number}", endpoint="e", usage=None, cost=priced(5), model="m"
            )
        )
        assert sorted(answers) == [False] * 7 + [True]
    assert shared[0].totals().posted == Usd(5 * 200)
    assert shared[0].totals().posted_count == 200


def test_an_entry_ended_by_eight_threads_ends_once(shared: list[Ledger], at_once: Callable[..., Any]) -> None:
    """Of eight threads that post, void and expire one entry at the same instant, one knows, and its end stays."""
    for _ in range(20):
        entry_id = pend(shared[0])
        ways: list[Callable[[Ledger], bool]] = [
            lambda ledger, entry_id=entry_id: ledger.post(entry_id, usage=None, cost=priced(5)),
            lambda ledger, entry_id=entry_id: ledger.void(entry_id, "void"),
            lambda ledger, entry_id=entry_id: ledger.expire(entry_id, "expire"),
        ]
        answers = at_once(lambda i, ways=ways: ways[i % 3](shared[i]))
        known = [i for i in range(8) if answers[i] and i % 3 < 2]
        assert len(known) == 1
        assert sum(answers[2::3]) <= 1  # an expiry that came before the news
        (entry,) = [entry for entry in shared[0].entries() if entry.id == entry_id]
        assert entry.state == ("posted", "voided")[known[0] % 3]


def test_one_response_id_is_posted_by_one_of_eight_entries(shared: list[Ledger], at_once: Callable[..., Any]) -> None:
    """Eight calls that were answered with the same response are one bill: the seven others are voided as duplicates."""
    for number in range(20):
        ids = [pend(shared[0]) for _ in range(8)]
        answers = at_once(
            lambda i, ids=ids, number=number: shared[i].post(
                ids[i], usage=None, cost=priced(5), response_id=f"resp_{number}"
            )
        )
        assert sorted(answers) == [False] * 7 + [True]
        winner = ids[answers.index(True)]
        losers = [entry for entry in shared[0].entries() if entry.id in ids and entry.id != winner]
        assert {(entry.state, entry.why) for entry in losers} == {("voided", f"duplicate of entry {winner}")}
    assert shared[0].totals().posted == Usd(5 * 20)


def test_news_of_a_response_another_entry_waits_for_are_one_bill(
    shared: list[Ledger], at_once: Callable[..., Any]
) -> None:
    """A post that carries another entry's response bills that one and voids itself, unless it loses to a void."""
    for number in range(150):
        waiting = [pend(shared[0]) for _ in range(4)]
        for k, entry_id in enumerate(waiting):
            assert shared[0].attach(entry_id, f"resp_{number}_{k}")
        ids = [pend(shared[0]) for _ in range(4)]

        def end(i: int, ids: list[int] = ids, name: str = f"resp_{number}") -> bool:
            if i % 2:
                return shared[i].void(ids[i // 2], "void")
            return shared[i].post(ids[i // 2], usage=None, cost=priced(5), response_id=f"{name}_{i // 2}")

        answers = at_once(end)
        found = {entry.id: entry for entry in shared[0].entries()}
        for k in range(4):
            posted, voided = answers[2 * k : 2 * k + 2]
            assert posted is not voided
            assert (found[ids[k]].state, found[ids[k]].response_id) == ("voided", None)
            assert found[waiting[k]].state == ("posted" if posted else "pending")
            assert found[waiting[k]].response_id == f"resp_{number}_{k}"


def test_late_news_told_by_eight_threads_replace_an_expired_charge_once(
    shared: list[Ledger], at_once: Callable[..., Any]
) -> None:
    """While one half polls a response and the other half gives its entry up, the estimate goes and one bill comes."""
    for number in range(100):
        entry_id = pend(shared[0])

        def act(i: int, entry_id: int = entry_id, name: str = f"resp_{number}") -> bool:
            if i % 2:
                return shared[i].expire(entry_id, "cut", name)
            return shared[i].post_response(name, endpoint="e", usage=None, cost=priced(5), model="m")

        assert shared[0].expire(entry_id, "cut", f"resp_{number}")
        assert sorted(at_once(act)) == [False] * 7 + [True]
    totals = shared[0].totals()
    assert (totals.posted, totals.posted_count, totals.expired_count, totals.voided_count) == (Usd(500), 100, 0, 0)
