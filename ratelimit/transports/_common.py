"""What both colours of the transports need and neither waits for."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import Any

from pricing.budget import Budget
from pricing.ledger import Ledger
from pricing.prices import PriceTable, load_prices

from ..accounting import Accountant
from ..call import Call
from ..clock import US_PER_S
from ..errors import ConfigError
from ..usage_chunk import asking

Prices = PriceTable | str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""A table, or the path of an overlay, or several."""


def body_of(request: Any, in_memory: type[Any]) -> bytes | None:
    """The request's body when it is in memory; None when it is a stream (uploads), which is never read ahead.

    in_memory  the library's class of streams that hold their bytes: a redirected request is sent again with the
               stream of the first, and that may be read as often as one likes
    """
    try:
        content = request.content
    except Exception as error:
        if type(error).__name__ != "RequestNotRead":
            raise
        content = b"".join(request.stream) if isinstance(request.stream, in_memory) else None
    return content if isinstance(content, bytes) else None


def sent_body(request: Any, in_memory: type[Any]) -> bytes | list[tuple[str, Any]] | None:
    """The request's body as `body_of` gives it; of a form, the fields that are no files, which stay where they are.

    None when it, or a file of it, is a stream that cannot be read again.
    """
    fields = getattr(request.stream, "fields", None)
    if not isinstance(fields, list):
        return body_of(request, in_memory)
    files = [field.file for field in fields if hasattr(field, "file")]
    if not all(isinstance(file, bytes | str) or _rewinds(file) for file in files):
        return None
    return [(field.name, field.value) for field in fields if hasattr(field, "value")]


def _rewinds(file: Any) -> bool:
    seekable = getattr(file, "seekable", None)
    return bool(seekable()) if callable(seekable) else hasattr(file, "seek")


def asking_request(lib: Any, request: Any, call: Call, accountant: Accountant | None) -> Any:
    """The request to send: the caller's own, or one that asks for the usage of its stream as well."""
    if accountant is None or not accountant.asks_usage or call.polls:
        return request
    body = asking(call.endpoint, call.body, body_of(request, lib.ByteStream) or b"")
    if body is None:
        return request
    changed = (b"content-length", b"transfer-encoding", b"accept-encoding")
    headers = [(name, value) for name, value in request.headers.raw if name.lower() not in changed]
    headers.append((b"accept-encoding", b"identity"))  # what is packed cannot be taken out of
    return lib.Request(request.method, request.url, headers=headers, content=body, extensions=request.extensions)


def pause(duration_us: int) -> None:
    """Wait for a budget to open."""
    time.sleep(duration_us / US_PER_S)


async def pause_async(duration_us: int) -> None:
    """Wait for a budget to open."""
    await asyncio.sleep(duration_us / US_PER_S)


def decoder_of(lib: Any) -> Callable[[str, bytes], bytes]:
    """Undo a content-encoding with the HTTP library's own decoders."""

    def decode(encoding: str, raw: bytes) -> bytes:
        content: bytes = lib.Response(200, headers={"content-encoding": encoding}, content=raw).content
        return content

    return decode


def make_accountant(
    ledger: Ledger | str | os.PathLike[str] | None,
    budget: Budget | str | Iterable[Budget | str] | None,
    tags: Mapping[str, str] | None,
    at: date | None,
    prices: Prices | None = None,
    ask_usage: bool = True,
    region: str | None = None,
) -> Accountant:
    """Build the accountant of `wrap` and CostTransport from what users write."""
    if ledger is None or isinstance(ledger, str | os.PathLike):
        ledger = Ledger(ledger)
    if not hasattr(ledger, "pend"):
        raise ConfigError(f"ledger is a pricing.Ledger or the path of one, not {ledger!r}")
    if budget is None:
        budgets: tuple[Budget, ...] = ()
    elif isinstance(budget, Budget | str):
        budgets = (_budget(budget),)
    elif isinstance(budget, Iterable):
        budgets = tuple(_budget(one) for one in budget)
    else:
        raise ConfigError(f'a budget is written like "25 USD/day", not {budget!r}')
    if tags is not None and not isinstance(tags, Mapping):
        raise ConfigError(f'tags are text to text, such as {{"team": "search"}}, not {tags!r}')
    for key, value in (tags or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise ConfigError(f"tags are text to text, not {key!r}: {value!r}")
    if region is not None and not (isinstance(region, str) and region):
        raise ConfigError(f'region is the name of a region, such as "eu", not {region!r}')
    if region is not None:
        (_table(prices) or load_prices()).check_region(region)
    return Accountant(
        ledger, budgets=budgets, tags=tags, prices=_table(prices), at=at, ask_usage=ask_usage, region=region
    )


def _table(prices: Prices | None) -> PriceTable | None:
    return prices if prices is None or isinstance(prices, PriceTable) else load_prices(overlay=prices)


def _budget(budget: Budget | str) -> Budget:
    return budget.checked() if isinstance(budget, Budget) else Budget.parse(budget)
