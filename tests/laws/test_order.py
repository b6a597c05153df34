"""Law: first come, first served within a class; between classes each gets its share, within the bound that line.py
states; nobody starves, nobody pays for what was cancelled, and what a class leaves free is there for the others.

The oracles count the tokens of a plain log: who asked, who was admitted, in which order.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ratelimit
from ratelimit.clock import LoopClock
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import run_virtual

MODEL = "a-model-with-limits-of-its-own"
BURST = 6_000


class Event(NamedTuple):
    """A line of the log."""

    kind: str
    number: int
    priority: str
    tokens: int


class Counter:
    """A limiter on 100 tokens a second with a log of who asked and who was admitted."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("limits", {"tpm": BURST})
        self.limiter = ratelimit.Limiter(store=MemoryStore(LoopClock(), initial_slack_us=0), **settings)
        self.log: list[Event] = []
        self.asked = 0

    async def ask(self, priority: str, tokens: int) -> float:
        """Wait for admission; return how long it took."""
        loop = asyncio.get_running_loop()
        self.asked += 1
        number, start = self.asked, loop.time()
        self.log.append(Event("asked", number, priority, tokens))
        await self.limiter.areserve(model=MODEL, tokens=tokens, priority=priority)
        self.log.append(Event("admitted", number, priority, tokens))
        return loop.time() - start

    async def drain(self) -> None:
        """Spend the burst."""
        await self.limiter.areserve(model=MODEL, tokens=BURST)

    def admitted(self) -> list[Event]:
        return [event for event in self.log if event.kind == "admitted"]


weights = st.fixed_dictionaries({name: st.integers(1, 9) for name in "abc"})
arrivals = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 0.1, 3.0, 20.0]), st.sampled_from("abc"), st.integers(1, 500)),
    min_size=1,
    max_size=60,
)


@given(weights, arrivals)
@settings(max_examples=80)
def test_nobody_waits_for_more_than_the_bound(weight: dict[str, int], plan: list[tuple[float, str, int]]) -> None:
    """From asking to admission at most (a + l)·Σ weights / w + Σ l of the others goes first; FIFO within a class."""

    async def main() -> Counter:
        counter = Counter(priorities=weight)
        await counter.drain()
        tasks = []
        for pause, priority, tokens in plan:
            await asyncio.sleep(pause)
            tasks.append(asyncio.create_task(counter.ask(priority, tokens)))
        await asyncio.gather(*tasks)
        return counter

    log = run_virtual(main).log
    largest = {name: max([one.tokens for one in log if one.priority == name], default=0) for name in weight}
    waiting: list[Event] = []
    ahead: dict[int, int] = {}
    before: dict[int, int] = {}
    for event in log:
        if event.kind == "asked":
            ahead[event.number] = sum(one.tokens for one in waiting if one.priority == event.priority)
            before[event.number] = 0
            waiting.append(event)
            continue
        assert event.number == min(one.number for one in waiting if one.priority == event.priority)
        waiting = [one for one in waiting if one.number != event.number]
        for one in waiting:
            before[one.number] += event.tokens
        name = event.priority
        bound = (ahead[event.number] + largest[name]) * sum(weight.values()) / weight[name]
        assert before[event.number] <= bound + sum(largest[other] for other in largest if other != name)


