"""The transports for clients built on httpx2."""

from __future__ import annotations

import httpx2 as library

from . import _async, _sync

_blocking, _awaiting = _sync.bind(library), _async.bind(library)

Middleware = _blocking.Middleware
RateLimitTransport = _blocking.RateLimitTransport
CostTransport = _blocking.CostTransport
AsyncMiddleware = _awaiting.Middleware
AsyncRateLimitTransport = _awaiting.RateLimitTransport
AsyncCostTransport = _awaiting.CostTransport

__all__ = [
    "AsyncCostTransport",
    "AsyncMiddleware",
    "AsyncRateLimitTransport",
    "CostTransport",
    "Middleware",
    "RateLimitTransport",
]
