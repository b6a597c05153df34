"""Law: a call is priced as it was served, whatever was asked: model, tier, window, tools, the account's own prices."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import httpx2
import pytest

import ratelimit
from pricing import Usd
from pricing.ledger import Entry, Ledger
from pricing.prices import load_prices
from pricing.tokens import count_input
from ratelimit.errors import ConfigError, OverBudget

DAY = date(2026, 11, 20)
URL = "https://api.openai.com/v1/responses"
USED = {
    "input_tokens": 1_000,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 100,
    "output_tokens_details": {"reasoning_tokens": 0},
}
SEARCH = {"type": "web_search_call", "status": "completed", "action": {"type": "search"}}


def served(body: dict[str, Any], *replies: dict[str, Any], ledger: Ledger, **settings: Any) -> Entry:
    """Send a body, poll while there are replies left, and give the one entry."""
    told = iter(replies)
    inner = httpx2.MockTransport(lambda request: httpx2.Response(200, json={"id": "resp_1", **next(told)}))
    transport = ratelimit.transports.httpx2.CostTransport(inner, ledger=ledger, at=DAY, **settings)
    with httpx2.Client(transport=transport) as client:
        client.post(URL, json={"input": "x", **body})
        for _ in replies[1:]:
            client.get(f"{URL}/resp_1")
    (entry,) = ledger.entries()
    return entry


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.mark.parametrize(
    ("asked", "reply", "millionths", "row"),
    [
        ({"model": "gpt-5.4", "service_tier": "priority"}, {"service_tier": "priority"}, 8_000, "gpt-5.4/priority"),
        ({"model": "gpt-5.4", "service_tier": "priority"}, {"service_tier": "default"}, 4_000, "gpt-5.4/standard"),
        ({"model": "gpt-6-astra", "service_tier": "fast"}, {"service_tier": "fast"}, 30_000, "gpt-6-astra/priority"),
        ({"model": "gpt-6-astra", "service_tier": "ultrafast"}, {}, 90_000, "gpt-6-astra/ultrafast"),
        ({"model": "gpt-5.6", "service_tier": "flex"}, {"service_tier": "flex"}, 3_000, "gpt-5.6-sol/flex"),
        ({"model": "gpt-6-sol"}, {"model": "gpt-6-luna"}, 150, "gpt-6-luna/standard"),
        ({"model": "gpt-6-sol", "service_tier": "scale"}, {"service_tier": "scale"}, None, None),
        ({"model": "gpt-6-sol"}, {"tool_usage": {"web_search": {"num_requests": 2}}}, 23_000, "gpt-6-sol/standard"),
        ({"model": "gpt-6-sol"}, {"output": [SEARCH], "tools": [{"type": "web_search"}]}, 13_000, "gpt-6-sol/standard"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_was_served_is_priced(
    ledger: Ledger, asked: dict[str, Any], reply: dict[str, Any], millionths: int | None, row: str | None
) -> None:
    """The reply's model, tier and tools are priced; a tier that it does not name is the one asked for."""
    entry = served(asked, {"model": asked["model"], "usage": USED, **reply}, ledger=ledger)
    assert entry.cost == (None if millionths is None else Usd(millionths * 10**6))
    assert (entry.row_id or "").rpartition("/")[0] == (row or "")
    assert entry.exact


def test_a_completion_window_is_a_discount_however_the_reply_calls_it(ledger: Ledger) -> None:
    """A background call with a window of 8 hours is served as default, says so, and costs 40 % less."""
    body = {"model": "gpt-6.2-sol", "background": True, "background_options": {"completion_window": "8h"}}
    queued = {"model": "gpt-6.2-sol", "status": "queued", "usage": None, "service_tier": "auto"}
    done = {"model": "gpt-6.2-sol", "status": "completed", "usage": USED, "service_tier": "default"}
    entry = served(body, queued, queued, done, done, ledger=ledger)
    assert entry.cost == Usd(1_000 * 1_200_000 + 100 * 6_000_000)
    assert entry.row_id == "gpt-6.2-sol/window_8h/2026-11-17"


