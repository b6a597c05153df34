"""Law: what nobody knew is replaced by what is known, exactly once, whoever tells it and however often."""

from __future__ import annotations

import json
from datetime import date

import httpx2
import pytest

from pricing import Budget, Cost, Ledger, Unpriced, Usage, Usd
from pricing.prices import PriceRow
from ratelimit.transports.httpx2 import CostTransport

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")


def priced(pico: int) -> Cost:
    """A cost of so many pico-dollars."""
    return Cost(Usd(pico), {"input": Usd(pico)}, ROW, "table")


def pend(ledger: Ledger) -> int:
    return ledger.pend(model="m", endpoint="e", estimate=Usd(3), worst=Usd(9), run="r", tags={"team": "x"})


def poll(ledger: Ledger, response_id: str = "resp", pico: int = 5, exact: bool = True) -> bool:
    return ledger.post_response(
        response_id, endpoint="e", usage=Usage(input_tokens=pico), cost=priced(pico), model="m-2", exact=exact
    )


def books(ledger: Ledger) -> list[tuple[int, str, str | None, int | None]]:
    """Id, state, response and cost of every entry."""
    return [(each.id, each.state, each.response_id, each.cost and each.cost.pico) for each in ledger.entries()]


def counted(ledger: Ledger) -> tuple[int, int]:
    """What a budget counts as spent and held, of the whole ledger and, alike, of the one run."""
    found = []
    for run in (None, "r"):
        counted = ledger.counted(Budget(Usd(1), run=run), run=run)
        found.append((counted.spent.pico, counted.held.pico))
    assert found[0] == found[1]
    return found[0]


def test_a_poll_replaces_an_expired_charge_once(ledger: Ledger) -> None:
    """A call whose reply was cut after its id was known is billed by the first poll, in its own entry, and no other."""
    entry_id = pend(ledger)
    assert ledger.expire(entry_id, "cut", "resp")
    assert counted(ledger) == (9, 0)
    assert [poll(ledger), poll(ledger), poll(ledger, pico=7)] == [True, False, False]
    assert books(ledger) == [(entry_id, "posted", "resp", 5)]
    assert counted(ledger) == (5, 0)
    (entry,) = ledger.entries()
    assert (entry.model, entry.run, entry.tags, entry.exact, entry.why) == ("m-2", "r", {"team": "x"}, True, "")
    assert entry.usage["input_tokens"] == 5


def test_an_attached_response_that_expired_is_still_found(ledger: Ledger) -> None:
    """A background response that was given up, by a poll or by another run, is billed when it turns up after all."""
    for name, give_up in (
        ("a", lambda entry_id: ledger.expire_response("a", "gone")),
        ("b", lambda entry_id: ledger.expire(entry_id, "the run ended")),
    ):
        entry_id = pend(ledger)
        assert ledger.attach(entry_id, name)
        assert give_up(entry_id)
        assert [poll(ledger, name), poll(ledger, name)] == [True, False]
    assert books(ledger) == [(1, "posted", "a", 5), (2, "posted", "b", 5)]
    assert counted(ledger) == (10, 0)


def test_an_id_that_comes_after_the_expiry_is_stored(ledger: Ledger) -> None:
    """When somebody else gave a call up first, its own end still notes the response, so that a poll bills no twin."""
    ended, attached = pend(ledger), pend(ledger)
    for entry_id in (ended, attached):
        ledger.expire(entry_id, "the run that sent this call ended")
    assert ledger.expire(ended, "cut", "a") is False
    assert ledger.attach(attached, "b") is True
    assert [poll(ledger, "a"), poll(ledger, "b")] == [True, True]
    assert books(ledger) == [(ended, "posted", "a", 5), (attached, "posted", "b", 5)]


def test_a_response_is_found_whatever_its_entry_s_state(ledger: Ledger) -> None:
    """Whoever prices late news finds the entry of a response: pending, expired or posted; else None."""
    assert ledger.find("resp") is None
    entry_id = pend(ledger)
    ledger.attach(entry_id, "resp")
    states = []
    for act in (lambda: ledger.expire(entry_id, "cut"), lambda: poll(ledger), lambda: None):
        found = ledger.find("resp")
        assert found is not None
        assert found == next(ledger.entries())
        found.tags.clear()
        states.append(found.state)
        act()
    assert states == ["pending", "expired", "posted"]


