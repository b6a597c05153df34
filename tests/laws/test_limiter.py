"""The two shells: waiting is fair, exact and cancellable, whatever mixes of threads and event loops wait."""

from __future__ import annotations

import asyncio
import threading
from datetime import date
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ratelimit
from ratelimit.clock import LoopClock, MonotonicClock
from ratelimit.headers import Refusal
from ratelimit.limit import Limit
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import ManualClock, run_virtual

MODEL = "a-model-with-limits-of-its-own"


def manual(limits: dict[str, int], **settings: object) -> tuple[ratelimit.Limiter, ManualClock]:
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=0)
    return ratelimit.Limiter(limits=limits, store=store, **settings), clock


def on_loop(limits: dict[str, int], **settings: object) -> ratelimit.Limiter:
    return ratelimit.Limiter(limits=limits, store=MemoryStore(LoopClock(), initial_slack_us=0), **settings)


def test_blocking_code_waits_exactly_as_long_as_the_limit_says() -> None:
    """Sixty requests a minute: the burst goes at once, then one a second."""
    limiter, clock = manual({"rpm": 60})
    start_us = clock.now_us()
    waits = []
    for _ in range(63):
        with limiter.reserve(model=MODEL) as reservation:
            waits.append(reservation.waited_us)
    assert waits == [0] * 60 + [1_000_000] * 3
    assert clock.now_us() - start_us == 3_000_000


def test_tasks_are_admitted_in_the_order_of_asking() -> None:
    """First come, first served: a large request is not overtaken by the small ones behind it."""

    async def main() -> list[int]:
        limiter = on_loop({"rpm": 10_000, "tpm": 6_000})
        order: list[int] = []

        async def ask(number: int, tokens: int) -> None:
            async with limiter.areserve(model=MODEL, tokens=tokens):
                order.append(number)

        sizes = [6_000, 10, 5_999, 1, 1, 3_000, 1]
        tasks = [asyncio.create_task(ask(number, tokens)) for number, tokens in enumerate(sizes)]
        await asyncio.gather(*tasks)
        return order

    assert run_virtual(main) == list(range(7))


def test_the_store_is_asked_about_twice_per_admission_however_long_the_line() -> None:
    """No polling and no herd: with 2,000 tasks waiting, only the first one asks, and sleeps as long as it is told."""

    async def main() -> tuple[int, float]:
        limiter = on_loop({"rpm": 600})
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def ask() -> None:
            await limiter.areserve(model=MODEL)

        with mock.patch.object(MemoryStore, "reserve", autospec=True, side_effect=MemoryStore.reserve) as reserve:
            await asyncio.gather(*(ask() for _ in range(2_600)))
        return reserve.call_count, loop.time() - start

    asked, took = run_virtual(main)
    assert asked <= 2 * 2_600 + 10
    assert took == pytest.approx(200.0, abs=0.001)  # 2,000 requests beyond the burst at ten a second


def test_a_cancelled_waiter_holds_nothing_and_delays_nobody() -> None:
    """Cancelling a task in line frees its place at once; those behind it move up."""

    async def main() -> float:
        limiter = on_loop({"tpm": 6_000})
        loop = asyncio.get_running_loop()
        await limiter.areserve(model=MODEL, tokens=6_000)
        large = asyncio.create_task(_take(limiter, 6_000))
        small = asyncio.create_task(_take(limiter, 100))
        await asyncio.sleep(0.1)
        large.cancel()
        start = loop.time()
        await small
        assert large.cancelled()
        return loop.time() - start

    assert run_virtual(main) == pytest.approx(0.9, abs=0.001)


async def _take(limiter: ratelimit.Limiter, tokens: int) -> None:
    await limiter.areserve(model=MODEL, tokens=tokens)


def test_a_refund_wakes_the_first_in_line() -> None:
    """Settling for less than reserved lets the next one go earlier than it was told."""

    async def main() -> float:
        limiter = on_loop({"tpm": 6_000})
        loop = asyncio.get_running_loop()
        first = await limiter.areserve(model=MODEL, tokens=6_000)
        waiting = asyncio.create_task(_take(limiter, 3_000))
        start = loop.time()
        await asyncio.sleep(1)
        first.settle(tokens=1_000)
        await waiting
        return loop.time() - start

    assert run_virtual(main) == pytest.approx(1.0, abs=0.001)


