"""Law: a threshold of a budget is told once per window, whoever reaches it, and whatever telling it does stops no call.

And: what a budget does about a call that does not fit, or has no price, is what it says.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest

import ratelimit
from pricing import Budget, Cost, Ledger, Usd
from pricing.budget import Alert
from pricing.budget_file import load_budgets, read_budgets
from pricing.errors import ConfigError, OverBudget, TableError
from pricing.prices import PriceRow
from ratelimit.context import CURRENT, CallContext, deadline

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")
HOUR_US = 3_600_000_000


def spend(ledger: Ledger, budget: Budget, dollars: int, worst: int | None = None, **given: Any) -> int:
    """One call, from its hold to its bill."""
    amount = Usd(dollars * 10**12)
    most = Usd((dollars if worst is None else worst) * 10**12)
    entry_id = ledger.pend(model="m", endpoint="e", estimate=amount, worst=most, budgets=[budget], **given)
    ledger.post(entry_id, usage=None, cost=Cost(amount, {"input": amount}, ROW, "table"))
    return entry_id


@pytest.fixture
def told() -> list[Alert]:
    return []


def test_each_threshold_is_told_once_per_window(ledger: Ledger, clock: Any, told: list[Alert]) -> None:
    """Half, 80 % and all of a day's budget are told as they are reached, and again on the next day."""
    budget = Budget.parse("10 USD/day")._replace(on_threshold=told.append)
    clock.now_us -= clock.now_us % (24 * HOUR_US)
    for _ in range(2):
        told.clear()
        for expected in ([], [], [], [50], [50, 80], [50, 80, 100]):
            assert [alert.percent for alert in told] == expected
            if expected != [50, 80, 100]:
                spend(ledger, budget, 2)
        with pytest.raises(OverBudget):
            spend(ledger, budget, 1)
        assert [(alert.percent, alert.spent) for alert in told] == [
            (50, Usd.parse(6)), (80, Usd.parse(8)), (100, Usd.parse(10))
        ]  # fmt: skip
        clock.now_us += 24 * HOUR_US


def test_a_budget_without_room_tells_that_it_is_full(ledger: Ledger, told: list[Alert]) -> None:
    """The first call that is refused tells every threshold, for a hold that is never spent may keep it there."""
    budget = Budget.parse("10 USD/day")._replace(on_threshold=told.append)
    ledger.pend(model="m", endpoint="e", estimate=None, worst=Usd.parse(8), budgets=[budget])
    assert told == []
    for _ in range(3):
        with pytest.raises(OverBudget):
            spend(ledger, budget, 5)
    assert [(alert.percent, alert.spent, alert.held) for alert in told] == [
        (percent, Usd.ZERO, Usd.parse(8)) for percent in (50, 80, 100)
    ]


def test_a_first_call_too_large_tells_nothing(ledger: Ledger, told: list[Alert]) -> None:
    """A call that could cost more than the whole budget is refused; of that budget nothing is reached by it."""
    budget = Budget.parse("10 USD/day")._replace(on_threshold=told.append)
    with pytest.raises(OverBudget):
        spend(ledger, budget, 11)
    assert told == []
    spend(ledger, budget, 6)
    with pytest.raises(OverBudget):
        spend(ledger, budget, 11)
    assert [alert.percent for alert in told] == [50]


@pytest.mark.parametrize("other", ["10 USD/day warn", "10 USD/day slow", "10 USD/day unpriced:allow", "9.99 USD/day"])
def test_budgets_of_one_window_have_marks_of_their_own(ledger: Ledger, clock: Any, other: str) -> None:
    """Two budgets of one part and window that differ in amount or action each tell their own 50, 80 and 100."""
    clock.now_us -= clock.now_us % (24 * HOUR_US) - 23 * HOUR_US
    heard: dict[str, list[int]] = {"10 USD/day": [], other: []}
    budgets = [
        Budget.parse(text)._replace(on_threshold=lambda one, to=to: to.append(one.percent))
        for text, to in heard.items()
    ]
    for _ in range(3):
        entry = ledger.pend(model="m", endpoint="e", estimate=None, worst=Usd.parse(3), budgets=budgets)
        amount = Usd.parse(3)
        ledger.post(entry, usage=None, cost=Cost(amount, {"input": amount}, ROW, "table"))
    assert list(heard.values()) == [[50, 80], [50, 80]]


