"""Law: whatever shape an exchange takes (encodings, Azure, cancels, uploads), it is recognised, read and ended once."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import warnings
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import ratelimit
from pricing.errors import LedgerError
from pricing.ledger import Ledger
from ratelimit.emulator import Emulator

from .replies import DAY, LIMITS, both

USAGE = {"input_tokens": 1_000, "output_tokens": 500}
REPLY = {"id": "resp_1", "object": "response", "status": "completed", "model": "o3-pro-2025-06-10", "usage": USAGE}
EVENTS = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"Stra\xc3\x9fe"}\n\n'
    b'event: response.completed\ndata: {"type":"response.completed","response":%s}\n\n' % json.dumps(REPLY).encode()
)
COST = 1_000 * 20_000_000 + 500 * 80_000_000  # pico-dollars at $20 and $80 per 1M tokens


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "gzip, gzip": lambda raw: gzip.compress(gzip.compress(raw)),
}


def answering(lib: Any, raw: bytes, headers: Mapping[str, str], status: int = 200, chunk: int = 7) -> Any:
    """A transport, for both colours, that answers everything with these bytes and keeps the requests."""

    class Body(lib.SyncByteStream, lib.AsyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            for at in range(0, len(raw), chunk):
                yield raw[at : at + chunk]

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in self:
                yield piece

    class Answering(lib.BaseTransport, lib.AsyncBaseTransport):
        def __init__(self) -> None:
            self.requests: list[Any] = []

        def handle_request(self, request: Any) -> Any:
            self.requests.append(request)
            return lib.Response(status, headers=dict(headers), stream=Body())

        async def handle_async_request(self, request: Any) -> Any:
            return self.handle_request(request)

    return Answering()


@both
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_encoded_replies_pass_unchanged_and_are_read(lib: Any, encoding: str, streamed: bool) -> None:
    """A compressed reply leaves as it came, decodes as it would have, and its usage is in the ledger, exactly."""
    plain = EVENTS if streamed else json.dumps(REPLY).encode()
    raw = ENCODINGS[encoding](plain)
    headers = {"content-type": "text/event-stream" if streamed else "application/json", "content-encoding": encoding}
    ledger = Ledger()
    costing = getattr(ratelimit.transports, lib.__name__).CostTransport(
        answering(lib, raw, headers), ledger=ledger, at=DAY
    )
    with lib.Client(transport=costing) as client:
        body = {"model": "o3-pro", "input": "x", "stream": streamed}
        with client.stream("POST", "https://api.openai.com/v1/responses", json=body) as response:
            assert b"".join(response.iter_bytes()) == plain
    (entry,) = ledger.entries()
    assert (entry.state, entry.exact, entry.response_id) == ("posted", True, "resp_1")
    assert entry.cost is not None
    assert entry.cost.pico == COST


@both
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "nonsense"])
@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_a_reply_in_a_broken_encoding_is_an_estimate(lib: Any, encoding: str, streamed: bool) -> None:
    """Bytes that are not what their encoding says reach the caller as they are, and the call counts at its estimate."""
    headers = {"content-type": "text/event-stream" if streamed else "application/json", "content-encoding": encoding}
    ledger = Ledger()
    raw = b"\x1f\x8b nothing of the kind"
    costing = getattr(ratelimit.transports, lib.__name__).CostTransport(
        answering(lib, raw, headers), ledger=ledger, at=DAY
    )
    with lib.Client(transport=costing) as client:
        body = {"model": "o3-pro", "input": "x"}
        with client.stream("POST", "https://api.openai.com/v1/responses", json=body) as response:
            assert b"".join(response.iter_raw()) == raw
    (entry,) = ledger.entries()
    assert (entry.state, entry.exact) == ("expired", False)


@both
def test_an_azure_deployment_is_known_by_its_path(lib: Any) -> None:
    """A body without a model is paced and priced as the deployment in its path."""
    ledger, limiter = Ledger(), ratelimit.Limiter(limits=LIMITS, at=DAY)
    transports = getattr(ratelimit.transports, lib.__name__)
    inner = answering(lib, json.dumps({**REPLY, "model": None}).encode(), {"content-type": "application/json"})
    costing = transports.CostTransport(inner, ledger=ledger, at=DAY)
    with lib.Client(transport=transports.RateLimitTransport(costing, limiter=limiter)) as client:
        url = "https://example.openai.azure.com/openai/deployments/o3-pro/responses?api-version=2025-04-01-preview"
        client.post(url, json={"input": "x"})
    (entry,) = ledger.entries()
    assert (entry.model, entry.state) == ("o3-pro", "posted")
    assert [gate.lane.name for gate in limiter.gates()] == ["o3-pro"]


@both
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_an_upload_is_never_read_ahead(lib: Any, colour: str) -> None:
    """A request whose body is a stream passes untouched and unread; nothing is charged for it."""
    taken: list[int] = []

    def body() -> Iterator[bytes]:
        taken.append(1)
        yield b'{"model": "o3-pro", "input": "x"}'

    async def abody() -> AsyncIterator[bytes]:
        for piece in body():
            yield piece

    ledger = Ledger()
    inner = answering(lib, b"{}", {"content-type": "application/json"})
    transports = getattr(ratelimit.transports, lib.__name__)
    url = "https://api.openai.com/v1/responses"
    if colour == "sync":
        with lib.Client(transport=transports.CostTransport(inner, ledger=ledger, at=DAY)) as client:
            client.post(url, content=body())
    else:

        async def main() -> None:
            costing = transports.AsyncCostTransport(inner, ledger=ledger, at=DAY)
            async with lib.AsyncClient(transport=costing) as client:
                await client.post(url, content=abody())

        asyncio.run(main())
    assert taken == []
    assert list(ledger.entries()) == []


@both
@pytest.mark.parametrize(
    "content", [b"", b"not json", b"[1]", b'"text"', b'{"input": "x"}', b'{"model": 7}', b"[" * 100_000]
)
def test_a_body_that_names_no_model_is_the_servers_to_judge(lib: Any, content: bytes) -> None:
    """What is no request of ours passes as it is, so that the server's own error reaches the caller."""
    ledger = Ledger()
    inner = answering(lib, b'{"error": {"message": "bad"}}', {"content-type": "application/json"}, status=400)
    costing = getattr(ratelimit.transports, lib.__name__).CostTransport(inner, ledger=ledger, at=DAY)
    with lib.Client(transport=costing) as client:
        assert client.post("https://api.openai.com/v1/responses", content=content).status_code == 400
    assert inner.requests[0].content == content
    assert list(ledger.entries()) == []


