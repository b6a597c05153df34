"""Reading multipart/form-data as it arrives: bytes in, parts out, and never a whole file in memory.

No I/O here: whoever owns the connection feeds what it received and gets back which part begins, what it holds, and when
the form is complete.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote

_MOST_HEAD = 16_384
_NAME = re.compile(r';\s*name="([^"]*)"')
_FILENAME = re.compile(r';\s*filename="([^"]*)"')
_FILENAME_STAR = re.compile(r";\s*filename\*=(?:utf-8)''([^;\s]+)", re.IGNORECASE)
_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^;\s]+))', re.IGNORECASE)


class Begins(NamedTuple):
    """A part begins; the data that follow are its own. filename is None for a plain field."""

    name: str
    filename: str | None


class Multipart:
    """The reader of one form.

    content_type  the header of the request, which names the boundary

    Raises  ValueError when it names none
    """

    __slots__ = ("_buffer", "_mark", "_state")

    def __init__(self, content_type: str) -> None:
        found = _BOUNDARY.search(content_type) if content_type.lower().startswith("multipart/form-data") else None
        if found is None:
            raise ValueError("not a multipart form")
        self._mark = b"\r\n--" + (found[1] or found[2]).encode("latin-1")
        self._buffer = b"\r\n"  # so that the first boundary, too, stands at the begin of a line
        self._state = "preamble"

    @property
    def complete(self) -> bool:
        """Whether the last boundary has been read."""
        return self._state == "done"

    def feed(self, data: bytes) -> Iterator[Begins | bytes]:
        """Take what arrived; tell which parts begin and what they hold. Raises ValueError for what is no form."""
        self._buffer += data
        while True:
            if self._state in ("preamble", "data"):
                end = self._buffer.find(self._mark)
                inside = self._buffer[:end] if end >= 0 else self._buffer[: 1 - len(self._mark)]
                if inside and self._state == "data":
                    yield inside
                if end < 0:
                    self._buffer = self._buffer[len(inside) :]
                    return
                self._buffer = self._buffer[end + len(self._mark) :]
                self._state = "boundary"
            elif self._state == "boundary":
                if len(self._buffer) < 2:
                    return
                after, self._buffer = self._buffer[:2], self._buffer[2:]
                if after not in (b"--", b"\r\n"):
                    raise ValueError("a boundary of the form is not followed by a part")
                self._state = "done" if after == b"--" else "head"
            elif self._state == "head":
                head, found, rest = self._buffer.partition(b"\r\n\r\n")
                if not found:
                    if len(head) > _MOST_HEAD:
                        raise ValueError("a part of the form has no end of its headers")
                    return
                self._buffer, self._state = rest, "data"
                yield _begins(head.decode("utf-8", "replace"))
            else:
                self._buffer = b""
                return


def _begins(head: str) -> Begins:
    for line in head.split("\r\n"):
        if line.lower().startswith("content-disposition:"):
            name, star, plain = _NAME.search(line), _FILENAME_STAR.search(line), _FILENAME.search(line)
            if name is None:
                break
            filename = unquote(star[1]) if star else plain[1].replace("%22", '"') if plain else None
            return Begins(name[1], filename)
    raise ValueError("a part of the form has no name")
