"""Law: what a ledger gives away (reports, exports, comparisons) is its entries, no more, no less, to the last digit.

The oracles are Python's own csv and json, sums over entries, and exports written by hand as OpenAI's APIs give them.
"""

from __future__ import annotations

import csv
import io
import json
import random
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing import Cost, Ledger, Unpriced, Usage, Usd, fold, tags
from pricing.accuracy import accuracy
from pricing.context import TAGS
from pricing.errors import ConfigError, LedgerError
from pricing.export import columns_of, write_csv, write_jsonl, write_parquet
from pricing.learned import ENOUGH, Learned
from pricing.prices import PriceRow
from pricing.reconcile import line_item, read_export, reconcile
from pricing.totals import PARTS, part_of

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")
DAY_US = 86_400_000_000
NOON_US = 1_790_035_200_000_000 - 1_790_035_200_000_000 % DAY_US + DAY_US // 2
DAY = str(datetime.fromtimestamp(NOON_US // 1_000_000, UTC).date())
MIDNIGHT_S = (NOON_US - DAY_US // 2) // 1_000_000


def priced(**components: int) -> Cost:
    """A cost of so many pico-dollars by component."""
    return Cost(Usd(sum(components.values())), {k: Usd(v) for k, v in components.items()}, ROW, "table-1")


@pytest.fixture
def filled(ledger: Ledger, clock: Any) -> Ledger:
    """A ledger with entries of every kind, over two days."""
    chance = random.Random(5)
    clock.now_us = NOON_US
    for number in range(60):
        clock.now_us += DAY_US // 50
        team = chance.choice(["search", "ads", "=cmd|x", 'a,b\n"c"', "\ud800"])
        entry_id = ledger.pend(
            model=chance.choice(["o3-pro", "o3"]), endpoint="/v1/responses", estimate=Usd(chance.randrange(10**13)),
            worst=Usd(10**13), tags={"team": team} if number % 3 else None, run=chance.choice([None, "r"]),
            effort=chance.choice(["", "high"]), attempt=1 + number % 2, wait_us=number, custom_id=str(number),
            expected={"input_tokens": 10, "output_tokens": 20, "output_p50": 9, "output_p95": 50},
        )  # fmt: skip
        way = number % 6
        if way < 3:
            usage = Usage(chance.randrange(99), chance.randrange(9), 0, chance.randrange(99), chance.randrange(99))
            cost = priced(input=chance.randrange(10**12), output=chance.randrange(10**12))
            ledger.post(entry_id, usage=usage, cost=cost, exact=way != 2, model="o3-2025-04-16", service_tier="default",
                        response_id=f"r{number}", request_id=f"req_{number}", latency_us=number)  # fmt: skip
        elif way == 3:
            ledger.void(entry_id, "HTTP 429: not billed", request_id="req", latency_us=1)
        elif way == 4:
            ledger.expire(entry_id, "cut")
        elif number < 30:
            ledger.post(entry_id, usage=None, cost=Unpriced("no row"))
    return ledger


@pytest.mark.parametrize("by", [*PARTS, "tag:team", ["tag:team", "model"], ["day", "state", "effort"]])
def test_parts_of_every_kind_sum_to_the_total(filled: Ledger, by: Any) -> None:
    """Whatever a ledger is split by, each sum of its parts together is the sum of its entries."""
    parts, total = filled.totals(by=by), filled.totals()
    assert total == fold(filled.entries())
    for name in type(total).__slots__:
        values = [getattr(part, name) for part in parts.values()]
        assert sum(values, Usd.ZERO if isinstance(values[0], Usd) else 0) == getattr(total, name)
    assert set(parts) == {part_of(by)(entry) for entry in filled.entries()}


def test_a_csv_holds_every_entry(filled: Ledger) -> None:
    """Read back by the csv module, each row is its entry: amounts exact, texts whole, empty where nothing is known."""
    file = io.StringIO()
    assert write_csv(filled.entries, file) == 60
    rows = list(csv.DictReader(io.StringIO(file.getvalue())))
    assert len(rows) == 60
    for row, entry in zip(rows, filled.entries(), strict=True):
        assert row["id"] == str(entry.id)
        assert row["cost"] == ("" if entry.cost is None else str(entry.cost))
        for name, amount in entry.components.items():
            assert Decimal(row[f"cost.{name}"]) == amount.decimal()
        for name, count in entry.usage.items():
            assert row[f"usage.{name}"] == str(count)
        team = entry.tags.get("team", "")
        assert row["tag.team"] == {"\ud800": "\\ud800", "=cmd|x": "'=cmd|x"}.get(team, team)
        assert datetime.fromisoformat(row["created"]) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
            microseconds=entry.created_us
        )
        assert row["exact"] == ("true" if entry.exact else "false")
    assert sum(Decimal(row["cost"]) for row in rows if row["cost"]) == filled.totals().posted.decimal()


def test_json_lines_hold_every_entry(filled: Ledger) -> None:
    """Each line is an object of what its entry knows, decimals as texts, and nothing that it does not know."""
    file = io.StringIO()
    assert write_jsonl(filled.entries, file) == 60
    for line, entry in zip(file.getvalue().splitlines(), filled.entries(), strict=True):
        row = json.loads(line)
        assert (row["id"], row["state"], row["model"]) == (entry.id, entry.state, entry.model)
        assert ("cost" in row) is (entry.cost is not None)
        assert (row.get("request_id"), row.get("latency_us")) == (entry.request_id, entry.latency_us)
        assert None not in row.values()


def test_a_data_frame_and_a_parquet_file_hold_every_entry(filled: Ledger, tmp_path: Path) -> None:
    """Both have the same columns and rows, with amounts as exact decimals and times as instants of UTC."""
    pytest.importorskip("pandas")
    parquet = pytest.importorskip("pyarrow.parquet")
    frame = filled.to_pandas()
    assert list(frame.columns) == columns_of(filled.entries())
    assert sum((one for one in frame["cost"] if one is not None), Decimal(0)) == filled.totals().posted.decimal()
    assert str(frame["created"].dt.tz) == "UTC"
    assert frame["usage.output_tokens"].sum() == sum(e.usage.get("output_tokens", 0) for e in filled.entries())
    assert write_parquet(filled.entries, str(tmp_path / "costs.parquet")) == 60
    table = parquet.read_table(tmp_path / "costs.parquet")
    assert table.column_names == list(frame.columns)
    assert [one for one in table["cost"].to_pylist() if one is not None] == [one for one in frame["cost"] if one]
    assert table["created"].to_pylist() == [one.to_pydatetime() for one in frame["created"]]


@pytest.mark.parametrize("module", ["pandas", "pyarrow"])
def test_a_missing_package_is_named(filled: Ledger, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the optional package the message says how to get it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"pip install 'ratecard\[{module}\]'"):
        filled.to_pandas() if module == "pandas" else write_parquet(filled.entries, "x.parquet")


def test_reading_makes_no_file(tmp_path: Path) -> None:
    """A misspelt ledger is an error of whoever only reads, not a new and empty one."""
    with pytest.raises(LedgerError, match=r"typo\.db: no such ledger"):
        Ledger(tmp_path / "typo.db", create=False)
    assert list(tmp_path.iterdir()) == []
    Ledger(tmp_path / "costs.db").close()
    with Ledger(tmp_path / "costs.db", create=False) as ledger:
        assert ledger.totals().posted == Usd.ZERO


def costs(*rows: tuple[str | None, Any], day: int = 0) -> dict[str, Any]:
    """A bucket of the Costs API."""
    results = [
        {"object": "organization.costs.result", "amount": {"value": value, "currency": "usd"}, "line_item": item}
        for item, value in rows
    ]
    start = MIDNIGHT_S + 86_400 * day
    return {"object": "bucket", "start_time": start, "end_time": start + 86_400, "results": results}


@pytest.fixture
def small(ledger: Ledger, clock: Any) -> Ledger:
    """Two bills of one day, an entry that expired, and a bill of the day after."""
    for day, cost in ((0, priced(input=2 * 10**12, output=10**12)), (0, priced(input=10**12)), (1, priced(input=7))):
        clock.now_us = NOON_US + day * DAY_US
        entry_id = ledger.pend(model="o3-pro", endpoint="e", estimate=Usd(5))
        ledger.post(entry_id, usage=Usage(100, 40, 0, 7, 3), cost=cost, model="o3-pro-2025-06-10")
    clock.now_us = NOON_US
    ledger.expire(ledger.pend(model="o3-pro", endpoint="e", estimate=Usd.parse("0.25")), "cut")
    return ledger


def test_costs_are_compared_by_day_model_and_component(small: Ledger) -> None:
    """Lines of the same call meet whatever they are called; the residual stands where it is, and theirs settles."""
    bucket = costs(("o3-pro, input_tokens", 3.1), ("o3-pro-2025-06-10, output_tokens", 1), ("web_search", 0.5))
    found = reconcile(small.entries(), [bucket])
    lines = {(line.model, line.component): line[3:] for line in found.lines}
    assert lines == {
        ("o3-pro", "input"): (Usd.parse(3), Usd.parse("3.1"), Usd.parse("0.1")),
        ("o3-pro", "output"): (Usd.parse(1), Usd.parse(1), Usd.ZERO),
        ("", "web_search"): (None, Usd.parse("0.5"), Usd.parse("0.5")),
    }
    assert {line.day for line in found.lines} == {DAY}
    assert (found.ours, found.theirs, found.residual) == (Usd.parse(4), Usd.parse("4.6"), Usd.parse("0.6"))
    assert found.settled == Usd.parse("4.6")
    assert found.open[DAY].expired == Usd.parse("0.25")


def test_what_they_do_not_tell_settles_at_ours(small: Ledger) -> None:
    """A component without a line of theirs counts as we have it."""
    found = reconcile(small.entries(), [costs(("o3-pro, input_tokens", 2))])
    assert (found.settled, found.residual) == (Usd.parse(3), Usd.parse(-2))


@pytest.mark.parametrize("item", [None, "o3-pro", "input_tokens"])
def test_costs_told_with_less_detail_are_compared_so(small: Ledger, item: str | None) -> None:
    """A day told as one sum, by model only, or by component only, meets our sum of the same kind."""
    found = reconcile(small.entries(), [costs((item, 4 if item != "input_tokens" else 3), day=0)])
    first = next(line for line in found.lines if line.theirs is not None)
    assert first.residual == Usd.ZERO


def test_usage_is_compared_in_tokens(small: Ledger) -> None:
    """Input is told apart into read anew, from a cache and written to one; and requests are counted."""
    row = {"object": "organization.usage.completions.result", "model": "o3-pro-2025-06-10", "input_tokens": 280,
           "input_cached_tokens": 80, "output_tokens": 20, "num_model_requests": 3}  # fmt: skip
    found = reconcile(small.entries(), [{"start_time": MIDNIGHT_S, "results": [row]}])
    assert found.unit == "tokens"
    assert {line.component: line[3:] for line in found.lines} == {
        "input": (200, 200, 0), "cached_input": (80, 80, 0), "output": (20, 20, 0), "requests": (2, 3, 1),
    }  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(["input", "output", "cached_input"]), st.integers(0, 10**13)), max_size=20))
