"""Law: never more in the air than there are slots, each is freed exactly once, and whoever waits gets it at once.

The oracle is a counter that each request raises when it is admitted and lowers when it ends.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ratelimit
from ratelimit.clock import LoopClock
from ratelimit.limit import Limit
from ratelimit.stores.base import Booking, Lane
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import ManualClock, ask, run_virtual

MODEL = "a-model-with-limits-of-its-own"
KEY = f"{MODEL}:concurrency"


def on_loop(**settings: Any) -> ratelimit.Limiter:
    return ratelimit.Limiter(store=MemoryStore(LoopClock(), initial_slack_us=0), **settings)


async def wander(reservation: ratelimit.limiter.Reservation, how: str, seconds: float) -> None:
    """Use a slot for a while and end in one of the ways there are."""
    await asyncio.sleep(seconds)
    if how == "settle":
        reservation.settle(tokens=1)
    elif how == "release":
        reservation.release()
    elif how == "twice":
        reservation.settle(tokens=0)
        reservation.release()
        reservation.end()
    elif how == "raise":
        raise LookupError


ways = st.sampled_from(["settle", "release", "twice", "leave", "raise", "cancel"])
seconds = st.sampled_from([0.0, 0.5, 1.0, 2.5, 7.0])


@given(
    st.integers(1, 4),
    st.lists(st.tuples(seconds, seconds, ways, st.integers(0, 50)), min_size=1, max_size=25),
)
@settings(max_examples=100)
def test_never_more_than_the_slots_are_in_the_air(slots: int, plan: list[tuple[float, float, str, int]]) -> None:
    """Any interleaving of settling, releasing, leaving, failing and being cancelled, waiting or in the air."""

    async def main() -> None:
        limiter = on_loop(limits={"concurrency": slots, "tpm": 600})
        air = 0

        async def request(start: float, stay: float, how: str, tokens: int) -> None:
            nonlocal air
            await asyncio.sleep(start)
            async with limiter.areserve(model=MODEL, tokens=tokens) as reservation:
                air += 1
                try:
                    assert air <= slots
                    await wander(reservation, how, stay)
                    if reservation.held:
                        assert air <= slots
                finally:
                    air -= 1

        tasks = [asyncio.create_task(request(*one)) for one in plan]
        for task, (start, stay, how, _) in zip(tasks, plan, strict=True):
            if how == "cancel":
                asyncio.get_running_loop().call_later(start + stay / 2, task.cancel)
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, LookupError | asyncio.CancelledError)
        assert limiter.store.backlog_us(KEY) == 0
        assert not limiter.gate(MODEL).line

    run_virtual(main)


@pytest.mark.parametrize("how", ["settle", "release", "twice", "leave", "raise", "cancel"])
def test_a_freed_slot_is_taken_at_once(how: str) -> None:
    """Whoever waits is admitted at the instant at which a request ends, however it ends."""

    async def main() -> float:
        limiter = on_loop(limits={"concurrency": 1})
        loop = asyncio.get_running_loop()

        async def holder() -> None:
            async with limiter.areserve(model=MODEL) as reservation:
                await wander(reservation, how, 3.0 if how != "cancel" else 1e6)

        holding = asyncio.create_task(holder())
        await asyncio.sleep(0)
        if how == "cancel":
            loop.call_later(3.0, holding.cancel)
        start = loop.time()
        await limiter.areserve(model=MODEL)
        waited = loop.time() - start
        await asyncio.gather(holding, return_exceptions=True)
        return waited

    assert run_virtual(main) == pytest.approx(3.0, abs=1e-4)


def test_max_wait_gives_a_slot_as_long_as_it_says() -> None:
    """Nobody knows when a slot is free: a request waits for max_wait, not shorter, and is refused then."""

    async def main() -> tuple[float, float]:
        limiter = on_loop(limits={"concurrency": 1}, max_wait=4)
        loop = asyncio.get_running_loop()
        first = await limiter.areserve(model=MODEL)
        loop.call_later(3.0, first.end)
        start = loop.time()
        second = await limiter.areserve(model=MODEL)
        admitted = loop.time() - start
        with pytest.raises(ratelimit.WouldWait, match=r"^concurrency: nobody knows when there will be room") as no:
            await limiter.areserve(model=MODEL)
        assert no.value.retry_after_s is None
        refused = loop.time() - start - admitted
        second.end()
        return admitted, refused

    admitted, refused = run_virtual(main)
    assert admitted == pytest.approx(3.0, abs=1e-4)
    assert refused == pytest.approx(4.0, abs=1e-4)


@pytest.mark.parametrize(("slots", "headroom", "left"), [(10, 0.2, 8), (100, 0.01, 99), (3, 0.5, 1), (1, 0.9, 1)])
def test_headroom_leaves_slots_free(slots: int, headroom: float, left: int) -> None:
    """With a share of the slots left unused, the others can all be used."""
    limiter = ratelimit.Limiter(
        limits={"concurrency": slots}, headroom=headroom, max_wait=0, store=MemoryStore(ManualClock())
    )
    taken = [limiter.reserve(model=MODEL) for _ in range(left)]
    with pytest.raises(ratelimit.WouldWait):
        limiter.reserve(model=MODEL)
    taken[0].end()
    limiter.reserve(model=MODEL)


def test_a_class_leaves_slots_free_for_the_others() -> None:
    """Of ten slots, a class that leaves a quarter takes seven; the others find three free."""
    limiter = ratelimit.Limiter(
        limits={"concurrency": 10},
        priorities={"live": 3, "batch": {"weight": 1, "leave": 0.25}},
        max_wait=0,
        store=MemoryStore(ManualClock()),
    )
    held = [limiter.reserve(model=MODEL, priority="batch") for _ in range(7)]
    with pytest.raises(ratelimit.WouldWait):
        limiter.reserve(model=MODEL, priority="batch")
    held += [limiter.reserve(model=MODEL, priority="live") for _ in range(3)]
    with pytest.raises(ratelimit.WouldWait):
        limiter.reserve(model=MODEL, priority="live")
    for reservation in held:
        reservation.end()


def test_a_store_that_is_told_twice_frees_a_slot_once() -> None:
    """Finished and released again, in any order, a booking gives back the one slot it held."""
    limit = Limit("concurrency", "concurrent", 2)
    store = MemoryStore(ManualClock())
    lane = Lane("m", (limit,), (KEY,))
    booking = ask(store, lane, (1,))
    other = ask(store, lane, (1,))
    assert isinstance(booking, Booking)
    assert isinstance(other, Booking)
    for _ in range(2):
        store.finish(booking)
        store.release(booking)
        store.settle(booking, (0,))
    assert store.backlog_us(KEY) == 1
    third = ask(store, lane, (1,))
    assert isinstance(third, Booking)
    assert ask(store, lane, (1,)) == 0


def test_threads_share_slots() -> None:
    """Eight threads pass two slots: never three at once, and all of them get through."""
    limiter = ratelimit.Limiter(limits={"concurrency": 2})
    lock, air, most = threading.Lock(), 0, 0

    def work() -> None:
        nonlocal air, most
        for _ in range(25):
            with limiter.reserve(model=MODEL):
                with lock:
                    air += 1
                    most = max(most, air)
                with lock:
                    air -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert most <= 2
    assert limiter.store.backlog_us(KEY) == 0


def test_a_reservation_that_is_dropped_gives_its_slot_back() -> None:
    """Whoever forgets to end a reservation keeps its charge, and holds up nobody for ever."""
    limiter = ratelimit.Limiter(limits={"rpm": 100, "concurrency": 1}, max_wait=0, clock=ManualClock())
    for _ in range(3):
        limiter.reserve(model="m")
        gc.collect()
    held = limiter.reserve(model="m")
    with pytest.raises(ratelimit.WouldWait):
        limiter.reserve(model="m")
    held.end()
    assert limiter.snapshot()["lanes"]["m"]["limits"]["rpm"]["spent"] >= 3


def test_a_slot_that_hangs_in_garbage_is_found() -> None:
    """An abandoned stream is a cycle of garbage: whoever waits for a slot for long has it collected."""
    limiter = ratelimit.Limiter(limits={"concurrency": 1}, clock=ManualClock())
    gc.disable()
    try:
        cycle: list[object] = [limiter.reserve(model="m")]
        cycle.append(cycle)
        del cycle
        assert limiter.reserve(model="m").waited_us < 60_000_000
    finally:
        gc.enable()


def test_slots_of_a_pool_go_to_whoever_asked_first_whatever_his_lane() -> None:
    """Those of one lane do not pass the slot on among themselves while somebody of another waits for it."""

    async def main() -> list[str]:
        limiter = on_loop(limits={"rpm": 6_000}, pools={"all": {"concurrency": 1}})
        admitted = []

        async def one(name: str) -> None:
            async with limiter.areserve(model=name[0]):
                admitted.append(name)
                await asyncio.sleep(1)

        await asyncio.gather(*map(one, ASKED))
        return admitted

    assert run_virtual(main) == ASKED


ASKED = ["a0", "b1", "a2", "b3", "b4", "b5"]
