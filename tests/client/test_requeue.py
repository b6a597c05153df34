"""Temporary 429s are queued again under the SDK; the final ones reach the caller once, and stop what they should."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import openai
import pytest

import ratelimit
from pricing.ledger import Ledger
from ratelimit.errors import QuotaSpent
from ratelimit.testing import ManualClock

OK = {"id": "resp_1", "model": "o3", "object": "response", "usage": {"input_tokens": 5, "output_tokens": 5}}
RATE = {
    "error": {
        "message": "Rate limit reached for o3 in organization org on tokens per min (TPM): Limit 30000, Used 29446, "
        "Requested 821. Please try again in 534ms.",
        "type": "tokens",
        "code": "rate_limit_exceeded",
    }
}
QUOTA = {"error": {"message": "You exceeded your quota", "type": "insufficient_quota", "code": "insufficient_quota"}}
LARGE = {
    "error": {
        "message": "Request too large for o3 on tokens per min (TPM): Limit 30000, Requested 44000.",
        "type": "tokens",
        "code": "rate_limit_exceeded",
    }
}
SLOW = {"error": {"message": "Slow down", "type": "rate_limit_error", "code": "slow_down"}}


class Server:
    """Answers from a script, then with 200; counts what it was sent."""

    def __init__(self, *script: tuple[int, Any, dict[str, str]]) -> None:
        self.script = list(script)
        self.seen = 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.seen += 1
        status, body, headers = self.script.pop(0) if self.script else (200, OK, {})
        if isinstance(body, str):
            return httpx2.Response(status, text=body, headers=headers)
        return httpx2.Response(status, json=body, headers=headers)


def wrapped(server: Server, limiter: ratelimit.Limiter, **settings: Any) -> openai.OpenAI:
    http = httpx2.Client(transport=httpx2.MockTransport(server))
    plain = openai.OpenAI(api_key="x", base_url="http://server.invalid/v1", http_client=http)
    return ratelimit.wrap(plain, limiter=limiter, **settings)


def limiter_of(**settings: Any) -> ratelimit.Limiter:
    return ratelimit.Limiter(limits={"rpm": 500, "tpm": 30_000}, preflight="off", clock=ManualClock(), **settings)


def test_a_temporary_429_is_queued_again_and_waits_as_long_as_the_server_says() -> None:
    """Two refusals, then a reply: the caller sees one call that worked, after at least the time the server named."""
    limiter = limiter_of()
    start_us = limiter.clock.now_us()
    server = Server((429, RATE, {}), (429, RATE, {}))
    ledger = Ledger()
    reply = wrapped(server, limiter, ledger=ledger).responses.create(model="o3", input="x")
    assert reply.id == "resp_1"
    assert server.seen == 3
    assert limiter.clock.now_us() - start_us >= 2 * 500_000
    assert sorted(entry.state for entry in ledger.entries()) == ["posted", "voided", "voided"]


def test_the_sdks_retries_do_not_multiply() -> None:
    """What stays refused until max_wait is over reaches the caller as the server's own 429, without another try."""
    limiter = limiter_of(max_wait=3)
    server = Server(*[(429, RATE, {"x-should-retry": "true"})] * 50)
    with pytest.raises(openai.RateLimitError, match="Limit 30000"):
        wrapped(server, limiter).responses.create(model="o3", input="x")
    assert 2 <= server.seen <= 8


def test_a_gateways_429_is_waited_out_by_its_header() -> None:
    """A 429 in words that nobody knows is temporary when a header says when to come back."""
    limiter = limiter_of()
    start_us = limiter.clock.now_us()
    server = Server((429, "<html>busy</html>", {"retry-after": "7"}))
    assert wrapped(server, limiter).responses.create(model="o3", input="x").id == "resp_1"
    waited_us = limiter.clock.now_us() - start_us
    assert 7_000_000 <= waited_us <= 7_800_000  # and jitter is only ever added


