"""Law: every call that costs is recognised, and priced by what served it, on the day it was made."""

from __future__ import annotations

import asyncio
import json
import warnings
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx2
import openai
import pytest

import ratelimit
from pricing import Usd
from pricing.ledger import Ledger

from .replies import DAY, LIMITS, RESPONSE, URL, both

USAGE = {"input_tokens": 1_000, "output_tokens": 500}
PRICED = {**RESPONSE, "usage": USAGE}
STANDARD, FLEX, PRIORITY = (Usd((1_000 * a + 500 * b) * 10**5) for a, b in ((20, 80), (10, 40), (35, 140)))


def wrapped(answer: Callable[[Any], Any], **settings: Any) -> openai.OpenAI:
    """The real client, wrapped, over a transport that answers by a function."""
    http = httpx2.Client(transport=httpx2.MockTransport(answer), follow_redirects=True)
    plain = openai.OpenAI(base_url="http://test/v1", api_key="test", max_retries=0, http_client=http)
    settings.setdefault("limits", None if "limiter" in settings else LIMITS)
    settings.setdefault("at", None if "limiter" in settings else DAY)
    return ratelimit.wrap(plain, **settings)


def replying(**more: Any) -> Callable[[Any], Any]:
    return lambda _: httpx2.Response(200, json={**PRICED, **more})


# Bodies that name no model


def test_a_stored_prompt_is_paced_and_priced_as_what_served_it() -> None:
    """A body that leaves the model to its prompt waits at the limits of every model, costs what the reply names."""
    ledger, limiter = Ledger(), ratelimit.Limiter(limits={"rpm": 1}, max_wait=1, at=DAY)
    client = wrapped(replying(), limiter=limiter, ledger=ledger)
    client.responses.create(prompt={"id": "pmpt_1"})
    with pytest.raises(ratelimit.WouldWait):
        client.responses.create(prompt={"id": "pmpt_1"})
    assert [(entry.state, entry.model, entry.cost) for entry in ledger.entries()] == [("posted", "o3", STANDARD)]


def test_a_conversation_without_a_model_is_a_call_too() -> None:
    """What continues a conversation or a response may leave the model out as well."""
    for body in ({"conversation": "conv_1", "input": "x"}, {"previous_response_id": "resp_0", "input": "x"}):
        ledger = Ledger()
        wrapped(replying(), ledger=ledger).responses.create(**body)  # type: ignore[call-overload]
        assert [(entry.model, entry.cost) for entry in ledger.entries()] == [("o3", STANDARD)]


def test_a_budget_refuses_a_call_that_names_no_model() -> None:
    """Before the reply nobody knows what it may cost: like every call without a price, it is not sent."""
    sent: list[Any] = []
    client = wrapped(lambda request: sent.append(request), ledger=Ledger(), budget="25 USD/day")
    with pytest.raises(ratelimit.OverBudget, match="no price"):
        client.responses.create(prompt={"id": "pmpt_1"})
    assert sent == []


@pytest.mark.parametrize("settings", [{"tier": "tier_1"}, {"limits": {"o3": {"rpm": 5}}}], ids=["tier", "per model"])
def test_without_limits_for_every_model_it_passes_with_one_warning(settings: Any) -> None:
    """Where limits are known per model only, the call is not held back, and a warning says once that it is unpaced."""
    client = wrapped(replying(), limiter=ratelimit.Limiter(**settings, at=DAY))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            client.responses.create(prompt={"id": "pmpt_1"})
    assert ["unpaced" in str(one.message) for one in caught] == [True]


@both
@pytest.mark.parametrize("body", [{"model": ""}, {"model": "", "prompt": {"id": "pmpt_1"}}, {"model": 7, "prompt": {}}])
def test_a_bad_model_is_the_servers_to_judge(lib: Any, body: dict[str, Any]) -> None:
    """An empty model, or one that is no text, raises nothing of ours: the server's own error reaches the caller."""
    limiter, ledger = ratelimit.Limiter(tier="tier_1", at=DAY), Ledger()
    transports = getattr(ratelimit.transports, lib.__name__)
    answer = lib.MockTransport(lambda _: lib.Response(400, json={"error": {"message": "bad model"}}))
    costing = transports.CostTransport(answer, ledger=ledger, at=DAY)
    with lib.Client(transport=transports.RateLimitTransport(costing, limiter=limiter)) as client:
        assert client.post(URL, json=body).status_code == 400
    assert list(ledger.entries()) == []


# Redirects


