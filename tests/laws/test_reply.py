"""Reading a reply as it passes: usage is found however the bytes are cut, and garbage ends in an Outcome."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.reply import JsonReader, StreamReader

USAGE = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
RESPONSE = {"id": "resp_1", "model": "o3-2025-04-16", "service_tier": "default", "status": "completed", "usage": USAGE}


def event(name: str, document: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(document)}\n\n".encode()


RESPONSES_STREAM = b"".join(
    [
        event(
            "response.created",
            {"type": "response.created", "response": {**RESPONSE, "status": "in_progress", "usage": None}},
        ),
        event("response.output_text.delta", {"type": "response.output_text.delta", "delta": 'say "usage":{"a":1} '}),
        event("response.output_text.delta", {"type": "response.output_text.delta", "delta": "ö\u2028 done"}),
        event("response.completed", {"type": "response.completed", "response": RESPONSE}),
    ]
)
CHAT = {"id": "chatcmpl-1", "model": "gpt-4o-2024-08-06", "service_tier": "default"}
CHAT_STREAM = b"".join(
    [
        event("x", {**CHAT, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "usage": None}),
        event("x", {**CHAT, "choices": [{"index": 0, "delta": {"content": "Hello"}}], "usage": None}),
        event("x", {**CHAT, "choices": [{"index": 0, "delta": {"content": " there"}}], "usage": None}),
    ]
)
CHAT_END = (
    event("x", {**CHAT, "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}) + b"data: [DONE]\n\n"
)


def feed(reader: JsonReader | StreamReader, raw: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        reader.feed(raw[start:end])


@given(st.lists(st.integers(0, 10_000), max_size=30), st.booleans())
def test_usage_is_found_however_a_stream_is_cut(cuts: list[int], crlf: bool) -> None:
    """Chunk borders anywhere, with either line ending, change nothing about what is read."""
    raw = RESPONSES_STREAM.replace(b"\n", b"\r\n") if crlf else RESPONSES_STREAM
    reader = StreamReader(200)
    feed(reader, raw, cuts)
    outcome = reader.close(True)
    assert outcome.usage == USAGE
    assert (outcome.response_id, outcome.model, outcome.state) == ("resp_1", "o3-2025-04-16", "completed")


@given(st.lists(st.integers(0, 10_000), max_size=20))
def test_a_chat_stream_with_usage_asked_for(cuts: list[int]) -> None:
    """The extra chunk with empty choices carries the usage."""
    reader = StreamReader(200)
    feed(reader, CHAT_STREAM + CHAT_END, cuts)
    outcome = reader.close(True)
    assert outcome.usage == {"prompt_tokens": 3, "completion_tokens": 2}
    assert outcome.response_id == "chatcmpl-1"


def test_a_stream_without_usage_keeps_its_text() -> None:
    """When no usage was sent, the visible text, the id and the model are known, so that an estimate can be made."""
    reader = StreamReader(200)
    feed(reader, CHAT_STREAM, [])
    outcome = reader.close(False)
    assert outcome.usage is None
    assert (outcome.text, outcome.response_id, outcome.model) == ("Hello there", "chatcmpl-1", "gpt-4o-2024-08-06")


@pytest.mark.parametrize("cut", range(0, len(RESPONSES_STREAM), 97))
def test_a_stream_cut_anywhere_ends_in_an_outcome(cut: int) -> None:
    """A connection lost at any byte gives an Outcome without usage, unless the usage had passed already."""
    reader = StreamReader(200)
    reader.feed(RESPONSES_STREAM[:cut])
    outcome = reader.close(False)
    assert outcome.usage in (None, USAGE)
    assert not outcome.complete


@given(st.lists(st.integers(0, 10_000), max_size=10))
def test_gzip_is_undone_as_it_passes(cuts: list[int]) -> None:
    """A compressed stream is read like a plain one."""
    reader = StreamReader(200, "gzip")
    feed(reader, gzip.compress(RESPONSES_STREAM), cuts)
    assert reader.close(True).usage == USAGE


@given(st.lists(st.binary(max_size=60), max_size=20), st.sampled_from(["", "gzip", "deflate"]), st.booleans())
@settings(deadline=None)
def test_garbage_streams_never_raise(chunks: list[bytes], encoding: str, complete: bool) -> None:
    """Any bytes at all end in an Outcome."""
    reader = StreamReader(200, encoding)
    for chunk in chunks:
        reader.feed(chunk)
    assert reader.close(complete).usage is None


sse_like = st.lists(
    st.sampled_from(
        [
            b"data:",
            b"data: ",
            b"event: x",
            b"\n",
            b"\n\n",
            b"\r",
            b'{"usage":',
            b'{"usage":{',
            b"}",
            b"null",
            b'"delta":"x"',
            b"[DONE]",
        ]
    )
    | st.binary(max_size=10),
    max_size=40,
)


@given(sse_like)
@settings(deadline=None)
def test_nearly_right_streams_never_raise(pieces: list[bytes]) -> None:
    """Fragments of the real syntax in any order end in an Outcome."""
    reader = StreamReader(200)
    for piece in pieces:
        reader.feed(piece)
    reader.close(True)


@given(st.binary(max_size=200))
def test_garbage_documents_never_raise(raw: bytes) -> None:
    """A body that is not JSON gives an Outcome that knows only the status."""
    reader = JsonReader(502)
    reader.feed(raw)
    assert reader.close(True).status == 502


@given(st.lists(st.integers(0, 10_000), max_size=10))
def test_a_json_reply_is_read_whole(cuts: list[int]) -> None:
    """A JSON reply in any number of chunks gives usage, model, tier, id and state."""
    reader = JsonReader(200)
    feed(reader, json.dumps(RESPONSE).encode(), cuts)
    outcome = reader.close(True)
    assert outcome.usage == USAGE
    assert outcome.service_tier == "default"
    assert outcome.complete
