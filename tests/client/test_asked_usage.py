"""Law: a Chat stream whose caller asked for no usage is billed by one, and its caller sees the bytes it would have.

The oracle is what the server sends to a caller that does not ask; and, for recorded streams whose callers did ask, the
events as json reads them.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ratelimit
from pricing.ledger import Ledger
from ratelimit.emulator import Emulator
from ratelimit.usage_chunk import MOST, Stripper, asking

from .replies import DAY, LIMITS

DATA = Path(__file__).parent.parent / "data" / "openai_http.jsonl.gz"
MESSAGES: Any = [{"role": "user", "content": "Say hello."}]
HEAD = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "o3-2025-04-16"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
TEXTS = ["Hello", ' "usage":null, ', ', "usage": null', "\n\ndata: ", "é🙂"]


def event(document: Any) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def stream(asked: bool) -> bytes:
    """What a server sends: with the usage where it was asked for, and else without a word of it."""
    extra: dict[str, Any] = {"usage": None} if asked else {}
    parts = [
        event({**HEAD, "choices": [{"index": 0, "delta": {"content": text}}], **extra, "obfuscation": "x" * 7})
        for text in TEXTS
    ]
    if asked:
        parts.append(event({**HEAD, "choices": [], "usage": USAGE}))
    return b"".join([*parts, b"data: [DONE]\n\n"])


class Server:
    """Answers streams, and remembers what it was asked."""

    def __init__(self, packed: str = "", refuses: bool = False) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[Any] = []
        self.packed = packed
        self.refuses = refuses

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.bodies.append(request.content)
        self.headers.append(request.headers)
        asked = json.loads(request.content).get("stream_options", {}).get("include_usage", False)
        if asked and self.refuses:
            message = {"error": {"message": "Unrecognized request argument supplied: stream_options", "code": None}}
            return httpx2.Response(400, json=message)
        headers = {"content-type": "text/event-stream; charset=utf-8", "x-request-id": "req_1"}
        raw = stream(asked)
        if self.packed:
            return httpx2.Response(200, headers={**headers, "content-encoding": "gzip"}, content=gzip.compress(raw))
        return httpx2.Response(200, headers=headers, content=raw)


def body(**more: Any) -> dict[str, Any]:
    return {"model": "o3", "messages": MESSAGES, "stream": True, **more}


def sent(server: Server, ledger: Ledger, document: dict[str, Any], **settings: Any) -> bytes:
    """The bytes that a caller of the blocking transport reads."""
    transport = ratelimit.transports.httpx2.CostTransport(
        httpx2.MockTransport(server), ledger=ledger, at=DAY, **settings
    )
    with httpx2.Client(transport=transport) as client:
        return client.post("http://test/v1/chat/completions", json=document).content


async def asent(server: Server, ledger: Ledger, document: dict[str, Any]) -> bytes:
    """The same in the other colour."""

    async def answer(request: httpx2.Request) -> httpx2.Response:
        return server(request)

    transport = ratelimit.transports.httpx2.AsyncCostTransport(httpx2.MockTransport(answer), ledger=ledger, at=DAY)
    async with httpx2.AsyncClient(transport=transport) as client:
        return (await client.post("http://test/v1/chat/completions", json=document)).content


@pytest.mark.parametrize("awaiting", [False, True], ids=["sync", "async"])
def test_the_caller_sees_the_bytes_it_would_have_seen(awaiting: bool) -> None:
    """The usage is asked for, posted exactly, and taken out; texts that look like it stay."""
    server, ledger = Server(), Ledger()
    seen = asyncio.run(asent(server, ledger, body())) if awaiting else sent(server, ledger, body())
    assert seen == stream(False)
    (entry,) = ledger.entries()
    assert (entry.exact, entry.usage["input_tokens"], entry.usage["output_tokens"]) == (True, 9, 4)
    assert entry.request_id == "req_1"
    assert json.loads(server.bodies[0]) == {"stream_options": {"include_usage": True}, **body()}
    assert server.headers[0]["content-length"] == str(len(server.bodies[0]))


@pytest.mark.parametrize("options", [{"include_usage": True}, {"include_usage": False}, {"include_usage": None}])
def test_a_caller_that_has_said_what_it_wants_gets_that(options: dict[str, Any]) -> None:
    """Whoever asks for the usage, or says that it wants none, has its request and its stream left alone."""
    server = Server()
    asked = options["include_usage"] is True
    assert sent(server, Ledger(), body(stream_options=options)) == stream(asked)
    assert json.loads(server.bodies[0]) == body(stream_options=options)


def test_other_stream_options_are_kept() -> None:
    """A caller with options of another kind keeps them, and still sees nothing of the usage."""
    server, ledger = Server(), Ledger()
    assert sent(server, ledger, body(stream_options={"include_obfuscation": False})) == stream(False)
    assert json.loads(server.bodies[0])["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert next(ledger.entries()).exact


@pytest.mark.parametrize("settings", [{"ask_usage": False}])
def test_it_can_be_switched_off(settings: dict[str, Any]) -> None:
    """With ask_usage=False nothing is asked and nothing taken out; the entry is an estimate that says so."""
    server, ledger = Server(), Ledger()
    assert sent(server, ledger, body(), **settings) == stream(False)
    assert json.loads(server.bodies[0]) == body()
    assert not next(ledger.entries()).exact


def test_a_server_that_refuses_to_be_asked_is_sent_the_request_as_it_was() -> None:
    """Its refusal costs one void entry; the caller gets its stream, and no later request asks."""
    server, ledger = Server(refuses=True), Ledger()
    transport = ratelimit.transports.httpx2.CostTransport(httpx2.MockTransport(server), ledger=ledger, at=DAY)
    with httpx2.Client(transport=transport) as client:
        for _ in range(2):
            assert client.post("http://test/v1/chat/completions", json=body()).content == stream(False)
    assert ["stream_options" in json.loads(one) for one in server.bodies] == [True, False, False]
    assert [entry.state for entry in ledger.entries()][:2] == ["voided", "posted"]  # the third has the same id


def test_a_packed_stream_is_read_but_not_cut() -> None:
    """A server that packs although it was asked not to has its stream passed on whole, and its usage is billed."""
    server, ledger = Server(packed="gzip"), Ledger()
    assert sent(server, ledger, body()) == stream(True)
    assert server.headers[0]["accept-encoding"] == "identity"
    assert next(ledger.entries()).exact


def test_the_real_client_sees_no_usage_and_no_further_chunk() -> None:
    """Against the emulator, every chunk the openai client yields is like a bare client's, and none has a usage."""
    with (
        Emulator(limits=LIMITS, latency=0, at=DAY) as server,
        openai.OpenAI(base_url=server.url, api_key="test", max_retries=0) as plain,
    ):
        ledger = Ledger()
        client = ratelimit.wrap(plain, limits=LIMITS, ledger=ledger, at=DAY)
        shapes = []
        for one in (plain, client):
            chunks = list(one.chat.completions.create(model="o3", messages=MESSAGES, stream=True))
            shapes.append([(sorted(chunk.to_dict()), [sorted(c.to_dict()) for c in chunk.choices]) for chunk in chunks])
            assert all(chunk.choices for chunk in chunks)
            assert not any("usage" in chunk.to_dict() for chunk in chunks)
        assert set(map(str, shapes[0])) == set(map(str, shapes[1]))
    (entry,) = ledger.entries()
    assert (entry.state, entry.exact) == ("posted", True)


