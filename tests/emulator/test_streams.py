"""Streams, background responses, faults and errors over HTTP, with the real openai client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import httpx
import openai
import pytest

from ratelimit.emulator import Emulator

Emulate = Callable[..., Emulator]
Connect = Callable[..., openai.OpenAI]


@pytest.fixture(scope="module")
def lenient() -> Iterator[Emulator]:
    """One server for all requests that are wrong, whatever the model."""
    with Emulator(limits={"tpm": 10**9}, latency=0) as emulator:
        yield emulator


HELLO: Any = [{"role": "user", "content": "Say hello."}]

RECORDED_ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


def test_a_responses_stream_has_the_recorded_order(emulate: Emulate, connect: Connect) -> None:
    """Events come as recorded, numbered, and the last one carries the whole response with its usage."""
    client = connect(emulate())
    events: list[Any] = list(client.responses.create(model="gpt-4o", input="Say hello.", stream=True))
    assert [name for name, _ in groupby(event.type for event in events)] == RECORDED_ORDER
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    final = events[-1].response
    assert (final.status, final.output_text) == ("completed", text)
    assert final.usage.output_tokens > 0
    assert events[0].response.usage is None
    assert final.id == events[0].response.id


def test_reasoning_comes_before_the_message_in_a_stream(emulate: Emulate, connect: Connect) -> None:
    """A reasoning model's stream has a reasoning item first, as recorded for gpt-5.5."""
    events: list[Any] = list(connect(emulate()).responses.create(model="o3", input="Say hello.", stream=True))
    added = [(event.output_index, event.item.type) for event in events if event.type == "response.output_item.added"]
    assert added == [(0, "reasoning"), (1, "message")]


def test_the_clients_stream_helper_understands_it(emulate: Emulate, connect: Connect) -> None:
    """openai's own accumulator of events, which is strict about their order, ends with the complete response."""
    with connect(emulate()).responses.stream(model="o3", input="Say hello.") as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    assert final.usage is not None
    assert final.output_text


def test_a_cut_stream_answer_ends_incomplete(emulate: Emulate, connect: Connect) -> None:
    """max_output_tokens ends a stream with response.incomplete, usage included."""
    stream = connect(emulate()).responses.create(model="gpt-4o", input="Say hello.", stream=True, max_output_tokens=16)
    final: Any = list(stream)[-1]
    assert final.type == "response.incomplete"
    assert final.response.usage.output_tokens == 16


def test_a_chat_stream_has_role_text_end_and_usage(emulate: Emulate, connect: Connect) -> None:
    """Role first, then text, then the reason it ended, then usage without choices: and usage only when asked for."""
    client = connect(emulate())
    asked = list(
        client.chat.completions.create(
            model="gpt-4o", messages=HELLO, n=2, stream=True, stream_options={"include_usage": True}
        )
    )
    assert asked[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in asked[:-1] if chunk.choices[0].finish_reason] == ["stop"] * 2
    assert asked[-1].choices == []
    assert asked[-1].usage is not None
    assert all(chunk.usage is None for chunk in asked[:-1])
    silent = list(client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in silent)


def test_a_stream_is_written_at_the_pace_of_the_model(emulate: Emulate) -> None:
    """With latency, text arrives piece by piece; without, in one go. The content is the same."""
    body = {"model": "gpt-4o", "input": "Say hello.", "stream": True}
    texts = []
    for options in ({"latency": None, "speed": 1_000_000}, {"latency": 0}):
        emulator = emulate(**options)
        with httpx.stream("POST", f"{emulator.url}/responses", json=body, trust_env=False) as reply:
            lines = [line for line in reply.iter_lines() if line.startswith("data:") and "output_text.done" in line]
        texts.append(lines[0].partition('"text":')[2])
    assert texts[0] == texts[1]


def test_the_async_client_streams(emulate: Emulate) -> None:
    """Streams work from an event loop as well."""
    emulator = emulate()

    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=emulator.url, api_key="any") as client:
            stream = await client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(run())


