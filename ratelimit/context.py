"""What the caller knows about a call and the HTTP layer cannot see: tags, a custom id, until when, who is to be told.

A context variable, so that it follows tasks and threads started with a copied context and costs nothing when unused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from pricing.context import TAGS, tags

from .clock import Clock, MonotonicClock, read_wait_us

if TYPE_CHECKING:
    from pricing.cost import Cost, Unpriced
    from pricing.errors import OverBudget

    from .headers import Refusal
    from .reservation import Reservation


class Deadline(NamedTuple):
    """An instant by which everything in a block must be admitted.

    end_us  µs  by its own clock: only what is left of it is ever compared with another clock's time
    """

    end_us: int
    clock: Clock

    def left_us(self) -> int:
        """How long it is until then (µs); negative when it has passed."""
        return self.end_us - self.clock.now_us()


class CallContext(NamedTuple):
    """Facts about the next calls of this context.

    custom_id    the job line they belong to
    run          the job they belong to
    attempt      which try of its request a call is, by whoever sends it again
    priority     the class they wait in; the client's own unless told
    deadline     when the last of them must be admitted
    on_admitted  called with the Reservation of a call, just before it is sent
    on_refused   called with the Refusal of a call's 429, when its body was read
    on_slowed    called with the OverBudget of a call that waits for a slow budget, each time it has asked
    on_cost      called with the Cost (or Unpriced) of a call when its ledger entry is posted
    """

    custom_id: str | None = None
    run: str | None = None
    attempt: int = 1
    priority: str | None = None
    deadline: Deadline | None = None
    on_admitted: Callable[[Reservation], None] | None = None
    on_refused: Callable[[Refusal], None] | None = None
    on_slowed: Callable[[OverBudget], None] | None = None
    on_cost: Callable[[Cost | Unpriced], None] | None = None

    @property
    def tags(self) -> Mapping[str, str]:
        """What is attached to their ledger entries, on top of the client's own."""
        return TAGS.get()


tagged = tags
"""The name that `pricing.tags` has here."""

EMPTY = CallContext()
CURRENT: ContextVar[CallContext] = ContextVar("ratecard_call", default=EMPTY)


@contextmanager
def prioritised(priority: str) -> Iterator[None]:
    """Let every call made inside the block wait in this class (see `priorities=` of Limiter)."""
    with _during(CURRENT.get()._replace(priority=priority)):
        yield


@contextmanager
def deadline(seconds: float, *, clock: Clock | None = None) -> Iterator[None]:
    """Let every call made inside the block be admitted within so many seconds from now, or not be sent at all.

    All of them share the one end, retries of the SDK included. What cannot be admitted by then raises DeadlineExceeded
    as soon as that can be foreseen. Inside another block the earlier end holds.

    clock  what the seconds are measured by; the machine's steady clock unless told (a limiter on virtual time: its own)

    Raises  ConfigError when it is no number of seconds
    """
    clock, outer = clock or MonotonicClock(), CURRENT.get()
    left_us = read_wait_us("deadline", seconds)
    earlier = outer.deadline is not None and outer.deadline.left_us() <= left_us
    with _during(outer if earlier else outer._replace(deadline=Deadline(clock.now_us() + left_us, clock))):
        yield


@contextmanager
def _during(context: CallContext) -> Iterator[None]:
    token = CURRENT.set(context)
    try:
        yield
    finally:
        CURRENT.reset(token)
