"""What kind of file a forecast is asked of: told by its content, not by its name."""

from __future__ import annotations

import gzip
import os
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError
from ..job import STDIN
from ..suite import is_suite

JOB, TRACE, LEDGER, SUITE, REPORT = "job", "trace", "ledger", "suite", "report"
_SQLITE, _PARQUET, _GZIP = b"SQLite format 3\0", b"PAR1", b"\x1f\x8b"
_LOOK = 4_096
MOST_PIPED = 8 << 30
"""Bytes of a pipe that are kept."""


def kind_of(path: str) -> str:
    """Say whether a file is a job, a suite, a trace, a ledger or a gate's report; standard input is a job.

    Raises  ConfigError when it cannot be read, can be read only once, or is empty
    """
    if path == STDIN:
        return JOB
    if _is_pipe(path):
        raise ConfigError(
            f"{path}: is no file: it can be read only once; save what comes out of it, and name that file"
        )
    try:
        with open(path, "rb") as file:
            head = file.read(_LOOK)
        if head.startswith(_GZIP):
            with gzip.open(path) as file:
                head = file.read(_LOOK)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if head.startswith(_SQLITE):
        return LEDGER
    if head.startswith(_PARQUET):
        return TRACE
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        raise ConfigError(f"{path}: the file is empty")
    if text.startswith(b"{") and b'"groups":' in text[:20]:
        return REPORT
    if is_suite(path):
        return SUITE
    return JOB if text.startswith((b"{", b"[")) else TRACE


def _is_pipe(path: str) -> bool:
    """Whether what is at a path is gone once it was read: a pipe, `<(…)`, a terminal."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False  # whoever opens it will hear why
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


@contextmanager
def kept(path: str, most: int = MOST_PIPED) -> Iterator[str]:
    """Give a file that can be read again: the file itself, or a copy of what a pipe says, for so long.

    Raises  ConfigError when the pipe cannot be read, or says more than `most` bytes
    """
    if path == STDIN or not _is_pipe(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="ratecard-") as folder:
        copy = Path(folder) / Path(path).name
        try:
            with open(path, "rb") as pipe, open(copy, "wb") as file:
                while block := pipe.read(1 << 20):
                    file.write(block)
                    if file.tell() > most:
                        raise ConfigError(
                            f"{path}: more than {most:,} bytes came out of it: save them, and name the file"
                        )
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
        try:
            yield str(copy)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(copy), path)) from error
