"""What a limiter says about itself is what it then does: explanations, snapshots, events."""

from __future__ import annotations

import asyncio
import json
from datetime import date

import pytest

import ratelimit
from ratelimit.clock import LoopClock
from ratelimit.events import Event
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import ManualClock, run_virtual

DAY = date(2026, 9, 1)


def limiter_of(limits: dict[str, int], **settings: object) -> tuple[ratelimit.Limiter, ManualClock]:
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=0)
    return ratelimit.Limiter(limits=limits, store=store, at=DAY, **settings), clock


def test_an_explanation_is_the_wait_that_follows() -> None:
    """The limit it names, and the seconds to the microsecond, are what the same request then meets."""
    limiter, clock = limiter_of({"rpm": 500, "tpm": 30_000})
    limiter.reserve(model="o3-pro", tokens=25_000)
    body = {"model": "o3-pro", "input": "word " * 9_000}
    foreseen = ratelimit.explain(body, limiter=limiter)
    assert foreseen.limit == "tpm"
    assert foreseen.wait_s == max(part.wait_s for part in foreseen.parts) > 0
    start_us = clock.now_us()
    reservation = limiter.reserve(model="o3-pro", tokens=foreseen.demand.tokens)
    assert clock.now_us() - start_us == round(foreseen.wait_s * 1_000_000)
    assert (reservation.waited_for, reservation.waited_us) == ("tpm", clock.now_us() - start_us)


def test_an_explanation_in_words() -> None:
    """A person reads who, what, why, for how long and at what price."""
    limiter, _ = limiter_of({"rpm": 500, "tpm": 30_000})
    limiter.reserve(model="o3-pro", tokens=30_000)
    text = str(ratelimit.explain({"model": "o3-pro", "input": "x"}, limiter=limiter))
    assert text.splitlines()[0] == "o3-pro (normal): 1 request, 224 tokens; waits 0.448 s for tpm, 0 ahead in line"
    assert "tpm   30,000 spent + 224 of 30,000: 0.448 s" in text
    assert "rpm   1 spent + 1 of 500" in text
    assert text.splitlines()[-1].startswith("  cost  $0.12 on average")
    at_once = ratelimit.explain({"model": "o3-pro", "input": "x"}, limiter=limiter_of({"rpm": 5})[0])
    assert (at_once.wait_s, at_once.limit) == (0, "")
    assert "goes at once" in str(at_once)


def test_explaining_charges_nothing() -> None:
    """Asking a thousand times changes no bucket and puts nobody in line."""
    limiter, _ = limiter_of({"rpm": 5, "tpm": 1_000})
    before = limiter.snapshot()["lanes"]
    for _ in range(1_000):
        ratelimit.explain({"model": "o3", "input": "x"}, limiter=limiter)
    assert before == {}
    assert limiter.snapshot()["lanes"]["o3"]["limits"]["rpm"]["spent"] == 0


@pytest.mark.parametrize("body", [{"model": "o3"}, {"input": "x"}])
def test_what_cannot_be_explained_says_what_is_missing(body: dict[str, str]) -> None:
    """A body that fits no endpoint, or names no model, is a ConfigError."""
    limiter, _ = limiter_of({"rpm": 5})
    with pytest.raises(ratelimit.ConfigError):
        ratelimit.explain(body, limiter=limiter)


