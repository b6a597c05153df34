"""Token counts that are kept between runs: the same with and without, never a text, and never an error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pricing.tokens import count_input
from ratelimit import counted
from ratelimit.counted import counts
from ratelimit.job import BadLine, Line

texts = st.text(min_size=1, max_size=40)
bodies = st.fixed_dictionaries({"model": st.sampled_from(["o3", "gpt-4o", "gpt-3.5-turbo", "unknown"]), "input": texts})


def line(body: dict[str, Any]) -> Line:
    raw = json.dumps(body).encode()
    return Line(1, "a", "/v1/responses", body, hashlib.blake2b(raw, digest_size=16).digest())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, used for any number of lines."""
    monkeypatch.setenv(counted.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(counted, "LEAST_LINES", 1)
    return tmp_path / "cache" / "counts.db"


@given(st.lists(bodies, min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_counts_are_the_same_with_and_without(cache: Path, bodies: list[dict[str, Any]]) -> None:
    """The first time, the second time, and without a cache: what `count_input` says, in the same places."""
    lines = [*map(line, bodies), BadLine(9, "nonsense"), None]
    plain = [count_input(body, "/v1/responses") for body in bodies]
    for use in (True, True, False):
        assert counts(lines, use=use) == [*plain, None, None]


def test_the_second_time_nothing_is_counted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts come from the cache; the same line for another model is another count."""
    lines = [line({"model": "o3", "input": "a few words"})]
    before = counts(lines)
    monkeypatch.setattr(counted, "count_input", lambda *_: pytest.fail("counted again"))
    assert counts(lines) == before
    other = lines[0]._replace(body={**lines[0].body, "model": "gpt-3.5-turbo"})
    with pytest.raises(pytest.fail.Exception):
        counts([other])


def test_no_text_is_kept_and_nobody_else_reads_it(cache: Path) -> None:
    """Digests and numbers: the prompt is not in the file, which only its owner opens."""
    counts([line({"model": "o3", "input": "a-very-secret-prompt"})])
    assert b"secret" not in cache.read_bytes()
    assert cache.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"nonsense" * 999), lambda path: path.chmod(0)])
def test_a_cache_that_cannot_be_used_is_not_used(cache: Path, spoil: Callable[[Path], Any]) -> None:
    """A file that is none, or cannot be opened: the counts are right, there is no error, and the next run has one."""
    lines = [line({"model": "o3", "input": "a few words"})]
    expected = counts(lines)
    spoil(cache)
    assert counts(lines) == expected
    assert counts(lines) == expected


def test_off_means_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RATECARD_CACHE=off writes nothing anywhere."""
    monkeypatch.setattr(counted, "LEAST_LINES", 1)
    monkeypatch.setenv(counted.VARIABLE, "off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    counts([line({"model": "o3", "input": "a few words"})])
    assert list(tmp_path.iterdir()) == []


def test_several_write_at_once(cache: Path) -> None:
    """Whoever comes too late counts for himself."""
    lines = [[line({"model": "o3", "input": f"word {number} {place}"}) for place in range(60)] for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(counts, lines))
    assert found == [[count_input(one.body, one.endpoint) for one in some] for some in lines]


def test_what_counts_is_part_of_the_key(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of the counting code an old count is not believed."""
    lines = [line({"model": "o3", "input": "a few words"})]
    counts(lines)
    monkeypatch.setattr(counted, "_counting", lambda: b"other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counted, "count_input", lambda *_: pytest.fail("counted again"))
        with pytest.raises(pytest.fail.Exception):
            counts(lines)
