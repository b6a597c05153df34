"""The blocking transports. Their twins are in _async.py; tests/test_parity.py keeps the two files one program."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from ..accounting import Accountant
from ..exchange import Visit, read_call
from ..limiter import Limiter
from ._common import body_of, decoder_of, make_accountant


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
                self._visit.feed(chunk)
                yield chunk
            self._complete = True

        def close(self) -> None:
            try:
                self._inner.close()
            finally:
                self._visit.close(self._complete)

        def __del__(self) -> None:
            self._visit.close(self._complete)  # a response that was dropped unclosed

    class Middleware(lib.BaseTransport):  # type: ignore[misc]  # as above
        """Pacing and cost accounting around an inner transport; either part may be None."""

        def __init__(self, inner: Any, limiter: Limiter | None, accountant: Accountant | None) -> None:
            self.inner = inner
            self.limiter = limiter
            self.accountant = accountant

        def handle_request(self, request: Any) -> Any:
            call = read_call(
                request.method, request.url.raw_path.decode("ascii"), lambda: body_of(request, lib.ByteStream)
            )
            if call is None:
                return self.inner.handle_request(request)
            visit = Visit(call, self.limiter, self.accountant)
            wanted = visit.demand()
            if self.limiter is None or wanted is None:
                visit.sent(None)
            else:
                visit.sent(self.limiter.admit(*wanted, self.limiter.max_wait_us))
            try:
                response = self.inner.handle_request(request)
            except BaseException as error:
                visit.failed(error)
                raise
            visit.answered(response.status_code, response.headers.raw, decode)
            return lib.Response(
                response.status_code,
                headers=response.headers,
                stream=Tap(response.stream, visit),
                extensions=response.extensions,
            )

        def close(self) -> None:
            self.inner.close()

    class RateLimitTransport(Middleware):
        """Send every request at the earliest instant the account's limits allow.

        inner    the transport that really sends
        limiter  a ratelimit.Limiter, shared by everything that uses the account
        """

        def __init__(self, inner: Any, *, limiter: Limiter) -> None:
            super().__init__(inner, limiter, None)

    class CostTransport(Middleware):
        """Write every call's cost to a ledger: pending before the send, posted when its usage is known.

        inner    the transport that really sends
        ledger   a pricing.Ledger, or the path of one
        budget   cap(s) such as "25 USD/day": a call that could overshoot raises OverBudget and is not sent
        tags     attached to every entry
        """

        def __init__(self, inner: Any, *, ledger: Any, budget: Any = None, tags: Any = None, at: Any = None) -> None:
            super().__init__(inner, None, make_accountant(ledger, budget, tags, at))

    return Classes(Middleware, RateLimitTransport, CostTransport)
