"""Drive the real async transport under `run_virtual`: below it a network and a server that fail as the seed says, above
it the caller or the real openai client."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai

from ratelimit.errors import AdmissionError
from ratelimit.transports.httpx2 import AsyncRateLimitTransport

from .auditor import Auditor
from .direct import StepClock, check_state, limiter_of
from .server import error, refusal, too_large
from .world import Ask, World

URL = "https://api.invalid/v1/chat/completions"
REPLY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "sim",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6},
    }
).encode()
QUOTA = error("insufficient_quota", "insufficient_quota", "You exceeded your current quota, please check your plan.")
SLOW = error("slow_down", "rate_limit_error", "Slow down: your traffic grows too quickly.")
GARBAGE = ("banana", "-5", "", "1e9", "9" * 40, "٣", "1h2", "nan", "ms", "\x7f")


class Front(httpx2.AsyncBaseTransport):
    """Above the transport: the auditor sees who asks and what comes back."""

    def __init__(self, auditor: Auditor, clock: StepClock, ask: Ask, inner: Any) -> None:
        self._auditor, self._clock, self._ask, self._inner = auditor, clock, ask, inner

    async def handle_async_request(self, request: Any) -> Any:
        auditor, clock, ask = self._auditor, self._clock, self._ask
        auditor.asked(ask, clock.true_us())
        try:
            response = await self._inner.handle_async_request(request)
        except AdmissionError as error:
            auditor.raised(ask, clock.true_us(), error)
            raise
        except asyncio.CancelledError:
            if auditor.lives[ask.number].state == "waiting":
                auditor.cancelled(ask, clock.true_us())
            raise
        auditor.told(ask, clock.true_us(), response.status_code, dict(response.headers))
        return response


class Body(httpx2.AsyncByteStream):
    """A reply's body in chunks, perhaps cut."""

    def __init__(self, net: Net, ask: Ask, status: int, chunks: list[bytes], pause_us: int, kind: str) -> None:
        self._net, self._ask, self._status, self._chunks = net, ask, status, chunks
        self._pause_us, self._kind, self._open = pause_us, kind, True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
            if self._pause_us:
                await asyncio.sleep(self._pause_us / 1e6)
        if self._kind == "cut":
            raise httpx2.ReadError("the connection was lost in the middle of the reply")

    async def aclose(self) -> None:
        if self._open:
            self._open = False
            self._net.closed(self._ask, self._status, self._kind)