@pytest.mark.parametrize("way", ["posted", "unpriced", "voided"])
def test_the_call_itself_may_bring_the_news(ledger: Ledger, way: str) -> None:
    """A call that was given up while it was in the air ends once as it really does: at its cost, or not billed."""
    entry_id = pend(ledger)
    ledger.expire(entry_id, "the run that sent this call ended")
    for expected in (True, False):
        if way == "voided":
            assert ledger.void(entry_id, "HTTP 429") is expected
        else:
            cost = priced(5) if way == "posted" else Unpriced("no row")
            assert ledger.post(entry_id, usage=None, cost=cost, response_id="resp") is expected
    assert [entry.state for entry in ledger.entries()] == ["voided" if way == "voided" else "posted"]
    assert counted(ledger) == ({"posted": 5, "unpriced": 9, "voided": 0}[way], 0)


def test_exact_news_correct_an_estimated_bill(ledger: Ledger) -> None:
    """A stream that was cut is billed by its text until a poll tells the truth; that stays, whatever comes later."""
    entry_id = pend(ledger)
    assert ledger.post(entry_id, usage=None, cost=priced(2), response_id="resp", exact=False, why="cut")
    assert poll(ledger, pico=4, exact=False) is False
    assert (books(ledger), counted(ledger)) == ([(entry_id, "posted", "resp", 2)], (2, 0))
    assert [poll(ledger, pico=5), poll(ledger, pico=6)] == [False, False]
    assert (books(ledger), counted(ledger)) == ([(entry_id, "posted", "resp", 5)], (5, 0))
    assert ledger.totals().estimated_count == 0


@pytest.mark.parametrize("first", ["pending", "expired", "posted"])
def test_a_second_entry_of_one_response_is_a_duplicate(ledger: Ledger, first: str) -> None:
    """Two calls answered with the same response are one bill, in the first one's entry, in whichever order they end."""
    one, ways = pend(ledger), []
    if first == "pending":
        assert ledger.attach(one, "resp")
    elif first == "expired":
        assert ledger.expire(one, "cut", "resp")
    else:
        assert ledger.post(one, usage=None, cost=priced(5), response_id="resp")
    others = [pend(ledger) for _ in range(4)]
    ledger.expire(others[3], "the run ended")
    ways.append(ledger.attach(others[0], "resp"))
    ways.append(ledger.expire(others[1], "cut", "resp"))
    ways.append(ledger.post(others[2], usage=None, cost=priced(5), response_id="resp"))
    ways.append(ledger.post(others[3], usage=None, cost=priced(5), response_id="resp"))
    assert ways == [False, False, first != "posted", False]
    assert books(ledger) == [(one, "posted", "resp", 5), *((each, "voided", None, None) for each in others)]
    assert {entry.why for entry in ledger.entries(state="voided")} == {f"duplicate of entry {one}"}
    assert counted(ledger) == (5, 0)


def test_a_voided_entry_keeps_no_news_from_its_response(ledger: Ledger) -> None:
    """A response whose entry was voided too early is billed all the same, once, in an entry of its own."""
    one, two = pend(ledger), pend(ledger)
    for entry_id, name in ((one, "a"), (two, "b")):
        ledger.attach(entry_id, name)
        ledger.void(entry_id, "HTTP 500")
    assert [poll(ledger, "a"), poll(ledger, "a")] == [True, False]
    three = pend(ledger)
    assert ledger.post(three, usage=None, cost=priced(6), response_id="b")
    assert books(ledger) == [(1, "voided", None, None), (2, "voided", None, None), (3, "posted", "a", 5),
                             (4, "posted", "b", 6)]  # fmt: skip


def test_a_cut_stream_that_is_polled_is_one_bill(ledger: Ledger) -> None:
    """Through the transport: a stream that ends after it named its response expires, and the poll bills that entry."""
    begun = {"id": "resp", "object": "response", "status": "in_progress", "model": "o3"}
    cut = b"data: " + json.dumps({"type": "response.created", "response": begun}).encode() + b"\n\n"
    ended = begun | {"status": "completed", "usage": {"input_tokens": 1_000, "output_tokens": 1_000}}

    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(200, json=ended)
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=cut)

    transport = CostTransport(httpx2.MockTransport(answer), ledger=ledger, at=date(2026, 9, 15))
    with httpx2.Client(transport=transport) as client:
        client.post("http://x/v1/responses", json={"model": "o3", "input": "x", "stream": True})
        assert [(entry.state, entry.response_id) for entry in ledger.entries()] == [("expired", "resp")]
        for _ in range(2):
            client.get("http://x/v1/responses/resp")
            assert books(ledger) == [(1, "posted", "resp", 10_000 * 10**6)]
