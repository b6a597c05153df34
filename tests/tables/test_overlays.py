"""Overlays: negotiated prices and discounts go before the table on their days, and a cost names row and file."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from pricing import Cost, Unpriced, Usage, Usd, cost, estimate
from pricing.errors import TableError
from pricing.prices import load_prices
from pricing.resources import data_path

HEAD = """\
version: 1
currency: USD
sources:
  contract: {url: "https://example.com/order-form-7", read: "2026-01-15"}
"""
DISCOUNTS = """\
adjustments:
  - {percent: "-10", effective_from: "2026-01-01", effective_until: "2026-12-31", source: contract}
  - percent: "-15"
    models: [o3, o4-mini]
    service_tiers: [standard]
    effective_from: "2026-03-01"
    source: contract
"""
ROWS = """\
rows:
  - model: o3
    service_tier: standard
    effective_from: "2026-06-01"
    effective_until: "2026-08-31"
    usd_per_mtok: {input: "1.70", cached_input: "0.40", output: "6.50"}
    source: contract
"""
USED = Usage(1_000_000, 1_000_000, 0, 1_000_000)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write an overlay and give its path."""

    def make(body: str, name: str = "acme.yaml", head: str = HEAD) -> Path:
        path = tmp_path / name
        path.write_text(head + body, "utf-8")
        return path

    return make


@pytest.mark.parametrize(
    ("model", "tier", "at", "dollars", "row"),
    [
        ("o3", None, date(2025, 12, 31), "10.5", "o3/standard/2025-06-10"),
        ("o3", None, date(2026, 2, 1), "9.45", "o3/standard/2025-06-10 -10 % by acme.yaml"),
        ("o3", "flex", date(2026, 7, 1), "4.725", "o3/flex/2025-06-10 -10 % by acme.yaml"),
        ("o3", None, date(2026, 5, 31), "8.925", "o3/standard/2025-06-10 -15 % by acme.yaml"),
        ("o3", None, date(2026, 6, 1), "8.6", "acme.yaml:o3/standard/2026-06-01"),
        ("o3", None, date(2026, 8, 31), "8.6", "acme.yaml:o3/standard/2026-06-01"),
        ("o3", None, date(2026, 9, 1), "8.925", "o3/standard/2025-06-10 -15 % by acme.yaml"),
        ("gpt-5", None, date(2026, 7, 1), "10.2375", "gpt-5/standard/2025-08-07 -10 % by acme.yaml"),
        ("gpt-5", None, date(2027, 1, 1), "11.375", "gpt-5/standard/2025-08-07"),
    ],
)
def test_each_day_has_its_price_and_names_its_row(
    write: Callable[..., Path], model: str, tier: str | None, at: date, dollars: str, row: str
) -> None:
    """A negotiated row goes before list prices and their discounts; the last discount that applies does; days count."""
    table = load_prices(overlay=write(DISCOUNTS + ROWS))
    answer = cost(USED, model=model, service_tier=tier, at=at, prices=table, strict=True)
    assert isinstance(answer, Cost)
    assert answer.total == Usd.parse(dollars)
    assert answer.row_id == row
    file = "acme.yaml" if row.startswith("acme") else "prices.yaml"
    assert set(answer.priced_by.values()) == {row if file == "acme.yaml" else f"{file}:{row}"}
    assert answer.table_version == table.version != load_prices().version


def test_the_shipped_table_stays_what_it_was(write: Callable[..., Path]) -> None:
    """An overlay changes the table that it makes, and no other."""
    before = cost(USED, model="o3", at=date(2026, 7, 1)).total
    load_prices(overlay=write(DISCOUNTS + ROWS))
    assert cost(USED, model="o3", at=date(2026, 7, 1)).total == before
    assert load_prices(overlay=()) is load_prices()


def test_overlays_stand_on_each_other(write: Callable[..., Path]) -> None:
    """A later overlay goes before an earlier one, and its discounts hold for the earlier one's rows too."""
    more = write('adjustments:\n  - {percent: "+50", effective_from: "2026-01-01", source: contract}\n', "more.yaml")
    table = load_prices(overlay=[write(ROWS), more])
    answer = cost(USED, model="o3", at=date(2026, 7, 1), prices=table, strict=True)
    assert isinstance(answer, Cost)
    assert answer.total == Usd.parse("12.9")
    assert answer.row_id == "acme.yaml:o3/standard/2026-06-01 +50 % by more.yaml"


def test_a_discount_holds_for_long_requests_and_fractions_are_not_given_away(write: Callable[..., Path]) -> None:
    """A discount of a price that is no whole pico-dollar is rounded up, and the long price is discounted too."""
    table = load_prices(
        overlay=write('adjustments:\n  - {percent: "-33.33", effective_from: "2026-01-01", source: contract}\n')
    )
    answer = cost(Usage(300_000), model="gpt-5.4", at=date(2026, 7, 1), prices=table, strict=True)
    assert answer.total == Usd(300_000 * 3_333_500)
    odd = cost(Usage(3), model="gpt-5-nano", at=date(2026, 7, 1), prices=table, strict=True)
    assert odd.total == Usd(3 * 33_335)
    sliver = cost(Usage(0, 3), model="gpt-4o-mini", at=date(2026, 7, 1), prices=table, strict=True)
    assert sliver.total == Usd(3 * 50_003)  # 75,000 × 0.6667 = 50,002.5


