"""`--no-cache` and RATECARD_CACHE=off on the command line, and answers that a cache does not change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Ended

COMMANDS = {
    "estimate": ["--at", "2026-08-01"],
    "forecast": ["--at", "2026-08-01", "--tier", "tier_1"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("off", ["variable", "option"])
def test_off_is_off(
    ratecard: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, off: str
) -> None:
    """Neither makes nor touches a file, in any process; with a cache, the first and the second answer are the same."""
    path, cache = tmp_path / "job.jsonl", tmp_path / "cache"
    rows = ({"model": "o3", "input": f"{number} " + "word " * 200} for number in range(2_500))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RATECARD_CACHE", "off" if off == "variable" else str(cache))
    arguments = [command, str(path), *COMMANDS[command], "--jobs", "2", "--json"]
    without = ratecard(*arguments, *(["--no-cache"] if off == "option" else []))
    assert without.code == 0, without.err
    assert [one.name for one in tmp_path.iterdir()] == ["job.jsonl"]
    monkeypatch.setenv("RATECARD_CACHE", str(cache))
    first, second = ratecard(*arguments), ratecard(*arguments)
    assert (cache / "counts.db").is_file()
    assert without.document == first.document == second.document
