"""The middleware as transports for httpx and httpx2, sync and async, and `wrap` for openai clients.

`ratelimit.transports.httpx` and `ratelimit.transports.httpx2` load their library only when touched.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    if name in ("httpx", "httpx2"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
