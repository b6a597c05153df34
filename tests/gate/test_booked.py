"""Law: the groups of a ledger add up to the ledger's own totals, to the pico-dollar, whatever is in it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pricing
from pricing.cost import Unpriced
from pricing.entries import Entry
from pricing.errors import ConfigError
from pricing.gate.booked import MOST_REASONS, groups_of, together
from pricing.gate.report import TOTAL, Cell, Group, Header, Part, Range, Report, dumps, load_report
from pricing.ledger import Ledger, Totals
from pricing.money import Usd
from pricing.prices import load_prices
from pricing.totals import PARTS
from pricing.usage import Usage

DAY = date(2026, 9, 15)
NOW_US = int(datetime(2026, 9, 15, 12, tzinfo=UTC).timestamp()) * 1_000_000
MODELS = ("o3", "o3-2025-04-16", "gpt-5.6-terra", "gpt-5.6-luna", "gpt-4o-mini", "unknown")
ESTIMATES = ("pending_estimate", "expired_estimate")
BYS = (*PARTS, "tag:team", ("model", "tag:team"))


def ledger() -> Ledger:
    return Ledger(now_us=lambda: NOW_US)


def booked(
    books: Ledger, usage: Usage, model: str = "o3", tier: str | None = None, *, team: str = "", batch: bool = False
) -> None:
    """Post a call at the prices of the day."""
    entry = books.pend(
        model=model, endpoint="/v1/responses", estimate=Usd(1), tags={"team": team} if team else {}, batch=batch
    )
    price = pricing.cost(usage, model=model, service_tier=tier, batch=batch, at=DAY)
    books.post(entry, usage=usage, cost=price, service_tier=tier)


counts = st.integers(0, 400_000)
usages = st.builds(
    Usage,
    counts,
    counts,
    st.just(0) | counts,
    counts,
    counts,
    web_search_calls=st.integers(0, 3),
    output_accepted_prediction_tokens=st.just(0) | counts,
)
amounts = st.none() | st.integers(0, 10**13).map(Usd)


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    """A ledger with calls of all kinds and ends."""
    books = ledger()
    for number in range(draw(st.integers(0, 12))):
        model = draw(st.sampled_from(MODELS))
        tier = draw(st.sampled_from([None, "default", "auto", "flex", "priority", "absurd"]))
        batch = draw(st.booleans())
        entry = books.pend(
            model=model,
            endpoint="/v1/responses",
            estimate=draw(amounts),
            worst=draw(amounts),
            tags=draw(st.sampled_from([{}, {"team": "a"}, {"team": "total"}])),
            service_tier=tier,
            batch=batch,
            expected=draw(st.sampled_from([{}, {"input_tokens": 9, "output_tokens": 5, "output_p95": 50}])),
        )
        end = draw(st.sampled_from(["posted", "posted", "posted", "odd", "voided", "expired", "pending"]))
        if end == "posted":
            usage = draw(usages)
            price = pricing.cost(usage, model=model, service_tier=tier, batch=batch, at=DAY)
            books.post(entry, usage=usage, cost=price, response_id=f"r{number}", exact=draw(st.booleans()))
        elif end == "odd":
            books.post(entry, usage=None, cost=None)
        elif end == "voided":
            books.void(entry, "HTTP 429: not billed")
        elif end == "expired":
            books.expire(entry, "nobody knows")
    return books


def check(group: Group, totals: Totals) -> None:
    """Compare a group with what the ledger says of the same entries."""
    parts = [(name, part) for cell in group.cells for name, part in cell.parts.items()]
    sums = {name: sum(part.pico for there, part in parts if there == name) for name in ESTIMATES}
    assert sum(part.pico for name, part in parts if name not in ESTIMATES) == totals.posted.pico
    assert sums == {name: getattr(totals, name).pico for name in ESTIMATES}
    assert group.requests == totals.posted_count + totals.pending_count + totals.expired_count
    assert group.without_price >= totals.unpriced_count
    assert sum(cell.requests for cell in group.cells) == group.requests - group.without_price
    if group.cost is None:
        assert not group.cells
    else:
        assert group.cost.expected == sum(cell.pico for cell in group.cells) == group.cost.p50
        assert group.cost.p5 == totals.posted.pico
        assert group.cost.p5 <= group.cost.expected <= group.cost.p95 == group.cost.worst
    if not totals.pending_count + totals.expired_count:
        assert (group.input, group.output) == (totals.input_tokens, Range.known(totals.output_tokens))
        if group.cost is not None:
            assert group.cost == Range.known(totals.posted.pico)


@given(ledgers(), st.sampled_from(BYS))
def test_groups_are_the_ledger_s_totals(books: Ledger, by: str | tuple[str, ...]) -> None:
    """Each group, and their whole, has the posted cost, the estimates, the counts and the tokens of the ledger."""
    groups = groups_of(books.entries(), by)
    totals = {
        {"": "-", TOTAL: "(total)"}.get(name, name): total
        for name, total in books.totals(by=by).items()
        if total.posted_count + total.pending_count + total.expired_count
    }
    assert [group.name for group in groups] == sorted(totals)
    for group in groups:
        check(group, totals[group.name])
        assert [cell.key for cell in group.cells] == sorted({cell.key for cell in group.cells})
    whole = together(groups)
    if groups:
        check(whole, books.totals())


@given(ledgers())
def test_what_was_booked_is_a_report(books: Ledger) -> None:
    """Written and read again it is the same: nothing in it is what a report refuses."""
    groups = groups_of(books.entries(), "tag:team")
    report = Report(Header("1", "2026-09-15", "p", "", "", {}), groups, together(groups))
    with TemporaryDirectory() as folder:
        file = Path(folder, "report.json")
        file.write_text(dumps(report), encoding="ascii")
        assert dumps(load_report(file)) == dumps(report)


def test_parts_know_their_quantities() -> None:
    """What a part costs is its quantity at the row's price: caches, reasoning, tools, predictions."""
    books, row = ledger(), load_prices().lookup("gpt-5.6-terra", None, DAY)
    assert row is not None
    usage = Usage(1000, 200, 30, 50, 7, web_search_calls=2, output_accepted_prediction_tokens=5)
    booked(books, usage, "gpt-5.6-terra")
    (group,) = groups_of(books.entries(), "model")
    (cell,) = group.cells
    assert (cell.model, cell.service_tier, cell.long, cell.requests) == ("gpt-5.6-terra", "standard", False, 1)
    assert cell.read == row.source.read
    quantities = {name: part.quantity for name, part in cell.parts.items()}
    assert quantities == {"input": 1000, "cached_input": 200, "cache_write": 30, "output": 62, "web_search_calls": 2}
    for kind in ("input", "cached_input", "cache_write", "output"):
        assert cell.parts[kind].pico == cell.parts[kind].quantity * row.pico_per_token[kind]