def test_an_export_of_the_ledger_s_own_sums_leaves_no_residual(amounts: list[tuple[str, int]]) -> None:
    """What the provider bills exactly as we do differs by nothing, in total and on every line."""
    with Ledger(now_us=lambda: NOON_US) as ledger:
        for name, pico in amounts:
            ledger.post(ledger.pend(model="o3", endpoint="e", estimate=None), usage=None, cost=priced(**{name: pico}))
        rows = [(f"o3, {name}_tokens", Decimal(pico).scaleb(-12)) for name, pico in amounts]
        found = reconcile(ledger.entries(), [costs(*rows)])
        assert found.residual == Usd.ZERO
        assert all(line.residual == Usd.ZERO for line in found.lines)
        assert found.theirs == ledger.totals().posted


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("gpt-6-astra, input_tokens", ("gpt-6-astra", "input")), ("input_tokens", ("", "input")), (None, ("", "")),
        ("o3-2025-04-16, cached input tokens", ("o3", "cached_input")), ("a, b, output_tokens", ("a, b", "output")),
        ("code interpreter sessions", ("", "code_interpreter_sessions")), ("o3-pro", ("o3-pro", "")),
    ],
)  # fmt: skip
def test_line_items_are_read_as_they_occur(item: str | None, expected: tuple[str, str]) -> None:
    """Both spellings of the sources, names with commas, and items of no model."""
    assert line_item(item) == expected


