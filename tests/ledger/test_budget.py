"""Law: what is spent, what is held by calls in the air, and a call's worst case never exceed a budget together.

Whatever the concurrency: threads, processes, or both. The oracles are sums over the entries as they are read back, and
calendar windows made of datetime fields, which share no code with the integer arithmetic of the windows.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pricing import Budget, Cost, Entry, Ledger, Unpriced, Usd
from pricing.errors import ConfigError, OverBudget
from pricing.prices import PriceRow

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")
SPENDER = Path(__file__).with_name("spender.py")
LEASE_US = 3_600_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WINDOWS = ("total", "hour", "day", "month")


def priced(pico: int) -> Cost:
    """A cost of so many pico-dollars."""
    return Cost(Usd(pico), {"input": Usd(pico)}, ROW, "table")


def micros(instant: datetime) -> int:
    """An instant as the ledger's clock tells it, without a float."""
    return (instant - EPOCH) // timedelta(microseconds=1)


def window_of(now_us: int, window: str) -> tuple[int, ...]:
    """The calendar window of an instant, from its date."""
    instant = EPOCH + timedelta(microseconds=now_us)
    fields = (instant.year, instant.month, instant.day, instant.hour)
    return fields[: {"total": 0, "month": 2, "day": 3, "hour": 4}[window]]


def pend(
    ledger: Ledger, worst: int | None, *budgets: Budget, run: str | None = None, estimate: int | None = None
) -> int:
    return ledger.pend(
        model="m",
        endpoint="e",
        estimate=None if estimate is None else Usd(estimate),
        worst=None if worst is None else Usd(worst),
        run=run,
        budgets=budgets,
    )


def counted(entry: Entry) -> int:
    """What an entry takes of a budget: its cost, else the most it may have cost."""
    if entry.state == "voided":
        return 0
    if entry.cost is not None:
        return entry.cost.pico
    return entry.worst.pico if entry.worst is not None else 0


def numbers(ledger: Ledger, window: str = "total", run: str | None = None) -> tuple[int, int]:
    """What a budget says is spent and held."""
    found = ledger.counted(Budget(Usd(1), window, run), run=run)
    return found.spent.pico, found.held.pico


def everything(ledger: Ledger) -> list[Entry]:
    return list(ledger.entries())