def test_a_cancelled_background_response_ends_its_entry() -> None:
    """Cancel is asked after, not admitted anew: no second entry, and the first one does not stay pending for ever."""
    ledger = Ledger()
    with (
        Emulator(limits=LIMITS, latency=3600, at=DAY) as slow,
        openai.OpenAI(base_url=slow.url, api_key="test", max_retries=0) as plain,
    ):
        client = ratelimit.wrap(plain, limits=LIMITS, ledger=ledger, at=DAY)
        started = client.responses.create(model="o3-pro", input="Think.", background=True)
        assert [entry.state for entry in ledger.entries()] == ["pending"]
        ended = client.responses.cancel(started.id)
        assert ended.status == "cancelled"
    (entry,) = ledger.entries()
    assert entry.response_id == started.id
    assert entry.state != "pending"


def test_a_policy_that_refunds_settles_at_the_usage() -> None:
    """Under `conservative` the whole possible output is reserved, and given back when the reply was shorter."""
    limiter = ratelimit.Limiter(limits={"tpm": 1_000_000}, policy="conservative", at=DAY)
    inner = answering(httpx2, json.dumps(REPLY).encode(), {"content-type": "application/json"})
    transport = ratelimit.transports.httpx2.RateLimitTransport(inner, limiter=limiter)
    with httpx2.Client(transport=transport) as client:
        body = {"model": "o3-pro", "input": "x", "max_output_tokens": 90_000}
        with client.stream("POST", "https://api.openai.com/v1/responses", json=body) as response:
            reserved_us = limiter.store.backlog_us("o3-pro:tpm")
            response.read()
    minute_us, capacity = 60_000_000, 1_000_000
    assert reserved_us > 89_000 * minute_us // capacity
    assert limiter.store.backlog_us("o3-pro:tpm") <= 1_500 * minute_us // capacity + 1


def test_a_ledger_that_fails_after_the_fact_only_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reply is the user's by then: it arrives, a warning says that its cost is not written."""
    path = tmp_path / "costs.db"
    ledger = Ledger(path)

    def full(*_: Any, **__: Any) -> bool:
        raise LedgerError("the disk is full")

    monkeypatch.setattr(ledger, "post", full)
    inner = answering(httpx2, json.dumps(REPLY).encode(), {"content-type": "application/json"})
    costing = ratelimit.transports.httpx2.CostTransport(inner, ledger=ledger, at=DAY)
    with httpx2.Client(transport=costing) as client, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reply = client.post("https://api.openai.com/v1/responses", json={"model": "o3-pro", "input": "x"})
    assert reply.json()["usage"] == USAGE
    assert [str(one.message) for one in caught if issubclass(one.category, ratelimit.RatecardWarning)]
    assert [entry.state for entry in ledger.entries()] == ["pending"]