def test_exports_are_read_as_pages_lists_and_lines(tmp_path: Path) -> None:
    """A page, a list of pages, and one page or bucket per line are the same buckets; numbers are exact decimals."""
    buckets = [costs(("o3, input_tokens", 0.1)), costs(("o3, input_tokens", 0.2), day=1)]
    page = {"object": "page", "data": buckets, "has_more": False}
    path = tmp_path / "costs.json"
    for text in (
        json.dumps(page, indent=2), json.dumps([page]), "\n".join(json.dumps(one) for one in buckets),
        "\n".join(json.dumps({"object": "page", "data": [one]}) for one in buckets),
    ):  # fmt: skip
        path.write_text(text, encoding="utf-8")
        found = read_export(path)
        assert [bucket["start_time"] for bucket in found] == [MIDNIGHT_S, MIDNIGHT_S + 86_400]
        assert found[0]["results"][0]["amount"]["value"] == Decimal("0.1")


def test_an_export_that_goes_on_is_refused(tmp_path: Path) -> None:
    """A page of which more follow is no whole export; with the pages that follow it is."""
    path = tmp_path / "costs.json"
    first = {"object": "page", "data": [costs((None, 1))], "has_more": True, "next_page": "page_2"}
    last = {"object": "page", "data": [costs((None, 1), day=1)], "has_more": False, "next_page": None}
    for partial in ([first], [first, first]):
        for text in (json.dumps(partial), "\n".join(map(json.dumps, partial)), json.dumps(partial[0])):
            path.write_text(text, encoding="utf-8")
            with pytest.raises(ConfigError, match="has_more"):
                read_export(path)
    path.write_text(f"{json.dumps(first)}\n{json.dumps(last)}\n", encoding="utf-8")
    assert len(read_export(path)) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no bucket"), ("{}", "no bucket"), ('{"data": []}\nnonsense', "costs.json:2: no JSON"),
        ('{"start_time": "x", "results": []}', "start_time in seconds"), ("[[[[", "costs.json:1: no JSON"),
        ("[" * 100_000, "costs.json:1: no JSON"), ('{"start_time": 1, "results": ["x"]}', "a result is a JSON object"),
    ],
)  # fmt: skip
def test_what_is_no_export_is_said(tmp_path: Path, text: str, says: str) -> None:
    """Another file is one clear message that names it."""
    path = tmp_path / "costs.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_export(path)
    assert says in str(caught.value)


