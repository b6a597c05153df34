"""What a reply says about its cost, read while it passes: usage, served model and tier, response id.

Readers are fed the bytes as they go by and never change them. Whatever a server sends (cut streams, garbage, no usage
at all), reading it ends in an Outcome, never in an exception; and how the bytes are cut into chunks changes nothing.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pricing.tools import Billed, billed_tools
from pricing.usage import usage_of_work

from ._json import loads

MAX_KEPT = 256 * 1024 * 1024
"""Bytes of a document, or of one event, kept for reading: above the largest reply there is (2,048 embeddings of 3,072
numbers are 150 MB). The chunks are those that the client holds anyway."""
MAX_UNREAD = 2_048
"""Events kept as they came, in case no usage follows. Past that their text is taken out and they are dropped: most
streams are never parsed, and the longest takes no more memory than its text."""

_FEW = 8
"""Events kept because they may name the model or its tier; of earlier ones the names are taken out."""

_DONE = b'"response.output_item.done"'
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
RUNNING = frozenset({"queued", "in_progress"})


_PICTURE = ("image_generation.completed", "image_edit.completed")
"""Events that end a picture, of which a stream may have several."""


class Outcome(NamedTuple):
    """What is known when a reply has ended.

    status       HTTP status
    usage        the reply's own usage object; None when it carried none
    final        the usage is that of the whole reply, not of the part of a stream that had passed when it was cut
    model, service_tier, response_id   as served; None when not said
    state        a Responses status ("completed", "queued", "failed" …); "" elsewhere
    complete     the body was read to its end and was well formed
    text         output seen: what is said, refused, reasoned aloud or passed to tools; only of streams without a final
                 usage
    error        the error body of a refusal, parsed
    tools        what hosted tools are billed for beside the usage; None without any
    duration     seconds of audio, where the reply states them
    """

    status: int
    usage: Mapping[str, Any] | None = None
    final: bool = False
    model: str | None = None
    service_tier: str | None = None
    response_id: str | None = None
    state: str = ""
    complete: bool = False
    text: str = ""
    error: Mapping[str, Any] | None = None
    tools: Billed | None = None
    duration: float | None = None


class Trail(NamedTuple):
    """What the way of a call tells of it: the server's name of the request, and how long its reply took (µs)."""

    request_id: str | None
    latency_us: int


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
    """Reads a reply that is a stream of server-sent events.

    The usage is that of the last event that has one. What that event leaves out is taken from the others: id and model
    from the first that names them, the service tier from the last, for a stream begins with the tier that was asked
    for and ends with the one that was served.
    """

    __slots__ = (
        "_data",
        "_decode",
        "_facts",
        "_finished",
        "_inflate",
        "_last",
        "_more",
        "_names",
        "_raw",
        "_rest",
        "_size",
        "_status",
        "_text",
        "_unread",
    )

    def __init__(self, status: int, encoding: str = "", decode: Callable[[bytes], bytes] | None = None) -> None:
        self._status = status
        self._rest: list[bytes] = []  # a line whose end has not come
        self._size = 0  # bytes of _rest, or of _raw
        self._data: list[bytes] = []  # the data lines of an event whose end has not come
        self._finished = False
        self._last: dict[str, Any] | None = None  # the last event with a usage
        self._more = False  # something was said after it
        self._facts: dict[str, Any] = {}  # what is known of the whole response
        self._names: list[bytes] = []  # events that may name a model or a tier, and say nothing
        self._unread: list[bytes] = []  # events that say something
        self._text: list[str] = []
        # gzip and deflate are undone as they pass; for rarer encodings the raw bytes wait for the library's decoder.
        self._inflate = _Inflater(encoding) if encoding in ("gzip", "deflate") else None
        self._decode = decode if self._inflate is None else None
        self._raw: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        if self._decode is not None:
            self._size += len(chunk)
            if self._size <= MAX_KEPT:
                self._raw.append(chunk)
            return
        if self._inflate is not None:
            chunk = self._inflate.feed(chunk)
        if b"\n" in chunk or b"\r" in chunk:
            if self._rest:
                self._rest.append(chunk)
                chunk = b"".join(self._rest)
                self._rest.clear()
            self._lines(chunk)
        elif chunk:
            # The pieces of a long line are joined once, when it ends.
            self._size += len(chunk)
            self._rest.append(chunk)
            if self._size > MAX_KEPT:
                self._rest = [b":"]  # a comment: what is still to come of this line is no data

    def _lines(self, raw: bytes) -> None:
        lines = raw.splitlines()
        self._size = 0
        if not raw.endswith(b"\n"):
            # A line that ends in \r waits too, for what follows may be its \n.
            rest = lines.pop() + b"\r" if raw.endswith(b"\r") else lines.pop()
            self._rest.append(rest)
            self._size = len(rest)
        data = self._data
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line[5:])
            elif data and not line:
                self._event(data[0] if len(data) == 1 else b"\n".join(data))
                data.clear()

    def _event(self, data: bytes) -> None:
        """Take in one event. What can wait for the end is not parsed, for a final usage makes it needless."""
        says = b'"delta"' in data or b'"choices"' in data or (b'_call"' in data and _DONE in data)
        if b'"usage"' in data and b'"usage":null' not in data and _USAGE.search(data):
            event = _parse(data)
            # A tool's schema, which an event may repeat, may well have a property of that name.
            if event is not None and isinstance(_about(event).get("usage"), Mapping):
                if self._last is not None and event.get("type") in _PICTURE and event["type"] == self._last.get("type"):
                    event["usage"] = _summed(self._last["usage"], event["usage"])
                self._last = event
                self._more = False
                if not event.get("choices"):
                    return
                says = True
        elif says and self._last is not None and not self._more:
            self._more = any(_said(_parse(data)))
        if says:
            self._unread.append(data)
            if len(self._unread) > MAX_UNREAD:
                self._read()
        elif b"[DONE]" in data[:8]:
            self._finished = True  # openai stops reading here, before the body's own end
        elif b'"model"' in data or b'"service_tier"' in data:
            self._names.append(data)
            if len(self._names) > _FEW:
                self._learn(_parse(self._names.pop(0)))

    def _learn(self, event: dict[str, Any] | None) -> None:
        """Note what an event says of the whole response."""
        if event is None:
            return
        facts, about = self._facts, _about(event)
        # Events other than a chat chunk have an id of their own.
        for key in ("id", "model") if about is not event or "choices" in about else ("model",):
            if about.get(key):
                facts.setdefault(key, about[key])
        for key in ("service_tier", "status", "tools"):
            if about.get(key):
                facts[key] = about[key]

    def _read(self) -> None:
        """Take out what the events kept so far say."""
        for data in (*self._names, *self._unread):
            event = _parse(data)
            self._learn(event)
            self._text.extend(_said(event))
            if event is not None and event.get("type") == "response.output_item.done":
                self._facts.setdefault("output", []).append(event.get("item"))
        self._names.clear()
        self._unread.clear()

    def close(self, complete: bool) -> Outcome:
        if self._decode is not None:
            raw = b"".join(self._raw)
            decode, self._decode = self._decode, None
            self._raw.clear()
            try:
                self.feed(decode(raw))
            except Exception as error:  # as in JsonReader.close
                if not _is_decoding_error(error):
                    raise
        self._lines(b"".join(self._rest) + b"\n\n")  # the end of the body is the end of its last event
        complete = complete or self._finished
        last = self._last
        # A usage that cannot be read is as good as none: then too the text is what there is to go by.
        if last is None or self._more or not _is_final(last, complete, self._finished) or not _is_readable(last):
            self._read()
            self._learn(last)
            self._facts["usage"] = None if last is None else _about(last)["usage"]
            outcome = outcome_of(self._facts, self._status, complete)
            return outcome._replace(final=False, text="".join(self._text), tools=billed_tools(self._facts))
        about = _about(last)
        if not (about.get("id") and about.get("model") and about.get("service_tier")):
            for data in (*self._names, *self._unread[:2], *(one for one in self._unread if b'"service_tier"' in one)):
                self._learn(_parse(data))
            about = {**self._facts, **{key: value for key, value in about.items() if value}}
        self._unread.clear()
        return outcome_of(about, self._status, complete)