def test_processes_and_restarts_tell_it_once(tmp_path: Path, clock: Any, told: list[Alert]) -> None:
    """What one ledger on a file has told, no other on it tells again."""
    budget = Budget.parse("10 USD/day")._replace(on_threshold=told.append)
    for _ in range(3):
        with Ledger(tmp_path / "costs.db", now_us=clock) as one, Ledger(tmp_path / "costs.db", now_us=clock) as two:
            spend(one, budget, 1)
            spend(two, budget, 1)
    assert [alert.percent for alert in told] == [50]


def test_threads_tell_it_once(shared: list[Ledger], at_once: Callable[..., Any], told: list[Alert]) -> None:
    """Eight threads that reach a threshold together tell it once."""
    budget = Budget.parse("16 USD/day")._replace(on_threshold=told.append)
    at_once(lambda i: spend(shared[i], budget, 2))
    assert sorted(alert.percent for alert in told) == [50, 80, 100]


def test_a_rolling_window_tells_again_after_its_length(ledger: Ledger, clock: Any, told: list[Alert]) -> None:
    """A rolling hour that stays full tells its thresholds once an hour."""
    budget = Budget.parse("10 USD/hour rolling warn")._replace(on_threshold=told.append)
    for _ in range(5):
        spend(ledger, budget, 10)
        clock.now_us += HOUR_US // 2
    assert [alert.percent for alert in told] == [50, 80, 100] * 3


def test_parts_are_told_apart(ledger: Ledger, told: list[Alert]) -> None:
    """Each team has thresholds of its own, and the alert names it."""
    budget = Budget.parse("10 USD/day tag:team alert:50")._replace(on_threshold=told.append)
    for team in ("a", "b", "a"):
        spend(ledger, budget, 5, tags={"team": team})
    assert [(alert.part, alert.percent) for alert in told] == [("a", 50), ("b", 50)]


def test_a_poll_that_brings_the_bill_tells_too(ledger: Ledger, told: list[Alert]) -> None:
    """A response in the background is billed by whoever polls it, and its budget hears of it then."""
    budget = Budget.parse("10 USD/day alert:50")._replace(on_threshold=told.append)
    entry_id = ledger.pend(model="m", endpoint="e", estimate=None, worst=Usd.parse(9), budgets=[budget])
    ledger.attach(entry_id, "r")
    cost = Cost(Usd.parse(6), {"input": Usd.parse(6)}, ROW, "table")
    assert ledger.post_response("r", endpoint="e", usage=None, cost=cost, model="m")
    assert [alert.percent for alert in told] == [50]


