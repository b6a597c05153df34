"""Law: what the server says of its limits tightens ours at once, never loosens them, and is told when it differs."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest

import ratelimit
from ratelimit.clock import LoopClock
from ratelimit.emulator import Emulator
from ratelimit.headers import Observation
from ratelimit.testing import ManualClock, run_virtual

from .replies import DAY


@pytest.fixture
def client_of() -> Iterator[Callable[[Emulator, ratelimit.Limiter], Any]]:
    """Wrapped clients that are closed when the test ends."""
    with contextlib.ExitStack() as open_clients:

        def make(server: Emulator, limiter: ratelimit.Limiter) -> Any:
            plain = open_clients.enter_context(openai.OpenAI(base_url=server.url, api_key="test", max_retries=0))
            return ratelimit.wrap(plain, limiter=limiter)

        yield make


def capacities(limiter: ratelimit.Limiter) -> dict[str, int]:
    return {limit.name: limit.capacity for limit in limiter.limits("o3")}


def test_a_smaller_limit_of_the_server_is_obeyed_and_reported_once(client_of: Any) -> None:
    """An account whose limit is below the table's learns it from its first reply, and says so before the next call."""
    limiter = ratelimit.Limiter(tier="tier_1", at=DAY)
    with Emulator(limits={"rpm": 500, "tpm": 10_000}, latency=0, at=DAY) as server:
        client = client_of(server, limiter)
        assert capacities(limiter) == {"rpm": 500, "tpm": 30_000}
        client.responses.create(model="o3", input="x")
        assert capacities(limiter) == {"rpm": 500, "tpm": 10_000}
        with pytest.warns(ratelimit.RatecardWarning, match=r"tpm is 10,000, the table's tier_1 says 30,000") as caught:
            client.responses.create(model="o3", input="x")
        assert len(caught) == 1
        with pytest.raises(ratelimit.NeverFits, match="10,000"):
            client.responses.create(model="o3", input="word " * 12_000)
        assert server.counters()["refused_total"] == 0


def test_a_larger_limit_of_the_server_is_reported_but_not_used(client_of: Any) -> None:
    """Observations never loosen: what may be used is for the table or a setting to say, and the warning shows how."""
    limiter = ratelimit.Limiter(tier="tier_1", at=DAY)
    with Emulator(limits={"rpm": 500, "tpm": 40_000}, latency=0, at=DAY) as server:
        client = client_of(server, limiter)
        client.responses.create(model="o3", input="x")
        with pytest.warns(ratelimit.RatecardWarning, match=r"tpm is 40,000, .* says 30,000; to use it: limits="):
            client.responses.create(model="o3", input="x")
    assert capacities(limiter) == {"rpm": 500, "tpm": 30_000}


def test_a_setting_below_the_servers_limit_is_nobodys_news(client_of: Any) -> None:
    """Whoever set a smaller limit meant it: no warning."""
    limiter = ratelimit.Limiter(limits={"rpm": 100, "tpm": 10_000}, at=DAY)
    with Emulator(limits={"rpm": 500, "tpm": 40_000}, latency=0, at=DAY) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        client = client_of(server, limiter)
        for _ in range(3):
            client.responses.create(model="o3", input="x")
    assert capacities(limiter) == {"rpm": 100, "tpm": 10_000}


def test_room_that_a_rival_took_is_seen_before_a_refusal(client_of: Any) -> None:
    """Another program has spent most of the minute: after one reply our bucket is as full as the server's."""
    with Emulator(limits={"rpm": 500, "tpm": 10_000}, latency=0, at=DAY, now_us=lambda: 10**15) as server:
        rival = openai.OpenAI(base_url=server.url, api_key="test", max_retries=0)
        for _ in range(30):
            rival.responses.create(model="o3", input="x")
        rival.close()
        limiter = ratelimit.Limiter(limits={"rpm": 500, "tpm": 10_000}, max_wait=0, at=DAY, clock=ManualClock())
        client = client_of(server, limiter)
        client.responses.create(model="o3", input="x")
        with pytest.raises(ratelimit.WouldWait):
            [client.responses.create(model="o3", input="x") for _ in range(45)]
        assert server.counters()["refused_total"] == 0


