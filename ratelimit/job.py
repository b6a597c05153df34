"""A job file: JSONL in, one request per line. Batch-format lines and bare request bodies are both understood.

A bad line is reported with its number and does not hide the others. A prompt suite opens as the job it stands for.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from jiter import from_json

from pricing.estimate import guess_endpoint

from .demand import normal_endpoint
from .errors import ConfigError
from .suite import is_suite, open_suite
from .suite.rendering import UNUSABLE

ENDPOINTS = ("/v1/responses", "/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/images/generations")
STDIN = "-"
_GZIP = b"\x1f\x8b"
"""How what gzip has packed begins, and no JSON."""
MAX_LINE_BYTES = 64 * 1024 * 1024
MOST_SHOWN = 10
"""Bad lines that people are shown; the JSON has them all."""


class Line(NamedTuple):
    """One request of a job: where it stands in the file, its name, and what to send where.

    digest  of the line as it stands there, for whoever keeps what was found out of it; b"" where nobody does
    """

    number: int
    custom_id: str
    endpoint: str
    body: Mapping[str, Any]
    digest: bytes = b""


class BadLine(NamedTuple):
    """A line that cannot be sent, and why."""

    number: int
    reason: str
    custom_id: str | None = None


def read_job(path: str | os.PathLike[str]) -> Iterator[Line | BadLine]:
    """Read a job (.jsonl, packed by gzip or not; "-": standard input) line by line, in bounded memory; no blank lines.

    A bare body gets the custom_id "line-<number>-<digest>", so that a resumed job notices when the line has changed.

    Raises  ConfigError when the file cannot be read at all
    """
    unique = Unique()
    with open_job(Path(path)) as file:
        for number, raw in raw_lines(file, path):
            line = parse_line(number, raw)
            if isinstance(line, Line):
                yield unique.check(number, line.custom_id, digest_of(line.custom_id)) or line
            else:
                yield line


def raw_lines(file: IO[bytes], path: str | os.PathLike[str], first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Number the lines of an open job file; blank ones are skipped, and of one too long for memory the start is given.

    first  the number of the first line

    Raises  ConfigError when the file cannot be read further
    """
    for number, raw in enumerate(_lines(file, path), first):
        if raw.strip() or len(raw) > MAX_LINE_BYTES:
            yield number, raw


class Block(NamedTuple):
    """Whole lines of a job file.

    first        the number of the first line
    start, size  bytes
    raw          what they are; None where whoever needs them reads the file for itself
    """

    first: int
    start: int
    size: int
    raw: bytes | None

    def read(self, path: str | os.PathLike[str]) -> bytes:
        """Give the bytes. Raises ConfigError when the file has no longer so many."""
        if self.raw is not None:
            return self.raw
        try:
            with open(path, "rb") as file:
                file.seek(self.start)
                raw = file.read(self.size)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
        if len(raw) < self.size:
            raise ConfigError(f"{path}: became shorter while it was read; run it again")
        return raw


def blocks(file: IO[bytes], path: str | os.PathLike[str], size: int, *, keep: bool) -> Iterator[Block]:
    """Cut an open job file at line ends into blocks of `size` bytes or a line more; their `raw_lines` are the file's.

    keep  carry the bytes along; else `file` is the plain file at `path`, to be read there again

    Raises  ConfigError when the file cannot be read further
    """
    first, start, length, lines = 1, 0, 0, list[bytes]()
    for raw in _lines(file, path):
        if not lines:
            start = 0 if keep else file.tell() - len(raw)
        lines.append(raw)
        length += len(raw)
        if length >= size or not raw.endswith(b"\n"):  # what is cut short ends a block: it has no line end
            yield Block(first, start, length, b"".join(lines) if keep else None)
            first, length, lines = first + len(lines), 0, []
    if lines:
        yield Block(first, start, length, b"".join(lines) if keep else None)


