"""Laws of packing: every request once, no limit broken, and hardly a round more than there must be."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing import Ledger
from ratelimit.batch import split
from ratelimit.batch.plan import DAY_US, Plan, done_us, took_us
from ratelimit.batch.read import Columns
from ratelimit.batch.split import Caps, Sizes, never, pieces, rounds

tokens = st.lists(st.integers(0, 1_000), max_size=120)
caps = st.builds(
    Caps, st.none() | st.integers(1, 3_000), st.integers(1, 40), st.integers(50, 2_000), st.integers(1, 30)
)


def sizes_of(tokens: list[int]) -> Sizes:
    """Requests of so many tokens, whose bytes and inputs follow from them."""
    return Sizes(tokens, [30 + each // 10 for each in tokens], [each % 5 for each in tokens])


@given(tokens, caps, st.booleans())
def test_every_request_once_and_no_limit_broken(tokens: list[int], caps: Caps, many: bool) -> None:
    """What fits stands in one batch; batches keep to their caps and rounds to the queue; the rest is named."""
    with pytest.MonkeyPatch.context() as patch:
        if many:
            patch.setattr(split, "_PACKED", 10)
        sizes = sizes_of(tokens)
        none = never(range(len(tokens)), sizes, caps)
        fits = [place for place in range(len(tokens)) if place not in none]
        made = rounds(fits, sizes, caps)
    cut = [list(pieces(one, sizes, caps)) for one in made]
    assert sorted(chain.from_iterable(chain.from_iterable(cut))) == fits
    for one in made:
        assert list(one) == sorted(one)
        assert caps.queue is None or sum(tokens[place] for place in one) <= caps.queue
    for batch in chain.from_iterable(cut):
        assert 1 <= len(batch) <= caps.requests
        assert sum(sizes.size[place] for place in batch) <= caps.size
        assert sum(sizes.inputs[place] for place in batch) <= caps.inputs
    for place, why in none.items():
        assert str(f"{tokens[place]:,}") in why or "bytes" in why or "inputs" in why
        too_large = sizes.size[place] > caps.size or sizes.inputs[place] > caps.inputs
        assert too_large or (caps.queue is not None and tokens[place] > caps.queue)


@given(st.lists(st.integers(1, 250), min_size=1, max_size=200), st.booleans())
def test_of_small_requests_there_is_at_most_one_round_more(tokens: list[int], many: bool) -> None:
    """A quarter of the queue at most each: the fewest rounds that could hold them, or one above."""
    with pytest.MonkeyPatch.context() as patch:
        if many:
            patch.setattr(split, "_PACKED", 10)
        made = rounds(range(len(tokens)), sizes_of(tokens), Caps(1_000))
    fewest = -(-sum(tokens) // 1_000)
    # Every round but the last is filled to three quarters at least, whatever comes.
    assert len(made) <= max(fewest + 1, -(-sum(tokens) // 750))


@pytest.mark.parametrize(("queue", "rounds_"), [(90_000, 23), (2_000_000, 2), (None, 1)])
def test_two_million_tokens_of_o3_pro(queue: int | None, rounds_: int) -> None:
    """The job that fails everywhere today: 2,000 requests of 1,000 tokens on the 90,000 of tier_1."""
    sizes = Sizes([1_013] * 2_000, [4_000] * 2_000, [0] * 2_000)
    made = rounds(range(2_000), sizes, Caps(queue))
    assert len(made) == rounds_
    assert len(list(pieces(made[0], sizes, Caps(queue)))) == (4 if queue == 2_000_000 else 1)


def test_a_round_goes_in_a_few_batches_of_about_the_same_size() -> None:
    """So that a quarter of the queue is refilled as each ends."""
    sizes = Sizes([100] * 1_000, [500] * 1_000, [0] * 1_000)
    (one,) = rounds(range(1_000), sizes, Caps(100_000))
    assert [len(batch) for batch in pieces(one, sizes, Caps(100_000))] == [250] * 4


def test_large_requests_share_their_rounds_with_small_ones() -> None:
    """60,000 tokens and 30,000 in a queue of 90,000: as many rounds as there are large ones, each of them full."""
    tokens = [60_000] * 50 + [1_000] * 1_500
    made = rounds(range(len(tokens)), sizes_of(tokens), Caps(90_000))
    assert len(made) == 50
    assert {sum(tokens[place] for place in one) for one in made} == {90_000}


def test_when_it_is_done_is_told_by_batches_of_one_s_own() -> None:
    """Rounds times what they took: an interval from five batches on, nothing before; lines of one batch are one."""
    with Ledger(now_us=(clock := iter(range(0, 10**12, 10**6))).__next__) as ledger:
        for number in range(5):
            lines = [
                ledger.pend(model="o3", endpoint="e", estimate=None, batch=True, run=f"r/{number}/1") for _ in "ab"
            ]
            for line in lines:
                ledger.post(line, usage=None, cost=None)
        took = took_us(ledger.entries())
    assert next(clock) > 0
    plan = Plan(Columns(), (), 0, 0, {}, 3 * DAY_US)
    assert len(took) == 5
    assert done_us(plan, took) == tuple(3 * one for one in (took[0], took[2], took[4]))
    assert done_us(plan, took[:4]) is None
