"""What the server charges at admission: which formula holds when, and what is only assumed."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.tokens import Count, count_input
from ratelimit.demand import Demand, demand, normal_endpoint
from ratelimit.errors import ConfigError
from ratelimit.tiers import POLICIES

CHAT, RESPONSES, EMBEDDINGS, COMPLETIONS = "/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/completions"
DAY = date(2026, 3, 31)


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": text} for text in texts], **more}


def tokens(body: dict[str, Any], endpoint: str = CHAT, **settings: Any) -> int:
    return demand(body, endpoint=endpoint, **{"at": DAY, **settings}).tokens


def test_an_unknown_policy_is_refused() -> None:
    """A policy that does not exist is a ConfigError which lists those that do."""
    with pytest.raises(ConfigError, match="'hopeful'; known: observed, documented, conservative"):
        demand(chat("Hello!"), endpoint=CHAT, policy="hopeful")


@pytest.mark.parametrize("body", [None, [], "{}", 5, b"{}"])
def test_a_body_is_an_object(body: Any) -> None:
    """What is no JSON object is a ConfigError, whatever the endpoint."""
    with pytest.raises(ConfigError, match="JSON object"):
        demand(body, endpoint=CHAT)


@pytest.mark.parametrize(
    ("spellings", "normal"),
    [
        (
            (
                "/chat/completions",
                "chat/completions",
                "/v1/chat/completions",
                "/v1/chat/completions/",
                "https://api.openai.com/v1/chat/completions",
                "https://x.openai.azure.com/openai/deployments/o3/chat/completions?api-version=2025-01-01",
            ),
            CHAT,
        ),
        (("/responses", "responses", "/v1/responses", "https://api.openai.com/v1/responses"), RESPONSES),
        (("/embeddings", "/v1/embeddings", "https://api.openai.com/v1/embeddings"), EMBEDDINGS),
        (("/completions", "/v1/completions", "https://api.openai.com/v1/completions"), COMPLETIONS),
    ],
)
def test_spellings_of_an_endpoint_are_one(spellings: tuple[str, ...], normal: str) -> None:
    """However an endpoint is spelled, the demand is the same; Chat is not taken for legacy completions."""
    body = {**chat("Hello, world!", "again"), "input": "Hello!", "prompt": "Hello there, world"}
    for spelling in spellings:
        assert normal_endpoint(spelling) == normal
        for policy in POLICIES:
            assert demand(body, endpoint=spelling, policy=policy, at=DAY) == demand(
                body, endpoint=normal, policy=policy, at=DAY
            )


@pytest.mark.parametrize(
    ("day", "charged"),
    [
        (date(2024, 2, 1), 5 + 2 + 1 * 50),
        (date(2025, 3, 21), 5 + 2 + 1 * 50),
        (date(2025, 3, 22), 5 + 2 + 1),
        (date(2026, 12, 1), 5 + 2 + 1),
    ],
)
def test_the_day_chooses_the_formula(day: date, charged: int) -> None:
    """Until 2025-03-21 Chat is charged its max_tokens; from the next day it is not."""
    assert tokens(chat("a" * 17, "b", max_tokens=50), at=day) == charged


def test_today_is_the_day_unless_told() -> None:
    """Without a day, the formula in force holds."""
    body = chat("a" * 17, max_tokens=50)
    assert demand(body, endpoint=CHAT).tokens == tokens(body)


def test_old_chat_reserves_sixteen_tokens_a_choice() -> None:
    """Before the switch a Chat request without max_tokens was charged 16 for each choice."""
    assert tokens(chat("a" * 18), at=date(2024, 11, 1)) == 5 + 1 + 16
    assert tokens(chat("a" * 18, n=2), at=date(2024, 11, 1)) == 5 + 1 + 32


def test_observed_chat_ignores_output_and_tools() -> None:
    """Today a Chat charge is a quarter of the bytes, a token a message and one a choice; caps and tools are free."""
    plain = tokens(chat("a" * 9, "b" * 8))
    assert plain == 5 + 2 + 1
    for cap in ("max_tokens", "max_completion_tokens"):
        assert tokens(chat("a" * 9, "b" * 8, **{cap: 9_000}, tools=[{"type": "function"}])) == plain
    assert tokens(chat("a" * 9, "b" * 8, n=4)) == plain + 3


def test_bytes_are_charged_not_characters() -> None:
    """The observed charge counts UTF-8 bytes; the documented one counts characters."""
    assert tokens(chat("漢" * 8)) == 6 + 1 + 1
    assert tokens(chat("漢" * 8), policy="documented") == 2


def test_an_image_has_a_flat_charge() -> None:
    """Images in Chat are counted, and each is charged 765 tokens whatever its size."""
    parts = [{"type": "text", "text": "a" * 8}] + [{"type": "image_url", "image_url": {"url": "https://x"}}] * 2
    charged = demand({"model": "gpt-4o", "messages": [{"role": "user", "content": parts}]}, endpoint=CHAT, at=DAY)
    assert charged == Demand(1, 2 + 1 + 1 + 2 * 765, 2)


def test_documented_is_the_larger_of_input_and_cap() -> None:
    """The guide's sentence: the maximum of max_tokens and a quarter of the characters."""
    assert tokens(chat("a" * 400), policy="documented") == 100
    assert tokens(chat("a" * 400, max_tokens=99), policy="documented") == 100
    assert tokens(chat("a" * 400, max_tokens=5_000), policy="documented") == 5_000