def test_cells_are_named_as_prices_name_them() -> None:
    """Snapshots and aliases of a tier share a cell; long requests, tiers and batches have cells of their own."""
    books = ledger()
    for model in ("o3", "o3-2025-04-16"):
        booked(books, Usage(10, output_tokens=1), model)
    booked(books, Usage(10, output_tokens=1), "o3", "flex")
    booked(books, Usage(10, output_tokens=1), "o3", batch=True)
    booked(books, Usage(300_000, output_tokens=1), "gpt-5.6-terra")
    cells = together(groups_of(books.entries(), "model")).cells
    assert [cell.key for cell in cells if cell.model == "o3"] == [
        ("o3", "batch", False), ("o3", "flex", False), ("o3", "standard", False),
    ]  # fmt: skip
    assert [cell.requests for cell in cells if cell.model == "o3"] == [1, 1, 2]
    assert ("gpt-5.6-terra", "standard", True) in [cell.key for cell in cells]


def test_an_overlay_s_rows_are_read_without_the_overlay(tmp_path: Path) -> None:
    """A discounted row, and a row of another file, name their model and tier though the file is not at hand."""
    file = tmp_path / "acme.yaml"
    file.write_text(
        'version: 1\ncurrency: USD\nsources: {deal: {url: "https://acme.example", read: "2026-08-01"}}\n'
        'rows:\n  - {model: o3, service_tier: flex, effective_from: "2026-01-01", source: deal,'
        ' usd_per_mtok: {input: "1.00", output: "2.00"}}\n'
        '  - {model: "ft:gpt-4o", service_tier: standard, effective_from: "2026-01-01", source: deal,'
        ' usd_per_mtok: {input: "4.00", output: "9.00"}}\n'
        'adjustments:\n  - {percent: "-15", effective_from: "2026-01-01", models: [o4-mini], source: deal}\n'
    )
    table = load_prices(overlay=file)
    books = ledger()
    for model, tier in (("ft:gpt-4o-2024-08-06:acme::x", None), ("o3", "flex"), ("o4-mini", None)):
        entry = books.pend(model=model, endpoint="/v1/responses", estimate=None)
        price = pricing.cost(Usage(100, output_tokens=9), model=model, service_tier=tier, at=DAY, prices=table)
        books.post(entry, usage=Usage(100, output_tokens=9), cost=price)
    without, given_it = (together(groups_of(books.entries(), "run", prices=one)).cells for one in (None, table))
    assert [cell.key for cell in without] == [
        ("ft:gpt-4o", "standard", False), ("o3", "flex", False), ("o4-mini", "standard", False),
    ]  # fmt: skip
    assert [cell.read for cell in without[:2]] == ["", ""]
    assert [cell.read for cell in given_it[:2]] == ["2026-08-01"] * 2
    assert without[2].read == given_it[2].read != ""