class _Inflater:
    """Undoes gzip and deflate as they pass. Deflate comes with a header and without."""

    __slots__ = ("_gzip", "_head", "_undo")

    def __init__(self, encoding: str) -> None:
        self._gzip = encoding == "gzip"
        self._head = b""
        self._undo: Any = None

    def feed(self, chunk: bytes) -> bytes:
        if self._undo is None:
            chunk = self._head = self._head + chunk
            if len(chunk) < 2:
                return b""
            has_header = chunk[0] & 15 == 8 and (chunk[0] << 8 | chunk[1]) % 31 == 0
            self._undo = zlib.decompressobj(47 if self._gzip or has_header or chunk[:2] == b"\x1f\x8b" else -15)
        try:
            plain: bytes = self._undo.decompress(chunk)
        except zlib.error:
            return b""
        return plain


def outcome_of(document: Mapping[str, Any], status: int, complete: bool) -> Outcome:
    """Read one reply document (a Chat, Responses, Embeddings or Completions object, or an error body)."""
    usage, error = document.get("usage"), document.get("error")
    state = _text(document.get("status")) or ""
    return Outcome(
        status,
        usage if isinstance(usage, Mapping) else None,
        state not in RUNNING,
        _text(document.get("model")),
        _text(document.get("service_tier")),
        _text(document.get("id")),
        state,
        complete,
        "",
        document if isinstance(error, Mapping) else None,
        billed_tools(document) if usage is not None or "output" in document else None,
        duration if usage is None and type(duration := document.get("duration")) in (int, float) else None,
    )


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        event = loads(data) if data else None
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _about(event: dict[str, Any]) -> dict[str, Any]:
    """The object that an event tells of: a Responses event wraps it, a chat chunk is it."""
    inner = event.get("response")
    return inner if isinstance(inner, dict) else event


