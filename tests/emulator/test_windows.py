"""The server's windows against brute force over every admission, and what their replies say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.emulator import Emulator
from ratelimit.emulator.buckets import Bucket, admit
from ratelimit.emulator.windows import WINDOWS, meter
from ratelimit.errors import ConfigError
from ratelimit.headers import parse_duration_us, read_refusal
from ratelimit.limit import Limit, named

S = 1_000_000
START_US = 1_790_000_000_123_456
LENGTHS = {"second": S, "ten-seconds": 10 * S, "minute": 60 * S, "minute-from-first": 60 * S, "sliding-minute": 60 * S}


class Oracle:
    """A window by its definition: every admission is kept, and who counts at an instant is searched among them all."""

    def __init__(self, kind: str, capacity: int) -> None:
        self.kind = kind
        self.length_us = LENGTHS[kind]
        self.allowance = capacity * self.length_us // (60 * S)
        self.admitted: list[tuple[int, int]] = []

    def counts_until_us(self, at_us: int) -> int:
        """When an admission of this instant stops counting."""
        if self.kind == "sliding-minute":
            return at_us + self.length_us
        if self.kind == "minute-from-first":
            opened_us = None
            for earlier_us, _ in self.admitted:
                if opened_us is None or earlier_us >= opened_us + self.length_us:
                    opened_us = earlier_us
                if earlier_us == at_us:
                    break
            assert opened_us is not None
            return opened_us + self.length_us
        return (at_us // self.length_us + 1) * self.length_us

    def used(self, now_us: int) -> int:
        return sum(units for at_us, units in self.admitted if self.counts_until_us(at_us) > now_us)

    def fits(self, units: int, now_us: int) -> bool:
        return not units or self.used(now_us) + units <= self.allowance

    def fits_at_us(self, units: int, now_us: int) -> int:
        """The first instant at which so much fits: it can only be one at which something stops counting."""
        ends = sorted({self.counts_until_us(at_us) for at_us, _ in self.admitted})
        return next(end_us for end_us in ends if end_us > now_us and self.fits(units, end_us))


STEPS = st.lists(
    st.tuples(
        st.one_of(st.sampled_from([0, 0, 1, S - 1, S, 60 * S - 1, 60 * S]), st.integers(0, 20 * S)),
        st.integers(0, 110),
        st.integers(0, 60),
    ),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize("kind", LENGTHS)
@settings(max_examples=60)
@given(rpm=st.integers(60, 600), tpm=st.integers(60, 6_000), steps=STEPS)
def test_windows_equal_brute_force_over_all_admissions(
    kind: str, rpm: int, tpm: int, steps: list[tuple[int, int, int]]
) -> None:
    """Verdicts, waits, remaining and reset are exact at every instant, for two limits that must agree."""
    limits = [named("rpm", rpm), named("tpm", tpm)]
    meters = [meter(limit, kind, START_US) for limit in limits]
    oracles = [Oracle(kind, rpm), Oracle(kind, tpm)]
    now_us = START_US
    for gap_us, percent, requests in steps:
        now_us += gap_us
        charges = [requests % (oracles[0].allowance + 1), oracles[1].allowance * percent // 100]
        refusal = admit(meters, charges, now_us)
        fits = [oracle.fits(units, now_us) for oracle, units in zip(oracles, charges, strict=True)]
        assert (refusal is None) == all(fits)
        if refusal is None:
            for oracle, units in zip(oracles, charges, strict=True):
                if units:
                    oracle.admitted.append((now_us, units))
        elif refusal.kind == "rate":
            wait_us = max(
                oracle.fits_at_us(units, now_us) - now_us
                for oracle, units, fit in zip(oracles, charges, fits, strict=True)
                if not fit
            )
            assert refusal.wait_us == wait_us
            assert refusal.again_ms * 1000 - 1000 < wait_us <= refusal.again_ms * 1000
        else:
            assert charges[1] > oracles[1].allowance
        for one, oracle in zip(meters, oracles, strict=True):
            assert one.remaining == oracle.allowance - oracle.used(now_us)
            assert one.used + one.remaining == one.capacity
            counting = [oracle.counts_until_us(at_us) for at_us, _ in oracle.admitted]
            assert one.reset_us == max(0, max(counting, default=now_us) - now_us)


@pytest.mark.parametrize("kind", LENGTHS)
def test_a_refusal_is_the_time_at_which_it_ends(kind: str) -> None:
    """After exactly `wait_us` the same request enters; one µs earlier it does not."""
    tokens = meter(named("tpm", 6_000), kind, START_US)
    assert admit([tokens], [60], START_US) is None
    assert admit([tokens], [40], START_US + 1_000) is None
    while admit([tokens], [100], START_US + 2_000) is None:
        pass
    refusal = admit([tokens], [100], START_US + 2_000)
    assert refusal is not None
    assert admit([tokens], [100], START_US + 2_000 + refusal.wait_us - 1) is not None
    assert admit([tokens], [100], START_US + 2_000 + refusal.wait_us) is None


def test_twice_the_allowance_passes_across_an_edge_but_not_in_a_sliding_minute() -> None:
    """The known weakness of fixed windows is played too; the exact log has it not."""
    edge_us = (START_US // (60 * S) + 1) * 60 * S
    for kind, both in (("minute", True), ("sliding-minute", False)):
        tokens = meter(named("tpm", 600), kind, START_US)
        assert admit([tokens], [600], edge_us - 1) is None
        assert (admit([tokens], [600], edge_us) is None) == both


def test_a_clock_that_steps_back_frees_nothing() -> None:
    """A wall clock set back neither reopens a window nor opens one in the past."""
    for kind in LENGTHS:
        tokens = meter(named("tpm", 600), kind, START_US)
        first = 600 * LENGTHS[kind] // (60 * S)
        assert admit([tokens], [first], START_US) is None
        assert admit([tokens], [1], START_US - 100 * S) is not None
        assert admit([tokens], [first], START_US + LENGTHS[kind]) is None


def test_only_limits_per_minute_follow_the_kind_of_window() -> None:
    """A daily limit refills continuously beside any window; a Limit that says window=True is counted so by itself."""
    for kind in WINDOWS:
        assert isinstance(meter(named("rpd", 200), kind, 0), Bucket)
        assert isinstance(meter(named("tpm", 6_000), kind, 0), Bucket) == (kind == "continuous")
    per_second = meter(Limit("rpm", "requests", 6_000, burst_us=S, window=True), "continuous", START_US)
    assert admit([per_second], [100], START_US) is None
    assert admit([per_second], [1], START_US + 1_000) is not None


def test_a_limit_too_small_for_its_window_is_refused_at_the_start() -> None:
    """30 per minute is not one per second: no window of a second could ever admit a request."""
    with pytest.raises(ConfigError, match=r"30 requests in 60 s cannot be enforced in windows of 1 s"):
        Emulator(limits={"rpm": 30, "tpm": 60_000}, window="second")
    with pytest.raises(ConfigError, match=r"unknown window 'hour'; known: continuous, second, ten-seconds, minute"):
        Emulator(limits={"rpm": 30}, window="hour")


def test_what_a_quantised_server_says(
    emulate: Callable[..., Emulator], clock: Any, connect: Callable[..., openai.OpenAI]
) -> None:
    """Headers and the 429 name the limit per minute; remaining is the window's, used the rest, waits are to its end."""
    emulator = emulate(limits={"rpm": 240, "tpm": 600_000}, window="second")
    client = connect(emulator)

    def ask() -> httpx.Headers:
        return client.chat.completions.with_raw_response.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Say hello."}]
        ).headers

    clock.advance(0.25)
    seen = ask()
    assert seen["x-ratelimit-limit-requests"] == "240"
    assert seen["x-ratelimit-remaining-requests"] == "3"
    assert seen["x-ratelimit-reset-requests"] == "750ms"
    for _ in range(3):
        ask()
    with pytest.raises(openai.RateLimitError) as caught:
        ask()
    assert caught.value.response.headers["retry-after-ms"] == "750"
    assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    refusal = read_refusal(caught.value.response.content)
    assert (refusal.limit_name, refusal.limit, refusal.used, refusal.requested) == ("rpm", 240, 240, 1)
    assert refusal.retry_after_us == parse_duration_us("750ms")
    clock.advance(0.75)
    assert ask()["x-ratelimit-remaining-requests"] == "3"
    assert emulator.counters()["window"] == "second"


def test_a_request_larger_than_its_window_never_enters(
    emulate: Callable[..., Emulator], connect: Callable[..., openai.OpenAI]
) -> None:
    """A minute's limit that is enforced per second has no place for what is larger than one second's share."""
    client = connect(emulate(limits={"tpm": 6_000}, window="second"))
    with pytest.raises(openai.RateLimitError, match=r"Request too large .* Limit 6000, Requested 127\."):
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "word " * 100}])
