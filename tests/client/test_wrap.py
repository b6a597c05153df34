"""The real openai client, wrapped: same class, same answers, paced and priced; the user's own settings survive."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest

import ratelimit
from pricing.ledger import Ledger
from ratelimit.emulator import Emulator

from .replies import DAY

LIMITS = {"rpm": 100_000, "tpm": 100_000_000}


def blocking(server: Emulator, **settings: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="test", max_retries=0, **settings)


def awaiting(server: Emulator, **settings: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=server.url, api_key="test", max_retries=0, **settings)


def posted(ledger: Ledger) -> list[Any]:
    return [entry for entry in ledger.entries() if entry.state == "posted"]


def test_every_endpoint_is_paced_and_priced(server: Emulator) -> None:
    """Responses, Chat (plain and streamed) and Embeddings each leave one posted entry with the server's own usage."""
    ledger = Ledger()
    with blocking(server) as plain:
        client = ratelimit.wrap(plain, limits=LIMITS, ledger=ledger, at=DAY)
        assert type(client) is openai.OpenAI
        answer = client.responses.create(model="o3-pro", input="Say hello.")
        assert answer.usage is not None
        chat = client.chat.completions.create(model="o3", messages=[{"role": "user", "content": "Say hello."}])
        assert chat.usage is not None
        with client.responses.stream(model="o3", input="Say hello.") as stream:
            for _ in stream:
                pass
            streamed = stream.get_final_response()
        assert streamed.usage is not None
        chunks = list(
            client.chat.completions.create(
                model="o3",
                messages=[{"role": "user", "content": "Say hello."}],
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert chunks[-1].usage is not None
        client.embeddings.create(model="text-embedding-3-small", input="Say hello.")
    entries = posted(ledger)
    assert [entry.endpoint for entry in entries] == [
        "/v1/responses",
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/chat/completions",
        "/v1/embeddings",
    ]
    assert all(entry.exact for entry in entries)
    assert entries[0].response_id == answer.id
    total = entries[0].usage["input_tokens"] * 20 + (
        (entries[0].usage["output_tokens"] + entries[0].usage["reasoning_tokens"]) * 80
    )
    assert entries[0].cost.pico == total * 10**6
    assert entries[4].cost.pico == entries[4].usage["input_tokens"] * 20_000


def test_async_clients_likewise(server: Emulator) -> None:
    """AsyncOpenAI gives the same class back and the same entries, plain and streamed."""

    async def main() -> list[Any]:
        ledger = Ledger()
        async with awaiting(server) as plain:
            client = ratelimit.wrap(plain, limits=LIMITS, ledger=ledger, at=DAY)
            assert type(client) is openai.AsyncOpenAI
            await client.responses.create(model="o3-pro", input="Say hello.")
            stream = await client.responses.create(model="o3", input="Say hello.", stream=True)
            async for _ in stream:
                pass
        return posted(ledger)

    entries = asyncio.run(main())
    assert [(entry.model, entry.exact) for entry in entries] == [("o3-pro-2025-06-10", True), ("o3-2025-04-16", True)]


def test_a_stream_without_usage_is_estimated_from_its_text_and_marked(server: Emulator) -> None:
    """A chat stream that nobody asks for a usage is priced from what was seen, and the entry says so."""
    ledger = Ledger()
    with blocking(server) as plain:
        client = ratelimit.wrap(plain, limits=LIMITS, ledger=ledger, at=DAY, ask_usage=False)
        for _ in client.chat.completions.create(
            model="o3", messages=[{"role": "user", "content": "Say hello."}], stream=True
        ):
            pass
    (entry,) = posted(ledger)
    assert not entry.exact
    assert "carried no usage" in entry.why
    assert entry.usage["output_tokens"] > 0


def test_a_cut_stream_is_accounted_as_an_estimate(server: Emulator) -> None:
    """A connection lost in mid-stream ends the entry as an estimate from what was seen: never a hole, never pending."""
    ledger = Ledger()
    with (
        Emulator(limits=LIMITS, latency=0, at=DAY, faults=[{"kind": "cut_stream", "rate": 1}]) as cutting,
        blocking(cutting) as plain,
    ):
        client = ratelimit.wrap(plain, limits=LIMITS, ledger=ledger, at=DAY)
        with pytest.raises((httpx2.HTTPError, openai.OpenAIError)):
            for _ in client.responses.create(model="o3", input="Write a long story.", stream=True):
                pass
    (entry,) = ledger.entries()
    assert entry.state in ("posted", "expired")
    assert not entry.exact


@pytest.mark.parametrize("lib", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_an_abandoned_stream_is_closed_and_accounted(lib: Any) -> None:
    """Closing a stream half-read settles it: an estimate from the text seen so far, marked as such."""

    class Slowly(lib.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b'data: {"type":"response.created","response":{"id":"resp_1","model":"o3"}}\n\n'
            yield b'data: {"type":"response.output_text.delta","delta":"Once upon a time"}\n\n'
            raise AssertionError("nobody reads on")

    class Inner(lib.BaseTransport):
        def handle_request(self, request: Any) -> Any:
            return lib.Response(200, headers={"content-type": "text/event-stream"}, stream=Slowly())

    ledger = Ledger()
    costing = getattr(ratelimit.transports, lib.__name__).CostTransport(Inner(), ledger=ledger, at=DAY)
    with lib.Client(transport=costing) as client:
        body = {"model": "o3", "input": "Write a story.", "stream": True}
        with client.stream("POST", "https://api.openai.com/v1/responses", json=body) as response:
            chunks = response.iter_raw()
            next(chunks)
            next(chunks)
    (entry,) = ledger.entries()
    assert (entry.state, entry.exact, entry.response_id) == ("posted", False, "resp_1")
    assert entry.usage["output_tokens"] == 4
    assert entry.why.startswith("the stream was cut before its usage: counted from its text")


def test_a_background_response_is_billed_once_however_often_it_is_polled(server: Emulator) -> None:
    """The pending entry carries the response id; ten polls after completion post it exactly once."""
    ledger = Ledger()
    with blocking(server) as plain:
        client = ratelimit.wrap(plain, limits=LIMITS, ledger=ledger, at=DAY)
        answer = client.responses.create(model="o3-pro", input="Think.", background=True)
        (entry,) = ledger.entries()
        assert entry.response_id == answer.id
        for _ in range(10_000):
            answer = client.responses.retrieve(answer.id)
            if answer.status == "completed":
                break
        for _ in range(10):
            client.responses.retrieve(answer.id)
    (entry,) = ledger.entries()
    assert entry.state == "posted"
    assert answer.usage is not None
    assert entry.usage["input_tokens"] == answer.usage.input_tokens


def test_the_burst_goes_at_once_and_the_next_would_wait(server: Emulator) -> None:
    """The wrapped client refuses by itself what would wait longer than max_wait; the server never sees it."""
    with blocking(server) as plain:
        client = ratelimit.wrap(plain, limits={"rpm": 3}, max_wait=1, at=DAY)
        for _ in range(3):
            client.responses.create(model="o3", input="x")
        before = server.counters()["requests"]
        with pytest.raises(ratelimit.WouldWait):
            client.responses.create(model="o3", input="x")
        assert server.counters()["requests"] == before


def test_our_errors_reach_the_user_after_one_call(server: Emulator) -> None:
    """openai's retries and disguises do not touch our errors: one admission, one exception, as raised."""
    with openai.OpenAI(base_url=server.url, api_key="test", max_retries=5) as plain:
        limiter = ratelimit.Limiter(limits={"tpm": 100}, at=DAY)
        client = ratelimit.wrap(plain, limiter=limiter)
        with pytest.raises(ratelimit.NeverFits):
            client.responses.create(model="o3", input="word " * 500)
        with pytest.raises(ratelimit.NotOffered, match="not offered on v1/chat/completions"):
            client.chat.completions.create(model="o3-pro", messages=[{"role": "user", "content": "hi"}])


def test_every_attempt_of_the_sdk_is_admitted_and_entered(server: Emulator) -> None:
    """Two retries after server errors are three admissions and three entries: two voided, one posted."""
    ledger = Ledger()
    with (
        Emulator(limits=LIMITS, latency=0, at=DAY, faults=[{"kind": "500", "first": 2}]) as shaky,
        openai.OpenAI(base_url=shaky.url, api_key="test", max_retries=2) as plain,
    ):
        limiter = ratelimit.Limiter(limits={"rpm": 6}, at=DAY)
        client = ratelimit.wrap(plain, limiter=limiter, ledger=ledger)
        client.responses.create(model="o3", input="x")
        assert [entry.state for entry in ledger.entries()] == ["voided", "voided", "posted"]
        assert limiter.store.backlog_us("o3:rpm") > 20_000_000


def test_a_server_that_cannot_be_reached_costs_nothing() -> None:
    """A refused connection releases the reservation and voids the entry: nothing was sent."""
    ledger, limiter = Ledger(), ratelimit.Limiter(limits={"rpm": 10}, at=DAY)
    with openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="test", max_retries=0) as plain:
        client = ratelimit.wrap(plain, limiter=limiter, ledger=ledger)
        with pytest.raises(openai.APIConnectionError):
            client.responses.create(model="o3", input="x")
    assert [entry.state for entry in ledger.entries()] == ["voided"]
    assert limiter.store.backlog_us("o3:rpm") == 0


def test_a_budget_stops_before_the_send(server: Emulator) -> None:
    """A call whose worst case does not fit into what is left raises OverBudget; the server never sees it."""
    ledger = Ledger()
    with blocking(server) as plain:
        client = ratelimit.wrap(plain, limits=LIMITS, ledger=ledger, budget="0.01 USD/day", at=DAY)
        client.responses.create(model="o3", input="x", max_output_tokens=100)
        before = server.counters()["requests"]
        with pytest.raises(ratelimit.OverBudget):
            client.responses.create(model="o3", input="x", max_output_tokens=100_000)
        with pytest.raises(ratelimit.OverBudget):
            client.responses.create(model="a-model-nobody-priced", input="x", max_output_tokens=1)
        assert server.counters()["requests"] == before


def test_tags_of_the_client_and_of_the_context_are_kept(server: Emulator) -> None:
    """Tags given to wrap and to `tagged` stand together on the entry."""
    ledger = Ledger()
    with blocking(server) as plain:
        client = ratelimit.wrap(plain, limits=LIMITS, ledger=ledger, tags={"team": "search"}, at=DAY)
        with ratelimit.tagged(feature="ranking"):
            client.responses.create(model="o3", input="x")
        client.responses.create(model="o3", input="x")
    first, second = ledger.entries()
    assert first.tags == {"team": "search", "feature": "ranking"}
    assert second.tags == {"team": "search"}


def test_the_old_client_still_works_and_may_be_forgotten(server: Emulator) -> None:
    """The copy lives on the same connections; dropping the original does not close them under it."""
    client = ratelimit.wrap(blocking(server), limits=LIMITS, at=DAY)
    gc.collect()
    client.responses.create(model="o3", input="x")
    client.close()


def test_wrapping_twice_is_refused(server: Emulator) -> None:
    """A second wrap would charge every request twice, so it is an error."""
    with blocking(server) as plain:
        client = ratelimit.wrap(plain, limits=LIMITS, at=DAY)
        with pytest.raises(ratelimit.ConfigError, match="already"):
            ratelimit.wrap(client, limits=LIMITS, at=DAY)


@pytest.mark.parametrize("thing", [object(), "client", None])
def test_what_is_no_client_is_refused(thing: object) -> None:
    """wrap says what it takes."""
    with pytest.raises(ratelimit.ConfigError, match="openai client"):
        ratelimit.wrap(thing, limits=LIMITS)


def test_settings_beside_a_shared_limiter_are_refused(server: Emulator) -> None:
    """A setting that would be ignored is an error."""
    with blocking(server) as plain, pytest.raises(ratelimit.ConfigError, match="not both"):
        ratelimit.wrap(plain, limiter=ratelimit.Limiter(limits=LIMITS), policy="documented")


@pytest.mark.parametrize("lib", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_the_users_http_client_survives(server: Emulator, lib: Any) -> None:
    """Hooks, headers, timeouts, mounts and a custom transport of the user's own client are all still in force."""
    seen: list[str] = []

    class Custom(lib.HTTPTransport):
        def handle_request(self, request: Any) -> Any:
            seen.append("transport")
            return super().handle_request(request)

    with lib.Client(
        transport=Custom(),
        timeout=lib.Timeout(7),
        headers={"x-team": "search"},
        mounts={"http://elsewhere.invalid": None},
        event_hooks={
            "request": [lambda request: seen.append(f"hook {request.headers['x-team']}")],
            "response": [lambda response: seen.append("answered")],
        },
    ) as http:
        client = ratelimit.wrap(blocking(server, http_client=http), limits=LIMITS, at=DAY)
        client.responses.create(model="o3", input="x")
        assert seen == ["hook search", "transport", "answered"]
        assert client._client.timeout == lib.Timeout(7)
        assert set(client._client._mounts) == set(http._mounts)
        assert type(http._transport) is Custom  # the user's client itself was not touched


def test_proxies_of_the_environment_survive(server: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy set in the environment is still used, and its transport is paced too."""
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
    with openai.OpenAI(base_url="http://api.invalid/v1", api_key="test", max_retries=0) as plain:
        limiter = ratelimit.Limiter(limits={"rpm": 5}, at=DAY)
        client = ratelimit.wrap(plain, limiter=limiter)
        with pytest.raises(openai.NotFoundError, match=r"http://api\.invalid"):  # as a proxy sees it
            client.responses.create(model="o3", input="through the proxy")
    assert limiter.store.backlog_us("o3:rpm") > 0


@pytest.mark.parametrize("cls", [openai.AzureOpenAI, openai.AsyncAzureOpenAI])
def test_azure_clients_are_wrapped_too(cls: Any) -> None:
    """AzureOpenAI and AsyncAzureOpenAI come back as themselves."""
    plain = cls(azure_endpoint="https://example.invalid", api_key="test", api_version="2025-04-01-preview")
    client = ratelimit.wrap(plain, limits=LIMITS)
    assert type(client) is cls


def test_a_ledger_path_is_enough(server: Emulator, tmp_path: Path) -> None:
    """ledger="costs.db" creates a file that another program can read while the client lives."""
    path = tmp_path / "costs.db"
    with blocking(server) as plain:
        client = ratelimit.wrap(plain, limits=LIMITS, ledger=path, at=DAY)
        client.responses.create(model="o3", input="x")
        with Ledger(path) as ledger:
            assert [entry.state for entry in ledger.entries()] == ["posted"]


def test_cancelling_a_waiting_call_gives_its_place_back(server: Emulator) -> None:
    """A task cancelled while it stands in line holds nothing, and nothing was sent."""

    async def main() -> tuple[int, int]:
        limiter = ratelimit.Limiter(limits={"rpm": 1}, at=DAY)
        ledger = Ledger()
        async with awaiting(server) as plain:
            client = ratelimit.wrap(plain, limiter=limiter, ledger=ledger)
            await client.responses.create(model="o3", input="x")
            waiting = asyncio.create_task(client.responses.create(model="o3", input="x"))
            while not limiter.gate("o3").line:  # noqa: ASYNC110  # a line has no event to wait for
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        return len(limiter.gate("o3").line), len(list(ledger.entries()))

    assert asyncio.run(main()) == (0, 1)


def test_a_warning_points_at_the_program_and_not_into_a_library() -> None:
    """The line that made the call is named, however deep in the client the warning came up."""
    http = httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, json={"id": "r", "output": []})))
    plain = openai.OpenAI(api_key="x", http_client=http)
    client = ratelimit.wrap(plain, limits={"rpm": 100}, at=date(2026, 11, 24))
    with pytest.warns(ratelimit.RatecardWarning, match="o3 shuts down on") as caught:
        client.responses.create(model="o3", input="x")
    assert [Path(one.filename) for one in caught] == [Path(__file__)]