@given(st.lists(st.integers(1, 40), max_size=40), st.booleans())
def test_how_the_stream_is_cut_changes_nothing(sizes: list[int], windows: bool) -> None:
    """Any chunks, and line ends of either kind, give the same bytes, none of them held back beyond its event."""
    raw, wanted = stream(True), stream(False)
    if windows:
        raw, wanted = raw.replace(b"\n\n", b"\r\n\r\n"), wanted.replace(b"\n\n", b"\r\n\r\n")
    stripper, seen, at = Stripper(), b"", 0
    for size in [*sizes, len(raw)]:
        seen += stripper.feed(raw[at : at + size])
        at += size
        complete = raw[:at].rpartition(b"\n\n" if not windows else b"\r\n\r\n")[0]
        assert len(seen) >= len(complete) - raw.count(b'"usage":null') * 13 - 300
    assert seen + stripper.rest() == wanted


def test_an_endless_event_passes_as_it_comes() -> None:
    """What grows beyond any chunk of a usage is neither kept nor looked at, and what follows is read again."""
    stripper, long = Stripper(), b'data: {"choices":[],"usage":{"x":"' + b"y" * 1_000_000
    passed = sum(len(stripper.feed(long[at : at + 1_000])) for at in range(0, len(long), 1_000))
    assert passed >= len(long) - MOST - 1_000
    assert stripper.feed(b'"}}\n\n' + stream(True)).endswith(stream(False))


