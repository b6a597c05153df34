"""Token counts that are kept between runs: the same with and without, never a text, and never an error."""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pricing import tokens
from pricing.tokens import count_input, quotes
from ratelimit import counted, pieces
from ratelimit.counted import counts, known
from ratelimit.forecast.workload import Reading, read_workload
from ratelimit.job import BadLine, Line, parse_line
from ratelimit.pieces import lines_of
from ratelimit.tally import Options, tally

ENDPOINTS = ("/v1/responses", "/v1/chat/completions", "/v1/embeddings")
texts = st.text(min_size=1, max_size=40)
bodies = st.fixed_dictionaries({"model": st.sampled_from(["o3", "gpt-4o", "gpt-3.5-turbo", "unknown"]), "input": texts})


def line(body: dict[str, Any]) -> Line:
    raw = json.dumps(body).encode()
    return Line(1, "a", "/v1/responses", body, hashlib.blake2b(raw, digest_size=16).digest())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, used for any number of lines."""
    monkeypatch.setenv(counted.VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "counts.db"


@given(st.lists(bodies, min_size=1, max_size=8))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


MARK = "zq7secret"
CASES = json.loads(gzip.decompress(Path(__file__).parents[1].joinpath("data/token_cases.json.gz").read_bytes()))


def marked(value: Any, rng: random.Random, share: float) -> Any:
    """A body in which so great a share of the texts, names, types and keys is a secret."""
    if isinstance(value, dict):
        return {marked(key, rng, share / 4): marked(item, rng, share) for key, item in value.items()}
    if isinstance(value, list):
        return [marked(item, rng, share) for item in value]
    secrets = (MARK, MARK + "'; input is str", f'"{MARK}', f"{value}-{MARK}", f"{MARK} {value}")
    return rng.choice(secrets) if isinstance(value, str) and rng.random() < share else value


@given(st.integers(0, len(CASES) - 1), st.integers(0, 2**32), st.sampled_from([0.02, 0.1, 0.5, 1.0]), st.booleans())
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_of_a_request_is_kept(cache: Path, case: int, seed: int, share: float, model: bool) -> None:
    """Recorded requests with a secret in some or all of their texts, types, names and keys: no file holds it."""
    body = marked(CASES[case]["request"], random.Random(seed), share)
    if model:
        body["model"] = "o3"
    secret = line(body)._replace(endpoint=CASES[case]["endpoint"])
    expected = [count_input(secret.body, secret.endpoint)]
    assert counts([secret]) == expected
    assert counts([secret]) == expected
    for path in cache.parent.glob("*"):
        assert MARK.encode() not in path.read_bytes()
    if MARK in expected[0].why:
        assert known([secret]) == [False]


@given(
    st.recursive(
        st.none() | st.integers() | st.just(MARK),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["type", "role", "content", "text", "name", "tools", "input", "file", "image_url", MARK]
                ),
                inner,
            )
        ),
    )
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_of_any_body_is_kept(cache: Path, value: Any) -> None:
    """Whatever stands where a request has its input, messages, tools or format, and whatever the endpoint."""
    body = {"model": "o3", **dict.fromkeys(("input", "messages", "tools", "text", "instructions"), value)}
    lines = [line(body)._replace(endpoint=endpoint) for endpoint in ENDPOINTS]
    assert counts(lines) == counts(lines) == [count_input(body, endpoint) for endpoint in ENDPOINTS]
    for path in cache.parent.glob("*"):
        assert MARK.encode() not in path.read_bytes()


def test_every_reason_says_what_it_shows() -> None:
    """What a reason of a count takes from a value is the name of its type, a word of ours, or in quotation marks."""
    folder = Path(tokens.__file__).parent
    shown = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if name not in ("doubt", "Range"):
                continue
            assert isinstance(node, ast.Call)
            reason = node.args[0 if name == "doubt" else -1]
            if isinstance(reason, ast.JoinedStr):
                shown |= {ast.unparse(part.value) for part in reason.values if isinstance(part, ast.FormattedValue)}
            elif isinstance(reason, ast.Constant):
                assert not quotes(str(reason.value))
            else:
                shown.add(ast.unparse(reason))
    types = {f"type({name}).__name__" for name in ("content", "message", "item", "value")}
    quoted = {"_shown(kind)", "_shown(body.get('model'))"}
    assert shown == types | quoted | {"key", "family.name", "why", "_BY_RULE"}


def test_reasons_of_our_own_are_kept(cache: Path) -> None:
    """Of the recorded requests most are known again, those with tools, images and files among them."""
    lines = [line(case["request"])._replace(endpoint=case["endpoint"]) for case in CASES]
    counts(lines)
    again = known(lines)
    assert sum(again) > 0.85 * len(lines)
    for case, is_known in zip(lines, again, strict=True):
        assert is_known is not quotes(count_input(case.body, case.endpoint).why)


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


def test_what_counts_is_part_of_the_key(cache: Path) -> None:
    """After a change of the counting code an old count is not believed."""
    lines = [line({"model": "o3", "input": "a few words"})]
    counts(lines)
    assert known(lines) == [True]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counted, "_counting", lambda: b"other")
        assert known(lines) == [False]
    assert known(lines) == [True]


def test_the_endpoint_is_part_of_the_key(cache: Path) -> None:
    """One line that is counted for several endpoints."""
    one = line({"model": "o3", "input": "a few words", "messages": [], "prompt": "others"})
    lines = [one._replace(endpoint=endpoint) for endpoint in ENDPOINTS]
    expected = [count_input(each.body, each.endpoint) for each in lines]
    assert len(set(expected)) > 1
    for each, count in zip(lines, expected, strict=True):
        assert counts([each]) == [count]


def test_all_code_that_counts_is_part_of_the_key() -> None:
    """Every module of ours that the counting imports, to any depth, and what makes a line of bytes."""
    root = Path(tokens.__file__).parents[2]
    left, seen = [Path(tokens.__file__)], set[Path]()
    while left:
        path = left.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                there = [folder.with_suffix(".py"), *(folder / f"{alias.name}.py" for alias in node.names)]
                left += [one for one in there if one.is_file()]
    covered = set(counted.files())
    assert {str(path.relative_to(root)) for path in seen} <= {str(path.relative_to(root)) for path in covered}
    assert {Path(sys.modules[made.__module__].__file__ or "") for made in (parse_line, lines_of, counts)} <= covered


READS = """
import sys, json, gzip, pathlib
opened = set()
sys.addaudithook(lambda event, given: event == "open" and not isinstance(given[0], int) and opened.add(given[0]))
import pricing.tokens
from pricing.tokens import count_input
cases = json.loads(gzip.open("tests/data/token_cases.json.gz").read())
for case in cases:
    count_input(case["request"], case["endpoint"])