def admitted(ledger: Ledger, worst: int, budget: Budget, run: str | None = None) -> int | None:
    """The id of a call that was let through, or None; a refusal's own numbers must show that there was no room."""
    try:
        return pend(ledger, worst, budget, run=run, estimate=worst // 2)
    except OverBudget as error:
        refused = error
    assert refused.spent + refused.held + Usd(worst) > budget.amount
    return None


@pytest.mark.parametrize("room", [0, 1, 5])
def test_eight_threads_get_exactly_the_room_there_is(
    shared: list[Ledger], at_once: Callable[..., Any], room: int
) -> None:
    """When the budget has room for five of eight calls made at once, five are sent and three are refused."""
    for number in range(100):
        run = f"round {number}"
        budget = Budget(Usd(10 * room + 9), run=run)
        answers = at_once(lambda i, budget=budget, run=run: admitted(shared[i], 10, budget, run=run))
        ids = [entry_id for entry_id in answers if entry_id is not None]
        assert len(ids) == len(set(ids)) == room
        assert sorted(ids) == [entry.id for entry in shared[0].entries(run=run)]


def test_eight_threads_never_overshoot(shared: list[Ledger], at_once: Callable[..., Any]) -> None:
    """While eight threads send, end and lose calls, everything on the books fits into the budget at every moment."""
    amount = 40_000
    budget = Budget(Usd(amount))

    def spend(number: int) -> int:
        ledger, chance, refusals = shared[number], random.Random(number), 0
        for step in range(60):
            worst = chance.randint(1, 400)
            entry_id = admitted(ledger, worst, budget)
            if entry_id is None:
                refusals += 1
                continue
            way = chance.randrange(8)
            if way == 0:
                ledger.void(entry_id, "not billed")
            elif way == 1:
                ledger.expire(entry_id, "nobody knows")
            elif way == 2:
                ledger.post(entry_id, usage=None, cost=Unpriced("no row"))
            elif way < 7:
                ledger.post(entry_id, usage=None, cost=priced(chance.randint(0, worst)))
            if step % 5 == 0:
                assert sum(numbers(ledger)) <= amount
        return refusals

    assert sum(at_once(spend)) > 0
    check_room(shared[0], budget)


def check_room(ledger: Ledger, budget: Budget) -> None:
    """What the budget says is spent and held is what the entries say, and the rest of it can be spent to the last."""
    entries = everything(ledger)
    pending = sum(counted(entry) for entry in entries if entry.state == "pending")
    ended = sum(counted(entry) for entry in entries if entry.state != "pending")
    assert numbers(ledger) == (ended, pending)
    room = budget.amount.pico - ended - pending
    assert room >= 0
    assert admitted(ledger, room + 1, budget) is None
    assert admitted(ledger, room, budget) is not None


def test_processes_share_one_budget(tmp_path: Path) -> None:
    """Five processes that create one new file together and spend from it never overshoot, and lose no entry."""
    path, amount, calls = tmp_path / "costs.db", 400_000, 400
    spenders = [
        subprocess.Popen(
            [sys.executable, SPENDER, path, str(seed), str(amount), str(calls)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for seed in range(5)
    ]
    try:
        for spender in spenders:
            assert spender.stdout is not None
            assert spender.stdout.readline() == b"ready\n"
        for spender in spenders:
            assert spender.stdin is not None
            spender.stdin.write(b"go\n")
            spender.stdin.flush()
        with Ledger(path) as ledger:
            while any(spender.poll() is None for spender in spenders):
                assert sum(numbers(ledger)) <= amount
            told = [json.loads(spender.communicate()[0]) for spender in spenders]
            assert [spender.returncode for spender in spenders] == [0] * 5
            assert sum(each["refused"] for each in told) > 0
            assert len(everything(ledger)) == sum(each["admitted"] for each in told)
            assert ledger.totals().posted == Usd(sum(each["posted"] for each in told))
            check_room(ledger, Budget(Usd(amount)))
    finally:
        for spender in spenders:
            spender.kill()
            spender.communicate()


edges = [
    datetime(2023, 12, 31, 23, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC),
    datetime(2024, 3, 1, tzinfo=UTC), datetime(2025, 3, 30, 1, tzinfo=UTC), datetime(2025, 10, 26, 1, tzinfo=UTC),
]  # fmt: skip
instants = st.builds(
    lambda edge, offset_us: micros(edge) + offset_us,
    st.sampled_from(edges),
    st.sampled_from([-3_600_000_000, -1, 0, 1, 1_799_999_999, 3_599_999_999, 3_600_000_000]),
)
budgets = st.builds(
    lambda *fields: Budget(*fields),
    st.integers(1, 60).map(Usd), st.sampled_from(WINDOWS), st.sampled_from([None, "a", "b"]),
)  # fmt: skip
calls = st.lists(
    st.tuples(
        instants,
        st.sampled_from([None, "a", "b"]),  # run
        st.none() | st.integers(0, 30),  # worst case; None has no price
        st.lists(budgets, max_size=3),
        st.sampled_from(["post", "void", "expire", "unpriced", "leave"]),
        st.integers(0, 30),  # real cost or estimate, cut to the worst case
    ),
    max_size=25,
)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@given(calls)
@settings(max_examples=150)
def test_a_call_is_sent_exactly_when_it_fits(
    tmp_path_factory: pytest.TempPathFactory, kind: str, moves: list[tuple[Any, ...]]
) -> None:
    """Per hour, day, month or in total, of one run or of all: a call is sent if and only if each budget has room."""
    now_us = 0
    path = tmp_path_factory.mktemp("ledger") / "costs.db" if kind == "sqlite" else None
    with Ledger(path, now_us=lambda: now_us) as ledger:
        history: list[dict[str, Any]] = []
        for now_us, run, worst, limits, way, amount in sorted(moves, key=lambda move: move[0]):
            amount = min(amount, worst or 0)
            fits = True
            for call in history if limits else ():
                if call["held"] and call["at"] < now_us - LEASE_US:  # given up: it may have cost its worst case
                    call["spent"], call["held"] = call["held"], 0
            for budget in limits:
                mine = [call for call in history if budget.run in (None, call["run"])]
                here = [
                    call for call in mine if window_of(call["at"], budget.window) == window_of(now_us, budget.window)
                ]
                spent, held = sum(call["spent"] for call in here), sum(call["held"] for call in mine)
                assert numbers(ledger, budget.window, budget.run) == (spent, held)
                if budget.run in (None, run):  # else the call is none of its business
                    fits = fits and worst is not None and spent + held + worst <= budget.amount.pico
            before = everything(ledger)
            if not fits:
                with pytest.raises(OverBudget):
                    pend(ledger, worst, *limits, run=run, estimate=amount)
                assert everything(ledger) == before
                continue
            entry_id = pend(ledger, worst, *limits, run=run, estimate=amount)
            call = {"at": now_us, "run": run, "held": worst or 0, "spent": 0}
            history.append(call)
            if way == "leave":
                continue
            call["held"] = 0
            if way == "void":
                ledger.void(entry_id, "")
            elif way == "expire":
                ledger.expire(entry_id, "")
                call["spent"] = worst if worst is not None else amount
            elif way == "unpriced":
                ledger.post(entry_id, usage=None, cost=Unpriced("no row"))
                call["spent"] = worst if worst is not None else amount
            else:
                ledger.post(entry_id, usage=None, cost=priced(amount))
                call["spent"] = amount


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)).map(lambda at: micros(at.replace(tzinfo=UTC))))
@example(micros(datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)))
@example(micros(datetime(2025, 1, 1, tzinfo=UTC)))
@example(0)
def test_a_window_begins_where_the_calendar_says(now_us: int) -> None:
    """The first microsecond of a window belongs to it, and the one before does not."""
    assert Budget(Usd(1)).start_us(now_us) == 0
    for window in WINDOWS[1:]:
        start_us = Budget(Usd(1), window).start_us(now_us)
        assert start_us <= now_us
        assert window_of(start_us, window) == window_of(now_us, window)
        assert start_us == 0 or window_of(start_us - 1, window) != window_of(now_us, window)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Pacific/Chatham", "America/New_York"])
