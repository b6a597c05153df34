"""A server that counts per window, undeclared: found out from its first 429s, then obeyed at nearly full speed."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest

import ratelimit
from ratelimit.headers import Refusal
from ratelimit.testing import START_US, ManualClock

RPM = 600


class Aligned:
    """A server with windows of `window_us`, aligned to its clock, that speaks of the limit per minute."""

    def __init__(self, clock: ManualClock, window_us: int) -> None:
        self.clock = clock
        self.window_us = window_us
        self.allowance = RPM * window_us // 60_000_000
        self.window = self.used = self.refused = self.admitted = 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        now_us = self.clock.now_us()
        if now_us // self.window_us != self.window:
            self.window, self.used = now_us // self.window_us, 0
        if self.used < self.allowance:
            self.used += 1
            self.admitted += 1
            return httpx2.Response(200, json={"id": "r", "object": "response", "model": "o3"})
        self.refused += 1
        again_ms = -(-((self.window + 1) * self.window_us - now_us) // 1000)
        message = (
            f"Rate limit reached for o3 in organization org on requests per min (RPM): Limit {RPM}, Used {RPM}, "
            f"Requested 1. Please try again in {again_ms}ms."
        )
        error = {"message": message, "type": "requests", "code": "rate_limit_exceeded"}
        return httpx2.Response(429, json={"error": error}, headers={"retry-after-ms": str(again_ms)})


def client_of(server: Aligned, limiter: ratelimit.Limiter) -> Any:
    http = httpx2.Client(transport=httpx2.MockTransport(server))
    plain = openai.OpenAI(api_key="x", base_url="http://server.invalid/v1", http_client=http)
    return ratelimit.wrap(plain, limiter=limiter)


@pytest.mark.filterwarnings("ignore:.*the server counts rpm per")
@pytest.mark.parametrize("window_s", [1, 10, 60])
def test_an_undeclared_window_costs_a_refusal_or_two_and_then_none(window_s: int) -> None:
    """Many windows' worth of requests: at most two refusals, and 95 % of what the server allows."""
    clock = ManualClock(START_US + 137_000)
    server = Aligned(clock, window_s * 1_000_000)
    limiter = ratelimit.Limiter(limits={"rpm": RPM}, preflight="off", clock=clock)
    client = client_of(server, limiter)
    requests = max(2 * server.allowance, 300)
    start_us = clock.now_us()
    for _ in range(requests):
        client.responses.create(model="o3", input="x")
    least_us = (-(-requests // server.allowance) - 1) * server.window_us - start_us % server.window_us
    assert server.admitted == requests
    assert server.refused <= 2
    assert clock.now_us() - start_us <= max(least_us, server.window_us) / 0.95 + server.window_us
    (limit,) = limiter.limits("o3")
    # One refusal spends the burst, and at an even pace a short window never shows again.
    assert (limit.window, limit.burst_us) == ((True, server.window_us) if server.refused == 2 else (False, 60_000_000))


def test_the_warning_says_how_to_declare_it() -> None:
    """What was learned is told once, as code that makes the next run meet no refusal at all."""
    clock = ManualClock(START_US + 137_000)
    server = Aligned(clock, 1_000_000)
    client = client_of(server, ratelimit.Limiter(limits={"rpm": RPM}, preflight="off", clock=clock))
    [client.responses.create(model="o3", input="x") for _ in range(15)]
    clock.advance(60_000_000)  # a rested bucket bursts again, and is refused again
    with pytest.warns(ratelimit.RatecardWarning, match="counts rpm per 1 s") as caught:
        [client.responses.create(model="o3", input="x") for _ in range(15)]
    declared = eval(str(caught[0].message).partition("To declare it: ")[2], {"Limit": ratelimit.Limit})
    clock.advance(10_000_000)
    again = client_of(server, ratelimit.Limiter(limits={"rpm": declared}, preflight="off", clock=clock))
    refused = server.refused
    for _ in range(50):
        again.responses.create(model="o3", input="x")
    assert server.refused == refused


def test_a_bucket_s_refusal_is_not_taken_for_a_window() -> None:
    """A rival on a continuous bucket says exactly how long its deficit lasts: the limit stays a bucket."""
    answers = [
        (599, 2, 100),
        (600, 1, 100),
        (600, 3, 300),
    ]

    def answer(request: httpx2.Request) -> httpx2.Response:
        if not answers:
            return httpx2.Response(200, json={"id": "r", "object": "response", "model": "o3"})
        used, requested, again_ms = answers.pop(0)
        message = (
            f"Rate limit reached for o3 in organization org on requests per min (RPM): Limit {RPM}, Used {used}, "
            f"Requested {requested}. Please try again in {again_ms}ms."
        )
        error = {"message": message, "type": "requests", "code": "rate_limit_exceeded"}
        return httpx2.Response(429, json={"error": error})

    limiter = ratelimit.Limiter(limits={"rpm": RPM}, preflight="off", clock=ManualClock())
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    plain = openai.OpenAI(api_key="x", base_url="http://server.invalid/v1", http_client=http)
    ratelimit.wrap(plain, limiter=limiter).responses.create(model="o3", input="x")
    (limit,) = limiter.limits("o3")
    assert not limit.window


@pytest.mark.filterwarnings("ignore:.*the server counts tpm per")
def test_a_window_is_unlearned_by_what_only_a_bucket_says_three_times_in_a_row() -> None:
    """A refusal just before an edge is no evidence against a window; times as a bucket tells them, one by one, are."""
    limiter = ratelimit.Limiter(limits={"tpm": 60_000}, preflight="off", clock=ManualClock())
    gate = limiter.gate("o3")

    def refused(used: int, requested: int, again_us: int) -> bool:
        refusal = Refusal("rate", "", "", "tpm", 60_000, used, requested, again_us)
        limiter.feedback.refused(gate, refusal, None)
        return limiter.limits("o3")[0].window

    assert [refused(100, 100, 700_000), refused(100, 100, 600_000)] == [False, True]
    assert all(refused(59_990, 20, 10_000) for _ in range(10))  # over by 10: a bucket says 10 ms, an edge may be near
    assert all(refused(59_500, 1_000, us) for us in (500_000, 500_000, 900_000, 500_000, 500_000))
    assert not refused(59_500, 1_000, 500_000)
