"""What an admission costs when nobody has to wait, and what it costs when ten thousand do.

Uncontended: one model under two limits (requests and tokens), 1,200 tokens reserved and 900 settled. Blocks of each
kind take turns, so that what disturbs the machine disturbs all alike; ratios compare blocks of the same round. One
thread and one event loop are measured in CPU time, eight threads on one limiter in wall time per admission.

    python benchmarks/acquire.py [--rounds 30] [--calls 2000] [--json]

Floor in the same run: the least that admits by two limits at once and settles, written by hand: two numbers under a
lock. Peers where they are installed: one limiter of theirs per limit, asked one after the other. None of them charges
two limits at one instant or settles at what a request really cost, so they do less.

Waiting: 10 and 10,000 tasks ask one limiter again and again, in virtual time; CPU time per admission, and the memory
of a task that waits. Floor: a FIFO lock of asyncio around a sleep until the bucket has room.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import random
import statistics
import sys
import threading
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from _common import environment

import ratelimit
from ratelimit.clock import LoopClock
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import run_virtual

RPM, TPM = 1_000_000_000, 1_000_000_000_000
RESERVED, USED = 1_200, 900
THREADS = 8
PEERS = ("limits", "throttled-py", "pyrate-limiter", "aiolimiter")
LOOP = asyncio.new_event_loop()  # one for all blocks: some peers belong to the loop they were first used in
Sync = Callable[[], object]
Async = Callable[[], Awaitable[object]]


class Floor:
    """Two limits as two theoretical arrival times under a lock; µs in floats."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests_at = self.tokens_at = 0.0

    def reserve(self, tokens: int) -> bool:
        with self.lock:
            now = time.monotonic() * 1e6
            requests_at = max(self.requests_at, now) + 60e6 / RPM
            tokens_at = max(self.tokens_at, now) + tokens * 60e6 / TPM
            if requests_at - now > 60e6 or tokens_at - now > 60e6:
                return False
            self.requests_at, self.tokens_at = requests_at, tokens_at
            return True

    def settle(self, reserved: int, used: int) -> None:
        with self.lock:
            self.tokens_at -= (reserved - used) * 60e6 / TPM


def floor() -> tuple[Sync, Async]:
    """The floor in both colours."""
    one = Floor()

    def call() -> None:
        assert one.reserve(RESERVED)
        one.settle(RESERVED, USED)

    async def acall() -> None:
        call()

    return call, acall


def ours() -> tuple[Sync, Async]:
    """Our limiter in both colours."""
    limiter = ratelimit.Limiter(limits={"rpm": RPM, "tpm": TPM})

    def call() -> None:
        limiter.reserve(model="o3", tokens=RESERVED).settle(tokens=USED)

    async def acall() -> None:
        (await limiter.areserve(model="o3", tokens=RESERVED)).settle(tokens=USED)

    return call, acall


def limits() -> tuple[Sync, Async]:
    """limits: its sliding window counter, in memory. Its moving window keeps an entry per token."""
    import limits as peer
    from limits import aio

    rpm, tpm = peer.RateLimitItemPerMinute(RPM), peer.RateLimitItemPerMinute(TPM)
    strategy = peer.strategies.SlidingWindowCounterRateLimiter(peer.storage.MemoryStorage())

    def call() -> None:
        assert strategy.hit(rpm, "requests")
        assert strategy.hit(tpm, "tokens", cost=RESERVED)

    astrategy = aio.strategies.SlidingWindowCounterRateLimiter(aio.storage.MemoryStorage())

    async def acall() -> None:
        assert await astrategy.hit(rpm, "requests")
        assert await astrategy.hit(tpm, "tokens", cost=RESERVED)

    return call, acall