def test_max_wait_is_refused_before_waiting_and_says_how_long_it_would_have_been() -> None:
    """A wait longer than max_wait raises at once, with the limit and the exact time, and charges nothing."""
    limiter, clock = manual({"rpm": 60, "tpm": 60_000}, max_wait=5)
    limiter.reserve(model=MODEL, tokens=60_000)
    start_us = clock.now_us()
    with pytest.raises(ratelimit.WouldWait) as refusal:
        limiter.reserve(model=MODEL, tokens=12_400)
    assert clock.now_us() == start_us
    assert refusal.value.limit == "tpm"
    assert refusal.value.retry_after_s == pytest.approx(12.4)
    assert limiter.reserve(model=MODEL, tokens=5_000).waited_us == 5_000_000
    assert limiter.reserve(model=MODEL, tokens=12_400, max_wait=20).waited_us == 12_400_000


def test_max_wait_counts_those_ahead_in_line() -> None:
    """The foreseen wait includes what everybody in line is going to take."""

    async def main() -> float:
        limiter = on_loop({"tpm": 60_000})
        await limiter.areserve(model=MODEL, tokens=60_000)
        ahead = [asyncio.create_task(_take(limiter, 10_000)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(ratelimit.WouldWait) as refusal:
            await limiter.areserve(model=MODEL, tokens=10_000, max_wait=35)
        await limiter.areserve(model=MODEL, tokens=10_000, max_wait=41)
        await asyncio.gather(*ahead)
        return refusal.value.retry_after_s

    assert run_virtual(main) == pytest.approx(40.0, abs=0.01)


def test_a_demand_above_the_whole_limit_never_waits() -> None:
    """What no waiting would ever admit raises NeverFits at once, with both numbers."""
    limiter, _ = manual({"tpm": 30_000})
    with pytest.raises(ratelimit.NeverFits) as refusal:
        limiter.reserve(model=MODEL, tokens=30_001)
    assert (refusal.value.limit, refusal.value.demand, refusal.value.capacity) == ("tpm", 30_001, 30_000)
    limiter.reserve(model=MODEL, tokens=30_000)


def test_a_reservation_ends_once() -> None:
    """Settle, release and leaving the block: only the first counts, and silence keeps the charge."""
    limiter, clock = manual({"tpm": 6_000})
    key = f"{MODEL}:tpm"
    with limiter.reserve(model=MODEL, tokens=6_000) as silent:
        pass
    silent.release()
    assert limiter.store.backlog_us(key) == 60_000_000
    clock.advance(60_000_000)
    with limiter.reserve(model=MODEL, tokens=6_000) as settled:
        settled.settle(tokens=1_000)
    settled.settle(tokens=0)
    settled.release()
    assert limiter.store.backlog_us(key) == 10_000_000
    clock.advance(60_000_000)
    with limiter.reserve(model=MODEL, tokens=1_000) as dearer:
        dearer.settle(tokens=2_500)
    assert limiter.store.backlog_us(key) == 25_000_000


def test_headroom_is_left_unused() -> None:
    """With headroom 0.2, four fifths of each limit are used."""
    limiter, _ = manual({"rpm": 500, "tpm": 30_000}, headroom=0.2)
    assert [limit.capacity for limit in limiter.limits(MODEL)] == [400, 24_000]


def test_limits_may_differ_by_model() -> None:
    """Limits given per model apply to it and its snapshots; a model without any is an error, not a free pass."""
    limiter = ratelimit.Limiter(limits={"o3-pro": {"tpm": 1_000}})
    assert limiter.limits("o3-pro-2025-06-10") == (Limit("tpm", "tokens", 1_000),)
    assert limiter.gate("o3-pro") is limiter.gate("o3-pro-2025-06-10")
    with pytest.raises(ratelimit.ConfigError, match="none for 'o3'"):
        limiter.reserve(model="o3")


@pytest.mark.parametrize("given", ["o3", "o3-2025-04-16"])
@pytest.mark.parametrize("first", ["o3", "o3-2025-04-16"])
def test_a_model_and_its_snapshot_mean_one_lane_whoever_asks_first(given: str, first: str) -> None:
    """Limits and pools bind by the model, not by the name that they or the first request happened to use."""
    limiter = ratelimit.Limiter(
        limits={"rpm": 9, given: {"rpm": 2}}, pools={"family": {"tpm": 50, "models": [given]}}, clock=ManualClock()
    )
    limiter.reserve(model=first)
    for name in ("o3-2025-04-16", "o3"):
        assert limiter.gate(name) is limiter.gate(first)
        assert {limit.name: limit.capacity for limit in limiter.limits(name)} == {"rpm": 2, "family-tpm": 50}
    same = {"o3": {"rpm": 2}, "o3-2025-04-16": {"rpm": 2}}
    assert [limit.capacity for limit in ratelimit.Limiter(limits=same).limits("o3")] == [2]


def test_a_pool_for_a_model_that_nobody_can_ask_for_is_told() -> None:
    """A name without limits of its own is a misspelling as a rule: one warning says so; a model of any name that has
    limits is nobody's business, and pools alone are limits enough."""
    pools = {"family": {"tpm": 7, "models": ["o3", "o3-por"]}}
    for known in ({"tier": "tier_1"}, {"limits": {"o3": {"rpm": 5}}}):
        with pytest.warns(
            ratelimit.RatecardWarning, match="pool family: no limits are known for o3-por, so no request"
        ):
            ratelimit.Limiter(**known, pools=pools, at=date(2026, 9, 15))
    ratelimit.Limiter(limits={"rpm": 5}, pools=pools)
    limiter = ratelimit.Limiter(limits={"o3": {"rpm": 5}, "o3-por": {"rpm": 5}}, pools=pools)
    assert [limit.name for limit in limiter.limits("o3-por")] == ["rpm", "family-tpm"]
    limiter = ratelimit.Limiter(pools=pools)
    assert [limit.name for limit in limiter.limits("o3-por")] == ["family-tpm"]
    with pytest.raises(ratelimit.ConfigError, match="no limits are known for o3-mini"):
        limiter.reserve(model="o3-mini")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "say which limits"),
        ({"tier": "tier_9"}, "tier_9"),
        ({"limits": {"rpm": 0}}, "rpm"),
        ({"limits": {"rpm": 1.5}}, "rpm"),
        ({"limits": {"rpx": 5}}, "rpx"),
        ({"limits": {}}, "mapping"),
        ({"limits": {"rpm": 5}, "headroom": 1}, "headroom"),
        ({"limits": {"rpm": 5}, "max_wait": -1}, "max_wait"),
        ({"limits": {"rpm": 5}, "policy": "hopeful"}, "hopeful"),
        ({"limits": {"rpm": 5}, "preflight": "maybe"}, "preflight"),
        ({"limits": {"rpm": 5}, "store": "redis://localhost"}, "redis"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], words: str) -> None:
    """Every setting that cannot be obeyed is refused when the limiter is made, never accepted and ignored."""
    with pytest.raises(ratelimit.ConfigError, match=words):
        ratelimit.Limiter(**settings)


