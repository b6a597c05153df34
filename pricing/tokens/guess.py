"""Tokens of a text whose encoding nobody has published: an estimate from its classes of bytes, and bounds that hold.

Weights fitted on o200k_base over prose, code, JSON, Chinese, Japanese and eight more languages (2026-11-22): off by 7 %
on average, by less than 21 % for 95 of 100 texts of a thousand characters. Base64 and the like break every estimate.
"""

from __future__ import annotations

from .images import Range

LONGEST_TOKEN = 128
"""Bytes of the longest token of the known encodings; a byte-level token has at least one."""
_DIGITS = "0123456789"
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def guess_text(text: str) -> Range:
    """Estimate the tokens of a text. `low` and `high` hold for every byte-level encoding, whatever the text is."""
    if not text:
        return Range(0, 0, 0, "")
    raw = text.encode("utf-8", "surrogatepass")
    size = len(raw)
    spaces, lines = raw.count(b" "), raw.count(b"\n")
    digits = size - len(raw.translate(None, _DIGITS.encode()))
    punctuation = size - len(raw.translate(None, _PUNCTUATION.encode()))
    likely = (  # thousandths of a token
        213 * size + 35 * (size - len(text)) - 171 * spaces + 842 * lines + 370 * punctuation + 681 * digits + 585
    )
    low = -(-size // LONGEST_TOKEN)
    return Range(low, min(size, max(low, round(likely / 1_000))), size, "")
