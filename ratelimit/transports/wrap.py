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
from ..limit import Limits
from ..limiter import Limiter, PreflightPolicy
from ._common import make_accountant

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
    policy: str = "observed",
    headroom: float = 0.0,
    max_wait: float | None = None,
    preflight: PreflightPolicy = "raise",
    at: date | None = None,
    store: Store | None = None,
) -> Client:
    """Pace and price every call of an openai client.

    client   OpenAI, AsyncOpenAI, AzureOpenAI, AsyncAzureOpenAI (openai 2 or 3, on httpx or httpx2)
    tier, limits, policy, headroom, max_wait, preflight, at, store   as for ratelimit.Limiter
    limiter  a shared Limiter instead of the settings above
    ledger   a pricing.Ledger or the path of one: every call's cost is written there
    budget   "25 USD/day", or several: a call that could overshoot raises OverBudget and is not sent
    tags     attached to every ledger entry
    →  a new client of the same class on the same connections; the old one still works, unpaced

    Raises  ConfigError when a setting is wrong, or the client is wrapped already (it would be charged twice)
    """
    http = getattr(client, "_client", None)
    if http is None or not hasattr(http, "_transport") or not hasattr(client, "with_options"):
        raise ConfigError(f"wrap takes an openai client (OpenAI, AsyncOpenAI, Azure…), not {type(client).__name__}")
    settings: dict[str, Any] = {"tier": tier, "limits": limits, "store": store, "max_wait": max_wait, "at": at}
    if limiter is None:
        limiter = Limiter(**settings, policy=policy, headroom=headroom, preflight=preflight)
    elif any(value is not None for key, value in settings.items() if key != "at") or headroom:
        raise ConfigError("give either a shared limiter= or the settings of a new one, not both")
    accountant = None
    if ledger is not None or budget is not None:
        accountant = make_accountant(ledger, budget, tags, at or limiter.at)
    elif tags:
        raise ConfigError('tags go to a ledger: add ledger="costs.db"')

    library, awaiting = family(type(http))
    module = importlib.import_module(f"ratelimit.transports.{library}")
    middleware = module.AsyncMiddleware if awaiting else module.Middleware
    if isinstance(http._transport, middleware):
        raise ConfigError("this client is wrapped already: wrapping it twice would charge every request twice")

    paced = copy.copy(http)
    paced.__class__ = _unowning(type(http))
    paced._transport = middleware(http._transport, limiter, accountant)
    paced._mounts = {
        pattern: None if inner is None else middleware(inner, limiter, accountant)
        for pattern, inner in http._mounts.items()
    }
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