def throttled() -> tuple[Sync, Async]:
    """throttled-py: GCRA in memory."""
    import throttled as peer
    import throttled.asyncio as apeer

    rpm, tpm = (
        peer.Throttled(key=name, using="gcra", quota=peer.per_min(limit), store=peer.MemoryStore())
        for name, limit in (("requests", RPM), ("tokens", TPM))
    )

    def call() -> None:
        assert not rpm.limit().limited
        assert not tpm.limit(cost=RESERVED).limited

    arpm, atpm = (
        apeer.Throttled(key=name, using="gcra", quota=apeer.per_min(limit), store=apeer.MemoryStore())
        for name, limit in (("requests", RPM), ("tokens", TPM))
    )

    async def acall() -> None:
        assert not (await arpm.limit()).limited
        assert not (await atpm.limit(cost=RESERVED)).limited

    return call, acall


def pyrate() -> tuple[Sync, Async]:
    """pyrate-limiter: its token bucket in memory."""
    import pyrate_limiter as peer

    rpm, tpm = (
        peer.Limiter(peer.StateBucket([peer.Rate(limit, peer.Duration.MINUTE)], peer.TokenBucket()))
        for limit in (RPM, TPM)
    )

    def call() -> None:
        assert rpm.try_acquire("requests")
        assert tpm.try_acquire("tokens", RESERVED)

    async def acall() -> None:
        assert await rpm.try_acquire_async("requests")
        assert await tpm.try_acquire_async("tokens", RESERVED)

    return call, acall


def aiolimiter() -> tuple[None, Async]:
    """aiolimiter: for event loops only."""
    import aiolimiter as peer

    rpm, tpm = peer.AsyncLimiter(RPM, 60), peer.AsyncLimiter(TPM, 60)

    async def acall() -> None:
        await rpm.acquire()
        await tpm.acquire(RESERVED)

    return None, acall


KINDS: dict[str, tuple[str, Callable[[], tuple[Sync | None, Async]]]] = {
    "floor": ("", floor),
    "ratecard": ("", ours),
    "limits": ("limits", limits),
    "throttled-py": ("throttled", throttled),
    "pyrate-limiter": ("pyrate_limiter", pyrate),
    "aiolimiter": ("aiolimiter", aiolimiter),
}


def block(call: Sync, calls: int) -> float:
    """CPU µs per admission, one after the other."""
    start = time.process_time_ns()
    for _ in range(calls):
        call()
    return (time.process_time_ns() - start) / calls / 1000


def block_async(call: Async, calls: int) -> float:
    """CPU µs per admission in one task of an event loop."""

    async def main() -> float:
        start = time.process_time_ns()
        for _ in range(calls):
            await call()
        return (time.process_time_ns() - start) / calls / 1000

    return LOOP.run_until_complete(main())


