"""The blocking transports. Their twins are in _async.py; tests/test_parity.py keeps the two files one program."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from ..accounting import Accountant
from ..call import read_call
from ..context import CURRENT
from ..errors import OverBudget, QueueFull, WouldWait
from ..exchange import Tries, Visit, final_refusal
from ..limiter import Limiter, wait_us
from ._common import asking_request, decoder_of, make_accountant, pause, sent_body


class Classes(NamedTuple):
    """The transport classes bound to one HTTP library."""

    Middleware: Any
    RateLimitTransport: Any
    CostTransport: Any


@cache
def bind(lib: Any) -> Classes:
    """Build the transport classes on a library's own base classes (`lib` is the module httpx or httpx2)."""
    decode = decoder_of(lib)

    class Tap(lib.SyncByteStream):  # type: ignore[misc]  # the base class is chosen at run time
        """The response body, passed on chunk by chunk while the visit looks on."""

        def __init__(self, inner: Any, visit: Visit) -> None:
            self._inner = inner
            self._visit = visit
            self._complete = False

        def __iter__(self) -> Iterator[bytes]:
            for chunk in self._inner:
                shown = self._visit.feed(chunk)
                if shown:
                    yield shown
            rest = self._visit.rest()
            if rest:
                yield rest
            self._complete = True

        def close(self) -> None:
            try:
                self._inner.close()
            finally:
                self._visit.close(self._complete)

        def read(self) -> bytes:
            """Read the whole body, and close it."""
            try:
                return b"".join([chunk for chunk in self])  # noqa: C416  # as its twin
            finally:
                self.close()

        def __del__(self) -> None:
            self._visit.close(self._complete)  # a response that was dropped unclosed

    class Middleware(lib.BaseTransport):  # type: ignore[misc]  # as above
        """Pacing and cost accounting around an inner transport; either part may be None."""

        def __init__(
            self,
            inner: Any,
            limiter: Limiter | None,
            accountant: Accountant | None,
            *,
            max_wait_us: int | None = None,
            priority: str | None = None,
        ) -> None:
            self.inner = inner
            self.limiter = limiter
            self.accountant = accountant
            self._max_wait_us = max_wait_us
            self._priority = priority

        def handle_request(self, request: Any) -> Any:
            call = read_call(
                request.method, request.url.raw_path.decode("ascii"), lambda: sent_body(request, lib.ByteStream)
            )
            if call is None:
                return self.inner.handle_request(request)
            call.host = request.url.host
            limiter = self.limiter
            tries = Tries(limiter, self._max_wait_us, request.headers.get("x-stainless-retry-count"))
            refused = None
            while True:
                asking = asking_request(lib, request, call, self.accountant)
                visit = Visit(call, limiter, self.accountant, asks_usage=asking is not request)
                wanted = visit.demand(tries)
                reservation = None
                if limiter is not None and wanted is not None:
                    priority = CURRENT.get().priority or self._priority
                    try:
                        reservation = limiter.admit(*wanted, tries.left_us(), priority)
                    except (WouldWait, QueueFull) as error:
                        if refused is not None:
                            return refused
                        raise tries.told(error) from None
                try:
                    visit.sent(reservation)
                except OverBudget as error:
                    pause(tries.slowed_us(error))
                    continue
                try:
                    response = self.inner.handle_request(asking)
                except BaseException as error:
                    visit.failed(error)
                    raise
                visit.answered(response.status_code, response.headers.raw, decode)
                tap = Tap(response.stream, visit)
                if visit.asked_in_vain(response.status_code):
                    raw = tap.read()
                    if visit.asks_no_more(raw):
                        continue
                    stream = lib.ByteStream(raw)
                    return lib.Response(
                        response.status_code, headers=response.headers, stream=stream, extensions=response.extensions
                    )
                if response.status_code != 429 or wanted is None:
                    return lib.Response(
                        response.status_code, headers=response.headers, stream=tap, extensions=response.extensions
                    )
                raw = tap.read()
                again = visit.again(tries)
                headers = final_refusal(response.headers.raw) if visit.terminal else response.headers
                refused = lib.Response(429, headers=headers, stream=lib.ByteStream(raw), extensions=response.extensions)
                if not again:
                    return refused

        def close(self) -> None:
            self.inner.close()

    class RateLimitTransport(Middleware):
        """Send every request at the earliest instant the account's limits allow.

        inner     the transport that really sends
        limiter   a ratelimit.Limiter, shared by everything that uses the account
        max_wait  s, how long a request may wait; the limiter's own unless told
        priority  the class its requests wait in
        """

        def __init__(
            self, inner: Any, *, limiter: Limiter, max_wait: float | None = None, priority: str | None = None
        ) -> None:
            limiter.priorities.named(priority)
            max_wait_us = limiter.max_wait_us if max_wait is None else wait_us(max_wait)
            super().__init__(inner, limiter, None, max_wait_us=max_wait_us, priority=priority)

    class CostTransport(Middleware):
        """Write every call's cost to a ledger: pending before the send, posted when its usage is known.

        inner    the transport that really sends
        ledger   a pricing.Ledger, or the path of one
        budget   cap(s) such as "25 USD/day": a call that could overshoot raises OverBudget and is not sent
        tags     attached to every entry
        prices   a price table, or the path of an overlay, or several
        region   "eu" …, where the account has chosen one and the host does not say so
        ask_usage  ask Chat streams for their usage where the caller did not; the caller sees nothing of it
        """

        def __init__(
            self,
            inner: Any,
            *,
            ledger: Any,
            budget: Any = None,
            tags: Any = None,
            prices: Any = None,
            at: Any = None,
            ask_usage: bool = True,
            region: str | None = None,
        ) -> None:
            books = make_accountant(ledger, budget, tags, at, prices, ask_usage, region)
            super().__init__(inner, None, books)

    return Classes(Middleware, RateLimitTransport, CostTransport)
