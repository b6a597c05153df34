"""Law: an entry and a response are billed once, late news included, and every total is the sum of its entries.

The oracle is a list of plain dictionaries with amounts as bare integers. It is played any sequence of calls beside the
ledger in memory and beside a SQLite file that is closed, reopened and held twice.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pricing import Budget, Cost, Entry, Ledger, Unpriced, Usage, Usd, fold
from pricing.errors import ConfigError, OverBudget
from pricing.prices import PriceRow

START_US = 1_790_000_000_000_000
HOUR_US = 3_600_000_000
ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")
BY = ("model", "day", "state", "tag:team", "tag:job")
COUNTS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
OPEN = ("pending", "expired")  # the states in which nobody knows yet what was billed
GUARDED = ("id", "state", "model", "endpoint", "response_id", "custom_id", "run", "tags", "service_tier", "batch",
           "created_us", "closed_us", "estimate", "worst", "cost", "components", "row_id", "table_version", "usage",
           "exact")  # fmt: skip


def priced(pico: int, *notes: str) -> Cost:
    """A cost of so many pico-dollars."""
    part = pico // 3
    return Cost(Usd(pico), {"input": Usd(part), "output": Usd(pico - part)}, ROW, "table-1", notes)


def usd(pico: int | None) -> Usd | None:
    return None if pico is None else Usd(pico)


def plain(entry: Entry) -> dict[str, Any]:
    """An entry as the oracle keeps it: amounts are integers."""
    values = {name: getattr(entry, name) for name in GUARDED}
    for name in ("estimate", "worst", "cost"):
        values[name] = None if values[name] is None else values[name].pico
    values["components"] = {name: amount.pico for name, amount in entry.components.items()}
    values["service_tier"] = entry.service_tier or None
    return values


def sums(entries: list[dict[str, Any]]) -> dict[str, int]:
    """What Totals must say about these entries."""

    def of(state: str) -> list[dict[str, Any]]:
        return [entry for entry in entries if entry["state"] == state]

    posted = of("posted")
    return {
        "posted": sum(entry["cost"] for entry in posted if entry["cost"] is not None),
        "pending_estimate": sum(entry["estimate"] or 0 for entry in of("pending")),
        "expired_estimate": sum(entry["estimate"] or 0 for entry in of("expired")),
        "posted_count": len(posted),
        "pending_count": len(of("pending")),
        "expired_count": len(of("expired")),
        "voided_count": len(of("voided")),
        "unpriced_count": sum(entry["cost"] is None for entry in posted),
        "estimated_count": sum(not entry["exact"] for entry in posted),
        "input_tokens": sum(entry["usage"].get(name, 0) for entry in posted for name in COUNTS[:3]),
        "output_tokens": sum(entry["usage"].get(name, 0) for entry in posted for name in COUNTS[3:]),
    }


def said(totals: Any) -> dict[str, int]:
    """A Totals as the oracle writes it."""
    return {name: getattr(totals, name).pico if "estimate" in name[-8:] or name == "posted" else getattr(totals, name)
            for name in sums([])}  # fmt: skip


def group(entry: dict[str, Any], by: str) -> str:
    """The part of the ledger an entry belongs to."""
    if by == "day":
        return (datetime(1970, 1, 1) + timedelta(microseconds=entry["created_us"])).strftime("%Y-%m-%d")
    return entry["tags"].get(by[4:], "") if by.startswith("tag:") else entry[by]


def counted(entry: dict[str, Any]) -> int:
    """What a budget counts for an ended entry: its cost, or what nobody knows at the most it can have been."""
    if entry["state"] in ("pending", "voided"):
        return 0
    if entry["cost"] is not None:
        return entry["cost"]
    return (entry["estimate"] or 0) if entry["worst"] is None else entry["worst"]


picos = st.sampled_from([0, 1, 7, 10**9, 123_456_789_012])
amounts = st.none() | picos
names = st.sampled_from([None, "", "resp_a", "resp_b", "resp_c"])
models = st.sampled_from(["o3-pro", "gpt-5.2", "modèle 🙂"])
runs = st.sampled_from([None, "", "r1", "r2"])
tags = st.sampled_from([None, {}, {"team": "x"}, {"team": "y", "job": "é\0"}, {"job": ""}])
which = st.integers(0, 30)
usages = st.none() | st.builds(Usage, *[st.integers(0, 9)] * 5)
costs = (
    st.builds(priced, picos | st.just(2**63))
    | st.builds(priced, picos, st.just("noted"))
    | st.builds(Unpriced, st.just("no row"))
)
news = st.fixed_dictionaries(
    {"usage": usages, "cost": st.none() | costs, "model": st.sampled_from([None, "", "o3-pro-2025"]),
     "service_tier": st.sampled_from([None, "", "flex"]), "exact": st.booleans(), "why": st.sampled_from(["", "said"])}
)  # fmt: skip


class LedgerMachine(RuleBasedStateMachine):
    """Any sequence of calls, beside a list of dictionaries."""

    in_file = False

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ledger"))
        self.now_us = START_US
        self.handles = [self.open() for _ in range(2 if self.in_file else 1)]
        self.model: list[dict[str, Any]] = []
        # By what the ledger answered, not by what the model expects: how often it said that it billed, voided, expired.
        self.bills: Counter[int] = Counter()
        self.endings: Counter[tuple[int, str]] = Counter()
        self.news: dict[str, list[tuple[bool, int | None]]] = {}  # of each response: exact or not, and its cost
        self.whys: dict[int, tuple[str, ...]] = {}

    def open(self) -> Ledger:
        return Ledger(self.folder / "costs.db" if self.in_file else None, now_us=lambda: self.now_us, lease_s=10**9)

    def teardown(self) -> None:
        if hasattr(self, "handles"):
            for handle in self.handles:
                handle.close()
            shutil.rmtree(self.folder)

    @property
    def ledger(self) -> Ledger:
        self.handles.reverse()  # whoever wrote last, the other one goes on
        return self.handles[0]

    def chosen(self, which: int) -> tuple[int, dict[str, Any]]:
        """One of the entries; now and then the id of none (with a stand-in that has ended)."""
        if self.model and which < 30:
            entry = self.model[which % len(self.model)]
            return entry["id"], entry
        return 1_000_000, {"state": "none", "id": 1_000_000}

    def named(self, response_id: str | None) -> dict[str, Any] | None:
        return next((entry for entry in self.model if response_id and entry["response_id"] == response_id), None)

    def end(self, entry: dict[str, Any], state: str, exact: bool, *whys: str, **more: Any) -> None:
        entry.update(state=state, closed_us=self.now_us, exact=exact, **more)
        self.whys[entry["id"]] = whys

    def bill(self, entry: dict[str, Any], news: dict[str, Any], response_id: str | None) -> bool:
        """News come to the entry that has the response: they bill it, correct an estimated bill, or are not new."""
        if isinstance(news["cost"], Cost) and news["cost"].total.pico >= 2**63:
            news = news | {"cost": Unpriced("9.2 million dollars")}  # nobody believes it
        cost = news["cost"].total.pico if isinstance(news["cost"], Cost) else None
        if response_id or entry["response_id"]:
            self.news.setdefault(response_id or entry["response_id"], []).append((news["exact"], cost))
        billed = entry["state"] in OPEN
        if billed or (entry["state"] == "posted" and not entry["exact"] and news["exact"] and cost is not None):
            self.end_posted(entry, news, response_id)
        return billed

    def holder(self, response_id: str | None, entry: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Another entry that has this response; a voided one lets it go."""
        other = self.named(response_id)
        if other is not None and other is not entry and other["state"] == "voided":
            other["response_id"] = None
        return None if other is None or other is entry or other["state"] == "voided" else other

    def end_duplicate(self, entry: dict[str, Any], of: dict[str, Any]) -> None:
        self.end(entry, "voided", True, "duplicate", str(of["id"]))

    def end_posted(self, entry: dict[str, Any], news: dict[str, Any], response_id: str | None) -> None:
        cost, usage = news["cost"], news["usage"]
        entry["response_id"] = response_id or entry["response_id"]
        entry["model"] = news["model"] or entry["model"]
        entry["service_tier"] = news["service_tier"] or entry["service_tier"]
        used = {name: getattr(usage, name) for name in COUNTS} if usage is not None else {}
        if isinstance(cost, Cost):
            parts = {name: amount.pico for name, amount in cost.components.items()}
            self.end(entry, "posted", news["exact"], news["why"], *cost.notes, usage=used, cost=cost.total.pico,
                     components=parts, row_id=cost.row_id, table_version=cost.table_version)  # fmt: skip
        else:
            self.end(entry, "posted", news["exact"], news["why"], cost.reason if cost is not None else "", usage=used)

    @rule(pause_us=st.sampled_from([1, HOUR_US, 24 * HOUR_US, 31 * 24 * HOUR_US, -1, -HOUR_US]))
    def time_passes(self, pause_us: int) -> None:
        self.now_us += pause_us

    @rule(model=models, run=runs, tags=tags, estimate=amounts, worst=amounts, tier=st.sampled_from([None, "flex"]),
          batch=st.booleans(), custom_id=st.sampled_from([None, "line 1"]))  # fmt: skip
    def pend(self, model: str, run: str | None, tags: dict[str, str] | None, estimate: int | None, worst: int | None,
             tier: str | None, batch: bool, custom_id: str | None) -> None:  # fmt: skip
        entry_id = self.ledger.pend(model=model, endpoint="responses", estimate=usd(estimate), worst=usd(worst),
                                    tags=tags, service_tier=tier, batch=batch, custom_id=custom_id,
                                    run=run)  # fmt: skip
        assert all(entry_id > entry["id"] for entry in self.model)
        self.model.append(self.fresh(entry_id, model=model, run=run or None, tags=dict(tags or {}), estimate=estimate,
                                     worst=worst, service_tier=tier, batch=batch, custom_id=custom_id))  # fmt: skip

    def fresh(self, entry_id: int, **given: Any) -> dict[str, Any]:
        nothing = dict.fromkeys(GUARDED)
        return {**nothing, "id": entry_id, "state": "pending", "endpoint": "responses", "tags": {}, "batch": False,
                "created_us": self.now_us, "components": {}, "usage": {}, "exact": False, **given}  # fmt: skip

    @rule(which=which, response_id=names.filter(lambda name: name is not None))
    def attach(self, which: int, response_id: str) -> None:
        entry_id, entry = self.chosen(which)
        answer = self.ledger.attach(entry_id, response_id)
        assert answer is self.attached(entry, response_id)

    def attached(self, entry: dict[str, Any], response_id: str) -> bool:
        if not response_id or entry["state"] not in OPEN:
            return False
        other = self.holder(response_id, entry)
        if other is not None:
            self.end_duplicate(entry, other)
            return False
        entry["response_id"] = response_id
        return True

    @rule(which=which, response_id=names, news=news)
    def post(self, which: int, response_id: str | None, news: dict[str, Any]) -> None:
        entry_id, entry = self.chosen(which)
        answer = self.ledger.post(entry_id, response_id=response_id, **news)
        if entry["state"] not in OPEN:
            assert answer is False
            return
        other = self.holder(response_id, entry)
        if other is not None:
            self.end_duplicate(entry, other)
            entry = other
        self.bills[entry["id"]] += answer
        assert answer is self.bill(entry, news, response_id)

    @rule(response_id=names.filter(bool), news=news)
    def post_response(self, response_id: str, news: dict[str, Any]) -> None:
        news["model"] = news["model"] or ""
        answer = self.ledger.post_response(response_id, endpoint="responses", **news)
        entry = self.holder(response_id)
        if entry is None:
            entry = self.fresh(max((row.id for row in self.ledger.entries()), default=0), model=news["model"],
                               response_id=response_id, service_tier=news["service_tier"] or None)  # fmt: skip
            self.model.append(entry)
        self.bills[entry["id"]] += answer
        assert answer is self.bill(entry, news, response_id)

    @rule(news=news)
    def post_a_response_without_id(self, news: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match="id of the response"):
            self.ledger.post_response("", endpoint="responses", **(news | {"model": "m"}))

    @rule(which=which)
    def void(self, which: int) -> None:
        entry_id, entry = self.chosen(which)
        answer = self.ledger.void(entry_id, "HTTP 500")
        self.endings[entry_id, "void"] += answer
        assert answer is (entry["state"] in OPEN)
        if answer:
            self.end(entry, "voided", True, "HTTP 500")

    @rule(which=which, response_id=names)
    def expire(self, which: int, response_id: str | None) -> None:
        entry_id, entry = self.chosen(which)
        answer = self.ledger.expire(entry_id, "nobody knows", response_id)
        self.endings[entry_id, "expire"] += answer
        expected = entry["state"] == "pending"
        if response_id and entry["state"] in OPEN:
            expected = self.attached(entry, response_id) and expected
        assert answer is expected
        if answer:
            self.end(entry, "expired", False, "nobody knows")

    @rule(response_id=names.filter(lambda name: name is not None))
    def expire_response(self, response_id: str) -> None:
        answer = self.ledger.expire_response(response_id, "without a usage")
        entry = self.holder(response_id)
        assert answer is (entry is not None and entry["state"] == "pending")
        if answer:
            self.endings[entry["id"], "expire"] += 1
            self.end(entry, "expired", False, "without a usage")

    @rule()
    def sync(self) -> None:
        self.ledger.sync()

    @precondition(lambda self: self.in_file)
    @rule()
    def reopen(self) -> None:
        for handle in self.handles:
            handle.close()
            handle.close()
        self.handles = [self.open(), self.open()]

    @invariant()
    def entries_are_those_of_the_model(self) -> None:
        found = list(self.ledger.entries())
        assert [plain(entry) for entry in found] == self.model
        for entry in found:
            assert all(part in entry.why for part in self.whys.get(entry.id, ()))

    @invariant()
    def filters_select_what_they_say(self) -> None:
        def ids(**wanted: Any) -> list[int]:
            return [entry.id for entry in self.ledger.entries(**wanted)]

        for state in ("pending", "posted", "voided", "expired"):
            assert ids(state=state) == [entry["id"] for entry in self.model if entry["state"] == state]
        for run in ("r1", "r2", "r3"):
            assert ids(run=run) == [entry["id"] for entry in self.model if entry["run"] == run]
            assert said(self.ledger.totals(run=run)) == sums([entry for entry in self.model if entry["run"] == run])
        recent = [entry for entry in self.model if entry["created_us"] >= self.now_us]
        assert ids(since_us=self.now_us) == [entry["id"] for entry in recent]
        both = [entry["id"] for entry in recent if (entry["run"], entry["state"]) == ("r1", "posted")]
        assert ids(state="posted", since_us=self.now_us, run="r1") == both

    @invariant()
    def an_entry_is_billed_at_most_once(self) -> None:
        assert max(self.bills.values(), default=0) <= 1
        assert max(self.endings.values(), default=0) <= 1
        posted = {entry.id for entry in self.ledger.entries(state="posted")}
        assert posted == {entry_id for entry_id, count in self.bills.items() if count}

    @invariant()
    def a_response_is_one_bill_of_its_best_news(self) -> None:
        bills = [entry for entry in self.ledger.entries(state="posted") if entry.response_id is not None]
        assert {entry.response_id for entry in bills} == set(self.news)
        assert len(bills) == len(self.news)
        for entry in bills:
            told = self.news[str(entry.response_id)]
            better = [cost for exact, cost in told[1:] if exact and cost is not None and not told[0][0]]
            assert entry.cost == usd([*better, told[0][1]][0])

    @invariant()
    def unpriced_is_counted_and_never_a_zero(self) -> None:
        posted = list(self.ledger.entries(state="posted"))
        without = [entry for entry in posted if entry.row_id is None]
        assert all(entry.cost is None and entry.why and not entry.components for entry in without)
        assert all(entry.cost is not None for entry in posted if entry.row_id is not None)
        assert self.ledger.totals().unpriced_count == len(without)

    @invariant()
    def parts_partition_the_total(self) -> None:
        total = said(self.ledger.totals())
        assert total == sums(self.model)
        for by in BY:
            parts = {key: said(part) for key, part in self.ledger.totals(by=by).items()}
            keys = {group(entry, by) for entry in self.model}
            assert parts == {key: sums([each for each in self.model if group(each, by) == key]) for key in keys}
            assert total == {name: sum(part[name] for part in parts.values()) for name in total}
            mine = [each for each in self.model if each["run"] == "r1"]
            parts = {key: said(part) for key, part in self.ledger.totals(by=by, run="r1").items()}
            keys = {group(entry, by) for entry in mine}
            assert parts == {key: sums([each for each in mine if group(each, by) == key]) for key in keys}

    @invariant()
    def budgets_count_what_the_entries_say(self) -> None:
        for run in (None, "r1"):
            mine = [entry for entry in self.model if run in (None, entry["run"])]
            with pytest.raises(OverBudget) as refused:
                self.ledger.pend(model="m", endpoint="e", estimate=None, worst=Usd(1), run=run,
                                 budgets=[Budget(Usd(0), "total", run)])  # fmt: skip
            assert refused.value.spent.pico == sum(counted(entry) for entry in mine)
            assert refused.value.held.pico == sum(each["worst"] or 0 for each in mine if each["state"] == "pending")


