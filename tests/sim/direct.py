"""Drive the limiter itself under `run_virtual`: areserve, then settle, release or silence, as the seed says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import ratelimit
from ratelimit.errors import AdmissionError
from ratelimit.limit import Limit
from ratelimit.stores.base import Booking
from ratelimit.stores.memory import MemoryStore

from .auditor import Auditor
from .world import UNITS, Ask, Rule, World


class StepClock:
    """The loop's clock in whole µs, for `true_us`; the limiter's may be stepped."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.step_us = 0

    def true_us(self) -> int:
        """Read the time that the server lives by."""
        return round(self._loop.time() * 1_000_000)

    def now_us(self) -> int:
        return self.true_us() + self.step_us

    def seconds(self, duration_us: int) -> float:
        return duration_us / 1_000_000

    def wait(self, event: Any, timeout_us: int | None) -> None:
        raise AssertionError("nothing here blocks")

    def step(self, by_us: int) -> None:
        """Move the limiter's clock."""
        self.step_us += by_us


class CountingStore(MemoryStore):
    """A MemoryStore that counts how often it is asked."""

    asked = 0

    def reserve(self, booking: Booking, ahead: Sequence[Booking] = ()) -> int | None:
        self.asked += 1
        return super().reserve(booking, ahead)


def limiter_of(world: World, clock: StepClock) -> ratelimit.Limiter:
    """Build the limiter that a world's owner would write."""

    def limit(rule: Rule) -> Limit | int:
        if (rule.style == "refill" and rule.span_us == rule.period_us) or rule.style == "slots":
            return rule.capacity
        unit: Any = UNITS[rule.unit]
        return Limit(rule.name, unit, rule.capacity, rule.period_us, rule.span_us, rule.style != "refill")

    own = {
        model: {rule.name: limit(rule) for rule in rules if rule.key not in world.pooled}
        for model, rules in world.rules.items()
    }
    shared = {rule.name: limit(rule) for rules in world.rules.values() for rule in rules if rule.key in world.pooled}
    return ratelimit.Limiter(
        limits=own,
        pools={"org": shared} if shared else None,
        priorities=world.priorities,
        headroom=world.headroom,
        policy="documented",
        preflight="off",
        store=CountingStore(clock, initial_slack_us=world.margin_us),
    )


def check_state(limiter: ratelimit.Limiter, auditor: Auditor) -> None:
    """Nothing is left behind once everybody has ended, and the limiter's books agree with the auditor's."""
    wrong, store, clock = auditor.wrong, limiter.store, limiter.clock
    for gate in limiter.gates():
        line = gate.line
        if len(line):
            wrong.append(f"the line of {gate.lane.name} is not empty: {len(line)} wait")
        for key, limit in zip(gate.lane.keys, gate.lane.limits, strict=True):
            spent_us, book = store.backlog_us(key), auditor.books[key]
            if limit.unit == "concurrent":
                if spent_us:
                    wrong.append(f"{spent_us} slots of {key} are still held")
            elif hasattr(book, "debt") and auditor.strict and not auditor.world.steps:
                book.used(clock.now_us())
                ours_us = book.debt // book.capacity
                # Of a bucket that seems later than the margin (cut headers!) the limiter believes the headers.
                late_us = auditor.rounding_us and auditor.rounding_us + auditor.world.jitter_us
                if abs(spent_us - ours_us) > auditor._charges + late_us + 2:
                    wrong.append(f"the limiter has {spent_us} µs spent of {key}, the auditor {ours_us}")
    files = max(1, sum(len(group) for group in auditor._files.values()))
    # Whoever waits looks every few seconds whether the first is still there, and may ask then.
    changes = 8 * (len(auditor.lives) + auditor.noes) + 100
    if store.asked > files * changes + auditor.waited_us // 2_000_000:
        wrong.append(f"the store was asked {store.asked} times by {len(auditor.lives)} requests: somebody polls")


async def drive(world: World, auditor: Auditor) -> None:
    """Let a world happen to a Limiter."""
    loop = asyncio.get_running_loop()
    clock = StepClock()
    start_us = auditor.start_us = clock.true_us()
    limiter = limiter_of(world, clock)

    async def one(ask: Ask) -> None:
        await asyncio.sleep(ask.at_us / 1e6)
        if ask.cancel_us is not None:
            task = asyncio.current_task()
            assert task is not None
            loop.call_later(ask.cancel_us / 1e6, task.cancel)
        auditor.asked(ask, clock.true_us())
        max_wait = None if ask.max_wait_us is None else ask.max_wait_us / 1e6
        try:
            reservation = await limiter.areserve(
                model=ask.model, tokens=ask.tokens, images=ask.images, max_wait=max_wait, priority=ask.priority
            )
        except AdmissionError as error:
            auditor.raised(ask, clock.true_us(), error)
            return
        except asyncio.CancelledError:
            auditor.cancelled(ask, clock.true_us())
            return
        now_us = clock.true_us()
        auditor.admitted(ask, now_us)
        if reservation.waited_us > now_us - auditor.lives[ask.number].asked_us + auditor.stepped_us:
            auditor.wrong.append(f"#{ask.number} is told that it waited {reservation.waited_us} µs")
        outcome = "cut"
        try:
            async with reservation:
                if ask.fate != "release":
                    if ask.up_us:
                        loop.call_later(ask.up_us / 1e6, arrive, ask)
                    else:
                        arrive(ask)
                await asyncio.sleep((ask.up_us + ask.service_us + ask.down_us) / 1e6)
                outcome = ask.fate
                end(ask, reservation)
        except asyncio.CancelledError:
            outcome = "cancelled"
        auditor.landed(ask, clock.true_us(), outcome)

    def arrive(ask: Ask) -> None:
        now_us = clock.true_us()
        auditor.arrived(ask, now_us, 200, "")
        no = auditor.server.arrive(ask.model, (1, ask.true_tokens, ask.images), now_us)
        if no is not None:
            auditor.refused(ask, now_us, no, "rate")

    def end(ask: Ask, reservation: ratelimit.Reservation) -> None:
        # The auditor is told first: the settlement itself may wake somebody.
        now_us = clock.true_us()
        if ask.fate == "release":
            auditor.corrected(ask, now_us, None)
            reservation.release()
        elif ask.fate != "silent":
            auditor.corrected(ask, now_us, ask.true_tokens)
            reservation.settle(tokens=ask.true_tokens)
            if ask.fate == "twice":  # the second ending is a no-op
                reservation.settle(tokens=0)
                reservation.release()

    for at_us, by_us in world.steps:
        loop.call_at((start_us + at_us) / 1e6, clock.step, by_us)
    await asyncio.gather(*(one(ask) for ask in world.asks))
    auditor.finish(clock.true_us())
    check_state(limiter, auditor)
