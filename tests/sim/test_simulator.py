"""A thousand worlds, the same in every run; `python -m tests.sim --seeds 10000 --jobs 2` runs as many as one likes."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit.cells import Window
from ratelimit.feedback import Feedback
from ratelimit.gcra import Bucket
from ratelimit.line import Line
from ratelimit.stores import memory

from .run import run

SEEDS, EVERY = 1000, 100


@pytest.mark.parametrize("start", range(0, SEEDS, EVERY))
def test_nothing_happens_that_the_auditor_does_not_allow(start: int) -> None:
    """Whatever traffic, delays and faults a seed brings: no refusal without reason, and nothing lost, late or left."""
    outcomes = [run(seed) for seed in range(start, start + EVERY)]
    told = "\n".join(str(one) for one in outcomes if one.wrong)
    assert not told, f"\n{told}"


@pytest.mark.parametrize("seed", [7, 8, 27])
def test_a_seed_is_replayed_to_the_microsecond(seed: int) -> None:
    """The same seed tells the same story, at every depth; else nobody could look at what failed."""
    assert run(seed, trace=True).trace == run(seed, trace=True).trace


def wrong(seeds: range) -> str:
    """Everything that the auditor says about some seeds."""
    return "\n".join(one for seed in seeds for one in run(seed).wrong)


def test_the_auditor_sees_a_bucket_that_gives_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law is not vacuous: where a charge is a percent too cheap, the server refuses, and that is said."""
    charge = Bucket.charge
    monkeypatch.setattr(Bucket, "charge", lambda self, act_us, us: charge(self, act_us, us * 99 // 100))
    assert "is refused" in wrong(range(30))


def test_the_auditor_sees_a_refund_that_history_does_not_bear_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Giving back all of a charge, although the bucket was full since, is found out."""

    def refund(self: Any, number: int, back_us: int) -> int:
        self.tat_us -= back_us
        return back_us

    monkeypatch.setattr(Bucket, "refund", refund)
    assert "spent of" in wrong(range(100))


def test_the_auditor_sees_a_line_that_forgets_to_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is first and not woken when there is room waits in vain, and that is said."""
    monkeypatch.setattr(Line, "nudge", lambda self: None)
    assert "the first in line waits although" in wrong(range(100))


def test_the_auditor_sees_a_limiter_that_learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limiter that is deaf to 429s sends again before the server told it to."""
    monkeypatch.setattr(Feedback, "_known", lambda self, gate, refusal, early_us: True)
    assert "before the server told it to" in wrong(range(1_007, 1_607, 10))


def test_the_auditor_sees_a_first_who_is_passed_at_his_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where room of a window goes to whoever it fits, the large request that waits for it is late, and that is said."""
    monkeypatch.setattr(memory, "behind", lambda claim, ahead, now_us: now_us)
    monkeypatch.setattr(Window, "room_us", lambda self, charge_us, burst_us, now_us, at_us: burst_us - self._sum_us)
    assert "later for those who passed it" in wrong(range(200))
