"""Law: a batch costs what its lines used, at the batch price, once: however often, in whatever order and parts it is
booked and settled, and whatever is killed in between. The oracle multiplies by prices of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pricing
from pricing import Budget, Ledger, Usd, batches
from pricing.batches import book, settle
from pricing.cost import cost
from pricing.errors import ConfigError, LedgerError, OverBudget

PICO_IN, PICO_OUT = 75_000, 300_000
"""gpt-4o-mini in the Batch API: $0.075 and $0.30 per million tokens."""
START_US, HOUR_US = 1_790_000_000_000_000, 3_600_000_000
UNKNOWN = "the reply carried no usage that can be read; counted at its estimate"
SETTLER = Path(__file__).with_name("batch_settler.py")


def asked(n: int, model: str = "gpt-4o-mini") -> dict[str, Any]:
    """Line n of a batch's input file."""
    body = {"model": model, "messages": [{"role": "user", "content": "a secret"}], "max_completion_tokens": 100}
    return {"custom_id": f"line {n}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def served(n: int, model: str = "gpt-4o-mini-2024-07-18", **body: Any) -> dict[str, Any]:
    """Line n of its output file, which used 1,000 + n tokens and wrote n."""
    usage = {"prompt_tokens": 1_000 + n, "completion_tokens": n, "total_tokens": 1_000 + 2 * n}
    whole = {"id": f"chatcmpl-{n}", "model": model, "usage": usage, "choices": ["a secret"], **body}
    response = {"status_code": 200, "request_id": f"req {n}", "body": whole}
    return {"id": f"batch_req_{n}", "custom_id": f"line {n}", "response": response, "error": None}


def failed(n: int) -> dict[str, Any]:
    """Line n of its error file."""
    error = {"code": "batch_expired", "message": "a secret"}
    return {"id": f"batch_req_{n}", "custom_id": f"line {n}", "response": None, "error": error}


def pico(numbers: Any) -> int:
    """What these lines cost."""
    return sum((1_000 + n) * PICO_IN + n * PICO_OUT for n in set(numbers))


def states(ledger: Ledger) -> dict[str, str]:
    """The last state of each line."""
    return {str(entry.custom_id): entry.state for entry in ledger.entries()}


class Crash(Exception):
    """What ends a program in the middle of a file."""


def crashing(lines: list[Any], after: int) -> Iterator[Any]:
    """These lines, until one cannot be read any more."""
    yield from lines[:after]
    raise Crash


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["book", "settle", "crash", "reopen"]),
        st.lists(st.integers(0, 9), max_size=8),
        st.integers(0, 8),
    ),
    max_size=12,
)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@settings(max_examples=60)
@given(steps=STEPS, lost=st.sets(st.integers(0, 9)))
def test_a_batch_costs_its_lines_once(
    kind: str, steps: list[Any], lost: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Bookings, partial settlements, repetitions and crashes in any order end at the same sum, and hold the rest."""
    path = tmp_path_factory.mktemp("law") / "costs.db" if kind == "sqlite" else None
    ledger = Ledger(path, now_us=lambda: START_US)
    everything = Budget(Usd(10**18))
    booked: set[int] = set()
    told: set[int] = set()
    for step, numbers, after in [*steps, ("book", list(range(10)), 0), ("settle", list(range(10)), 0)]:
        lines = [failed(n) if n in lost else served(n) for n in numbers]
        if step == "book":
            book(ledger, map(asked, sorted(set(numbers))), batch_id="b", budgets=[everything])
            booked |= set(numbers)
        elif step == "settle":
            settle(ledger, "b", lines)
            told |= set(numbers)
        elif step == "crash":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(batches, "CHUNK", 1)
                with pytest.raises(Crash):
                    settle(ledger, "b", crashing(lines, after))
            told |= set(numbers[:after])
        elif path is not None:
            ledger.close()
            ledger = Ledger(path, now_us=lambda: START_US)
        entries = list(ledger.entries())
        assert ledger.totals().posted == Usd(pico(told - lost))
        held = sum(entry.worst.pico for entry in entries if entry.state == "pending" and entry.worst)
        assert {f"line {n}" for n in booked - told} <= {e.custom_id for e in entries if e.state == "pending"}
        assert ledger.counted(everything)[2:] == (Usd(pico(told - lost)), Usd(held))
    assert "pending" not in states(ledger).values()
    assert ledger.totals().posted_count == len(told - lost)
    ledger.close()


def test_booking_twice_changes_nothing(ledger: Ledger, clock: Any) -> None:
    """The second booking, also of a batch that has been settled, writes no entry; another batch's ids are others."""
    first = book(ledger, map(asked, range(3)), batch_id="b")
    before = list(ledger.entries())
    clock.now_us += HOUR_US
    assert book(ledger, map(asked, range(3)), batch_id="b")[:2] == (3, 0)
    assert list(ledger.entries()) == before
    settle(ledger, "b", map(served, range(3)))
    assert book(ledger, map(asked, range(4)), batch_id="b")[:2] == (4, 1)
    assert (first.booked, book(ledger, map(asked, range(3)), batch_id="other").booked) == (3, 3)


def test_a_booking_says_what_is_known(ledger: Ledger) -> None:
    """Batch, tier, tags, expected tokens, and estimates at half of the standard price; nothing of a prompt."""
    with pricing.tags(team="search"):
        done = book(ledger, [asked(0)], batch_id="b", tags={"team": "ads", "feature": "x"})
    (entry,) = ledger.entries()
    assert (entry.batch, entry.run, entry.custom_id, entry.asked_tier) == (True, "b", "line 0", "batch")
    assert entry.tags == {"team": "search", "feature": "x"}
    assert entry.worst == done.worst == Usd(entry.expected["input_tokens"] * PICO_IN + 100 * PICO_OUT)
    assert entry.estimate == done.estimate


@pytest.mark.parametrize(
    ("line", "state", "why"),
    [
        (served(1), "posted", ""),
        (failed(1), "voided", "batch_expired: not billed"),
        ({**failed(1), "error": {"code": "a secret", "message": 1}}, "voided", "failed: not billed"),
        (
            {
                "custom_id": "line 1",
                "response": {"status_code": 400, "body": {"error": {"code": "bad"}}},
                "error": None,
            },
            "voided",
            "HTTP 400 bad: not billed",
        ),
        ({"custom_id": "line 1", "response": {"status_code": 500, "body": None}}, "voided", "HTTP 500: not billed"),
        (served(1, usage=None), "expired", UNKNOWN),
        (served(1, usage={"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}), "expired", UNKNOWN),
        ({"custom_id": "line 1", "response": {"status_code": "400"}}, "expired", UNKNOWN),
        (served(1, status="failed"), "posted", ""),
        (served(1, model="nobody-priced-this"), "posted", "no price row for 'nobody-priced-this'"),
    ],
)
def test_a_line_ends_as_its_reply_says(ledger: Ledger, line: dict[str, Any], state: str, why: str) -> None:
    """A usage is billed, a failure without one is not, and what nobody knows counts at its estimate."""
    book(ledger, [asked(1)], batch_id="b")
    settle(ledger, "b", [line])
    (entry,) = ledger.entries()
    assert (entry.state, entry.why) == (state, why)
    assert (entry.cost is None) is (state != "posted" or "price" in why)
    if state == "posted" and not why:
        assert (entry.cost, entry.model, entry.service_tier) == (Usd(pico([1])), "gpt-4o-mini-2024-07-18", "batch")
        assert (entry.response_id, entry.request_id, entry.exact) == ("chatcmpl-1", "req 1", True)


def test_late_news_replace_what_nobody_knew(ledger: Ledger) -> None:
    """A line served without a usage, or voided, is billed once its usage is told, and never voided after that."""
    book(ledger, map(asked, range(2)), batch_id="b")
    settle(ledger, "b", [served(0, usage=None), failed(1)])
    for _ in range(2):
        assert settle(ledger, "b", [served(0), served(1)], [failed(0), failed(1)]).totals.posted == Usd(pico([0, 1]))
    assert [entry.state for entry in ledger.entries()] == ["posted", "voided", "posted"]


def test_a_batch_is_priced_on_the_day_of_its_booking(ledger: Ledger) -> None:
    """A settlement on any later day finds the price of the day on which the batch was submitted."""
    book(ledger, [asked(1, "o3")], batch_id="b", at=date(2025, 6, 1))
    book(ledger, [asked(1, "o3")], batch_id="c", at=datetime(2025, 7, 1, 12, tzinfo=UTC))
    for batch_id in ("b", "c"):
        settle(ledger, batch_id, [served(1, "o3", id=batch_id)])
    rows = [entry.row_id for entry in ledger.entries()]
    days = [cost({"input_tokens": 1}, model="o3", batch=True, at=date(2025, month, 1)) for month in (6, 7)]
    assert rows == [getattr(day, "row_id", None) for day in days]


def test_a_line_without_a_booking_is_posted_and_named(ledger: Ledger, clock: Any) -> None:
    """Its cost is real: it counts on the day that its reply states, says why, and a later booking adds nothing."""
    day_us = clock.now_us - 10 * 24 * HOUR_US
    lines = [served(1, created=day_us // 1_000_000), failed(2), served(3, usage=None)]
    assert settle(ledger, "b", lines).unbooked == ("line 1", "line 2", "line 3")
    assert settle(ledger, "b", lines).posted == 0
    first, third = ledger.entries()
    assert (first.cost, first.created_us, first.why) == (Usd(pico([1])), day_us, batches.UNBOOKED)
    assert (third.custom_id, third.state) == ("line 3", "expired")
    assert book(ledger, [asked(1)], batch_id="b").booked == 0


def test_lines_that_tell_nothing_are_named_and_the_others_settled(ledger: Ledger) -> None:
    """A torn or foreign line hides no other, and leaves its own request pending."""
    book(ledger, map(asked, range(2)), batch_id="b")
    done = settle(ledger, "b", [None, {"custom_id": "line 1"}, {"response": {}}, served(0)], ["text"])
    assert [(one.file, one.position) for one in done.refused] == [
        ("output", 1), ("output", 2), ("output", 3), ("errors", 1)
    ]  # fmt: skip
    assert states(ledger) == {"line 0": "posted", "line 1": "pending"}
    assert (done.totals.pending_count, done.posted) == (1, 1)


def test_a_response_is_one_bill_whoever_brings_it(ledger: Ledger) -> None:
    """A poll of a response that a batch has made finds it billed."""
    book(ledger, [asked(1)], batch_id="b")
    settle(ledger, "b", [served(1)])
    price = cost({"input_tokens": 1}, model="o3")
    assert not ledger.post_response("chatcmpl-1", endpoint="e", usage=None, cost=price, model="o3")
    assert ledger.totals().posted == Usd(pico([1]))


def test_the_lease_of_a_batch_outlasts_its_day(tmp_path: Path, clock: Any) -> None:
    """Other processes with the lease of calls leave it alone for a day and more; then it counts its worst case once."""
    hold = Budget(Usd(10**15), "day")
    for path in (None, tmp_path / "costs.db"):
        clock.now_us = START_US
        with Ledger(path, now_us=clock) as ledger:
            done = book(ledger, map(asked, range(3)), batch_id="b")
            call = ledger.pend(model="m", endpoint="e", estimate=Usd(1), worst=Usd(1))
            for hours in (2, 25, 48):
                clock.now_us = START_US + hours * HOUR_US
                other = ledger if path is None else Ledger(path, now_us=clock, lease_s=60)
                other.pend(model="m", endpoint="e", estimate=Usd(1), worst=Usd(1), budgets=[hold])
                assert sum(e.state == "pending" for e in ledger.entries() if e.batch) == 3
                assert next(e.state for e in ledger.entries() if e.id == call) == "expired"
                assert ledger.counted(hold).held.pico in range(done.worst.pico, done.worst.pico + 2)
            clock.now_us = START_US + 50 * HOUR_US
            everything = Budget(Usd(10**15))
            assert ledger.counted(everything).spent.pico in range(done.worst.pico, done.worst.pico + 5)
            assert settle(ledger, "b", map(served, range(3))).totals.posted == Usd(pico(range(3)))
            assert ledger.counted(everything).spent.pico in range(pico(range(3)), pico(range(3)) + 5)


def test_a_budget_takes_a_batch_whole_or_not_at_all(ledger: Ledger) -> None:
    """What does not fit is booked in no part; what fits is held, so that another call finds no room beside it."""
    worst = book(Ledger(), map(asked, range(10)), batch_id="b").worst
    tight = Budget(Usd(worst.pico - 1))
    with pytest.raises(OverBudget, match=r"batch b \(10 lines\) is not booked: budget"):
        book(ledger, map(asked, range(10)), batch_id="b", budgets=[tight])
    assert list(ledger.entries()) == []
    enough = Budget(worst)
    assert book(ledger, map(asked, range(10)), batch_id="b", budgets=[enough]).booked == 10
    assert book(ledger, map(asked, range(10)), batch_id="b", budgets=[enough]).booked == 0
    with pytest.raises(OverBudget):
        ledger.pend(model="m", endpoint="e", estimate=Usd(1), worst=Usd(1), budgets=[enough])
    settle(ledger, "b", [], map(failed, range(10)))
    ledger.pend(model="m", endpoint="e", estimate=Usd(1), worst=worst, budgets=[enough])


def test_budgets_of_parts_of_a_ledger_see_a_batch(ledger: Ledger) -> None:
    """A call's cap is for each line, a tag's for the batch that has it; a line without a price is refused under one."""
    one = book(Ledger(), [asked(0)], batch_id="b").worst
    book(ledger, map(asked, range(3)), batch_id="b", budgets=[Budget(one, "call")])
    with pytest.raises(OverBudget):
        book(ledger, map(asked, range(3)), batch_id="c", budgets=[Budget(Usd(one.pico - 1), "call")])
    team = Budget(Usd(one.pico * 3), tag="team=x")
    assert book(ledger, map(asked, range(3)), batch_id="d", budgets=[team], tags={"team": "y"}).booked == 3
    assert book(ledger, map(asked, range(3)), batch_id="e", budgets=[team], tags={"team": "x"}).booked == 3
    with pytest.raises(OverBudget, match="no price"):
        book(ledger, [asked(0), asked(1, "nobody")], batch_id="f", budgets=[Budget(Usd(10**18))])
    allowed = Budget(Usd(10**18), unpriced="allow")
    assert book(ledger, [asked(0), asked(1, "nobody")], batch_id="f", budgets=[allowed])[1:3] == (2, 1)


def test_a_batch_tells_of_thresholds_as_its_lines_end(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each threshold is told once, by the lines that reach it, and not by the others."""
    monkeypatch.setattr(batches, "CHUNK", 1)
    told: list[tuple[int, int]] = []
    seen = 0
    budget = Budget(
        Usd(pico(range(4)) * 100), thresholds=(1,), on_threshold=lambda one: told.append((one.percent, seen))
    )
    book(ledger, map(asked, range(4)), batch_id="b", budgets=[budget])
    for seen in range(4):
        settle(ledger, "b", [served(seen)])
    assert told == [(1, 3)]


def test_racing_bookings_and_settlements_bill_once(shared: list[Ledger], at_once: Any) -> None:
    """Eight threads, or as many connections, do all of it at the same time."""
    done = at_once(lambda n: book(shared[n], map(asked, range(40)), batch_id="b").booked)
    assert sum(done) == 40
    settled = at_once(lambda n: settle(shared[n], "b", [served((n * 5 + i) % 40) for i in range(40)]).posted)
    assert sum(settled) == 40
    assert shared[0].totals().posted == Usd(pico(range(40)))


def test_a_batch_s_own_usage_is_compared(ledger: Ledger) -> None:
    """Nothing is said when it is the sum of the lines; what differs is named with both numbers."""
    book(ledger, map(asked, range(3)), batch_id="b")
    usage = {"input_tokens": 3_003, "output_tokens": 3, "total_tokens": 3_006}
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 2}}
    assert settle(ledger, "b", map(served, range(3)), usage=usage).mismatches == ()
    found = settle(ledger, "b", [], usage={**usage, **details, "input_tokens": 3_004}).mismatches
    assert found == (("input_tokens", 3_003, 3_004), ("reasoning_tokens", 0, 2))
    with pytest.raises(ConfigError, match="no token counts"):
        settle(ledger, "b", [], usage={})


@pytest.mark.parametrize(
    "line", [{}, {**asked(0), "body": None}, {**asked(0), "custom_id": ""}, {**asked(0), "body": {}}, asked(1)]
)
def test_a_batch_with_a_bad_line_is_not_booked(ledger: Ledger, line: dict[str, Any]) -> None:
    """The line is named, and no other is written."""
    with pytest.raises(ConfigError, match="line 2"):
        book(ledger, [asked(1), line], batch_id="b")
    with pytest.raises(ConfigError, match="batch_id"):
        book(ledger, [], batch_id="")
    assert list(ledger.entries()) == []


def test_odd_ids_are_found_again(ledger: Ledger) -> None:
    """Half of a character, a NUL or a quote in an id makes no second bill."""
    for name in ("\ud800", "a\0b", "'\"", "é" * 500):
        lines = [{**asked(0), "custom_id": name}], [{**served(0, id=None), "custom_id": name}]
        for _ in range(2):
            book(ledger, lines[0], batch_id="b\ud800")
            assert settle(ledger, "b\ud800", lines[1]).unbooked == ()
    assert ledger.totals().posted == Usd(4 * pico([0]))


def test_the_file_holds_no_secret(tmp_path: Path, clock: Any) -> None:
    """No prompt, reply or error message of a batch reaches the file."""
    with Ledger(tmp_path / "costs.db", now_us=clock) as ledger:
        book(ledger, map(asked, range(3)), batch_id="b")
        settle(ledger, "b", [served(0), served(1, usage=None)], [failed(2)])
    assert all(b"secret" not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_killed_settlement_is_finished_by_the_next(tmp_path: Path) -> None:
    """Processes are killed in the middle of booking and settling; what is there is whole, and another run ends it."""
    path, count = tmp_path / "costs.db", 400
    finished = 0
    for attempt in range(12):
        child = subprocess.Popen([sys.executable, SETTLER, path, str(count)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        for _ in range(1 + max(0, attempt - 4) * 9):  # the first ones die in the middle of booking
            if not child.stdout.readline():
                break
        child.kill()
        finished += child.wait() == 0
        child.stdout.close()
        with Ledger(path) as ledger:
            entries = list(ledger.entries())
            assert len(entries) in (0, count), "a batch is booked whole"
            posted = [int(str(entry.custom_id)[5:]) for entry in entries if entry.state == "posted"]
            assert ledger.totals().posted == Usd(pico(posted))
    with Ledger(path) as ledger:
        book(ledger, map(asked, range(count)), batch_id="b")
        totals = settle(ledger, "b", map(served, range(count))).totals
        assert (totals.posted, totals.posted_count) == (Usd(pico(range(count))), count)
    assert finished < 12, "somebody was killed in the middle"


def test_an_absurd_estimate_books_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """An amount that no column holds is refused before any line is written, as for a call."""
    line = asked(0)
    line["body"] = {**line["body"], "model": "o3", "max_completion_tokens": 10**9, "n": 10**9}
    with pytest.raises(LedgerError, match=r"9\.2 million"):
        book(ledger, [asked(1), line], batch_id="b")
    assert list(ledger.entries()) == []