def _summed(one: Any, other: Any) -> Any:
    """Add up what two pictures of one stream took: each tells its own."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {key: _summed(one.get(key), other.get(key)) for key in (*one, *(key for key in other if key not in one))}
    if type(one) is int and type(other) is int:
        return one + other
    return one if other is None else other


def _is_final(event: dict[str, Any], complete: bool, finished: bool) -> bool:
    """Tell the usage of a whole reply from a running count, as some servers send with every chunk."""
    about, choices = _about(event), event.get("choices")
    if about is not event:
        return _text(about.get("status")) not in RUNNING
    if finished or not isinstance(choices, list) or not choices:
        return True
    return complete and any(isinstance(choice, dict) and choice.get("finish_reason") for choice in choices)


def _is_readable(event: dict[str, Any]) -> bool:
    return usage_of_work(_about(event).get("usage")) is not None


def _said(event: dict[str, Any] | None) -> Iterator[str]:
    """What an event adds to the output, in pieces."""
    if event is None:
        return
    delta, choices = event.get("delta"), event.get("choices")
    if isinstance(delta, str):
        yield delta  # Responses: of a text, a refusal, a tool's arguments, a summary of the reasoning
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        yield from _texts(choice, "text")  # the legacy Completions
        piece = choice.get("delta")
        if isinstance(piece, dict):
            yield from _texts(piece, "content", "refusal", "reasoning_content")
            yield from _texts(piece.get("function_call"), "name", "arguments")
            calls = piece.get("tool_calls")
            for call in calls if isinstance(calls, list) else ():
                if isinstance(call, dict):
                    yield from _texts(call.get("function"), "name", "arguments")
                    yield from _texts(call.get("custom"), "name", "input")


def _texts(holder: Any, *keys: str) -> Iterator[str]:
    if isinstance(holder, dict):
        for key in keys:
            value = holder.get(key)
            if isinstance(value, str) and value:
                yield value


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _is_decoding_error(error: Exception) -> bool:
    return type(error).__name__ == "DecodingError" or isinstance(error, zlib.error | ValueError)
