"""Law: what the command line prints for people is words in columns, whatever names and tags are made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pricing import Ledger, Usd
from ratelimit.cli._text import columns, shown

HOSTILE = "red\x1b[31m\x9b2J\nline\ttab\x07\u202eflip\ud800"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_printed(text: str) -> None:
    """A text becomes one line without control characters and hidden marks; a text that has none stays as it is."""
    line = shown(text)
    assert line.isascii() or all(one.isprintable() or one.isspace() for one in line)
    assert len(line.splitlines()) <= 1
    assert "\x1b" not in line
    assert not text.isprintable() or line == text
    line.encode()


@given(st.lists(st.tuples(st.text("ab", max_size=30), st.text("12,", max_size=30)), min_size=1))
def test_columns_are_as_wide_as_their_widest_cell(rows: list[tuple[str, str]]) -> None:
    """Every second column ends at the same place, whatever the first has."""
    widths = [max(len(row[place]) for row in rows) for place in (0, 1)]
    for row, line in zip(rows, columns(rows), strict=True):
        assert line == (row[0].ljust(widths[0]) + "  " + row[1].rjust(widths[1])).rstrip()


def test_a_report_of_hostile_tags_is_lines_of_text(ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """A tag or a model with escape sequences and line ends is spelt out in a report, and its columns stand."""
    path = str(tmp_path / "costs.db")
    with Ledger(path) as ledger:
        for team in (HOSTILE, "a team with a name of more than twenty-eight letters", "b"):
            ledger.pend(model="m\x1b[2J", endpoint="e", estimate=Usd(1), tags={"team": team})
    out = ratecard("ledger", "report", path, "--by", "tag:team", "--by", "model").out
    lines = out.removesuffix("\n").split("\n")
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    assert "\\x1b[31m" in out
    assert len({line.index("$") for line in lines}) == 1


def test_the_lines_of_an_estimate_are_columns(ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """With --lines, models of any length, prices and reasons stand in columns below their names."""
    job = tmp_path / "job.jsonl"
    models = ("o3", "gpt-4o-mini", "nobody-" + "x" * 40, "bad\x1b[2J")
    job.write_text("".join(json.dumps({"model": one, "input": "word"}) + "\n" for one in models), encoding="utf-8")
    head, *rows = ratecard("estimate", str(job), "--lines", "--at", "2026-07-15").out.splitlines()[:5]
    assert head.split("  ")[0] == "line"
    assert all(row.isprintable() for row in rows)
    for row, model in zip(rows, models, strict=True):
        assert row.index(model[:3]) == head.index("model")
    assert len({row.index(" no price") for row in rows[2:]}) == 1