def test_a_snapshot_is_json_and_says_what_is_spent_and_who_waits() -> None:
    """Units and seconds of every limit of every lane, and the waiting by class."""

    async def main() -> dict[str, object]:
        store = MemoryStore(LoopClock(), initial_slack_us=0)
        limiter = ratelimit.Limiter(limits={"rpm": 60, "tpm": 6_000, "concurrency": 5}, store=store, at=DAY)
        held = await limiter.areserve(model="o3", tokens=4_500)
        waiting = [asyncio.create_task(_take(limiter, 3_000, name)) for name in ("low", "low", "high")]
        await asyncio.sleep(3)
        snapshot = limiter.snapshot()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        held.end()
        return snapshot

    snapshot = json.loads(json.dumps(run_virtual(main)))
    lane = snapshot["lanes"]["o3"]
    assert lane["waiting"] == {"low": 2, "high": 1}
    assert lane["limits"]["tpm"] == {
        "capacity": 6_000,
        "period_s": 60.0,
        "spent": 4_200,
        "free": 1_800,
        "full_in_s": 42.0,
        "margin_s": 0.0,
    }
    assert lane["limits"]["concurrency"]["spent"] == 1
    assert snapshot["halted"] is None


async def _take(limiter: ratelimit.Limiter, tokens: int, priority: str) -> None:
    await limiter.areserve(model="o3", tokens=tokens, priority=priority)


def test_events_tell_the_whole_way_of_a_request() -> None:
    """Queued with the foreseen wait, admitted with the true one, settled at the true cost; the stream can be ended."""
    limiter, _ = limiter_of({"tpm": 6_000})
    events: list[Event] = []
    stop = limiter.listen(events.append)
    limiter.reserve(model="o3", tokens=6_000).settle(tokens=5_000)
    limiter.reserve(model="o3", tokens=3_000).release()
    with pytest.raises(ratelimit.WouldWait):
        limiter.reserve(model="o3", tokens=6_000, max_wait=0.5)
    stop()
    limiter.reserve(model="o3", tokens=1)
    assert [event.kind for event in events] == ["admitted", "settled", "queued", "admitted", "released", "gave_up"]
    assert {event.lane for event in events} == {"o3"}
    assert (events[-1].limit, events[-1].facts["waited_us"]) == ("tpm", 0)
    settled, queued, admitted = events[1:4]
    assert (settled.facts["booked_tokens"], settled.facts["tokens"]) == (6_000, 5_000)
    assert queued.limit == admitted.limit == "tpm"
    assert queued.facts["wait_us"] == admitted.facts["waited_us"] == 20_000_000
    assert admitted.at_us == queued.at_us + 20_000_000


def test_a_failing_listener_stops_nothing() -> None:
    """What a listener raises is a warning, and the request goes on."""
    limiter, _ = limiter_of({"rpm": 5})
    limiter.listen(lambda event: 1 / 0)
    with pytest.warns(ratelimit.RatecardWarning, match="a listener failed on 'admitted': ZeroDivisionError"):
        limiter.reserve(model="o3")


def test_slots_and_a_spent_quota_are_explained_too() -> None:
    """Nobody knows when a slot is free, and nothing goes while the quota is spent: neither is "goes at once"."""
    limiter, clock = limiter_of({"concurrency": 1})
    held = limiter.reserve(model="o3")
    foreseen = ratelimit.explain({"model": "o3", "input": "x"}, limiter=limiter)
    assert (foreseen.limit, foreseen.wait_s) == ("concurrency", 0)
    assert "waits until one of concurrency is free" in str(foreseen)
    held.end()
    assert "goes at once" in str(ratelimit.explain({"model": "o3", "input": "x"}, limiter=limiter))
    limiter.signals.stop("insufficient_quota", "no credit", clock.now_us())
    assert "quota is spent (insufficient_quota)" in str(
        ratelimit.explain({"model": "o3", "input": "x"}, limiter=limiter)
    )


def test_a_listener_is_something_that_can_be_called_and_is_removed_once() -> None:
    """Anything else is an error at once; one that was added twice hears everything twice until it is removed twice."""
    limiter, _ = limiter_of({"rpm": 50})
    with pytest.raises(ratelimit.ConfigError, match="cannot be"):
        limiter.listen(5)  # type: ignore[arg-type]
    heard: list[Event] = []
    stops = [limiter.listen(heard.append), limiter.listen(heard.append)]
    for stop in stops:
        stop()
    limiter.reserve(model="o3")
    assert heard == []