def test_a_background_response_grows_up_by_the_clock(emulate: Emulate, connect: Connect, clock: Any) -> None:
    """Queued, then in progress, then completed with usage; polling costs no limit and bills once."""
    emulator = emulate(latency=60)
    client = connect(emulator)
    reply = client.responses.create(model="o3-pro", input="Say hello.", background=True)
    assert (reply.status, reply.usage, reply.background) == ("queued", None, True)
    clock.advance(30)
    assert client.responses.retrieve(reply.id).status == "in_progress"
    assert emulator.counters()["usage"]["calls"] == 0
    clock.advance(31)
    done = client.responses.retrieve(reply.id)
    assert (done.status, done.completed_at) == ("completed", int(reply.created_at) + 61)
    assert done.usage is not None
    assert client.responses.retrieve(reply.id).usage == done.usage
    counters = emulator.counters()
    assert (counters["usage"]["calls"], counters["usage"]["output_tokens"]) == (1, done.usage.output_tokens)
    assert (counters["polls"], counters["limits"]["o3-pro"]["rpm"]["used"]) == (3, 0)


def test_an_unpolled_background_response_is_billed_all_the_same(emulate: Emulate, connect: Connect, clock: Any) -> None:
    """The server bills what it generated, whether anyone asked or not."""
    emulator = emulate(latency=60)
    connect(emulator).responses.create(model="o3-pro", input="Say hello.", background=True)
    clock.advance(61)
    assert emulator.counters()["usage"]["calls"] == 1


def test_cancelling_is_final_and_idempotent(emulate: Emulate, connect: Connect, clock: Any) -> None:
    """A cancelled response stays cancelled and is not billed; one that has ended cannot be cancelled any more."""
    emulator = emulate(latency=60)
    client = connect(emulator)
    first, second = (client.responses.create(model="o3-pro", input="Say hello.", background=True) for _ in range(2))
    assert client.responses.cancel(first.id).status == "cancelled"
    clock.advance(100)
    assert client.responses.cancel(first.id).status == "cancelled"
    assert client.responses.cancel(second.id).status == "completed"
    counters = emulator.counters()
    assert (counters["cancelled"], counters["usage"]["calls"]) == (1, 1)


def test_plain_responses_can_be_read_again(emulate: Emulate, connect: Connect) -> None:
    """A stored response is found by its id; store=False and unknown ids are not; a plain one cannot be cancelled."""
    client = connect(emulate())
    kept = client.responses.create(model="o3", input="Say hello.")
    assert client.responses.retrieve(kept.id).output_text == kept.output_text
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(kept.id)
    gone = client.responses.create(model="o3", input="Say hello.", store=False)
    for missing in (gone.id, "resp_0"):
        with pytest.raises(openai.NotFoundError, match=f"Response with id '{missing}' not found."):
            client.responses.retrieve(missing)
        with pytest.raises(openai.NotFoundError):
            client.responses.cancel(missing)


def test_flex_and_priority_are_echoed(emulate: Emulate, connect: Connect) -> None:
    """The reply says which service tier served it, in the words the real one uses."""
    emulator = emulate()
    client = connect(emulator)
    tiers: list[tuple[Any, str]] = [("auto", "default"), ("flex", "flex"), ("priority", "priority")]
    for asked, served in tiers:
        assert client.responses.create(model="o3", input="Say hello.", service_tier=asked).service_tier == served
    assert set(emulator.counters()["usage_by_service_tier"]) == {"default", "flex", "priority"}


# -- what the server refuses -------------------------------------------------------------------------------------------


def test_o3_pro_is_refused_on_chat_and_in_streams(emulate: Emulate, connect: Connect) -> None:
    """The two surprises of o3-pro come with the real messages, and charge nothing."""
    emulator = emulate()
    client = connect(emulator)
    with pytest.raises(openai.NotFoundError, match=r"only supported in v1/responses and not in v1/chat/completions"):
        client.chat.completions.create(model="o3-pro", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="'stream' does not support true with this model"):
        client.responses.create(model="o3-pro", input="Say hello.", stream=True)
    counters = emulator.counters()
    assert (counters["admitted"], counters["invalid"]) == (0, {"only_in_responses": 1, "unsupported_value": 1})


