"""Law: a server that runs the same limits refuses nothing on our act instants, and no earlier instant would have done.

The oracle is a token bucket of fractions, level up to the brim, refilled by the clock: another formulation than our
TATs, and no shared code.
"""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit import gcra
from ratelimit.limit import Limit
from ratelimit.stores.base import Booking, Lane
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import ManualClock, ask


class Server:
    """Continuous buckets in fractions of a unit: the account as the real server keeps it."""

    def __init__(self, limits: list[Limit]) -> None:
        self.limits = limits
        self.levels = [Fraction(limit.capacity) for limit in limits]
        self.at_us: int | None = None

    def take(self, amounts: list[int], at_us: int) -> bool:
        if self.at_us is not None:
            assert at_us >= self.at_us, "the oracle reads a schedule in the order of time"
            for j, limit in enumerate(self.limits):
                refill = Fraction(limit.capacity * (at_us - self.at_us), limit.period_us)
                self.levels[j] = min(Fraction(limit.capacity), self.levels[j] + refill)
        self.at_us = at_us
        if any(level < amount for level, amount in zip(self.levels, amounts, strict=True)):
            return False
        self.levels = [level - amount for level, amount in zip(self.levels, amounts, strict=True)]
        return True


limits_of = st.lists(
    st.builds(
        lambda capacity, period: Limit("tpm", "tokens", capacity, period),
        st.integers(1, 50_000),
        st.sampled_from([1_000_000, 60_000_000, 86_400_000_000]),
    ),
    min_size=1,
    max_size=3,
)


@st.composite
def traffic(draw: st.DrawFn) -> tuple[list[Limit], list[tuple[int, list[int]]]]:
    """Limits, and requests as (pause before asking in µs, amount per limit)."""
    limits = draw(limits_of)
    amount = [st.one_of(st.just(0), st.integers(1, limit.capacity), st.just(limit.capacity)) for limit in limits]
    pause = st.one_of(st.just(0), st.integers(0, 1_000), st.integers(0, 90_000_000))
    requests = draw(st.lists(st.tuples(pause, st.tuples(*amount).map(list)), min_size=1, max_size=40))
    return limits, requests


@given(traffic())
@settings(max_examples=300)
def test_the_server_refuses_nothing(case: tuple[list[Limit], list[tuple[int, list[int]]]]) -> None:
    """Every request sent at the instant `reserve` names is admitted by the oracle, over all limits at once."""
    limits, requests = case
    bursts = [limit.burst_us for limit in limits]
    tats = tuple(0 for _ in limits)
    now_us = 10**12
    schedule = []
    for pause_us, amounts in requests:
        now_us += pause_us
        charges = [limit.charge_us(amount) for limit, amount in zip(limits, amounts, strict=True)]
        act_us, tats = gcra.reserve(tats, charges, bursts, now_us)
        assert act_us >= now_us
        schedule.append((act_us, amounts))
    server = Server(limits)
    # Requests that act at the same instant reach the server in the order of asking; `sorted` is stable.
    for act_us, amounts in sorted(schedule, key=lambda entry: entry[0]):
        assert server.take(amounts, act_us)


@given(traffic())
@settings(max_examples=200)
def test_a_refusal_is_the_exact_time_at_which_it_ends(case: tuple[list[Limit], list[tuple[int, list[int]]]]) -> None:
    """Refused until one microsecond before the promised instant, admitted at it, and a refusal changes nothing."""
    limits, requests = case
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=0)
    lane = Lane("m", tuple(limits), tuple(f"m:{j}" for j in range(len(limits))))
    for pause_us, amounts in requests:
        clock.advance(pause_us)
        charges = tuple(limit.charge_us(amount) for limit, amount in zip(limits, amounts, strict=True))
        answer = ask(store, lane, charges)
        if isinstance(answer, Booking):
            continue
        assert answer > 0
        clock.advance(answer - 1)
        assert ask(store, lane, charges) == 1
        clock.advance(1)
        assert isinstance(ask(store, lane, charges), Booking)


@given(st.integers(1, 10**9), st.integers(1, 10**11), st.integers(0, 10**9))
def test_rounding_never_favours_us(capacity: int, period_us: int, amount: int) -> None:
    """The bucket time of a demand is at least its true share of the period, and less than 1 µs above it."""
    charge_us = Limit("tpm", "tokens", capacity, period_us).charge_us(amount)
    assert 0 <= charge_us - Fraction(amount * period_us, capacity) < 1


def test_a_clock_that_steps_back_frees_nothing() -> None:
    """After the clock jumped back, the store goes on from the latest instant it has seen."""
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=0)
    limit = Limit("rpm", "requests", 1)
    lane = Lane("m", (limit,), ("m:rpm",))
    assert isinstance(ask(store, lane, (limit.charge_us(1),)), Booking)
    clock.advance(-(10**9))
    assert ask(store, lane, (limit.charge_us(1),)) == limit.period_us
