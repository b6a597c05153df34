"""Token counts of a job's lines, kept between runs by what the lines are: a job is counted once, and asked about often.

What is kept are digests, numbers and reasons in our own words, never a text of a request. The digest covers the line as
it stands in its file, its endpoint, the model it is counted for, and everything that reads and counts it: our code, the
model table, the vocabularies, the packages. A cache is a convenience: what cannot be read or written is counted, and
nobody hears of it.

Law  with the cache or without it, the counts are the same (tests/forecast/test_counted.py)
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import pricing.tokens
from pricing.resources import data_path
from pricing.tokens import Count, count_input, quotes

from . import _kept
from .job import BadLine, Line

VARIABLE = "RATECARD_CACHE"
"""Where the cache is: a folder, or "off"."""
PACKAGES = ("tiktoken", "fastokens", "jiter", "yaml")
"""What of others reads and counts, by import name."""
DATA = ("models.yaml", "vocab/cl100k_base.pairs.z", "vocab/o200k_base.pairs.z")


def counts(lines: Sequence[Line | BadLine | None], *, use: bool = True) -> list[Count | None]:
    """Count the input tokens of each line; None for what is no request.

    use  look among the counts of earlier runs, and keep those of this one
    """
    path, keys, there = _look_up(lines, use=use)
    found: list[Count | None] = []
    fresh: dict[bytes, bytes] = {}
    for line, key in zip(lines, keys, strict=True):
        if not isinstance(line, Line):
            found.append(None)
            continue
        count = there.get(key)
        if count is None:
            count = count_input(line.body, line.endpoint)
            if key and not quotes(count.why):
                fresh[key] = json.dumps(count, separators=(",", ":")).encode()
        found.append(count)
    if path is not None and fresh:
        _kept.keep(path, fresh)
    return found


def known(lines: Sequence[Line | BadLine | None]) -> list[bool]:
    """Say of each line whether its count is among those of earlier runs."""
    _, keys, there = _look_up(lines, use=True)
    return [key in there for key in keys]


def _look_up(
    lines: Sequence[Line | BadLine | None], *, use: bool
) -> tuple[Path | None, list[bytes], dict[bytes, Count]]:
    """Where the cache is, the key of each line (b"": it has none), and what is known by these keys."""
    asked = [line if isinstance(line, Line) and line.digest else None for line in lines]
    path = _path() if use and any(asked) else None
    counting = _counting() if path is not None else None
    if path is None or counting is None:
        return None, [b""] * len(lines), {}
    keys = [b"" if line is None else _key(line, counting) for line in asked]
    found = _kept.find(path, filter(None, keys))
    return path, keys, {key: count for key, text in found.items() if (count := _read(text)) is not None}


def _key(line: Line, counting: bytes) -> bytes:
    told = repr((line.endpoint, line.body.get("model"))).encode()
    return hashlib.blake2b(line.digest + told, digest_size=16, key=counting).digest()


def _read(text: bytes) -> Count | None:
    """Read a count that was kept; None where it can be none."""
    try:
        tokens, low, high, exact, why = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    whole = all(type(number) is int for number in (tokens, low, high))
    if not whole or not 0 <= low <= tokens <= high or type(exact) is not bool or type(why) is not str:
        return None
    return Count(tokens, low, high, exact, why)


@lru_cache(maxsize=1)
def _counting() -> bytes | None:
    """What reads and counts a line, as a digest. None where nobody can tell, or where it is no more what was loaded."""
    whole = hashlib.blake2b(sys.version.encode(), digest_size=16)
    try:
        for package in PACKAGES:
            whole.update(f"{package} {_version(package)}\n".encode())
        for file in files():
            raw = file.read_bytes()
            whole.update(b"%d\n" % len(raw))
            whole.update(raw)
            if _changed(file):
                return None
    except OSError:  # an installation without sources
        return None
    return whole.digest()


def files() -> Iterator[Path]:
    """All code and data of ours that decides what a line counts (a test traces both)."""
    tokens = Path(pricing.tokens.__file__).parent
    yield from sorted(tokens.glob("*.py"))
    yield from (tokens.parent / name for name in ("_yaml.py", "cards.py", "errors.py", "resources.py"))
    yield from (Path(__file__).parent / name for name in ("counted.py", "job.py", "pieces.py"))
    yield from (Path(str(data_path(name))) for name in DATA)


def _version(package: str) -> str:
    """The version of an installed package; "" where it is not installed. Raises OSError when nobody can tell."""
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    spec = find_spec(package)
    if spec is None:
        return ""
    if spec.origin is None or _changed(Path(spec.origin)):
        raise OSError(f"{package}: not what was loaded")
    try:
        return version({"yaml": "PyYAML"}.get(package, package))
    except PackageNotFoundError as error:
        raise OSError(f"{package}: of no known version") from error


def _changed(file: Path) -> bool:
    """Whether a file has changed since our code was loaded: an update under a running program."""
    found = file.stat()
    return max(found.st_mtime, found.st_ctime) > pricing.tokens.LOADED_S


def _path() -> Path | None:
    """The cache's file; None where there is to be none."""
    given = os.environ.get(VARIABLE)
    if given == "off":
        return None
    if given:
        return Path(given) / "counts.db"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    else:
        base = os.environ.get("XDG_CACHE_HOME")
    try:
        home = Path(base) if base else Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:  # nobody's home
        return None
    return home / "ratecard" / "counts.db"
