"""Prompt suites: what promptfoo is told to ask (promptfooconfig.yaml), as the lines of a job.

A suite is told by its content: a mapping in YAML, or in JSON, with `prompts`. It opens as the bytes of a job in JSON
Lines, made while they are read, so that whatever reads a job reads a suite. Nothing of it is run, nothing is fetched,
and the environment is not looked at. docs/suites.md says which part of promptfoo's format is understood.

Law  as many lines as prompts × providers × combinations × repetitions, each the text that a reader would write by hand
     (tests/runner/test_suites.py)
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from .files import MAX_BYTES
from .rendering import lines, read_suite

_BEFORE = re.compile(rb"[ \t]*(#.*|---[ \t]*(#.*)?|%.*)?\r?\n?")
"""A line before the first key."""
_FIRST_KEY = re.compile(rb"(\"[^\"\n]*\"|'[^'\n]*'|[A-Za-z_$][\w$.-]*)[ \t]*:([ \t\r\n]|$)")
_PROMPTS = re.compile(rb"^(\"prompts\"|'prompts'|prompts)[ \t]*:([ \t\r\n]|$)", re.MULTILINE)
_PROMPTS_IN_JSON = re.compile(rb"^[ \t]*\"prompts\"[ \t]*:", re.MULTILINE)
_LONGEST_FIRST_LINE = MAX_BYTES
_REQUEST = ("custom_id", "body", "url", "model", "input", "messages")
"""Keys of which a request has one."""


def is_suite(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a suite. What cannot be read is none; whoever opens it will hear why."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            return _is_suite(file)
    except (OSError, ValueError):
        return False


def _is_suite(file: IO[bytes]) -> bool:
    line = file.readline(_LONGEST_FIRST_LINE).removeprefix(b"\xef\xbb\xbf")
    while line and _BEFORE.fullmatch(line):
        line = file.readline(_LONGEST_FIRST_LINE)
    if line.lstrip().startswith(b"{"):
        return _is_json_suite(line, file)
    return bool(_FIRST_KEY.match(line)) and bool(_PROMPTS.search(line + file.read(MAX_BYTES)))


def _is_json_suite(line: bytes, file: IO[bytes]) -> bool:
    """Whether JSON is a suite: on one line, which must not be a request, or laid out over several."""
    if line.rstrip().endswith(b"}") and b'"prompts"' not in line:
        return False
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return bool(_PROMPTS_IN_JSON.search(line + file.read(MAX_BYTES)))
    return isinstance(document, dict) and "prompts" in document and not any(key in document for key in _REQUEST)


def open_suite(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a suite as a job.

    Raises  ConfigError, with file, line and key where there are such, for what is not understood
    """
    return cast("IO[bytes]", io.BufferedReader(_Made(lines(read_suite(Path(path)))), 1 << 16))


class _Made(io.RawIOBase):
    """Lines as a file that is read once; each is made when it is asked for."""

    def __init__(self, made: Iterator[bytes]) -> None:
        self._made = made
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = memoryview(next(self._made, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size
