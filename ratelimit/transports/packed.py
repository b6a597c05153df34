"""Many connections without the price of one large pool.

The connection pool under httpx looks at all of its connections for every request, so a thousand in flight make each
request a millisecond dearer. This transport keeps small pools and fills them in order: cost per request stays that of
a small pool, quiet pools let their connections expire, and nobody waits for a connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

CONNECTIONS_PER_POOL = 16


def packed(lib: Any) -> Any:
    """Build an asynchronous transport of `lib` (httpx or httpx2) over as many small pools as it takes."""
    context = lib.create_ssl_context()  # one for all: making one takes longer than a request

    class Body(lib.AsyncByteStream):  # type: ignore[misc]  # the base class is chosen at run time
        def __init__(self, inner: Any, pool: int, active: list[int]) -> None:
            self._inner = inner
            self._pool = pool
            self._active = active

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in self._inner:
                yield chunk

        async def aclose(self) -> None:
            active, self._active = self._active, [0] * (self._pool + 1)
            try:
                await self._inner.aclose()
            finally:
                active[self._pool] -= 1

    class Packed(lib.AsyncBaseTransport):  # type: ignore[misc]  # as above
        def __init__(self) -> None:
            self._pools: list[Any] = []
            self._active: list[int] = []

        async def handle_async_request(self, request: Any) -> Any:
            pool = next((k for k, busy in enumerate(self._active) if busy < CONNECTIONS_PER_POOL), len(self._active))
            if pool == len(self._active):
                self._pools.append(lib.AsyncHTTPTransport(verify=context))
                self._active.append(0)
            self._active[pool] += 1
            try:
                response = await self._pools[pool].handle_async_request(request)
            except BaseException:
                self._active[pool] -= 1
                raise
            return lib.Response(
                response.status_code,
                headers=response.headers,
                stream=Body(response.stream, pool, self._active),
                extensions=response.extensions,
            )

        async def aclose(self) -> None:
            for pool in self._pools:
                await pool.aclose()

    return Packed()
