"""Prompt suites on the command line: whatever takes a job takes a suite."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pricing import count_tokens

SUITE = """\
prompts:
  - "Translate to {{ language }}: {{ text }}"
  - file://kind.txt
providers:
  - id: openai:responses:o3
    config: {max_output_tokens: 100}
tests:
  - vars: {text: Good morning, language: [French, Dutch, Welsh]}
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite of six requests, in a folder of its own."""
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "kind.txt").write_text("Kindly say {{text}}", encoding="utf-8")
    path = folder / "promptfooconfig.yaml"
    path.write_text(SUITE, encoding="utf-8")
    return path


@pytest.fixture
def same(tmp_path: Path) -> Path:
    """The same six requests as a job, written out by hand."""
    texts = [
        text
        for language in ("French", "Dutch", "Welsh")
        for text in (f"Translate to {language}: Good morning", "Kindly say Good morning")
    ]
    path = tmp_path / "same.jsonl"
    lines = [{"model": "o3", "input": text, "max_output_tokens": 100} for text in texts]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_a_suite_is_estimated_as_the_job_it_stands_for(ratecard: Callable[..., Any], suite: Path, same: Path) -> None:
    """`ratecard estimate suite.yaml --json` says what it says of the same requests written out, line by line."""
    ended = ratecard("estimate", str(suite), "--json", "--lines", "--at", "2026-07-01")
    assert ended.code == 0
    written_out = ratecard("estimate", str(same), "--json", "--lines", "--at", "2026-07-01").document
    names = [row.pop("custom_id") for row in ended.document["rows"]]
    assert len(names) == 6
    found = ended.document
    for row in (*found["rows"], *written_out["rows"]):
        row.pop("custom_id", None)
    assert found == written_out
    assert names[:3] == ["prompt-1/o3/1.1", "kind.txt/o3/1.1", "prompt-1/o3/1.2"]
    assert found["rows"][1]["input_tokens"] >= count_tokens("Kindly say Good morning", model="o3")


def test_a_suite_is_forecast_as_the_job_it_stands_for(ratecard: Callable[..., Any], suite: Path, same: Path) -> None:
    """`ratecard forecast suite.yaml --json` is the forecast of the same requests written out."""
    options = ("--json", "--tier", "tier_1", "--at", "2026-07-01")
    ended = ratecard("forecast", str(suite), *options)
    assert ended.code == 0
    assert ended.document == ratecard("forecast", str(same), *options).document
    assert ended.document["requests"] == 6


def test_what_a_suite_has_that_is_not_understood_is_one_line(ratecard: Callable[..., Any], suite: Path) -> None:
    """A suite with code in it ends with exit code 1 and a message that has its file, line and key."""
    suite.write_text(SUITE.replace("kind.txt", "kind.py"), encoding="utf-8")
    for command in ("estimate", "forecast"):
        ended = ratecard(command, str(suite), "--json")
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith(f"error: {suite}:3: prompts[1]: 'kind.py' is code, and nothing is run here")


def test_bad_requests_of_a_suite_are_told_and_counted(ratecard: Callable[..., Any], suite: Path) -> None:
    """A missing variable and a provider of others are bad lines in the JSON, and the rest is estimated."""
    other = SUITE.replace("tests:", "  - mistral:large\ntests:\n  - vars: {text: Hello}")
    suite.write_text(other, encoding="utf-8")
    ended = ratecard("estimate", str(suite), "--json")
    assert ended.code == 1
    assert ended.document["lines"] == 7
    reasons = [one["reason"] for one in ended.document["bad_lines"]]
    assert len(reasons) == 9
    assert reasons[0] == "prompt 'prompt-1', test '1': variable 'language' is missing"
    assert reasons[1].startswith("provider 'mistral:large' is not one of OpenAI's API")
