"""Law: settling a charge equals replaying history with the true cost.

The oracle keeps the whole history and replays it from the start each time; ours keeps an integer and a list of
low-water marks.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ratelimit import gcra
from ratelimit.gcra import Bucket
from ratelimit.limit import Limit
from ratelimit.stores.base import Booking, Lane
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import ManualClock, ask


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


class StoreMachine(RuleBasedStateMachine):
    """Any interleaving of reserve, settle and release over two limits that two lanes share in part."""

    @initialize()
    def start(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock, initial_slack_us=0)
        rpm, tpm, other = (Limit("rpm", "requests", 60), Limit("tpm", "tokens", 6_000), Limit("tpm", "tokens", 900))
        self.lanes = [Lane("a", (rpm, tpm), ("org:rpm", "a:tpm")), Lane("b", (rpm, other), ("org:rpm", "b:tpm"))]
        self.histories: dict[str, list[list[int]]] = {"org:rpm": [], "a:tpm": [], "b:tpm": []}
        self.open: list[tuple[Booking, list[int]]] = []
        self.ended: list[Booking] = []

    @rule(lane=st.integers(0, 1), tokens=st.integers(0, 900), pause=st.sampled_from([0, 1, 900_000, 20_000_000]))
    def reserve(self, lane: int, tokens: int, pause: int) -> None:
        self.clock.advance(pause)
        where = self.lanes[lane]
        charges = (where.limits[0].charge_us(1), where.limits[1].charge_us(tokens))
        answer = ask(self.store, where, charges)
        if isinstance(answer, Booking):
            rows = []
            for key, charge_us in zip(where.keys, charges, strict=True):
                self.histories[key].append([self.clock.now_us(), charge_us])
                rows.append(len(self.histories[key]) - 1)
            self.open.append((answer, rows))

    @rule(which=st.integers(0, 50), tokens=st.integers(0, 2_000), release=st.booleans())
    def end(self, which: int, tokens: int, release: bool) -> None:
        if not self.open:
            return
        booking, rows = self.open.pop(which % len(self.open))
        limits, keys = booking.lane.limits, booking.lane.keys
        true = (0, 0) if release else (limits[0].charge_us(1), min(limits[1].charge_us(tokens), booking.charges_us[1]))
        if release:
            self.store.release(booking)
        else:
            self.store.settle(booking, true)
        for key, row, charge_us in zip(keys, rows, true, strict=True):
            self.histories[key][row][1] = charge_us
        self.ended.append(booking)

    @rule(which=st.integers(0, 50))
    def end_again(self, which: int) -> None:
        if self.ended:
            self.store.release(self.ended[which % len(self.ended)])

    @invariant()
    def backlog_equals_replayed_history(self) -> None:
        now_us = self.clock.now_us()
        for key, history in self.histories.items():
            assert self.store.backlog_us(key) == max(0, replay(history) - now_us)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(deadline=None, max_examples=100, stateful_step_count=40)
