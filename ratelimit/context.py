"""What the caller knows about the call in hand and the HTTP layer cannot see: tags, a custom id, who wants to be told.

A context variable, so that it follows tasks and threads started with a copied context and costs nothing when unused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pricing.cost import Cost, Unpriced

    from .headers import Refusal
    from .reservation import Reservation


class CallContext(NamedTuple):
    """Facts about the next calls of this context.

    tags         attached to their ledger entries, on top of the client's own
    custom_id    the job line they belong to
    run          the job they belong to
    priority     the class they wait in; the client's own unless told
    on_admitted  called with the Reservation of a call, just before it is sent
    on_refused   called with the Refusal of a call's 429, when its body was read
    on_cost      called with the Cost (or Unpriced) of a call when its ledger entry is posted
    """

    tags: Mapping[str, str] | None = None
    custom_id: str | None = None
    run: str | None = None
    priority: str | None = None
    on_admitted: Callable[[Reservation], None] | None = None
    on_refused: Callable[[Refusal], None] | None = None
    on_cost: Callable[[Cost | Unpriced], None] | None = None


EMPTY = CallContext()
CURRENT: ContextVar[CallContext] = ContextVar("ratecard_call", default=EMPTY)


@contextmanager
def prioritised(priority: str) -> Iterator[None]:
    """Let every call made inside the block wait in this class (see `priorities=` of Limiter)."""
    with _during(CURRENT.get()._replace(priority=priority)):
        yield


@contextmanager
def tagged(**tags: str) -> Iterator[None]:
    """Attach tags to the ledger entries of every call made inside the block, on top of those already in force."""
    outer = CURRENT.get()
    with _during(outer._replace(tags={**(outer.tags or {}), **tags})):
        yield


@contextmanager
def _during(context: CallContext) -> Iterator[None]:
    token = CURRENT.set(context)
    try:
        yield
    finally:
        CURRENT.reset(token)