class Net(httpx2.AsyncBaseTransport):
    """Below the transport: delays, the server's books, and everything that goes wrong."""

    def __init__(self, world: World, auditor: Auditor, clock: StepClock) -> None:
        self._world, self._auditor, self._clock = world, auditor, clock
        self._start_us = clock.true_us()
        late = world.faults.get("late", 1)
        self._delay_us = round(world.jitter_us * late)
        self._sent = 0

    async def handle_async_request(self, request: Any) -> Any:
        auditor, clock = self._auditor, self._clock
        ask = auditor.lives[int(request.headers["x-ask"])].ask
        life = auditor.lives[ask.number]
        auditor.admitted(ask, clock.true_us())
        life.sent += 1
        if life.sent > 110:
            raise AssertionError(f"#{ask.number} is sent again and again")
        chance = random.Random(f"{self._world.seed}/{ask.number}/{life.sent}")
        try:
            return await self._travel(ask, chance)
        except BaseException as error:
            now_us = clock.true_us()
            if isinstance(error, httpx2.ConnectError):
                auditor.corrected(ask, now_us, None)
            auditor.landed(ask, now_us, type(error).__name__)
            raise

    async def _travel(self, ask: Ask, chance: random.Random) -> Any:
        world = self._world
        loop = asyncio.get_running_loop()
        errors, luck = world.faults["errors"], chance.random()
        up_us, down_us = chance.randint(0, self._delay_us), chance.randint(0, self._delay_us)
        if luck < errors:
            await asyncio.sleep(up_us / 1e6)
            raise httpx2.ConnectError("nobody answers")
        # Whoever gives up waiting does not call back what is on its way.
        arrived: asyncio.Future[tuple[int, bytes, dict[str, str], str]] = loop.create_future()
        if up_us:
            loop.call_later(up_us / 1e6, self._arrive, ask, chance, arrived)
        else:
            self._arrive(ask, chance, arrived)
        status, content, headers, kind = await arrived
        if luck < 2 * errors:
            await asyncio.sleep(ask.service_us / 1e6)
            raise (httpx2.ReadTimeout if chance.random() < 0.5 else httpx2.ReadError)("no reply")
        service_us = ask.service_us if status == 200 else chance.randint(0, 20_000)
        if luck < 3 * errors and status == 200:
            status, content = chance.choice((500, 502, 503)), b'{"error": {"message": "sorry", "type": "server_error"}}'
        if luck < 4 * errors and status == 200:
            kind = "cut"
            content = content[: len(content) // 2]
        streams = status == 200 and chance.random() < 0.3
        first_us = service_us // 3 if streams else service_us
        if world.faults["processing"]:
            headers["openai-processing-ms"] = str(first_us // 1000)
        await asyncio.sleep((first_us + down_us) / 1e6)
        chunks = [content[at : at + 60] for at in range(0, len(content), 60)] if streams else [content]
        pause_us = (service_us - first_us) // max(1, len(chunks)) if streams else 0
        headers["content-type"] = "application/json"
        if world.faults["headers"] == "garbage":
            for name in chance.sample(("limit", "remaining", "reset"), 2):
                headers[f"x-ratelimit-{name}-tokens"] = chance.choice(GARBAGE)
            if status == 429:
                headers["retry-after"] = chance.choice(GARBAGE)
        raw = [(name.encode(), value.encode("utf-8")) for name, value in headers.items()]
        return httpx2.Response(status, headers=raw, stream=Body(self, ask, status, chunks, pause_us, kind))

    def _arrive(self, ask: Ask, chance: random.Random, arrived: asyncio.Future[Any]) -> None:
        """What the server says, at the instant of arrival."""
        faults, server, now_us = self._world.faults, self._auditor.server, self._clock.true_us()
        since_us = now_us - self._start_us
        status, content, kind = 200, REPLY, ""
        for name, words in (("quota", QUOTA), ("slow_down", SLOW)):
            if name in faults and 0 <= since_us - faults[name][0] < faults[name][1]:
                status, content, kind = 429, words, name
        no = None
        largest = min((server.limits[rule.key] for rule in server.rules[ask.model] if rule.unit == 1), default=0)
        if status == 200 and ask.tokens > largest * faults.get("too_large", 1) > 0:
            status, kind = 429, "too_large"
            content = too_large(ask.model, "tpm", round(largest * faults.get("too_large", 1)), ask.tokens)
        elif status == 200:
            no = server.arrive(ask.model, (1, ask.tokens, ask.images), now_us)
            if no is not None:
                status, content = 429, refusal(ask.model, no)
                kind = "too_large" if no.too_large else "rate"
                self._auditor.refused(ask, now_us, no, kind)
        headers = server.headers(ask.model, now_us) if faults["headers"] == "true" else {}
        if no is not None and kind == "rate" and chance.random() < 0.5:
            headers["retry-after-ms"] = str(max(1, no.wait_us // 1000))
        self._auditor.arrived(ask, now_us, status, kind)
        if not arrived.done():
            arrived.set_result((status, content, headers, kind))

    def closed(self, ask: Ask, status: int, kind: str) -> None:
        """A reply was read, or given up."""
        now_us, auditor = self._clock.true_us(), self._auditor
        if kind in ("rate", "slow_down"):
            auditor.landed(ask, now_us, "")
            auditor.asked(ask, now_us)
        else:
            auditor.landed(ask, now_us, f"{status} {kind}".strip())
            if kind == "quota":
                auditor.quota_until_us = now_us + 60_000_000

    async def misfortune(self, over: asyncio.Event) -> None:
        """Let a rival take its share, and limits change, until everything is over."""
        world, server, chance = self._world, self._auditor.server, random.Random(f"{self._world.seed}/rival")
        loop = asyncio.get_running_loop()
        for name in ("lower", "raise"):
            if name in world.faults and server.books:
                key = chance.choice(sorted(server.books))
                at_us, share = world.faults[name]
                loop.call_at((self._start_us + at_us) / 1e6, self._change, key, share)
        while "rival" in world.faults and not over.is_set():
            pause_s = chance.expovariate(0.3)
            await asyncio.sleep(pause_s)
            for key in sorted(server.books):
                rule = next(one for rules in server.rules.values() for one in rules if one.key == key)
                amount = server.limits[key] * pause_s * 1e6 / rule.period_us * world.faults["rival"]
                if amount >= 1 or chance.random() < amount:
                    server.rival(key, max(1, round(amount)), self._clock.true_us())

    def _change(self, key: str, share: float) -> None:
        self._auditor.server.change(key, share, self._clock.true_us())
        self._auditor.remark(self._clock.true_us(), f"{key} is now {self._auditor.server.limits[key]}")


async def drive(world: World, auditor: Auditor) -> None:
    """Let a world happen to the transport."""
    loop = asyncio.get_running_loop()
    clock = StepClock()
    start_us = auditor.start_us = clock.true_us()
    limiter = limiter_of(world, clock)
    net = Net(world, auditor, clock)
    chance = random.Random(f"{world.seed}/callers")

    def transport_of(ask: Ask) -> Front:
        max_wait = None if ask.max_wait_us is None else ask.max_wait_us / 1e6
        paced = AsyncRateLimitTransport(net, limiter=limiter, max_wait=max_wait, priority=ask.priority)
        return Front(auditor, clock, ask, paced)

    async def call(ask: Ask, careless: bool) -> None:
        """Send it as an HTTP client would; who is careless reads one chunk and goes away."""
        body = {"model": ask.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": ask.tokens}
        request = httpx2.Request("POST", URL, json=body, headers={"x-ask": str(ask.number)})
        response = await transport_of(ask).handle_async_request(request)
        try:
            async for _ in response.stream:
                if careless:
                    break
        finally:
            await response.aclose()

    async def create(ask: Ask) -> None:
        """Send it with the openai client, which tries again after errors of the server and of the network."""
        http = httpx2.AsyncClient(transport=transport_of(ask))
        client = openai.AsyncOpenAI(api_key="x", base_url=URL.rpartition("/chat")[0], http_client=http)
        client._platform = "Linux"  # looking it up takes a thread, and threads do not live in virtual time
        await client.chat.completions.create(
            model=ask.model,
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=ask.tokens,
            extra_headers={"x-ask": str(ask.number)},
        )

    async def one(ask: Ask) -> None:
        await asyncio.sleep(ask.at_us / 1e6)
        if ask.cancel_us is not None:
            task = asyncio.current_task()
            assert task is not None
            loop.call_later(ask.cancel_us / 1e6, task.cancel)
        careless = chance.random() < world.faults["abandon"]
        try:
            await (create(ask) if world.depth == "client" else call(ask, careless))
        except (AdmissionError, httpx2.TransportError, openai.APIError):
            pass  # the auditor has seen it go by
        except asyncio.CancelledError:
            if auditor.lives[ask.number].state == "landed":
                auditor.lives[ask.number].state = "done"

    for at_us, by_us in world.steps:
        loop.call_at((start_us + at_us) / 1e6, clock.step, by_us)
    over = asyncio.Event()
    fate = asyncio.create_task(net.misfortune(over))
    await asyncio.gather(*(one(ask) for ask in world.asks))
    over.set()
    await fate
    auditor.finish(clock.true_us())
    check_state(limiter, auditor)