def test_a_new_tier_and_a_new_kind_are_lines_of_a_table(write: Callable[..., Path]) -> None:
    """A tier, a kind of token, a tool and a unit that nobody knew are priced as soon as a table has them."""
    table = load_prices(
        overlay=write(
            """\
service_tiers: {warp: [hyper]}
token_kinds: [input_smell, output_smell]
billed_as: {output_smell: output}
rows:
  - model: o3
    service_tier: warp
    effective_from: "2026-06-01"
    usd_per_mtok: {input: "5.00", input_smell: "7.00", output: "9.00"}
    usd_per_1k: {images: "40.00"}
    source: contract
fees:
  - {fee: teleports, effective_from: "2026-06-01", usd_per_1k: "1000.00", models: [o3], source: contract}
  - {fee: teleports, effective_from: "2026-07-01", usd_per_1k: "2000.00", models: [o3], source: contract}
"""
        )
    )
    used = Usage(1_000, input_smell_tokens=1_000, output_smell_tokens=1_000, images=2, teleports=3)
    for tier in ("warp", "hyper"):
        answer = cost(used, model="o3", service_tier=tier, at=date(2026, 6, 2), prices=table, strict=True)
        assert answer.total == Usd.parse("3.101")
    assert isinstance(cost(used, model="o3", service_tier="warp", at=date(2026, 6, 2)), Unpriced)
    later = cost(used, model="o3", service_tier="warp", at=date(2026, 7, 1), prices=table, strict=True)
    assert later.total == Usd.parse("6.101")
    assert isinstance(later, Cost)
    assert later.priced_by["teleports"] == "acme.yaml:teleports/2026-07-01"
    assert [fee.id for fee in table.fees("o3", date(2026, 6, 2))][-1] == "acme.yaml:teleports/2026-06-01"
    assert table.fee("teleports", "o3-pro", date(2026, 6, 2)) is None


def test_estimates_are_made_at_the_overlay_s_prices(write: Callable[..., Path]) -> None:
    """What is held for a call before it is sent is at the negotiated price too."""
    body = {"model": "o3", "input": "word", "max_output_tokens": 1_000, "service_tier": "default"}
    table = load_prices(overlay=write(ROWS))
    listed = estimate(body, at=date(2026, 7, 1)).cost
    negotiated = estimate(body, at=date(2026, 7, 1), prices=table).cost
    assert not isinstance(listed, Unpriced)
    assert not isinstance(negotiated, Unpriced)
    assert negotiated.worst < listed.worst
    assert negotiated.mean < listed.mean


UNCARDED = """rows:
  - model: gpt-3.5-turbo-instruct
    service_tier: standard
    effective_from: "2026-01-01"
    usd_per_mtok: {input: "1.50", output: "2"}
    source: contract
  - model: ft:gpt-4o-mini
    service_tier: standard
    effective_from: "2026-01-01"
    usd_per_mtok: {input: "0.30", output: "1.20"}
    source: contract
  - model: "ft:gpt-4o-mini-2024-07-18:acme:own:1"
    service_tier: standard
    effective_from: "2026-01-01"
    usd_per_mtok: {input: "3", output: "12"}
    source: contract
"""


@pytest.mark.parametrize(
    ("model", "dollars"),
    [
        ("gpt-3.5-turbo-instruct", "3.5"),
        ("ft:gpt-4o-mini-2024-07-18:acme:own:1", "15"),
        ("ft:gpt-4o-mini-2024-07-18:acme::AbC2", "1.5"),
        ("ft:gpt-4o-mini:acme::AbC2", "1.5"),
        ("gpt-4o-mini", "0.75"),
        ("ft:gpt-4o-2024-08-06:acme::AbC2", None),
        ("nobody-priced-this", None),
    ],
)
def test_an_overlay_prices_what_no_card_names(write: Callable[..., Path], model: str, dollars: str | None) -> None:
    """A model without a card has the price of its own row; a fine-tune its own, or that of its base's fine-tunes."""
    table, day = load_prices(overlay=write(UNCARDED)), date(2026, 7, 1)
    answer = cost(Usage(1_000_000, output_tokens=1_000_000), model=model, at=day, prices=table)
    guess = estimate({"model": model, "prompt": "word", "max_tokens": 5}, at=day, prices=table)
    if dollars is None:
        assert isinstance(answer, Unpriced)
        assert isinstance(guess.cost, Unpriced)
    else:
        assert answer.total == Usd.parse(dollars)
        assert not isinstance(guess.cost, Unpriced)
        assert guess.cost.mean > Usd.ZERO