def test_what_has_no_bill_counts_at_its_estimate() -> None:
    """A pending and an expired call are in the cost at their estimates, in its range up to their worst cases."""
    books = ledger()
    told = {"input_tokens": 100, "output_tokens": 20, "output_p50": 15, "output_p95": 60}
    settings = {"model": "o3-2025-04-16", "endpoint": "/v1/responses", "estimate": Usd(5), "worst": Usd(70)}
    books.pend(**settings, expected=told)  # type: ignore[arg-type]  # as typed above
    books.expire(books.pend(**settings, expected=told), "cut")  # type: ignore[arg-type]  # as typed above
    books.void(books.pend(**settings), "HTTP 500: not billed")  # type: ignore[arg-type]  # as typed above
    books.pend(model="o3", endpoint="/v1/responses", estimate=None)
    (group,) = groups_of(books.entries(), "endpoint")
    assert group.cost == Range(10, 0, 10, 140, 140)
    (cell,) = group.cells
    assert cell.key == ("o3", "standard", False)
    assert cell.parts == {"pending_estimate": Part(1, 5), "expired_estimate": Part(1, 5)}
    assert (group.requests, group.input, group.output) == (3, 200, Range(40, 0, 30, 120, 120))
    assert group.unpriced == {"pending, and no price was known before it was sent": 1}


def test_an_unknown_price_is_a_reason_and_no_cost() -> None:
    """Calls without a price are counted by reason; where no call has one there is no cost, not one of $0."""
    books = ledger()
    booked(books, Usage(10, output_tokens=1), "unknown")
    (group,) = groups_of(books.entries(), "model")
    assert (group.cost, group.cells, group.unpriced) == (None, (), {"no price row for 'unknown'": 1})
    assert together([group]).cost is None
    assert together([]).cost == Range.known(0)


def test_components_that_do_not_add_up_are_one_part() -> None:
    """An entry of another program's making is in the sum with what it says it cost."""
    books = ledger()
    booked(books, Usage(10, output_tokens=1))
    entries = [entry._replace(components={"input": Usd(1)}) for entry in books.entries()]
    (group,) = groups_of(entries, "model")
    (cell,) = group.cells
    assert cell.parts == {"other": Part(1, books.totals().posted.pico)}


def test_a_ledger_is_split_by_what_it_knows() -> None:
    """Anything else is refused by name, before an entry is read."""
    with pytest.raises(ConfigError, match="tag:NAME, not 'colour'"):
        groups_of(iter(()), "colour")


def entries(number: int) -> Iterator[Entry]:
    """A long ledger, of which no two reasons or response ids are the same."""
    books = ledger()
    booked(books, Usage(10, output_tokens=1), team="a")
    books.post(
        books.pend(model="o3", endpoint="/v1/responses", estimate=None), usage=Usage(1), cost=Unpriced("no price")
    )
    priced, unpriced = books.entries()
    for place in range(number):
        yield priced._replace(id=place, response_id=f"resp_{place}")
        yield unpriced._replace(id=place, why=f"reason {place}")


def test_a_long_ledger_takes_no_more_memory() -> None:
    """Entries are not kept, and of reasons that all differ so many as anybody reads."""
    next(iter(groups_of(entries(1), "model")))  # tables are loaded
    tracemalloc.start()
    (group,) = groups_of(entries(20_000), "model")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert group.requests == 40_000
    assert group.unpriced["other reasons"] == 20_000 - MOST_REASONS
    assert peak < 2_000_000
    assert isinstance(group.cells[0], Cell)
