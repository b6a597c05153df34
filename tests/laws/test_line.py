"""Law: whoever cannot move holds up nobody for long, and who leaves leaves nothing behind.

Real threads, real event loops and real forks; the patience is patched, so that none of it takes seconds.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest

import ratelimit
from ratelimit import line as line_module
from ratelimit import order
from ratelimit.clock import LoopClock
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import run_virtual
from ratelimit.ticket import Bell, TaskTicket

MODEL = "a-model-with-limits-of-its-own"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that looks after 20 ms who is still there, and passes over after 50 ms."""
    monkeypatch.setattr(line_module, "PATIENCE_US", 20_000)
    monkeypatch.setattr(line_module, "PATIENCE_MORE_US", 100)
    monkeypatch.setattr(line_module, "STALL_US", 50_000)


def drained(rpm: int = 6_000, **settings: Any) -> ratelimit.Limiter:
    """A limiter whose burst is spent: one request every 60 / rpm seconds."""
    settings.setdefault("limits", {"rpm": rpm})
    limiter = ratelimit.Limiter(store=MemoryStore(initial_slack_us=0), **settings)
    limiter.reserve(model=MODEL, requests=rpm)
    return limiter


def in_time(work: Callable[[], object], seconds: float = 5.0) -> None:
    """Do it in a thread of its own, and say so when it hangs."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    if failed:
        raise failed[0]


def waiting_on(loop: asyncio.AbstractEventLoop, limiter: ratelimit.Limiter, many: int) -> list[asyncio.Task[Any]]:
    """Tasks of a loop that stand in line; the loop is stopped then."""

    async def take() -> None:
        await limiter.areserve(model=MODEL)

    tasks = [loop.create_task(take()) for _ in range(many)]

    async def until_they_wait() -> None:
        while len(limiter.gate(MODEL).line) < many:  # noqa: ASYNC110  # a line has no event to wait for
            await asyncio.sleep(0)

    loop.run_until_complete(until_they_wait())
    return tasks


@pytest.mark.parametrize("many", [1, 20])
def test_a_thread_that_blocks_its_own_loop_does_not_wait_for_that_loops_tasks(many: int) -> None:
    """A blocking reserve inside a running loop passes the tasks of that loop, which cannot move meanwhile."""

    async def main() -> None:
        limiter = drained()
        tasks = [asyncio.create_task(_take(limiter)) for _ in range(many)]
        await asyncio.sleep(0)
        limiter.reserve(model=MODEL)
        await asyncio.gather(*tasks)

    in_time(lambda: asyncio.run(main()))


def test_nor_for_their_claims_on_a_shared_pool() -> None:
    """The same where the task ahead waits in another lane for all of a pool that both share."""

    async def main() -> None:
        limiter = ratelimit.Limiter(limits={"rpm": 10**6}, pools={"all": {"tpm": 60_000_000}})
        await limiter.areserve(model="m", tokens=60_000_000)
        ahead = asyncio.create_task(_take(limiter, "n", 60_000_000))
        await asyncio.sleep(0)
        limiter.reserve(model="m", tokens=1_000)
        ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)

    in_time(lambda: asyncio.run(main()))


async def _take(limiter: ratelimit.Limiter, model: str = MODEL, tokens: int = 0) -> None:
    await limiter.areserve(model=model, tokens=tokens)


@pytest.mark.usefixtures("impatient")
def test_tasks_of_a_stopped_loop_are_passed_over_together_and_come_back() -> None:
    """Fifty tasks whose loop does not run delay a thread for one stall, not fifty; run again, they are all admitted."""
    limiter = drained()
    loop = asyncio.new_event_loop()
    tasks = waiting_on(loop, limiter, 50)
    start_us = limiter.clock.now_us()
    in_time(lambda: limiter.reserve(model=MODEL))
    assert limiter.clock.now_us() - start_us < 2_000_000
    assert len(limiter.gate(MODEL).line) == 0  # who cannot move does not count as waiting
    in_time(lambda: loop.run_until_complete(asyncio.gather(*tasks)))
    loop.close()
    assert not limiter.gate(MODEL).line._files


def test_tasks_of_a_closed_loop_are_gone_as_soon_as_anybody_looks() -> None:
    """They delay nobody, do not fill the queue, and their late collection disturbs no one."""
    limiter = drained(rpm=600, max_queue=30)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # asyncio tells of tasks that are destroyed while they wait
    tasks = waiting_on(loop, limiter, 30)
    line = limiter.gate(MODEL).line
    loop.close()
    line.nudge()
    assert (len(line), line.waiting(), line._files) == (0, {}, {})
    threads = [threading.Thread(target=limiter.reserve, kwargs={"model": MODEL}) for _ in range(3)]
    for thread in threads:
        thread.start()
    tasks.clear()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
    assert (len(line), line._files) == (0, {})


def test_a_closed_loops_tasks_among_live_ones_take_nobody_along(impatient: None) -> None:
    """Collected one by one while the line drops them, they never take a live ticket out with them."""
    limiter = drained(rpm=60_000)
    loops = [asyncio.new_event_loop() for _ in range(2)]
    for number, loop in enumerate(loops):
        loop.set_exception_handler(lambda *_: None)
        tasks = [loop.create_task(_take(limiter)) for _ in range(3)]
        loop.run_until_complete(asyncio.sleep(0))
        del tasks
        if not number:
            first = loop
    limiter.feedback.cool_down(limiter.gate(MODEL), 100_000)
    threads = [threading.Thread(target=limiter.reserve, kwargs={"model": MODEL}) for _ in range(5)]
    for thread in threads:
        thread.start()
    first.close()
    loops[1].close()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
    assert not limiter.gate(MODEL).line._files


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_of_fork_stands_in_no_line_and_holds_no_slot() -> None:
    """Forked while threads and tasks of the parent wait and hold slots, the child's reserve works, and the parent's."""
    program = """
        import asyncio, os, threading
        import ratelimit
        limiter = ratelimit.Limiter(limits={"rpm": 6_000, "concurrency": 1})
        held = limiter.reserve(model="m")
        threads = [threading.Thread(target=lambda: limiter.reserve(model="m").end()) for _ in range(5)]
        for thread in threads:
            thread.start()
        async def main():
            async def take():
                (await limiter.areserve(model="m")).end()
            tasks = [asyncio.create_task(take()) for _ in range(5)]
            while len(limiter.gate("m").line) < 10:
                await asyncio.sleep(0)
            child = os.fork()
            if child == 0:
                ok = len(limiter.gate("m").line) == 0
                mine = limiter.reserve(model="m", max_wait=5)
                held.end()  # the parent's: it frees no slot here
                try:
                    limiter.reserve(model="m", max_wait=0)
                    ok = False
                except ratelimit.WouldWait:
                    pass
                mine.end()
                limiter.reserve(model="m", max_wait=5).end()
                os._exit(0 if ok else 7)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            held.end()
            await asyncio.gather(*tasks)
        asyncio.run(main())
        for thread in threads:
            thread.join()
        print("done", len(limiter.gate("m").line))
    """
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("done 0\n", "")


def test_ten_thousand_cancelled_waiters_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """In random order: all inner lists are empty, and each cost a constant share of moving entries and waking."""
    moved = woken = 0
    heapify, wake = order.heapify, TaskTicket.wake

    def counting_heapify(entries: list[Any]) -> None:
        nonlocal moved
        moved += len(entries)
        heapify(entries)

    def counting_wake(self: TaskTicket) -> None:
        nonlocal woken
        woken += 1
        wake(self)

    monkeypatch.setattr(order, "heapify", counting_heapify)
    monkeypatch.setattr(TaskTicket, "wake", counting_wake)

    async def main() -> None:
        limiter = ratelimit.Limiter(limits={"rpm": 1}, store=MemoryStore(LoopClock(), initial_slack_us=0))
        await limiter.areserve(model=MODEL)
        line = limiter.gate(MODEL).line

        async def take(priority: str) -> None:
            await limiter.areserve(model=MODEL, priority=priority)

        tasks = [asyncio.create_task(take(("high", "normal", "low")[number % 3])) for number in range(10_000)]
        await asyncio.sleep(0)
        assert len(line) == 10_000
        random.Random(7).shuffle(tasks)
        for start in range(0, 10_000, 500):
            for task in tasks[start : start + 500]:
                task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (len(line), line.waiting(), line._files, line._blocking) == (0, {}, {}, [])

    run_virtual(main)
    assert moved <= 20_000
    assert woken <= 2_000


def test_waiters_that_come_and_go_behind_patient_ones_are_not_kept() -> None:
    """While a hundred wait for hours, thousands who give up behind them take no lasting room."""

    async def main() -> int:
        limiter = ratelimit.Limiter(limits={"rpd": 1}, store=MemoryStore(LoopClock(), initial_slack_us=0))
        await limiter.areserve(model=MODEL)
        patient = [asyncio.create_task(_take(limiter)) for _ in range(100)]
        await asyncio.sleep(0)
        most = 0
        for _ in range(3_000):
            task = asyncio.create_task(_take(limiter))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            (file,) = limiter.gate(MODEL).line._files.values()
            most = max(most, sum(len(queue) for queue in file._queues.values()))
        for task in patient:
            task.cancel()
        await asyncio.gather(*patient, return_exceptions=True)
        return most

    assert run_virtual(main) <= 300


def test_the_queue_takes_as_many_as_it_says() -> None:
    """One more than max_queue is refused at once with both numbers, and a place that is given up is free again."""

    async def main() -> None:
        limiter = ratelimit.Limiter(limits={"rpm": 60}, max_queue=2, store=MemoryStore(LoopClock(), initial_slack_us=0))
        await limiter.areserve(model=MODEL, requests=60)
        tasks = [asyncio.create_task(_take(limiter)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ratelimit.errors.QueueFull) as full:
            await limiter.areserve(model=MODEL)
        assert (full.value.waiting, full.value.most) == (2, 2)
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        await asyncio.gather(tasks[1], _take(limiter))

    run_virtual(main)


def test_a_queue_of_none_refuses_whoever_would_have_to_wait() -> None:
    """With max_queue=0 what can go at once goes, and nothing else."""
    limiter = drained(rpm=60, max_queue=0)
    with pytest.raises(ratelimit.errors.QueueFull):
        limiter.reserve(model=MODEL)


def test_a_bell_is_an_event_that_may_ring_within_itself() -> None:
    """Set, cleared and waited for like an Event; rung twice, from anywhere, it stays set and nobody hangs."""
    bell = Bell()
    assert not bell.is_set()
    assert not bell.wait(0)
    bell.set()
    bell.set()
    assert bell.wait(0)
    assert bell.is_set()
    assert bell.wait()
    bell.clear()
    bell.clear()
    assert not bell.wait(0.001)
    waiting = threading.Thread(target=bell.wait)
    waiting.start()
    bell.set()
    waiting.join(5)
    assert not waiting.is_alive()
