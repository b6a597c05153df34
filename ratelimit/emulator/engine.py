"""What happens to a request: plan it, meet a fault, pass the limits, take its time, send the reply, count it all.

The endpoints that models answer are plain ASGI callables: a benchmark's floor must not be this server's framework.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from . import errors, replies
from .account import Account
from .background import Shelf, Stored
from .counters import Admission, Counters, count
from .errors import ErrorReply
from .faults import AFTER, BEFORE, Fault, FaultPlan
from .headers import Header
from .plan import RESPONSES, Plan, Planner
from .replies import Chunk, Stamp

US_PER_S = 1_000_000
_QUEUE_US = US_PER_S
"""How long a background response stays queued: emulated, and only where replies take time at all."""

_JSON: Header = (b"content-type", b"application/json")
_STREAM: Header = (b"content-type", b"text/event-stream; charset=utf-8")
_VERSION: Header = (b"openai-version", b"2020-10-01")


class Engine:
    """Everything behind the URLs. One event loop serves it; other threads may read counters."""

    def __init__(
        self,
        *,
        account: Account,
        planner: Planner,
        faults: Iterable[Fault],
        seed: int,
        speed: float,
        now_us: Callable[[], int],
        organization: str,
        count_refused: bool,
        log_size: int,
    ) -> None:
        self.account = account
        self._planner = planner
        self._seed = seed
        self._speed = speed
        self._wall_us = now_us
        self._origin_us = now_us()
        self._organization = organization
        self._count_refused = count_refused
        self._log_size = log_size
        self._faults = FaultPlan(faults, seed)
        self._shelf = Shelf()
        self._lock = threading.Lock()
        self._serial = 0
        # Ids must differ between two emulators that feed one ledger, whatever their seeds.
        self.nonce = os.urandom(8).hex()
        self._counters = Counters(log_size)

    def now_us(self, wall_us: int | None = None) -> int:
        """Read the emulated clock: it runs `speed` times as fast as the given one, from the same start."""
        elapsed_us = (self._wall_us() if wall_us is None else wall_us) - self._origin_us
        return self._origin_us + (elapsed_us if self._speed == 1 else int(elapsed_us * self._speed))

    # -- what tests and benchmarks ask ---------------------------------------------------------------------------------

    def counters(self) -> dict[str, Any]:
        """Everything counted so far, and how full the buckets are."""
        with self._lock:
            now_us = self.now_us()
            self._settle(now_us)
            return {
                **self._counters.as_dict(),
                "limits": {name: pool.snapshot(now_us) for name, pool in sorted(self.account.pools.items())},
                "tier": self.account.tier,
                "window": self.account.window,
                "speed": self._speed,
                "seed": self._seed,
                "now_us": now_us,
                "started_us": self._origin_us,
            }

    def admissions(self) -> list[Admission]:
        """The latest decisions of the limits, oldest first."""
        with self._lock:
            return list(self._counters.log)

    def set_faults(self, rules: Iterable[Fault]) -> None:
        """Replace the fault rules."""
        with self._lock:
            self._faults = FaultPlan(rules, self._seed)

    def reset(self) -> None:
        """Start anew: full limits, no counts, no stored responses; fault rules stay and count from the beginning."""
        with self._lock:
            self.account.reset(self.now_us())
            self._planner.clear()
            self._shelf.clear()
            self._counters = Counters(self._log_size)
            self._faults = FaultPlan(self._faults.rules, self._seed)

    # -- what files and batches need -----------------------------------------------------------------------------------

    @property
    def faults(self) -> FaultPlan:
        """The fault rules in force."""
        return self._faults

    def fault(self, endpoint: str, *, stream: bool = False) -> str | None:
        """Say which fault a request to files or batches meets, and count it."""
        found = self._faults.pick(endpoint, "", stream) if self._faults.rules else None
        if found is not None:
            count(self._counters.faults, found)
        return found

    def wrong(self, reply: ErrorReply) -> Response:
        """Answer a request that cannot be served, and count it."""
        count(self._counters.invalid, reply.code)
        return self.reply(reply)

    # -- model endpoints -----------------------------------------------------------------------------------------------

    async def serve(self, endpoint: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one POST to a model."""
        raw = await _body(receive)
        counters = self._counters
        counters.entered()
        try:
            await self._answer(endpoint, raw, counters, scope, receive, send)
        finally:
            counters.in_flight -= 1

    async def _answer(
        self, endpoint: str, raw: bytes, counters: Counters, scope: Scope, receive: Receive, send: Send
    ) -> None:
        counters.requests += 1
        plan = self._planner.plan(endpoint, raw)
        if isinstance(plan, ErrorReply):
            count(counters.invalid, plan.code)
            await self._send_error(send, plan, [])
            return
        model = plan.model
        fault = None
        if self._faults.rules:
            fault = self._faults.pick(endpoint.removeprefix("/v1/"), model.name, plan.stream)
            if fault is not None:
                count(counters.faults, fault)
                if fault in BEFORE:
                    await self._send_error(send, self._lying_refusal(fault, plan), plan.pool.headers.now())
                    return
        with self._lock:
            wall_us = self._wall_us()
            now_us = self.now_us(wall_us)
            demand = plan.demand
            refusal = plan.pool.admit(demand, now_us, self._count_refused)
            verdict = "admitted"
            if refusal is not None:
                verdict = refusal.bucket.name if refusal.kind == "rate" else "too_large"
            counters.decided(
                Admission(
                    now_us,
                    wall_us,
                    model.name,
                    plan.pool.name,
                    demand.requests,
                    demand.tokens,
                    demand.images,
                    verdict,
                )
            )
            headers = plan.pool.headers.now(demand.images > 0)
            self._serial += 1
            tail = f"{self.nonce}{self._serial:034x}"
        if refusal is not None:
            reply = errors.refused(refusal, model.name, plan.pool.name, self._organization, self._speed)
            await self._send_error(send, reply, headers)
            return
        if fault in AFTER:
            if fault == "drop_connection":
                await _drop(scope, send)
            else:
                reply = errors.server_error() if fault == "500" else errors.overloaded()
                await self._send_error(send, reply, headers)
            return
        if fault == "no_headers":
            headers = []
        duration_us = plan.think_us + plan.write_us
        created = now_us // US_PER_S
        stamp = Stamp(tail, created, (now_us + duration_us) // US_PER_S)
        if plan.stream:
            await self._stream(plan, stamp, headers, fault, counters, receive, send)
        elif plan.background:
            starts_us = now_us + (_QUEUE_US if duration_us else 0)
            stamp = Stamp(tail, created, (starts_us + duration_us) // US_PER_S)
            self._shelf.put(replies.response_id(tail), Stored(plan, stamp, starts_us, starts_us + duration_us))
            await self._send(send, replies.dumps(replies.response(plan, stamp, "queued")), headers, 0)
        else:
            await self._whole(plan, stamp, headers, fault, counters, receive, send)

    async def _whole(
        self,
        plan: Plan,
        stamp: Stamp,
        headers: list[Header],
        fault: str | None,
        counters: Counters,
        receive: Receive,
        send: Send,
    ) -> None:
        duration_us = plan.think_us + plan.write_us
        present = await self._pass(duration_us, receive)
        told = present and fault not in ("garbage_json", "no_usage")
        counters.billed(plan.model.served, plan.service_tier, plan.tokens, told)
        if plan.endpoint == RESPONSES and plan.body.get("store", True):
            now_us = self.now_us()
            self._shelf.put(replies.response_id(stamp.tail), Stored(plan, stamp, now_us, now_us))
        if present:
            document = replies.document(plan, stamp, with_usage=fault != "no_usage")
            if fault == "garbage_json":
                document = document[: len(document) // 2] + b"\x00<html>"
            await self._send(send, document, headers, duration_us)

    async def _stream(
        self,
        plan: Plan,
        stamp: Stamp,
        headers: list[Header],
        fault: str | None,
        counters: Counters,
        receive: Receive,
        send: Send,
    ) -> None:
        chunks = replies.stream(plan, stamp, with_usage=fault != "no_usage")
        if fault == "cut_stream":
            chunks = chunks[: len(chunks) // 2]
        elif fault == "garbage_sse":
            half = len(chunks) // 2
            chunks = [*chunks[:half], Chunk(0, b'data: {"type": "resp\xff\n\n'), *chunks[half:]]
        await self._start(send, 200, [_STREAM, *headers], 0)
        present = True
        waiting: list[bytes] = []
        for chunk in chunks:
            if chunk.before_us:
                if waiting:
                    await _write(send, b"".join(waiting), more=True)
                    waiting.clear()
                present = await self._pass(chunk.before_us, receive)
                if not present:
                    break
            waiting.append(chunk.data)
        told = fault not in ("cut_stream", "garbage_sse", "no_usage") and (
            plan.endpoint == RESPONSES or plan.include_usage
        )
        counters.billed(plan.model.served, plan.service_tier, plan.tokens, present and told)
        if present:
            if waiting:
                await _write(send, b"".join(waiting), more=True)
            if fault != "cut_stream":  # the server closes a connection whose reply was left unfinished
                await _write(send, b"", more=False)

    # -- stored responses ----------------------------------------------------------------------------------------------

    async def retrieve(self, request: Request) -> Response:
        """GET /v1/responses/{id}: no limit counts it and no x-ratelimit header comes with it, as recorded."""
        counters = self._counters
        counters.polls += 1
        key = request.path_params["id"]
        stored = self._shelf.get(key)
        if stored is None:
            count(counters.invalid, "unknown_response")
            return self.reply(errors.unknown_response(key))
        fault = None
        if self._faults.rules:
            fault = self._faults.pick("poll", stored.plan.model.name)
            if fault is not None:
                count(counters.faults, fault)
        if fault == "429":
            return self.reply(self._lying_refusal(fault, stored.plan))
        if fault in ("500", "503"):
            return self.reply(errors.server_error() if fault == "500" else errors.overloaded())
        document = self._stored_document(stored)
        if fault == "garbage_json":
            document = document[: len(document) // 2]
        if fault == "drop_connection":
            return Dropped()
        return self.plain(200, document)

    async def cancel(self, request: Request) -> Response:
        """POST /v1/responses/{id}/cancel: ends a background response; again, or too late, changes nothing."""
        key = request.path_params["id"]
        stored = self._shelf.get(key)
        if stored is None:
            count(self._counters.invalid, "unknown_response")
            return self.reply(errors.unknown_response(key))
        if not stored.plan.background:
            return self.reply(errors.not_cancellable())
        with self._lock:
            now_us = self.now_us()
            self._settle(now_us)
            if self._shelf.cancel(key, stored, now_us):
                self._counters.cancelled += 1
        return self.plain(200, self._stored_document(stored))

    def _stored_document(self, stored: Stored) -> bytes:
        with self._lock:
            now_us = self.now_us()
            self._settle(now_us)
        return replies.dumps(replies.response(stored.plan, stored.stamp, stored.state(now_us)))

    def _settle(self, now_us: int) -> None:
        """Bill the background responses that were completed meanwhile."""
        for stored in self._shelf.finished(now_us):
            plan = stored.plan
            self._counters.billed(plan.model.served, plan.service_tier, plan.tokens, True)

    # -- sending -------------------------------------------------------------------------------------------------------

    def _lying_refusal(self, kind: str, plan: Plan) -> ErrorReply:
        """A refusal that the limits did not ask for."""
        if kind != "429":
            return errors.fault(kind)
        from .buckets import Refusal

        pool = plan.pool
        bucket = next((bucket for bucket in pool.buckets if bucket.unit == "tokens"), pool.buckets[0])
        units = max(1, min(bucket.capacity, plan.demand.tokens if bucket.unit == "tokens" else plan.demand.requests))
        wait_us = -(-units * bucket.period_us // bucket.capacity)
        refusal = Refusal(bucket, "rate", bucket.capacity, units, wait_us, wait_us // 1000)
        return errors.refused(refusal, plan.model.name, pool.name, self._organization, self._speed)

    async def _pass(self, emulated_us: int, receive: Receive) -> bool:
        """Let emulated time pass; False as soon as the client has gone."""
        if not emulated_us:
            return True
        try:
            async with asyncio.timeout(emulated_us / US_PER_S / self._speed):
                while (await receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return True
        return False

    async def start(self, send: Send, status: int, headers: list[Header]) -> None:
        """Begin a reply outside the model endpoints that is sent in pieces."""
        await self._start(send, status, headers, 0)

    def _named(self, processing_us: int) -> list[Header]:
        self._serial += 1
        return [
            (b"openai-processing-ms", b"%d" % (processing_us // 1000)),
            _VERSION,
            (b"x-request-id", f"req_{self.nonce}{self._serial:016x}".encode()),
        ]

    async def _start(self, send: Send, status: int, headers: list[Header], processing_us: int) -> None:
        headers.extend(self._named(processing_us))
        await send({"type": "http.response.start", "status": status, "headers": headers})

    async def _send(
        self, send: Send, body: bytes, headers: list[Header], processing_us: int, status: int = 200
    ) -> None:
        await self._start(send, status, [_JSON, (b"content-length", b"%d" % len(body)), *headers], processing_us)
        await send({"type": "http.response.body", "body": body})

    async def _send_error(self, send: Send, reply: ErrorReply, headers: list[Header]) -> None:
        await self._send(send, reply.body, [*headers, *reply.headers], 0, reply.status)

    def plain(self, status: int, body: bytes, headers: Iterable[Header] = ()) -> Response:
        """Build a JSON response outside the model endpoints."""
        response = Response(body, status, media_type="application/json")
        response.raw_headers.extend([*headers, *self._named(0)])
        return response

    def reply(self, reply: ErrorReply) -> Response:
        """Build an error response outside the model endpoints."""
        return self.plain(reply.status, reply.body, reply.headers)


class Dropped(Response):
    """No answer at all."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _drop(scope, send)


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    parts = [body]
    while message.get("more_body"):
        message = await receive()
        parts.append(message.get("body", b""))
    return b"".join(parts)


async def _write(send: Send, data: bytes, more: bool) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": more})


async def _drop(scope: Scope, send: Send) -> None:
    """Close the connection without an answer. ASGI has no word for it, so the server's transport is asked directly."""
    transport = getattr(getattr(scope.get("ratelimit.send"), "__self__", None), "transport", None)
    if transport is None:  # another server: promise a body that never comes
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        return
    transport.abort()
    await asyncio.sleep(0)  # the server learns of the loss in the next turn of the loop,
    await asyncio.sleep(0)  # and only then knows that no answer is due
