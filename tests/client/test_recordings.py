"""A thousand real exchanges pass through the transports: the bytes come out as they went in, and the usage is read."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest

import ratelimit
from pricing.ledger import Ledger

DATA = Path(__file__).parent.parent / "data" / "openai_http.jsonl.gz"
BILLED = ("/responses", "/chat/completions", "/completions", "/embeddings", "/responses/compact")


@cache
def exchanges() -> list[dict[str, Any]]:
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def body_of(exchange: dict[str, Any]) -> bytes:
    if exchange["response_text"] is not None:
        return exchange["response_text"].encode()
    return b"" if exchange["response"] is None else json.dumps(exchange["response"]).encode()


def headers_of(exchange: dict[str, Any]) -> dict[str, str]:
    """The recorded headers, without those that describe how the bytes were framed at the time."""
    framing = ("content-length", "transfer-encoding", "content-encoding", "connection")
    recorded = exchange["response_headers"] or {}
    headers = {
        name: value if isinstance(value, str) else value[0]
        for name, value in recorded.items()
        if name.lower() not in framing
    }
    if not any(name.lower() == "content-type" for name in headers):
        headers["content-type"] = "text/event-stream" if exchange["sse"] else "application/json"
    return headers


def pieces(raw: bytes, seed: int) -> Iterator[bytes]:
    """Cut the body at random places, as a network does."""
    at, rng = 0, random.Random(seed)
    while at < len(raw):
        size = rng.choice([1, 7, 100, 1_000, 16_384])
        yield raw[at : at + size]
        at += size


def request_of(lib: Any, exchange: dict[str, Any]) -> Any:
    content = None if exchange["request"] is None else json.dumps(exchange["request"]).encode()
    return lib.Request(exchange["method"], f"https://{exchange['host']}{exchange['path']}", content=content)


def inner_transport(lib: Any, number: int, exchange: dict[str, Any], awaiting: bool) -> Any:
    """A transport of the library that answers with the recorded bytes, chunk by chunk."""
    raw = body_of(exchange)

    class Body(lib.SyncByteStream, lib.AsyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield from pieces(raw, number)

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in pieces(raw, number):
                yield piece

        def close(self) -> None:
            return None

        async def aclose(self) -> None:
            return None

    class Blocking(lib.BaseTransport):
        def handle_request(self, request: Any) -> Any:
            return lib.Response(exchange["status"], headers=headers_of(exchange), stream=Body())

    class Awaiting(lib.AsyncBaseTransport):
        async def handle_async_request(self, request: Any) -> Any:
            return lib.Response(exchange["status"], headers=headers_of(exchange), stream=Body())

    return Awaiting() if awaiting else Blocking()


def usage_expected(exchange: dict[str, Any]) -> dict[str, int] | None:
    if exchange["response"] is None and exchange["response_text"] is None:
        return None  # the recording itself has no body
    path = exchange["path"].split("?")[0]
    if not (exchange["method"] == "GET" and "/responses/resp" in path):  # a poll brings news of a background response
        if exchange["status"] >= 400 or exchange["method"] != "POST" or not path.endswith(BILLED):
            return None
        if not isinstance(exchange["request"], dict) or "threads/" in path:
            return None
    return None if exchange["usage"] is None else {**tokens_of(exchange["usage"]), **tools_of(exchange)}


def tokens_of(usage: dict[str, Any]) -> dict[str, int]:
    """The tokens of a recorded usage, divided by hand: 0 where nothing is said."""
    chat = "prompt_tokens" in usage
    inside = usage.get("prompt_tokens_details" if chat else "input_tokens_details") or {}
    outside = usage.get("completion_tokens_details" if chat else "output_tokens_details") or {}
    cached, written, audio = (inside.get(f"{part}_tokens", 0) for part in ("cached", "cache_write", "audio"))
    reasoning = outside.get("reasoning_tokens", 0)
    counts = {
        "input_tokens": usage["prompt_tokens" if chat else "input_tokens"] - cached - written - audio,
        "cached_input_tokens": cached,
        "cache_write_tokens": written,
        "output_tokens": usage.get("completion_tokens" if chat else "output_tokens", 0) - reasoning,
        "reasoning_tokens": reasoning,
    }
    return counts | ({"input_audio_tokens": audio} if audio else {})


def tools_of(exchange: dict[str, Any]) -> dict[str, int]:
    """The billed calls of hosted tools in a recorded reply."""
    reply = exchange["response"]
    if exchange["sse"]:
        events = [json.loads(line[6:]) for line in exchange["response_text"].splitlines() if line[:7] == "data: {"]
        reply = next((event["response"] for event in events if event.get("type") == "response.completed"), {})
    output, tools = reply.get("output") or [], json.dumps(reply.get("tools") or [])
    searches = [item for item in output if item["type"] == "web_search_call"]
    number = sum((item.get("action") or {"type": "search"})["type"] == "search" for item in searches)
    if "tool_usage" in reply:
        number = reply["tool_usage"]["web_search"]["num_requests"]
    counts = {
        "web_search_preview_calls" if "web_search_preview" in tools else "web_search_calls": number,
        "file_search_calls": len([item for item in output if item["type"] == "file_search_call"]),
        "code_interpreter_sessions": len({i["container_id"] for i in output if i["type"] == "code_interpreter_call"}),
    }
    return {name: count for name, count in counts.items() if count}


async def pass_through(lib: Any, exchange: dict[str, Any], number: int, awaiting: bool, ledger: Ledger) -> bytes:
    limiter = ratelimit.Limiter(limits={"rpm": 10**9, "tpm": 10**12}, preflight="off")
    transports = getattr(ratelimit.transports, lib.__name__)
    inner = inner_transport(lib, number, exchange, awaiting)
    request = request_of(lib, exchange)
    if awaiting:
        costing = transports.AsyncCostTransport(inner, ledger=ledger, ask_usage=False)
        async with lib.AsyncClient(transport=transports.AsyncRateLimitTransport(costing, limiter=limiter)) as client:
            response = await client.send(request, stream=True)
            received = b"".join([chunk async for chunk in response.aiter_raw()])
            await response.aclose()
            return received
    costing = transports.CostTransport(inner, ledger=ledger, ask_usage=False)
    with lib.Client(transport=transports.RateLimitTransport(costing, limiter=limiter)) as client:
        response = client.send(request, stream=True)
        received = b"".join(response.iter_raw())
        response.close()
        return received


@pytest.mark.parametrize("awaiting", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("lib", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_bytes_out_equal_bytes_in_and_usage_is_read(lib: Any, awaiting: bool) -> None:
    """Every recorded exchange, JSON or SSE, leaves the stacked middlewares untouched, and its usage in the ledger."""
    read = 0

    async def main() -> None:
        nonlocal read
        for number, exchange in enumerate(exchanges()):
            with Ledger() as ledger:
                received = await pass_through(lib, exchange, number, awaiting, ledger)
                assert received == body_of(exchange), exchange["source"]
                entries = list(ledger.entries())
                expected = usage_expected(exchange)
                if expected is None:
                    assert not [entry for entry in entries if entry.state == "posted" and entry.exact], exchange[
                        "source"
                    ]
                    continue
                assert [entry.state for entry in entries] == ["posted"], exchange["source"]
                assert entries[0].usage == expected, exchange["source"]
                read += 1

    asyncio.run(main())
    assert read > 800
