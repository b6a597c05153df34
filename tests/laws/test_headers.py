"""What a server says is read exactly when it is well formed, and safely when it is not."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit.headers import observations, parse_count, parse_duration_us, rate_limits, read_refusal, retry_after_us


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("0s", 0),
        ("4ms", 4_000),
        ("120ms", 120_000),
        ("8.64s", 8_640_000),
        ("1.352s", 1_352_000),
        ("1m0s", 60_000_000),
        ("6m0s", 360_000_000),
        ("1m12.5s", 72_500_000),
        ("28m48s", 1_728_000_000),
        ("4m12.172s", 252_172_000),
        ("23h59m59s", 86_399_000_000),
    ],
)
def test_durations_seen_in_the_wild(text: str, us: int) -> None:
    """Every duration format found in recorded headers reads to the microsecond."""
    assert parse_duration_us(text) == us


@pytest.mark.parametrize(
    "text", ["", None, "s", "1", "1.2.3s", "-1s", "1s junk", "soon", "9" * 40 + "s", "1e3s", "1 s"]
)
def test_unreadable_durations_are_none(text: str | None) -> None:
    """A duration that is not one is None, never an exception and never zero."""
    assert parse_duration_us(text) is None


@given(st.integers(0, 10**10))
def test_a_duration_survives_being_written(ms: int) -> None:
    """Hours, minutes and decimal seconds spelled from milliseconds read back to the same instant."""
    hours, rest = divmod(ms, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + f"{rest / 1000:g}s"
    if "e" not in text and round(rest / 1000, 3) == float(f"{rest / 1000:g}"):
        assert parse_duration_us(text) == ms * 1000


@given(st.dictionaries(st.text(max_size=40), st.text(max_size=40)), st.one_of(st.none(), st.binary(), st.text()))
@settings(deadline=None)
def test_garbage_never_raises(headers: dict[str, str], body: bytes | str | None) -> None:
    """Whatever headers and bodies a server sends, reading them gives values or None."""
    assert isinstance(observations(rate_limits(headers)), list)
    for value in headers.values():
        for read in (parse_duration_us, parse_count):
            result = read(value)
            assert result is None or result >= 0
    rate_limits({f"x-ratelimit-{name}": value for name, value in headers.items()})
    after = retry_after_us({"retry-after-ms": next(iter(headers.values()), ""), "retry-after": "x"})
    assert after is None or after >= 0
    assert read_refusal(body).kind in ("unknown", "rate", "quota", "slow_down", "too_large")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["error", "code", "type", "message"]), inner)
    ),
    max_leaves=12,
)


@given(json_values)
@settings(deadline=None)
def test_odd_error_documents_never_raise(document: object) -> None:
    """JSON of any shape is classified without an exception."""
    read_refusal(json.dumps(document))


def body(message: str, kind: str = "tokens", code: str = "rate_limit_exceeded") -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def test_a_temporary_refusal_gives_its_numbers() -> None:
    """Limit, used, requested and the wait are read from the message OpenAI sends."""
    refusal = read_refusal(
        body(
            "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29446, "
            "Requested 821. Please try again in 534ms. Visit https://platform.openai.com/account/rate-limits to learn "
            "more."
        )
    )
    assert refusal.kind == "rate"
    assert (refusal.limit_name, refusal.limit, refusal.used, refusal.requested) == ("tpm", 30_000, 29_446, 821)
    assert refusal.retry_after_us == 534_000


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (body("You exceeded your current quota", "insufficient_quota", "insufficient_quota"), "quota"),
        (body("hard limit", "insufficient_quota", "organization_spend_limit_exceeded"), "quota"),
        (body("Rate limit reached … Slow down", "rate_limit_error", "slow_down"), "slow_down"),
        (
            body(
                "Request too large for gpt-4.1-2025-04-14 (for limit gpt-4.1) in organization org-x on tokens per min "
                "(TPM): Limit 30000, Requested 40000. The input or output tokens must be reduced"
            ),
            "too_large",
        ),
        (body("Resource unavailable", "rate_limit_error", "resource_unavailable"), "rate"),
        (body("the words rate limit in prose only", "other", "other"), "unknown"),
    ],
)
def test_kinds_of_429_are_told_apart_by_code_first(document: dict[str, object], kind: str) -> None:
    """A spent quota, a ramp limit, a hopeless request and a passing shortage are four different things."""
    assert read_refusal(document).kind == kind


def test_triples_are_read_by_name() -> None:
    """Requests, tokens and the undocumented project and image triples are kept apart."""
    found = rate_limits(
        {
            "x-ratelimit-limit-requests": "500",
            "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-reset-requests": "120ms",
            "X-RateLimit-Limit-Project-Tokens": "1,000",
            "x-ratelimit-remaining-project-tokens": "many",
        }
    )
    assert found["requests"] == (500, 499, 120_000)
    assert found["project-tokens"] == (1_000, None, None)


@given(
    st.sampled_from(
        [("requests", "rpm", 60), ("requests", "rpd", 86_400), ("tokens", "tpm", 60), ("tokens", "tpd", 86_400)]
    ),
    st.integers(1, 10**9),
    st.floats(0, 1),
)
def test_an_observation_is_the_servers_own_bucket(kind: tuple[str, str, int], limit: int, share: float) -> None:
    """Which bucket a triple describes, and how much of it is spent, is told from the numbers, whatever its size."""
    what, name, period_s = kind
    remaining = min(limit, int(limit * share))
    reset_ms = (limit - remaining) * period_s * 1000 // limit
    triple = {"limit": f"{limit}", "remaining": f"{remaining}", "reset": f"{reset_ms // 1000}.{reset_ms % 1000:03d}s"}
    seen = observations(rate_limits({f"x-ratelimit-{field}-{what}": value for field, value in triple.items()}))
    if remaining == limit or reset_ms < 5:
        assert seen == []
        return
    ((found, capacity, backlog_us),) = seen
    assert (found, capacity) == (name, limit)
    assert 0 <= Fraction(backlog_us) - Fraction((limit - remaining) * period_s * 1_000_000, limit) < 1


def test_a_server_that_frees_all_at_once_is_believed() -> None:
    """A window shows little as remaining, and a reset far below a bucket's: nothing is spent for longer than that."""
    triple = {"limit": "6000", "remaining": "99", "reset": "640ms"}
    seen = observations(rate_limits({f"x-ratelimit-{field}-requests": value for field, value in triple.items()}))
    assert seen == [("rpm", 6_000, 641_000)]


def test_the_daily_bucket_in_the_request_headers_is_told_apart() -> None:
    """Recorded: gpt-4o-mini on Tier 1 answered with limit 10,000 and reset 8.64s, which is a day's bucket."""
    headers = {
        "x-ratelimit-limit-requests": "10000", "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-reset-requests": "8.64s", "x-ratelimit-limit-tokens": "200000",
        "x-ratelimit-remaining-tokens": "199000", "x-ratelimit-reset-tokens": "300ms",
    }  # fmt: skip
    assert observations(rate_limits(headers)) == [("rpd", 10_000, 8_640_000), ("tpm", 200_000, 300_000)]