def test_tools_of_a_streamed_reply_are_billed(ledger: Ledger) -> None:
    """The event that ends a stream tells of the tools too."""
    body = b'data: {"type": "response.created", "response": {"id": "r", "model": "o3", "status": "in_progress"}}\n\n'
    end = (
        b'data: {"type": "response.completed", "response": {"id": "r", "model": "o3", "status": "completed", '
        b'"output": [{"type": "file_search_call"}], "usage": {"input_tokens": 1000, "output_tokens": 0}}}\n\n'
    )
    headers = {"content-type": "text/event-stream"}
    inner = httpx2.MockTransport(lambda request: httpx2.Response(200, headers=headers, content=body + end))
    transport = ratelimit.transports.httpx2.CostTransport(inner, ledger=ledger, at=DAY)
    with httpx2.Client(transport=transport) as client:
        client.post(URL, json={"model": "o3", "input": "x", "stream": True})
    (entry,) = ledger.entries()
    assert entry.cost == Usd.parse("0.0045")
    assert entry.components == {"input": Usd.parse("0.002"), "file_search_calls": Usd.parse("0.0025")}
    assert entry.usage["file_search_calls"] == 1


OVERLAY = """\
version: 1
currency: USD
sources: {contract: {url: "https://example.com/order-form-7", read: "2026-01-15"}}
adjustments: [{percent: "-50", effective_from: "2026-01-01", source: contract}]
"""


@pytest.mark.parametrize("given", [str, Path, lambda path: [path], lambda path: load_prices(overlay=path)])
def test_the_account_s_own_prices_are_those_of_its_ledger(
    ledger: Ledger, tmp_path: Path, given: Callable[[Path], Any]
) -> None:
    """prices= takes an overlay by its path, several, or a table; the entry names the file that changed the price."""
    path = tmp_path / "acme.yaml"
    path.write_text(OVERLAY, "utf-8")
    entry = served({"model": "o3"}, {"model": "o3", "usage": USED}, ledger=ledger, prices=given(path))
    assert entry.cost == Usd.parse("0.0014")
    assert entry.row_id == "o3/standard/2025-06-10 -50 % by acme.yaml"


def test_prices_without_a_ledger_are_a_mistake(tmp_path: Path) -> None:
    """Prices that nothing would use are refused, as tags are."""
    import openai

    with pytest.raises(ConfigError, match="prices and a region go to a ledger"):
        ratelimit.wrap(openai.OpenAI(api_key="x"), limits={"rpm": 1}, prices=tmp_path / "acme.yaml")


@pytest.mark.parametrize(
    ("body", "worst"),
    [
        ({"model": "gpt-6-sol"}, 2_500_000),
        ({"model": "gpt-6-sol", "prompt_cache_options": {"ttl": "12h"}}, 5_000_000),
        ({"model": "o3"}, 2_000_000),
    ],
    ids=["written to a cache", "for 12 hours", "no cache writes"],
)
def test_a_budget_holds_what_a_cache_write_may_cost(ledger: Ledger, body: dict[str, Any], worst: int) -> None:
    """Input may be written to a cache at more than its price: a budget holds the dearest that a token may become."""
    words = "word " * 10_000
    used = {**USED, "input_tokens": 10_007, "output_tokens": 1}
    body = {**body, "input": words, "max_output_tokens": 16, "service_tier": "default"}
    least = count_input(body, "/v1/responses").high * worst  # nobody knows how gpt-6 cuts its texts
    with pytest.raises(OverBudget):
        served(body, {"model": body["model"], "usage": used}, ledger=ledger, budget=f"{Usd(least)} USD")
    entry = served(body, {"model": body["model"], "usage": used}, ledger=Ledger(), budget=f"{Usd(least + 10**9)} USD")
    assert entry.state == "posted"


@pytest.mark.parametrize("ttl", [None, "12h"])
def test_a_reply_without_usage_is_charged_what_was_held(ttl: str | None) -> None:
    """Under a budget a reply without a usage costs its worst case: written to the cache, for as long as asked."""
    body: dict[str, Any] = {"model": "gpt-6-sol", "input": "word " * 1_000, "max_output_tokens": 16}
    body |= {"service_tier": "default", **({"prompt_cache_options": {"ttl": ttl}} if ttl else {})}
    ledger = Ledger()
    entry = served(body, {"model": "gpt-6-sol", "service_tier": "default"}, ledger=ledger, budget="1 USD")
    assert not entry.exact
    assert entry.cost == entry.worst
    assert entry.usage["cache_write_12h_tokens" if ttl else "cache_write_tokens"] > 1_000
