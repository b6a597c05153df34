"""Ledgers in memory and in a file, on a clock that only the test moves; and threads that start at once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pricing import Ledger

START_US = 1_790_000_000_000_000
THREADS = 8


class HandClock:
    """A wall clock that stands still until it is told to move."""

    def __init__(self, now_us: int = START_US) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> Iterator[Ledger]:
    """A new ledger of each kind."""
    with Ledger(tmp_path / "costs.db" if request.param == "sqlite" else None, now_us=clock) as ledger:
        yield ledger


@pytest.fixture(params=["memory", "one connection", "a connection each"])
def shared(request: pytest.FixtureRequest, tmp_path: Path, clock: HandClock) -> Iterator[list[Ledger]]:
    """What each of eight threads holds of one ledger: the same object, or its own one on the same file."""
    count = THREADS if request.param == "a connection each" else 1
    path = None if request.param == "memory" else tmp_path / "costs.db"
    ledgers = [Ledger(path, now_us=clock) for _ in range(count)]
    yield ledgers * (THREADS // count)
    for each in ledgers:
        each.close()


@pytest.fixture
def at_once() -> Iterator[Callable[..., list[Any]]]:
    """Run a function in eight threads that start together and switch as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with ThreadPoolExecutor(THREADS) as pool:

        def run(work: Callable[[int], Any]) -> list[Any]:
            gate = threading.Barrier(THREADS)

            def start(number: int) -> Any:
                gate.wait(timeout=60)
                return work(number)

            return list(pool.map(start, range(THREADS)))

        yield run
    sys.setswitchinterval(interval)
