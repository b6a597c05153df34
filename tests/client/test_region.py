"""Law: what a region adds is in every estimate, hold and cost; the host says the region, or the caller does."""

from __future__ import annotations

from datetime import date
from typing import Any

import httpx
import httpx2
import openai
import pytest

import pricing
import ratelimit
from pricing import Usd
from pricing.estimate import CostRange
from pricing.ledger import Entry, Ledger
from pricing.prices import load_prices
from pricing.tools import most_fees
from ratelimit.errors import ConfigError

DAY = date(2026, 11, 20)
LIMITS = {"rpm": 1_000, "tpm": 100_000_000}
USAGE = {"input_tokens": 1_000, "output_tokens": 500, "total_tokens": 1_500}
NEW, OLD = "gpt-5.6-terra", "o3"
HOSTS = {"us", "eu", "ae", "au", "in", "jp"}


def asked(model: str, host: str, **settings: Any) -> Entry:
    """The ledger's entry of one call to a host."""

    def answer(_: Any) -> Any:
        return httpx2.Response(200, json={"id": "resp_1", "model": model, "output": [], "usage": USAGE})

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    plain = openai.OpenAI(base_url=f"https://{host}/v1", api_key="test", max_retries=0, http_client=http)
    ledger = Ledger()
    client = ratelimit.wrap(plain, limits=LIMITS, at=DAY, ledger=ledger, preflight="off", **settings)
    client.responses.create(model=model, input="Why?", max_output_tokens=1_000, service_tier="default")
    (entry,) = ledger.entries()
    return entry


@pytest.mark.parametrize("way", [{"host": "eu.api.openai.com"}, {"host": "gateway.test", "region": "eu"}])
def test_a_region_is_in_the_cost_and_in_what_was_held_for_it(way: dict[str, Any]) -> None:
    """A tenth more of every token, of the estimate, of the worst case and of the bill; and the bill is its parts."""
    plain, regional = asked(NEW, "api.openai.com"), asked(NEW, **way)
    for name in ("cost", "estimate", "worst"):
        at_home, there = getattr(plain, name), getattr(regional, name)
        assert there.pico == -(-at_home.pico * 11 // 10)
    assert regional.cost == sum(regional.components.values(), Usd.ZERO)
    assert "regional_uplift" in regional.components


def test_an_old_model_costs_the_same_everywhere() -> None:
    """Models released before the rule have no uplift, at whatever host."""
    assert asked(OLD, "us.api.openai.com").cost == asked(OLD, "api.openai.com").cost


def test_a_model_of_which_nobody_knows_has_no_price_in_a_region() -> None:
    """Where no source says whether a model costs more there, its call is unpriced, and refused under a budget."""
    model = "gpt-image-2"
    table = load_prices()
    assert table.uplift(model) is None
    assert table.uplift("text-embedding-3-small") == 0  # it had a price long before the rule
    assert asked(model, "eu.api.openai.com").cost is None
    with pytest.raises(ratelimit.OverBudget):
        asked(model, "eu.api.openai.com", budget="10 USD/day")


def test_the_hosts_are_those_of_the_sdk() -> None:
    """The table knows every regional host that the openai package does, and no other host has a region."""
    from openai._data_residency import _DATA_RESIDENCY_BASE_URLS

    table = load_prices()
    for region, url in _DATA_RESIDENCY_BASE_URLS.items():
        assert table.region_of(httpx.URL(str(url)).host) == (None if region == "global" else region)
    assert {table.region_of(f"{region}.api.openai.com") for region in HOSTS} == HOSTS
    for host in ("", "api.openai.com", "evil.example", "eu.api.openai.com.evil.example", "my.openai.azure.com"):
        assert table.region_of(host) is None


def test_a_region_needs_a_ledger_and_a_name() -> None:
    """Without a ledger or budget a region would change nothing: that is told."""
    plain = openai.OpenAI(api_key="test")
    with pytest.raises(ConfigError, match="region go to a ledger"):
        ratelimit.wrap(plain, limits=LIMITS, region="eu")
    with pytest.raises(ConfigError, match="name of a region"):
        ratelimit.wrap(plain, limits=LIMITS, ledger=Ledger(), region="")


def test_an_estimate_has_the_region_in_it() -> None:
    """pricing.estimate and pricing.cost agree on what a region adds."""
    body = {"model": NEW, "input": "Why?", "max_output_tokens": 100}
    home, there = (pricing.estimate(body, at=DAY, region=region).cost for region in (None, "eu"))
    assert home
    assert there
    for name in ("p50", "p95", "worst", "mean"):
        assert getattr(there, name).pico == -(-getattr(home, name).pico * 11 // 10)


# What hosted tools are held for

FEES = {"web_search": 10_000_000_000, "file_search": 2_500_000_000, "code_interpreter": 30_000_000_000}  # pico-dollars


@pytest.mark.parametrize(
    ("tools", "calls", "held"),
    [
        ([], 7, 0),
        (["web_search"], 7, 7 * FEES["web_search"]),
        (["web_search", "file_search"], 3, 3 * FEES["web_search"]),
        (["web_search", "file_search", "code_interpreter"], 4, 4 * FEES["code_interpreter"]),
        (["web_search", "file_search", "code_interpreter"], None, sum(FEES.values())),
        (["web_search", "web_search"], None, FEES["web_search"]),
        (["web_search"], 0, 0),
        (["function", "mcp", "image_generation"], None, 0),
    ],
)
def test_the_calls_of_hosted_tools_are_held(tools: list[str], calls: int | None, held: int) -> None:
    """max_tool_calls times the dearest fee; without it one call of each tool that has one."""
    body: dict[str, Any] = {"model": NEW, "input": "x", "max_output_tokens": 10}
    offered = {**body, "tools": [{"type": tool} for tool in tools]}
    if calls is not None:
        offered["max_tool_calls"] = calls
    fees = most_fees(offered, NEW, DAY, load_prices())
    assert isinstance(fees, Usd)
    assert fees.pico == held
    if tools and set(tools) <= FEES.keys():  # the number of calls changes the worst case, and only that, by their fees
        none = {**offered, "max_tool_calls": 0}
        more, bare = pricing.estimate(offered, at=DAY).cost, pricing.estimate(none, at=DAY).cost
        assert isinstance(more, CostRange)
        assert isinstance(bare, CostRange)
        assert more.worst.pico - bare.worst.pico == held
        assert more.mean == bare.mean


def test_a_larger_container_holds_its_own_price() -> None:
    """A session of 64 GB is $1.92, and what a call of it may cost holds that."""
    tool = {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "64g"}}
    fees = most_fees({"tools": [tool]}, NEW, DAY, load_prices())
    assert fees == Usd.parse("1.92")


def test_a_tool_without_a_price_has_no_worst_case() -> None:
    """A fee that no source names is never held as $0: the call is unpriced."""
    tool = {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "2t"}}
    assert not pricing.estimate({"model": NEW, "input": "x", "tools": [tool]}, at=DAY).cost


