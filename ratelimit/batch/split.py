"""How a job is cut into batches: few rounds of a full queue, each in a few batches.

A batch holds its input tokens in the queue until all of it is done, and how long that takes hardly depends on its size:
hours, at most a day. So what counts is how often the queue has to be filled. Requests are packed into as few rounds as
can be, none larger than the queue, and each round is cut into a few batches: as one ends, the next takes its room.

Law  every request stands in one batch; no batch breaks a limit; no round is larger than the queue; of requests that
     are small against the queue there is no more than one round above the fewest (tests/batch/test_split.py)
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MOST_REQUESTS = 50_000
MOST_BYTES = 200 * 1024 * 1024
MOST_INPUTS = 50_000
PER_HOUR = 2_000
"""Of a batch: requests, bytes of its file, inputs of embeddings; and batches created in an hour.
Source: OpenAI's batch guide, read 2026-07-15; "larger than the 209715200 maximum" in its error text."""

PIECES = 4
"""Batches that a round is cut into where nothing demands more: a quarter of the queue is refilled as each ends."""
_LEAST_REQUESTS = 50
"""Batches of fewer requests are not worth their number."""
_PACKED = 200_000
"""So many requests are packed best; of more, the small ones are taken in the order of the file."""
_BIG = 20
"""Parts of a queue: larger requests than one of them are packed first."""
_LOOK = 64
"""Small requests that are looked at for one that still fits."""


class Caps(NamedTuple):
    """What a batch, and a queue, may hold. queue: input tokens; None where nothing is known."""

    queue: int | None = None
    requests: int = MOST_REQUESTS
    size: int = MOST_BYTES
    inputs: int = MOST_INPUTS


class Sizes(NamedTuple):
    """What requests take, by place: input tokens, bytes of their lines, and inputs (of embeddings; else 0)."""

    tokens: Sequence[int]
    size: Sequence[int]
    inputs: Sequence[int]


def never(places: Sequence[int], sizes: Sizes, caps: Caps) -> dict[int, str]:
    """Which requests fit into no batch at all, and why."""
    found = {}
    for place in places:
        tokens, size, inputs = sizes.tokens[place], sizes.size[place], sizes.inputs[place]
        if caps.queue is not None and tokens > caps.queue:
            found[place] = f"{tokens:,} input tokens are more than the whole queue of {caps.queue:,}"
        elif size > caps.size:
            found[place] = f"a line of {size:,} bytes is larger than a batch's file of at most {caps.size:,}"
        elif inputs > caps.inputs:
            found[place] = f"{inputs:,} inputs are more than a batch of embeddings may have ({caps.inputs:,})"
    return found


def rounds(places: Sequence[int], sizes: Sizes, caps: Caps) -> list[array[int]]:
    """Pack requests, each of which fits, into as few rounds as can be; the requests of a round in the file's order."""
    tokens, queue = sizes.tokens, caps.queue
    if queue is None or sum(tokens[place] for place in places) <= queue:
        return [array("I", places)] if places else []
    if len(places) <= _PACKED:
        packed = _best_fit(sorted(places, key=lambda place: (-tokens[place], place)), tokens, queue)
    else:
        big = [place for place in places if tokens[place] * _BIG > queue]
        small = array("I", (place for place in places if tokens[place] * _BIG <= queue))
        packed = _best_fit(sorted(big, key=lambda place: (-tokens[place], place)), tokens, queue)
        _fill(packed, small, tokens, queue)
    in_order = [array("I", sorted(one)) for one in packed]
    in_order.sort(key=lambda one: one[0])
    return in_order


def _best_fit(ordered: Sequence[int], tokens: Sequence[int], queue: int) -> list[array[int]]:
    """Put each into the fullest round that has room for it (best fit, decreasing)."""
    bins: list[array[int]] = []
    free: list[tuple[int, int]] = []  # (room, round), in order
    for place in ordered:
        need = tokens[place]
        at = bisect_left(free, (need, -1))
        if at == len(free):
            bins.append(array("I", [place]))
            insort(free, (queue - need, len(bins) - 1))
            continue
        room, which = free.pop(at)
        bins[which].append(place)
        insort(free, (room - need, which))
    return bins


def _fill(bins: list[array[int]], small: array[int], tokens: Sequence[int], queue: int) -> None:
    """Fill what is left of each round, then new ones, with small requests in their order."""
    waiting = small[::-1]
    which = 0
    while waiting:
        if which == len(bins):
            bins.append(array("I"))
        room = queue - sum(tokens[place] for place in bins[which])
        while waiting:
            fits = next((n for n in range(min(_LOOK, len(waiting))) if tokens[waiting[-1 - n]] <= room), None)
            if fits is None:
                break
            place = waiting.pop(-1 - fits)
            bins[which].append(place)
            room -= tokens[place]
        which += 1


def pieces(one: Sequence[int], sizes: Sizes, caps: Caps) -> Iterator[array[int]]:
    """Cut a round into batches: as many as their caps demand, and a few more."""
    whole = sum(sizes.tokens[place] for place in one)
    wanted = min(PIECES, max(1, len(one) // _LEAST_REQUESTS))
    each = -(-whole // wanted) if caps.queue is not None else whole
    batch = array("I")
    tokens = size = inputs = 0
    for place in one:
        more = (sizes.tokens[place], sizes.size[place], sizes.inputs[place])
        full = (
            len(batch) == caps.requests or size + more[1] > caps.size or inputs + more[2] > caps.inputs
            or (tokens >= each and wanted > 1)
        )  # fmt: skip
        if batch and full:
            yield batch
            batch, tokens, size, inputs = array("I"), 0, 0, 0
        batch.append(place)
        tokens, size, inputs = tokens + more[0], size + more[1], inputs + more[2]
    if batch:
        yield batch