@pytest.mark.parametrize(
    ("window", "last", "width"),
    [
        ("hour", "2025-10-26 00:59:59.999999", timedelta(hours=1)),
        ("day", "2024-02-29 23:59:59.999999", timedelta(days=1)),
        ("month", "2024-02-29 23:59:59.999999", timedelta(days=29)),
        ("month", "2025-12-31 23:59:59.999999", timedelta(days=31)),
    ],
)
def test_a_spent_budget_opens_again_at_the_next_window(
    ledger: Ledger, clock: Any, monkeypatch: pytest.MonkeyPatch, zone: str, window: str, last: str, width: timedelta
) -> None:
    """What the first instant of a window spent is gone until its last one, and back a microsecond later, in UTC."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        end_us = micros(datetime.fromisoformat(last + "+00:00"))
        budget = Budget(Usd(10), window)
        clock.now_us = end_us + 1 - micros(EPOCH + width)
        assert ledger.post(pend(ledger, 10, budget), usage=None, cost=priced(10))
        clock.now_us = end_us
        assert admitted(ledger, 1, budget) is None
        clock.now_us = end_us + 1
        assert admitted(ledger, 10, budget) is not None
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_call_counts_in_the_window_in_which_it_was_sent(ledger: Ledger, clock: Any) -> None:
    """A call in the air is held in every window until it ends, and is then spent in the window of its sending."""
    clock.now_us = micros(datetime(2025, 1, 31, 23, 59, 59, tzinfo=UTC))
    entry_id = pend(ledger, 10, Budget(Usd(10), "month"))
    clock.now_us += 2_000_000
    assert [numbers(ledger, window) for window in WINDOWS] == [(0, 10)] * 4
    ledger.post(entry_id, usage=None, cost=priced(7))
    assert [numbers(ledger, window) for window in WINDOWS] == [(7, 0), (0, 0), (0, 0), (0, 0)]


def test_a_run_s_budget_counts_its_own_calls(ledger: Ledger) -> None:
    """A run spends and holds nothing of another run's budget; a budget without a run counts them all."""
    for run, cost, held in (("a", 1, 10), ("b", 2, 20), (None, 4, 40)):
        ledger.post(pend(ledger, 9, run=run), usage=None, cost=priced(cost))
        pend(ledger, held, run=run)
    assert [numbers(ledger, run=run) for run in ("a", "b", "c", None)] == [(1, 10), (2, 20), (0, 0), (7, 70)]


