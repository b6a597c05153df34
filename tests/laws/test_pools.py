"""Law: lanes that share limits wait for each other only where they must: nobody who asked first is delayed, and
nothing that is free stays unused.

The oracle keeps the level of every bucket and slot itself, and asks of everybody who waits what for.
"""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ratelimit
from ratelimit.clock import LoopClock
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import ManualClock, run_virtual


def on_loop(**settings: Any) -> ratelimit.Limiter:
    return ratelimit.Limiter(store=MemoryStore(LoopClock(), initial_slack_us=0), **settings)


LIMITS = {"m": {"rpm": 60, "tpm": 6_000}, "n": {"tpm": 3_000}, "o": {"rpm": 30, "concurrency": 2}}
POOLS: dict[str, dict[str, Any]] = {
    "all": {"tpm": 8_000},
    "family": {"rpm": 90, "models": ["m", "n"]},
    "long": {"tpm": 2_500, "models": ["m"], "above": 2_000},
}
SIZES = {
    "m.rpm": 60,
    "m.tpm": 6_000,
    "n.tpm": 3_000,
    "o.rpm": 30,
    "all.tpm": 8_000,
    "family.rpm": 90,
    "long.tpm": 2_500,
}


def wants(model: str, tokens: int) -> dict[str, int]:
    """What a request takes, by limit, as the settings above read to a human."""
    own = {"m": ["m.rpm", "m.tpm", "family.rpm"], "n": ["n.tpm", "family.rpm"], "o": ["o.rpm"]}[model]
    if model == "m" and tokens > 2_000:
        own = ["long.tpm", "family.rpm"]
    taken = {name: 1 if name.endswith("rpm") else tokens for name in (*own, "all.tpm")}
    return {name: amount for name, amount in taken.items() if amount}


class Levels:
    """How much is left of every limit."""

    def __init__(self, now: float) -> None:
        self.left = {name: Fraction(size) for name, size in SIZES.items()}
        self.slots = 2
        self.at = Fraction(now)

    def move(self, now: float) -> None:
        passed, self.at = Fraction(now) - self.at, Fraction(now)
        for name, size in SIZES.items():
            self.left[name] = min(Fraction(size), self.left[name] + passed * size / 60)

    def take(self, request: dict[str, int]) -> None:
        for name, amount in request.items():
            self.left[name] -= amount
            assert self.left[name] > -Fraction(SIZES[name], 600_000), f"{name} is exceeded"


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.0, 0.0, 0.5, 10.0]),
            st.sampled_from("mno"),
            st.one_of(st.integers(0, 500), st.integers(0, 2_500)),
            st.sampled_from(["high", "normal", "low"]),
            st.sampled_from([0.0, 1.0, 40.0]),
        ),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=60)
def test_whoever_waits_waits_for_something(plan: list[tuple[float, str, int, str, float]]) -> None:
    """No limit is exceeded, and a request waits only where a limit of its own is short, or would be for another's."""

    async def main() -> None:
        limiter = on_loop(limits=LIMITS, pools=POOLS)
        loop = asyncio.get_running_loop()
        levels = Levels(loop.time())
        waiting: dict[int, tuple[str, dict[str, int]]] = {}

        async def request(number: int, model: str, tokens: int, priority: str, stay: float) -> None:
            wanted = wants(model, tokens)
            waiting[number] = model, wanted
            async with limiter.areserve(model=model, tokens=tokens, priority=priority):
                levels.move(loop.time())
                levels.take(wanted)
                del waiting[number]
                if model == "o":
                    levels.slots -= 1
                    assert levels.slots >= 0
                    await asyncio.sleep(stay)
                    levels.slots += 1

        def look() -> None:
            levels.move(loop.time())
            just_now = {name: left - Fraction(SIZES[name], 60) / 20 for name, left in levels.left.items()}
            for number, (model, wanted) in waiting.items():
                others = [other for key, (_, other) in waiting.items() if key != number]
                assert (
                    (model == "o" and levels.slots == 0)
                    or any(just_now[name] < amount for name, amount in wanted.items())
                    or any(
                        just_now[name] < amount + sum(other.get(name, 0) for other in others)
                        for name, amount in wanted.items()
                    )
                ), f"{model} {wanted} waits, and nothing is short: {just_now}"

        async def watch() -> None:
            while True:
                await asyncio.sleep(0.2371)  # never at an instant at which a request ends
                look()

        watcher = asyncio.create_task(watch())
        tasks = []
        for number, (pause, *rest) in enumerate(plan):
            await asyncio.sleep(pause)
            tasks.append(asyncio.create_task(request(number, *rest)))
        done = asyncio.gather(*tasks)
        await asyncio.wait([watcher, asyncio.ensure_future(done)], return_when=asyncio.FIRST_COMPLETED)
        if watcher.done():
            watcher.result()
        watcher.cancel()
        await done
        assert not limiter.gate("m").line

    run_virtual(main)


