"""Encodings, offline: tiktoken's engine over vocabularies that ship with this package.

Nothing is downloaded and no cache directory is read or set. The first count of an encoding costs about a quarter of a
second; it is built once, on first use.
"""

from __future__ import annotations

import sys
import threading
import zlib
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

from ..cards import resolve
from ..resources import data_path

if TYPE_CHECKING:
    from tiktoken import Encoding

# Split patterns and special tokens as in tiktoken 0.14, tiktoken_ext/openai_public.py (MIT).
PATTERNS = {
    "o200k_base": "|".join(
        [
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ]
    ),
    "cl100k_base": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ),
}
_SPECIAL = {
    "o200k_base": {"<|endoftext|>": 199999, "<|endofprompt|>": 200018},
    "cl100k_base": {
        "<|endoftext|>": 100257,
        "<|fim_prefix|>": 100258,
        "<|fim_middle|>": 100259,
        "<|fim_suffix|>": 100260,
        "<|endofprompt|>": 100276,
    },
}
_LOCK = threading.RLock()  # re-entrant: collected garbage may count the text of an abandoned stream

# Models without a card: by name, the longest prefix wins. (encoding, tokens that prime a chat reply)
# Source: tiktoken 0.14 model.py; openai-cookbook; recorded prompt counts (pydantic-ai cassettes, 2026-08-22).
_FAMILIES: dict[str, tuple[str, int]] = {
    "gpt-4o": ("o200k_base", 3),
    "gpt-4.1": ("o200k_base", 3),
    "gpt-4.5": ("o200k_base", 3),
    "chatgpt-4o": ("o200k_base", 3),
    "o1": ("o200k_base", 2),
    "o3": ("o200k_base", 2),
    "o4-mini": ("o200k_base", 2),
    "gpt-5": ("o200k_base", 2),
    "computer-use-preview": ("o200k_base", 2),
    "gpt-4": ("cl100k_base", 3),
    "gpt-3.5": ("cl100k_base", 3),
    "gpt-35": ("cl100k_base", 3),
    "gpt-3.5-turbo-0301": ("cl100k_base", 3),
    "gpt-4o-search-preview": ("o200k_base", 3),
    "gpt-4o-mini-search-preview": ("o200k_base", 3),
    "o1-mini": ("o200k_base", 2),
    "text-embedding-3": ("cl100k_base", 0),
    "text-embedding-ada-002": ("cl100k_base", 0),
    "davinci-002": ("cl100k_base", 0),
    "babbage-002": ("cl100k_base", 0),
}


class Family(NamedTuple):
    """How a model counts: its encoding, the tokens that prime a chat reply, and whether a source says so."""

    encoding: str
    prime_tokens: int
    known: bool
    name: str

    @property
    def kind(self) -> str:
        """How tools are written: "gpt-5", "o200k" or "cl100k"."""
        return "gpt-5" if self.name.startswith("gpt-5") else self.encoding.removesuffix("_base")


@lru_cache(maxsize=1024)
def family_of(model: str) -> Family:
    """Say how a model counts. Where no source names its encoding, `known` is False (gpt-6 is not in tiktoken 0.14)."""
    base = model.split(":")[1] if model.startswith("ft:") and ":" in model[3:] else model
    names = [name for name in _FAMILIES if base == name or base.startswith((name + "-", name + "."))]
    name = max(names, key=len, default="")
    encoding, prime = _FAMILIES.get(name, ("o200k_base", 3))
    card = resolve(base)
    if card is not None and card.encoding is not None:
        return Family(card.encoding, card.prime_tokens if card.prime_tokens is not None else prime, True, name)
    return Family(encoding, prime, bool(name), name)


def encoding_for(model: str) -> str | None:
    """Name the encoding a model counts with; None where no source names it."""
    family = family_of(model)
    return family.encoding if family.known else None


def get_encoding(name: str) -> Encoding:
    """Build (once, whatever the threads) the encoding of this name."""
    with _LOCK:
        return _build(name)


@cache
def _build(name: str) -> Encoding:
    from tiktoken import Encoding

    return Encoding(name, pat_str=PATTERNS[name], mergeable_ranks=read_ranks(name), special_tokens=_SPECIAL[name])


def read_ranks(name: str) -> dict[bytes, int]:
    """Rebuild a vocabulary (token bytes → rank) from its merge pairs; data/vocab/README.md has the format."""
    raw = zlib.decompress(data_path(f"vocab/{name}.pairs.z").read_bytes())
    tokens = [raw[i : i + 1] for i in range(256)]
    n = (len(raw) - 256) // 6
    planes = [raw[256 + k * n : 256 + (k + 1) * n] for k in range(6)]
    append = tokens.append
    for left, right in zip(_joined(planes[:3]), _joined(planes[3:]), strict=True):
        append(tokens[left] + tokens[right])
    return dict(zip(tokens, range(len(tokens)), strict=True))


def _joined(planes: list[bytes]) -> memoryview:
    """Join the byte planes of 24-bit numbers: what a loop over the bytes does, in a third of its time."""
    joined = bytearray(4 * len(planes[0]))
    for k, plane in enumerate(planes):
        joined[k if sys.byteorder == "little" else 3 - k :: 4] = plane
    return memoryview(joined).cast("I")
