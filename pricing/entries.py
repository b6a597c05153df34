"""Entries of a ledger: what is kept of a call, how it ends, and what budgets count of it.

Numbers, names and ids; never a prompt, a reply or a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from .budget import DAY_US, EVERYTHING, Scope
from .money import Usd

State = Literal["pending", "posted", "voided", "expired"]

NEXT: dict[tuple[str, str], State] = {
    ("pending", "post"): "posted",
    ("pending", "void"): "voided",
    ("pending", "expire"): "expired",
    ("expired", "post"): "posted",
    ("expired", "void"): "voided",
}
"""The whole life of an entry, but for its being found a duplicate; any other event changes nothing."""

EVENT = {state: event for (_, event), state in NEXT.items()}
"""What happens to an entry for it to be in a state."""

MOST = 2**63 - 1
"""The largest number that an entry keeps, of pico-dollars (9.2 million dollars) or tokens: a column holds no more."""

LEASE_OVER = "nobody told how this call ended while its hold lasted; it may have cost its worst case"
"""Why an entry expired whose lease was over: the program that sent it has died, or takes very long."""


BATCH_US = 2 * DAY_US
"""How much longer than a call a line of a batch is held: the 24 hours that a batch may take, and a day to collect it.
Source: OpenAI's batch guide, read 2026-07-15, for the 24 hours."""


class Entry(NamedTuple):
    """One call. Times are µs since the epoch; amounts are Usd; None means not known.

    estimate, worst   before the send: the likely and the largest possible cost
    model, service_tier   as served; as asked for until a reply tells
    cost              what it cost; None when it has no price (`why` says why) or is not posted
    exact             the usage is the server's own; False when it was estimated
    request_id        the server's own name of the HTTP request (x-request-id)
    effort            the reasoning effort asked for; "" when the request names none
    attempt           1 for the first try of a request, 2 for the next …
    wait_us           how long the call waited for its admission
    latency_us        from its sending to the end of its reply
    expected          tokens foreseen before the send: input_tokens, output_tokens (mean), output_p50, output_p95
    """

    id: int
    state: State
    model: str
    endpoint: str
    response_id: str | None
    custom_id: str | None
    run: str | None
    tags: dict[str, str]
    service_tier: str | None
    batch: bool
    created_us: int
    closed_us: int | None
    estimate: Usd | None
    worst: Usd | None
    cost: Usd | None
    components: dict[str, Usd]
    row_id: str | None
    table_version: str | None
    usage: dict[str, int]
    exact: bool
    why: str
    request_id: str | None = None
    asked_model: str | None = None
    asked_tier: str | None = None
    effort: str = ""
    attempt: int | None = None
    wait_us: int | None = None
    latency_us: int | None = None
    expected: Mapping[str, int] = {}


class Closing(NamedTuple):
    """How an entry ends; what a book writes into it."""

    state: State
    closed_us: int
    response_id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    cost: Usd | None = None
    components: Mapping[str, Usd] = {}
    row_id: str | None = None
    table_version: str | None = None
    usage: Mapping[str, int] = {}
    exact: bool = True
    why: str = ""
    request_id: str | None = None
    latency_us: int | None = None


def copied(entry: Entry) -> Entry:
    """An entry to give away: what is done to its dictionaries changes no book."""
    return entry._replace(
        tags=dict(entry.tags),
        components=dict(entry.components),
        usage=dict(entry.usage),
        expected=dict(entry.expected),
    )


def closed(entry: Entry, closing: Closing) -> Entry:
    """An entry after its end. By position: `_replace` takes five times as long."""
    return Entry(
        entry.id,
        closing.state,
        closing.model or entry.model,
        entry.endpoint,
        closing.response_id or entry.response_id,
        entry.custom_id,
        entry.run,
        entry.tags,
        closing.service_tier or entry.service_tier,
        entry.batch,
        entry.created_us,
        closing.closed_us,
        entry.estimate,
        entry.worst,
        closing.cost,
        dict(closing.components),
        closing.row_id,
        closing.table_version,
        dict(closing.usage),
        closing.exact,
        closing.why,
        closing.request_id or entry.request_id,
        entry.asked_model,
        entry.asked_tier,
        entry.effort,
        entry.attempt,
        entry.wait_us,
        entry.latency_us if closing.latency_us is None else closing.latency_us,
        entry.expected,
    )


def charge_of(entry: Entry) -> int:
    """What budgets count as spent for an entry (pico-dollars): its cost; while nobody knows that, its worst case."""
    if entry.state not in ("posted", "expired"):
        return 0
    for amount in (entry.cost, entry.worst, entry.estimate):
        if amount is not None:  # not `or`: an estimate of $0 is an estimate
            return amount.pico
    return 0


def held_from_us(entry: Entry) -> int:
    """The instant from which the lease of an entry runs: that of its writing, or later for a line of a batch."""
    return entry.created_us + (BATCH_US if entry.batch else 0)


def line_of(entry: Entry) -> tuple[str, str] | None:
    """The batch and the custom_id by which a line of a batch is known; None for every other entry."""
    return (entry.run, entry.custom_id) if entry.batch and entry.run and entry.custom_id else None


def takes(state: str, exact: bool, closing: Closing) -> bool:
    """Tell whether news of a response change its entry: it has no bill yet, or an estimated one and this is exact."""
    return (state, "post") in NEXT or (state == "posted" and not exact and closing.exact and closing.cost is not None)


def duplicate(of: int, closed_us: int) -> Closing:
    """How an entry ends whose response another entry has."""
    return Closing("voided", closed_us, why=f"duplicate of entry {of}")


def scopes_of(entry: Entry) -> Iterator[Scope]:
    """Every part of the ledger that an entry belongs to."""
    yield EVERYTHING
    if entry.run:
        yield "run", entry.run
    for name, value in entry.tags.items():
        yield f"tag:{name}", value
