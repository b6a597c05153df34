"""Law: every call ends its entry, once, and never at less than what may have been spent."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import ratelimit
from pricing import Usd
from pricing.errors import LedgerError
from pricing.ledger import Entry, Ledger
from ratelimit.context import CURRENT, CallContext
from ratelimit.emulator import Emulator

from .replies import DAY, LIMITS, RESPONSE, URL, both

MESSAGES: Any = [{"role": "user", "content": "Say hello."}]
USAGE = {"prompt_tokens": 1_000, "completion_tokens": 500}
CHAT = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "o3", "choices": []}

each_ledger = pytest.mark.parametrize("kept", ["memory", "sqlite"])


def sse(*documents: object) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(one).encode() for one in documents)


def chunk(**delta: Any) -> dict[str, Any]:
    return {**CHAT, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}], "usage": None}


def streaming(lib: Any, raw: bytes, *, cut: bool = False, kind: str = "text/event-stream") -> Any:
    """An answer that streams these bytes, and breaks off when `cut`."""

    class Body(lib.SyncByteStream, lib.AsyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield raw
            if cut:
                raise lib.ReadError("connection lost")

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in self:
                yield piece

    return lib.Response(200, headers={"content-type": kind}, stream=Body())


def wrapped(answer: Callable[[Any], Any], **settings: Any) -> openai.OpenAI:
    """The real client, wrapped, over a transport that answers by a function."""
    http = httpx2.Client(transport=httpx2.MockTransport(answer), follow_redirects=True)
    plain = openai.OpenAI(base_url="http://test/v1", api_key="test", max_retries=0, http_client=http)
    settings.setdefault("limits", None if "limiter" in settings else LIMITS)
    return ratelimit.wrap(plain, at=None if "limiter" in settings else DAY, **settings)


def stream_chat(client: openai.OpenAI, **more: Any) -> None:
    for _ in client.chat.completions.create(model="o3", messages=MESSAGES, stream=True, **more):
        pass


def spend_all(client: openai.OpenAI) -> None:
    for _ in range(1_000):
        stream_chat(client, max_completion_tokens=2_000)


def only(ledger: Ledger) -> Entry:
    (entry,) = ledger.entries()
    return entry


def open_ledger(kept: str, folder: Path) -> Ledger:
    return Ledger() if kept == "memory" else Ledger(folder / "costs.db")


# What ends without a usage


def test_a_budget_is_not_overshot_by_hidden_reasoning() -> None:
    """Streams without a usage bill reasoning that nobody sees: the budget never counts less than the server bills."""
    ledger = Ledger()
    with (
        Emulator(limits=LIMITS, latency=0, at=DAY) as server,
        openai.OpenAI(base_url=server.url, api_key="test", max_retries=0) as plain,
    ):
        client = ratelimit.wrap(plain, limits=LIMITS, ledger=ledger, budget="0.50 USD/day", at=DAY, ask_usage=False)
        with pytest.raises(ratelimit.OverBudget):
            spend_all(client)
        used = server.counters()["usage"]
    billed = Usd((used["input_tokens"] * 2 + used["output_tokens"] * 8) * 10**6)
    assert Usd.ZERO < billed <= ledger.totals().posted <= Usd.parse("0.50")
    for entry in ledger.entries():
        assert not entry.exact
        assert "worst case" in entry.why


@pytest.mark.parametrize("budget", [None, "1 USD/day warn"])
@pytest.mark.parametrize("cut", [False, True], ids=["complete", "cut"])
def test_hidden_reasoning_is_charged_at_the_mean_without_a_budget(cut: bool, budget: str | None) -> None:
    """Without a budget that binds the report says what such calls cost on average, not the cents of the text."""
    ledger = Ledger()
    client = wrapped(lambda _: streaming(httpx2, sse(chunk(content="Hello.")), cut=cut), ledger=ledger, budget=budget)
    with pytest.raises(openai.OpenAIError) if cut else nullcontext():
        stream_chat(client)
    entry = only(ledger)
    assert (entry.state, entry.exact, entry.cost) == ("posted", False, entry.estimate)
    assert entry.usage["output_tokens"] == 2
    assert entry.usage["reasoning_tokens"] > 1_000
    assert "hidden reasoning" in entry.why


def test_a_long_visible_text_counts_in_full() -> None:
    """Text that is more than the mean reply is charged as counted, and no reasoning is added to it."""
    ledger = Ledger()
    client = wrapped(lambda _: streaming(httpx2, sse(chunk(content="hello " * 5_000))), ledger=ledger)
    stream_chat(client)
    usage = only(ledger).usage
    assert usage["output_tokens"] > 5_000
    assert usage["reasoning_tokens"] == 0


def test_arguments_of_tools_are_counted() -> None:
    """A stream that only calls a tool has said something: its arguments are billed, so they are counted."""
    ledger = Ledger()
    call = chunk(tool_calls=[{"index": 0, "id": "x", "function": {"name": "find", "arguments": '{"a": 1} ' * 2_000}}])
    stream_chat(wrapped(lambda _: streaming(httpx2, sse(call)), ledger=ledger))
    entry = only(ledger)
    assert (entry.state, entry.exact) == ("posted", False)
    assert entry.usage["output_tokens"] > 8_000


def searching(model: str, *items: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a Responses stream that calls hosted tools, says a word, and never tells a usage."""
    done = [{"type": "response.output_item.done", "output_index": i, "item": one} for i, one in enumerate(items)]
    begun = {"type": "response.created", "response": {**RESPONSE, "model": model, "status": "in_progress"}}
    return [begun, *done, {"type": "response.output_text.delta", "delta": "hello"}]


SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}


@pytest.mark.parametrize("model", ["gpt-4.1", "gpt-5.4"])
@pytest.mark.parametrize(("most", "charged"), [({"max_tool_calls": 5}, 5), ({}, 3)])
def test_a_budget_is_charged_the_searches_of_a_cut_stream(model: str, most: dict[str, int], charged: int) -> None:
    """A cut stream does not say how many searches there were: a budget is charged as many as it has held."""
    ledger = Ledger()
    answer = streaming(httpx2, sse(*searching(model, SEARCH, SEARCH, SEARCH)), cut=True)
    client = wrapped(lambda _: answer, ledger=ledger, budget="100 USD/day")
    with pytest.raises(openai.OpenAIError):
        list(
            client.responses.create(
                model=model, input="hi", stream=True, tools=[{"type": "web_search"}], max_output_tokens=100, **most
            )
        )
    assert only(ledger).usage["web_search_calls"] == charged


def test_searches_that_were_seen_are_counted_without_a_budget() -> None:
    """What a stream has shown of its tools is in the bill that is counted from it."""
    ledger = Ledger()
    client = wrapped(lambda _: streaming(httpx2, sse(*searching("gpt-4.1", SEARCH, SEARCH))), ledger=ledger)
    list(client.responses.create(model="gpt-4.1", input="hi", stream=True, tools=[{"type": "web_search"}]))
    entry = only(ledger)
    assert (entry.exact, entry.components["web_search_calls"]) == (False, Usd.parse("0.02"))


def test_a_budget_is_charged_the_most_input_that_a_cut_stream_may_have_had() -> None:
    """What an earlier response holds is not in the request: under a budget it counts as the most that it may be."""
    ledger = Ledger()
    client = wrapped(lambda _: streaming(httpx2, sse(*searching("gpt-4.1")), cut=True), ledger=ledger, budget="9 USD")
    with pytest.raises(openai.OpenAIError):
        list(client.responses.create(model="gpt-4.1", input="hi", stream=True, previous_response_id="resp_0"))
    entry = only(ledger)
    assert entry.usage["input_tokens"] > 1_000_000
    assert entry.cost is not None
    assert entry.worst is not None
    assert Usd.parse("3") < entry.cost <= entry.worst


