"""ratelimit: use the OpenAI API at exactly the speed an account allows.

    client = ratelimit.wrap(OpenAI(), tier="build", ledger="costs.db")

Names load on first use, so that importing this package costs next to nothing and touches no network. `demand` and
`plan` are bound at once, because a submodule of the same name would shadow each.

PYTEST_DONT_REWRITE: pytest, which finds a plugin in this distribution, leaves the module as it is, imported or not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .demand import demand
from .errors import (
    AdmissionError,
    ConfigError,
    NeverFits,
    NotOffered,
    OverBudget,
    RatecardError,
    WouldWait,
)
from .errors import RatecardWarning as RatecardWarning
from .plan import plan

if TYPE_CHECKING:
    from . import transports
    from .context import tagged
    from .limit import Limit
    from .limiter import Limiter
    from .transports.wrap import wrap
    from .why import explain

__all__ = [
    "AdmissionError",
    "ConfigError",
    "Limit",
    "Limiter",
    "NeverFits",
    "NotOffered",
    "OverBudget",
    "RatecardError",
    "WouldWait",
    "demand",
    "explain",
    "plan",
    "tagged",
    "transports",
    "wrap",
]

_HOME = {
    "Limit": "limit",
    "Limiter": "limiter",
    "explain": "why",
    "tagged": "context",
    "wrap": "transports.wrap",
}

_ROOMS = ("clock", "context", "emulator", "errors", "events", "stores", "testing", "transports")
"""Modules that the docs name: `ratelimit.testing` works without an import of its own."""


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = globals()[name] = getattr(importlib.import_module(f".{home}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
