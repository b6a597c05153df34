"""`wrap`: the same openai client back, with the middleware under its HTTP client.

The client's own HTTP client is copied, not rebuilt: proxies, mounts, hooks, timeouts, cookies, auth and custom
transports stay what they were, because each transport is only wrapped where it stands.
"""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Iterable, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConfigError
from ..limit import Limits, Pools
from ..limiter import Limiter, PreflightPolicy, wait_us
from ..order import Classes
from ._common import Prices, make_accountant

if TYPE_CHECKING:
    from pricing.budget import Budget
    from pricing.ledger import Ledger

    from ..stores.base import Store

Client = TypeVar("Client")


def wrap(
    client: Client,
    *,
    tier: str | None = None,
    limits: Limits | None = None,
    limiter: Limiter | None = None,
    ledger: Ledger | str | os.PathLike[str] | None = None,
    budget: Budget | str | Iterable[Budget | str] | None = None,
    tags: Mapping[str, str] | None = None,
    prices: Prices | None = None,
    region: str | None = None,
    ask_usage: bool = True,
    policy: str | None = None,
    headroom: float | None = None,
    pools: Pools | None = None,
    priorities: Classes | None = None,
    priority: str | None = None,
    max_wait: float | None = None,
    max_queue: int | None = None,
    adopt: bool | None = None,
    preflight: PreflightPolicy | None = None,
    at: date | None = None,
    store: Store | str | None = None,
) -> Client:
    """Pace and price every call of an openai client.

    client   OpenAI, AsyncOpenAI, AzureOpenAI, AsyncAzureOpenAI (openai 2 or 3, on httpx or httpx2)
    tier, limits, policy, headroom, pools, priorities, max_wait, max_queue, adopt, preflight, at, store
             as for ratelimit.Limiter
    limiter  a shared Limiter instead of those settings; max_wait= may be given beside it, for this client
    priority the class in which this client's requests wait
    ledger   a pricing.Ledger or the path of one: every call's cost is written there
    budget   "25 USD/day", or several: a call that could overshoot raises OverBudget and is not sent
    tags     attached to every ledger entry
    ask_usage  ask Chat streams for their usage where the caller did not; the caller sees nothing of it
    prices   a price table, or the path of an overlay of negotiated prices and discounts, or several
    region   "eu" …: where the account has chosen one, and the host of its base_url does not say so
    →  a new client of the same class on the same connections; the old one still works, unpaced

    Raises  ConfigError when a setting is wrong, or the client is wrapped already (it would be charged twice);
            StoreUnavailable when the store cannot be used
    """
    http = getattr(client, "_client", None)
    if http is None or not hasattr(http, "_transport") or not hasattr(client, "with_options"):
        raise ConfigError(f"wrap takes an openai client (OpenAI, AsyncOpenAI, Azure…), not {type(client).__name__}")
    given: dict[str, Any] = {
        "tier": tier, "limits": limits, "policy": policy, "headroom": headroom, "pools": pools,
        "priorities": priorities, "max_queue": max_queue, "adopt": adopt, "preflight": preflight, "store": store,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    if limiter is None:
        limiter = Limiter(**given, at=at)
    elif given:
        raise ConfigError(f"give either a shared limiter= or the settings of a new one, not both: {', '.join(given)}")
    limiter.priorities.named(priority)  # an unknown class fails here, not at the first request
    max_wait_us = limiter.max_wait_us if max_wait is None else wait_us(max_wait)
    accountant = None
    if ledger is not None or budget is not None:
        accountant = make_accountant(ledger, budget, tags, at or limiter.at, prices, ask_usage, region)
    elif tags or prices is not None or region is not None:
        raise ConfigError('tags, prices and a region go to a ledger: add ledger="costs.db"')

    library, awaiting = family(type(http))
    module = importlib.import_module(f"ratelimit.transports.{library}")
    middleware = module.AsyncMiddleware if awaiting else module.Middleware
    if isinstance(http._transport, middleware):
        raise ConfigError("this client is wrapped already: wrapping it twice would charge every request twice")

    def around(inner: Any) -> Any:
        return middleware(inner, limiter, accountant, max_wait_us=max_wait_us, priority=priority)

    paced = copy.copy(http)
    paced.__class__ = _unowning(type(http))
    paced._transport = around(http._transport)
    paced._mounts = {pattern: None if inner is None else around(inner) for pattern, inner in http._mounts.items()}
    # openai's own HTTP client closes itself when collected; the copy lives on its connections and keeps it alive.
    paced._ratecard_original = http
    wrapped: Client = client.with_options(http_client=paced)
    return wrapped


def _unowning(http: type[Any]) -> type[Any]:
    """The class without its `__del__`: openai's closes the connections, which are not the copy's to close."""
    if not hasattr(http, "__del__"):
        return http
    return type(http.__name__, (http,), {"__del__": lambda self: None, "__module__": http.__module__})


def family(http: type[Any]) -> tuple[str, bool]:
    """Tell an HTTP client class's library, and whether it is asynchronous: not by openai's version."""
    for base in http.__mro__:
        root = base.__module__.partition(".")[0]
        if root in ("httpx", "httpx2") and base.__name__ in ("Client", "AsyncClient"):
            return root, base.__name__ == "AsyncClient"
    raise ConfigError(f"the client's HTTP client {http.__name__} is built on neither httpx nor httpx2")