def block_threads(call: Sync, calls: int) -> float:
    """Wall µs per admission, eight threads at once."""
    barrier = threading.Barrier(THREADS + 1)

    def work() -> None:
        barrier.wait()
        for _ in range(calls // THREADS):
            call()

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter_ns()
    for thread in threads:
        thread.join()
    return (time.perf_counter_ns() - start) / (calls // THREADS * THREADS) / 1000


def uncontended(rounds: int, calls: int) -> dict[str, list[dict[str, float]]]:
    """µs per admission by way, round and kind."""
    made = {}
    for name, (module, make) in KINDS.items():
        try:
            if module:
                importlib.import_module(module)
            made[name] = make()
        except ModuleNotFoundError:
            print(f"{name} is not installed: left out", file=sys.stderr)
    ways: dict[str, list[dict[str, float]]] = {}
    for way, colour, measure in (("sync", 0, block), ("async", 1, block_async), ("8 threads", 0, block_threads)):
        kinds = {name: pair[colour] for name, pair in made.items() if pair[colour] is not None}
        for call in kinds.values():
            measure(call, 200)  # type: ignore[operator]  # each way has calls of its colour
        ways[way] = []
        for turn in range(rounds):
            gc.collect()
            order = random.Random(turn).sample(list(kinds), len(kinds))
            ways[way].append({name: measure(kinds[name], calls) for name in order})  # type: ignore[operator]
    return ways


Ask = Callable[[], Awaitable[object]]


def our_line() -> Ask:
    """A limiter that lets a hundred pass per second."""
    limiter = ratelimit.Limiter(limits={"rpm": 6_000}, store=MemoryStore(LoopClock(), initial_slack_us=0))
    return lambda: limiter.areserve(model="o3").__aenter__()


def floor_line() -> Ask:
    """The least that waits in order: a FIFO lock, and a sleep of whoever holds it."""
    lock, at = asyncio.Lock(), 0.0

    async def ask() -> None:
        nonlocal at
        async with lock:
            now = asyncio.get_running_loop().time()
            at = max(at, now) + 0.01
            if at - now > 60:
                await asyncio.sleep(at - now - 60)

    return ask


@contextmanager
def traced(trace: bool) -> Iterator[None]:
    """Count memory, or do not slow down what is timed."""
    if trace:
        tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


async def waiting(make: Callable[[], Ask], tasks: int, admissions: int, trace: bool) -> float:
    """CPU µs per admission while so many wait; or, if traced, bytes per task that waits."""
    ask, left, done = make(), admissions, asyncio.Event()
    for _ in range(6_000):
        await ask()  # the burst is spent: from here on everybody waits

    async def work() -> None:
        nonlocal left
        while True:
            await ask()
            left -= 1
            if left == 0:
                done.set()

    gc.collect()
    with traced(trace):
        before = tracemalloc.get_traced_memory()[0] if trace else 0
        running = [asyncio.create_task(work()) for _ in range(tasks)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if trace:
            gc.collect()
            result = (tracemalloc.get_traced_memory()[0] - before) / tasks
        else:
            start = time.process_time_ns()
            await done.wait()
            result = (time.process_time_ns() - start) / admissions / 1000
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return result


def contended(rounds: int, admissions: int) -> dict[str, dict[str, list[float]]]:
    """µs per admission with few and many waiting, and bytes per waiter."""
    table: dict[str, dict[str, list[float]]] = {}
    for name, make in (("floor", floor_line), ("ratecard", our_line)):
        row = table[name] = {}
        for tasks in (10, 10_000):
            row[f"{tasks:,} waiting"] = [
                run_virtual(lambda: waiting(make, tasks, admissions, False))  # noqa: B023 - called at once
                for _ in range(rounds)
            ]
        row["bytes"] = [run_virtual(lambda: waiting(make, 10_000, 1, True))]  # noqa: B023 - called at once
    return table


def spread(values: list[float]) -> str:
    """Median (quartiles)."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:7.2f} ({low:.2f} – {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    ways = uncontended(given.rounds, given.calls)
    lines = contended(max(3, given.rounds // 6), given.calls)
    if given.json:
        json.dump({"environment": environment(*PEERS), "uncontended": ways, "waiting": lines}, sys.stdout, indent=2)
        return
    print(environment(*PEERS))
    print(f"uncontended, {given.rounds} rounds of {given.calls}: median (quartiles) µs per admission; × the floor")
    for way, rounds in ways.items():
        for name in (kind for kind in KINDS if kind in rounds[0]):
            micros = spread([one[name] for one in rounds])
            ratio = spread([one[name] / one["floor"] for one in rounds])
            print(f"{way:<10} {name:<15} {micros} µs  {ratio} ×")
    print("waiting: CPU µs per admission, and bytes per task that waits")
    for name, row in lines.items():
        few, many = row["10 waiting"], row["10,000 waiting"]
        grows = statistics.median(many) / statistics.median(few)
        print(
            f"{name:<10} 10: {spread(few)}   10,000: {spread(many)}   {grows:.2f} × as much   "
            f"{row['bytes'][0]:,.0f} bytes"
        )


if __name__ == "__main__":
    main()