def test_sound_that_was_cut_is_charged_at_its_worst_case() -> None:
    """No text tells how much sound there was: a budget is charged what it held."""
    ledger, day = Ledger(), date(2026, 10, 20)
    heard = chunk(content="hi") | {"model": "gpt-audio"}
    http = httpx2.Client(transport=httpx2.MockTransport(lambda _: streaming(httpx2, sse(heard), cut=True)))
    plain = openai.OpenAI(base_url="http://test/v1", api_key="test", max_retries=0, http_client=http)
    client = ratelimit.wrap(plain, limits=LIMITS, ledger=ledger, budget="10 USD", at=day)
    with pytest.raises(openai.OpenAIError):
        list(
            client.chat.completions.create(
                model="gpt-audio", messages=MESSAGES, stream=True, max_completion_tokens=4_000,
                modalities=["text", "audio"], audio={"voice": "alloy", "format": "pcm16"},
            )
        )  # fmt: skip
    assert only(ledger).cost == only(ledger).worst


def test_a_running_count_of_a_cut_stream_is_inexact() -> None:
    """A server that counts on with every chunk has not said the last word when the connection breaks."""
    ledger = Ledger()
    raw = sse(*({**chunk(content="a"), "usage": {"prompt_tokens": 10, "completion_tokens": k}} for k in (1, 2, 3)))
    with pytest.raises(openai.OpenAIError):
        stream_chat(wrapped(lambda _: streaming(httpx2, raw, cut=True), ledger=ledger))
    entry = only(ledger)
    assert (entry.state, entry.exact) == ("posted", False)
    assert entry.usage["input_tokens"] == 10
    assert entry.usage["output_tokens"] == 3


UNREADABLE = [
    {"prompt_tokens": None},
    {"prompt_tokens": 1_000.0, "completion_tokens": 500.0},
    {"prompt_tokens": "1000", "completion_tokens": "500"},
    {"prompt_tokens": -5, "completion_tokens": None},
    {"prompt_tokens": 10**30, "completion_tokens": 1},
    {"prompt_tokens": 10**4_200, "completion_tokens": 1},
]


@each_ledger
@pytest.mark.parametrize(
    "usage", UNREADABLE, ids=["null", "float", "text", "negative", "absurd", "thousands of digits"]
)
@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_a_nonsensical_usage_is_an_estimate(kept: str, usage: Any, streamed: bool, tmp_path: Path) -> None:
    """Counts that are none are never an exact $0, poison no sum, and the reply reaches the user."""
    ledger = open_ledger(kept, tmp_path)
    document = {**CHAT, "usage": usage}

    def answer(_: Any) -> Any:
        return streaming(httpx2, sse(document)) if streamed else httpx2.Response(200, json=document)

    client = wrapped(answer, ledger=ledger)
    if streamed:
        stream_chat(client)
    else:
        assert client.chat.completions.create(model="o3", messages=MESSAGES).id == "chatcmpl-1"
    entry = only(ledger)
    assert (entry.state, entry.exact) == ("expired", False)
    assert "unreadable" in entry.why
    assert ledger.totals().as_dict()["expired_estimate"] == str(entry.estimate)


def test_beside_an_unreadable_usage_the_text_still_counts() -> None:
    """A stream whose usage is nonsense has said what it has said: no long answer passes at the mean of short ones."""
    ledger, nonsense = Ledger(), {**CHAT, "usage": {"prompt_tokens": None, "completion_tokens": None}}
    stream_chat(wrapped(lambda _: streaming(httpx2, sse(chunk(content="hello " * 5_000), nonsense)), ledger=ledger))
    entry = only(ledger)
    assert (entry.state, entry.exact) == ("posted", False)
    assert entry.usage["output_tokens"] > 5_000
    assert "unreadable" in entry.why


ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("budget", [None, "20 USD"])
def test_a_usage_of_zeros_is_never_an_exact_bill_of_nothing(streamed: bool, budget: str | None) -> None:
    """A reply that was written cannot have taken no token at all: such a call counts as one that told no usage."""
    ledger, document = Ledger(), {**CHAT, "usage": ZEROS}

    def answer(_: Any) -> Any:
        said = sse(chunk(content="hello " * 5_000), document)
        return streaming(httpx2, said) if streamed else httpx2.Response(200, json=document)

    client = wrapped(answer, ledger=ledger, budget=budget)
    if streamed:
        stream_chat(client, max_completion_tokens=9_000)
    else:
        client.chat.completions.create(model="o3", messages=MESSAGES, max_completion_tokens=9_000)
    entry = only(ledger)
    assert not entry.exact
    assert "all zeros" in entry.why
    counted = entry.cost if entry.state == "posted" else entry.estimate
    assert counted is not None
    assert counted > Usd.ZERO
    assert not streamed or entry.usage["output_tokens"] > 5_000


