"""What the server charged, read from recorded headers, against what we would have said."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pricing.tokens import Count
from ratelimit.demand import demand
from ratelimit.emulator.buckets import Bucket
from ratelimit.headers import read_refusal
from ratelimit.limit import named

DATA = Path(__file__).parent.parent / "data" / "fixtures.json.gz"
SWITCH = "2025-03-22"
"""From this day on recorded Chat charges leave max_tokens out."""

IMAGE_NOT_CHARGED = ("2024-02-27", "test_vision.yaml")
"""The oldest image row: charged as its 22 characters, while every later one shows 765 for the image."""
OTHER_CONSTANT = ("2026-03-31", "test_responses_reasoning_dict_issue.yaml")
"""gpt-5-nano charged input + 612 once; the same request seven months before: input + 216."""
KNOWN_CONSTANT = ("gpt-4o", "gpt-4.1", "gpt-5-nano", "gpt-5.4")


@cache
def rows(group: str) -> list[dict[str, Any]]:
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        return json.load(file)[group]


def text_of(chars: int, utf8_bytes: int) -> str:
    """Build a text with exactly these sizes."""
    emojis, rest = divmod(utf8_bytes - chars, 3)  # an emoji has three bytes more than characters, é one, € two
    head = "😀" * emojis + ("", "é", "€")[rest]
    text = head + "a" * (chars - len(head))
    assert (len(text), len(text.encode())) == (chars, utf8_bytes)
    return text


def body_of(row: dict[str, Any]) -> dict[str, Any]:
    """Rebuild a request with the sizes of the recorded one; the text itself was not kept."""
    text = text_of(row["text_chars"], row["text_utf8_bytes"])
    more = row["messages"] - 1
    body: dict[str, Any] = {"model": row["model"]}
    if row["endpoint"] in ("/chat/completions", "/responses"):
        parts = [{"type": "text", "text": text}] + [{"type": "image_url", "image_url": {"url": "https://x"}}] * row.get(
            "images", 0
        )
        messages = [{"role": "user", "content": parts}] + [{"role": "assistant", "content": ""}] * more
        body["messages" if row["endpoint"] == "/chat/completions" else "input"] = messages
    else:
        body["input" if row["endpoint"] == "/embeddings" else "prompt"] = [text, *[""] * more]
    for key, name in (("n", "n"), ("stream", "stream"), ("max_tokens_value", row.get("max_tokens_param"))):
        if key in row:
            body[name] = row[key]
    if row.get("has_tools"):
        body["tools"] = [{"type": "function", "function": {"name": "recorded_without_its_definition"}}]
    return body


def error_of(row: dict[str, Any]) -> int:
    """Ours minus the server's, in tokens."""
    actual = row.get("actual_input_tokens")
    ours = demand(
        body_of(row),
        endpoint=row["endpoint"],
        at=date.fromisoformat(row["date"]),
        count=None if actual is None else Count(actual, actual, actual),
    )
    return ours.tokens - row["charged_tokens"]


def within(errors: Iterable[int], bound: int) -> bool:
    return all(abs(error) <= bound for error in errors)


def name(row: dict[str, Any]) -> tuple[str, str]:
    return row["date"], row["file"]


def test_chat_charges_of_today_are_reproduced() -> None:
    """Every recorded Chat charge since the switch is met within two tokens, 102 of 109 within one and 65 exactly."""
    errors = [error_of(row) for row in rows("admission_charges") if is_chat(row) and row["date"] >= SWITCH]
    assert len(errors) == 109
    assert within(errors, 2)
    assert sum(error == 0 for error in errors) == 65
    assert sum(abs(error) <= 1 for error in errors) == 102


def test_older_chat_charges_are_reproduced() -> None:
    """Every recorded Chat charge before the switch is met within one token, bar the one image that was not charged."""
    old = [row for row in rows("admission_charges") if is_chat(row) and row["date"] < SWITCH]
    odd = [row for row in old if name(row) == IMAGE_NOT_CHARGED and row.get("images")]
    errors = [error_of(row) for row in old if row not in odd]
    assert (len(errors), len(odd)) == (82, 1)
    assert within(errors, 1)
    assert [error_of(row) for row in odd] == [765]


