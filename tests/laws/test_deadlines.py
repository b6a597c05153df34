"""Law: what is asked for in a deadline block is admitted by then or not at all, and all of it shares one end."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ratelimit
from ratelimit.clock import LoopClock
from ratelimit.context import deadline
from ratelimit.errors import DeadlineExceeded
from ratelimit.events import Event
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import ManualClock, run_virtual

MODEL = "a-model-with-limits-of-its-own"


def manual(limits: dict[str, int], **settings: Any) -> tuple[ratelimit.Limiter, ManualClock]:
    clock = ManualClock()
    return ratelimit.Limiter(limits=limits, store=MemoryStore(clock, initial_slack_us=0), **settings), clock


def on_loop(limits: dict[str, int]) -> ratelimit.Limiter:
    return ratelimit.Limiter(limits=limits, store=MemoryStore(LoopClock(), initial_slack_us=0))


def test_what_cannot_be_admitted_by_then_is_refused_at_once() -> None:
    """The error comes without waiting, names the limit, when it would have gone, and how much of the time was left."""
    limiter, clock = manual({"tpm": 60_000})
    with deadline(20, clock=limiter.clock):
        limiter.reserve(model=MODEL, tokens=60_000)
        assert limiter.reserve(model=MODEL, tokens=12_000).waited_us == 12_000_000
        before_us = clock.now_us()
        with pytest.raises(DeadlineExceeded, match=r"^tpm: next chance in 12.000 s, the deadline is in 8.000 s$") as no:
            limiter.reserve(model=MODEL, tokens=12_000)
        assert clock.now_us() == before_us
        assert (no.value.limit, no.value.retry_after_s, no.value.left_s, no.value.max_wait_s) == ("tpm", 12.0, 8.0, 8.0)
        assert limiter.reserve(model=MODEL, tokens=8_000).waited_us == 8_000_000
    assert limiter.reserve(model=MODEL, tokens=60_000).waited_us == 60_000_000


def test_after_the_deadline_nothing_is_sent_however_much_room_there_is() -> None:
    """Room is no reason to be late: once the end has passed, the limiter is not even asked."""
    limiter, clock = manual({"rpm": 60})
    with deadline(5, clock=clock):
        limiter.reserve(model=MODEL)
        clock.advance(5_000_000)
        limiter.reserve(model=MODEL)  # at the very instant
        clock.advance(1)
        with pytest.raises(ratelimit.WouldWait, match="the deadline was"):
            limiter.reserve(model=MODEL)
    assert limiter.store.backlog_us(f"{MODEL}:rpm") <= 2_000_000


def test_the_shorter_of_max_wait_and_deadline_holds_and_is_named() -> None:
    """Whichever ends first refuses, and the error says which it was."""
    limiter, clock = manual({"rpm": 1})
    limiter.reserve(model=MODEL)
    with deadline(30, clock=clock):
        with pytest.raises(ratelimit.WouldWait, match="max_wait is 20 s") as by_max_wait:
            limiter.reserve(model=MODEL, max_wait=20)
        with pytest.raises(DeadlineExceeded, match="the deadline is in 30"):
            limiter.reserve(model=MODEL, max_wait=40)
        assert not isinstance(by_max_wait.value, DeadlineExceeded)


def test_of_two_blocks_the_earlier_end_holds() -> None:
    """An inner block can only shorten the time; outside of it the outer one's is in force again."""
    limiter, clock = manual({"rpm": 1})
    limiter.reserve(model=MODEL)
    with deadline(30, clock=clock):
        for seconds, left in ((90, 30), (10, 10)):
            with (
                deadline(seconds, clock=clock),
                pytest.raises(DeadlineExceeded, match=f"the deadline is in {left}.000 s"),
            ):
                limiter.reserve(model=MODEL)
        with pytest.raises(DeadlineExceeded, match=r"the deadline is in 30\.000 s"):
            limiter.reserve(model=MODEL)


def test_a_line_slower_than_foreseen_is_left_at_the_deadline() -> None:
    """Nobody knows when a slot is free: whoever waits for one in a block is refused at its end, not later."""

    async def main() -> tuple[float, DeadlineExceeded]:
        limiter = on_loop({"concurrency": 1})
        held = await limiter.areserve(model=MODEL)
        loop = asyncio.get_running_loop()
        start = loop.time()
        with deadline(4, clock=limiter.clock), pytest.raises(DeadlineExceeded) as no:
            await limiter.areserve(model=MODEL)
        held.end()
        return loop.time() - start, no.value

    took, no = run_virtual(main)
    assert took == pytest.approx(4.0, abs=1e-4)
    assert no.retry_after_s is None
    assert "nobody knows when there will be room" in str(no)