def test_what_telling_does_stops_no_call(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """A callback that fails is logged, and so is each threshold, with its numbers."""

    def broken(alert: Alert) -> None:
        raise RuntimeError("the pager is down")

    spend(ledger, Budget.parse("10 USD/day alert:50")._replace(on_threshold=broken), 6)
    messages = [record.getMessage() for record in caplog.records if record.name == "pricing.budget"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]
    assert "50 % reached, $6.00 spent" in messages[0]
    assert next(ledger.entries()).state == "posted"


def test_a_span_that_is_open_gets_an_event(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenTelemetry is installed, the threshold is an event of the current span."""
    events: list[tuple[str, dict[str, Any]]] = []
    span = SimpleNamespace(add_event=lambda name, attributes: events.append((name, attributes)))
    monkeypatch.setitem(sys.modules, "opentelemetry", ModuleType("opentelemetry"))
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", SimpleNamespace(get_current_span=lambda: span))
    spend(ledger, Budget.parse("10 USD/day alert:50"), 6)
    ((name, facts),) = events
    assert name == "pricing.budget.threshold"
    assert (facts["percent"], facts["spent_usd"]) == (50, "6")


def test_a_refusal_leaves_a_tag_s_budget_counting(ledger: Ledger) -> None:
    """When the first call that a tag's budget ever judges is refused, the later ones are counted all the same."""
    before = Budget.parse("100 USD/day")
    spend(ledger, before, 3, tags={"team": "a"})
    budget = Budget.parse("10 USD/day tag:team")
    with pytest.raises(OverBudget):
        spend(ledger, budget, 8, tags={"team": "a"})
    spend(ledger, budget, 4, tags={"team": "a"})
    with pytest.raises(OverBudget):
        spend(ledger, budget, 4, tags={"team": "a"})
    assert ledger.counted(budget, tags={"team": "a"}).spent == Usd.parse(7)


def test_warn_lets_everything_pass(ledger: Ledger, told: list[Alert]) -> None:
    """A budget that only warns refuses neither what overshoots nor what has no price."""
    budget = Budget.parse("1 USD/day warn")._replace(on_threshold=told.append)
    for _ in range(3):
        spend(ledger, budget, 5)
    ledger.pend(model="m", endpoint="e", estimate=None, budgets=[budget])
    assert [alert.percent for alert in told] == [50, 80, 100]


def test_an_unpriced_call_passes_where_that_is_allowed(ledger: Ledger) -> None:
    """unpriced:allow lets a call without a price through; every other call is still bound."""
    budget = Budget.parse("1 USD/day unpriced:allow")
    ledger.pend(model="m", endpoint="e", estimate=None, budgets=[budget])
    with pytest.raises(OverBudget):
        spend(ledger, budget, 5)


def test_a_slow_budget_opens_evenly(ledger: Ledger, clock: Any) -> None:
    """Half at once; then, after 60 % of the day, 60 % of the amount; and the refusal says when."""
    budget = Budget.parse("10 USD/day slow")
    clock.now_us -= clock.now_us % (24 * HOUR_US)
    for _ in range(5):
        spend(ledger, budget, 1)
    for hour, spent in ((14.4, 6), (16.8, 7), (19.2, 8)):
        with pytest.raises(OverBudget) as refused:
            spend(ledger, budget, 1)
        assert refused.value.retry_after_us is not None
        clock.now_us += refused.value.retry_after_us - 1
        with pytest.raises(OverBudget):
            spend(ledger, budget, 1)
        clock.now_us += 1
        assert clock.now_us % (24 * HOUR_US) == round(hour * HOUR_US)
        spend(ledger, budget, 1)
        assert ledger.counted(budget).spent == Usd.parse(spent)
    with pytest.raises(OverBudget) as never:
        spend(ledger, budget, 10)
    assert never.value.retry_after_us is None


def test_a_call_under_a_slow_budget_waits_and_is_sent(monkeypatch: pytest.MonkeyPatch, clock: Any) -> None:
    """Through the transport nothing is refused: the call waits until the budget has opened, in pieces."""
    clock.now_us -= clock.now_us % (24 * HOUR_US)
    ledger = Ledger(now_us=clock)
    pauses: list[int] = []

    def pause(duration_us: int) -> None:
        pauses.append(duration_us)
        clock.now_us += duration_us

    monkeypatch.setattr("ratelimit.transports._sync.pause", pause)
    reply = {"id": "r", "model": "o3", "usage": {"input_tokens": 0, "output_tokens": 1000}}
    inner = httpx2.MockTransport(lambda _: httpx2.Response(200, json=reply))
    transport = ratelimit.transports.httpx2.CostTransport(
        inner, ledger=ledger, budget="0.04 USD/hour slow", at=date(2026, 9, 15)
    )
    body = {"model": "o3", "input": "x", "max_output_tokens": 1000, "service_tier": "default"}
    told: list[OverBudget] = []
    token = CURRENT.set(CallContext(on_slowed=told.append))
    with httpx2.Client(transport=transport) as client:
        for number in range(4):
            reply["id"] = f"r{number}"
            assert client.post("http://test/v1/responses", json=body).status_code == 200
    CURRENT.reset(token)
    assert [str(error.budget) for error in told] == ["0.04 USD/hour slow"] * len(pauses)
    assert ledger.totals().posted_count == 4
    assert 0 < max(pauses) <= 5_000_000
    assert 0.7 * HOUR_US < sum(pauses) < HOUR_US


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5 USD slow", "rolling, slow and zones"), ("5 USD/day rolling slow", "calendar windows"),
        ("5 USD/day zone:Mars/Base", "no time zone 'Mars/Base'"), ("5 USD/job tag:team", "not both"),
        ("5 USD/day tag:team run:x", "not both"), ("5 USD/day tag:a/b", "a tag is"), ("5 USD/day slow warn", "once"),
        ("5 USD/day alert:50%", "whole per cents"), ("5 USD/day alert:0", "from 1 to 100"),
        ("5 USD/day unpriced:maybe", "refuse or allow"), ("5 USD/day quickly", "is written like"),
        ("5 USD/call rolling", "rolling, slow and zones"),
        ("25 EUR/dya", "'EUR' is no currency"), ("25 EUR/dya", "'dya' is no window (hour, day, week, month,"),
        ("€25/day", "'€' is no currency"), ("USD", "no amount"), ("-5 USD/day", "more than nothing"),
        ("25 USD/day quickly", "'quickly' is not understood"), ("25 USD/day tag:", "'tag:' is not understood"),
        ("25 USD/2 days", "'2' is no window"),
    ],
)  # fmt: skip
def test_what_a_budget_cannot_mean_is_said(text: str, says: str) -> None:
    """Each wrong word is one clear message."""
    with pytest.raises(ConfigError) as caught:
        Budget.parse(text)
    assert says in str(caught.value)


