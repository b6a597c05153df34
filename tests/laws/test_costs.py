"""Laws of a cost: exact, a plain sum, linear, dated, and never $0 for what has no price.

The oracle reads prices.yaml with another reader and multiplies fractions; it shares no code with pricing.cost.
"""

from __future__ import annotations

import tempfile
from datetime import date, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing import Cost, Unpriced, Usage, Usd, cost
from pricing.prices import load_prices
from pricing.resources import data_path

TABLE: dict[str, Any] = yaml.safe_load(data_path("prices.yaml").read_text("utf-8"))
TOKENS = [f"{kind}_tokens" for kind in TABLE["token_kinds"]]
MODELS = sorted({row["model"] for row in TABLE["rows"]})
TIERS = list(TABLE["service_tiers"])
counts = st.integers(0, 300_000)
usages = st.dictionaries(st.sampled_from(TOKENS), counts, max_size=5)
days = st.dates(date(2025, 4, 1), date(2027, 6, 1))
calls = st.tuples(st.sampled_from(MODELS), st.sampled_from(TIERS), days)


def row_of(model: str, tier: str, at: date) -> dict[str, Any] | None:
    """The last row of a model and tier that has begun, unless it has ended."""
    begun = [
        row
        for row in TABLE["rows"]
        if (row["model"], row["service_tier"]) == (model, tier) and row["effective_from"] <= str(at)
    ]
    return begun[-1] if begun and begun[-1].get("effective_until", "9999") >= str(at) else None


def by_hand(used: dict[str, int], row: dict[str, Any] | None) -> Fraction | None:
    """Millionths of a dollar; None where a kind has no price."""
    if row is None:
        return None
    read = sum(count for kind, count in used.items() if kind.startswith(("input", "cached", "cache_write")))
    rates = row.get("usd_per_mtok", {})
    if "long_context" in row and read > row["long_context"]["above"]:
        if "usd_per_mtok" not in row["long_context"]:
            return None
        rates = row["long_context"]["usd_per_mtok"]
    total = Fraction(0)
    for name, count in used.items():
        kind = name.removesuffix("_tokens")
        price = rates.get(kind, rates.get(TABLE["billed_as"].get(kind)))
        if price == "input":
            price = rates["input"]
        if count and price is None:
            return None
        total += count * Fraction(price or 0)
    return total


@settings(max_examples=200)
@given(calls, usages)
def test_a_cost_is_what_the_table_says(call: tuple[str, str, date], used: dict[str, int]) -> None:
    """Any tokens of any model, tier and day: exactly the table's prices times the counts, or Unpriced, never $0."""
    model, tier, at = call
    expected = by_hand(used, row_of(*call))
    answer = cost(Usage(**used), model=model, service_tier=tier, at=at)
    if expected is None:
        assert isinstance(answer, Unpriced)
        assert answer.reason
        return
    assert isinstance(answer, Cost)
    assert Fraction(answer.total.pico) == expected * 10**6
    assert sum(answer.components.values(), Usd.ZERO) == answer.total


@given(calls, usages, usages)
def test_the_cost_of_a_sum_is_the_sum_of_the_costs(
    call: tuple[str, str, date], one: dict[str, int], other: dict[str, int]
) -> None:
    """Under one row costs add up, but for requests above the long-context threshold, which have another row."""
    model, tier, at = call
    above = load_prices().lookup(model, tier, at)
    parts = [Usage(**one), Usage(**other)]
    answers = [cost(part, model=model, service_tier=tier, at=at) for part in parts]
    both = cost(parts[0] + parts[1], model=model, service_tier=tier, at=at)
    if above is not None and above.above is not None and max(part.total_input for part in parts) > above.above:
        assert not isinstance(both, Cost) or both.row_id == above.id
        return
    if any(isinstance(answer, Unpriced) for answer in answers):
        assert isinstance(both, Unpriced)
        return
    assert both.total == answers[0].total + answers[1].total