def test_an_old_observation_counts_for_what_is_left_of_it() -> None:
    """A backlog seen some seconds ago has been refilled by so much; one that is gone changes nothing."""
    clock = ManualClock()
    limiter = ratelimit.Limiter(limits={"tpm": 60_000}, at=DAY, clock=clock)
    gate = limiter.gate("o3")
    key = gate.lane.keys[0]
    limiter.feedback.headers(gate, [Observation("tpm", 60_000, 5_000_000)], 6_000_000)
    assert gate.store.backlog_us(key) == 0
    limiter.feedback.headers(gate, [Observation("tpm", 60_000, 5_000_000)], 2_000_000)
    assert gate.store.backlog_us(key) == 3_000_000
    limiter.feedback.headers(gate, [Observation("tpm", 60_000, 1_000_000)], 0)
    assert gate.store.backlog_us(key) == 3_000_000
    limiter.feedback.headers(gate, [Observation("rpd", 1, 1_000_000)], 0)
    assert gate.store.backlog_us(key) == 3_000_000


def test_a_limit_of_another_window_is_left_alone() -> None:
    """A declared one-second window is not what the minute's headers describe: they change nothing in it."""
    second = ratelimit.Limit("tpm", "tokens", 1_000, 1_000_000)
    limiter = ratelimit.Limiter(limits={"tpm": second}, at=DAY, clock=ManualClock())
    gate = limiter.gate("o3")
    limiter.feedback.headers(gate, [Observation("tpm", 500, 5_000_000)], 0)
    assert gate.store.backlog_us(gate.lane.keys[0]) == 0
    assert gate.lane.limits == (second,)


def test_a_crowd_on_cold_connections_meets_no_429() -> None:
    """Of 450 requests that start at once, 400 fit; all of them reach the server together, 0.6 s late, and those that
    had to wait come close behind: the margin has grown with the crowd, so a bucket of the server's own refuses none."""

    async def main() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        level, at_s, refused = 400.0, start, 0

        async def serve(request: httpx2.Request) -> httpx2.Response:
            nonlocal level, at_s, refused
            await asyncio.sleep(max(0.01, start + 0.6 - loop.time()))  # until the connections are open
            level, at_s = min(400.0, level + (loop.time() - at_s) * 400 / 60), loop.time()
            if level < 1:
                refused += 1
                headers = {"retry-after-ms": "150"}
                return httpx2.Response(429, json={"error": {"code": "rate_limit_exceeded"}}, headers=headers)
            level -= 1
            await asyncio.sleep(0.2)
            reply = {"id": "resp_1", "object": "response", "model": "o3"}
            return httpx2.Response(200, json=reply, headers={"openai-processing-ms": "200"})

        http = httpx2.AsyncClient(transport=httpx2.MockTransport(serve))
        limiter = ratelimit.Limiter(limits={"rpm": 400}, preflight="off", clock=LoopClock())
        client = ratelimit.wrap(openai.AsyncOpenAI(api_key="x", http_client=http), limiter=limiter)
        await asyncio.gather(*(client.responses.create(model="o3", input="x") for _ in range(450)))
        await http.aclose()
        return refused, loop.time() - start

    refused, took = run_virtual(main)
    assert refused == 0
    assert took < 7.5 + 0.6 + 0.3  # 50 beyond the burst, the delay that was learned, and the last reply


def test_the_reset_of_the_days_bucket_is_no_edge_of_the_minutes_window() -> None:
    """`-requests` speaks of the day: what its reset says frees nothing of the minute."""
    clock, sent_us = ManualClock(), list[int]()

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent_us.append(clock.now_us())
        clock.advance(100_000)
        told = {"limit": "10000", "remaining": "9997", "reset": "21.6s"}
        headers = {f"x-ratelimit-{field}-requests": value for field, value in told.items()}
        return httpx2.Response(200, json={"object": "response", "model": "o3", "output": []}, headers=headers)

    minute = ratelimit.Limit("rpm", "requests", 10, window=True)
    limiter = ratelimit.Limiter(limits={"rpm": minute, "rpd": 10_000}, at=DAY, clock=clock)
    with httpx2.Client(transport=httpx2.MockTransport(answer)) as http:
        client = ratelimit.wrap(openai.OpenAI(api_key="test", http_client=http), limiter=limiter)
        for _ in range(25):
            client.responses.create(model="o3", input="x")
    assert all(later - first >= 60_000_000 for first, later in zip(sent_us, sent_us[10:], strict=False))
