"""Law: whatever is held, settled, lost or tried again, under several budgets at once, none that blocks is overshot.

Budgets of the whole ledger, of a team, of each team, of a job and of each job; of calendar windows in time zones, of
rolling ones, and of all time. The oracle keeps calls in a list and knows windows by the fields of local dates.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pricing import Budget, Cost, Ledger, Usd
from pricing.errors import OverBudget
from pricing.prices import PriceRow

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
QUARTER_US, MINUTE_US, HOUR_US = 900_000_000, 60_000_000, 3_600_000_000
LENGTH_US = {"hour": HOUR_US, "day": 24 * HOUR_US, "week": 168 * HOUR_US, "month": 720 * HOUR_US}
LEASE_US = 2 * HOUR_US
BUDGETS = [Budget.parse(text).checked() for text in (
    "100", "60 USD/day", "40 USD/hour zone:Asia/Kolkata", "55 USD/day zone:Asia/Kathmandu", "70 USD/week rolling",
    "45 USD/hour rolling", "80 USD/month zone:America/New_York", "50 USD/day tag:team=a", "35 USD/hour tag:team",
    "65 USD/job", "30 USD/call", "90 USD/week slow", "75 USD/day slow zone:Pacific/Chatham", "20 USD/day warn",
)]  # fmt: skip


def priced(pico: int) -> Cost:
    return Cost(Usd(pico), {"input": Usd(pico)}, ROW, "table")


def local(at_us: int, zone: str) -> datetime:
    return (EPOCH + timedelta(microseconds=at_us)).astimezone(ZoneInfo(zone))


def same_window(budget: Budget, at_us: int, now_us: int) -> bool:
    """Whether a call of then counts in the window of now: by local dates, or by what has passed."""
    if budget.window in ("total", "job"):
        return True
    if budget.rolling:  # from the quarter of an hour in which the window begins
        return at_us // QUARTER_US >= (now_us - LENGTH_US[budget.window]) // QUARTER_US
    then, now = local(at_us, budget.zone), local(now_us, budget.zone)
    if budget.window == "hour":
        return (then.date(), then.hour, then.utcoffset()) == (now.date(), now.hour, now.utcoffset())
    if budget.window == "week":
        return then.isocalendar()[:2] == now.isocalendar()[:2]
    return then.date() == now.date() if budget.window == "day" else (then.year, then.month) == (now.year, now.month)


def counts(budget: Budget, call: dict[str, Any], of: dict[str, Any]) -> bool:
    """Whether a budget that judges `of` counts `call`."""
    if budget.window == "job":
        return call["run"] is not None and call["run"] == of["run"]
    name, _, value = budget.tag.partition("=")
    return not name or call["team"] == (value or of["team"])


def subject(budget: Budget, call: dict[str, Any]) -> bool:
    """Whether a call is a budget's business."""
    if budget.window == "job":
        return call["run"] is not None
    return not budget.tag or (
        call["team"] == (budget.tag.partition("=")[2] or call["team"]) and call["team"] is not None
    )


