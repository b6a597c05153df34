"""Law: what leaves us conforming arrives conforming, as long as no delay exceeds the margin plus the backlog it found.

Between act instant and arrival lies a network; a late request makes quicker ones behind it arrive too close together,
or even before it. Keeping `slack` µs of the burst unused pays for every delay d with d ≤ slack + backlog at its act
instant.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.limit import Limit
from ratelimit.stores.base import Booking, Lane
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import ManualClock, ask


class Arrivals:
    """The server, as an integer level in unit-microseconds; fed in the order of arrival."""

    def __init__(self, limits: tuple[Limit, ...]) -> None:
        self.limits = limits
        self.levels = [limit.capacity * limit.period_us for limit in limits]
        self.at_us: int | None = None

    def take(self, amounts: tuple[int, ...], at_us: int) -> bool:
        passed = 0 if self.at_us is None else at_us - self.at_us
        self.at_us = at_us
        for j, limit in enumerate(self.limits):
            brim = limit.capacity * limit.period_us
            self.levels[j] = min(brim, self.levels[j] + passed * limit.capacity)
        wanted = [amount * limit.period_us for amount, limit in zip(amounts, self.limits, strict=True)]
        if any(level < want for level, want in zip(self.levels, wanted, strict=True)):
            return False
        self.levels = [level - want for level, want in zip(self.levels, wanted, strict=True)]
        return True


@st.composite
def journeys(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, float]]]:
    """A slack, and requests as (pause, tokens, share of the allowed delay that it takes)."""
    slack_us = draw(st.integers(0, 2_900_000))
    requests = draw(
        st.lists(
            st.tuples(st.sampled_from([0, 0, 0, 1_000, 5_000_000]), st.integers(1, 600), st.floats(0, 1)),
            min_size=2,
            max_size=60,
        )
    )
    return slack_us, requests


@given(journeys())
@settings(max_examples=400)
def test_late_requests_cause_no_refusals(case: tuple[int, list[tuple[int, int, float]]]) -> None:
    """Any delays up to slack + backlog, reordering included, leave the server with nothing to refuse."""
    slack_us, requests = case
    limits = (Limit("rpm", "requests", 60), Limit("tpm", "tokens", 6_000))
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=slack_us)
    lane = Lane("m", limits, ("m:rpm", "m:tpm"))
    arrivals = []
    for pause_us, tokens, share in requests:
        clock.advance(pause_us)
        charges = (limits[0].charge_us(1), limits[1].charge_us(tokens))
        answer = ask(store, lane, charges)
        while not isinstance(answer, Booking):
            clock.advance(answer)
            answer = ask(store, lane, charges)
        allowed_us = slack_us + max(0, min(backlog_us for *_, backlog_us in answer.place))
        arrivals.append((clock.now_us() + int(allowed_us * share), (1, tokens)))
    server = Arrivals(limits)
    for at_us, amounts in sorted(arrivals):
        assert server.take(amounts, at_us)


def test_without_slack_a_late_first_request_costs_a_refusal() -> None:
    """The law is not vacuous: with no slack, a late first request makes a full burst behind it refused."""
    limit = Limit("rpm", "requests", 60)
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=0)
    lane = Lane("m", (limit,), ("m:rpm",))
    arrivals = []
    for k in range(62):
        answer = ask(store, lane, (limit.charge_us(1),))
        while not isinstance(answer, Booking):
            clock.advance(answer)
            answer = ask(store, lane, (limit.charge_us(1),))
        arrivals.append((clock.now_us() + (2_000_000 if k < 60 else 0), (1,)))
    server = Arrivals((limit,))
    assert not all(server.take(amounts, at_us) for at_us, amounts in sorted(arrivals))


def test_the_slack_grows_to_what_was_seen_and_is_bounded() -> None:
    """A measured excess widens the margin at once; it never takes more than a twentieth of the burst."""
    limit = Limit("rpm", "requests", 60)
    store = MemoryStore(ManualClock(), initial_slack_us=1_000)
    lane = Lane("m", (limit,), ("m:rpm",))
    ask(store, lane, (limit.charge_us(1),))
    assert store.slack_us("m:rpm") == 1_000
    store.widen("m:rpm", 50_000)
    assert store.slack_us("m:rpm") == 50_000
    store.widen("m:rpm", 10_000)
    assert store.slack_us("m:rpm") == 50_000
    store.widen("m:rpm", 60_000_000)
    assert store.slack_us("m:rpm") == 3_000_000
