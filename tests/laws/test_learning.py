"""Law: what the server says tightens at once and in full, for those in line too; it loosens only towards the table,
after two replies agree; and no sequence of observations ever admits more than hearing none.

The oracles are a bucket of tokens in fractions, and a second limiter that hears nothing.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ratelimit
from ratelimit.clock import LoopClock
from ratelimit.demand import Demand
from ratelimit.headers import Observation, Refusal
from ratelimit.limit import Limit
from ratelimit.reservation import Reservation
from ratelimit.stores.base import Booking
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import ManualClock, run_virtual

MODEL = "o3"
TPM, RPM = 30_000, 500


def of_tier_1(**settings: Any) -> tuple[ratelimit.Limiter, ManualClock]:
    """A limiter whose table says 500 requests and 30,000 tokens a minute."""
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=0)
    return ratelimit.Limiter(tier="tier_1", at=date(2026, 9, 15), store=store, **settings), clock


def seen(limiter: ratelimit.Limiter, name: str, capacity: int, backlog_us: int = 0) -> None:
    """A reply shows a limit."""
    limiter.feedback.headers(limiter.gate(MODEL), [Observation(name, capacity, backlog_us)], 0)


def capacities(limiter: ratelimit.Limiter) -> dict[str, int]:
    return {limit.name: limit.capacity for limit in limiter.limits(MODEL)}


def test_a_smaller_limit_is_obeyed_at_once_and_a_larger_one_after_two_replies() -> None:
    """30,000, then 10,000 is seen: it is in force; 20,000 must be seen twice, and 90,000 only restores the table's."""
    limiter, _ = of_tier_1()
    seen(limiter, "tpm", 10_000)
    assert capacities(limiter)["tpm"] == 10_000
    seen(limiter, "tpm", 20_000)
    assert capacities(limiter)["tpm"] == 10_000
    seen(limiter, "tpm", 25_000)
    assert capacities(limiter)["tpm"] == 10_000
    seen(limiter, "tpm", 20_000)
    seen(limiter, "tpm", 10_000)
    seen(limiter, "tpm", 20_000)
    assert capacities(limiter)["tpm"] == 10_000  # no two in a row agreed
    seen(limiter, "tpm", 20_000)
    assert capacities(limiter)["tpm"] == 20_000
    seen(limiter, "tpm", 90_000)
    seen(limiter, "tpm", 90_000)
    assert capacities(limiter)["tpm"] == TPM