@given(weights, st.fixed_dictionaries({name: st.integers(10, 400) for name in "abc"}))
@settings(max_examples=30)
def test_under_constant_backlog_each_class_gets_its_share(weight: dict[str, int], size: dict[str, int]) -> None:
    """While all classes wait, what two of them got for their weights differs by one request of each at most."""

    async def main() -> list[Event]:
        counter = Counter(priorities=weight)
        await counter.drain()
        tasks = [asyncio.create_task(counter.ask(name, size[name])) for name in "abc" for _ in range(30)]
        await asyncio.wait([tasks[29], tasks[59], tasks[89]], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return counter.admitted()

    got = dict.fromkeys("abc", 0)
    left = dict.fromkeys("abc", 30)
    for event in run_virtual(main):
        got[event.priority] += size[event.priority]
        left[event.priority] -= 1
        if not min(left.values()):
            break  # somebody waits no more
        for one in "abc":
            for other in "abc":
                difference = got[one] / weight[one] - got[other] / weight[other]
                assert difference <= size[one] / weight[one] + size[other] / weight[other] + 0.01


def test_a_class_that_was_idle_has_nothing_saved_up() -> None:
    """Whoever comes while another class waits shares with it from then on, and does not make up for what was before."""

    async def main() -> list[str]:
        counter = Counter(priorities={"steady": 1, "late": 1})
        await counter.drain()
        steady = [asyncio.create_task(counter.ask("steady", 100)) for _ in range(100)]
        await asyncio.sleep(40.5)
        late = [asyncio.create_task(counter.ask("late", 100)) for _ in range(30)]
        await asyncio.sleep(20)
        for task in (*steady, *late):
            task.cancel()
        await asyncio.gather(*steady, *late, return_exceptions=True)
        return [event.priority for event in counter.admitted()][-20:]

    assert run_virtual(main).count("late") == 10


@pytest.mark.parametrize("survivors", [0, 1, 2])
def test_a_cancelled_flood_is_not_held_against_its_class(survivors: int) -> None:
    """After 500 of a class gave up, the next one of it waits as if they had never asked."""

    async def main(flood: int) -> float:
        counter = Counter(priorities={"high": 3, "low": 1})
        await counter.drain()
        early = [asyncio.create_task(counter.ask("low", 100)) for _ in range(survivors)]
        await asyncio.sleep(0)
        lost = [asyncio.create_task(counter.ask("low", 100)) for _ in range(flood)]
        await asyncio.sleep(0)
        steady = [asyncio.create_task(counter.ask("high", 100)) for _ in range(40)]
        await asyncio.sleep(0.05)
        for task in lost:
            task.cancel()
        waited = await counter.ask("low", 100)
        await asyncio.gather(*early, *steady, *lost, return_exceptions=True)
        return waited

    assert run_virtual(lambda: main(500)) == pytest.approx(run_virtual(lambda: main(0)), abs=0.001)


def test_a_share_left_free_is_there_for_the_others() -> None:
    """While a class that leaves a fifth floods, any burst up to that fifth of another class is admitted at once."""

    async def main() -> list[float]:
        counter = Counter(priorities={"live": 1, "batch": {"weight": 9, "leave": 0.2}})
        flood = [asyncio.create_task(counter.ask("batch", 50)) for _ in range(300)]
        waits = []
        for _ in range(5):
            await asyncio.sleep(25)  # so long it takes to refill what the others took
            waits += [await counter.ask("live", 100) for _ in range(BURST // 5 // 100)]
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
        return waits

    assert max(run_virtual(main)) == pytest.approx(0, abs=0.001)


def test_a_share_left_free_is_not_wasted_when_nobody_else_asks() -> None:
    """Alone, the class that leaves a share uses the limit at its full rate; it only never fills the burst."""

    async def main() -> float:
        counter = Counter(priorities={"live": 1, "batch": {"weight": 1, "leave": 0.2}})
        start = asyncio.get_running_loop().time()
        await asyncio.gather(*(counter.ask("batch", 100) for _ in range(48 + 300)))
        return asyncio.get_running_loop().time() - start

    assert run_virtual(main) == pytest.approx(300, abs=0.01)  # 48 are four fifths of the burst; then one a second


def test_a_class_that_leaves_a_share_does_not_starve() -> None:
    """Under a flood of others it waits until they have had what it left, and then it is its turn."""

    async def main() -> float:
        counter = Counter(priorities={"live": 9, "batch": {"weight": 1, "leave": 0.2}})
        await counter.drain()
        flood = [asyncio.create_task(counter.ask("live", 100)) for _ in range(200)]
        waited = await counter.ask("batch", 100)
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
        return waited

    assert run_virtual(main) <= BURST / 5 / 100 + 3  # a fifth of the burst, at 100 tokens a second, and itself


def test_a_faster_lane_of_the_same_line_makes_nobody_late() -> None:
    """A class that asks anew in a slow lane gets its share of it, however much another lane has admitted meanwhile."""

    async def main() -> float:
        counter = Counter(
            limits={"slow": {"tpm": 600}, "fast": {"tpm": 600_000}},
            pools={"organisation": {"tpm": 10_000_000}},
            priorities={"high": 9, "low": 1},
        )
        limiter = counter.limiter

        async def take(model: str, tokens: int, priority: str) -> None:
            await limiter.areserve(model=model, tokens=tokens, priority=priority)

        await take("slow", 600, "low")
        await take("fast", 600_000, "low")
        backlog = [asyncio.create_task(take("slow", 10, "low")) for _ in range(200)]
        rush = [asyncio.create_task(take("fast", 1_000, "low")) for _ in range(300)]
        await asyncio.sleep(20)
        start = asyncio.get_running_loop().time()
        await take("slow", 10, "high")
        waited = asyncio.get_running_loop().time() - start
        for task in (*backlog, *rush):
            task.cancel()
        await asyncio.gather(*backlog, *rush, return_exceptions=True)
        return waited

    assert run_virtual(main) <= 3.0  # one of the others, and itself, at one a second


requests = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 300_000, 5_000_000]),
        st.sampled_from(["high", "normal", "low"]),
        st.integers(1, 1_500),
        st.sampled_from([0, 2, 10, 60]),
    ),
    min_size=1,
    max_size=40,
)