def test_a_429_that_says_nothing_is_the_callers_to_judge() -> None:
    """Without a kind and without a time it is passed on as it came, with its body and headers."""
    server = Server((429, {"error": {"message": "Resource unavailable", "code": "resource_unavailable"}}, {"x-a": "b"}))
    client = wrapped(server, limiter_of()).with_options(max_retries=0)
    with pytest.raises(openai.RateLimitError) as refusal:
        client.responses.create(model="o3", input="x")
    assert server.seen == 1
    assert refusal.value.response.headers["x-a"] == "b"
    assert "x-should-retry" not in refusal.value.response.headers


@pytest.mark.parametrize("body", [QUOTA, LARGE], ids=["quota", "too large"])
def test_what_waiting_does_not_help_is_never_tried_again(body: Any) -> None:
    """A spent quota and a request that is too large reach the caller after one request, SDK retries or not."""
    server = Server((429, body, {}))
    with pytest.raises(openai.RateLimitError):
        wrapped(server, limiter_of()).responses.create(model="o3", input="x")
    assert server.seen == 1


def test_a_spent_quota_stops_what_is_in_line_at_once() -> None:
    """Whoever waits is told why, nothing more is sent for a minute, and then one request tries again."""

    async def main() -> tuple[list[Any], int, str]:
        clock = ManualClock()
        limiter = ratelimit.Limiter(limits={"rpm": 1}, preflight="off", clock=clock)
        server = Server((429, QUOTA, {}))
        http = httpx2.AsyncClient(transport=httpx2.MockTransport(server))
        plain = openai.AsyncOpenAI(api_key="x", base_url="http://server.invalid/v1", http_client=http)
        client = ratelimit.wrap(plain, limiter=limiter)
        calls = [client.responses.create(model="o3", input="x") for _ in range(5)]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        with pytest.raises(QuotaSpent, match="insufficient_quota"):
            await client.responses.create(model="o3", input="x")
        seen = server.seen
        clock.advance(61_000_000)
        return ends, seen, (await client.responses.create(model="o3", input="x")).id

    ends, seen, after = asyncio.run(main())
    assert seen == 1
    assert [type(end) for end in ends[1:]] == [QuotaSpent] * 4
    assert isinstance(ends[0], openai.RateLimitError)
    assert after == "resp_1"


@pytest.mark.filterwarnings("ignore:.*asks to slow down")
def test_slow_down_lowers_the_limit_and_lets_it_rise_by_half_every_quarter_of_an_hour() -> None:
    """The ramp rule: never more than half as much again per 15 minutes, up to the table's limit and no further."""
    limiter = limiter_of()
    clock = limiter.clock
    assert isinstance(clock, ManualClock)
    server = Server((429, SLOW, {}), (200, OK, {"x-ratelimit-limit-tokens": "30000"}))
    client = wrapped(server, limiter)
    client.responses.create(model="o3", input="x")
    assert server.seen == 2
    seen = []
    for _ in range(3):
        seen.append({limit.name: limit.capacity for limit in limiter.limits("o3")}["tpm"])
        clock.advance(15 * 60_000_000)
        headers = {
            "x-ratelimit-limit-tokens": "30000",
            "x-ratelimit-remaining-tokens": "29990",
            "x-ratelimit-reset-tokens": "20ms",
        }
        server.script.append((200, OK, headers))
        client.responses.create(model="o3", input="x")
    assert seen == [20_000, 30_000, 30_000]


def test_every_attempt_is_charged_and_only_the_last_keeps_its_tokens() -> None:
    """A refused request still counts as a request, and takes no tokens."""
    limiter = limiter_of()
    server = Server((429, RATE, {}))
    events: list[Any] = []
    limiter.listen(events.append)
    wrapped(server, limiter).responses.create(model="o3", input="x")
    kinds = [event.kind for event in events]
    assert kinds[:3] == ["admitted", "settled", "refused"]
    assert kinds[-1] == "admitted"
    assert next(event for event in events if event.kind == "refused").limit == "tpm"
