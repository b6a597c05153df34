"""How long answers are and how long they take: repeatable, capped, and true to the tokens they claim."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.tokens import count_text
from ratelimit.emulator.latency import NO_LATENCY, Latency, character, draw, filler, parse_latency
from ratelimit.errors import ConfigError


@pytest.mark.parametrize("encoding", ["o200k_base", "cl100k_base"])
def test_each_filler_word_is_one_token(encoding: str) -> None:
    """The usage of a reply is the number of tokens in its text, so a client may check one against the other."""
    for start in range(81):
        assert count_text(filler(start, 1)[1:], encoding) == 1
        assert count_text(filler(start, 97)[1:], encoding) == 97


@settings(max_examples=100)
@given(seed=st.integers(-(2**63), 2**63), raw=st.binary(max_size=200))
def test_the_same_seed_and_body_draw_the_same(seed: int, raw: bytes) -> None:
    """Runs repeat: nothing but the seed and the request's bytes decides size and duration."""
    kind = character("o3-pro")
    assert draw(seed, raw, kind) == draw(seed, raw, kind)
    assert draw(seed, raw, kind) != draw(seed, raw + b" ", kind)


def test_sizes_spread_around_their_median() -> None:
    """Answers vary as real ones do: half above the median, half below, the largest several times the smallest."""
    kind = character("o3-pro")
    drawn = [draw(7, b"%d" % number, kind) for number in range(2000)]
    above = sum(luck.visible > kind.visible for luck in drawn)
    assert 900 < above < 1100
    assert max(luck.visible for luck in drawn) > 5 * min(luck.visible for luck in drawn)
    assert all(luck.reasoning % 64 == 0 for luck in drawn)


def test_only_reasoning_models_reason_and_only_as_hard_as_asked() -> None:
    """o-series and GPT-5 spend hidden tokens; effort "none" spends nothing; chat models and embeddings never do."""
    assert draw(0, b"x", character("gpt-4o")).reasoning == 0
    assert draw(0, b"x", character("gpt-5-chat-latest")).reasoning == 0
    for name in ("o3-pro", "o3-mini", "gpt-5", "gpt-6.1-sol"):
        kind = character(name)
        amounts = [draw(0, b"x", kind, effort).reasoning for effort in ("none", "low", "medium", "high")]
        assert amounts[0] == 0
        assert amounts == sorted(amounts)
        assert amounts[2] == draw(0, b"x", kind).reasoning > 0
    assert draw(0, b"x", character("text-embedding-3-small"))[:2] == (0, 0)


def test_an_o3_pro_call_takes_tens_of_seconds_by_default() -> None:
    """The default is slow enough that code which cannot wait is found out."""
    kind = character("o3-pro")
    think_us, write_us = Latency().times_us(kind, kind.reasoning, kind.visible, 0.0)
    assert 20_000_000 < think_us + write_us < 90_000_000


def test_latency_can_be_given_in_seconds() -> None:
    """0 is a server that answers at once; seconds are the same for every reply, whatever its size."""
    kind = character("o3-pro")
    assert parse_latency(0) is NO_LATENCY
    assert NO_LATENCY.times_us(kind, 900, 300, 2.0) == (0, 0)
    assert parse_latency(2.5).times_us(kind, 900, 300, 2.0) == (2_500_000, 0)


@pytest.mark.parametrize("wrong", [-1, float("nan"), True, "1"])
def test_a_latency_that_makes_no_sense_is_refused(wrong: object) -> None:
    """A wrong latency is an error at construction."""
    with pytest.raises(ConfigError, match="latency"):
        parse_latency(wrong)  # type: ignore[arg-type]  # the point of the test
