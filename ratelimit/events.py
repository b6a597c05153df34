"""What happens to requests on their way, for whoever wants to see it: queued, admitted, refused, corrected, settled …

Nothing is built while nobody listens. A listener is called where things happen (under no lock of ours, on whatever
thread that is), so it should only note the event; what it raises is reported as a warning and stops nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal, NamedTuple

from .errors import QuotaSpent, RatecardWarning, warn

Kind = Literal["queued", "admitted", "gave_up", "settled", "released", "refused", "corrected"]

HALT_US = 60_000_000
"""How long nothing is sent after the server has said that the account's quota is spent; then the next request tries."""


def warn_only(text: str) -> None:
    """Warn in a place where nothing may be lost: even where warnings are errors, this one stops nothing."""
    with suppress(RatecardWarning):
        warn(text)


def guarded(name: str, hook: Callable[[Any], None], fact: Any) -> None:
    """Call somebody's hook where the reply must not be lost: what it raises is a warning."""
    try:
        hook(fact)
    except Exception as error:
        warn_only(f"{name} failed: {error!r}")


class Event(NamedTuple):
    """Something that happened at one lane.

    kind    queued: it waits · admitted · gave_up: not sent · settled, released: a charge was corrected or returned ·
            refused: a 429, of a kind that `why` names · corrected: a limit was learned from the server
    at_us   µs of the limiter's clock
    lane    the model or pool
    limit   the limit it is about; "" where it is about none
    facts   numbers and names, by event: tokens, requests, priority, waited_us, wait_us, ahead, why, capacity
    """

    kind: Kind
    at_us: int
    lane: str
    limit: str
    facts: Mapping[str, Any]


Listener = Callable[[Event], None]


class Signals:
    """What all gates of a limiter share: who listens, and whether anything may be sent at all."""

    __slots__ = ("_since_us", "_until_us", "halt", "listeners")

    def __init__(self) -> None:
        self.listeners: tuple[Listener, ...] = ()
        self.halt: tuple[str, str] | None = None  # code and message of the server
        self._since_us = self._until_us = 0

    def emit(self, kind: Kind, at_us: int, lane: str, limit: str = "", **facts: Any) -> None:
        """Tell everybody who listens."""
        event = Event(kind, at_us, lane, limit, facts)
        for listener in self.listeners:
            try:
                listener(event)
            except Exception as error:
                warn_only(f"a listener failed on {kind!r}: {error!r}")

    def stop(self, code: str, message: str, now_us: int) -> None:
        """Let nothing be sent for HALT_US: the quota is spent."""
        self.halt, self._since_us, self._until_us = (code, message), now_us, now_us + HALT_US

    def check(self, now_us: int) -> None:
        """Raise QuotaSpent while nothing may be sent. The first to ask after that tries, and the others wait for it."""
        halt = self.halt
        if halt is not None:
            if now_us < self._until_us:
                raise QuotaSpent(code=halt[0], message=halt[1], retry_after_s=(self._until_us - now_us) / 1_000_000)
            self._until_us = now_us + HALT_US

    def answered(self, sent_us: int) -> None:
        """Note that the server has done what was asked at `sent_us`: after the stop, the quota is there again.

        What was in the air before it says nothing.
        """
        if sent_us > self._since_us:
            self.halt = None