@given(usages, st.sampled_from(["eu", "us"]), st.integers(0, 9), st.integers(0, 9))
def test_components_add_up_with_regions_and_tools(used: dict[str, int], region: str, web: int, files: int) -> None:
    """Tools, a region's uplift and every kind of token: the total is the sum of the components, to the pico-dollar."""
    usage = Usage(**used, web_search_calls=web, file_search_calls=files)
    at = date(2026, 11, 20)
    answer = cost(usage, model="gpt-6-sol", region=region, at=at)
    plain = cost(Usage(**used), model="gpt-6-sol", at=at)
    assert isinstance(answer, Cost) == isinstance(plain, Cost)
    if isinstance(answer, Cost) and isinstance(plain, Cost):
        assert sum(answer.components.values(), Usd.ZERO) == answer.total
        assert answer.total.pico * 10 == plain.total.pico * 11 + (web * 10**10 + files * 25 * 10**8) * 10


@given(st.floats(0, 1e5, allow_nan=False), st.floats(0, 1e5, allow_nan=False))
def test_minutes_add_up_to_a_fraction_of_a_pico_dollar(first: float, second: float) -> None:
    """A price per minute may be no whole pico-dollar per µs: then each cost is rounded up, by less than one."""
    parts = [Usage.from_response({"type": "duration", "seconds": seconds}) for seconds in (first, second)]
    assert parts[0] is not None
    assert parts[1] is not None
    at = date(2026, 11, 20)
    one, other, both = (
        cost(usage, model="gpt-live-transcribe", at=at, strict=True).total.pico
        for usage in (*parts, parts[0] + parts[1])
    )
    assert 0 <= one + other - both <= 1
    assert both >= Fraction(17, 1000) * (parts[0] + parts[1]).extra.get("audio_us", 0) * 10**12 / 60_000_000


new_rows = st.lists(
    st.tuples(st.sampled_from(["o3", "o3-pro", "gpt-5"]), st.integers(1, 900), st.integers(1, 99)),
    min_size=1,
    max_size=3,
    unique_by=lambda row: (row[0], row[1]),
)


@settings(max_examples=15, deadline=None)
@given(new_rows, st.integers(0, 400))
def test_a_change_of_today_s_table_changes_no_cost_of_yesterday(rows: list[tuple[str, int, int]], ago: int) -> None:
    """Rows that are added for days to come leave every cost of the days before as it was, row and all."""
    today = date(2026, 11, 25)
    raw = data_path("prices.yaml").read_text("utf-8")
    added = "".join(
        f'  - {{model: {model}, service_tier: standard, effective_from: "{today + timedelta(days=later)}",'
        f' usd_per_mtok: {{input: "{price}", output: "{price}"}}, source: pricing_page}}\n'
        for model, later, price in sorted(rows)
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "prices.yaml")
        path.write_text(raw.replace("\n# What is billed beside", f"{added}\n# What is billed beside", 1), "utf-8")
        changed = load_prices(path)
    used = Usage(10, 0, 0, 10)
    for model in ("o3", "o3-pro", "gpt-5"):
        at = today - timedelta(days=ago)
        before, after = cost(used, model=model, at=at), cost(used, model=model, at=at, prices=changed)
        assert isinstance(before, Cost)
        assert isinstance(after, Cost)
        assert (before.total, before.row_id) == (after.total, after.row_id)
    model, later, price = max(rows, key=lambda row: row[1])
    future = cost(used, model=model, at=today + timedelta(days=later), prices=changed, strict=True)
    assert future.total == Usd(20 * price * 10**6)


@given(st.text(max_size=30), st.sampled_from(TIERS), usages)
def test_an_unknown_model_is_unpriced(model: str, tier: str, used: dict[str, int]) -> None:
    """A name that is on no card costs nobody knows what, whatever was used, even nothing."""
    names = {row["model"] for row in TABLE["rows"]} | {"gpt-5.6"}
    if model not in names:
        answer = cost(Usage(**used), model=model, service_tier=tier)
        assert isinstance(answer, Unpriced)
        with pytest.raises(Exception, match="no price row for"):
            answer.total  # noqa: B018 — asking is the test