async def timed(limiter: ratelimit.Limiter, model: str, tokens: int, **settings: Any) -> float:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await limiter.areserve(model=model, tokens=tokens, **settings)
    return loop.time() - start


@pytest.mark.parametrize("opened", ["mno", "onm", "mon"])
def test_a_large_request_is_not_delayed_by_small_ones_of_another_lane(opened: str) -> None:
    """Whichever lane was used first, a flood of later small requests through the same pool changes nothing for it."""

    async def main(flood: int) -> float:
        pools = {"x": {"tpm": 6_000, "models": ["m", "n"]}, "y": {"tpm": 6_000, "models": ["n", "o"]}}
        limiter = on_loop(limits={"rpm": 1_000_000}, pools=pools)
        for model in opened:
            limiter.gate(model)
        await limiter.areserve(model="n", tokens=6_000)
        large = asyncio.create_task(timed(limiter, "o", 5_000))
        await asyncio.sleep(0)
        small = [asyncio.create_task(timed(limiter, "n", 10)) for _ in range(flood)]
        waited = await large
        for task in small:
            task.cancel()
        await asyncio.gather(*small, return_exceptions=True)
        return waited

    assert run_virtual(lambda: main(0)) == pytest.approx(50.0, abs=0.001)
    assert run_virtual(lambda: main(300)) == pytest.approx(50.0, abs=0.001)


def test_who_wants_nothing_of_what_others_wait_for_passes_at_once() -> None:
    """A lane that shares no short limit, and one whose share of the pool is not needed before it is back, both pass."""

    async def main() -> list[float]:
        limiter = on_loop(
            limits={"m": {"rpd": 1, "tpm": 60_000}, "n": {"rpm": 600}, "o": {"rpm": 600}},
            pools={"family": {"tpm": 6_000, "models": ["m", "n"]}, "other": {"tpm": 6_000, "models": ["o"]}},
        )
        await limiter.areserve(model="m", tokens=1)
        tomorrow = asyncio.create_task(timed(limiter, "m", 6_000))  # a day for its rpd: the pool is full again by then
        await asyncio.sleep(1)
        waits = [await timed(limiter, "n", 2_000, max_wait=0), await timed(limiter, "o", 6_000, max_wait=0)]
        waits += [await timed(limiter, "n", 3_000, max_wait=5), await timed(limiter, "n", 3_000) - 20]
        tomorrow.cancel()
        await asyncio.gather(tomorrow, return_exceptions=True)
        return waits

    assert run_virtual(main) == pytest.approx([0, 0, 0, 0], abs=0.1)


def test_what_somebody_wants_who_waits_for_a_slot_is_kept_for_him() -> None:
    """Until a slot is free, the rest of what he asked first stays there, and only that."""

    async def main() -> tuple[float, float, float]:
        limiter = on_loop(
            limits={"m": {"concurrency": 1}, "n": {"rpm": 600}}, pools={"both": {"tpm": 6_000}}, max_wait=None
        )
        loop = asyncio.get_running_loop()
        first = await limiter.areserve(model="m", tokens=0)
        loop.call_later(7.0, first.end)
        waiter = asyncio.create_task(timed(limiter, "m", 4_000))
        await asyncio.sleep(0)
        small = await timed(limiter, "n", 2_000)
        larger = await timed(limiter, "n", 500)
        return small, larger, await waiter

    small, larger, waiter = run_virtual(main)
    assert small == pytest.approx(0, abs=0.001)
    assert larger == pytest.approx(5.0, abs=0.001)  # so long 500 more take to come in
    assert waiter == pytest.approx(7.0, abs=0.001)


def test_a_wait_that_depends_on_others_is_no_reason_to_refuse() -> None:
    """Behind somebody's claim nobody knows: a request waits for its max_wait, and goes as soon as the claim is gone."""

    async def main() -> float:
        limiter = on_loop(limits={"m": {"concurrency": 1}, "n": {"rpm": 600}}, pools={"both": {"tpm": 6_000}})
        held = await limiter.areserve(model="m", tokens=2_000)
        ahead = asyncio.create_task(timed(limiter, "m", 4_000))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(1.0, ahead.cancel)
        waited = await timed(limiter, "n", 500, max_wait=3)  # with the claim, it would be 5 s
        await asyncio.gather(ahead, return_exceptions=True)
        held.end()
        return waited

    assert run_virtual(main) == pytest.approx(1.0, abs=0.001)


