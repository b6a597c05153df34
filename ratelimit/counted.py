"""Token counts of a job's lines, kept between runs by what the lines are: a job is counted once, and asked about often.

What is kept are digests and numbers, never a text. The digest covers the line as it stands in its file, the model it is
counted for, and everything that counts: our own code, the model table, tiktoken. A cache is a convenience: what cannot
be read or written is counted, and nobody hears of it.

Law  with the cache or without it, the counts are the same (tests/forecast/test_counted.py)
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import pricing.tokens
from pricing.resources import data_path
from pricing.tokens import Count, count_input

from .job import BadLine, Line

VARIABLE = "RATECARD_CACHE"
"""Where the cache is: a folder, or "off"."""
LEAST_LINES = 50
"""Fewer are counted sooner than a file is opened."""
MOST_BYTES = 256 * 1024 * 1024
"""A larger cache is begun anew."""
_AT_ONCE = 500
_SCHEMA = """CREATE TABLE IF NOT EXISTS counts (key BLOB PRIMARY KEY, tokens INTEGER NOT NULL, low INTEGER NOT NULL,
    high INTEGER NOT NULL, exact INTEGER NOT NULL, why TEXT NOT NULL) STRICT, WITHOUT ROWID"""


def counts(lines: Sequence[Line | BadLine | None], *, use: bool = True) -> list[Count | None]:
    """Count the input tokens of each line; None for what is no request.

    use  look among the counts of earlier runs, and keep those of this one
    """
    asked = [line if isinstance(line, Line) and line.digest else None for line in lines]
    path = _path() if use and sum(line is not None for line in asked) >= LEAST_LINES else None
    keys = [None if line is None or path is None else _key(line) for line in asked]
    known: dict[bytes, Count] = {}
    if path is not None:
        with suppress(sqlite3.Error, OSError):
            known = _find(path, [key for key in keys if key is not None])
    found: list[Count | None] = []
    fresh: dict[bytes, Count] = {}
    for line, key in zip(lines, keys, strict=True):
        if not isinstance(line, Line):
            found.append(None)
            continue
        count = None if key is None else known.get(key)
        if count is None:
            count = count_input(line.body, line.endpoint)
            if key is not None:
                fresh[key] = count
        found.append(count)
    if path is not None and fresh:
        with suppress(sqlite3.Error, OSError):
            _keep(path, fresh)
    return found


def _key(line: Line) -> bytes:
    model = str(line.body.get("model")).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(line.digest + model, digest_size=16, key=_counting()).digest()


@lru_cache(maxsize=1)
def _counting() -> bytes:
    """What counts, as a digest: the code, the table of models, and tiktoken's version."""
    whole = hashlib.blake2b(version("tiktoken").encode(), digest_size=16)
    for file in sorted(Path(pricing.tokens.__file__).parent.glob("*.py")):
        whole.update(file.read_bytes())
    whole.update(Path(str(data_path("models.yaml"))).read_bytes())
    return whole.digest()


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


def _find(path: Path, keys: Sequence[bytes]) -> dict[bytes, Count]:
    if not path.is_file():
        return {}
    found = {}
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=0.1)) as db:
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            for key, tokens, low, high, exact, why in db.execute(
                f"SELECT key, tokens, low, high, exact, why FROM counts WHERE key IN ({marks})", some
            ):
                found[bytes(key)] = Count(tokens, low, high, bool(exact), why)
    return found


def _keep(path: Path, fresh: dict[bytes, Count]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        path.unlink()
    try:
        _write(path, fresh)
    except sqlite3.OperationalError:  # somebody else writes, or the disk is full: the next run will count again
        raise
    except sqlite3.DatabaseError:  # no database any more
        path.unlink()
        _write(path, fresh)


def _write(path: Path, fresh: dict[bytes, Count]) -> None:
    rows = [(key, one.tokens, one.low, one.high, int(one.exact), one.why) for key, one in fresh.items()]
    with closing(sqlite3.connect(path, timeout=0.1)) as db, db:
        os.chmod(path, 0o600)
        db.execute("PRAGMA synchronous = OFF")  # what a crash loses is counted again
        db.execute(_SCHEMA)
        db.executemany("INSERT OR IGNORE INTO counts VALUES (?, ?, ?, ?, ?, ?)", rows)
