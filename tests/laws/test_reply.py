"""Reading a reply as it passes: usage is found however the bytes are cut, and garbage ends in an Outcome."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.reply import MAX_UNREAD, JsonReader, Outcome, StreamReader

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


def raw_deflate(raw: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(raw) + packer.flush()


PACKINGS = {"": bytes, "gzip": gzip.compress, "deflate": zlib.compress, "raw deflate": raw_deflate}


def read(raw: bytes, cuts: list[int], *, packing: str = "", complete: bool = True) -> Outcome:
    reader = StreamReader(200, packing.removeprefix("raw "))
    feed(reader, PACKINGS[packing](raw), cuts)
    return reader.close(complete)


def chat(content: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}}]
    return {**CHAT, "object": "chat.completion.chunk", "choices": choices, **more}


def delta(**piece: Any) -> dict[str, Any]:
    return chat("", choices=[{"index": 0, "delta": piece}])


counts = st.none() | st.fixed_dictionaries({"prompt_tokens": st.integers(0, 9), "completion_tokens": st.integers(0, 9)})
words = st.text(st.sampled_from('ab \n\r\u2028ö"\\{}:'), max_size=8)
documents = (
    st.builds(chat, words | st.none(), usage=counts, service_tier=st.sampled_from([None, "default", "priority"]))
    | st.builds(lambda word: {"type": "response.output_text.delta", "delta": word}, words)
    | st.builds(
        lambda tools: {"type": "response.created", "response": {**RESPONSE, "usage": None, "tools": tools}}, words
    )
    | st.just({"type": "response.completed", "response": RESPONSE})
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Streams of every dialect: comments, names of events, several data lines, any line ending, perhaps an end."""
    newline = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    raw = ""
    for document in draw(st.lists(documents, max_size=6)):
        text = json.dumps(document, indent=draw(st.sampled_from([None, 1])))
        raw += draw(st.sampled_from(["", f": ping{newline}", f"event: x{newline}"]))
        raw += "".join(f"data: {line}{newline}" for line in text.split("\n")) + newline
    return (raw + draw(st.sampled_from(["", f"data: [DONE]{newline}{newline}"]))).encode()


@given(streams(), st.lists(st.integers(0, 10_000), max_size=40), st.sampled_from(sorted(PACKINGS)), st.booleans())
@settings(deadline=None)
def test_chunk_borders_change_nothing(raw: bytes, cuts: list[int], packing: str, complete: bool) -> None:
    """Whatever the dialect and the packing, all at once, cut anywhere, or byte by byte: one Outcome."""
    whole = read(raw, [], complete=complete)
    assert read(raw, cuts, packing=packing, complete=complete) == whole
    assert read(raw, list(range(len(raw))), complete=complete) == whole


@given(streams(), st.integers(0, 10_000), st.lists(st.integers(0, 10_000), max_size=20))
@settings(deadline=None)
def test_chunk_borders_change_nothing_of_what_is_left_of_a_cut_stream(raw: bytes, end: int, cuts: list[int]) -> None:
    """A stream that breaks off anywhere, in the middle of a character too, has one Outcome however it was chunked."""
    left = raw[: end % (len(raw) + 1)]
    assert read(left, cuts, complete=False) == read(left, [], complete=False)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_an_event_of_several_data_lines_is_one_document(newline: bytes) -> None:
    """Pretty-printed JSON over several data lines is joined before it is read, as the standard says."""
    pretty = json.dumps({"type": "response.completed", "response": RESPONSE}, indent=2).encode()
    raw = b"".join(b"data: " + line + newline for line in pretty.split(b"\n")) + newline
    assert read(raw, list(range(len(raw)))).usage == USAGE


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(chat("Hello there"), id="content"),
        pytest.param(delta(refusal="Hello there"), id="refusal"),
        pytest.param(delta(reasoning_content="Hello there"), id="reasoning aloud"),
        pytest.param(delta(tool_calls=[{"function": {"name": "Hello ", "arguments": "there"}}]), id="tool call"),
        pytest.param(delta(tool_calls=[{"custom": {"name": "Hello ", "input": "there"}}]), id="custom tool"),
        pytest.param(delta(function_call={"name": "Hello ", "arguments": "there"}), id="function call"),
        pytest.param({**CHAT, "choices": [{"index": 0, "text": "Hello there"}]}, id="legacy completion"),
        pytest.param({"type": "response.output_text.delta", "delta": "Hello there"}, id="responses text"),
        pytest.param({"type": "response.refusal.delta", "delta": "Hello there"}, id="responses refusal"),
        pytest.param({"type": "response.function_call_arguments.delta", "delta": "Hello there"}, id="arguments"),
    ],
)
def test_whatever_a_stream_says_is_output(said: dict[str, Any]) -> None:
    """Texts, refusals, arguments of tools and the legacy text are all billed, so all are counted without a usage."""
    outcome = read(event("x", said), [])
    assert (outcome.usage, outcome.final, outcome.text) == (None, False, "Hello there")


