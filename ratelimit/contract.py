"""What every store has to keep to, as one state machine: the same for memory, for a file, for a server.

    from ratelimit.testing import StoreContract

    class OnMine(StoreContract):
        def stores(self, clock):
            return [MyStore(clock)]              # several: handles of one state, as several processes have them

    TestOnMine = OnMine.TestCase

Any interleaving of reservations, ends, slots, cool-downs and observations over lanes that share limits is compared with
histories that are replayed from the beginning, with the true charges. The oracle shares no code with the stores.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from .clock import Clock
from .limit import Limit
from .stores.base import Booking, Lane, Store
from .testing import ManualClock, ask

RPM, TPM, OTHER = Limit("rpm", "requests", 60), Limit("tpm", "tokens", 6_000), Limit("tpm", "tokens", 900)
AIR = Limit("concurrency", "concurrent", 3)
KEYS = ("org:rpm", "a:tpm", "b:tpm")


def replay(history: Sequence[Sequence[int]]) -> int:
    """The instant at which a bucket is full again, after a history of [instant, charge, least]: from the definition.

    least  what somebody saw the bucket to be at least spent until; 0 for a charge
    """
    full_us = 0
    for at_us, charge_us, least_us in history:
        full_us = max(full_us, at_us) + charge_us if not least_us else max(full_us, least_us)
    return full_us


class StoreContract(RuleBasedStateMachine):
    """Any interleaving over two limits that two lanes share in part, and slots that a third has."""

    def stores(self, clock: Clock) -> Sequence[Store]:
        """Make a fresh store, without a margin (initial_slack_us=0): one or more handles of it."""
        raise AssertionError("a contract is for a store: override `stores`")

    @initialize()
    def start(self) -> None:
        """A store, and its lanes: each handle has lanes of its own, as each process has."""
        self.clock = ManualClock()
        self.handles = self.stores(self.clock)
        self.lanes = [
            [
                Lane("a", (RPM, TPM), KEYS[:2]),
                Lane("b", (RPM, OTHER), (KEYS[0], KEYS[2])),
                Lane("c", (RPM, AIR), (KEYS[0], "c:concurrency")),
            ]
            for _ in self.handles
        ]
        for handle, lanes in zip(self.handles, self.lanes, strict=True):
            for lane in lanes:
                handle.open(lane)
        self.histories: dict[str, list[list[int]]] = {key: [] for key in KEYS}
        self.closed_us = dict.fromkeys((*KEYS, "c:concurrency"), 0)
        self.sealed = dict.fromkeys(KEYS, 0)  # nothing before this row can be given back
        self.open: list[tuple[Store, Booking, list[tuple[str, int]]]] = []
        self.in_air: list[tuple[Store, Booking]] = []
        self.ended: list[tuple[Store, Booking]] = []

    @rule(
        who=st.integers(0, 7),
        lane=st.integers(0, 2),
        tokens=st.integers(0, 900),
        pause=st.sampled_from([0, 1, 900_000, 20_000_000]),
    )
    def reserve(self, who: int, lane: int, tokens: int, pause: int) -> None:
        """It is charged at the first instant at which all limits have room, and told when that is until then."""
        self.clock.advance(pause)
        handle, where = self.handles[who % len(self.handles)], self.lanes[who % len(self.handles)][lane]
        charges = (RPM.charge_us(1), 1 if lane == 2 else where.limits[1].charge_us(tokens))
        now_us = self.clock.now_us()
        act_us = now_us
        for key, limit, charge_us in zip(where.keys, where.limits, charges, strict=True):
            act_us = max(act_us, self.closed_us[key])
            if charge_us and key in self.histories:
                act_us = max(act_us, replay(self.histories[key]) + charge_us - limit.burst_us)
        answer = ask(handle, where, charges)
        if act_us > now_us:
            assert answer == act_us - now_us
            return
        if lane == 2 and len(self.in_air) == AIR.capacity:
            assert answer == 0
            return
        assert isinstance(answer, Booking)
        rows = []
        for key, charge_us in zip(where.keys, charges, strict=True):
            if key in self.histories:
                self.histories[key].append([now_us, charge_us, 0])
                rows.append((key, len(self.histories[key]) - 1))
        self.open.append((handle, answer, rows))
        if lane == 2:
            self.in_air.append((handle, answer))

    @rule(which=st.integers(0, 50), tokens=st.integers(0, 2_000), release=st.booleans())
    def end(self, which: int, tokens: int, release: bool) -> None:
        """Settled at less, or released: what is still outstanding of it goes back."""
        if not self.open:
            return
        handle, booking, rows = self.open.pop(which % len(self.open))
        second = booking.lane.limits[1].charge_us(tokens)
        true = (0, 0) if release else (booking.charges_us[0], min(second, booking.charges_us[1]))
        if release:
            handle.release(booking)
            self.in_air = [pair for pair in self.in_air if pair[1] is not booking]
        else:
            handle.settle(booking, true)
        for (key, row), charge_us in zip(rows, true, strict=False):
            if row >= self.sealed[key]:
                self.histories[key][row][1] = charge_us
        self.ended.append((handle, booking))

    @rule(which=st.integers(0, 50))
    def finish(self, which: int) -> None:
        """A request that has ended gives its slot back, settled or not."""
        if self.in_air:
            handle, booking = self.in_air.pop(which % len(self.in_air))
            handle.finish(booking)
            handle.finish(booking)

    @rule(which=st.integers(0, 50))
    def end_again(self, which: int) -> None:
        """A second end changes nothing."""
        if self.ended:
            handle, booking = self.ended[which % len(self.ended)]
            if all(one is not booking for _, one in self.in_air):
                handle.release(booking)

    @rule(who=st.integers(0, 7), key=st.sampled_from([*KEYS, "c:concurrency"]), wait=st.sampled_from([1, 500_000]))
    def cool_down(self, who: int, key: str, wait: int) -> None:
        """Nothing passes a limit until its cool-down is over; a longer one that runs already stays."""
        self.handles[who % len(self.handles)].close(key, wait)
        self.closed_us[key] = max(self.closed_us[key], self.clock.now_us() + wait)

    @rule(who=st.integers(0, 7), key=st.sampled_from(KEYS), backlog=st.sampled_from([1, 2_000_000, 50_000_000]))
    def observe(self, who: int, key: str, backlog: int) -> None:
        """An observation only tightens; and what it holds cannot be given back by an older booking."""
        self.handles[who % len(self.handles)].observe(key, backlog)
        least_us = self.clock.now_us() + backlog
        if least_us > replay(self.histories[key]):
            self.histories[key].append([0, 0, least_us])
            self.sealed[key] = len(self.histories[key])

    @invariant()
    def backlog_equals_replayed_history(self) -> None:
        """Every handle reads what a replay of the history says."""
        now_us = self.clock.now_us()
        for handle in self.handles:
            for key, history in self.histories.items():
                assert handle.backlog_us(key) == max(0, replay(history) - now_us)
            assert handle.backlog_us("c:concurrency") == len(self.in_air)


StoreContract.TestCase.settings = settings(deadline=None, max_examples=100, stateful_step_count=40)
