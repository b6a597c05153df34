"""What kind of file a forecast is asked of: told by its content, not by its name."""

from __future__ import annotations

import gzip
import zlib

from ..errors import ConfigError
from ..job import STDIN
from ..suite import is_suite

JOB, TRACE, LEDGER, SUITE, REPORT = "job", "trace", "ledger", "suite", "report"
_SQLITE, _PARQUET, _GZIP = b"SQLite format 3\0", b"PAR1", b"\x1f\x8b"
_LOOK = 4_096


def kind_of(path: str) -> str:
    """Say whether a file is a job, a suite, a trace, a ledger or a gate's report; standard input is a job.

    Raises  ConfigError when it cannot be read, or is empty
    """
    if path == STDIN:
        return JOB
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