@given(
    st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 6_000)), min_size=1, max_size=20), st.integers(0, 60_000)
)
@settings(max_examples=60)
def test_what_is_admitted_is_what_has_room_by_the_end_in_both_colours(
    requests: list[tuple[int, int]], end_ms: int
) -> None:
    """Admitted is exactly what a bucket reckoned here lets through before the end, and at the same instants.

    Everything happens on whole milliseconds and the deadline lies between two: a loop's clock is a float.
    """
    end_s = (end_ms + 0.5) / 1_000
    now_ms, full_ms, expected = 0, 0, []
    for pause_ms, tokens in requests:
        now_ms += pause_ms
        act_ms = max(now_ms, full_ms + tokens * 10 - 60_000)
        if act_ms <= end_ms:
            now_ms, full_ms = act_ms, max(act_ms, full_ms) + tokens * 10
        expected.append(act_ms if act_ms <= end_ms else None)

    limiter, clock = manual({"tpm": 6_000})
    start_us = clock.now_us()
    blocking: list[int | None] = []
    with deadline(end_s, clock=clock):
        for pause_ms, tokens in requests:
            clock.advance(pause_ms * 1_000)
            try:
                limiter.reserve(model=MODEL, tokens=tokens)
                blocking.append((clock.now_us() - start_us) // 1_000)
            except DeadlineExceeded:
                blocking.append(None)
    assert blocking == expected

    async def main() -> list[int | None]:
        awaited = on_loop({"tpm": 6_000})
        begin_us = awaited.clock.now_us()
        times: list[int | None] = []
        with deadline(end_s, clock=awaited.clock):
            for pause_ms, tokens in requests:
                await asyncio.sleep(pause_ms / 1_000)
                try:
                    await awaited.areserve(model=MODEL, tokens=tokens)
                    times.append((awaited.clock.now_us() - begin_us) // 1_000)
                except DeadlineExceeded:
                    times.append(None)
        return times

    assert run_virtual(main) == expected


def client_of(answers: list[int], limiter: ratelimit.Limiter, clock: ManualClock, **more: Any) -> openai.OpenAI:
    """The real client on a server that takes ten seconds for each of these statuses."""

    def serve(request: httpx2.Request) -> httpx2.Response:
        clock.advance(10_000_000)
        reply = {"id": "resp_1", "object": "response", "model": "o3"}
        return httpx2.Response(answers.pop(0), json=reply, headers={"retry-after-ms": "0.001"})

    http = httpx2.Client(transport=httpx2.MockTransport(serve))
    plain = openai.OpenAI(api_key="x", base_url="http://server.invalid/v1", http_client=http, **more)
    return ratelimit.wrap(plain, limiter=limiter)


def test_the_sdks_retries_share_the_deadline() -> None:
    """Every attempt starts a new max_wait, but no new deadline: the one that would be late is not sent."""
    limiter, clock = manual({"rpm": 500}, preflight="off", max_wait=60)
    answers = [500] * 9
    client = client_of(answers, limiter, clock, max_retries=8)
    with deadline(35, clock=clock), pytest.raises(DeadlineExceeded, match=r"the deadline was 5\.000 s ago"):
        client.responses.create(model="o3", input="x")
    assert len(answers) == 9 - 4  # sent after 0, 10, 20 and 30 s


def test_calls_of_a_block_share_the_deadline_and_later_ones_are_free_again() -> None:
    """Several calls of the client fit into a block, the one that is late is not sent, and after the block all go."""
    limiter, clock = manual({"rpm": 500}, preflight="off")
    answers = [200] * 4
    client = client_of(answers, limiter, clock)
    with deadline(15, clock=clock):
        client.responses.create(model="o3", input="x")
        client.responses.create(model="o3", input="x")
        with pytest.raises(DeadlineExceeded):
            client.responses.create(model="o3", input="x")
    client.responses.create(model="o3", input="x")
    assert len(answers) == 1


def test_a_request_that_is_refused_before_it_waits_is_an_event() -> None:
    """What max_wait or a deadline refuses at once is told as gave_up, with the limit; it was never queued."""
    limiter, clock = manual({"tpm": 6_000})
    events: list[Event] = []
    limiter.reserve(model=MODEL, tokens=6_000)
    limiter.listen(events.append)
    with pytest.raises(ratelimit.WouldWait):
        limiter.reserve(model=MODEL, tokens=6_000, max_wait=0.5, priority="high")
    with deadline(1, clock=clock):
        with pytest.raises(DeadlineExceeded):
            limiter.reserve(model=MODEL, tokens=6_000)
        clock.advance(2_000_000)
        with pytest.raises(DeadlineExceeded):
            limiter.reserve(model=MODEL, tokens=1)
    assert [(event.kind, event.lane, event.limit) for event in events] == [
        ("gave_up", MODEL, "tpm"),
        ("gave_up", MODEL, "tpm"),
        ("gave_up", MODEL, ""),
    ]
    assert events[0].facts == {"priority": "high", "waited_us": 0}


def test_a_deadline_that_is_no_number_of_seconds_is_named() -> None:
    """Anything but a finite number of at least 0 is refused when the block is entered."""
    for wrong in (-1, True, "5", float("inf"), float("nan"), None):
        with pytest.raises(ratelimit.ConfigError, match="deadline is a number of seconds"), deadline(wrong):  # type: ignore[arg-type]
            pass
