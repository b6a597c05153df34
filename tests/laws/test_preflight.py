"""The card's noes, told before a request is spent; and nothing stopped that the card does not rule out."""

from __future__ import annotations

import warnings
from datetime import date, timedelta
from typing import Any

import pytest

import ratelimit
from ratelimit.call import Call
from ratelimit.errors import NotOffered, RatecardWarning
from ratelimit.preflight import WARN_DAYS, check

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
DAY = date(2026, 7, 15)
"""Long before any shutdown."""
LAST = date(2026, 12, 11)
"""The shutdown of o3-pro and o3."""


def call(endpoint: str = RESPONSES, **body: Any) -> Call:
    return Call(endpoint, {"model": "o3-pro", "input": "Hello!", **body})


FUNCTION = {"type": "function", "function": {"name": "f"}}


def chat(model: str, **body: Any) -> Call:
    return Call(CHAT, {"model": model, "messages": [{"role": "user", "content": "Hello!"}], **body})


def passes(request: Call, day: date = DAY) -> bool:
    """Nothing is raised and nothing warned."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(request, "raise", day, set())
    return True


LONG = "The quick brown fox jumps over the lazy dog. " * 21_000
"""Nine hundred thousand characters: some 210,000 tokens."""

NOES = {
    "Chat Completions": (call(CHAT, messages=[]), DAY, r"not offered on v1/chat/completions; it is on v1/responses"),
    "Embeddings": (call("/v1/embeddings"), DAY, r"not offered on v1/embeddings"),
    "Moderations": (call("/v1/moderations"), DAY, r"not offered on v1/moderations"),
    "legacy completions": (call("/v1/completions"), DAY, r"not offered on v1/completions"),
    "streaming": (call(stream=True), DAY, r"does not support streaming: drop stream=True"),
    "predicted outputs": (call(prediction={"type": "content"}), DAY, r"predicted outputs: drop 'prediction'"),
    "too much output": (call(max_output_tokens=100_001), DAY, r"max_output_tokens=100,001 is above the 100,000"),
    "too long an input": (call(input=LONG), DAY, r"at least 210,\d\d\d tokens and the context window .* 200,000"),
    "shut down": (call(), LAST, r"o3-pro was shut down on 2026-12-11"),
    "shut down long ago": (call(model="o3-pro-2025-06-10"), date(2030, 1, 1), r"was shut down on 2026-12-11"),
    "too much for the input": (call(model="gpt-5", input=LONG * 2), DAY, r"the largest input of gpt-5 is 272,000"),
    "an effort": (call(model="gpt-6-astra", reasoning={"effort": "none"}), DAY, r"the reasoning effort 'none'"),
    "tools on Chat": (chat("gpt-6.1-sol", tools=[FUNCTION]), DAY, r"gpt-6.1-sol calls no tools on v1/chat"),
    "tools on Chat with effort": (chat("gpt-6-sol", tools=[FUNCTION]), DAY, r"only with reasoning_effort='none'"),
    "a fine-tuned model": (call(model="ft:gpt-4o-mini:acme::1"), date(2027, 1, 14), r"gpt-4o-mini was shut down on"),
    "o3": (call(model="o3"), LAST, r"o3 was shut down on 2026-12-11"),
    "o3-mini": (call(model="o3-mini"), date(2026, 10, 23), r"o3-mini was shut down on 2026-10-23"),
    "o3-mini snapshot": (call(model="o3-mini-2025-01-31"), date(2026, 11, 24), r"o3-mini was shut down on 2026-10-23"),
}


@pytest.mark.parametrize("no", NOES)
def test_every_no_of_the_card_is_told(no: str) -> None:
    """A request the card rules out raises NotOffered with the fact and its numbers."""
    request, day, words = NOES[no]
    with pytest.raises(NotOffered, match=words):
        check(request, "raise", day, set())


@pytest.mark.parametrize("no", NOES)
def test_a_no_can_be_a_warning(no: str) -> None:
    """Under "warn" the same sentence is a warning, given once, and the request passes."""
    request, day, words = NOES[no]
    warned: set[str] = set()
    with pytest.warns(RatecardWarning, match=words):
        check(request, "warn", day, warned)
    before = set(warned)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(request, "warn", day, warned)
    assert warned == before


@pytest.mark.parametrize("no", NOES)
def test_preflight_can_be_switched_off(no: str) -> None:
    """Under "off" nothing is raised and nothing is warned."""
    request, day, _ = NOES[no]
    warned: set[str] = set()
    check(request, "off", day, warned)
    assert not warned


@pytest.mark.parametrize(
    "request_",
    [
        call(),
        call(stream=False),
        call(stream=None),
        call(background=True, max_output_tokens=100_000),
        call(tools=[{"type": "function", "name": "f"}]),
        call(max_output_tokens="many"),
        call(input=LONG[:800_000]),
        call(model="o3-mini", stream=True),
        Call(CHAT, {"model": "o3", "messages": [{"role": "user", "content": "Hello!"}]}),
        Call("/v1/images/variations", {"model": "o3-pro"}),
        chat("o1"),
        chat("o4-mini", tools=[FUNCTION], stream=True),
        chat("gpt-6-rosalind", tools=[FUNCTION]),
        chat("gpt-6-sol", tools=[FUNCTION], reasoning_effort="none"),
        chat("gpt-6-astra", reasoning_effort="low"),
        call(model="gpt-6-astra", tools=[FUNCTION], reasoning={"effort": "max"}),
        call("/v1/audio/transcriptions", model="whisper-1"),
        call("/v1/embeddings", model="text-embedding-3-small", input=[LONG[:300_000]] * 4),
    ],
    ids=lambda request_: f"{request_.model} {request_.endpoint} {sorted(request_.body)}",
)
def test_what_the_card_does_not_rule_out_passes(request_: Call) -> None:
    """A request within the card passes without a word, and a fact the table does not state stops nothing."""
    assert passes(request_)


@pytest.mark.parametrize("model", ["gpt-99", "o3-pro-max", "ft:o9:acme::1", "", None, 5])
def test_unknown_models_pass(model: Any) -> None:
    """About a model without a card there is nothing to say, whatever the request."""
    assert passes(call(CHAT, model=model, stream=True, max_tokens=10**9), date(2030, 1, 1))


def test_the_last_day_before_a_shutdown_still_works() -> None:
    """Until the day before its shutdown a model is offered, with a warning; from that day on it is not."""
    with pytest.warns(RatecardWarning, match="o3-pro shuts down on 2026-12-11, in 1 day"):
        check(call(), "raise", LAST - timedelta(days=1), set())
    with pytest.raises(NotOffered):
        check(call(), "raise", LAST, set())


def test_a_near_shutdown_is_warned_of_once() -> None:
    """Within sixty days of a shutdown the first request warns, with date and days left, and the next ones do not."""
    assert WARN_DAYS == 60
    day = LAST - timedelta(days=60)
    warned: set[str] = set()
    with pytest.warns(RatecardWarning, match="shuts down on 2026-12-11, in 60 days"):
        check(call(), "raise", day, warned)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(call(), "raise", day, warned)
    assert passes(call(), day - timedelta(days=1))


def test_an_image_is_no_proof_of_a_long_input() -> None:
    """Only what the input has at least counts against the context window: a guess about images stops nothing."""
    images = [{"type": "input_image", "image_url": "data:image/png;base64," + "A" * 300_000}] * 8
    assert passes(call(input=[{"role": "user", "content": images}]))


def test_the_free_tier_does_not_have_o3_pro() -> None:
    """On the Free tier o3-pro is refused before anything is sent, with model and tier named."""
    limiter = ratelimit.Limiter(tier="free")
    with pytest.raises(NotOffered, match="o3-pro is not supported in the free tier"):
        limiter.reserve(model="o3-pro", tokens=100)
    with pytest.raises(NotOffered):
        limiter.gate("o3-pro-2025-06-10")