class Nested(RuleBasedStateMachine):
    """Calls under a few budgets each, beside a list of what they hold and spent."""

    in_file = False

    @initialize(start=st.datetimes(datetime(2024, 1, 1), datetime(2026, 12, 31)), seed=st.integers(0, 9))
    def start(self, start: datetime, seed: int) -> None:
        self.now_us = (start.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
        self.folder = Path(tempfile.mkdtemp(prefix="nested"))
        self.calls: list[dict[str, Any]] = []
        self.ledger = self.open()

    def open(self) -> Ledger:
        path = self.folder / "costs.db" if self.in_file else None
        return Ledger(path, now_us=lambda: self.now_us, lease_s=LEASE_US // 1_000_000)

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            shutil.rmtree(self.folder)

    def standing(self, budget: Budget, of: dict[str, Any]) -> tuple[int, int]:
        mine = [call for call in self.calls if counts(budget, call, of)]
        spent = sum(call["spent"] for call in mine if same_window(budget, call["at"], self.now_us))
        return spent, sum(call["held"] for call in mine)

    @rule(
        worst=st.integers(0, 40),
        team=st.sampled_from([None, "a", "b"]),
        run=st.sampled_from([None, "r", "s"]),
        budgets=st.lists(st.sampled_from(BUDGETS), max_size=5, unique=True),
    )
    def send(self, worst: int, team: str | None, run: str | None, budgets: list[Budget]) -> None:
        """A call is sent exactly when every budget that blocks has room for it."""
        call = {"at": self.now_us, "team": team, "run": run, "held": worst * 10**12, "spent": 0}
        if budgets:
            for old in self.calls:
                if old["held"] and old["at"] < self.now_us - LEASE_US:  # its program has died: it may have cost that
                    old["spent"], old["held"] = old["held"], 0
        fits, slow = True, False
        for budget in budgets:
            if subject(budget, call) and budget.action != "warn":
                spent, held = (0, 0) if budget.window == "call" else self.standing(budget, call)
                room = spent + held + call["held"] <= budget.amount.pico
                fits, slow = fits and room, slow or budget.action == "slow"
        tags = {} if team is None else {"team": team}
        given = {"model": "m", "endpoint": "e", "estimate": None, "worst": Usd(call["held"]), "run": run, "tags": tags}
        refused = None
        try:
            self.calls.append({**call, "id": self.ledger.pend(**given, budgets=budgets)})
        except OverBudget as error:
            refused = error
        assert refused is not None or fits
        assert refused is None or not fits or (slow and refused.budget.action == "slow")

    @precondition(lambda self: any(call["held"] for call in self.calls))
    @rule(which=st.integers(0, 99), share=st.integers(0, 4), way=st.sampled_from(["post", "post", "void", "expire"]))
    def end(self, which: int, share: int, way: str) -> None:
        """A call ends below its worst case, unbilled, or unknown: then it counts what it may have cost."""
        open_calls = [call for call in self.calls if call["held"]]
        call = open_calls[which % len(open_calls)]
        worst, call["held"] = call["held"], 0
        if way == "post":
            call["spent"] = worst * share // 4
            self.ledger.post(call["id"], usage=None, cost=priced(call["spent"]))
        elif way == "void":
            self.ledger.void(call["id"], "refused")
        else:
            call["spent"] = worst
            self.ledger.expire(call["id"], "cut")

    @rule(pause_us=st.sampled_from([0, MINUTE_US, QUARTER_US, HOUR_US, 5 * HOUR_US, 24 * HOUR_US, 168 * HOUR_US]))
    def time_passes(self, pause_us: int) -> None:
        """Windows end, and leases."""
        self.now_us += pause_us

    @precondition(lambda self: self.in_file)
    @rule()
    def crash(self) -> None:
        """The process goes, and what it held stays held by the file."""
        self.ledger.close()
        self.ledger = self.open()

    @invariant()
    def nothing_is_overshot(self) -> None:
        """What each budget says is what the list says, after leases have ended on both sides."""
        if not hasattr(self, "ledger"):
            return
        for old in self.calls:
            if old["held"] and old["at"] < self.now_us - LEASE_US:
                old["spent"], old["held"] = old["held"], 0
        for budget in BUDGETS:
            for team, run in ((None, None), ("a", "r"), ("b", "s")):
                of = {"team": team, "run": run}
                if budget.window != "call" and subject(budget, of):
                    found = self.ledger.counted(budget, run=run, tags={} if team is None else {"team": team})
                    assert (found.spent.pico, found.held.pico) == self.standing(budget, of), budget


class NestedInFile(Nested):
    """The same on a SQLite file that is closed and opened again."""

    in_file = True


TestNested = Nested.TestCase
TestNested.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestNestedInFile = NestedInFile.TestCase
TestNestedInFile.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_set_of_budgets_over_all_calls_is_never_overshot(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    """When every call is sent under the same budgets, spent and held of each fit into it at every moment."""
    budgets = data.draw(st.lists(st.sampled_from([b for b in BUDGETS if b.action != "warn"]), min_size=1, unique=True))
    path = tmp_path_factory.mktemp("b") / "costs.db" if kind == "sqlite" else None
    chance, now_us = random.Random(data.draw(st.integers(0, 999))), 1_790_000_000_000_000
    with Ledger(path, now_us=lambda: now_us, lease_s=LEASE_US // 1_000_000) as ledger:
        held: list[tuple[int, int]] = []
        for _ in range(30):
            now_us += chance.choice([0, MINUTE_US, HOUR_US])
            team, run = chance.choice(["a", "b"]), chance.choice(["r", "s"])
            worst = chance.randint(1, 25) * 10**12
            with suppress(OverBudget):
                held.append((ledger.pend(model="m", endpoint="e", estimate=None, worst=Usd(worst), run=run,
                                         tags={"team": team}, budgets=budgets), worst))  # fmt: skip
            if held and chance.random() < 0.6:
                entry_id, most = held.pop(chance.randrange(len(held)))
                ledger.post(entry_id, usage=None, cost=priced(chance.randint(0, most)))
            for budget in budgets:
                if budget.window != "call" and subject(budget, {"run": run, "team": team}):
                    found = ledger.counted(budget, run=run, tags={"team": team})
                    assert found.spent + found.held <= budget.amount


@given(
    st.datetimes(datetime(1971, 1, 1), datetime(2037, 1, 1)),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Chatham", "America/Havana",
                     "America/Sao_Paulo", "Africa/Cairo", "Australia/Lord_Howe"]),
    st.sampled_from(["hour", "day", "week", "month"]),
)  # fmt: skip
@settings(max_examples=400, deadline=None)
def test_windows_begin_and_end_where_local_calendars_say(at: datetime, zone: str, window: str) -> None:
    """The first microsecond of a window is in it, the one before is not; its end is the beginning of the next."""
    now_us = (at.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    budget = Budget(Usd(1), window, zone=zone)
    start_us, end_us = budget.start_us(now_us), budget.end_us(now_us)
    assert start_us <= now_us < end_us
    assert same_window(budget, start_us, now_us)
    assert same_window(budget, end_us - 1, now_us)
    assert not same_window(budget, start_us - 1, now_us)
    assert not same_window(budget, end_us, now_us)
    assert budget.start_us(end_us) == end_us


SPENDER = """
import os, random, sys
from datetime import date
from pricing import Budget, Cost, Ledger, Usd
from pricing.errors import OverBudget
from pricing.prices import PriceRow
path, seed = sys.argv[1], int(sys.argv[2])
row = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")
chance = random.Random(seed)
budgets = [Budget.parse(text) for text in ("40 USD/day", "15 USD/day tag:team", "25 USD/job")]
ledger = Ledger(path)
os.write(1, b"ready\\n")
while True:
    worst = chance.randint(1, 4)
    try:
        entry = ledger.pend(model="m", endpoint="e", estimate=None, worst=Usd(worst * 10**12), budgets=budgets,
                            run=chance.choice("rs"), tags={"team": chance.choice("abc")})
    except OverBudget:
        os.write(1, b"full\\n")
        continue
    if chance.random() < 0.7:
        amount = Usd(chance.randint(0, worst * 10**11))
        ledger.post(entry, usage=None, cost=Cost(amount, {"input": amount}, row, "table"))
"""


def test_processes_that_are_killed_leave_their_holds_and_no_more(tmp_path: Path) -> None:
    """Spenders under nested budgets are killed with -9; what they held stays held till its lease ends, then is spent.

    At no moment is a budget overshot, and every sum is what the entries say.
    """
    path = tmp_path / "costs.db"
    budgets = {"": "40 USD/day", "team": "15 USD/day tag:team", "run": "25 USD/job"}
    with Ledger(path) as ledger:
        for seed in range(4):
            spenders = [
                subprocess.Popen([sys.executable, "-c", SPENDER, path, str(seed * 2 + i)], stdout=subprocess.PIPE)
                for i in range(2)
            ]
            try:
                for spender in spenders:
                    assert spender.stdout is not None
                    assert spender.stdout.readline() == b"ready\n"
                    for _ in range(3):
                        spender.stdout.readline()  # until it has been refused three times, it has spent
            finally:
                for spender in spenders:
                    os.kill(spender.pid, signal.SIGKILL)
                    spender.communicate()
            for team in "abc":
                for run in "rs":
                    for text in budgets.values():
                        budget = Budget.parse(text)
                        found = ledger.counted(budget, run=run, tags={"team": team})
                        assert found.spent + found.held <= budget.amount
        entries = list(ledger.entries())
        spent = sum(entry.cost.pico for entry in entries if entry.cost is not None)
        held = sum(entry.worst.pico for entry in entries if entry.state == "pending" and entry.worst is not None)
        assert held > 0
        found = ledger.counted(Budget.parse("1 USD"))
        assert (found.spent.pico, found.held.pico) == (spent, held)
        last_us = max(entry.created_us for entry in entries)
    with Ledger(path, now_us=lambda: last_us + 3_600_000_001) as later:
        found = later.counted(Budget.parse("1 USD"))
        assert (found.spent.pico, found.held.pico) == (spent + held, 0)
        assert later.totals().pending_count == 0
