"""Temporary 429s are queued again under the SDK; the final ones reach the caller once, and stop what they should."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import openai
import pytest

import ratelimit
from pricing.ledger import Ledger
from ratelimit.context import CURRENT, CallContext
from ratelimit.errors import QuotaSpent
from ratelimit.exchange import Tries
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


def test_a_refusal_names_the_max_wait_that_was_given() -> None:
    """What the counting of a request took is no part of its wait: the error says 1 s where 1 s was given."""
    limiter = ratelimit.Limiter(limits={"rpm": 1}, preflight="off")
    client = wrapped(Server(), limiter, max_wait=1)
    client.responses.create(model="o3", input="x")
    with pytest.raises(ratelimit.WouldWait, match=r"max_wait is 1 s$") as refusal:
        client.responses.create(model="o3", input="x")
    assert refusal.value.max_wait_s == 1


def test_a_refusal_after_a_slow_budget_names_what_was_given_and_what_that_took() -> None:
    """Where a slow budget took a part of max_wait, the error has both numbers, and not their difference alone."""
    tries = Tries(limiter_of(), 1_000_000)
    refusal = ratelimit.WouldWait(limit="rpm", retry_after_s=5.0, max_wait_s=0.7)
    assert tries.told(refusal) is refusal
    tries.paused_us = 300_000
    told = tries.told(refusal)
    assert str(told).endswith("max_wait is 1 s, and 0.300 s of it went by for a slow budget")
    assert isinstance(told, ratelimit.WouldWait)
    assert (told.max_wait_s, told.retry_after_s, told.limit) == (1.0, 5.0, "rpm")


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
    assert isinstance(ends[0], openai.RateLimitError)
    assert [type(end) for end in ends[1:]] == [QuotaSpent] * 4
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


def test_after_a_spent_quota_one_request_tries_and_the_others_wait_for_its_reply() -> None:
    """A minute later the first to ask is sent; only when it is answered does everybody go again."""
    clock = ManualClock()
    limiter = ratelimit.Limiter(limits={"rpm": 500}, preflight="off", clock=clock)
    server = Server((429, QUOTA, {}), (429, QUOTA, {}))
    client = wrapped(server, limiter)
    for tried in (1, 2):
        with pytest.raises(openai.RateLimitError):
            client.responses.create(model="o3", input="x")
        for _ in range(20):
            with pytest.raises(QuotaSpent):
                client.responses.create(model="o3", input="x")
        assert server.seen == tried
        clock.advance(61_000_000)
    for _ in range(3):
        client.responses.create(model="o3", input="x")


@pytest.mark.filterwarnings("ignore:.*asks to slow down")
def test_a_limit_made_small_on_the_way_does_not_rule_a_request_out_for_ever() -> None:
    """Slowed below the size of a request, it is sent when the whole burst is free; hours later as before."""
    limiter = limiter_of()
    clock = limiter.clock
    assert isinstance(clock, ManualClock)
    server = Server((429, SLOW, {}))
    client = wrapped(server, limiter)
    large = "word " * 25_000
    client.responses.create(model="o3", input=large)
    assert {one.name: one.capacity for one in limiter.limits("o3")}["tpm"] == 20_000
    clock.advance(3_600_000_000)
    client.responses.create(model="o3", input=large)
    assert {one.name: one.capacity for one in limiter.limits("o3")}["tpm"] == 30_000


@pytest.mark.filterwarnings("ignore:.*is obeyed from now on")
def test_a_limit_that_no_reply_confirms_stops_nobody_for_long() -> None:
    """One reply shows a limit of 1: what is larger is refused, until ten minutes later one may ask the server."""
    limiter = limiter_of()
    clock = limiter.clock
    assert isinstance(clock, ManualClock)
    lie = {"x-ratelimit-limit-tokens": "1", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "60s"}
    server = Server((200, OK, lie))
    client = wrapped(server, limiter)
    client.responses.create(model="o3", input="x")
    with pytest.raises(ratelimit.NeverFits):
        client.responses.create(model="o3", input="x")
    clock.advance(601_000_000)
    client.responses.create(model="o3", input="x")
    assert server.seen == 2


@pytest.mark.parametrize("order", [("rpd", "rpm"), ("rpm", "rpd")])
def test_a_cool_down_spends_no_day(order: tuple[str, str]) -> None:
    """Whatever the order of the limits, a bare retry-after holds back for its time, and takes a minute's burst."""
    numbers = {"rpm": 6_000, "rpd": 10_000}
    clock = ManualClock()
    limiter = ratelimit.Limiter(limits={name: numbers[name] for name in order}, preflight="off", clock=clock)
    start_us = clock.now_us()
    server = Server((429, "busy", {"retry-after": "1"}))
    client = wrapped(server, limiter)
    for _ in range(50):
        client.responses.create(model="o3", input="x")
    assert clock.now_us() - start_us < 3_000_000


def test_no_429_holds_back_for_more_than_an_hour() -> None:
    """A retry-after of a year is a server's mistake: after an hour one request goes to see."""
    limiter = limiter_of()
    start_us = limiter.clock.now_us()
    server = Server((429, "busy", {"retry-after": "31536000"}))
    wrapped(server, limiter).responses.create(model="o3", input="x")
    assert 3_600_000_000 <= limiter.clock.now_us() - start_us <= 1.11 * 3_600_000_000


def test_a_429_is_read_whatever_its_content_type_says() -> None:
    """A spent quota labelled as a stream of events is a spent quota."""
    body = json.dumps(QUOTA)
    server = Server((429, body, {"content-type": "text/event-stream", "retry-after": "2"}))
    with pytest.raises(openai.RateLimitError):
        wrapped(server, limiter_of()).responses.create(model="o3", input="x")
    assert server.seen == 1


def test_a_long_message_is_not_searched_to_its_end() -> None:
    """Reading a 429 takes no longer for a message of a megabyte: only its beginning can name a limit."""
    body = {"error": {"message": "on " * 400_000, "type": "tokens", "code": "rate_limit_exceeded"}}
    server = Server((429, body, {}))
    assert wrapped(server, limiter_of()).responses.create(model="o3", input="x").id == "resp_1"


def test_hooks_that_fail_lose_nothing() -> None:
    """on_cost and on_refused only hear of things: what they raise is a warning, the reply and the entry are there."""

    def fail(fact: object) -> None:
        raise LookupError("hook")

    ledger = Ledger()
    client = wrapped(Server((429, RATE, {})), limiter_of(), ledger=ledger)
    token = CURRENT.set(CallContext(on_refused=fail, on_cost=fail))
    try:
        with pytest.warns(ratelimit.RatecardWarning, match="on_(refused|cost) failed"):
            assert client.responses.create(model="o3", input="x").id == "resp_1"
    finally:
        CURRENT.reset(token)
    assert sorted(entry.state for entry in ledger.entries()) == ["posted", "voided"]


def test_a_request_that_is_queued_again_is_never_lost_to_a_full_queue() -> None:
    """It was sent and refused: where it cannot wait again, its caller gets the server's 429."""
    limiter = limiter_of(max_queue=0)
    with pytest.raises(openai.RateLimitError, match="Limit 30000"):
        wrapped(Server((429, RATE, {})), limiter).responses.create(model="o3", input="x")