def test_an_unknown_model_is_refused_as_recorded(emulate: Emulate, connect: Connect) -> None:
    """404 on Chat, 400 on Responses, both model_not_found and without limit headers."""
    client = connect(emulate(tier="tier_1"))
    with pytest.raises(openai.NotFoundError) as chat:
        client.chat.completions.create(model="gpt-nope", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as responses:
        client.responses.create(model="gpt-nope", input="Say hello.")
    for caught in (chat, responses):
        assert caught.value.code == "model_not_found"
        assert not any(name.startswith("x-ratelimit") for name in caught.value.response.headers)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("responses", b"{", 400, "could not parse the JSON body"),
        ("responses", b"[]", 400, "could not parse the JSON body"),
        ("responses", b"{}", 400, "Missing required parameter: 'model'"),
        ("responses", b'{"model": 5}', 400, "Invalid type for 'model'"),
        ("responses", b'{"model": "o3"}', 400, "Missing required parameter: 'input'"),
        ("responses", b'{"model": "o3", "input": 5}', 400, "Invalid type for 'input'"),
        ("responses", b'{"model": "o3", "input": "x", "max_output_tokens": 0}', 400, "below minimum"),
        ("responses", b'{"model": "o3", "input": "x", "service_tier": "gold"}', 400, "Invalid service_tier argument"),
        ("embeddings", b'{"model": "o3-pro", "input": "x"}', 404, "not supported in the v1/embeddings"),
        ("chat/completions", b'{"model": "gpt-4o"}', 400, "Missing required parameter: 'messages'"),
        ("chat/completions", b'{"model": "gpt-4o", "messages": "x"}', 400, "expected an array of objects"),
        ("chat/completions", b'{"model": "gpt-4o", "messages": []}', 400, "must not be empty"),
        ("chat/completions", b'{"model": "gpt-4o", "messages": ["x"]}', 400, "Invalid type for 'messages[0]'"),
        ("chat/completions", b'{"model": "gpt-4o", "messages": [{}], "n": "2"}', 400, "Invalid type for 'n'"),
        ("chat/completions", b'{"model": "gpt-4o", "messages": [{}], "n": 200}', 400, "above maximum"),
        ("chat/completions", b'{"model": "gpt-4o", "messages": [{}], "stream": 1}', 400, "Invalid type for 'stream'"),
        (
            "chat/completions",
            b'{"model": "o3", "messages": [{}], "max_tokens": 5}',
            400,
            "Use 'max_completion_tokens' instead",
        ),
        ("nowhere", b"{}", 404, "Invalid URL (POST /v1/nowhere)"),
    ],
)
def test_wrong_requests_get_an_error_in_openais_envelope(
    lenient: Emulator, http: httpx.Client, path: str, body: bytes, status: int, words: str
) -> None:
    """Every mistake gets a status and an error object with message, type, param and code, and no charge."""
    reply = http.post(f"{lenient.url}/{path}", content=body)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    assert lenient.counters()["admitted"] == 0


def test_an_input_longer_than_the_context_is_refused(emulate: Emulate, connect: Connect) -> None:
    """The model's context window is checked before its limits."""
    client = connect(emulate(limits={"tpm": 10**9}))
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="o3", messages=[{"role": "user", "content": "word " * 201_000}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="exceeds the context window"):
        client.responses.create(model="o3", input="word " * 201_000)


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "status", "code", "admitted"),
    [
        ("429", 429, "rate_limit_exceeded", 0),
        ("slow_down", 429, "slow_down", 0),
        ("insufficient_quota", 429, "insufficient_quota", 0),
        ("401", 401, "invalid_api_key", 0),
        ("403", 403, "unsupported_country_region_territory", 0),
        ("500", 500, None, 1),
        ("503", 503, "server_is_overloaded", 1),
    ],
)
def test_error_faults(
    emulate: Emulate, connect: Connect, kind: str, status: int, code: str | None, admitted: int
) -> None:
    """Injected errors look like real ones; refusals charge nothing, failures of an admitted request do."""
    emulator = emulate(faults=[{"kind": kind, "first": 1}])
    client = connect(emulator)
    with pytest.raises(openai.APIStatusError) as caught:
        client.responses.create(model="o3", input="Say hello.")
    assert (caught.value.status_code, caught.value.code) == (status, code)
    counters = emulator.counters()
    assert (counters["admitted"], counters["faults"], counters["usage"]["calls"]) == (admitted, {kind: 1}, 0)
    assert client.responses.create(model="o3", input="Say hello.").status == "completed"


def test_an_injected_429_says_when_to_come_back(emulate: Emulate, connect: Connect) -> None:
    """The client's own retry obeys retry-after-ms and succeeds."""
    emulator = emulate(limits={"rpm": 10**6, "tpm": 10**8}, faults="429:first=2")
    assert connect(emulator, max_retries=2).responses.create(model="o3", input="Say hello.").status == "completed"
    assert emulator.counters()["requests"] == 3