async def outcome(limiter: ratelimit.Limiter, **request: Any) -> tuple[float, float | None]:
    """How long it took, and what a refusal said of how long it would have taken."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    try:
        await limiter.areserve(model=MODEL, **request)
    except ratelimit.WouldWait as refusal:
        return loop.time() - start, refusal.retry_after_s
    return loop.time() - start, None


@given(requests)
@settings(max_examples=60)
def test_in_one_class_max_wait_is_judged_exactly_and_at_once(plan: list[tuple[int, str, int, int]]) -> None:
    """Refused before standing in line if and only if first come, first served would take longer; the time is told."""

    async def main() -> None:
        counter = Counter()
        await counter.drain()
        now_us = brim_us = 0  # when the burst is full again
        tasks, expected = [], []
        for pause_us, _, tokens, max_wait in plan:
            await asyncio.sleep(pause_us / 1e6)
            now_us += pause_us
            brim_us = brim_us or 60_000_000
            act_us = max(now_us, brim_us + tokens * 10_000 - 60_000_000)
            wait_us = act_us - now_us
            if wait_us <= max_wait * 1_000_000:
                brim_us = max(brim_us, act_us) + tokens * 10_000
                expected.append((wait_us / 1e6, None))
            else:
                expected.append((0, wait_us / 1e6))
            tasks.append(asyncio.create_task(outcome(counter.limiter, tokens=tokens, max_wait=max_wait)))
            await asyncio.sleep(0)
        for (took, told), (wait, foreseen) in zip(await asyncio.gather(*tasks), expected, strict=True):
            assert took == pytest.approx(wait, abs=0.001)
            assert told == (None if foreseen is None else pytest.approx(foreseen, abs=0.001))

    run_virtual(main)


@given(requests)
@settings(max_examples=60)
def test_max_wait_is_kept_among_classes_and_lanes(plan: list[tuple[int, str, int, int]]) -> None:
    """Whoever is admitted waited no longer than max_wait; who is refused late is refused then; nobody is left over."""

    async def main() -> None:
        counter = Counter()
        await counter.drain()
        tasks = []
        for pause_us, priority, tokens, max_wait in plan:
            await asyncio.sleep(pause_us / 1e6)
            asked = outcome(counter.limiter, tokens=tokens, max_wait=max_wait, priority=priority)
            tasks.append(asyncio.create_task(asked))
        for (took, told), (_, _, _, max_wait) in zip(await asyncio.gather(*tasks), plan, strict=True):
            assert took <= max_wait + 0.001
            assert told is None or took + told >= max_wait - 0.001
        assert not counter.limiter.gate(MODEL).line

    run_virtual(main)


def in_windows(plan: list[tuple[float, str, int]]) -> dict[int, float]:
    """When each of these (instant, class, tokens) is admitted, 600 tokens a minute counted per window."""

    async def main() -> dict[int, float]:
        window = ratelimit.Limit("tpm", "tokens", 600, window=True)
        counter = Counter(limits={"tpm": window}, priorities={"a": 1, "b": 1})
        loop = asyncio.get_running_loop()
        start, times = loop.time(), {}

        async def ask(number: int, at: float, priority: str, tokens: int) -> None:
            await asyncio.sleep(at)
            await counter.ask(priority, tokens)
            times[number] = round(loop.time() - start, 3)

        await asyncio.gather(*(ask(number, *one) for number, one in enumerate(plan)))
        return times

    return run_virtual(main)


def test_small_requests_use_room_of_a_window_that_the_first_cannot() -> None:
    """While a large request waits for a window to be left, later ones of its class go into the rest of it, in order."""
    times = in_windows([(0, "a", 450), (10, "a", 300), (11, "a", 150), (12, "a", 60), (13, "a", 200), (14, "a", 90)])
    assert times == {0: 0.0, 1: 60.0, 2: 11.0, 3: 60.0, 4: 71.0, 5: 120.0}
    times = in_windows([(0, "a", 450), (10, "a", 300), (11, "a", 200), (12, "a", 100), (13, "a", 60), (14, "a", 50)])
    # The first is not delayed. The second is, by what went before it: it is protected from when it is first.
    assert times == {0: 0.0, 1: 60.0, 2: 72.0, 3: 12.0, 4: 74.0, 5: 14.0}


def test_room_that_the_first_will_need_is_left_alone() -> None:
    """What fits now goes first only if the first is admitted at the same instant all the same."""
    times = in_windows([(0, "a", 300), (10, "a", 200), (20, "a", 400), (21, "a", 100)])
    assert times == {0: 0.0, 1: 10.0, 2: 60.0, 3: 70.0}
    times = in_windows([(0, "a", 300), (10, "a", 200), (20, "a", 350), (21, "a", 100), (22, "a", 50)])
    assert times == {0: 0.0, 1: 10.0, 2: 60.0, 3: 70.0, 4: 22.0}


def test_only_the_class_whose_turn_it_is_uses_such_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another class keeps to its share, and nobody is passed by more than the next few."""
    plan = [(0, "a", 500), (10, "a", 300), (11, "b", 100), (12, "a", 100)]
    assert in_windows(plan) == {0: 0.0, 1: 60.0, 2: 60.0, 3: 12.0}
    monkeypatch.setattr("ratelimit.order.LOOK_BEHIND", 1)
    plan = [(0, "a", 500), (10, "a", 300), (11, "a", 200), (12, "a", 100)]
    assert in_windows(plan) == {0: 0.0, 1: 60.0, 2: 60.0, 3: 60.0}
