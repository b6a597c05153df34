"""Token counts that the API reported, against what we count before sending."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pricing.tokens import Count, count_input, count_tokens

DATA = Path(__file__).parent.parent / "data"
ENDPOINTS = {"chat": "/v1/chat/completions", "responses": "/v1/responses"}
IN_BODY = ("model", "instructions", "tools", "tool_choice")

UNEXPLAINED = {
    # 29 tokens of "Explain me how to cook uruguayan alfajor…"; recorded on 2025-03-27 as 88.
    "pai-66": 59,
}
"""An early Responses call whose reported input holds a prompt that nobody sent: id → tokens that we miss."""

HIDDEN = {"pai-63": 225}
"""Another one, with a tool: within our bounds, which know of such calls. id → tokens beyond our best number."""

NOT_PUBLISHED = {"pai-89": -11}
"""Families with a message format of their own (search-preview): id → what the API reported beyond our best number."""

BY_HAND = {"test_openai_responses_verbosity.yaml#0": -3, "test_responses_usage_limit_not_exceeded.yaml#1": 1}
"""Cases whose replies name gpt-5 and gpt-4.1-mini, where every other reply names their snapshots: most likely written
by hand. Name → tokens beyond our number."""

OTHER_ITEMS = ("compaction", "additional_tools", "configuration_update")
"""Input items that are no messages, in cases that are otherwise plain."""


@cache
def rows() -> tuple[dict[str, Any], ...]:
    with gzip.open(DATA / "fixtures.json.gz", "rt", encoding="utf-8") as file:
        return tuple(json.load(file)["token_counts"])


@cache
def cases() -> tuple[dict[str, Any], ...]:
    with gzip.open(DATA / "token_cases.json.gz", "rt", encoding="utf-8") as file:
        return tuple(json.load(file))


def count(row: dict[str, Any]) -> Count:
    body = {key: row[key] for key in IN_BODY if key in row}
    if "matches cl100k_base" in row["model"]:
        body["model"] = "gpt-4"  # a printed example without a model
    body["messages" if row["endpoint"] == "chat" else "input"] = row["messages"]
    return count_input(body, ENDPOINTS[row["endpoint"]])


def with_id(row_id: str) -> dict[str, Any]:
    return next(row for row in rows() if row["id"] == row_id)


def test_plain_messages_are_counted_exactly() -> None:
    """Every recorded plain prompt the rules cover is counted to the token: roles, names, instructions, snapshots."""
    plain = [row for row in rows() if "tools" not in row and row["id"] not in UNEXPLAINED | NOT_PUBLISHED]
    assert len(plain) == 30
    assert [row["id"] for row in plain if count(row).tokens != row["input_tokens"]] == []


def test_almost_all_plain_messages_are_exact_with_the_odd_ones_counted_in() -> None:
    """Nothing hides in the exclusions: with every odd row counted in, 30 of 32 plain prompts are exact."""
    plain = [row for row in rows() if "tools" not in row]
    exact = sum(count(row).tokens == row["input_tokens"] for row in plain)
    assert (exact, len(plain)) == (30, 32)


def test_tools_are_counted_closely() -> None:
    """Of the recorded prompts with tools at least nine in ten are met within six tokens, most of them within one."""
    errors = [count(row).tokens - row["input_tokens"] for row in rows() if "tools" in row]
    assert len(errors) == 21
    assert sum(abs(error) <= 6 for error in errors) == 19
    assert sum(abs(error) <= 1 for error in errors) == 19


def test_the_truth_lies_within_the_bounds() -> None:
    """Whatever is not exact says so, and the reported count lies between low and high."""
    for row in rows():
        counted = count(row)
        assert counted.low <= counted.tokens <= counted.high
        assert counted.exact == (not counted.why)
        if row["id"] not in UNEXPLAINED:
            assert counted.low <= row["input_tokens"] <= counted.high, row["id"]
        if counted.exact:
            assert counted.low == counted.high


@pytest.mark.parametrize("row_id", [*UNEXPLAINED, *HIDDEN, *NOT_PUBLISHED])
def test_the_odd_rows_stay_as_odd_as_they_were(row_id: str) -> None:
    """A row that is excused is off by what its excuse says, so that a new mistake cannot hide behind it."""
    row = with_id(row_id)
    assert row["input_tokens"] - count(row).tokens == (UNEXPLAINED | HIDDEN | NOT_PUBLISHED)[row_id]


def test_the_first_chat_model_has_its_own_rule() -> None:
    """gpt-3.5-turbo-0301 counts four tokens a message, and a name takes the place of the role."""
    row = with_id("cookbook-ex1-gpt-3.5-turbo-0301")
    assert count(row) == (127, 127, 127, True, "")
    assert count_tokens(row["messages"], "gpt-3.5-turbo") == 129


def test_families_with_their_own_format_are_not_exact() -> None:
    """search-preview and o1-mini prompts are counted in a format nobody published, and are marked as inexact."""
    messages = [
        {"role": "user", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What's the capital of France?"},
    ]
    for model, reported in (("o1-mini-2024-09-12", 30), ("gpt-4o-search-preview-2025-03-11", None)):
        counted = count_input({"model": model, "messages": messages}, "/v1/chat/completions")
        assert not counted.exact
        assert "not published" in counted.why
        if reported is not None:
            assert counted.low <= reported <= counted.high


def test_empty_instructions_are_no_message() -> None:
    """The recorded request of this row carried empty instructions, and they were not billed as a message."""
    row = with_id("pai-67")
    assert count(row | {"instructions": ""}) == count(row) == (15, 15, 15, True, "")


def errors_of(*features: str) -> list[int]:
    """Our number minus the reported one, for every case with these features and no others."""
    return [
        count_input(case["request"], case["endpoint"]).tokens - case["input_tokens"]
        for case in cases()
        if set(case["features"]) - {"published"} == set(features)
        and not any(f'"{kind}"' in json.dumps(case["request"]) for kind in OTHER_ITEMS)
    ]


def test_almost_all_plain_cases_are_exact() -> None:
    """Texts and messages of 2024 to 2026, hand-written and pro-mode cases counted in: 19 of 20 to the token."""
    errors = errors_of()
    assert len(errors) == 156
    assert sum(error == 0 for error in errors) >= 0.95 * len(errors)


@pytest.mark.parametrize(("features", "number"), [(("tools",), 125), (("tools", "tool_history"), 80)])
def test_tool_cases_are_counted_closely(features: tuple[str, ...], number: int) -> None:
    """Definitions, and calls with their results: 17 of 20 are met within six tokens."""
    errors = errors_of(*features)
    assert len(errors) == number
    assert sum(abs(error) <= 6 for error in errors) >= 0.85 * len(errors)


def test_every_case_lies_within_its_bounds() -> None:
    """Schemas, images, audio, files, hosted tools and items of every kind: the reported count is within our bounds."""
    outside = {}
    for case in cases():
        counted = count_input(case["request"], case["endpoint"])
        assert counted.exact == (not counted.why)
        if not counted.low <= case["input_tokens"] <= counted.high:
            outside[case["source"].split()[-1]] = case["input_tokens"] - counted.tokens
    assert outside == BY_HAND