def test_the_zeros_of_a_response_that_failed_are_believed() -> None:
    """A response that failed before a token was read says so, and costs nothing."""
    ledger = Ledger()
    body = {**RESPONSE, "status": "failed", "usage": {"input_tokens": 0, "output_tokens": 0}}
    wrapped(lambda _: httpx2.Response(200, json=body), ledger=ledger).responses.create(model="o3", input="x")
    assert (only(ledger).state, only(ledger).exact, only(ledger).cost) == ("posted", True, Usd.ZERO)


def test_a_usage_of_zeros_gives_no_room_back() -> None:
    """Where replies give back what they did not take, one that tells nothing gives nothing back."""
    limiter = ratelimit.Limiter(limits={"tpm": 100_000}, policy="conservative", at=DAY)
    body = {**RESPONSE, "usage": {"input_tokens": 0, "output_tokens": 0}}
    wrapped(lambda _: httpx2.Response(200, json=body), limiter=limiter).responses.create(
        model="o3", input="x", max_output_tokens=50_000
    )
    assert limiter.store.backlog_us("o3:tpm") > 25_000_000


def test_a_number_python_cannot_read_loses_no_reply() -> None:
    """Five thousand digits are no JSON that Python reads: the bytes arrive, and the call counts at its estimate."""
    raw = json.dumps({**CHAT, "usage": {"prompt_tokens": 0}}).replace(": 0}", ": 1" + "0" * 5_000 + "}").encode()
    ledger = Ledger()
    client = wrapped(lambda _: httpx2.Response(200, content=raw), ledger=ledger)
    reply = client.chat.completions.with_raw_response.create(model="o3", messages=MESSAGES)
    assert reply.content == raw
    assert only(ledger).state == "expired"


@pytest.mark.parametrize("model", ["o3", "o3-pro"])
def test_under_a_budget_an_unreadable_usage_keeps_what_was_held(model: str) -> None:
    """Nobody knows what a reply without a readable usage cost, so under a budget its whole hold stays."""
    ledger = Ledger()
    body = {**RESPONSE, "model": model, "usage": {"input_tokens": None}}
    client = wrapped(lambda _: httpx2.Response(200, json=body), ledger=ledger, budget="20 USD")
    client.responses.create(model=model, input="x", max_output_tokens=1_000)
    entry = only(ledger)
    assert (entry.state, entry.exact, entry.cost) == ("posted", False, entry.worst)


@pytest.mark.parametrize("policy", ["observed", "conservative"])
def test_an_absurd_usage_does_not_lock_the_limiter(policy: str) -> None:
    """A reply that claims a billion tokens fills a bucket, and does not block it for weeks."""
    limiter = ratelimit.Limiter(limits={"tpm": 100_000}, policy=policy, at=DAY)
    body = {**RESPONSE, "usage": {"input_tokens": 10**9, "output_tokens": 1}}
    wrapped(lambda _: httpx2.Response(200, json=body), limiter=limiter).responses.create(
        model="o3", input="x", max_output_tokens=10
    )
    assert limiter.store.backlog_us("o3:tpm") <= 61_000_000


# What is dropped


@both
@each_ledger
@pytest.mark.parametrize("begun", [False, True], ids=["never iterated", "half read"])
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_dropped_response_ends_its_entry(lib: Any, kept: str, begun: bool, colour: str, tmp_path: Path) -> None:
    """A response that is neither read nor closed ends when it is collected: nothing stays held for ever."""
    ledger = open_ledger(kept, tmp_path)
    transports = getattr(ratelimit.transports, lib.__name__)
    answer = lib.MockTransport(lambda _: streaming(lib, sse(chunk(content="Hello.")) * 2))
    body = {"model": "o3", "input": "x", "stream": True}
    if colour == "sync":
        with lib.Client(transport=transports.CostTransport(answer, ledger=ledger, at=DAY)) as client:
            response = client.send(client.build_request("POST", URL, json=body), stream=True)
            if begun:
                next(response.iter_raw(10))
            del response
            gc.collect()
    else:

        async def main() -> None:
            async with lib.AsyncClient(
                transport=transports.AsyncCostTransport(answer, ledger=ledger, at=DAY)
            ) as client:
                response = await client.send(client.build_request("POST", URL, json=body), stream=True)
                if begun:
                    await anext(response.aiter_raw(10))
                del response
                gc.collect()

        asyncio.run(main())
        gc.collect()
    assert only(ledger).state in ("posted", "expired")
    assert not only(ledger).exact


