"""Golden costs: rows calculated by others (genai-prices, OpenAI's price page) for our models, to the pico-dollar."""

from __future__ import annotations

import calendar
import gzip
import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from openai.types import CompletionUsage

from pricing import Cost, Unpriced, Usage, Usd, cost
from pricing.errors import ConfigError, UnpricedError

DATA = Path(__file__).parent.parent / "data" / "cost_cases.json.gz"
RECORDINGS = DATA.with_name("openai_http.jsonl.gz")

NO_CARD = frozenset(
    (
        "gpt-4o-search-preview-2025-03-11", "gpt-4.5-preview-2025-02-27", "o1-mini", "o1-mini-2024-09-12", "gpt-4",
        "gpt-4-0314", "gpt-4-0613", "gpt-4-32k", "gpt-4-32k-0314", "gpt-4-32k-0613", "gpt-4-1106-preview",
        "gpt-4-turbo-2024-04-09", "gpt-35-turbo-0301", "gpt-35-turbo-0613", "gpt-35-turbo-16k-0613",
        "gpt-3.5-turbo-1106", "gpt-3.5-turbo-instruct", "davinci-002", "codex-mini-latest", "gpt-5-codex",
        "gpt-5.1-codex", "gpt-5.1-chat-latest", "gpt-4o-audio-preview", "gpt-4o-mini-audio-preview",
    )
)  # fmt: skip
"""Models that the tables do not have, so that the answer must be Unpriced."""

CUT_THAT_DAY = (23, 24, 25, 180, 192, 208, 242, 307, 334)
"""Rows of gpt-5.6-sol that were calculated on 2026-08-21 with the prices of the day before: the cut is of that day."""


@cache
def cases() -> list[dict[str, Any]]:
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = json.load(file)
    return [row for row in rows if "disputed" not in row["tags"]]


def day_of(as_of: str) -> date:
    """ "2026-08-21" is that day; "2025-11" the last day of that month, and "2025" of that year."""
    if len(as_of) > 7:
        return date.fromisoformat(as_of)
    year, month = int(as_of[:4]), int(as_of[5:] or 12)
    return date(year, month, calendar.monthrange(year, month)[1])