def test_a_budget_never_spends_more_than_it_held_for_searches() -> None:
    """Five searches, bounded by max_tool_calls, fit what was held for the call."""
    reply = {
        "id": "resp_1", "model": NEW, "output": [], "usage": {**USAGE, "input_tokens": 8},
        "tool_usage": {"web_search": {"num_requests": 5}},
    }  # fmt: skip
    http = httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, json=reply)))
    plain = openai.OpenAI(api_key="test", max_retries=0, http_client=http)
    ledger = Ledger()
    client = ratelimit.wrap(plain, limits=LIMITS, at=DAY, ledger=ledger, budget="10 USD/day")
    client.responses.create(
        model=NEW, input="Why?", max_output_tokens=500, max_tool_calls=5, tools=[{"type": "web_search"}]
    )
    (entry,) = ledger.entries()
    assert entry.cost is not None
    assert entry.worst is not None
    assert Usd.parse("0.05") < entry.cost <= entry.worst


def test_a_word_that_is_no_region_is_refused_wherever_it_is_given() -> None:
    """A region that no host processes in adds nothing to a price: it is an error that names the known ones."""
    known = "unknown region 'mars'; known: ae, au, eu, in, jp, us"
    body = {"model": "gpt-5.6-terra", "input": "x"}
    with pytest.raises(ConfigError, match=known):
        pricing.cost({"input_tokens": 1, "output_tokens": 1}, model="gpt-5.6-terra", region="mars")
    with pytest.raises(ConfigError, match=known):
        pricing.estimate(body, region="mars")
    with pytest.raises(ConfigError, match=known):
        ratelimit.wrap(openai.OpenAI(api_key="x"), limits={"rpm": 1}, ledger=pricing.Ledger(), region="mars")