def test_threads_and_event_loops_share_one_limiter() -> None:
    """Four threads and two event loops take from one bucket: together they never exceed it."""
    limiter = ratelimit.Limiter(
        limits={"rpm": 60_000}, store=MemoryStore(MonotonicClock(), initial_slack_us=0)
    )  # 1,000 a second
    limiter.reserve(model=MODEL, requests=59_900)
    clock = limiter.clock
    start_us = clock.now_us()
    admitted: list[int] = []

    def blocking() -> None:
        for _ in range(50):
            limiter.reserve(model=MODEL)
            admitted.append(clock.now_us())

    async def awaiting() -> None:
        async def one() -> None:
            await limiter.areserve(model=MODEL)
            admitted.append(clock.now_us())

        await asyncio.gather(*(one() for _ in range(50)))

    threads = [threading.Thread(target=blocking) for _ in range(4)]
    threads += [threading.Thread(target=lambda: asyncio.run(awaiting())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 300
    # 100 were left of the burst; the other 200 come one a millisecond.
    for count, at_us in enumerate(sorted(admitted)):
        assert at_us - start_us >= (count - 99) * 1_000 - 1_000


@given(st.lists(st.tuples(st.integers(0, 2_000_000), st.integers(1, 6_000)), min_size=1, max_size=25))
@settings(max_examples=60)
def test_both_shells_keep_the_same_schedule(requests: list[tuple[int, int]]) -> None:
    """One caller at a time, blocking code and async code are admitted at the same instants."""
    limiter, clock = manual({"rpm": 60, "tpm": 6_000})
    start_us = clock.now_us()
    blocking = []
    for pause_us, tokens in requests:
        clock.advance(pause_us)
        limiter.reserve(model=MODEL, tokens=tokens)
        blocking.append(clock.now_us() - start_us)

    async def main() -> list[int]:
        awaited = on_loop({"rpm": 60, "tpm": 6_000})
        loop_start_us = awaited.clock.now_us()
        times = []
        for pause_us, tokens in requests:
            await asyncio.sleep(pause_us / 1e6)
            await awaited.areserve(model=MODEL, tokens=tokens)
            times.append(awaited.clock.now_us() - loop_start_us)
        return times

    awaiting = run_virtual(main)
    # The loop's clock is a float of seconds: each step may round by a microsecond.
    assert all(abs(a - b) <= 4 * len(requests) for a, b in zip(blocking, awaiting, strict=True))


def test_a_refusal_by_the_server_tightens_and_never_loosens() -> None:
    """A 429 that says the bucket is fuller than we thought raises our backlog; one that says less changes nothing."""
    limiter, _ = manual({"rpm": 500, "tpm": 30_000})
    limiter.reserve(model=MODEL, tokens=15_000)
    gate, key = limiter.gate(MODEL), f"{MODEL}:tpm"
    limiter.feedback.refused(gate, Refusal("rate", limit_name="tpm", used=3_000, limit=30_000), 0)
    assert limiter.store.backlog_us(key) == 30_000_000
    limiter.feedback.refused(gate, Refusal("rate", limit_name="tpm", used=29_446, limit=30_000), 534_000)
    assert limiter.store.backlog_us(key) == 29_446 * 2_000
    assert limiter.store.slack_us(key) == 534_000


def test_a_limit_given_by_hand_takes_the_place_of_its_namesake_only() -> None:
    """Beside a tier, or limits for every model, a limit given by hand is enforced and the others stay in force."""

    def limits(model: str, **settings: Any) -> dict[str, int]:
        limiter = ratelimit.Limiter(**settings, at=date(2026, 9, 15))
        return {limit.name: limit.capacity for limit in limiter.limits(model)}

    assert limits("o3", tier="tier_1", limits={"rpm": 2}) == {"rpm": 2, "tpm": 30_000}
    assert limits("o3", tier="tier_1", limits={"o3": {"rpm": 2}}) == {"rpm": 2, "tpm": 30_000}
    assert limits("o3-pro", tier="tier_1", limits={"o3": {"rpm": 2}}) == {"rpm": 500, "tpm": 30_000}
    assert limits("o3", tier="tier_1", limits={"rpd": 7}) == {"rpm": 500, "tpm": 30_000, "rpd": 7}
    assert limits("o3", tier="grow", limits={"o3": {"rpm": 2}}) == {"rpm": 2}
    assert limits("m", limits={"rpm": 5, "m": {"tpm": 9}}) == {"rpm": 5, "tpm": 9}
    assert limits("m", limits={"rpm": 5, "m": {"rpm": 9}}) == {"rpm": 9}
    with pytest.raises(ratelimit.ConfigError, match="none for 'n'"):
        limits("n", limits={"m": {"rpm": 9}})
