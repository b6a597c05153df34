"""Time for tests: a clock that is moved by hand, and an event loop whose clock jumps. Public, for your tests too.

`StoreContract`, what every store has to keep to, comes from `contract.py` when it is first named: it needs Hypothesis.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from .clock import US_PER_S
from .stores.base import Booking, Lane, Store

if TYPE_CHECKING:
    from .contract import StoreContract as StoreContract

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START_US = 1_000_000 * US_PER_S
"""Virtual clocks start a long time after zero, so that a bucket never used counts as full."""


def ask(store: Store, lane: Lane, charges_us: Sequence[int]) -> Booking | int:
    """Ask a store once: the booking it has charged, or how long (µs) it says to wait."""
    booking = Booking(lane, charges_us)
    wait_us = store.reserve(booking)
    return booking if wait_us is None else wait_us


class ManualClock:
    """A clock that moves when told, or when somebody would have to wait: blocking code runs in no time at all."""

    def __init__(self, start_us: int = START_US) -> None:
        self._now_us = start_us

    def now_us(self) -> int:
        return self._now_us

    def seconds(self, duration_us: int) -> float:
        return duration_us / US_PER_S

    def advance(self, duration_us: int) -> None:
        """Move time on (a negative duration steps the clock back)."""
        self._now_us += duration_us

    def wait(self, event: threading.Event, timeout_us: int | None) -> None:
        if event.is_set():
            return
        if timeout_us is None:
            raise RuntimeError("deadlock: a single thread waits under a ManualClock and nobody can wake it")
        self._now_us += timeout_us


class _JumpingSelector(selectors.DefaultSelector):
    """Polls real sockets and never blocks; where it would block, the clock moves on instead.

    threads  how many threads work for a task: they live by the wall, so they are waited for, and time stands still
    """

    now_us = START_US
    threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and self.threads and timeout != 0:
            return super().select()
        if not ready and timeout is None:
            raise RuntimeError(
                "deadlock: every task waits and no timer is set; of threads, only those of asyncio.to_thread and "
                "run_in_executor are waited for"
            )
        if not ready and timeout is not None and timeout > 0:
            self.now_us += math.ceil(timeout * US_PER_S)  # at least 1 µs: virtual time always advances
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in which sleeping costs nothing and the order of events repeats exactly.

    Work in a thread (`asyncio.to_thread`) takes no virtual time: nothing moves on until it is done.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_us / US_PER_S

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._jumping.threads += 1
        future.add_done_callback(self._back)
        return future

    async def shutdown_default_executor(self, *args: Any, **settings: Any) -> None:
        self._jumping.threads += 1  # a thread joins the others
        try:
            await super().shutdown_default_executor(*args, **settings)
        finally:
            self._jumping.threads -= 1

    def _back(self, _: asyncio.Future[Any]) -> None:
        self._jumping.threads -= 1


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main()` to its end on a VirtualTimeLoop."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())


def __getattr__(name: str) -> Any:
    if name == "StoreContract":
        from .contract import StoreContract

        return StoreContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