def test_dropped_streams_hold_no_budget() -> None:
    """A program that forgets its streams is charged for them, and goes on: only calls in the air hold anything."""
    ledger = Ledger()
    client = wrapped(lambda _: streaming(httpx2, sse(chunk(content="ok"))), ledger=ledger, budget="0.05 USD/day")
    for _ in range(3):
        client.chat.completions.create(model="o3", messages=MESSAGES, stream=True, max_completion_tokens=1_000)
        gc.collect()
    assert [entry.state for entry in ledger.entries()] == ["posted"] * 3


def test_dropped_streams_hold_no_slot() -> None:
    """Where only so many calls may be in the air, a forgotten stream leaves it when it is collected."""
    limiter = ratelimit.Limiter(limits={"concurrency": 1}, max_wait=0, at=DAY)
    client = wrapped(lambda _: streaming(httpx2, sse(chunk(content="ok"))), limiter=limiter)
    kept = client.chat.completions.create(model="o3", messages=MESSAGES, stream=True)
    with pytest.raises(ratelimit.WouldWait):
        client.chat.completions.create(model="o3", messages=MESSAGES, stream=True)
    del kept
    gc.collect()
    stream_chat(client)


def test_an_answer_read_to_its_end_is_ended_once() -> None:
    """Closing twice, and being collected after, changes nothing about an entry that has ended."""
    ledger = Ledger()
    answer = httpx2.MockTransport(lambda _: httpx2.Response(200, json={**CHAT, "usage": USAGE}))
    with httpx2.Client(transport=ratelimit.transports.httpx2.CostTransport(answer, ledger=ledger, at=DAY)) as client:
        response = client.post(URL, json={"model": "o3", "input": "x"})
        response.close()
        before = only(ledger)
        del response
        gc.collect()
    assert only(ledger) == before
    assert (before.state, before.exact) == ("posted", True)


def test_a_hook_that_raises_gives_everything_back() -> None:
    """An error of `on_admitted` reaches the caller, and the call it stopped holds no room and no money."""
    ledger, limiter = Ledger(), ratelimit.Limiter(limits={"rpm": 10}, at=DAY)
    client = wrapped(lambda _: httpx2.Response(200, json=CHAT), limiter=limiter, ledger=ledger)

    def stop(_: Any) -> None:
        raise RuntimeError("not this one")

    token = CURRENT.set(CallContext(on_admitted=stop))
    try:
        with pytest.raises(RuntimeError, match="not this one"):
            client.chat.completions.create(model="o3", messages=MESSAGES)
    finally:
        CURRENT.reset(token)
    assert limiter.store.backlog_us("o3:rpm") == 0
    assert (only(ledger).state, only(ledger).why) == ("voided", "RuntimeError: not sent")


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_loses_no_reply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where warnings are errors, that a cost could not be written stops the next call, not the reply that is here."""
    with Ledger(tmp_path / "costs.db") as ledger:
        client = wrapped(lambda _: httpx2.Response(200, json={**CHAT, "usage": USAGE}), ledger=ledger)
        whole, failures = ledger.post, iter([LedgerError("the disk is full")])

        def post(*given: Any, **facts: Any) -> bool:
            for failure in failures:
                raise failure
            return whole(*given, **facts)

        monkeypatch.setattr(ledger, "post", post)
        assert client.chat.completions.with_raw_response.create(model="o3", messages=MESSAGES).status_code == 200
        with pytest.raises(ratelimit.RatecardWarning, match="could not be written"):
            client.chat.completions.create(model="o3", messages=MESSAGES)
        assert client.chat.completions.create(model="o3", messages=MESSAGES).usage is not None
        assert [entry.state for entry in ledger.entries()] == ["pending", "posted"]
