"""Ask a Chat stream for its usage where its caller did not, and hide that from the caller.

With `stream_options.include_usage` a stream ends with one more chunk, of no choices and the usage, and every other
chunk says `"usage": null`. Both are taken out again: what the caller reads is, byte for byte, what the stream would
have been. Everything that does not look exactly like that passes as it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from ._json import loads

ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
MOST = 256 * 1024
"""Bytes of one event kept until its end comes: a chunk with a usage has a few hundred."""
_ASK = b'"stream_options":{"include_usage":true}'
_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_DATA = re.compile(rb"data: ?(.*?)\s*", re.DOTALL)
_NULL = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,\s*')


def asking(endpoint: str, body: Mapping[str, Any], raw: bytes) -> bytes | None:
    """The body of a request with its usage asked for; None where that is not to be done, or was done by its caller."""
    if endpoint not in ENDPOINTS or body.get("stream") is not True:
        return None
    options = body.get("stream_options")
    if options is None and "stream_options" not in body:
        start = raw.index(b"{") + 1
        return raw[:start] + _ASK + b"," + raw[start:]  # not written anew: it stays the caller's own, byte for byte
    if isinstance(options, Mapping) and "include_usage" not in options:
        document = json.loads(raw)
        document["stream_options"]["include_usage"] = True
        return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return None  # the caller has said what it wants


class Stripper:
    """Takes out of a stream what its caller did not ask for. An event passes when its end has come."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """Take in a piece of the stream, and give what may pass."""
        data, start, out = self._rest + chunk, 0, []
        for end in _END.finditer(data):
            out.append(stripped(data[start : end.end()]))
            start = end.end()
        self._rest = data[start:]
        if len(self._rest) > MOST:  # it can only be longer than a usage is, and waiting for its end would take for ever
            out.append(self.rest())
        return b"".join(out)

    def rest(self) -> bytes:
        """What is left when the stream has ended."""
        rest, self._rest = self._rest, b""
        return rest


def stripped(event: bytes) -> bytes:
    """One event without what was asked for on top; nothing of it, when it is the chunk with the usage."""
    found = _DATA.fullmatch(event) if b'"usage"' in event else None
    document = _parse(found[1]) if found is not None else None
    if document is None or "usage" not in document:
        return event
    usage = document.pop("usage")
    if isinstance(usage, Mapping):
        return b"" if document.get("choices") == [] else event
    if usage is None:
        plain = _NULL.sub(b"", event, count=1)
        found = _DATA.fullmatch(plain)
        if found is not None and _parse(found[1]) == document:
            return plain
    return event


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        document = loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