@pytest.mark.parametrize("value", ["abc", "", True, None, float("nan"), float("inf"), 1e300, "9" * 5_000])
def test_what_is_no_amount_is_said(small: Ledger, value: Any) -> None:
    """A bill with a text in the place of an amount is one clear message."""
    bucket = costs((None, 1))
    bucket["results"][0]["amount"]["value"] = value
    with pytest.raises(ConfigError, match="an amount is a value in USD"):
        reconcile(small.entries(), [bucket])


def test_euros_and_mixtures_are_refused(small: Ledger) -> None:
    """Nothing is compared that is not dollars, or not of one kind."""
    bucket = costs((None, 1))
    bucket["results"][0]["amount"]["currency"] = "eur"
    with pytest.raises(ConfigError, match="USD"):
        reconcile(small.entries(), [bucket])
    with pytest.raises(ConfigError, match="mixes them"):
        reconcile(small.entries(), [costs((None, 1)), {"start_time": MIDNIGHT_S, "results": [{"input_tokens": 1}]}])


def test_estimates_are_compared_with_bills(filled: Ledger) -> None:
    """Counts, sums and errors of the comparison are those of a plain loop over the entries."""
    known = [e for e in filled.entries() if e.state == "posted" and e.exact and e.cost is not None]
    found = accuracy(filled.entries(), part_of("state"))["posted"]
    assert found.calls == found.counted == len(known)
    assert found.estimated == sum((e.estimate for e in known if e.estimate), Usd.ZERO)
    assert found.actual == sum((e.cost for e in known if e.cost), Usd.ZERO)
    errors = sorted(Fraction(abs(e.estimate.pico - e.cost.pico), e.cost.pico) for e in known if e.estimate and e.cost)
    assert found.error_median is not None
    below = sum(error < Fraction(found.error_median + 1, 1000) for error in errors)
    assert below * 2 >= len(errors)
    outputs = [e.usage["output_tokens"] + e.usage["reasoning_tokens"] for e in known]
    assert found.within_p95 == sum(output <= 50 for output in outputs)


