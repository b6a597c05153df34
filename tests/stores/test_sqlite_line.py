"""Law: across processes it is first come, first served, and nobody who is gone holds anybody up.

Two handles on one file are two processes, as far as the file can tell; what only the system can tell (a process that
was killed) is told by real ones.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

import ratelimit
from ratelimit.clock import LoopClock
from ratelimit.limit import Limit
from ratelimit.stores.base import Booking, Lane
from ratelimit.stores.sqlite import SqliteStore
from ratelimit.testing import ManualClock, run_virtual

TPM, AIR = Limit("tpm", "tokens", 600), Limit("concurrency", "concurrent", 1)
HOLDER = Path(__file__).with_name("holder.py")
MODEL = "a-model-with-limits-of-its-own"


class Process:
    """One handle on the file, with lanes of its own."""

    def __init__(self, path: Path, clock: ManualClock) -> None:
        self.store = SqliteStore(path, clock, initial_slack_us=0)
        self.clock = clock
        self.lane = Lane("m", (TPM,), ("m:tpm",))
        self.air = Lane("n", (AIR,), ("n:concurrency",))

    def wants(self, tokens: int) -> Booking:
        """Somebody who has just come to wait in line."""
        booking = Booking(self.lane, [TPM.charge_us(tokens)])
        booking.asked_us = self.clock.now_us()
        return booking

    def wants_slot(self) -> Booking:
        booking = Booking(self.air, [1])
        booking.asked_us = self.clock.now_us()
        return booking


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def two(tmp_path: Path, clock: ManualClock) -> tuple[Process, Process]:
    return Process(tmp_path / "limits.db", clock), Process(tmp_path / "limits.db", clock)


def test_a_small_request_does_not_delay_a_large_one_that_asked_before(
    two: tuple[Process, Process], clock: ManualClock
) -> None:
    """Whoever asks later in another process is told when the one before it has gone; then both go."""
    one, other = two
    assert one.store.reserve(one.wants(300)) is None
    large, small = one.wants(600), other.wants(60)
    assert one.store.reserve(large) == 30_000_000
    clock.advance(1)
    small.asked_us = clock.now_us()
    assert other.store.reserve(small) == 30_000_000 - 1 + 6_000_000
    assert other.store.reserve(Booking(other.lane, [1])) is not None, "nor does one that never stood in line"
    clock.advance(29_999_999)
    assert one.store.reserve(large) is None
    assert other.store.reserve(small) == 6_000_000
    clock.advance(6_000_000)
    assert other.store.reserve(small) is None


def test_what_delays_nobody_goes_at_once(two: tuple[Process, Process], clock: ManualClock) -> None:
    """A request of other limits, or one that asked before, does not wait for somebody's ticket."""
    one, other = two
    early = other.wants(60)
    clock.advance(1)
    assert one.store.reserve(one.wants(300)) is None
    assert one.store.reserve(one.wants(600)) is not None
    assert other.store.reserve(early) is None
    assert other.store.reserve(other.wants_slot()) is None


def test_who_gives_up_holds_nobody_up(two: tuple[Process, Process]) -> None:
    """A ticket is taken back by whoever leaves the line."""
    one, other = two
    one.store.reserve(one.wants(300))
    large = one.wants(600)
    one.store.reserve(large)
    assert other.store.reserve(Booking(other.lane, [6_000_000])) is not None
    one.store.leave(large)
    assert other.store.reserve(Booking(other.lane, [6_000_000])) is None


def test_who_does_not_look_again_is_passed_over(two: tuple[Process, Process], clock: ManualClock) -> None:
    """A ticket lasts for two seconds; its owner, if it was only stopped, takes its old place again."""
    one, other = two
    one.store.reserve(one.wants(300))
    large = one.wants(600)
    one.store.reserve(large)
    clock.advance(1_999_999)
    assert other.store.reserve(Booking(other.lane, [6_000_000])) is not None
    clock.advance(1)
    assert other.store.reserve(Booking(other.lane, [6_000_000])) is None
    one.store.reserve(large)
    assert other.store.reserve(Booking(other.lane, [6_000_000])) is not None


def test_how_soon_a_first_one_looks_again(two: tuple[Process, Process], clock: ManualClock) -> None:
    """An eighth of the wait, between 0.1 s and 1 s; whoever has no ticket sleeps as its line says."""
    one, _ = two
    one.store.reserve(one.wants(600))
    waiting = one.wants(600)
    assert one.store.look_us(waiting, 1) is None
    one.store.reserve(waiting)
    assert [one.store.look_us(waiting, us) for us in (0, 1_600_000, 60_000_000)] == [100_000, 200_000, 1_000_000]


def test_slots_are_shared_and_waited_for_in_order(two: tuple[Process, Process], clock: ManualClock) -> None:
    """One slot: who asked before gets it when it is free, from whichever process; a second end changes nothing."""
    one, other = two
    held, first = one.wants_slot(), other.wants_slot()
    assert one.store.reserve(held) is None
    assert other.store.reserve(first) == 0
    clock.advance(1)
    second = one.wants_slot()
    assert one.store.reserve(second) == 0
    one.store.finish(held)
    assert one.store.reserve(second) == 0
    assert other.store.reserve(first) is None
    one.store.release(held)
    assert one.store.reserve(second) == 0
    del first
    assert one.store.reserve(second) is None, "a slot whose booking was dropped is free"


@pytest.mark.parametrize("what", ["slot", "ticket"])
def test_a_killed_process_holds_nothing(tmp_path: Path, what: str) -> None:
    """Its slots are free and its tickets void as soon as somebody asks; what it was charged stays charged."""
    path = tmp_path / "limits.db"
    limiter = ratelimit.Limiter(limits={"concurrency": 1, "tpm": 600}, store=f"sqlite:///{path}", max_wait=0)
    with subprocess.Popen([sys.executable, HOLDER, path, what], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        with pytest.raises(ratelimit.WouldWait):
            limiter.reserve(model=MODEL, tokens=100)
        holder.kill()
        holder.wait()
    limiter.reserve(model=MODEL, tokens=100).end()
    assert limiter.store.backlog_us(f"{MODEL}:tpm") > 39_000_000, "300 of it, and 100 of ours, but for what has passed"
    limiter.store.disconnect()  # type: ignore[attr-defined]


def test_two_processes_in_one_loop_are_served_in_the_order_of_asking(tmp_path: Path) -> None:
    """Sixty tasks of two limiters on one file, each asking a little after the one before: so they are admitted."""

    async def main() -> list[int]:
        loop, admitted = asyncio.get_running_loop(), []
        limiters = [
            ratelimit.Limiter(
                limits={"tpm": 600}, store=SqliteStore(tmp_path / "l.db", LoopClock(), initial_slack_us=0)
            )
            for _ in range(2)
        ]

        async def one(number: int) -> None:
            await asyncio.sleep(number * 0.01)
            await limiters[number % 2].areserve(model=MODEL, tokens=60)
            admitted.append(number)

        await asyncio.gather(*(one(number) for number in range(60)))
        assert loop.time() - 1_000_000 < 50 * 6 + 60 * 0.15, "no more than the limit needs, and the looks on the way"
        for limiter in limiters:
            limiter.store.disconnect()  # type: ignore[attr-defined]
        return admitted

    assert run_virtual(main) == list(range(60))