def recorded() -> Iterator[str]:
    """Recorded Chat streams whose callers had asked for the usage."""
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        for line in file:
            exchange = json.loads(line)
            text = exchange["response_text"]
            if exchange["sse"] and text and "chat.completion.chunk" in text and '"usage"' in text:
                yield text


def test_recorded_streams_lose_their_usage_and_nothing_else() -> None:
    """Of every recorded stream with a usage, the events that remain are those without it, and say the same."""
    number = 0
    for text in recorded():
        events = [one for one in text.replace("\r\n", "\n").split("\n\n") if one.strip()]
        expected = []
        for one in events:
            document = json.loads(one[6:]) if one.startswith("data: {") else one
            if isinstance(document, dict):
                if document.get("choices") == [] and document.get("usage"):
                    number += 1
                    continue
                if document.get("usage", 0) is None:
                    del document["usage"]
            expected.append(document)
        stripper = Stripper()
        raw = text.encode()
        chance = random.Random(number)
        cuts = sorted(chance.randrange(len(raw)) for _ in range(5))
        pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
        seen = b"".join([*map(stripper.feed, pieces), stripper.rest()]).decode()
        left = [one for one in seen.replace("\r\n", "\n").split("\n\n") if one.strip()]
        assert [json.loads(one[6:]) if one.startswith("data: {") else one for one in left] == expected
    assert number >= 10


@pytest.mark.parametrize(
    ("endpoint", "document"),
    [
        ("/v1/responses", {"model": "o3", "input": "x", "stream": True}),
        ("/v1/chat/completions", {"model": "o3", "messages": []}),
        ("/v1/chat/completions", {"model": "o3", "messages": [], "stream": 1}),
        ("/v1/chat/completions", {"model": "o3", "stream": True, "stream_options": "none"}),
        ("/v1/chat/completions", {"model": "o3", "stream": True, "stream_options": None}),
        ("/v1/embeddings", {"model": "o3", "input": "x", "stream": True}),
    ],
)
def test_what_is_no_chat_stream_is_not_asked(endpoint: str, document: dict[str, Any]) -> None:
    """Other endpoints tell their usage anyway, and what the server will refuse is for the server to refuse."""
    assert asking(endpoint, document, json.dumps(document).encode()) is None


@given(st.text(max_size=20), st.floats(0, 2), st.sampled_from(["", " ", "\n\t"]))
def test_the_body_stays_the_caller_s_own(text: str, temperature: float, space: str) -> None:
    """But for what is added, the bytes of the request are those the caller wrote, numbers and spaces included."""
    document = body(temperature=temperature, user=text)
    raw = space.encode() + json.dumps(document, indent=1).encode() + space.encode()
    asked = asking("/v1/chat/completions", document, raw)
    assert asked is not None
    assert asked.replace(b'"stream_options":{"include_usage":true},', b"", 1) == raw
    assert json.loads(asked) == {**document, "stream_options": {"include_usage": True}}