def test_sizes_are_learned_by_kind_and_no_sooner_than_they_can_be() -> None:
    """The narrowest kind with enough replies speaks; a stranger to all of them is not spoken for."""
    learned = Learned()
    for number in range(ENOUGH):
        assert learned.foresee("o3", "high", {"team": "a"}) is None
        learned.add("o3", "high", {"team": "a"}, number + 1)
    for _ in range(5):
        learned.add("o3", "low", {}, 1_000)
    prior = learned.foresee("o3", "high", {"team": "a"})
    assert prior is not None
    assert (prior.p50, prior.p95, prior.mean) == (10, 19, 10)
    assert learned.foresee("o3", "high", {"team": "new"}) == learned.foresee("o3", "high", {})
    other = learned.foresee("o3", "low", {})
    assert other is not None
    assert other.mean == (210 + 5_000) // 25
    assert learned.foresee("o3-pro", "high", {}) is None


def test_a_ledger_teaches_its_exact_replies(ledger: Ledger) -> None:
    """Only the server's own usages are learned from, the latest of them, by the model that was asked for."""
    for number in range(40):
        entry_id = ledger.pend(model="o3", endpoint="e", estimate=None, effort="high")
        usage = Usage(1, output_tokens=100 if number < 30 else 7)
        ledger.post(entry_id, usage=usage, cost=None, model="o3-2025-04-16", exact=number >= 30 or number % 2 == 0)
    latest = ledger.latest(25)
    assert len(latest) == 25
    assert [entry.id for entry in latest] == sorted((entry.id for entry in latest), reverse=True)
    prior = Learned(latest).foresee("o3", "high", {})
    assert prior is not None
    assert (prior.p50, prior.p95) == (100, 100)


def test_tags_nest_and_end() -> None:
    """Inner tags stand on top of outer ones and go with their block; a value that is no text is refused."""
    with tags(team="search"):
        with tags(team="ads", job="x"):
            assert TAGS.get() == {"team": "ads", "job": "x"}
        assert TAGS.get() == {"team": "search"}
    assert TAGS.get() == {}
    with pytest.raises(ConfigError, match="tags are texts"), tags(number=1):  # type: ignore[arg-type]
        pass