class FileMachine(LedgerMachine):
    """The same beside a file, through two ledgers in turn."""

    in_file: ClassVar[bool] = True


TestMemoryMachine = LedgerMachine.TestCase
TestMemoryMachine.settings = settings(deadline=None, max_examples=120, stateful_step_count=40)
TestFileMachine = FileMachine.TestCase
TestFileMachine.settings = settings(deadline=None, max_examples=80, stateful_step_count=40)


def pend(ledger: Ledger, **more: Any) -> int:
    return ledger.pend(model="m", endpoint="responses", estimate=Usd(3), worst=Usd(9), **more)


@pytest.mark.parametrize("nothing", ["", None])
def test_entries_without_a_response_id_are_no_duplicates(ledger: Ledger, nothing: str | None) -> None:
    """Replies that come without an id, or with "id": "", are each billed: an empty text names nothing."""
    ids = [pend(ledger) for _ in range(3)]
    assert [ledger.attach(entry_id, "") for entry_id in ids] == [False] * 3
    assert [ledger.post(entry_id, usage=None, cost=priced(5), response_id=nothing) for entry_id in ids] == [True] * 3
    assert ledger.totals().posted == Usd(15)
    assert {entry.response_id for entry in ledger.entries()} == {None}


def test_a_long_ledger_is_read_whole_and_in_order(ledger: Ledger) -> None:
    """Thousands of entries come once each, in the order they were written, while they end and more are written."""
    ids = [pend(ledger) for _ in range(2_345)]
    read = []
    for entry in ledger.entries():
        read.append(entry.id)
        assert ledger.void(entry.id, "read") is True
        if len(read) in (1, 1_500):
            pend(ledger)
    assert read[: len(ids)] == ids
    assert ledger.totals().voided_count == len(read)
    assert [entry.id for entry in ledger.entries()] == [*ids, ids[-1] + 1, ids[-1] + 2]