@both
@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_redirected_call_is_paced_and_priced_where_it_is_answered(lib: Any, status: int, colour: str) -> None:
    """The redirect itself is billed nothing; the request that follows it, body and all, is a call like any other."""
    ledger, limiter = Ledger(), ratelimit.Limiter(limits={"rpm": 100}, at=DAY)
    transports = getattr(ratelimit.transports, lib.__name__)

    def answer(request: Any) -> Any:
        if request.url.host == "api.openai.com":
            return lib.Response(status, headers={"location": "https://eu.api.openai.com/v1/responses"})
        return lib.Response(200, json=PRICED)

    inner, body = lib.MockTransport(answer), {"model": "o3", "input": "x"}
    if colour == "sync":
        pacing = transports.RateLimitTransport(transports.CostTransport(inner, ledger=ledger, at=DAY), limiter=limiter)
        with lib.Client(transport=pacing, follow_redirects=True) as client:
            assert client.post(URL, json=body).json() == PRICED
    else:

        async def main() -> None:
            costing = transports.AsyncCostTransport(inner, ledger=ledger, at=DAY)
            pacing = transports.AsyncRateLimitTransport(costing, limiter=limiter)
            async with lib.AsyncClient(transport=pacing, follow_redirects=True) as client:
                assert (await client.post(URL, json=body)).json() == PRICED

        asyncio.run(main())
    assert [(entry.state, entry.cost) for entry in ledger.entries()] == [("voided", None), ("posted", STANDARD)]
    assert limiter.store.backlog_us("o3:rpm") > 600_000  # two requests of 100 a minute


# Service tiers


@pytest.mark.parametrize(
    ("asked", "served", "shown", "paid"),
    [
        ("flex", None, "flex", FLEX),
        ("priority", None, "priority", PRIORITY),
        ("priority", "default", "default", STANDARD),
        ("auto", "priority", "priority", PRIORITY),
        ("auto", "auto", "default", STANDARD),
        ("auto", None, "default", STANDARD),
        (None, None, None, STANDARD),
    ],
)
def test_the_entry_shows_the_tier_that_was_priced(asked: Any, served: Any, shown: Any, paid: Usd) -> None:
    """Priced is the tier that served; where the reply names none, the one asked for; and the entry says which."""
    ledger = Ledger()
    more = {} if asked is None else {"service_tier": asked}
    wrapped(replying(service_tier=served), ledger=ledger).responses.create(model="o3", input="x", **more)
    (entry,) = ledger.entries()
    assert (entry.service_tier, entry.cost) == (shown, paid)


@pytest.mark.parametrize("asked", [None, "auto"])
def test_a_budget_holds_for_the_dearest_tier_that_may_serve(asked: Any) -> None:
    """A project's default may be priority: what is held covers it, so what is then served overshoots nothing."""
    ledger = Ledger()
    more = {} if asked is None else {"service_tier": asked}
    served = replying(service_tier="priority", usage={"input_tokens": 7, "output_tokens": 1_000})
    client = wrapped(served, ledger=ledger, budget="0.0081 USD")
    with pytest.raises(ratelimit.OverBudget):
        client.responses.create(model="o3", input="x", max_output_tokens=1_000, **more)
    client = wrapped(served, ledger=ledger, budget="0.015 USD")
    client.responses.create(model="o3", input="x", max_output_tokens=1_000, **more)
    (entry,) = ledger.entries()
    assert entry.cost is not None
    assert entry.worst is not None
    assert entry.cost <= entry.worst


@pytest.mark.parametrize(("model", "asked"), [("o3", "default"), ("o3", "flex"), ("o3-pro", None)])
def test_nothing_dearer_is_held_than_may_be_served(model: str, asked: Any) -> None:
    """A tier that was asked for by name, and a model without a priority price, hold what they did."""
    ledger = Ledger()
    more = {} if asked is None else {"service_tier": asked}
    wrapped(replying(model=model), ledger=ledger).responses.create(
        model=model, input="x", max_output_tokens=1_000, **more
    )
    (entry,) = ledger.entries()
    rate = {"default": 8, "flex": 4, None: 80}[asked]
    assert entry.worst is not None
    assert 0 <= entry.worst.pico - 1_000 * rate * 10**6 < 10**9


def test_a_cut_reply_of_an_undecided_tier_is_charged_the_dearest_under_a_budget() -> None:
    """A stream that breaks before it names its tier keeps the whole hold, and the entry names the tier priced."""
    raw = (
        b'data: {"type":"response.created","response":{"id":"resp_1","status":"in_progress","service_tier":"auto"}}\n\n'
    )
    ledger = Ledger()
    client = wrapped(
        lambda _: httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=raw),
        ledger=ledger,
        budget="1 USD",
    )
    for _ in client.responses.create(model="o3", input="x", stream=True, max_output_tokens=1_000):
        pass
    (entry,) = ledger.entries()
    assert (entry.state, entry.exact, entry.service_tier, entry.cost) == ("posted", False, "priority", entry.worst)


# Background responses