def test_responses_are_charged_their_input_and_a_constant() -> None:
    """A Responses charge is the exact input and the family's constant: 19, or 217 with function tools."""
    body = {"model": "gpt-4.1-nano", "input": "Hello!", "max_output_tokens": 1_024}
    assert tokens(body, RESPONSES) == count_input(body, RESPONSES).tokens + 19
    assert tokens({**body, "tools": [{}]}, RESPONSES, count=Count(58, 58, 58)) == 58 + 217


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-mini", "gpt-4.1-nano", "gpt-4.1-mini-2025-04-14", "gpt-5-nano"])
def test_families_with_evidence_are_not_assumed(model: str) -> None:
    """Where recorded headers back the constant, the demand says so for snapshots and sizes of the family alike."""
    assert not demand({"model": model, "input": "Hello!"}, endpoint=RESPONSES, at=DAY).assumed


@pytest.mark.parametrize("model", ["o3-pro", "o3", "o3-mini", "gpt-5", "gpt-5-mini", "gpt-99", "gpt-4ooo", "", None, 5])
def test_families_without_evidence_are_assumed(model: Any) -> None:
    """Where no recorded header backs the constant, the largest one known is charged and marked as assumed."""
    charged = demand({"model": model, "input": "Hello!"}, endpoint=RESPONSES, at=DAY, count=Count(9, 9, 9))
    assert (charged.tokens, charged.assumed) == (9 + 217, True)


def test_an_endpoint_without_a_formula_is_charged_its_text() -> None:
    """Where no row says what is charged, a quarter of the bytes is, and the images asked for, marked as assumed."""
    for endpoint in ("/v1/moderations", "moderations"):
        assert demand({"input": "Hellö!"}, endpoint=endpoint) == Demand(1, 2, assumed=True)
    parts = [{"type": "text", "text": "x" * 40}, {"type": "image_url", "image_url": {"url": "https://x"}}]
    assert demand({"input": parts}, endpoint="/v1/moderations") == Demand(1, 10, assumed=True)
    body = {"model": "gpt-image-1", "prompt": "x" * 40, "n": 3}
    assert demand(body, endpoint="/v1/images/generations") == Demand(1, 10, 3, assumed=True)
    assert demand({"input": "Hello!"}, endpoint="/v1/responses", at=date(2020, 1, 1)) == Demand(1, 2, assumed=True)


def test_an_endpoint_that_nobody_knows_is_refused() -> None:
    """A misspelt endpoint is no request without tokens: the error names it and those there are."""
    for endpoint in ("/v1/response", "https://api.openai.com/v1/chat", ""):
        with pytest.raises(ConfigError, match=r"unknown endpoint .*/v1/chat/completions, /v1/responses"):
            demand({"model": "o3", "input": "Hello!"}, endpoint=endpoint)


def test_token_arrays_are_charged_by_the_token() -> None:
    """An embeddings input given as tokens is charged one for each, alone or in a list of inputs."""
    assert tokens({"model": "text-embedding-3-small", "input": list(range(40))}, EMBEDDINGS) == 40
    assert tokens({"model": "text-embedding-3-small", "input": [[1, 2, 3], [4, 5]]}, EMBEDDINGS) == 5
    assert tokens({"model": "text-embedding-3-small", "input": ["a" * 8, "b" * 9]}, EMBEDDINGS) == 4


TEXTS = st.lists(st.text(max_size=300) | st.integers(0, 30_000).map(lambda n: " " * n), min_size=1, max_size=3)


@given(TEXTS, st.none() | st.integers(1, 9_000), st.none() | st.integers(1, 4), st.sampled_from([CHAT, RESPONSES]))
@settings(max_examples=100)
def test_conservative_is_never_below_the_others(
    texts: list[str], cap: int | None, n: int | None, endpoint: str
) -> None:
    """Whatever the text and the cap, the safe side charges at least what headers and guide say."""
    body: dict[str, Any] = {**chat(*texts), "input": [{"role": "user", "content": text} for text in texts]}
    if cap is not None:
        body["max_output_tokens" if endpoint == RESPONSES else "max_completion_tokens"] = cap
    if n is not None and endpoint == CHAT:
        body["n"] = n
    safe = tokens(body, endpoint, policy="conservative")
    assert safe >= tokens(body, endpoint, policy="observed")
    assert safe >= tokens(body, endpoint, policy="documented")


def test_conservative_adds_the_whole_output() -> None:
    """The safe side charges the exact input and every token the reply may have."""
    body = chat("Hello!", max_completion_tokens=9_000, n=2)
    assert tokens(body, policy="conservative") >= count_input(body, CHAT).tokens + 2 * 9_000


@given(st.text(max_size=200), st.text(max_size=200))
def test_more_text_never_costs_less(text: str, more: str) -> None:
    """The observed charge only grows with the text."""
    assert tokens(chat(text + more)) >= tokens(chat(text))
    assert tokens(chat(text, more)) > tokens(chat(text))
