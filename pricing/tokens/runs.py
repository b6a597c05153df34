"""A very long run of letters, counted window by window: exact, and linear where the engine is not.

An encoding is the only sequence of tokens in which every two neighbours would be encoded as those two. So where two
overlapping windows agree on a token, the first up to it and the second from it on are the encoding of both together.
"""

from __future__ import annotations

import re
from collections.abc import Callable

WINDOW = 50_000
OVERLAP = 1_000
IS_RUN = re.compile(r"[a-z]{100000,}")
"""One word for every split pattern, wherever it is cut."""


def count_run(text: str, encode: Callable[[str], list[int]], length: Callable[[int], int]) -> int | None:
    """Count the tokens of a run; None if two windows nowhere agree, and it has to be encoded whole.

    encode  a part of the run → token ids
    length  a token id → bytes, which here are characters
    """
    count = 0
    left, end = encode(text[: WINDOW + OVERLAP]), min(len(text), WINDOW + OVERLAP)
    for cut in range(WINDOW, len(text), WINDOW):
        found = {}  # where a token of the left window starts → its place
        at, place = end, len(left)
        while place and at > cut - OVERLAP:
            place -= 1
            at -= length(left[place])
            found[at] = place
        at, end = cut - OVERLAP, min(len(text), cut + WINDOW + OVERLAP)
        right = encode(text[at:end])
        for place, token in enumerate(right):
            if at in found and left[found[at]] == token:
                count += found[at]
                left = right[place:]
                break
            if at > cut + OVERLAP:
                return None
            at += length(token)
        else:
            return None
    return count + len(left)
