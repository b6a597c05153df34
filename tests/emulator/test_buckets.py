"""The server's buckets against arithmetic in fractions, and against numbers recorded from the real server."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.emulator.buckets import Bucket, admit
from ratelimit.limit import DAY_US, MINUTE_US, Limit, named


class Oracle:
    """A bucket as its definition says it, in fractions of units."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.burst = Fraction(limit.capacity * limit.burst_us, limit.period_us)
        self.level = Fraction(0)

    def drain(self, us: int) -> None:
        self.level = max(Fraction(0), self.level - Fraction(us * self.limit.capacity, self.limit.period_us))


LIMITS = st.builds(
    lambda capacity, period_us, share: Limit("l", "tokens", capacity, period_us, max(1, period_us // share)),
    st.integers(1, 10**9),
    st.sampled_from([MINUTE_US, DAY_US, 1_000_000, 7_777_777]),
    st.sampled_from([1, 1, 1, 60]),
)


@settings(max_examples=150)
@given(
    limits=st.lists(LIMITS, min_size=1, max_size=3),
    steps=st.lists(
        st.tuples(st.integers(0, 10**8), st.lists(st.fractions(0, 2), min_size=3, max_size=3)), min_size=1, max_size=20
    ),
)
def test_buckets_equal_the_oracle_at_every_instant(
    limits: list[Limit], steps: list[tuple[int, list[Fraction]]]
) -> None:
    """Levels, verdicts and waits are exact: no request is let in early, kept out wrongly, or charged in part."""
    buckets = [Bucket(limit) for limit in limits]
    oracles = [Oracle(limit) for limit in limits]
    now_us = 0
    for gap_us, shares in steps:
        now_us += gap_us
        charges = [int(share * oracle.burst) for share, oracle in zip(shares, oracles, strict=False)]
        for oracle in oracles:
            oracle.drain(gap_us)
        fits = [
            not units or oracle.level + units <= oracle.burst for units, oracle in zip(charges, oracles, strict=True)
        ]
        refusal = admit(buckets, charges, now_us)
        assert (refusal is None) == all(fits)
        if refusal is None:
            for units, oracle in zip(charges, oracles, strict=True):
                oracle.level += units
        elif refusal.kind == "rate":
            oracle = oracles[buckets.index(refusal.bucket)]
            over = oracle.level + refusal.requested - oracle.burst
            exact_us = over * oracle.limit.period_us / oracle.limit.capacity
            assert exact_us <= refusal.wait_us < exact_us + 1
        for bucket, oracle in zip(buckets, oracles, strict=True):
            assert bucket.remaining == max(0, (oracle.burst - oracle.level).__floor__())
            exact_us = oracle.level * oracle.limit.period_us / oracle.limit.capacity
            assert bucket.reset_us <= exact_us < bucket.reset_us + 1


@settings(max_examples=100)
@given(limit=LIMITS, units=st.integers(1, 10**9), used=st.integers(1, 10**9))
def test_a_refusal_is_the_time_at_which_it_ends(limit: Limit, units: int, used: int) -> None:
    """After exactly `wait_us` the same request enters; one µs earlier it does not."""
    largest = limit.largest
    if not largest:
        return
    used, units = 1 + used % largest, 1 + units % largest
    bucket = Bucket(limit)
    assert admit([bucket], [used], 0) is None
    refusal = admit([bucket], [units], 0)
    if refusal is not None:
        assert admit([bucket], [units], refusal.wait_us - 1) is not None
        assert admit([bucket], [units], refusal.wait_us) is None


def test_a_clock_that_steps_back_changes_nothing() -> None:
    """A wall clock set back neither refills a bucket nor empties it twice."""
    bucket = Bucket(named("tpm", 600), now_us=50_000_000)
    assert admit([bucket], [600], 50_000_000) is None
    assert admit([bucket], [1], 10_000_000) is not None
    assert admit([bucket], [10], 51_000_000) is None
    assert bucket.remaining == 0


def test_a_request_larger_than_the_limit_is_told_so_before_anything_else() -> None:
    """What never fits is refused as too large even when another limit would also make it wait."""
    requests, tokens = Bucket(named("rpm", 1)), Bucket(named("tpm", 100))
    assert admit([requests, tokens], [1, 1], 0) is None
    refusal = admit([requests, tokens], [1, 101], 0)
    assert refusal is not None
    assert (refusal.kind, refusal.bucket, refusal.wait_us) == ("too_large", tokens, 0)


TRY_AGAIN = [
    # limit, used, requested, ms, seen
    (30_000, 14_567, 24_754, 18_642, "gpt-4o, 2024-12-25"),
    (10_000, 8_554, 3_082, 9_816, "gpt-4, 2023-12-04"),
    (500_000, 500_000, 83_734, 10_048, "gpt-5.6-sol, 2026-09-16"),
    (500_000, 453_260, 58_013, 1_352, "gpt-5.6-sol, 2026-09-16"),
    (500_000, 428_810, 83_800, 1_513, "gpt-5.6-sol, 2026-09-16"),
    (200_000, 200_000, 1_411, 423, "2025"),
    (30_000, 29_446, 821, 534, "gpt-4o, 2025-07-15"),
    (250_000, 250_000, 57_059, 13_694, "2026-01-28"),
]


@pytest.mark.parametrize(("limit", "used", "requested", "wait_ms", "seen"), TRY_AGAIN)
def test_try_again_in_is_exact_to_the_millisecond(
    limit: int, used: int, requested: int, wait_ms: int, seen: str
) -> None:
    """The wait in a 429 is what real 429s said for the same numbers."""
    bucket = Bucket(named("tpm", limit))
    assert admit([bucket], [used], 0) is None
    refusal = admit([bucket], [requested], 0)
    assert refusal is not None
    assert (refusal.used, refusal.requested, refusal.again_ms) == (used, requested, wait_ms)


@pytest.mark.parametrize(
    ("name", "limit", "wait_ms"),
    [("rpm", 500, 120), ("rpm", 3, 20_000), ("rpm", 3_000, 20), ("rpd", 200, 432_000), ("rpd", 50, 1_728_000)],
)
def test_a_full_request_limit_frees_one_request_at_a_time(name: str, limit: int, wait_ms: int) -> None:
    """RPM 500 says 120ms, RPD 200 says 7m12s: daily limits refill continuously too, as recorded."""
    bucket = Bucket(named(name, limit))
    assert admit([bucket], [limit], 0) is None
    refusal = admit([bucket], [1], 0)
    assert refusal is not None
    assert refusal.again_ms == wait_ms


RECORDED = [
    # name, limit, remaining, reset in ms: what one answer said
    ("rpm", 15_000, 14_999, 4),
    ("rpm", 500, 499, 120),
    ("rpd", 10_000, 9_999, 8_640),
    ("tpm", 40_000_000, 39_999_498, 0),
    ("tpm", 30_000, 29_967, 65),
    ("tpm", 250_000, 249_975, 5),
    ("tpm", 800_000, 799_946, 3),
    ("tpm", 200_000, 199_943, 16),
    ("tpm", 30_000, 554, 58_891),
    ("rpd", 10_000, 9_998, 12_967),
    ("rpd", 10_000, 9_998, 16_601),
    ("rpd", 10_000, 9_996, 30_375),
]


@pytest.mark.parametrize(("name", "limit", "remaining", "reset_ms"), RECORDED)
def test_remaining_and_reset_come_from_one_exact_level(name: str, limit: int, remaining: int, reset_ms: int) -> None:
    """Recorded pairs are reached by one level, remaining rounded down and reset cut to ms (rows of 2024–2026)."""
    bucket = Bucket(named(name, limit))
    units = limit - remaining
    assert admit([bucket], [units], 0) is None
    # The level may have fallen since by less than a unit: go to the last µs that still shows the recorded reset.
    bucket.drain(max(0, units * bucket.period_us // limit - (reset_ms * 1000 + 999)))
    assert (bucket.remaining, bucket.reset_us // 1000) == (remaining, reset_ms)