class Shelf:
    """A server that queues what is posted, and completes it for those who ask."""

    def __init__(self, **more: Any) -> None:
        self.more = more
        self.status = 200

    def __call__(self, request: Any) -> Any:
        if request.method == "POST" and request.url.path.endswith("/responses"):
            return httpx2.Response(200, json={**PRICED, "status": "queued", "usage": None, **self.more})
        if self.status != 200:
            return httpx2.Response(self.status, json={"error": {"message": "not here"}})
        if request.method == "DELETE":
            return httpx2.Response(200, json={"id": "resp_1", "object": "response.deleted", "deleted": True})
        return httpx2.Response(200, json={**PRICED, **self.more})


def test_a_poll_is_priced_at_the_day_of_the_call() -> None:
    """A response of 2025-06-09 costs what o3 cost on that day, however long after it is asked for."""
    then = datetime(2025, 6, 9, 23, 59, tzinfo=UTC)
    ledger = Ledger(now_us=lambda: int(then.timestamp()) * 1_000_000)
    transport = ratelimit.transports.httpx2.CostTransport(httpx2.MockTransport(Shelf()), ledger=ledger)
    with httpx2.Client(transport=transport) as client:
        client.post(URL, json={"model": "o3", "input": "x", "background": True})
        client.get(f"{URL}/resp_1")
    (entry,) = ledger.entries()
    assert (entry.state, entry.row_id) == ("posted", "o3/standard/2025-04-16")


def test_a_poll_is_priced_at_the_tier_of_the_call() -> None:
    """Where the poll names no tier, the one that was asked for is priced and shown."""
    ledger = Ledger()
    client = wrapped(Shelf(), ledger=ledger)
    client.responses.create(model="o3", input="x", background=True, service_tier="flex")
    client.responses.retrieve("resp_1")
    (entry,) = ledger.entries()
    assert (entry.state, entry.service_tier, entry.cost) == ("posted", "flex", FLEX)


@pytest.mark.parametrize("ask", ["retrieve", "cancel", "delete"])
def test_a_response_that_is_gone_does_not_stay_pending(ask: str) -> None:
    """A 404 says that nobody will ever know what the response cost: its entry ends at its estimate."""
    ledger, shelf = Ledger(), Shelf()
    client = wrapped(shelf, ledger=ledger)
    client.responses.create(model="o3", input="x", background=True)
    shelf.status = 404
    with pytest.raises(openai.NotFoundError):
        getattr(client.responses, ask)("resp_1")
    (entry,) = ledger.entries()
    assert (entry.state, entry.exact) == ("expired", False)
    assert "no more" in entry.why


@pytest.mark.parametrize("status", [500, 429, 401])
def test_a_poll_that_fails_ends_nothing(status: int) -> None:
    """Any other refusal of a poll says nothing of the response: a later poll may still bring its cost."""
    ledger, shelf = Ledger(), Shelf()
    client = wrapped(shelf, ledger=ledger)
    client.responses.create(model="o3", input="x", background=True)
    shelf.status = status
    with pytest.raises(openai.APIStatusError):
        client.responses.retrieve("resp_1")
    assert [entry.state for entry in ledger.entries()] == ["pending"]
    shelf.status = 200
    client.responses.retrieve("resp_1")
    assert [entry.state for entry in ledger.entries()] == ["posted"]


def test_a_deleted_response_ends_its_entry() -> None:
    """After a DELETE no poll can bring the cost, so the entry ends; one that was posted before stays as it is."""
    ledger = Ledger()
    client = wrapped(Shelf(), ledger=ledger)
    client.responses.create(model="o3", input="x", background=True)
    client.responses.delete("resp_1")
    assert [(entry.state, entry.why[:7]) for entry in ledger.entries()] == [("expired", "deleted")]
    ledger = Ledger()
    client = wrapped(Shelf(), ledger=ledger)
    client.responses.create(model="o3", input="x", background=True)
    client.responses.retrieve("resp_1")
    client.responses.delete("resp_1")
    assert [entry.state for entry in ledger.entries()] == ["posted"]


# Dialects of the bytes


@both
@pytest.mark.parametrize("kind", ["Text/Event-Stream; charset=utf-8", "text/event-stream"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "raw deflate"])
def test_streams_are_recognised_in_any_spelling(lib: Any, kind: str, packed: bool) -> None:
    """A content type in mixed case is one, and deflate without its header is read as clients read it."""
    plain = b'data: {"type":"response.completed","response":%s}\n\n' % json.dumps(PRICED).encode()
    packer = zlib.compressobj(wbits=-15)
    headers = {"content-type": kind, **({"content-encoding": "deflate"} if packed else {})}
    raw = packer.compress(plain) + packer.flush() if packed else plain
    ledger = Ledger()
    answer = lib.MockTransport(lambda _: lib.Response(200, headers=headers, stream=lib.ByteStream(raw)))
    costing = getattr(ratelimit.transports, lib.__name__).CostTransport(answer, ledger=ledger, at=DAY)
    with lib.Client(transport=costing) as client:
        assert client.post(URL, json={"model": "o3", "input": "x", "stream": True}).content == plain
    assert [(entry.exact, entry.cost) for entry in ledger.entries()] == [(True, STANDARD)]