def by_hand(usage: dict[str, Any], usd_in: str, usd_cached: str, usd_out: str) -> Usd:
    """A chat usage times prices per million tokens, in integers."""
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    parts = ((usage["prompt_tokens"] - cached, usd_in), (cached, usd_cached), (usage["completion_tokens"], usd_out))
    return Usd(sum(count * Usd.parse(price).pico // 10**6 for count, price in parts))


def test_all_rows_are_there() -> None:
    """The file holds 274 rows, three of them disputed; a truncated file cannot pass, nor one that is mostly refused."""
    assert len(cases()) == 271
    assert all(row["source"] for row in cases())
    assert sum(row["model"] in NO_CARD for row in cases()) == 32
    assert [row["id"] for row in cases() if "expected_usd_2026_11" in row] == list(CUT_THAT_DAY)


@pytest.mark.parametrize("row", cases(), ids=lambda row: f"{row['id']}-{row['model']}-{row['service_tier']}")
def test_costs_equal_what_others_calculated(row: dict[str, Any]) -> None:
    """On its day each row costs exactly what its source says, or is Unpriced for the reason listed here."""
    day = day_of(row["as_of"])
    if row["id"] in CUT_THAT_DAY:
        after = cost(row["usage"], model=row["model"], at=date(2026, 11, 1)).total
        assert after == Usd.parse(Decimal(row["expected_usd_2026_11"]))
        assert after == cost(row["usage"], model=row["model"], at=day).total
        day -= timedelta(days=1)
    answer = cost(row["usage"], model=row["model"], service_tier=row["service_tier"], at=day)
    if row["model"] in NO_CARD:
        assert isinstance(answer, Unpriced)
        assert answer.reason == f"no price row for {row['model']!r}"
        return
    assert answer.total == Usd.parse(Decimal(row["expected_usd"]))
    assert isinstance(answer, Cost)
    assert sum(answer.components.values(), Usd.ZERO) == answer.total


def test_the_month_of_a_row_has_one_price() -> None:
    """Rows dated by month hold on its first day too, where the model was there: no price changed within it."""
    for row in cases():
        if len(row["as_of"]) == 7 and row["model"] not in NO_CARD | {"gpt-5.1"}:
            first = day_of(row["as_of"]).replace(day=1)
            answer = cost(row["usage"], model=row["model"], service_tier=row["service_tier"], at=first)
            assert answer.total == Usd.parse(Decimal(row["expected_usd"]))


def test_every_recorded_usage_is_read_to_its_totals() -> None:
    """Every usage of the recordings, of every endpoint there is, is read, and its parts add up to what it states."""
    with gzip.open(RECORDINGS, "rt", encoding="utf-8") as file:
        stated = [usage for usage in (json.loads(line)["usage"] for line in file) if usage is not None]
    assert len(stated) > 900
    for one in stated:
        usage = Usage.from_response(one)
        assert usage is not None
        assert usage.notes == ()
        assert usage.total_input + usage.total_output == one["total_tokens"]
        assert usage.total_input == one.get("prompt_tokens", one.get("input_tokens"))


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


def test_cache_writes_without_a_price_are_unpriced() -> None:
    """Models that write no cache have no price for it, so such a usage is unpriced."""
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


def test_the_sdk_s_own_usage_is_priced() -> None:
    """The object that the openai client gives costs what the reply's own does."""
    usage = CompletionUsage(total_tokens=12_345 + 6_789, **CHAT)
    assert cost(usage, model="o3").total == by_hand(CHAT, "2", "0.5", "8")  # type: ignore[arg-type]


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


LONG = {"input_tokens": 272_001, "output_tokens": 1_000, "output_tokens_details": {"reasoning_tokens": 400}}


@pytest.mark.parametrize(
    ("model", "tier", "tokens", "expected"),
    [
        ("gpt-5.4", None, 272_000, 272_000 * 2_500_000 + 1_000 * 15_000_000),
        ("gpt-5.4", None, 272_001, 272_001 * 5_000_000 + 1_000 * 22_500_000),
        ("gpt-5.4", "batch", 272_001, 272_001 * 2_500_000 + 1_000 * 11_250_000),
        ("gpt-5.4", "priority", 272_001, 272_001 * 5_000_000 + 1_000 * 22_500_000),
        ("gpt-6-astra", "fast", 272_001, 272_001 * 40_000_000 + 1_000 * 150_000_000),
        ("gpt-6-astra", "ultrafast", 272_001, 272_001 * 120_000_000 + 1_000 * 450_000_000),
        ("gpt-6.2-sol", "window_8h", 272_001, 272_001 * 2_400_000 + 1_000 * 9_000_000),
    ],
)
def test_a_long_request_has_its_prices_as_a_whole(model: str, tier: str | None, tokens: int, expected: int) -> None:
    """Above 272,000 input tokens every token of the request has another price, in each tier its own."""
    answer = cost({**LONG, "input_tokens": tokens}, model=model, service_tier=tier, at=date(2026, 11, 20), strict=True)
    assert answer.total == Usd(expected)


@pytest.mark.parametrize(
    ("model", "tier"), [("gpt-5.5", "priority"), ("gpt-6.2-sol", "ultrafast"), ("gpt-6.2-astra", None)]
)
def test_a_long_price_that_nobody_states_is_unpriced(model: str, tier: str | None) -> None:
    """Where only the short price is published, a long request is Unpriced, and a sum of short ones says so."""
    answer = cost(LONG, model=model, service_tier=tier, at=date(2026, 11, 20))
    assert isinstance(answer, Unpriced)
    assert "more than 272,000 input tokens" in answer.reason
    several = cost(Usage(272_001, requests=9), model=model, service_tier=tier, at=date(2026, 11, 20))
    assert isinstance(several, Cost)
    assert several.notes == ("9 requests, priced as if none had more than 272,000 input tokens",)


@pytest.mark.parametrize(
    ("call", "millionths"),
    [
        ({"usage": {"type": "duration", "seconds": 90}, "model": "whisper-1"}, "9000"),
        ({"usage": {"type": "duration", "seconds": 60}, "model": "gpt-live-transcribe"}, "17000"),
        ({"usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 45,
                    "input_token_details": {"text_tokens": 0, "audio_tokens": 14}},
          "model": "gpt-4o-transcribe"}, "534"),
        ({"usage": Usage(100, output_audio_tokens=10, input_audio_tokens=5), "model": "gpt-audio"}, "1050"),
        ({"usage": Usage(0, cached_input_audio_tokens=10, input_image_tokens=10), "model": "gpt-realtime-2"}, "54"),
        ({"usage": Usage(100, cache_write_12h_tokens=10), "model": "gpt-6-sol"}, "250"),
        ({"usage": Usage(100, input_image_tokens=10), "model": "gpt-4o"}, "275"),
        ({"usage": Usage(0, output_rejected_prediction_tokens=10), "model": "gpt-4o"}, "100"),
        ({"usage": Usage(0, web_search_calls=3, file_search_calls=2), "model": "o3"}, "35000"),
        ({"usage": Usage(0, web_search_preview_calls=1), "model": "o3"}, "10000"),
        ({"usage": Usage(0, web_search_preview_calls=1), "model": "gpt-4o-mini"}, "25000"),
        ({"usage": Usage(0, code_interpreter_sessions=1, code_interpreter_sessions_64g=1), "model": "o3"}, "1950000"),
        ({"usage": Usage(0, storage_byte_days=3 * 2**30), "model": "o3"}, "300000"),
        ({"usage": Usage(5, **{"gpt-image-2/output_image_tokens": 100}), "model": "gpt-6-sol"}, "3010"),
        ({"usage": Usage(5, **{"o3-pro/cached_input_tokens": 100}), "model": "gpt-6-sol"}, "2010"),
        ({"usage": Usage(1_000_000, requests=9), "model": "gpt-6-sol", "region": "eu"}, "2200000"),
        ({"usage": Usage(1_000, web_search_calls=1), "model": "gpt-6-sol", "region": "us"}, "12200"),
        ({"usage": Usage(1_000), "model": "o3", "region": "eu"}, "2000"),
        ({"usage": Usage(1_000), "model": "gpt-6.2-sol", "completion_window": "2h"}, "1400"),
        ({"usage": Usage(1_000), "model": "gpt-6.2-sol", "completion_window": "soonest"}, "2000"),
        ({"usage": Usage(1_000), "model": "gpt-6.2-sol", "service_tier": "ultrafast"}, "6000"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_everything_that_is_billed_has_its_price(call: dict[str, Any], millionths: str) -> None:
    """Minutes, audio, images, caches by time, predictions, tools, storage, other models' work, regions and windows."""
    answer = cost(**call, at=date(2026, 11, 20), strict=True)
    assert isinstance(answer, Cost)
    assert answer.total == Usd.parse(Decimal(millionths) / 10**6)
    assert sum(answer.components.values(), Usd.ZERO) == answer.total
    assert answer.priced_by.keys() == answer.components.keys()
    assert all(place.startswith("prices.yaml:") for place in answer.priced_by.values())


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ({"usage": Usage(1, input_smell_tokens=1), "model": "o3"}, "no price for input smell tokens"),
        ({"usage": Usage(1, input_audio_tokens=1), "model": "o3"}, "no price for input audio tokens"),
        ({"usage": Usage(1, teleports=1), "model": "o3"}, "no price is known for teleports"),
        ({"usage": Usage(1, **{"image_gen/output_tokens": 1}), "model": "o3"}, "no price row for 'image_gen'"),
        ({"usage": Usage(1, cache_write_7d_tokens=1), "model": "gpt-6-sol"}, "no price for cache write 7d tokens"),
        ({"usage": Usage(1), "model": "whisper-1"}, "no price for input tokens"),
        ({"usage": Usage(0, 0, 0, 1), "model": "text-embedding-3-small"}, "no price for output tokens"),
        ({"usage": Usage(0, 0, 0, 0, 1), "model": "text-embedding-3-small"}, "no price for reasoning tokens"),
        ({"usage": Usage(1), "model": "gpt-audio", "region": "eu"}, "nobody says whether gpt-audio costs more"),
        ({"usage": Usage(1), "model": "o3", "completion_window": "2h"}, "no window_2h price row"),
        ({"usage": Usage(1, web_search_calls=1), "model": "o3", "at": date(2026, 7, 14)}, "web_search_calls"),
        (
            {"usage": Usage(1), "model": "gpt-5.6-sol", "at": date(2026, 11, 22)},
            "the last known ends on 2026-11-21",
        ),
    ],
    ids=str,
)
def test_a_kind_without_a_price_is_unpriced(call: dict[str, Any], reason: str) -> None:
    """A kind of token, a tool, a window or a region without a price makes the call Unpriced, never less."""
    answer = cost(**{"at": date(2026, 11, 20), **call})
    assert isinstance(answer, Unpriced)
    assert reason in answer.reason