def test_a_discount_and_a_fee_may_name_what_the_overlay_prices(write: Callable[..., Path]) -> None:
    """Once an overlay prices a model that has no card, the adjustments and fees of those above it may name it."""
    parts = """adjustments: [{percent: "-50", models: [gpt-3.5-turbo-instruct], effective_from: "2026-01-01", source: contract}]
fees: [{fee: x, models: [gpt-3.5-turbo-instruct], effective_from: "2026-01-01", usd_per_1k: "1", source: contract}]
"""  # noqa: E501
    table = load_prices(overlay=[write(UNCARDED), write(parts, "more.yaml")])
    answer = cost(Usage(1_000_000), model="gpt-3.5-turbo-instruct", at=date(2026, 7, 1), prices=table, strict=True)
    assert answer.total == Usd.parse("0.75")
    assert table.fee("x", "gpt-3.5-turbo-instruct", date(2026, 7, 1)) is not None
    assert table.fee("x", "o3", date(2026, 7, 1)) is None


def test_a_whole_table_prices_models_with_cards_only(write: Callable[..., Path]) -> None:
    """What overlays may, the table itself may not: there a name without a card is a mistake."""
    with pytest.raises(TableError, match=r"unknown model 'gpt-3\.5-turbo-instruct'"):
        load_prices(write(UNCARDED))


WRONG = {
    "nothing in it": ("", "expected at least one of rows, fees, adjustments, regional_uplift"),
    "no sign": (
        'adjustments: [{percent: "15", effective_from: "2026-01-01", source: contract}]',
        "expected a percentage with its sign",
    ),
    "more than all": (
        'adjustments: [{percent: "-101", effective_from: "2026-01-01", source: contract}]',
        "takes off all that there is",
    ),
    "all": (
        'adjustments: [{percent: "-100", effective_from: "2026-01-01", source: contract}]',
        "takes off all that there is",
    ),
    "more than ten times": (
        'adjustments: [{percent: "+1000.01", effective_from: "2026-01-01", source: contract}]',
        "is more than +1000 %",
    ),
    "no such model": (
        'adjustments: [{percent: "-1", models: [o9], effective_from: "2026-01-01", source: contract}]',
        "unknown model 'o9'",
    ),
    "no such tier": (
        'adjustments: [{percent: "-1", service_tiers: [fast], effective_from: "2026-01-01", source: contract}]',
        "expected one of standard, batch",
    ),
    "ends before it begins": (
        'adjustments: [{percent: "-1", effective_from: "2026-01-02", effective_until: "2026-01-01", source: contract}]',
        "expected a day from 2026-01-02 on",
    ),
    "no such source": (
        'adjustments: [{percent: "-1", effective_from: "2026-01-01", source: handshake}]',
        "unknown source 'handshake'",
    ),
    "a fee in two units": (
        'fees: [{fee: x, effective_from: "2026-01-01", usd_per_1k: "1", usd_per_minute: "1", source: contract}]',
        "expected one of usd_per_minute, usd_per_1k, usd_per_gib_day",
    ),
    "fees from new to old": (
        """fees:
  - {fee: x, effective_from: "2026-01-02", usd_per_1k: "1", source: contract}
  - {fee: x, effective_from: "2026-01-01", usd_per_1k: "1", source: contract}
""",
        "fees of one kind go from old to new",
    ),
    "a fee without a name": (
        'fees: [{fee: "a b", effective_from: "2026-01-01", usd_per_1k: "1", source: contract}]',
        "expected a name of small letters",
    ),
    "billed as nothing": ("billed_as: {output: nothing}\nfees: []", "expected one of input, cached_input"),
    "a kind nobody declared": (
        """rows:
  - model: o3
    service_tier: standard
    effective_from: "2026-01-01"
    usd_per_mtok: {input: "1", input_smell: "1"}
    source: contract
""",
        "unknown key 'input_smell'",
    ),
}


@pytest.mark.parametrize(("body", "reason"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_overlay_says_what_is_wrong(write: Callable[..., Path], body: str, reason: str) -> None:
    """An overlay is read as strictly as a table: file, line, and what was expected."""
    path = write(body)
    with pytest.raises(TableError) as caught:
        load_prices(overlay=path)
    assert reason in caught.value.reason
    assert caught.value.file == str(path)
    assert caught.value.line is not None


def test_the_schema_reads_overlays(write: Callable[..., Path]) -> None:
    """The schema of prices.yaml is the schema of an overlay too."""
    schema = json.loads(data_path("prices.schema.json").read_text("utf-8"))
    assert list(Draft202012Validator(schema).iter_errors(yaml.safe_load(HEAD + DISCOUNTS + ROWS))) == []
    assert list(Draft202012Validator(schema).iter_errors(yaml.safe_load(HEAD + UNCARDED))) == []
    for name in (
        "no sign",
        "more than all",
        "all",
        "more than ten times",
        "a fee in two units",
        "a fee without a name",
        "nothing in it",
    ):
        assert list(Draft202012Validator(schema).iter_errors(yaml.safe_load(HEAD + WRONG[name][0]))), name
