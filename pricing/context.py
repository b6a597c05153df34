"""Tags: what a program knows about its calls and a bill does not say: which team, feature or customer they are for.

A context variable, so that tags follow tasks, and threads started with a copied context, and cost nothing when unused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from .errors import ConfigError

NONE: Mapping[str, str] = {}
TAGS: ContextVar[Mapping[str, str]] = ContextVar("pricing_tags", default=NONE)


@contextmanager
def tags(**tags: str) -> Iterator[None]:
    """Attach tags to the ledger entries of every call made inside the block, on top of those already in force.

    Raises  ConfigError when a value is no text
    """
    for name, value in tags.items():
        if not isinstance(value, str):
            raise ConfigError(f"tags are texts: {name}={str(value)!r}, not {name}={value!r}")
    token = TAGS.set({**TAGS.get(), **tags})
    try:
        yield
    finally:
        TAGS.reset(token)
