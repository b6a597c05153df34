"""What a job comes to through the Batch API: batches, rounds of the queue, cost, and when it can be done."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pricing.entries import Entry

from ..errors import ConfigError, NotOffered
from ..tiers import load_tiers
from .read import UNPRICED, Columns, Lane
from .split import Caps, Sizes, never, pieces, rounds

DAY_US = 86_400 * 1_000_000
"""What a batch takes at most, by its completion window."""


ENOUGH = 5
"""Batches of one's own before they say how long the next ones take."""


class Batch(NamedTuple):
    """Requests that go together: their places, input tokens, and the bytes of their file."""

    places: array[int]
    tokens: int
    size: int


class LanePlan(NamedTuple):
    """The batches of a model and an endpoint.

    queue    input tokens that may wait; None where nothing is published: the server will tell
    rounds   how often the queue is filled; each has its batches
    never    place → why it fits into no batch
    """

    lane: Lane
    queue: int | None
    rounds: tuple[tuple[Batch, ...], ...]
    never: Mapping[int, str]

    @property
    def batches(self) -> Iterator[Batch]:
        for one in self.rounds:
            yield from one

    @property
    def tokens(self) -> int:
        return sum(batch.tokens for batch in self.batches)


class Plan(NamedTuple):
    """A job's batches.

    mean, worst   pico-dollars at batch prices, of what has a price: expected, and the most it can be
    unpriced      reason → requests without a price
    most_us       when all is done at the latest, if every batch takes its whole window
    """

    columns: Columns
    lanes: tuple[LanePlan, ...]
    mean: int
    worst: int
    unpriced: Mapping[str, int]
    most_us: int

    @property
    def batches(self) -> int:
        return sum(len(one) for lane in self.lanes for one in lane.rounds)

    @property
    def requests(self) -> int:
        return sum(len(batch.places) for lane in self.lanes for batch in lane.batches)


def queue_of(model: str, tier: str | None) -> int | None:
    """How many input tokens of a model may wait in a tier; None where nothing is published.

    Raises  ConfigError when the tier does not have the model
    """
    from ..forecast.lanes import batch_queue

    try:
        return batch_queue(model, tier, load_tiers())
    except NotOffered as error:
        raise ConfigError(str(error)) from error


def plan_of(
    columns: Columns,
    tier: str | None,
    *,
    queue: int | None = None,
    places: Sequence[int] | None = None,
    queues: Callable[[str, str | None], int | None] = queue_of,
) -> Plan:
    """Cut a job into batches.

    queue   input tokens that may wait, in the place of the tier's
    places  only these requests

    Raises  ConfigError when the tier does not have a model of the job
    """
    sizes = Sizes(columns.tokens, columns.written, columns.inputs)
    by_lane = [array("I") for _ in columns.lanes]
    for place in range(len(columns)) if places is None else places:
        by_lane[columns.lane[place]].append(place)
    lanes = []
    for lane, mine in zip(columns.lanes, by_lane, strict=True):
        if not mine:
            continue
        caps = Caps(queue if queue is not None else queues(lane.model, tier))
        none = never(mine, sizes, caps)
        fits = array("I", (place for place in mine if place not in none)) if none else mine
        cut = tuple(
            tuple(_batch(batch, sizes) for batch in pieces(one, sizes, caps)) for one in rounds(fits, sizes, caps)
        )
        lanes.append(LanePlan(lane, caps.queue, cut, none))
    in_turn: dict[str, int] = {}  # the endpoints of a model share its queue
    for lane_ in lanes:
        in_turn[lane_.lane.model] = in_turn.get(lane_.lane.model, 0) + len(lane_.rounds)
    most = max(in_turn.values(), default=0) * DAY_US
    mean, worst = (_priced(lanes, column) for column in (columns.mean, columns.worst))
    return Plan(columns, tuple(lanes), mean, worst, dict(columns.reasons), most)


def _priced(lanes: Sequence[LanePlan], column: Sequence[int]) -> int:
    amounts = (column[place] for lane in lanes for batch in lane.batches for place in batch.places)
    return sum(amount for amount in amounts if amount != UNPRICED)


def _batch(places: array[int], sizes: Sizes) -> Batch:
    return Batch(places, sum(sizes.tokens[place] for place in places), sum(sizes.size[place] for place in places))


def took_us(entries: Iterable[Entry]) -> list[int]:
    """How long batches took that a ledger has booked (µs), from their booking to their last line's bill, in order."""
    spans: dict[str, tuple[int, int]] = {}
    for entry in entries:
        if entry.batch and entry.state == "posted" and entry.run and entry.closed_us is not None:
            first, last = spans.get(entry.run, (entry.created_us, entry.closed_us))
            spans[entry.run] = min(first, entry.created_us), max(last, entry.closed_us)
    return sorted(last - first for first, last in spans.values())


def done_us(plan: Plan, took: Sequence[int]) -> tuple[int, int, int] | None:
    """When all is done (5th, 50th and 95th percentile, µs), if batches take as long as these; None of fewer than five.

    Each round of a full queue waits for one batch after the other.
    """
    if len(took) < ENOUGH:
        return None
    rounds_ = plan.most_us // DAY_US
    p5, p50, p95 = (took[min(len(took) - 1, len(took) * share // 100)] * rounds_ for share in (5, 50, 95))
    return p5, p50, p95


def occupancy(lane: LanePlan, takes_us: int = DAY_US) -> list[tuple[int, int]]:
    """How full the queue is over time (µs, tokens) if every batch takes so long: filled, emptied, filled again."""
    found = []
    for number, one in enumerate(lane.rounds):
        found.append((number * takes_us, sum(batch.tokens for batch in one)))
    return [*found, (len(lane.rounds) * takes_us, 0)] if found else []
