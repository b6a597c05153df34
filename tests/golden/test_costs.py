"""Golden costs: rows calculated by others (genai-prices, OpenAI's price page) for our models, to the pico-dollar."""

from __future__ import annotations

import calendar
import gzip
import json
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pricing import Cost, Unpriced, Usage, Usd, cost
from pricing.errors import ConfigError, UnpricedError

DATA = Path(__file__).parent.parent / "data" / "cost_cases.json.gz"

EXCEPTIONS: dict[int, str] = {}
"""Row id → why our table states no price for it, so that the answer must be Unpriced. No row needs it today."""


@cache
def cases() -> list[dict[str, Any]]:
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = json.load(file)
    return rows


def day_of(as_of: str) -> date:
    """ "2026-08-21" is that day; "2025-11" is the last day of that month."""
    if len(as_of) > 7:
        return date.fromisoformat(as_of)
    year, month = map(int, as_of.split("-"))
    return date(year, month, calendar.monthrange(year, month)[1])


def by_hand(usage: dict[str, Any], usd_in: str, usd_cached: str, usd_out: str) -> Usd:
    """A chat usage times prices per million tokens, in integers."""
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    parts = ((usage["prompt_tokens"] - cached, usd_in), (cached, usd_cached), (usage["completion_tokens"], usd_out))
    return Usd(sum(count * Usd.parse(price).pico // 10**6 for count, price in parts))


def test_all_rows_are_there() -> None:
    """The file holds the seven rows for our models; a truncated file cannot pass."""
    assert [row["id"] for row in cases()] == [92, 95, 117, 403, 457, 458, 496]
    assert {row["model"] for row in cases()} == {"o3", "o3-pro", "o3-mini-2025-01-31"}
    assert all(row["source"] for row in cases())


@pytest.mark.parametrize("row", cases(), ids=lambda row: f"{row['id']}-{row['model']}-{row['service_tier']}")
def test_costs_equal_what_others_calculated(row: dict[str, Any]) -> None:
    """On its day each row costs exactly what its source says, or is Unpriced for a reason listed here."""
    answer = cost(row["usage"], model=row["model"], service_tier=row["service_tier"], at=day_of(row["as_of"]))
    if row["id"] in EXCEPTIONS:
        assert isinstance(answer, Unpriced)
    else:
        assert answer.total == Usd.parse(row["expected_usd"])
        assert isinstance(answer, Cost)
        assert sum(answer.components.values(), Usd.ZERO) == answer.total


def test_the_month_of_a_row_has_one_price() -> None:
    """Rows dated by month hold on its first day too: no price changed within it."""
    for row in cases():
        if len(row["as_of"]) == 7:
            first = day_of(row["as_of"]).replace(day=1)
            answer = cost(row["usage"], model=row["model"], service_tier=row["service_tier"], at=first)
            assert answer.total == Usd.parse(row["expected_usd"])


CHAT = {
    "prompt_tokens": 12_345,
    "completion_tokens": 6_789,
    "prompt_tokens_details": {"cached_tokens": 2_000},
    "completion_tokens_details": {"reasoning_tokens": 6_000},
}


def test_the_readme_example() -> None:
    """1,000 in and 500 out of o3-pro cost 6 cents."""
    answer = cost({"input_tokens": 1_000, "output_tokens": 500}, model="o3-pro")
    assert answer.total == Usd.parse("0.06")
    assert repr(answer).startswith("Cost(0.06 USD, o3-pro/standard/")


def test_cached_tokens_of_o3_pro_cost_the_full_price_and_it_says_so() -> None:
    """o3-pro publishes no cached price: 2,000 cached tokens cost as much as fresh ones, and a note says so."""
    answer = cost(CHAT, model="o3-pro-2025-06-10")
    assert answer.total == Usd.parse("0.79002") == by_hand(CHAT, "20", "20", "80")
    assert isinstance(answer, Cost)
    assert any("2000 cached tokens at the full input price" in note for note in answer.notes)


@pytest.mark.parametrize(
    ("model", "service_tier", "prices"),
    [
        ("o3", None, ("2", "0.5", "8")),
        ("o3", "flex", ("1", "0.25", "4")),
        ("o3", "priority", ("3.5", "0.875", "14")),
        ("o3-mini", None, ("1.1", "0.55", "4.4")),
        ("o3-pro", "batch", ("10", "10", "40")),
    ],
)
def test_every_tier_has_its_own_price(model: str, service_tier: str | None, prices: tuple[str, str, str]) -> None:
    """A call is priced in the tier that served it, cached tokens and reasoning included."""
    answer = cost(CHAT, model=model, service_tier=service_tier, at=date(2025, 12, 1))
    assert answer.total == by_hand(CHAT, *prices)
    assert isinstance(answer, Cost)
    assert answer.service_tier == (service_tier or "standard")


UNPRICED = {
    "unknown model": ({"model": "gpt-unknown"}, "no price row for 'gpt-unknown'"),
    "a fine-tuned model has a price of its own": ({"model": "ft:gpt-4o:acme::7p4lURel"}, "no price row"),
    "o3 batch publishes no cached price": ({"model": "o3", "batch": True}, "no price for cached input"),
    "o3-mini batch neither": ({"model": "o3-mini", "batch": True}, "no price for cached input"),
    "o3-pro has no priority": ({"model": "o3-pro", "service_tier": "priority"}, "no priority price row"),
    "unknown tier": ({"model": "o3", "service_tier": "warp"}, "no warp price row"),
    "before the model": ({"model": "o3", "at": date(2025, 4, 15)}, "on 2025-04-15"),
    "the day counts in default too": (
        {"model": "o3", "service_tier": "default", "at": date(2025, 4, 15)},
        "on 2025-04-15",
    ),
    "batch before its row": ({"model": "o3", "batch": True, "at": date(2025, 6, 9)}, "on 2025-06-09"),
}


@pytest.mark.parametrize(("call", "reason"), UNPRICED.values(), ids=UNPRICED.keys())
def test_what_has_no_price_is_unpriced_and_never_zero(call: dict[str, Any], reason: str) -> None:
    """No row, no price: the answer is falsy, says why, has no total, and raises when strict."""
    answer = cost(CHAT, **call)
    assert isinstance(answer, Unpriced)
    assert not answer
    assert not answer.priced
    assert reason in answer.reason
    with pytest.raises(UnpricedError, match=r"no .*price"):
        answer.total  # noqa: B018 — asking is the test
    with pytest.raises(TypeError):
        sum([answer], Usd.ZERO)  # type: ignore[list-item]
    with pytest.raises(UnpricedError, match=r"no .*price"):
        cost(CHAT, strict=True, **call)


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": 9}, {"output_tokens": 9}])
def test_a_reply_without_usage_is_unpriced(usage: dict[str, Any] | None) -> None:
    """A reply that does not say what it used has no cost, not a cost of zero."""
    answer = cost(usage, model="o3")
    assert isinstance(answer, Unpriced)
    assert "usage" in answer.reason


def test_cache_writes_have_no_price() -> None:
    """Tokens written to a cache are in no row, so the call is unpriced."""
    answer = cost(Usage(10, 0, 5, 1), model="o3")
    assert isinstance(answer, Unpriced)
    assert "cache writes" in answer.reason


def test_a_cost_is_true_even_when_it_is_nothing() -> None:
    """A call that used nothing cost a known $0: that is a Cost, and truthy, unlike Unpriced."""
    answer = cost(Usage(), model="o3")
    assert isinstance(answer, Cost)
    assert answer
    assert answer.total == Usd.ZERO


def test_batch_is_half_price() -> None:
    """batch=True prices by the batch row, whatever tier the reply names."""
    usage = {"input_tokens": 1_000, "output_tokens": 500}
    for model in ("o3", "o3-pro", "o3-mini"):
        full = cost(usage, model=model).total
        assert cost(usage, model=model, batch=True).total * 2 == full
        assert cost(usage, model=model, batch=True, service_tier="default").total * 2 == full
        assert cost(usage, model=model, service_tier="batch").total * 2 == full


def test_fast_is_priority() -> None:
    """Fast is what Priority has been called since 2026-07-30: the same row."""
    fast, priority = (cost(CHAT, model="o3", service_tier=tier, strict=True) for tier in ("fast", "priority"))
    assert isinstance(fast, Cost)
    assert isinstance(priority, Cost)
    assert (fast.total, fast.row_id) == (priority.total, priority.row_id)
    assert fast.total > cost(CHAT, model="o3").total


@pytest.mark.parametrize("service_tier", [None, "", "default", "auto", "standard"])
def test_standard_by_any_name(service_tier: str | None) -> None:
    """None, "default" and "auto" are the standard tier."""
    answer = cost(CHAT, model="o3", service_tier=service_tier, strict=True)
    assert isinstance(answer, Cost)
    assert answer.row_id == "o3/standard/2025-06-10"


PACIFIC = timezone(timedelta(hours=-7))


@pytest.mark.parametrize(
    ("at", "prices"),
    [
        (date(2025, 4, 16), ("10", "2.5", "40")),
        (date(2025, 6, 9), ("10", "2.5", "40")),
        (date(2025, 6, 10), ("2", "0.5", "8")),
        (datetime(2025, 6, 9, 23, 59, 59, tzinfo=UTC), ("10", "2.5", "40")),
        (datetime(2025, 6, 10, tzinfo=UTC), ("2", "0.5", "8")),
        (datetime(2025, 6, 9, 17, tzinfo=PACIFIC), ("2", "0.5", "8")),
        (datetime(2025, 6, 9, 16, 59, tzinfo=PACIFIC), ("10", "2.5", "40")),
    ],
    ids=str,
)
def test_a_past_day_has_its_past_price(at: date, prices: tuple[str, str, str]) -> None:
    """o3 cost five times as much until 2025-06-09 (UTC); old calls are priced as they were."""
    assert cost(CHAT, model="o3", at=at).total == by_hand(CHAT, *prices)


def test_a_usage_prices_like_the_reply_it_came_from() -> None:
    """A Usage, its dictionary, and the reply's own object have one cost; contradictions go into the notes."""
    usage = Usage.from_response(CHAT)
    assert usage is not None
    assert {cost(form, model="o3").total for form in (usage, usage.as_dict(), CHAT)} == {by_hand(CHAT, "2", "0.5", "8")}
    odd = cost({**CHAT, "prompt_tokens_details": {"cached_tokens": 99_999}}, model="o3")
    assert isinstance(odd, Cost)
    assert any("clamped" in note for note in odd.notes)
    with pytest.raises(ConfigError, match="usage is a Usage"):
        cost(7, model="o3")  # type: ignore[arg-type]