def test_free_slots_are_not_what_a_request_waits_for() -> None:
    """Whoever waits behind another's claim to a pool is refused for the pool, not for slots of which most are free."""

    async def main() -> str:
        limits: dict[str, Any] = {"m": {"concurrency": 1}, "n": {"concurrency": 30}}
        limiter = on_loop(limits=limits, pools={"both": {"tpm": 6_000}})
        held = await limiter.areserve(model="m", tokens=2_000)
        ahead = asyncio.create_task(timed(limiter, "m", 4_000))
        await asyncio.sleep(0)
        with pytest.raises(ratelimit.WouldWait) as no:
            await timed(limiter, "n", 500, max_wait=3)  # there is room for it, and it is another's
        ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)
        held.end()
        assert "max_wait (3 s) is over" in str(no.value)
        return no.value.limit

    assert run_virtual(main) == "both-tpm"


def test_long_requests_pass_their_own_pool_and_those_of_everybody() -> None:
    """Above the threshold a request takes from the long pool, not from the model's limits; what all pass counts it."""
    limiter = ratelimit.Limiter(
        limits={"o3": {"tpm": 30_000}, "o3-pro": {"tpm": 30_000}},
        pools={
            "o3": {"tpm": 400_000, "models": ["o3", "o3-pro"], "above": 20_000},  # named like a model, all the same
            "huge": {"tpm": 900_000, "models": ["o3"], "above": 100_000},
            "organisation": {"tpm": 1_000_000},
        },
        store=MemoryStore(ManualClock(), initial_slack_us=0),
        max_wait=0,
    )

    def spent(key: str) -> int:
        gates = {
            key: limit for gate in limiter.gates() for key, limit in zip(gate.lane.keys, gate.lane.limits, strict=True)
        }
        return limiter.store.backlog_us(key) * gates[key].capacity // 60_000_000

    limiter.reserve(model="o3", tokens=20_000)
    limiter.reserve(model="o3", tokens=100_000)
    limiter.reserve(model="o3-pro", tokens=100_001)
    limiter.reserve(model="o3", tokens=100_001)
    assert spent("o3:tpm") == 20_000
    assert spent("o3-pro:tpm") == 0
    assert spent("o3>20000:tpm") == 200_001
    assert spent("huge>100000:tpm") == 100_001
    assert spent("organisation-tpm") == 320_002
    with pytest.raises(ratelimit.NeverFits, match="tpm of o3: the request needs 400,001"):
        limiter.reserve(model="o3-pro", tokens=400_001)


def test_a_pools_smaller_limit_is_obeyed_in_every_lane() -> None:
    """What a reply to one model says of a shared limit holds for all that pass it, those in line included."""

    async def main() -> tuple[list[int], float]:
        limiter = on_loop(limits={"rpm": 10_000}, pools={"project": {"tpm": 6_000}})
        await limiter.areserve(model="m", tokens=6_000)
        waiting = asyncio.create_task(timed(limiter, "n", 1_000))
        await asyncio.sleep(0)
        limiter.feedback.headers(
            limiter.gate("m"), [ratelimit.headers.Observation("project-tpm", 3_000, 60_000_000)], 0
        )
        capacities = [limit.capacity for model in "mn" for limit in limiter.limits(model) if limit.unit == "tokens"]
        return capacities, await waiting

    capacities, waited = run_virtual(main)
    assert capacities == [3_000, 3_000]
    assert waited == pytest.approx(20.0, abs=0.001)


def test_lanes_that_share_a_pool_go_in_the_order_of_asking() -> None:
    """Whoever asks later in a lane of few goes behind all who asked before in a lane of many."""

    async def main() -> list[str]:
        limiter = on_loop(limits={"tpm": 60_000}, pools={"all": {"tpm": 60}})
        await limiter.areserve(model="many", tokens=60)
        admitted = []

        async def one(name: str, at_s: float) -> None:
            await asyncio.sleep(at_s)
            await limiter.areserve(model=name[:-1], tokens=1)
            admitted.append(name)

        plan = [("many1", 0.1), ("many2", 0.2), ("few1", 0.3), ("many3", 0.4), ("few2", 0.5), ("few3", 0.6)]
        plan += [("many4", 2.5), ("few4", 2.6)]
        await asyncio.gather(*(one(*each) for each in plan))
        return admitted

    assert run_virtual(main) == ["many1", "many2", "few1", "many3", "few2", "few3", "many4", "few4"]