def test_a_long_stream_keeps_its_text_and_not_its_events() -> None:
    """A stream of any length loses nothing of its text, its names or its tier when no usage follows."""
    number = 3 * MAX_UNREAD
    raw = b"".join(event("x", chat("a", service_tier="flex" if k == 5 else None)) for k in range(number))
    outcome = read(raw, [])
    assert outcome.text == "a" * number
    assert (outcome.model, outcome.service_tier, outcome.response_id) == (CHAT["model"], "flex", CHAT["id"])


def running(k: int, **choice: Any) -> bytes:
    used = {"prompt_tokens": 3, "completion_tokens": k}
    return event("x", chat("", choices=[{"index": 0, "delta": {"content": "a"}, **choice}], usage=used))


DONE = b"data: [DONE]\n\n"
IN_PROGRESS = {"type": "response.in_progress", "response": {**RESPONSE, "status": "in_progress"}}


@pytest.mark.parametrize(
    ("raw", "complete", "final"),
    [
        pytest.param(running(1) + running(2), False, False, id="running count, cut"),
        pytest.param(running(1) + running(2), True, False, id="running count, ended early"),
        pytest.param(running(1) + running(2, finish_reason="stop"), True, True, id="running count to the end"),
        pytest.param(running(1) + running(2) + DONE, False, True, id="running count, done"),
        pytest.param(CHAT_STREAM + CHAT_END, False, True, id="chat with usage"),
        pytest.param(running(0) + CHAT_STREAM + DONE, True, False, id="usage first, text after"),
        pytest.param(CHAT_STREAM + event("x", chat(usage={"prompt_tokens": None})), True, False, id="unreadable"),
        pytest.param(event("x", IN_PROGRESS), True, False, id="response in progress"),
        pytest.param(RESPONSES_STREAM, False, True, id="response completed"),
    ],
)
def test_a_running_count_is_not_a_final_one(raw: bytes, complete: bool, final: bool) -> None:
    """The usage of a part of a reply is told from that of the whole: only the whole may be posted as exact."""
    outcome = read(raw, [], complete=complete)
    assert outcome.usage is not None
    assert outcome.final is final
    assert bool(outcome.text) is (not final and b"content" in raw)


def test_names_are_merged_from_every_event_of_a_stream() -> None:
    """Id, model and tier may each be named by another event than that with the usage; an empty name names nothing."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    begins = {"id": "", "model": "", "choices": [], "prompt_filter_results": []}
    middle = [chat("Hello", service_tier=None), chat(" there", service_tier="priority"), chat("!", service_tier=None)]
    ends = {"id": "", "model": "", "choices": [], "usage": usage}
    outcome = read(b"".join(event("x", one) for one in (begins, *middle, ends)) + DONE, [])
    assert outcome.usage == usage
    assert (outcome.response_id, outcome.model, outcome.service_tier) == (CHAT["id"], CHAT["model"], "priority")


def test_the_tier_served_is_the_last_one_named() -> None:
    """A response begins with the tier that was asked for and ends with the one that served it."""
    created = {"type": "response.created", "response": {**RESPONSE, "service_tier": "auto", "usage": None}}
    failed = {"type": "response.failed", "response": {**RESPONSE, "status": "failed", "usage": None}}
    outcome = read(event("x", created) + event("x", failed), [])
    assert (outcome.service_tier, outcome.state, outcome.final) == ("default", "failed", False)


def test_a_tool_schema_with_a_property_named_usage_is_no_usage() -> None:
    """An event that repeats the request's tools may hold "usage": {"type": …}: neither a usage, nor the end of one."""
    tools = [{"type": "function", "parameters": {"properties": {"usage": {"type": "string"}}}}]
    created = event("x", {"type": "response.created", "response": {**RESPONSE, "usage": None, "tools": tools}})
    assert read(created, []).usage is None
    assert read(created + RESPONSES_STREAM, []).usage == USAGE
    assert read(RESPONSES_STREAM + created, []).usage == USAGE


def test_a_very_long_line_costs_no_more_per_byte_than_a_short_one() -> None:
    """The pieces of a line are joined once: eight times the length takes far less than sixty-four times as long."""

    def seconds(size: int) -> float:
        reader = StreamReader(200)
        raw = event("x", {"partial_image_b64": "A" * size})
        started = time.process_time()
        for at in range(0, len(raw), 4_096):
            reader.feed(raw[at : at + 4_096])
        return time.process_time() - started

    seconds(100_000)
    small, large = (min(seconds(size) for _ in range(3)) for size in (1_000_000, 8_000_000))
    assert large < 30 * small + 0.05


def test_a_document_beyond_sixteen_megabytes_is_read() -> None:
    """A large reply (images, embeddings) is read like a small one: what it used stands at its end."""
    reader = JsonReader(200)
    feed(reader, json.dumps({"id": "resp_1", "output": "A" * (17 * 1024 * 1024), "usage": USAGE}).encode(), [1, 9_999])
    outcome = reader.close(True)
    assert (outcome.usage, outcome.final) == (USAGE, True)