def test_an_unpriced_call_is_refused_under_a_budget(ledger: Ledger) -> None:
    """A call without a worst case could cost anything: under a budget it is not sent, and no entry is written."""
    with pytest.raises(OverBudget, match="no price") as refused:
        pend(ledger, None, Budget(Usd(10**18)))
    assert refused.value.budget == Budget(Usd(10**18))
    assert everything(ledger) == []
    assert pend(ledger, None) == everything(ledger)[0].id


def test_a_refusal_by_any_budget_writes_nothing(ledger: Ledger) -> None:
    """With several budgets, the one that has no room is named with its numbers, and the others have counted nothing."""
    large, small = Budget(Usd(1_000), "day"), Budget(Usd(10), "total", "a")
    ledger.post(pend(ledger, 4, large, small, run="a"), usage=None, cost=priced(3))
    pend(ledger, 5, large, small, run="a")
    before, totals = everything(ledger), ledger.totals()
    for order in ([large, small], [small, large]):
        with pytest.raises(OverBudget) as refused:
            pend(ledger, 3, *order, run="a")
        error = refused.value
        assert (error.budget, error.spent, error.held, error.estimate) == (small, Usd(3), Usd(5), Usd(3))
        assert str(small) in str(error)
    assert everything(ledger) == before
    assert ledger.totals() == totals
    assert pend(ledger, 2, large, small, run="a") == before[-1].id + 1


def test_a_call_that_turns_out_unpriced_counts_at_its_worst(ledger: Ledger) -> None:
    """Under a budget a posted call without a price is never $0: it counts as the most it can have cost."""
    ledger.post(pend(ledger, 9, estimate=4), usage=None, cost=Unpriced("the served model has no row"))
    ledger.post(pend(ledger, 9, estimate=4), usage=None, cost=None)
    assert numbers(ledger) == (18, 0)
    assert (ledger.totals().unpriced_count, ledger.totals().posted) == (2, Usd(0))


def test_an_expired_call_counts_at_its_worst_until_its_cost_is_known(ledger: Ledger, clock: Any) -> None:
    """What nobody knows takes its worst case from a budget, in its own window, and gives back what it did not cost."""
    entry_id = pend(ledger, 9, estimate=4)
    assert ledger.expire(entry_id, "timeout", "r")
    assert (numbers(ledger), ledger.totals().expired_estimate) == ((9, 0), Usd(4))
    clock.now_us += 24 * 3_600_000_000
    assert ledger.post_response("r", endpoint="e", usage=None, cost=priced(3), model="m")
    assert (numbers(ledger), numbers(ledger, "day"), ledger.totals().expired_count) == ((3, 0), (0, 0), 0)
    ledger.expire(pend(ledger, None, estimate=4), "timeout")
    assert numbers(ledger, "day") == (4, 0)


