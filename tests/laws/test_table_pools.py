"""Law: the separate pools of the tier table are obeyed: each request passes the limits that are its own, no others.

The oracle is two buckets of one line each, with the numbers typed from the pages.
"""

from __future__ import annotations

import asyncio
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ratelimit
from pricing.tokens import Count
from ratelimit.clock import LoopClock
from ratelimit.emulator import Emulator
from ratelimit.errors import NeverFits, WouldWait
from ratelimit.headers import Refusal
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import ManualClock, run_virtual
from ratelimit.tiers import load_tiers

DAY = date(2026, 9, 15)
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


def limiter(tier: str, **options: Any) -> tuple[ratelimit.Limiter, ManualClock]:
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=0)
    return ratelimit.Limiter(tier=tier, store=store, at=DAY, max_wait=0, **options), clock


PAGE = {False: {"rpm": 10_000, "tpm": 2_000_000}, True: {"rpm": 1_000, "tpm": 5_000_000}}
"""gpt-4.1 in Tier 4: for requests of at most 128,000 input tokens, and for longer ones."""


@given(
    st.lists(
        st.tuples(
            st.integers(0, 20_000_000),
            st.one_of(st.sampled_from([128_000, 128_001]), st.integers(1, 128_000), st.integers(128_001, 1_000_000)),
        ),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=100)
def test_a_request_passes_the_pool_of_its_length(plan: list[tuple[int, int]]) -> None:
    """Admitted at once exactly where the bucket of its length has room for it, whatever the other one holds."""
    account, clock = limiter("tier_4")
    left_us = {(long, name): 60_000_000 for long in PAGE for name in PAGE[long]}  # bucket time that is free
    for pause_us, tokens in plan:
        clock.advance(pause_us)
        left_us = {key: min(60_000_000, free + pause_us) for key, free in left_us.items()}
        long = tokens > 128_000
        takes = {
            (long, name): (1 if name == "rpm" else tokens) * 60_000_000 // capacity
            for name, capacity in PAGE[long].items()
        }
        room = all(left_us[key] >= amount for key, amount in takes.items())
        try:
            account.reserve(model="gpt-4.1-2025-04-14", tokens=tokens)
        except WouldWait:
            assert not room
        else:
            assert room
            left_us |= {key: left_us[key] - amount for key, amount in takes.items()}


def test_the_setting_of_a_pool_takes_the_place_of_the_table_s() -> None:
    """A long-context pool given by hand is obeyed instead; what all pass together counts both kinds."""
    pools = {"mine": {"tpm": 300_000, "models": ["gpt-4.1"], "above": 200_000}, "all": {"tpm": 600_000}}
    account, _ = limiter("tier_4", pools=pools)
    account.reserve(model="gpt-4.1", tokens=150_000)
    with pytest.raises(NeverFits, match="300,001"):
        account.reserve(model="gpt-4.1", tokens=300_001)
    account.reserve(model="gpt-4.1", tokens=300_000)
    with pytest.raises(WouldWait, match="all-tpm"):
        account.reserve(model="gpt-4.1", tokens=150_001)
    account, _ = limiter("tier_4", pools={"all": {"tpm": 600_000}})
    account.reserve(model="gpt-4.1", tokens=500_000)
    with pytest.raises(WouldWait, match="all-tpm"):
        account.reserve(model="gpt-4.1", tokens=100_001)


def test_headroom_is_taken_off_separate_pools_too() -> None:
    """A share left free of every limit is left free of the long-context pool as well."""
    account, _ = limiter("tier_4", headroom=0.5)
    account.reserve(model="gpt-4.1", tokens=1_000_000)
    with pytest.raises(NeverFits, match="2,500,000"):
        account.reserve(model="gpt-4.1", tokens=2_500_001)


def test_an_ultrafast_request_passes_the_ultrafast_pool() -> None:
    """gpt-6-astra in Build: 1 M tokens a minute, and 500,000 more for requests that ask for ultrafast."""
    account, _ = limiter("build")
    body = {"model": "gpt-6-astra", "input": "Hello!"}

    def lane(**more: Any) -> dict[str, int]:
        gate, _, _ = account.wants({**body, **more}, RESPONSES, "gpt-6-astra", lambda: Count(9, 9, 9), DAY)
        return {limit.name: limit.capacity for limit in gate.lane.limits}

    assert lane() == lane(service_tier="fast") == lane(service_tier=["ultrafast"]) == {"rpm": 5_000, "tpm": 1_000_000}
    assert lane(service_tier="ultrafast") == {"tpm": 500_000}


def test_models_that_share_are_counted_together(tmp_path: Path) -> None:
    """Two models of one pool take from the same buckets, the long ones from the same long-context pool."""
    path = tmp_path / "tiers.yaml"
    path.write_text(
        """version: 1
sources: {page: {url: "https://example.com/limits", read: "2026-07-15"}}
schemes: [{name: s, source: page, tiers: {t: {qualification: "any", usd_per_month: 100}}}]
limits:
  - {model: o3, scheme: s, source: page, tiers: {t: {tpm: 6_000}}, pools: [{above: 1_000, tiers: {t: {tpm: 9_000}}}]}
  - {model: o3-pro, scheme: s, source: page, shares: o3}
  - {model: o1, scheme: s, source: page, tiers: {t: {tpm: 6_000}}}
admission: {observed: [], documented: [], conservative: []}
""",
        "utf-8",
    )
    account, _ = limiter("t", tables=load_tiers(path))
    for _ in range(3):
        account.reserve(model="o3", tokens=1_000)
        account.reserve(model="o3-pro-2025-06-10", tokens=1_000)
    with pytest.raises(WouldWait):
        account.reserve(model="o3-pro", tokens=1)
    account.reserve(model="o3", tokens=4_500)
    account.reserve(model="o3-pro", tokens=4_500)
    with pytest.raises(WouldWait):
        account.reserve(model="o3", tokens=1_001)
    account.reserve(model="o1", tokens=6_000)


LONG = "word " * 130_000


@pytest.mark.parametrize(
    ("body", "counted"),
    [
        ({"messages": [{"role": "user", "content": "Hello!"}]}, False),
        ({"messages": [{"role": "user", "content": "a" * 127_000}]}, False),
        ({"messages": [{"role": "user", "content": LONG}]}, True),
        ({"messages": [{"role": "user", "content": "Hello!"}], "tools": [{"type": "function"}]}, True),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}, True),
        ({"messages": "Hello!"}, True),
    ],
    ids=["short", "short enough", "long", "tools", "a file", "nonsense"],
)
def test_a_plainly_short_chat_is_not_counted(body: dict[str, Any], counted: bool) -> None:
    """Where bytes alone show that a chat is no long one, its tokens are not counted for that."""
    account, _ = limiter("tier_4")
    asked: list[bool] = []

    def count() -> Count:
        asked.append(True)
        return Count(130_000, 130_000, 130_000)

    gate, _, _ = account.wants({"model": "gpt-4.1", **body}, CHAT, "gpt-4.1", count, DAY)
    assert bool(asked) == counted
    assert gate.lane.limits[1].capacity == (5_000_000 if counted else 2_000_000)


