"""Which call a request is: read off its method, its path and its body, whatever the host.

A form (multipart) is read for its small fields only; the files of it stay where they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from pricing.media import is_media
from pricing.tokens import Count, count_input

from ._json import loads

_CREATE = {
    "responses": "/v1/responses",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "moderations": "/v1/moderations",
}
_MEDIA = {
    f"{room}/{what}": f"/v1/{room}/{what}"
    for room, names in (
        ("images", ("generations", "edits", "variations")),
        ("audio", ("transcriptions", "translations", "speech")),
    )
    for what in names
}

_IN_PATH = re.compile(r"/(?:deployments|engines)/([^/]+)/")

UNKNOWN = "unknown"
"""The model of a call whose body names none, until its reply names it."""

_ELSEWHERE = ("prompt", "conversation", "previous_response_id")
"""What the server may take a model from that a Responses body does not name."""

_NUMBERS = ("n", "partial_images")
_FIELDS = frozenset({"model", "prompt", "size", "quality", "response_format", "stream", *_NUMBERS})
"""What matters of a form; the rest of it is not looked at."""
MOST_FIELD = 256 * 1024
"""Bytes of the longest field that is read: a prompt has 32,000 characters at most."""
_NAME = re.compile(rb'content-disposition:[^\r\n]*?;\s*name="([a-z_]+)"', re.IGNORECASE)


class Call:
    """A request that takes from a model's limits, or asks after one that did.

    endpoint     "/v1/responses" …
    body         the JSON body, or the fields of a form; empty for a poll, and where it cannot be read
    polls        True for GET and DELETE /responses/{id} and its cancel: no admission, but perhaps the news of a cost
    response_id  the response that is polled; "" for others
    deletes      True for the DELETE of a response, after which nobody can ask for its cost
    unreadable   why the body cannot be read ahead; "" where it can
    host         whom it is sent to
    """

    __slots__ = ("_count", "body", "deletes", "endpoint", "host", "model", "polls", "response_id", "unreadable")

    def __init__(
        self,
        endpoint: str,
        body: Mapping[str, Any],
        *,
        polls: bool = False,
        response_id: str = "",
        deletes: bool = False,
        unreadable: str = "",
    ) -> None:
        self.endpoint = endpoint
        self.body = body
        model = body.get("model")
        self.model = model if isinstance(model, str) else UNKNOWN
        self.polls = polls
        self.response_id = response_id
        self.deletes = deletes
        self.unreadable = unreadable
        self.host = ""
        self._count: Count | None = None

    @property
    def count(self) -> Count:
        """The input tokens of the body, counted once."""
        if self._count is None:
            self._count = count_input(self.body, self.endpoint)
        return self._count


Body = bytes | Iterable[tuple[str, Any]] | None
"""What a request sends: bytes, the fields of a form that are no files, or None for what cannot be read ahead."""


def read_call(method: str, target: str, content: Callable[[], Body]) -> Call | None:
    """Recognise a call that costs; None for everything else (models, files, other hosts' paths …).

    target   path and query as sent
    content  gives the body when it is needed

    A body that is no JSON object with a model is not ours to judge: it passes, and the server says what is wrong.
    Only a Responses body may leave the model out, where a stored prompt or an earlier response names it, and one of
    images, which have a default. A stream that draws or listens is a call too, though nobody knows of which model.
    """
    path = target.partition("?")[0].rstrip("/")
    head, _, last = path.rpartition("/")
    if method == "POST":
        endpoint = _CREATE.get(last)
        if endpoint is None:
            if last == "cancel" and "/responses/" in path:
                return _poll(head)
            endpoint = _MEDIA.get(f"{head.rpartition('/')[2]}/{last}")
            if endpoint is None:
                if last != "compact" or not head.endswith("/responses"):
                    return None
                endpoint = "/v1/responses"
        elif last == "completions" and head.endswith("/chat"):
            endpoint = "/v1/chat/completions"
        raw = content()
        if raw is None and is_media(endpoint):
            return Call(endpoint, {}, unreadable=_unread(endpoint))
        body = _read(raw)
        if body is None:
            return None
        model = body.get("model")
        if not isinstance(model, str) or not model:
            # Azure, and long ago OpenAI, named the model in the path instead.
            named = _IN_PATH.search(path)
            if named is not None:
                body["model"] = unquote(named[1])
            elif model is not None or not _may_leave_out(endpoint, body):
                return None
        return Call(endpoint, body)
    if method in ("GET", "DELETE") and head.endswith("/responses"):
        return _poll(path, deletes=method == "DELETE")
    return None


def _read(raw: Body) -> dict[str, Any] | None:
    if not raw:
        return None
    if not isinstance(raw, bytes):
        return _form(raw)
    if raw.startswith(b"--"):
        return _form(_fields(raw))
    try:
        body = loads(raw)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _may_leave_out(endpoint: str, body: Mapping[str, Any]) -> bool:
    if endpoint == "/v1/responses":
        return any(body.get(key) for key in _ELSEWHERE)
    return endpoint.startswith("/v1/images/")


def _unread(endpoint: str) -> str:
    return (
        f"the body of a request to {endpoint} is a stream that cannot be read twice: it passes unpaced and unpriced; "
        "give the file as bytes, a path or an open file"
    )


def _form(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Read the fields that matter as a JSON body would have them."""
    body: dict[str, Any] = {}
    for name, value in fields:
        if name in _FIELDS:
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            body[name] = int(text) if name in _NUMBERS and text.isdecimal() and len(text) < 10 else text
    if "stream" in body:
        body["stream"] = body["stream"] == "true"
    return body


def _fields(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Find the small fields of a form that was sent as bytes: whatever is in files is stepped over, never copied."""
    mark = raw[: max(0, raw.find(b"\r\n", 0, 80))]  # a boundary has at most 70 characters
    start = len(mark)
    while start > 2:
        begin = raw.find(b"\r\n\r\n", start, start + 8_192) + 4
        end = raw.find(b"\r\n" + mark, begin)
        if begin < 4 or end < 0:
            return
        head = raw[start:begin]
        name = _NAME.search(head)
        if name is not None and b"filename" not in head and end - begin <= MOST_FIELD:
            yield name[1].decode("ascii"), raw[begin:end]
        start = end + 2 + len(mark)


def _poll(path: str, *, deletes: bool = False) -> Call:
    response_id = unquote(path.rpartition("/")[2])
    return Call("/v1/responses", {}, polls=True, response_id=response_id, deletes=deletes)
