"""Token counts that the API reported, against what we count before sending."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pricing.tokens import Count, count_input, count_tokens

DATA = Path(__file__).parent.parent / "data" / "fixtures.json.gz"
ENDPOINTS = {"chat": "/v1/chat/completions", "responses": "/v1/responses"}
IN_BODY = ("model", "instructions", "tools", "tool_choice")

UNEXPLAINED = {
    # 29 tokens of "Explain me how to cook uruguayan alfajor…"; recorded on 2025-03-27 as 88.
    "pai-66": 59,
    # One output function of two properties is 58 tokens; recorded, in the same suite, as 286.
    "pai-63": 228,
}
"""Early Responses calls whose reported input holds a prompt that nobody sent: id → tokens that we miss."""

NOT_PUBLISHED = {"pai-89": -11}
"""Families with a message format of their own (search-preview): id → what the API reported beyond our best number."""


@cache
def rows() -> tuple[dict[str, Any], ...]:
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        return tuple(json.load(file)["token_counts"])


def count(row: dict[str, Any]) -> Count:
    body = {key: row[key] for key in IN_BODY if key in row}
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
    assert sum(abs(error) <= 1 for error in errors) == 16


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


@pytest.mark.parametrize("row_id", [*UNEXPLAINED, *NOT_PUBLISHED])
def test_the_odd_rows_stay_as_odd_as_they_were(row_id: str) -> None:
    """A row that is excused is off by what its excuse says, so that a new mistake cannot hide behind it."""
    row = with_id(row_id)
    assert row["input_tokens"] - count(row).tokens == (UNEXPLAINED | NOT_PUBLISHED)[row_id]


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