@pytest.mark.parametrize(
    ("text", "amount", "window"),
    [
        ("25 USD/day", "25", "day"), ("$5", "5", "total"), ("100 USD per month", "100", "month"), ("5", "5", "total"),
        ("  0.000000000001 usd / HOUR ", "0.000000000001", "hour"), ("1_000$", "1000", "total"),
        ("$1,234.50/day", "1234.5", "day"), ("1 dollar", "1", "total"), ("2 dollars per hour", "2", "hour"),
        (7, "7", "total"), ("3 per total", "3", "total"),
    ],
)  # fmt: skip
def test_budgets_are_read_as_people_write_them(text: str | int, amount: str, window: str) -> None:
    """The ways to write a budget name one amount and one window, and what is printed is read back."""
    budget = Budget.parse(text, run="r")
    assert (budget.amount.decimal(), budget.window, budget.run) == (Decimal(amount), window, "r")
    assert Budget.parse(str(budget), run="r") == budget


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is written like"), ("five USD", "is written like"), ("-5 USD", "like"), ("5 EUR", "like"),
        ("5 USD/day/hour", "is written like"), ("5 USD/", "is written like"), ("1e3", "is written like"),
        ("5 USD/year", "'year'"), ("5 per fortnight", "hour, day, week, month"), ("0", "more than nothing"),
        ("0.00 USD/day", "more than nothing"), (0, "more than nothing"), ("2,50 USD", "'2,50'"), ("1.2.3", "'1.2.3'"),
        ("...", "'...'"), ("_", "not an amount"), ("0.0000000000001", "more than 12 decimals"),
        ("9999999999999999 USD", "not an amount"), (True, "is written like"), (None, "is written like"),
    ],
)  # fmt: skip
def test_what_is_no_budget_is_refused(text: Any, says: str) -> None:
    """A budget that cannot be meant is an error that says how to write one, or which part is wrong."""
    with pytest.raises(ConfigError) as caught:
        Budget.parse(text)
    assert says in str(caught.value)


words = st.sampled_from(
    [" ", "$", "1", "0", ".", ",", "_", "USD", "dollars", "/", "per", "day", "month", "٣", "-", "\n"]
)


@given(st.text() | st.integers() | st.lists(words, max_size=12).map("".join) | st.binary() | st.decimals() | st.none())
@settings(max_examples=500)
def test_reading_a_budget_raises_only_what_it_says(text: Any) -> None:
    """Whatever is given, the answer is a budget of a positive amount, or ConfigError, or TypeError."""
    try:
        budget = Budget.parse(text)
    except (ConfigError, TypeError):
        return
    assert budget.amount > Usd(0)
    assert budget.window in WINDOWS
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize("number", [0.1, 1.0, float("nan")])
def test_a_float_is_no_budget(number: Any) -> None:
    """Floats stop at the door: 0.1 is not a tenth."""
    with pytest.raises(TypeError, match="write it as text"):
        Budget.parse(number)


def test_a_number_beyond_all_money_is_no_budget() -> None:
    """An absurd number is one clear error, not a traceback out of the conversion of its digits."""
    with pytest.raises(ConfigError, match="amount of dollars"):
        Budget.parse(10**5000)
    with pytest.raises(ConfigError, match="amount of dollars"):
        Usd.parse(-(10**5000))


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_ledger_without_a_name_is_refused(path: str) -> None:
    """An unset variable must not open a ledger that is thrown away when it is closed."""
    with pytest.raises(ConfigError, match="name of a file"):
        Ledger(path)


def test_a_budget_of_no_run_counts_the_whole_ledger(ledger: Ledger) -> None:
    """`run=""` and `run=None` are the same budget in both books."""
    pend(ledger, 7)
    assert numbers(ledger, run="") == numbers(ledger, run=None) == (0, 7)
