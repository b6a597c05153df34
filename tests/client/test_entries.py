"""Law: each attempt leaves an entry that says what was asked, what was served, which try it was and how long it took.

And no prompt, reply or key is in the file, whatever became of the call.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import pricing
import ratelimit
from pricing.ledger import Entry, Ledger
from ratelimit.context import CURRENT, CallContext

from .replies import DAY, LIMITS

MESSAGES: Any = [{"role": "user", "content": "the secret of the pyramids"}]
KEY = "sk-proj-0123456789abcdefghijkl"
USAGE = {"prompt_tokens": 9, "completion_tokens": 40, "total_tokens": 49}


def reply(number: int, text: str = "spoken in confidence") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": f"chat_{number}", "object": "chat.completion", "created": 1, "model": "o3-2025-04-16",
            "service_tier": "default", "choices": choices, "usage": USAGE}  # fmt: skip


def client_of(answer: Callable[[httpx2.Request], httpx2.Response], retries: int = 0, **settings: Any) -> openai.OpenAI:
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    plain = openai.OpenAI(base_url="http://test/v1", api_key=KEY, max_retries=retries, http_client=http)
    return ratelimit.wrap(plain, limits=LIMITS, at=DAY, **settings)


def only(ledger: Ledger) -> Entry:
    (entry,) = ledger.entries()
    return entry


def test_an_entry_says_what_was_asked_and_what_was_served() -> None:
    """The alias and tier that were asked for stand beside those that served; ids, effort, tags and times are there."""
    ledger = Ledger()
    answers = lambda _: httpx2.Response(200, json=reply(1), headers={"x-request-id": "req_7"})  # noqa: E731
    client = client_of(answers, ledger=ledger, tags={"team": "search", "job": "day"})
    with pricing.tags(job="night", feature="rank"):
        client.chat.completions.create(model="o3", messages=MESSAGES, service_tier="auto", reasoning_effort="high")
    entry = only(ledger)
    assert (entry.asked_model, entry.model) == ("o3", "o3-2025-04-16")
    assert (entry.asked_tier, entry.service_tier) == ("auto", "default")
    assert (entry.request_id, entry.response_id) == ("req_7", "chat_1")
    assert (entry.effort, entry.attempt) == ("high", 1)
    assert entry.tags == {"team": "search", "job": "night", "feature": "rank"}
    assert entry.latency_us is not None
    assert entry.latency_us > 0
    assert entry.wait_us is not None
    assert entry.expected["input_tokens"] > 0


def test_the_sdk_s_retries_are_numbered() -> None:
    """Each try of the SDK is an entry with the next number, and the refused ones keep their request's id."""
    ledger, number = Ledger(), 0

    def answer(_: httpx2.Request) -> httpx2.Response:
        nonlocal number
        number += 1
        headers = {"x-request-id": f"req_{number}", "retry-after-ms": "1"}
        return httpx2.Response(200 if number == 3 else 500, json=reply(number), headers=headers)

    client_of(answer, retries=2, ledger=ledger).chat.completions.create(model="o3", messages=MESSAGES)
    assert [(entry.state, entry.attempt, entry.request_id) for entry in ledger.entries()] == [
        ("voided", 1, "req_1"), ("voided", 2, "req_2"), ("posted", 3, "req_3"),
    ]  # fmt: skip


def test_tries_above_and_below_add_up() -> None:
    """A job's own tries, and requests that are queued again after a 429, count on."""
    ledger, number = Ledger(), 0
    error = {
        "message": "Rate limit reached. Please try again in 1ms.",
        "type": "requests",
        "code": "rate_limit_exceeded",
    }

    def answer(_: httpx2.Request) -> httpx2.Response:
        nonlocal number
        number += 1
        return httpx2.Response(429, json={"error": error}) if number == 1 else httpx2.Response(200, json=reply(number))

    token = CURRENT.set(CallContext(attempt=4))
    try:
        client_of(answer, ledger=ledger).chat.completions.create(model="o3", messages=MESSAGES)
    finally:
        CURRENT.reset(token)
    assert [(entry.state, entry.attempt) for entry in ledger.entries()] == [("voided", 4), ("posted", 5)]


def test_replies_teach_what_the_next_will_take() -> None:
    """Twenty replies of 40 tokens later, 40 are expected, and what is held is still the worst case."""
    ledger, number = Ledger(), 0

    def answer(_: httpx2.Request) -> httpx2.Response:
        nonlocal number
        number += 1
        return httpx2.Response(200, json=reply(number))

    client = client_of(answer, ledger=ledger)
    for _ in range(21):
        client.chat.completions.create(model="o3", messages=MESSAGES)
    again = client_of(answer, ledger=ledger)  # another client on this ledger knows it from the start
    again.chat.completions.create(model="o3", messages=MESSAGES)
    entries = list(ledger.entries())
    assert entries[0].expected["output_tokens"] > 1_000
    for entry in entries[20:]:
        assert (entry.expected["output_tokens"], entry.expected["output_p95"]) == (40, 40)
        assert entry.worst == entries[0].worst


def test_no_prompt_reply_or_key_is_in_the_file(tmp_path: Path) -> None:
    """After good replies, streams, cut ones, refusals and lost connections, the bytes of the file hold none of them."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        kind = json.loads(request.content)["user"]
        if kind == "lost":
            raise httpx2.ReadError("connection lost: spoken in confidence")
        if kind == "refused":
            return httpx2.Response(400, json={"error": {"message": "spoken in confidence", "code": "bad"}})
        if kind == "stream":
            chunk = {"id": "c", "model": "o3", "choices": [{"index": 0, "delta": {"content": "spoken in confidence"}}]}
            raw = f"data: {json.dumps(chunk)}\n\n".encode()
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=raw)
        return httpx2.Response(200, json=reply(1), headers={"set-cookie": "session=spoken", "x-request-id": "req_1"})

    with Ledger(tmp_path / "costs.db") as ledger:
        client = client_of(answer, ledger=ledger, budget=["25 USD/day", "5 USD/day tag:team"], tags={"team": "search"})
        for kind in ("good", "lost", "refused", "stream"):
            with suppress(openai.OpenAIError):
                made: Any = client.chat.completions.create(
                    model="o3", messages=MESSAGES, user=kind, max_completion_tokens=100, stream=kind == "stream"
                )
                if kind == "stream":
                    list(made)
        assert [entry.state for entry in ledger.entries()] == ["posted", "expired", "voided", "posted"]
        ledger.sync()
        data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"req_1" in data
    for secret in ("pyramids", "confidence", KEY, "Bearer", "session=", "authorization"):
        assert secret.encode() not in data


@pytest.mark.parametrize("settings", [{"tags": {"team": "search"}}, {}])
def test_a_tag_decides_which_budget_binds(settings: dict[str, Any]) -> None:
    """A team's budget binds that team's calls, by the client's tags and by those of the block; others pass."""
    ledger = Ledger()
    client = client_of(lambda _: httpx2.Response(200, json=reply(1)), ledger=ledger,
                       budget=["100 USD/day", "0.0001 USD/day tag:team=search"], **settings)  # fmt: skip
    with pricing.tags(team="ads"):
        client.chat.completions.create(model="o3", messages=MESSAGES)
    with pricing.tags(team="search"), pytest.raises(ratelimit.OverBudget, match="tag:team=search"):
        client.chat.completions.create(model="o3", messages=MESSAGES)
    assert only(ledger).tags == {"team": "ads"}
