"""Exact token counts of plain text, fast on what was counted before and safe on whatever users send."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import cache

from .encodings import get_encoding
from .runs import IS_RUN, count_run

MEMO_ENTRIES = 4096
MEMO_CHARS = 4_000_000
MEMO_LONGEST = 100_000
"""Texts are remembered whole: chat clients send their history again and again. Bounded in number and in size."""

_LONGEST_PIECE = 400_000
# Between a lower-case letter and a space before a letter, and after a newline before a letter or digit, no token
# reaches across: cutting there changes no count (tested).
_SAFE_CUT = re.compile(r"(?<=[a-z])(?= [A-Za-z])|(?<=\n)(?=[A-Za-z0-9])")


class _Memo:
    """Counts of whole texts, for one encoding."""

    __slots__ = ("_chars", "_counts", "_encode", "_lock", "_name", "engine")

    def __init__(self, name: str) -> None:
        self._name = name
        self._encode: Callable[..., list[int]] | None = None  # built when it is needed: another engine may stand in
        self.engine: Callable[[str], int] | None = None  # a faster one, in the place of tiktoken
        self._counts: dict[str, int] = {}
        self._chars = 0
        self._lock = threading.RLock()  # re-entrant: collected garbage may count the text of an abandoned stream

    def count(self, text: str) -> int:
        known = self._counts.get(text)
        if known is not None:
            return known
        if self.engine is not None:
            count = self.engine(text)
        else:
            encode = self._encode
            if encode is None:
                encode = self._encode = get_encoding(self._name).encode
            if len(text) <= _LONGEST_PIECE:
                count = len(encode(text, disallowed_special=()))
            else:
                count = sum(self._piece(piece, encode) for piece in _pieces(text))
        if len(text) <= MEMO_LONGEST:
            with self._lock:
                if len(self._counts) >= MEMO_ENTRIES or self._chars > MEMO_CHARS:
                    self._counts.clear()
                    self._chars = 0
                self._counts[text] = count
                self._chars += len(text)
        return count

    def _piece(self, piece: str, encode: Callable[..., list[int]]) -> int:
        if IS_RUN.fullmatch(piece):
            decode = get_encoding(self._name).decode_single_token_bytes
            count = count_run(piece, encode, lambda token: len(decode(token)))
            if count is not None:
                return count
        try:
            return len(encode(piece, disallowed_special=()))
        except ValueError:
            # tiktoken 0.14 overflows on a million white-space characters in a row. A token takes at most 128 of them:
            # cut at a multiple of that, a run of one character has the count of the whole, any other a few more.
            middle = len(piece) // 256 * 128
            return self._piece(piece[:middle], encode) + self._piece(piece[middle:], encode)


@cache
def _memo(name: str) -> _Memo:
    return _Memo(name)


def count_text(text: str, encoding: str) -> int:
    """Count the tokens of a text exactly. Never raises: special-token text and lone surrogates are text too."""
    return _memo(encoding).count(text)


def accelerate(encoding: str) -> bool:
    """Count with fastokens from now on, in this process; False where it is not installed. Loading takes a second."""
    memo = _memo(encoding)
    if memo.engine is None:
        from .fast import load

        memo.engine = load(encoding)
    return memo.engine is not None


def _pieces(text: str) -> list[str]:
    """Cut a long text where no token can reach across; a stretch without such a place stays whole."""
    pieces, start = [], 0
    while len(text) - start > _LONGEST_PIECE:
        cut = _SAFE_CUT.search(text, start + _LONGEST_PIECE)
        if cut is None:
            break
        pieces.append(text[start : cut.start()])
        start = cut.start()
    pieces.append(text[start:])
    return pieces