def test_tags_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """What could not be written at the first call fails when the client is made."""
    with pytest.raises(ratelimit.ConfigError, match="tags"):
        ratelimit.transports.httpx2.CostTransport(None, ledger=tmp_path / "c.db", tags={"team": 7})
    with pytest.raises(ratelimit.ConfigError, match="ledger"):
        ratelimit.transports.httpx2.CostTransport(None, ledger=7)


def test_an_error_of_a_middleware_below_gives_the_admission_back() -> None:
    """Pacing above cost, as documented: a call that the budget refused was not sent and holds no room."""
    limiter = ratelimit.Limiter(limits={"rpm": 10}, at=DAY)
    transports = ratelimit.transports.httpx2
    inner = answering(httpx2, json.dumps(REPLY).encode(), {"content-type": "application/json"})
    costing = transports.CostTransport(inner, ledger=Ledger(), budget="0.01 USD/day", at=DAY)
    pacing = transports.RateLimitTransport(costing, limiter=limiter)
    with httpx2.Client(transport=pacing) as client, pytest.raises(ratelimit.OverBudget):
        client.post("https://api.openai.com/v1/responses", json={"model": "o3-pro", "input": "x"})
    assert inner.requests == []
    assert limiter.store.backlog_us("o3-pro:rpm") == 0


def test_a_stream_that_ends_in_an_error_does_not_stay_pending() -> None:
    """A response that is not in the background is over when its stream is: nothing is held for it any longer."""
    begun = {"id": "resp_2", "status": "in_progress", "model": "o3", "usage": None}
    raw = b'data: {"type":"response.created","response":%s}\n\ndata: {"type":"error","code":"server_error"}\n\n'
    ledger = Ledger()
    inner = answering(httpx2, raw % json.dumps(begun).encode(), {"content-type": "text/event-stream"})
    with httpx2.Client(transport=ratelimit.transports.httpx2.CostTransport(inner, ledger=ledger, at=DAY)) as client:
        client.post("https://api.openai.com/v1/responses", json={"model": "o3", "input": "x", "stream": True})
    assert [entry.state for entry in ledger.entries()] == ["expired"]


def test_dropping_a_wrapped_client_leaves_the_connections_alone() -> None:
    """The copy does not own the connections: when it is collected, the original and its siblings go on."""
    with Emulator(limits=LIMITS, latency=0, at=DAY) as server:
        plain = openai.OpenAI(base_url=server.url, api_key="test", max_retries=0)
        sibling = ratelimit.wrap(plain, limits=LIMITS, at=DAY)
        with plain.responses.with_streaming_response.create(model="o3", input="x", stream=True) as open_stream:
            wrapped = ratelimit.wrap(plain, limits=LIMITS, at=DAY)
            wrapped.responses.create(model="o3", input="x")
            del wrapped
            gc.collect()
            assert b"response.completed" in open_stream.read()
        sibling.responses.create(model="o3", input="x")
        plain.close()


def test_garbage_collected_in_the_middle_of_a_booking_deadlocks_nothing() -> None:
    """An abandoned stream in a reference cycle may be closed by a collection inside the ledger's own work."""
    raw = b'data: {"type":"response.output_text.delta","delta":"Once","sequence_number":1}\n\ndata: x\n\n'
    inner = answering(httpx2, raw, {"content-type": "text/event-stream"}, chunk=1_000)
    ledger = Ledger()
    http = httpx2.Client(transport=ratelimit.transports.httpx2.CostTransport(inner, ledger=ledger, at=DAY))

    class Abandoned:
        def __init__(self) -> None:
            request = http.build_request(
                "POST", "https://x/v1/responses", json={"model": "o3", "input": "x", "stream": True}
            )
            self.me = self
            self.chunks = self.read(http.send(request, stream=True))
            next(self.chunks)

        def read(self, response: Any) -> Iterator[bytes]:
            try:
                yield from response.iter_bytes()
            finally:
                response.close()

    thresholds = gc.get_threshold()
    try:
        for number in range(300):
            gc.set_threshold(50 + number % 97)
            Abandoned()
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert {entry.state for entry in ledger.entries()} <= {"posted", "expired"}
    http.close()