def test_folding_the_entries_is_the_total(ledger: Ledger) -> None:
    """fold() over the iterator is what totals() says, and it prints amounts as exact texts."""
    ledger.post(pend(ledger), usage=Usage(1, 2, 3, 4, 5), cost=priced(10**12 + 1))
    assert fold(ledger.entries()) == ledger.totals()
    assert ledger.totals().as_dict() == {
        "posted": "1.000000000001", "posted_count": 1, "pending_estimate": "0", "pending_count": 0, "voided_count": 0,
        "expired_estimate": "0", "expired_count": 0, "unpriced_count": 0, "estimated_count": 0, "input_tokens": 6,
        "output_tokens": 9,
    }  # fmt: skip


def test_dictionaries_given_and_taken_are_copies(ledger: Ledger) -> None:
    """Changing a dictionary after it was given to the ledger, or was read from it, changes no entry."""
    tags, cost = {"team": "x"}, priced(5)
    assert ledger.post(pend(ledger, tags=tags), usage=Usage(7), cost=cost)
    tags["team"] = "y"
    cost.components.clear()
    (before,) = map(plain, ledger.entries())
    for entry in ledger.entries():
        entry.tags["team"] = "z"
        entry.components.clear()
        entry.usage.clear()
    assert [plain(entry) for entry in ledger.entries()] == [before]
    assert (before["tags"], before["usage"]["input_tokens"]) == ({"team": "x"}, 7)
    assert list(ledger.totals(by="tag:team")) == ["x"]


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_days_are_those_of_utc(ledger: Ledger, clock: Any, monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    """A call is summed under the day on which it was sent, in UTC, wherever the machine is and whenever it ended."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for clock.now_us in (1_767_225_599_999_999, 1_767_225_600_000_000):
            entry_id = pend(ledger)
            clock.now_us += 48 * HOUR_US
            ledger.void(entry_id, "later")
        assert list(ledger.totals(by="day")) == ["2025-12-31", "2026-01-01"]
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("by", ["", "models", "tag:", "tag", "second", "Model", "model,"])
def test_totals_by_anything_else_are_refused(ledger: Ledger, by: str) -> None:
    """A misspelt `by` is an error that names it, not one group with everything in it."""
    with pytest.raises(ConfigError) as caught:
        ledger.totals(by=by)
    assert repr(by) in str(caught.value)