def is_chat(row: dict[str, Any]) -> bool:
    return row["endpoint"] == "/chat/completions"


def test_an_image_is_charged_765() -> None:
    """Recorded Chat calls with an image are met within two tokens by one flat charge, whatever the image."""
    errors = [
        error_of(row) for row in rows("admission_charges") if row.get("images") and name(row) != IMAGE_NOT_CHARGED
    ]
    assert len(errors) == 4
    assert within(errors, 2)


def test_embedding_charges_are_reproduced() -> None:
    """Every recorded Embeddings charge is met within one token, single texts and lists alike."""
    # Token arrays are not told apart in these rows; tests/laws/test_demand.py has their law.
    errors = [error_of(row) for row in rows("admission_charges") if row["endpoint"] == "/embeddings"]
    assert len(errors) == 31
    assert within(errors, 1)


def test_legacy_completion_charges_are_reproduced() -> None:
    """Every recorded charge of /completions is met within one token, with max_tokens added before and ignored since."""
    errors = [error_of(row) for row in rows("admission_charges") if row["endpoint"] == "/completions"]
    assert len(errors) == 8
    assert within(errors, 1)


def test_responses_charges_are_reproduced_where_the_constant_is_known() -> None:
    """Recorded Responses charges of families with a known constant are met within two tokens, bar one that doubled."""
    known = [row for row in rows("admission_charges") if is_known_response(row)]
    errors = [error_of(row) for row in known if not is_doubled(row)]
    assert len(errors) == len(known) - 1 == 22
    assert within(errors, 2)
    assert [error_of(row) for row in known if is_doubled(row)] == [-395]


def is_doubled(row: dict[str, Any]) -> bool:
    return name(row) == OTHER_CONSTANT and row["model"] == "gpt-5-nano"


def is_known_response(row: dict[str, Any]) -> bool:
    return row["endpoint"] == "/responses" and row["model"].startswith(KNOWN_CONSTANT)


def test_other_responses_are_marked_as_assumed() -> None:
    """For families whose recorded Responses charges conflict the number is a guess, and says so."""
    others = [
        row for row in rows("admission_charges") if row["endpoint"] == "/responses" and not is_known_response(row)
    ]
    assert {row["model"] for row in others} == {"gpt-5", "gpt-5.5"}
    for row in others:
        assert demand(
            body_of(row), endpoint="/responses", at=date.fromisoformat(row["date"]), count=Count(9, 9, 9)
        ).assumed


@pytest.mark.parametrize("row", rows("try_again"), ids=lambda row: f"{row['kind']}-{row['limit']}-{row['used']}")
def test_try_again_is_the_time_a_bucket_needs(row: dict[str, Any]) -> None:
    """The wait of a 429 is (used + requested − limit) / limit × 60 s cut to ms: in the message and in the emulator."""
    limit, used, requested, wait_ms = row["limit"], row["used"], row["requested"], row["wait_ms"]
    assert (used + requested - limit) * 60_000 // limit == wait_ms

    what = {"TPM": "tokens per min (TPM)", "RPM": "requests per min (RPM)"}[row["kind"]]
    wait = f"{wait_ms}ms" if wait_ms < 1_000 else f"{wait_ms / 1000:g}s"
    message = (
        f"Rate limit reached for {row['model']} in organization org-x on {what}: Limit {limit}, Used {used}, Requested "
        f"{requested}. Please try again in {wait}. Visit https://platform.openai.com/account/rate-limits to learn more."
    )
    kind = "tokens" if row["kind"] == "TPM" else "requests"
    refusal = read_refusal({"error": {"message": message, "type": kind, "param": None, "code": "rate_limit_exceeded"}})
    assert (refusal.kind, refusal.limit_name) == ("rate", row["kind"].lower())
    assert (refusal.limit, refusal.used, refusal.requested) == (limit, used, requested)
    assert refusal.retry_after_us == wait_ms * 1000

    bucket = Bucket(named(row["kind"].lower(), limit))
    bucket.charge(used)
    refused = bucket.refusal(requested)
    assert refused is not None
    assert (refused.kind, refused.used, refused.again_ms, refused.wait_us // 1000) == ("rate", used, wait_ms, wait_ms)