def test_budgets_come_from_a_file(tmp_path: Path) -> None:
    """Texts and keys mean the same, and what is wrong is named with its line."""
    path = tmp_path / "budgets.yaml"
    path.write_text(
        'budgets:\n  - 500 USD/month zone:Europe/Berlin\n  - {amount: "25 USD/day", tag: "team=search", action: slow, '
        "unpriced: allow, thresholds: [50, 90]}\n  - {amount: 5 USD/week, rolling: true}\n",
        encoding="utf-8",
    )
    assert load_budgets(path) == [
        Budget.parse("500 USD/month zone:Europe/Berlin"),
        Budget.parse("25 USD/day tag:team=search slow unpriced:allow alert:50,90"),
        Budget.parse("5 USD/week rolling"),
    ]
    assert read_budgets(str(path)) == load_budgets(path)
    path.write_text("budgets:\n  - 5 USD/day\n  - 5 USD/year\n", encoding="utf-8")
    with pytest.raises(TableError, match=r"budgets.yaml:3: .*'year'"):
        load_budgets(path)


def test_wrap_refuses_a_budget_that_cannot_be(tmp_path: Path) -> None:
    """A Budget made by hand is checked where it is given, not at the first call."""
    with pytest.raises(ConfigError, match="slow is for calendar windows"):
        ratelimit.transports.httpx2.CostTransport(
            None, ledger=Ledger(), budget=Budget(Usd(1), "day", rolling=True, action="slow")
        )


REPLY = {"model": "o3", "usage": {"input_tokens": 0, "output_tokens": 1000}}
BODY = {"model": "o3", "input": "x", "max_output_tokens": 1000, "service_tier": "default"}
SLOW = "0.04 USD/hour slow"


def test_an_awaiting_call_under_a_slow_budget_waits_too(monkeypatch: pytest.MonkeyPatch, clock: Any) -> None:
    """The other colour waits in its event loop, and every call is sent in the end."""
    clock.now_us -= clock.now_us % (24 * HOUR_US)
    ledger, numbers, pauses = Ledger(now_us=clock), iter(range(9)), []

    async def pause(duration_us: int) -> None:
        pauses.append(duration_us)
        clock.now_us += duration_us

    async def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={**REPLY, "id": f"r{next(numbers)}"})

    async def main() -> None:
        inner = httpx2.MockTransport(answer)
        day = date(2026, 9, 15)
        transport = ratelimit.transports.httpx2.AsyncCostTransport(inner, ledger=ledger, budget=SLOW, at=day)
        async with httpx2.AsyncClient(transport=transport) as client:
            for _ in range(4):
                assert (await client.post("http://test/v1/responses", json=BODY)).status_code == 200

    monkeypatch.setattr("ratelimit.transports._async.pause_async", pause)
    asyncio.run(main())
    assert ledger.totals().posted_count == 4
    assert 0.7 * HOUR_US < sum(pauses) < HOUR_US


def test_a_slow_budget_waits_no_longer_than_it_may(clock: Any) -> None:
    """With max_wait, or in a block with a deadline, what cannot be sent in time is refused, with the time it needs."""
    clock.now_us -= clock.now_us % (24 * HOUR_US)
    ledger, numbers = Ledger(now_us=clock), iter(range(9))
    http = httpx2.Client(
        transport=httpx2.MockTransport(lambda _: httpx2.Response(200, json={**REPLY, "id": f"r{next(numbers)}"}))
    )
    plain = openai.OpenAI(base_url="http://test/v1", api_key="test", max_retries=0, http_client=http)
    day, limits = date(2026, 9, 15), {"rpm": 1000, "tpm": 1_000_000}
    given: dict[str, Any] = {"limits": limits, "ledger": ledger, "budget": SLOW, "at": day}
    ask = {"model": "o3", "input": "x", "max_output_tokens": 1000, "service_tier": "default"}
    patient, hasty = ratelimit.wrap(plain, **given), ratelimit.wrap(plain, max_wait=0, **given)
    for _ in range(2):
        hasty.responses.create(**ask)
    with pytest.raises(OverBudget) as refused:
        hasty.responses.create(**ask)
    assert refused.value.retry_after_us is not None
    assert refused.value.retry_after_us > HOUR_US // 10
    with deadline(0), pytest.raises((OverBudget, ratelimit.WouldWait)):
        patient.responses.create(**ask)
    assert ledger.totals().posted_count == 2
