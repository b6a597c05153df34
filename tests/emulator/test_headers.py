"""Durations and limit headers in the recorded formats."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.emulator.buckets import Bucket, admit
from ratelimit.emulator.headers import LimitHeaders, duration, retry_after
from ratelimit.headers import parse_duration_us
from ratelimit.limit import named


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0s"),
        (5, "5ms"),
        (120, "120ms"),
        (1_000, "1s"),
        (1_352, "1.352s"),
        (8_640, "8.64s"),
        (58_891, "58.891s"),
        (72_500, "1m12.5s"),
        (360_000, "6m0s"),
        (252_172, "4m12.172s"),
        (1_728_000, "28m48s"),
        (86_400_000, "24h0m0s"),
    ],
)
def test_durations_read_as_recorded(ms: int, text: str) -> None:
    """A client's parser meets the same spellings as with the real server."""
    assert duration(ms) == text


@settings(max_examples=200)
@given(st.integers(0, 10**9))
def test_every_duration_can_be_read_back(ms: int) -> None:
    """No duration is written that our own reader of the real headers would misread."""
    assert parse_duration_us(duration(ms)) == ms * 1000


def test_the_headers_of_a_pool_show_limit_remaining_and_reset() -> None:
    """Each triple describes the bucket after the request was charged."""
    buckets = [Bucket(named("rpm", 500)), Bucket(named("tpm", 30_000)), Bucket(named("ipm", 50_000))]
    assert admit(buckets, [1, 821, 1], 0) is None
    shown = dict(LimitHeaders(buckets).now(images=True))
    assert shown == {
        b"x-ratelimit-limit-requests": b"500",
        b"x-ratelimit-remaining-requests": b"499",
        b"x-ratelimit-reset-requests": b"120ms",
        b"x-ratelimit-limit-tokens": b"30000",
        b"x-ratelimit-remaining-tokens": b"29179",
        b"x-ratelimit-reset-tokens": b"1.642s",
        b"x-ratelimit-limit-input-images": b"50000",
        b"x-ratelimit-remaining-input-images": b"49999",
        b"x-ratelimit-reset-input-images": b"1ms",
    }
    assert not any(b"images" in name for name, _ in LimitHeaders(buckets).now())


def test_a_daily_request_limit_speaks_for_the_requests() -> None:
    """An account with 500 RPM and 10,000 RPD says 10,000 and 8.64s, as recorded for gpt-4o-mini in tier 1."""
    buckets = [Bucket(named("rpm", 500)), Bucket(named("rpd", 10_000)), Bucket(named("tpm", 200_000))]
    assert admit(buckets, [1, 1, 10], 0) is None
    shown = dict(LimitHeaders(buckets).now())
    assert (shown[b"x-ratelimit-limit-requests"], shown[b"x-ratelimit-reset-requests"]) == (b"10000", b"8.64s")


@pytest.mark.parametrize(
    ("us", "seconds", "ms"), [(534_000, b"1", b"534"), (1_000_001, b"2", b"1001"), (3, b"1", b"1")]
)
def test_retry_after_is_never_too_short(us: int, seconds: bytes, ms: bytes) -> None:
    """Whoever obeys retry-after or retry-after-ms to the letter has waited long enough."""
    assert retry_after(us) == [(b"retry-after", seconds), (b"retry-after-ms", ms)]