@given(
    st.lists(st.sampled_from([1, 7_000, 20_000, TPM - 1, TPM, TPM + 1, 3 * TPM]), max_size=14),
    st.sampled_from([0.0, 0.25]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=150)
def test_the_limit_in_force_is_what_the_rule_says(
    shown: list[int], headroom: float, adopt: bool, by_hand: bool
) -> None:
    """Down at once; up when two replies in a row agree; above the table only with adopt=True, above a setting never."""
    limiter, _ = of_tier_1(headroom=headroom, adopt=adopt, limits={"tpm": TPM} if by_hand else None)
    in_force, last = TPM, None
    for capacity in shown:
        aim = capacity if adopt and not by_hand else min(capacity, TPM)
        if aim < in_force or aim == last:
            in_force = aim
        last = aim
        seen(limiter, "tpm", capacity)
        assert capacities(limiter)["tpm"] == max(1, int(in_force * (1 - headroom)))


def test_those_in_line_ask_by_the_limit_that_is_in_force() -> None:
    """A smaller limit is obeyed by those who came before it was known; one that fits it no more is told so."""

    async def main() -> tuple[float, BaseException | None, float]:
        limiter = ratelimit.Limiter(limits={"tpm": TPM}, store=MemoryStore(LoopClock(), initial_slack_us=0))
        loop = asyncio.get_running_loop()
        await limiter.areserve(model=MODEL, tokens=TPM)

        async def take(tokens: int) -> None:
            await limiter.areserve(model=MODEL, tokens=tokens)

        tasks = [asyncio.create_task(take(500)) for _ in range(40)]
        large = asyncio.create_task(take(20_000))
        await asyncio.sleep(0)
        start = loop.time()
        seen(limiter, "tpm", 10_000, 60_000_000)
        (error,) = await asyncio.gather(large, return_exceptions=True)
        told = loop.time() - start
        await asyncio.gather(*tasks)
        return loop.time() - start, error, told

    took, error, told = run_virtual(main)
    assert told == 0
    assert took == pytest.approx(120, abs=0.01)  # 20,000 tokens at 10,000 a minute, from an empty bucket
    assert isinstance(error, ratelimit.NeverFits)


def test_those_in_line_hear_of_a_limit_that_is_restored() -> None:
    """Two replies show the table's limit again: who sleeps by the smaller one is woken, and goes that much earlier."""

    async def main() -> float:
        limiter = ratelimit.Limiter(limits={"tpm": TPM}, store=MemoryStore(LoopClock(), initial_slack_us=0))
        loop = asyncio.get_running_loop()
        seen(limiter, "tpm", 1_000)
        await limiter.areserve(model=MODEL, tokens=1_000)
        waiting = asyncio.ensure_future(limiter.areserve(model=MODEL, tokens=1_000))
        await asyncio.sleep(0)
        start = loop.time()
        seen(limiter, "tpm", TPM)
        seen(limiter, "tpm", TPM)
        await waiting
        return loop.time() - start

    assert run_virtual(main) == pytest.approx(2.0, abs=0.001)  # 1,000 at 30,000 a minute, the bucket being empty


@given(
    st.lists(st.tuples(st.sampled_from([0, 100_000, 4_000_000]), st.integers(1, 2_000)), max_size=30),
    st.integers(2_000, TPM - 1),
)
@settings(max_examples=60)
def test_after_a_smaller_limit_is_seen_the_server_refuses_nothing(
    requests: list[tuple[int, int]], true_capacity: int
) -> None:
    """The account's limit is below the table's; from the first reply on, none that is admitted exceeds it."""
    limiter, clock = of_tier_1()
    level = Fraction(true_capacity)
    last_us = clock.now_us()
    for number, (pause_us, tokens) in enumerate(requests):
        clock.advance(pause_us)
        limiter.reserve(model=MODEL, tokens=tokens)
        now_us = clock.now_us()
        level = min(Fraction(true_capacity), level + Fraction((now_us - last_us) * true_capacity, 60_000_000))
        last_us = now_us
        assert level >= tokens, number
        level -= tokens
        seen(limiter, "tpm", true_capacity, math.ceil((true_capacity - level) * 60_000_000 / true_capacity))


def test_a_projects_limit_is_added_with_what_is_spent_of_it() -> None:
    """A header of the project puts its limit in force, its backlog included, for those in line too, and says so."""
    limiter, clock = of_tier_1(max_wait=0)
    open_one = limiter.reserve(model=MODEL, tokens=100)
    seen(limiter, "project-tpm", 6_000, 60_000_000)
    assert capacities(limiter) == {"rpm": RPM, "tpm": TPM, "project-tpm": 6_000}
    with pytest.raises(ratelimit.WouldWait) as refusal:
        limiter.reserve(model=MODEL, tokens=600)
    assert (refusal.value.limit, refusal.value.retry_after_s) == ("project-tpm", pytest.approx(6))
    open_one.settle(tokens=50)  # it was made before the limit was known
    clock.advance(6_000_000)
    limiter.reserve(model=MODEL, tokens=600).settle(tokens=400)
    seen(limiter, "project-tpm", 3_000)
    assert capacities(limiter)["project-tpm"] == 3_000
    with pytest.warns(ratelimit.RatecardWarning, match="project"):
        limiter.feedback.tell()


def held_back(limiter: ratelimit.Limiter, **request: int) -> float:
    return limiter.reserve(model=MODEL, **request).waited_us / 1e6


@pytest.mark.parametrize(
    "limits",
    [
        {"rpm": RPM, "tpm": TPM},
        {"tpm": TPM},
        {"concurrency": 50},
        {"ipm": 100},
        {"rpm": Limit("rpm", "requests", RPM, window=True)},
        {"rpm": Limit("rpm", "requests", 60_000, burst_us=1_000_000, window=True)},
        {"ipm": 100, "concurrency": 50},
    ],
    ids=str,
)
@pytest.mark.parametrize("told_us", [None, 250_000, 90_000_000])
def test_a_429_without_details_holds_everybody_back_once(limits: dict[str, Any], told_us: int | None) -> None:
    """For as long as told (a second unless told) and up to a tenth longer, and not for each refusal anew."""
    clock = ManualClock()
    limiter = ratelimit.Limiter(limits=limits, store=MemoryStore(clock, initial_slack_us=0))
    for _ in range(20):
        limiter.feedback.refused(limiter.gate(MODEL), Refusal("rate"), told_us)
    told = (1_000_000 if told_us is None else told_us) / 1e6
    waited = held_back(limiter, tokens=1, images=1)
    assert told <= waited <= told * 1.1 + 1e-6


def test_the_hold_is_spread_out() -> None:
    """Two limiters that are told the same do not come back at the same instant."""
    waits = set()
    for _ in range(8):
        limiter, _ = of_tier_1()
        limiter.feedback.refused(limiter.gate(MODEL), Refusal("rate"), 10_000_000)
        waits.add(held_back(limiter, tokens=1))
    assert len(waits) > 1


def test_what_is_said_of_a_minute_is_not_taken_for_a_burst_of_a_second() -> None:
    """A declared burst of one second is only short when the server has less left of its minute than that."""
    limit = Limit("tpm", "tokens", 60_000, burst_us=1_000_000)
    for backlog_us, free, wait in ((30_000_000, 1_000, 0.001), (59_500_000, 500, 0.001)):
        limiter = ratelimit.Limiter(limits={"tpm": limit}, store=MemoryStore(ManualClock(), initial_slack_us=0))
        seen(limiter, "tpm", 60_000, backlog_us)
        assert held_back(limiter, tokens=free) == 0
        assert held_back(limiter, tokens=1) == pytest.approx(wait)


def test_a_refusal_of_another_period_is_a_cool_down() -> None:
    """A 429 of the minute says nothing exact about a limit of a second that bears its name: it holds back as told."""
    limit = Limit("tpm", "tokens", 1_000, 1_000_000)
    limiter = ratelimit.Limiter(limits={"tpm": limit}, store=MemoryStore(ManualClock(), initial_slack_us=0))
    refusal = Refusal("rate", limit_name="tpm", used=500, limit=600, retry_after_us=3_000_000)
    limiter.feedback.refused(limiter.gate(MODEL), refusal, None)
    assert limiter.limits(MODEL) == (limit,)
    assert 3.0 <= held_back(limiter, tokens=1) <= 3.3


words = st.one_of(
    st.tuples(st.just("seen"), st.sampled_from(["tpm", "rpm"]), st.integers(1, 60_000), st.integers(0, 60_000_000)),
    st.tuples(st.just("429"), st.sampled_from(["tpm", "rpm"]), st.integers(1, 60_000), st.integers(0, 60_000)),
    st.tuples(st.just("vague"), st.just(""), st.just(1), st.integers(0, 3_000_000)),
    st.tuples(st.just("late"), st.just(""), st.just(1), st.integers(0, 3_000_000)),
    st.tuples(st.just("ask"), st.just(""), st.integers(0, 4_000), st.integers(0, 3_000_000)),
    st.tuples(st.just("settle"), st.just(""), st.integers(0, 2_000), st.integers(0, 50)),
)


@given(st.lists(words, max_size=40), st.booleans())
@settings(max_examples=150)
def test_no_observation_ever_lets_more_through(script: list[tuple[str, str, int, int]], window: bool) -> None:
    """Whatever is heard in whatever order, a limiter that hears admits nothing that a deaf twin would not admit."""
    clock = ManualClock()
    table = {
        "tpm": Limit("tpm", "tokens", TPM, window=window),
        "rpm": Limit("rpm", "requests", RPM),
    }
    hears, deaf = (ratelimit.Limiter(limits=table, store=MemoryStore(clock, initial_slack_us=0)) for _ in range(2))
    gate, other = hears.gate(MODEL), deaf.gate(MODEL)
    pairs: list[tuple[Reservation, Reservation, int]] = []
    for kind, name, amount, more in script:
        if kind == "seen":
            seen(hears, name, amount, more)
        elif kind == "429":
            refusal = Refusal("rate", limit_name=name, limit=amount, used=min(more, amount), retry_after_us=more)
            hears.feedback.refused(gate, refusal, None)
        elif kind == "vague":
            hears.feedback.refused(gate, Refusal("slow_down"), more)
        elif kind == "late":
            hears.store.widen(gate.lane.keys[0], more)
        elif kind == "settle" and pairs:
            mine, theirs, tokens = pairs.pop(more % len(pairs))
            true = min(amount, tokens)
            for limiter, booking in ((hears, mine), (deaf, theirs)):
                charges = [limit.charge_us(true if limit.unit == "tokens" else 1) for limit in booking.lane.limits]
                limiter.store.settle(booking, tuple(charges))
        elif kind == "ask":
            clock.advance(more)
            demand = Demand(1, amount)
            try:
                mine = Reservation(gate, demand)
            except ratelimit.NeverFits:
                continue  # by the smaller limit
            if hears.store.reserve(mine) is None:
                twin = Reservation(other, demand)
                assert deaf.store.reserve(twin) is None
                pairs.append((mine, twin, amount))


def test_a_limit_that_goes_up_and_down_costs_no_memory() -> None:
    """However often limits change, the store keeps the lane in force and nothing of the earlier ones."""
    limiter, _ = of_tier_1()
    for number in range(2_000):
        seen(limiter, "tpm", 10_000 + number % 2)
        seen(limiter, "tpm", 10_001)
    store = limiter.store
    assert isinstance(store, MemoryStore)
    assert max(len(lanes) for lanes in store._lanes.values()) <= 2


@pytest.mark.parametrize("news", [Limit("tpm", "tokens", 3_000), Limit("project-tpm", "tokens", 100_000)])
def test_what_was_charged_is_settled_as_it_was_charged(news: Limit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another thread puts a limit in force before whoever was admitted has left the line."""
    clock = ManualClock()
    limiter = ratelimit.Limiter(
        limits={"tpm": 6_000}, store=MemoryStore(clock, initial_slack_us=0), at=date(2026, 9, 15)
    )
    gate = limiter.gate("o3")
    limiter.reserve(model="o3", tokens=6_000)
    reserve, learned = limiter.store.reserve, list[threading.Thread]()

    def reserve_then_learn(booking: Booking, ahead: Sequence[Booking] = ()) -> int | None:
        answer = reserve(booking, ahead)
        if answer is None and not learned:
            learned.append(threading.Thread(target=limiter.adopt, args=(gate, news)))
            learned[0].start()
            learned[0].join()
        return answer

    monkeypatch.setattr(limiter.store, "reserve", reserve_then_learn)
    mine = limiter.reserve(model="o3", tokens=3_000)
    booked_us = limiter.store.backlog_us("o3:tpm")
    assert (mine.charges_us, len(mine.lane.keys)) == ([30_000_000], len(mine.place))
    mine.arrived(5_000, 0)
    mine.settle(tokens=0)
    assert limiter.store.backlog_us("o3:tpm") == booked_us - 30_000_000


def test_nobody_waits_for_the_store_under_the_lines_lock() -> None:
    """Garbage that is collected amid the store's work may end a reservation, and that wakes the line."""
    limiter = ratelimit.Limiter(limits={"tpm": 6_000}, at=date(2026, 9, 15))
    gate = limiter.gate("o3")
    smaller = replace(gate.full[0], capacity=3_000)
    learning = threading.Thread(target=gate.obey, args=(gate.lane.keys[0], smaller, smaller))
    with limiter.store._lock:  # type: ignore[attr-defined]  # what reserve holds
        learning.start()
        while gate.full[0] is not smaller:
            pass
        assert gate.line.lock.acquire(timeout=5)
        gate.line.lock.release()
    learning.join()
    assert gate.lane.limits == (smaller,)


def test_a_limit_that_was_slowed_down_rises_for_those_who_wait_already() -> None:
    """Nobody new needs to ask: the steps up of a quarter of an hour each come while the same crowd stands in line."""

    async def main() -> list[int]:
        limiter = ratelimit.Limiter(limits={"tpm": 60_000}, preflight="off", clock=LoopClock())
        gate = limiter.gate(MODEL)

        async def one() -> None:
            await limiter.areserve(model=MODEL, tokens=1_000)

        crowd = [asyncio.create_task(one()) for _ in range(3_000)]
        await asyncio.sleep(1)
        limiter.feedback.refused(gate, Refusal("slow_down"), None)
        seen = [gate.full[0].capacity]
        await asyncio.sleep(16 * 60)
        seen.append(gate.full[0].capacity)
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
        return seen

    assert run_virtual(main) == [40_000, 60_000]
