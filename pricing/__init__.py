"""pricing: tokens, prices and an exact ledger of what every call costs.

    pricing.cost({"input_tokens": 1000, "output_tokens": 500}, model="o3-pro").total   # Usd: 0.06

Names whose module is called the same are bound at once; the rest load on first use.

PYTEST_DONT_REWRITE: pytest, which finds a plugin in this distribution, leaves the module as it is, imported or not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .cost import Cost, Unpriced, cost
from .estimate import Estimate, estimate
from .forecast import forecast
from .money import Usd
from .usage import Usage

if TYPE_CHECKING:
    from .budget import Budget
    from .cards import ModelCard as ModelCard
    from .cards import resolve
    from .context import tags
    from .ledger import Entry, Ledger, fold
    from .tokens import count_tokens

__all__ = [
    "Budget",
    "Cost",
    "Entry",
    "Estimate",
    "Ledger",
    "Unpriced",
    "Usage",
    "Usd",
    "cost",
    "count_tokens",
    "estimate",
    "fold",
    "forecast",
    "resolve",
    "tags",
]

_HOME = {
    "Budget": "budget",
    "Entry": "ledger",
    "Ledger": "ledger",
    "ModelCard": "cards",
    "count_tokens": "tokens",
    "fold": "ledger",
    "resolve": "cards",
    "tags": "context",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = globals()[name] = getattr(importlib.import_module(f".{home}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
