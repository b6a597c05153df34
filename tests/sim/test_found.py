"""What seeds have found, kept as small laws: each says which seed it was."""

from __future__ import annotations

import asyncio

import pytest

from ratelimit import Limiter
from ratelimit.cells import Window
from ratelimit.clock import LoopClock
from ratelimit.headers import Refusal, observations, rate_limits
from ratelimit.limit import MINUTE_US, Limit
from ratelimit.stores.base import Booking, Lane
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import ManualClock, ask, run_virtual


def test_headroom_takes_slots_and_does_not_halve_them() -> None:
    """A tenth of headroom on 25 slots leaves 22 in the air, not the 12 that fit when each counts as two (seed 41)."""
    limiter = Limiter(limits={"concurrency": 25}, headroom=0.1, clock=ManualClock())
    held = [limiter.reserve(model="m", max_wait=0) for _ in range(22)]
    assert all(one.waited_us == 0 for one in held)


def test_a_window_holds_as_many_requests_as_it_may() -> None:
    """Seven a minute are seven in a window, although a seventh of a minute is no whole number of µs (seed 232)."""
    store = MemoryStore(ManualClock(), initial_slack_us=0)
    lane = Lane("m", (Limit("rpm", "requests", 7, MINUTE_US, MINUTE_US, True),), ("m:rpm",))
    _, period_us, capacity, _ = lane.plan[0]
    charges_us = (-(-period_us // capacity),)
    assert all(isinstance(ask(store, lane, charges_us), Booking) for _ in range(7))
    assert ask(store, lane, charges_us) == MINUTE_US


def test_a_window_shorter_than_a_request_still_lets_one_through() -> None:
    """A window that was learned and holds less than one unit is left to the server to judge (seed 3057)."""
    limiter = Limiter(limits={"rpm": 46}, clock=ManualClock())
    gate = limiter.gate("m")
    limiter.adopt(gate, Limit("rpm", "requests", 46, MINUTE_US, 1_000_000, True))
    assert limiter.reserve(model="m").waited_us == 0
    assert limiter.reserve(model="m", max_wait=3).waited_us > 0


def test_a_clock_that_steps_back_holds_nobody_up() -> None:
    """After a step back of an hour the bucket refills from there on, and the store is not asked over and over until
    the hour is over (seed 1980)."""
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=0)
    limit = Limit("rpm", "requests", 1)
    lane = Lane("m", (limit,), ("m:rpm",))
    assert isinstance(ask(store, lane, (limit.charge_us(1),)), Booking)
    clock.advance(-3_600_000_000)
    assert ask(store, lane, (limit.charge_us(1),)) == MINUTE_US
    clock.advance(MINUTE_US - 1)
    assert ask(store, lane, (limit.charge_us(1),)) == 1
    clock.advance(1)
    assert isinstance(ask(store, lane, (limit.charge_us(1),)), Booking)


def test_whole_units_that_remain_hide_no_rival() -> None:
    """Of ten requests a minute, one that was sent three seconds ago leaves nine; its reset tells that it is half gone
    (seed 67)."""
    names = {"limit": "10", "remaining": "9", "reset": "3s"}
    seen = observations(rate_limits({f"x-ratelimit-{name}-requests": value for name, value in names.items()}))
    assert seen == [("rpm", 10, 3_001_000)]


def test_a_server_s_window_is_compared_with_what_acted_in_it() -> None:
    """What acted before the server's window began is in our books and not in its message, so it hides no rival
    (seed 54527)."""
    window = Window(MINUTE_US)
    window.charge(0, 20_000_000)
    now_us = 58_000_000
    window.raise_to(now_us + 50_000_000, now_us, 10_000_000)  # 50 s spent in the window that ends in 10 s
    assert window.earliest_us(20_000_000, MINUTE_US, now_us) == now_us + 10_000_000


def test_a_429_about_a_pool_s_limit_is_learned_from() -> None:
    """The message says TPM, be it the model's own or a pool's: the number tells which (seed 8037)."""
    limiter = Limiter(limits={"tpm": 500}, pools={"org": {"tpm": 900, "rpm": 70}}, clock=ManualClock())
    gate = limiter.gate("m")

    def spent(name: str, limit: int) -> dict[str, int]:
        limiter.feedback.refused(gate, Refusal("rate", limit_name=name, limit=limit, used=limit, requested=1), 0)
        return {limit.name: limiter.store.backlog_us(key) for key, limit in zip(gate.lane.keys, gate.lane.limits)}  # noqa: B905

    assert spent("tpm", 900) == {"tpm": 0, "org-tpm": MINUTE_US, "org-rpm": 0}
    assert spent("rpm", 35)["org-rpm"] == MINUTE_US
    assert {limit.name: limit.capacity for limit in limiter.limits("m")} == {"tpm": 500, "org-tpm": 900, "org-rpm": 35}


def test_a_limit_that_was_lowered_is_waited_for_as_long_as_told() -> None:
    """Three minutes' worth spent of a lowered limit take more than two to come back (seed 11987)."""
    limiter = Limiter(limits={"tpm": 3_000}, clock=ManualClock())
    refusal = Refusal("rate", limit_name="tpm", limit=1_000, used=3_000, requested=100, retry_after_us=126_000_000)
    limiter.feedback.refused(limiter.gate("m"), refusal, None)
    assert limiter.reserve(model="m", tokens=100).waited_us >= 126_000_000


def test_whoever_stood_back_for_a_first_looks_again_when_another_is_first() -> None:
    """The first of one lane stands back for a costly first of another; when a cheaper class comes to stand before that
    one, nothing holds it back any more, and it goes at once instead of sleeping on (seed 300274)."""

    async def main() -> float:
        limits = {"m": {"rpm": 100_000}, "n": {"rpm": 100_000}}
        store = MemoryStore(LoopClock(), initial_slack_us=0)
        limiter = Limiter(limits=limits, pools={"org": {"tpm": 6_000}}, priorities={"a": 8, "b": 1}, store=store)
        start = asyncio.get_running_loop().time()
        waited: dict[str, float] = {}

        async def ask(name: str, model: str, tokens: int, priority: str) -> None:
            await limiter.areserve(model=model, tokens=tokens, priority=priority)
            waited[name] = asyncio.get_running_loop().time() - start

        async with asyncio.TaskGroup() as tasks:
            await limiter.areserve(model="m", tokens=6_000, priority="a")
            tasks.create_task(ask("first", "m", 1_000, "a"))  # after 10 s
            tasks.create_task(ask("second", "n", 1_000, "b"))  # after 20 s
            tasks.create_task(ask("large", "m", 1_000, "a"))  # its turn, after 30 s
            tasks.create_task(ask("other lane", "n", 300, "b"))  # room after 23 s, and stands back for the large one
            await asyncio.sleep(24)
            tasks.create_task(ask("newcomer", "m", 400, "b"))
        return waited["other lane"]

    assert run_virtual(main) == pytest.approx(24.0, abs=0.001)