def _lines(file: IO[bytes], path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Read line by line: not in blocks, so that Ctrl-C is heard between two lines of a pipe."""
    try:
        while raw := file.readline(MAX_LINE_BYTES + 1):
            yield raw
            while len(raw) >= MAX_LINE_BYTES and not raw.endswith(b"\n"):
                raw = file.readline(MAX_LINE_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {why}") from error


def digest_of(custom_id: str) -> bytes:
    """Shorten a custom_id for comparison: a million long ids would cost more memory than the job."""
    return hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=12).digest()


class Unique:
    """Remembers the custom_ids of a job, by their digests."""

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def check(self, number: int, custom_id: str, digest: bytes) -> BadLine | None:
        """Note the custom_id of a line; a BadLine when an earlier line had it."""
        first = self._seen.setdefault(digest, number)
        if first == number:
            return None
        return BadLine(number, f"custom_id {custom_id!r} was used on line {first} already", custom_id)


def parse_line(number: int, raw: bytes) -> Line | BadLine:
    """Read one line; a BadLine says what is wrong in words for the person who wrote it."""
    if len(raw) > MAX_LINE_BYTES:
        return BadLine(number, f"longer than {MAX_LINE_BYTES:,} bytes")
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        document = _document(raw)
    except UnicodeDecodeError as error:
        return BadLine(number, f"not UTF-8: byte {error.start + 1} of the line")
    except RecursionError:
        return BadLine(number, "not JSON that can be read: nested too deeply")
    except ValueError as error:
        return BadLine(number, f"not JSON: {error}")
    if not isinstance(document, dict):
        return BadLine(number, f"expected a JSON object, found {_kind(document)}")
    if "body" in document or "custom_id" in document or "url" in document:
        return _batch_line(number, document)
    endpoint = guess_endpoint(document)
    if endpoint is None:
        return BadLine(
            number, 'neither a Batch line (custom_id, url, body) nor a body with "input", "messages" or "prompt"'
        )
    digest = hashlib.sha256(raw.strip()).hexdigest()[:8]
    return _checked(Line(number, f"line-{number}-{digest}", endpoint, document))


def _document(raw: bytes) -> Any:
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError:  # the standard library reads lone surrogates, and says better what is wrong
        return json.loads(raw.decode("utf-8"), parse_constant=_no_constant)


def _batch_line(number: int, document: Mapping[str, Any]) -> Line | BadLine:
    custom_id, url, body = document.get("custom_id"), document.get("url"), document.get("body")
    named = custom_id if isinstance(custom_id, str) else None
    if not isinstance(custom_id, str) or not custom_id:
        return BadLine(number, f"custom_id: expected a text, found {_kind(custom_id)}")
    if not isinstance(body, dict):
        if isinstance(why := document.get(UNUSABLE), str):
            return BadLine(number, why, named)
        return BadLine(number, f"body: expected a JSON object, found {_kind(body)}", named)
    if document.get("method", "POST") != "POST":
        return BadLine(number, f"method: expected POST, found {document['method']!r}", named)
    if not isinstance(url, str):
        return BadLine(number, f"url: expected a path such as /v1/responses, found {_kind(url)}", named)
    endpoint = normal_endpoint(url)
    if endpoint not in ENDPOINTS:
        return BadLine(number, f"url: {url!r} is not one of {', '.join(ENDPOINTS)}", named)
    return _checked(Line(number, custom_id, endpoint, body))


def _checked(line: Line) -> Line | BadLine:
    model = line.body.get("model")
    if not isinstance(model, str) or not model:
        return BadLine(line.number, f"model: expected a text, found {_kind(model)}", line.custom_id)
    if line.body.get("stream"):
        return BadLine(line.number, "stream: a job's results are whole replies; remove it", line.custom_id)
    return line


def fingerprint(line: Line) -> str:
    """Tell one request from another (12 hex digits), however its JSON was laid out."""
    text = json.dumps([line.endpoint, line.body], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


class Survey(NamedTuple):
    """What a look through a job file finds before anything is sent.

    lines   those that are not blank; None when it could not be read to its end
    models  how many lines ask for which model
    bad     how many cannot be sent; and the first of these
    """

    lines: int | None
    models: Mapping[str, int]
    bad: int
    first_bad: tuple[BadLine, ...]


def survey(path: str | os.PathLike[str]) -> Survey | None:
    """Look through a job file; None for what can be read only once, such as a pipe."""
    if str(path) == STDIN or not os.path.isfile(path):
        return None
    lines, models, bad, first_bad = 0, Counter[str](), 0, list[BadLine]()
    whole = True
    try:
        for line in read_job(path):
            lines += 1
            if isinstance(line, Line):
                models[line.body["model"]] += 1
            else:
                bad += 1
                if bad <= MOST_SHOWN:
                    first_bad.append(line)
    except ConfigError:
        whole = False  # the run will come to it, and say what is wrong
    return Survey(lines if whole else None, models, bad, tuple(first_bad))


def open_job(path: Path) -> IO[bytes]:
    """Open the bytes of a job: a file, or "-" for standard input. What gzip has packed is unpacked, whatever its name.

    A prompt suite is told by its content, and is the job that it stands for.

    Raises  ConfigError when it cannot be opened, or when a suite has what is not understood
    """
    if str(path) != STDIN and is_suite(path):
        return open_suite(path)
    try:
        raw = os.fdopen(0, "rb", closefd=False) if str(path) == STDIN else path.open("rb")
        if path.suffix != ".gz" and not raw.peek(2).startswith(_GZIP):
            return raw
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    packed = gzip.GzipFile(fileobj=raw)
    packed.myfileobj = raw  # type: ignore[assignment]  # closed with it, as where GzipFile has opened it itself
    return cast("IO[bytes]", packed)


@contextmanager
def opened(path: str) -> Iterator[tuple[IO[bytes], int | None]]:
    """Open a job: its bytes, and how many they are where they are those of a plain file (no pipe, no .gz, no suite).

    Raises  ConfigError when it cannot be opened
    """
    with open_job(Path(path)) as stream:
        raw = stream.raw if isinstance(stream, io.BufferedReader) else None
        plain = path != STDIN and os.path.isfile(path) and isinstance(raw, io.FileIO)
        yield stream, os.path.getsize(path) if plain else None


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    names = {bool: "true/false", dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__) if value != "" else "an empty text"


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
