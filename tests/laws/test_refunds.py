"""Law: settling a charge equals replaying history with the true cost.

The oracle keeps the whole history and replays it from the start each time; ours keeps an integer and a list of
low-water marks.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit import gcra
from ratelimit.gcra import Bucket


def replay(history: list[list[int]]) -> int:
    """The TAT after a history of [instant, charge], from the definition."""
    tat_us = 0
    for at_us, charge_us in history:
        tat_us = max(tat_us, at_us) + charge_us
    return tat_us


steps = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 10, 3_000, 20_000]),  # time that passes first
        st.integers(0, 20_000),  # charge, or true cost as a share of it
        st.integers(-1, 60),  # -1: a new charge; else which open one to settle
    ),
    max_size=60,
)


@given(steps)
@settings(max_examples=500)
def test_settling_equals_replaying_history(moves: list[tuple[int, int, int]]) -> None:
    """At every moment the backlog is what it would be had each settled charge been its true size from the start."""
    bucket, now_us, history = Bucket(), 1_000, []
    numbers: list[int] = []
    pending: list[int] = []
    for pause_us, amount, which in moves:
        now_us += pause_us
        if which < 0 or not pending:
            numbers.append(bucket.charge(now_us, amount))
            history.append([now_us, amount])
            pending.append(len(history) - 1)
        else:
            k = pending.pop(which % len(pending))
            actual = amount * history[k][1] // 20_000
            bucket.refund(numbers[k], history[k][1] - actual)
            history[k][1] = actual
        assert max(bucket.tat_us, now_us) == max(replay(history), now_us)


@given(steps)
@settings(max_examples=200)
def test_a_cut_memory_only_shrinks_refunds(moves: list[tuple[int, int, int]]) -> None:
    """With only four marks kept, the bucket is never emptier of backlog than replayed history says."""
    kept, gcra.REFUND_MEMORY = gcra.REFUND_MEMORY, 4
    try:
        bucket, now_us, history = Bucket(), 1_000, []
        numbers: list[int] = []
        pending: list[int] = []
        for pause_us, amount, which in moves:
            now_us += pause_us
            if which < 0 or not pending:
                numbers.append(bucket.charge(now_us, amount))
                history.append([now_us, amount])
                pending.append(len(history) - 1)
            else:
                k = pending.pop(which % len(pending))
                actual = amount * history[k][1] // 20_000
                bucket.refund(numbers[k], history[k][1] - actual)
                history[k][1] = actual
            assert max(bucket.tat_us, now_us) >= max(replay(history), now_us)
    finally:
        gcra.REFUND_MEMORY = kept


@given(steps)
@settings(max_examples=100)
def test_a_bucket_that_was_put_away_is_the_same(moves: list[tuple[int, int, int]]) -> None:
    """Kept as a store on disk keeps it, and made again, after every step: each refund is what it would have been."""
    bucket, twin, now_us = Bucket(), Bucket(), 1_000
    numbers: list[int] = []
    for pause_us, amount, which in moves:
        now_us += pause_us
        if which < 0 or not numbers:
            numbers.append(bucket.charge(now_us, amount))
            assert twin.charge(now_us, amount) == numbers[-1]
        else:
            number = numbers.pop(which % len(numbers))
            assert twin.refund(number, amount) == bucket.refund(number, amount)
        tat_us = twin.tat_us
        twin = Bucket.of(*twin.kept())
        twin.tat_us = tat_us
        assert twin.tat_us == bucket.tat_us


def test_absurd_amounts_leave_a_bucket_that_works() -> None:
    """A surcharge beyond every clock is taken; what is charged behind it is given back no more than it was."""
    bucket = Bucket()
    first = bucket.charge(1_000, 10)
    bucket.surcharge(10**40, 1_000)
    second = bucket.charge(1_000, 20)
    assert bucket.refund(second, 5) == 5
    assert bucket.refund(first, 10) <= 10
    assert bucket.tat_us >= 10**40