root = pathlib.Path(pricing.__file__).parents[1]
from ratelimit.counted import files
ours = {str(path.resolve()) for path in files()}
for name in opened:
    path = pathlib.Path(str(name)).resolve()
    if path.is_relative_to(root / "data") and str(path) not in ours:
        print(path)
"""


def test_all_data_that_counts_are_part_of_the_key() -> None:
    """What files of facts and vocabularies are opened while recorded requests of all kinds are counted."""
    done = subprocess.run([sys.executable, "-c", READS], capture_output=True, text=True, check=True)
    assert done.stdout == ""


@pytest.mark.parametrize("number", range(4))
def test_a_file_or_package_that_changes_is_another_key(tmp_path: Path, number: int) -> None:
    """One byte more in a file that counts, or another version of a package, and nothing is believed."""
    kinds = ["messages.py", "models.yaml", "o200k_base.pairs.z", "cards.py"]
    before = counted._counting.__wrapped__()
    changed = next(path for path in counted.files() if path.name == kinds[number])
    with pytest.MonkeyPatch.context() as patch:
        copy = tmp_path / changed.name
        copy.write_bytes(changed.read_bytes() + b"\n")
        there = [copy if path == changed else path for path in counted.files()]
        patch.setattr(counted, "files", lambda: iter(there))
        patch.setattr(tokens, "LOADED_S", copy.stat().st_mtime + 1)
        after = counted._counting.__wrapped__()
        patch.setattr(tokens, "LOADED_S", copy.stat().st_mtime - 1)
        assert counted._counting.__wrapped__() is None  # what runs is not what is there
    assert None is not after != before is not None


@pytest.mark.parametrize("package", counted.PACKAGES)
def test_another_version_of_a_package_is_another_key(package: str) -> None:
    """tiktoken and the readers of JSON and YAML are other programs' code, told by their versions."""
    before = counted._counting.__wrapped__()
    told = counted._version
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counted, "_version", lambda name: "99" if name == package else told(name))
        assert counted._counting.__wrapped__() not in (before, None)


def test_without_sources_there_is_no_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that nobody can tell from another keeps nothing, and counts."""
    monkeypatch.setattr(counted, "files", lambda: iter([cache / "missing.py"]))
    counted._counting.cache_clear()
    try:
        lines = [line({"model": "o3", "input": "a few words"})]
        assert counts(lines) == [count_input(lines[0].body, lines[0].endpoint)]
        assert not cache.exists()
    finally:
        counted._counting.cache_clear()


def test_fastokens_is_loaded_only_for_what_is_not_known(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file that was counted before is read without it; without a cache, or for another model, with it."""
    path, loaded = tmp_path / "job.jsonl", list[str]()
    rows = ({"model": "o3", "input": f"{number} " + "word " * 200} for number in range(2_500))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(pieces, "FAST_BYTES", 1)
    monkeypatch.setattr(pieces, "accelerate", loaded.append)

    def read(**how: Any) -> list[str]:
        loaded.clear()
        reading = Reading(at=date(2026, 8, 1), **how)
        with path.open("rb") as file:
            read_workload(file, str(path), reading, jobs=1, size=path.stat().st_size)
        return loaded.copy()

    assert read(cache=False) == ["o200k_base"]
    assert read() == ["o200k_base"]
    assert read() == []
    assert read(cache=False) == ["o200k_base"]
    assert read(swap=(("o3", "gpt-3.5-turbo"),)) == ["cl100k_base"]
    with path.open("rb") as file:
        assert sum(part.sums.lines for part in tally(file, str(path), Options(), jobs=1, size=10**9)) == 2_500
    assert loaded == ["cl100k_base"]
