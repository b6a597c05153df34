"""Tokens of images: a size in pixels and a model's rule in, tokens out; and the size read from the head of a file.

Two rules are published: tiles (a base, and so much for every square of 512 pixels) and patches (one for every square
of 32 pixels, up to a budget, times a multiplier). Source: guides/images-vision, 2026-07-15; recorded counts confirm
the tiles to the token and the patches within one (2025-04 … 2026-08).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple


class Tiles(NamedTuple):
    """So much for the image, and so much for each tile."""

    base: int
    tile: int


class Patches(NamedTuple):
    """A token for each patch, times `per_mille` / 1000; None where the page names no budget or no longest side.

    most_per_mille  where recordings and the page disagree: the larger of the two; 0 where they do not
    original        (budget, longest side) for the detail "original"
    """

    budget: int | None
    side_px: int | None
    per_mille: int = 1_000
    most_per_mille: int = 0
    original: tuple[int, int] | None = None


class Range(NamedTuple):
    """Tokens known only within bounds, and the reason."""

    low: int
    likely: int
    high: int
    why: str


UNKNOWN = (0, 765, 50_000)
"""An image that no rule is published for."""
TYPICAL_PX = (1_024, 1_024)
"""The size taken for an image that is only named, by an address or an id."""
_PATCH_PX, _TILE_PX, _FIT_PX, _SHORT_PX = 32, 512, 2_048, 768
_MOST_TILES = 8  # a short side of 768 beside a long one of 2048: 2 × 4
_SMALL = Patches(1_536, 2_048)

# By name; the longest that fits wins. Source: guides/images-vision, 2026-07-15. Recordings of gpt-5.4, 5.5 and 5-mini
# count 1.2 a patch (eleven, until 2026-08); the page says nothing of the first two, and 1.62 for the last.
_RULES: dict[str, Tiles | Patches | None] = {
    "gpt-4o": Tiles(85, 170),
    "gpt-4.1": Tiles(85, 170),
    "gpt-4.5": Tiles(85, 170),
    "gpt-4o-mini": Tiles(2_833, 5_667),
    "gpt-5": Tiles(70, 140),
    "o1": Tiles(75, 150),
    "o3": Tiles(75, 150),
    "computer-use-preview": Tiles(65, 129),
    "gpt-4.1-mini": _SMALL._replace(per_mille=1_620),
    "gpt-5-mini": _SMALL._replace(per_mille=1_200, most_per_mille=1_620),
    "gpt-5.4-mini": _SMALL._replace(per_mille=1_620),
    "gpt-4.1-nano": _SMALL._replace(per_mille=2_460),
    "gpt-5-nano": _SMALL._replace(per_mille=2_460),
    "gpt-5.4-nano": _SMALL._replace(per_mille=2_460),
    "o4-mini": _SMALL._replace(per_mille=1_720),
    "gpt-5.2": _SMALL,
    "gpt-5.3-codex": _SMALL,
    "gpt-5-codex-mini": _SMALL,
    "gpt-5.1-codex-mini": _SMALL,
    "gpt-5.4": Patches(2_500, 2_048, 1_200, original=(10_000, 6_000)),
    "gpt-5.5": Patches(10_000, 6_000, 1_200, original=(10_000, 6_000)),
    "gpt-5.6": Patches(None, None),
    # No rule was found for these, and that of the family before them is none.
    "gpt-5.1": None,
    "o3-pro": None,
    "o3-mini": None,
    "o1-mini": None,
    "gpt-5-pro": None,
    "gpt-5.2-pro": None,
    "gpt-5.4-pro": None,
    "gpt-5.5-pro": None,
    "gpt-6": None,
}


@lru_cache(maxsize=1024)
def rule_of(model: str) -> Tiles | Patches | None:
    """Find the published rule of a model; None when there is none."""
    names = [name for name in _RULES if model == name or model.startswith((name + "-", name + "."))]
    return _RULES[max(names, key=len)] if names else None


def image_tokens(rule: Tiles | Patches | None, size: tuple[int, int] | None, detail: str | None) -> Range:
    """Count an image; within bounds where its size or its rule is not known.

    size    (width, height) px; None when it is not in the request
    detail  "low" | "high" | "original" | "auto"; None counts as auto
    """
    if rule is None:
        return Range(*UNKNOWN, "images: no rule is published for this model")
    if isinstance(rule, Tiles):
        if detail == "low":
            return Range(rule.base, rule.base, rule.base, "images: counted by the published rule")
        if size is not None:
            tokens = rule.base + rule.tile * _tiles(*size)
            return Range(tokens, tokens, tokens, "images: counted by the published rule")
        return Range(
            rule.base,
            rule.base + rule.tile * _tiles(*TYPICAL_PX),
            rule.base + rule.tile * _MOST_TILES,
            "images: their size is not in the request",
        )
    if detail == "original" and rule.original is not None:
        rule = rule._replace(budget=rule.original[0], side_px=rule.original[1])
    most_per_mille = max(rule.per_mille, rule.most_per_mille)
    if size is None:
        most = UNKNOWN[2] if rule.budget is None else _times(rule.budget, most_per_mille) + 2
        likely = min(most, _times(_patches(*TYPICAL_PX, rule), rule.per_mille))
        return Range(0, likely, most, "images: their size is not in the request")
    patches = _patches(*size, rule)
    tokens, most = _times(patches, rule.per_mille), _times(patches, most_per_mille) + 2
    if detail == "low":
        return Range(0, tokens, most, "images: what low detail counts here is not published")
    return Range(max(0, tokens - 2), tokens, most, "images: counted by the published rule")


def _tiles(width: int, height: int) -> int:
    """Count the tiles: fitted into 2048 × 2048, the short side brought down to 768; small images are not enlarged."""
    scale = min(1.0, _FIT_PX / max(width, height))
    scale *= min(1.0, _SHORT_PX / (min(width, height) * scale))
    across, down = (max(1, math.ceil(round(side * scale, 6) / _TILE_PX)) for side in (width, height))
    return across * down


def _patches(width: int, height: int, rule: Patches) -> int:
    """Count the patches: shrunk to the longest side, then until they fit the budget."""
    if rule.side_px is not None and max(width, height) > rule.side_px:
        scale = rule.side_px / max(width, height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    patches = math.ceil(width / _PATCH_PX) * math.ceil(height / _PATCH_PX)
    if rule.budget is None or patches <= rule.budget:
        return patches
    scale = math.sqrt(_PATCH_PX**2 * rule.budget / (width * height))
    across, down = width * scale / _PATCH_PX, height * scale / _PATCH_PX
    scale *= min(max(1, math.floor(across)) / across, max(1, math.floor(down)) / down)
    width, height = max(1, int(width * scale)), max(1, int(height * scale))
    return min(rule.budget, math.ceil(width / _PATCH_PX) * math.ceil(height / _PATCH_PX))


def _times(patches: int, per_mille: int) -> int:
    return -(-patches * per_mille // 1_000)


def image_size(head: bytes) -> tuple[int, int] | None:
    """Read (width, height) in px from the first bytes of a PNG, GIF, JPEG or WebP; None when they do not say."""
    size = None
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        size = int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    elif head[:6] in (b"GIF87a", b"GIF89a"):
        size = int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    elif head[:2] == b"\xff\xd8":
        size = _jpeg_size(head)
    elif head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        size = _webp_size(head)
    return size if size is not None and min(size) > 0 else None


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header, not a table
            return int.from_bytes(head[at + 7 : at + 9]), int.from_bytes(head[at + 5 : at + 7])
        at += 2 + max(2, length)
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    kind, data = head[12:16], head[20:30]
    if kind == b"VP8X":
        return int.from_bytes(data[4:7], "little") + 1, int.from_bytes(data[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF
    return None
