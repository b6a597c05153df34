"""What a reply says about its cost, read while it passes: usage, served model and tier, response id.

Readers are fed the bytes as they go by and never change them. Whatever a server sends (cut streams, garbage, no usage
at all), reading it ends in an Outcome, never in an exception.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ._json import loads

MAX_KEPT = 16 * 1024 * 1024
"""Bytes of a reply kept for reading. A longer JSON body is read from its tail, a longer stream by its last events."""

_USAGE = re.compile(rb'"usage"\s*:\s*\{')

RUNNING = frozenset({"queued", "in_progress"})


class Outcome(NamedTuple):
    """What is known when a reply has ended.

    status       HTTP status
    usage        the reply's own usage object; None when it carried none
    model, service_tier, response_id   as served; None when not said
    state        a Responses status ("completed", "queued", "failed" …); "" elsewhere
    complete     the body was read to its end and was well formed
    text         visible output seen so far; only kept for streams that ended without usage
    error        the error body of a refusal, parsed
    """

    status: int
    usage: Mapping[str, Any] | None = None
    model: str | None = None
    service_tier: str | None = None
    response_id: str | None = None
    state: str = ""
    complete: bool = False
    text: str = ""
    error: Mapping[str, Any] | None = None


class JsonReader:
    """Reads a reply that is one JSON document."""

    __slots__ = ("_chunks", "_decode", "_size", "_status")

    def __init__(self, status: int, decode: Callable[[bytes], bytes] | None = None) -> None:
        self._status = status
        self._decode = decode
        self._chunks: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= MAX_KEPT:
            self._chunks.append(chunk)

    def close(self, complete: bool) -> Outcome:
        raw = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        try:
            document = loads(self._decode(raw) if self._decode else raw) if raw else None
        except (ValueError, RecursionError, zlib.error):
            document = None
        except (
            Exception
        ) as error:  # a decoder of the HTTP library met garbage; which errors it raises is its own affair
            if not _is_decoding_error(error):
                raise
            document = None
        if not isinstance(document, dict):
            return Outcome(self._status)
        return outcome_of(document, self._status, complete)


class StreamReader:
    """Reads a reply that is a stream of server-sent events."""

    __slots__ = ("_decode", "_finished", "_inflate", "_kept", "_last", "_raw", "_size", "_status", "_tail")

    def __init__(self, status: int, encoding: str = "", decode: Callable[[bytes], bytes] | None = None) -> None:
        self._status = status
        self._tail = b""
        self._finished = False
        self._last: dict[str, Any] | None = None
        self._kept: list[bytes] = []
        self._size = 0
        # gzip and deflate are undone as they pass; for rarer encodings the raw bytes wait for the library's decoder.
        self._inflate = zlib.decompressobj(47) if encoding in ("gzip", "deflate") else None
        self._decode = decode if self._inflate is None else None
        self._raw: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        if self._decode is not None:
            self._size += len(chunk)
            if self._size <= MAX_KEPT:
                self._raw.append(chunk)
            return
        if self._inflate is not None:
            try:
                chunk = self._inflate.decompress(chunk)
            except zlib.error:
                return
        self._lines(chunk)

    def _lines(self, chunk: bytes) -> None:
        lines = (self._tail + chunk).splitlines(keepends=True)
        self._tail = b""
        if lines and not lines[-1].endswith((b"\n", b"\r")):
            self._tail = lines.pop()
            if len(self._tail) > MAX_KEPT:
                self._tail = b""
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            if line.startswith(b"data: [DONE]"):
                self._finished = True  # openai stops reading here, before the body's own end
            elif b'"usage"' in line and _USAGE.search(line):
                event = _parse(line)
                if event is not None:
                    self._last = event
            elif b"delta" in line or self._last is None:
                self._size += len(line)
                if self._size <= MAX_KEPT:
                    self._kept.append(line)

    def close(self, complete: bool) -> Outcome:
        if self._decode is not None:
            raw = b"".join(self._raw)
            decode, self._decode = self._decode, None
            self._raw.clear()
            self._size = 0
            try:
                self._lines(decode(raw))
            except Exception as error:  # as in JsonReader.close
                if not _is_decoding_error(error):
                    raise
        if self._tail:
            self._lines(b"\n")
        complete = complete or self._finished
        if self._last is not None:
            event = self._last
            inner = event.get("response")
            self._kept.clear()
            return outcome_of(inner if isinstance(inner, dict) else event, self._status, complete)
        return self._without_usage(complete)

    def _without_usage(self, complete: bool) -> Outcome:
        """Say what can be said of a stream that was cut, or whose client asked for no usage."""
        text: list[str] = []
        facts: dict[str, Any] = {}
        for line in self._kept:
            event = _parse(line)
            if event is None:
                continue
            inner = event.get("response")
            about = inner if isinstance(inner, dict) else event
            for key in ("id", "model", "service_tier", "status"):
                if isinstance(about.get(key), str) and not (key == "id" and about is event and "choices" not in event):
                    facts[key] = about[key]
            delta = event.get("delta")
            if isinstance(delta, str):
                text.append(delta)
            choices = event.get("choices")
            for choice in choices if isinstance(choices, list) else ():
                piece = choice.get("delta") if isinstance(choice, dict) else None
                if isinstance(piece, dict) and isinstance(piece.get("content"), str):
                    text.append(piece["content"])
        self._kept.clear()
        return outcome_of(facts, self._status, complete)._replace(text="".join(text))


def outcome_of(document: Mapping[str, Any], status: int, complete: bool) -> Outcome:
    """Read one reply document (a Chat, Responses, Embeddings or Completions object, or an error body)."""
    usage, error = document.get("usage"), document.get("error")
    return Outcome(
        status,
        usage if isinstance(usage, Mapping) else None,
        _text(document.get("model")),
        _text(document.get("service_tier")),
        _text(document.get("id")),
        _text(document.get("status")) or "",
        complete,
        "",
        document if isinstance(error, Mapping) else None,
    )


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = loads(line[5:])
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _is_decoding_error(error: Exception) -> bool:
    return type(error).__name__ == "DecodingError" or isinstance(error, zlib.error | ValueError)