def test_a_dropped_connection_is_no_answer_at_all(emulate: Emulate, connect: Connect) -> None:
    """The client sees a broken connection, not a status; the request was charged and is not billed."""
    emulator = emulate(faults="drop_connection:first=1")
    client = connect(emulator)
    with pytest.raises(openai.APIConnectionError):
        client.responses.create(model="o3", input="Say hello.")
    counters = emulator.counters()
    assert (counters["admitted"], counters["usage"]["calls"]) == (1, 0)
    assert client.responses.create(model="o3", input="Say hello.").status == "completed"


def test_a_cut_stream_breaks_off_in_the_middle(emulate: Emulate, connect: Connect) -> None:
    """Some events arrive, then the connection breaks; the tokens are billed and nobody was told."""
    emulator = emulate(faults="cut_stream")
    seen = []
    with pytest.raises(openai.APIConnectionError):  # noqa: PT012 - the loop is what fails
        for event in connect(emulator).responses.create(model="o3", input="Say hello.", stream=True):
            seen.append(event.type)
    assert "response.output_text.delta" in seen
    assert "response.completed" not in seen
    counters = emulator.counters()
    assert counters["usage_untold"] == counters["usage"]
    assert counters["usage"]["calls"] == 1


def test_garbage_is_not_json(emulate: Emulate, http: httpx.Client) -> None:
    """A garbled body has status 200 and cannot be parsed; a garbled stream has one line that cannot."""
    emulator = emulate(faults="garbage_json; garbage_sse")
    body = {"model": "gpt-4o", "input": "Say hello."}
    plain = http.post(f"{emulator.url}/responses", json=body)
    assert plain.status_code == 200
    with pytest.raises(ValueError, match=r".+"):
        plain.json()
    stream = http.post(f"{emulator.url}/responses", json={**body, "stream": True})
    assert b'data: {"type": "resp\xff\n\n' in stream.content
    assert b"response.completed" in stream.content
    assert emulator.counters()["faults"] == {"garbage_json": 1, "garbage_sse": 1}


def test_usage_and_headers_can_be_withheld(emulate: Emulate, connect: Connect) -> None:
    """no_usage leaves the usage out everywhere, no_headers the x-ratelimit headers; both are billed."""
    emulator = emulate(faults="no_usage:first=4; no_headers")
    client = connect(emulator)
    assert client.responses.create(model="o3", input="Say hello.").usage is None
    assert client.chat.completions.create(model="gpt-4o", messages=HELLO).usage is None
    last: Any = list(client.responses.create(model="o3", input="Say hello.", stream=True))[-1]
    assert (last.type, last.response.usage) == ("response.completed", None)
    stream = client.chat.completions.create(
        model="gpt-4o", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    assert all(chunk.usage is None for chunk in stream)
    raw = client.responses.with_raw_response.create(model="o3", input="Say hello.")
    assert not any(name.startswith("x-ratelimit") for name in raw.headers)
    counters = emulator.counters()
    assert (counters["usage"]["calls"], counters["usage_untold"]["calls"]) == (5, 4)


@pytest.mark.parametrize(("kind", "error"), [("429", 429), ("500", 500), ("503", 503), ("drop_connection", None)])
def test_polls_can_fail_too(emulate: Emulate, connect: Connect, kind: str, error: int | None) -> None:
    """A poll that fails says nothing about the response: the next one finds it completed."""
    emulator = emulate()
    client = connect(emulator)
    reply = client.responses.create(model="o3-pro", input="Say hello.", background=True)
    emulator.set_faults([{"kind": kind, "endpoint": "poll", "first": 1}])
    with pytest.raises(openai.APIError) as caught:
        client.responses.retrieve(reply.id)
    assert getattr(caught.value, "status_code", None) == error
    assert client.responses.retrieve(reply.id).status == "completed"


def test_faults_can_be_changed_over_http(emulate: Emulate, connect: Connect, http: httpx.Client) -> None:
    """POST /_emulator/faults replaces the rules, in any of the notations; a wrong rule changes nothing."""
    emulator = emulate()
    client = connect(emulator)
    page = f"{emulator.root}/_emulator/faults"
    for rules in ([{"kind": "500"}], {"faults": "500"}, {"faults": [{"kind": "500"}]}):
        assert http.post(page, json=rules).json() == {"faults": 1}
        with pytest.raises(openai.InternalServerError):
            client.responses.create(model="o3", input="Say hello.")
        assert http.post(page, json=[]).json() == {"faults": 0}
        client.responses.create(model="o3", input="Say hello.")
    assert http.post(page, json=[{"kind": "boom"}]).status_code == 400
    assert http.post(page, content=b"{").status_code == 400
    client.responses.create(model="o3", input="Say hello.")
