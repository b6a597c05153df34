"""Law: virtual time costs nothing and repeats exactly, and nothing is called a deadlock that is none."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ratelimit.testing import run_virtual


def test_a_thread_is_waited_for_and_takes_no_virtual_time() -> None:
    """Work in a thread is no deadlock; a timer that would be due meanwhile rings at its own time, after it."""

    async def main() -> tuple[list[str], float]:
        loop = asyncio.get_running_loop()
        start, order, go = loop.time(), [], threading.Event()
        loop.call_later(5, order.append, "timer")

        async def work() -> None:
            await asyncio.to_thread(go.wait)
            order.append(f"thread at {loop.time() - start:g}")

        async def later() -> None:
            await asyncio.sleep(0)
            go.set()

        await asyncio.gather(work(), later())
        await asyncio.sleep(10)
        return order, loop.time() - start

    order, took = run_virtual(main)
    assert order == ["thread at 0", "timer"]
    assert took == pytest.approx(10)


def test_a_thread_whose_work_fails_or_is_cancelled_leaves_time_running() -> None:
    """After an error in a thread, and after its task was cancelled, sleeping costs nothing as before."""

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        go = threading.Event()
        task = asyncio.create_task(asyncio.to_thread(go.wait))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(1_000)
        go.set()

    run_virtual(main)


def test_a_deadlock_is_still_one() -> None:
    """Where nobody can go on, that is said at once, and what is not waited for."""

    async def main() -> None:
        await asyncio.to_thread(lambda: None)
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="deadlock: every task waits and no timer is set; of threads, only"):
        run_virtual(main)
