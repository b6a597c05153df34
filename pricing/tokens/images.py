"""Tokens of images: a size in pixels and a model's rule in, tokens out; and the size read from the head of a file.

Two rules are published: tiles (a base, and so much for every square of 512 pixels) and patches (one for every square
of 32 pixels, up to a budget, times a multiplier). Source: guides/images-vision, 2026-07-15; recorded counts confirm
the tiles to the token and the patches within one (2025-04 … 2026-08). The rules are rows of data/models.yaml.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ..cards import ImageRule, Patches, resolve


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

# Percent of a patch in recordings (eleven, 2026-05 … 2026-08). The page names none for the first two, 162 for
# the last.
_RECORDED_PERCENT = {"gpt-5.4": 120, "gpt-5.5": 120, "gpt-5-mini": 120}
_BY_RULE = "images: counted by the published rule"


def image_tokens(model: str, size: tuple[int, int] | None, detail: str | None) -> Range:
    """Count an image; within bounds where its size or the model's rule is not known.

    size    (width, height) px; None when it is not in the request
    detail  "low" | "high" | "original" | "auto"; None counts as auto
    """
    card = resolve(model)
    if card is None or card.image_tokens is None:
        return Range(*UNKNOWN, "images: no rule is published for this model")
    rule = card.image_tokens
    if rule.tiles is None:
        return _by_patches(rule, size, detail, _RECORDED_PERCENT.get(card.model, rule.multiplier_percent))
    base, tile = rule.tiles
    if detail == "low":
        return Range(base, base, base, _BY_RULE)
    if size is None:
        likely = base + tile * _tiles(*TYPICAL_PX)
        return Range(base, likely, base + tile * _MOST_TILES, "images: their size is not in the request")
    tokens = base + tile * _tiles(*size)
    return Range(tokens, tokens, tokens, _BY_RULE)


def _by_patches(rule: ImageRule, size: tuple[int, int] | None, detail: str | None, percent: int) -> Range:
    patches = rule.patches
    level = patches.get(detail or "") or patches.get(rule.auto or "") or patches.get("default")
    level = level or next(iter(patches.values()))
    most_percent = max(percent, rule.multiplier_percent)
    if size is None:
        most = UNKNOWN[2] if level.budget is None else _times(level.budget, most_percent) + 2
        likely = min(most, _times(_patches(*TYPICAL_PX, level), percent))
        return Range(0, likely, most, "images: their size is not in the request")
    number = _patches(*size, level)
    tokens, most = _times(number, percent), _times(number, most_percent) + 2
    if detail == "low":
        return Range(0, tokens, most, "images: what low detail counts here is not published")
    return Range(max(0, tokens - 2), tokens, most, _BY_RULE)


def _tiles(width: int, height: int) -> int:
    """Count the tiles: fitted into 2048 × 2048, the short side brought down to 768; small images are not enlarged."""
    scale = min(1.0, _FIT_PX / max(width, height))
    scale *= min(1.0, _SHORT_PX / (min(width, height) * scale))
    across, down = (max(1, math.ceil(round(side * scale, 6) / _TILE_PX)) for side in (width, height))
    return across * down


def _patches(width: int, height: int, level: Patches) -> int:
    """Count the patches: shrunk to the longest side, then until they fit the budget."""
    if level.max_side is not None and max(width, height) > level.max_side:
        scale = level.max_side / max(width, height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    patches = math.ceil(width / _PATCH_PX) * math.ceil(height / _PATCH_PX)
    if level.budget is None or patches <= level.budget:
        return patches
    scale = math.sqrt(_PATCH_PX**2 * level.budget / (width * height))
    across, down = width * scale / _PATCH_PX, height * scale / _PATCH_PX
    scale *= min(max(1, math.floor(across)) / across, max(1, math.floor(down)) / down)
    width, height = max(1, int(width * scale)), max(1, int(height * scale))
    return min(level.budget, math.ceil(width / _PATCH_PX) * math.ceil(height / _PATCH_PX))


def _times(patches: int, percent: int) -> int:
    return -(-patches * percent // 100)


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