def test_the_emulator_has_the_same_pools() -> None:
    """The local server has a long request in the pool where the wrapped client looks for room, and a short one too."""
    from openai import OpenAI

    with (
        Emulator(
            tier="tier_2", models=["gpt-4.1"], latency=0, output_tokens=1, at=DAY, now_us=lambda: 10**15
        ) as server,
        OpenAI(base_url=server.url, api_key="x") as plain,
    ):
        client = ratelimit.wrap(plain, tier="tier_2", at=DAY, max_wait=0)
        for text in (LONG, "Hello!"):
            client.chat.completions.create(model="gpt-4.1", messages=[{"role": "user", "content": text}])
        used = {pool: rows["tpm"]["limit"] for pool, rows in server.counters()["limits"].items() if rows["tpm"]["used"]}
        assert used == {"gpt-4.1": 450_000, "gpt-4.1-long-context": 500_000}
        assert server.counters()["refused_total"] == 0


def test_a_separate_pool_rises_again_after_slow_down() -> None:
    """As the model's own limits do: by half every quarter of an hour, up to the table's."""
    account, clock = limiter("tier_4")
    pool = account.gate("gpt-4.1", 130_000)
    account.feedback.refused(pool, Refusal("slow_down"), None)
    capacities = []
    for _ in range(3):
        capacities.append({limit.name: limit.capacity for limit in account.gate("gpt-4.1", 130_000).lane.limits}["tpm"])
        clock.advance(15 * 60_000_000)
    assert capacities == [3_333_333, 5_000_000, 5_000_000]


@pytest.mark.parametrize("pools", [None, {"long": {"tpm": 300_000, "models": ["gpt-4.1"], "above": 128_000}}])
def test_requests_of_every_length_share_the_slots(pools: Any) -> None:
    """What may be in the air at once was said of all of them; who waits for a slot hears of it from either kind."""

    async def main() -> list[tuple[str, float]]:
        loop = asyncio.get_running_loop()
        store = MemoryStore(LoopClock(), initial_slack_us=0)
        account = ratelimit.Limiter(tier="tier_4", limits={"concurrency": 1}, pools=pools, store=store, at=DAY)
        begin, admitted = loop.time(), []

        async def one(name: str, tokens: int) -> None:
            async with account.areserve(model="gpt-4.1", tokens=tokens):
                admitted.append((name, round(loop.time() - begin, 2)))
                await asyncio.sleep(1)

        await asyncio.gather(one("short", 1), one("long", 130_000), one("short", 1), one("long", 130_000))
        return admitted

    assert run_virtual(main) == [("short", 0), ("long", 1), ("short", 2), ("long", 3)]
