"""Tokens of files and audio inside a request: exact where a rule and the bytes are there, else within bounds."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from .images import Range, image_size

FILE = (0, 1_000, 200_000)
"""A file that is only named, by an address or an id."""
_HEAD_CHARS = (4_096, 400_000)
"""Enough of an image for its size: nearly always, and where a JPEG carries a thumbnail and profiles before it."""
_PER_SECOND = 10  # audio a user sends: a token for each 100 ms. Source: guides/realtime-costs, 2026-07-15
_AUDIO_AROUND = 4  # two recordings
_MP3_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_TEXT_TYPES = ("text/", "application/json", "application/xml")
_TEXT_NAMES = (".txt", ".md", ".csv", ".json", ".xml", ".html", ".py", ".yaml", ".yml")


def size_of(url: Any) -> tuple[int, int] | None:
    """Read the size of an image from its data URL; None for an address, or what is no image."""
    for chars in _HEAD_CHARS:
        data = _data(url, chars)
        size = image_size(data[1]) if data is not None else None
        if size is not None or not isinstance(url, str) or len(url) <= chars:
            return size
    return None


def text_of(part: Mapping[str, Any]) -> str | None:
    """Take the text out of a file part that carries a text file; None for any other file."""
    file = part.get("file", part)
    if not isinstance(file, Mapping):
        return None
    data = _data(file.get("file_data"))
    if data is None:
        return None
    kind, raw = data
    name = file.get("filename")
    if kind.startswith(_TEXT_TYPES) or (not kind and isinstance(name, str) and name.lower().endswith(_TEXT_NAMES)):
        return raw.decode("utf-8", "replace")
    return None


def file_tokens(part: Mapping[str, Any]) -> Range:
    """Bound a file that is not text: a PDF counts the text and an image of every page."""
    file = part.get("file", part)
    data = file.get("file_data") if isinstance(file, Mapping) else None
    if not isinstance(data, str):
        return Range(*FILE, "files: what is in them is not in the request")
    return Range(FILE[0], min(FILE[1], len(data)), max(FILE[2], len(data)), "files: their text and pages are not read")


def audio_tokens(part: Mapping[str, Any]) -> Range:
    """Count audio by its length, read from a WAV or MP3 header."""
    audio = part.get("input_audio", part)
    raw = _decode(audio.get("data")) if isinstance(audio, Mapping) else None
    if raw is None:
        return Range(*FILE, "audio: its length is not known")
    milliseconds = _wav_ms(raw)
    if milliseconds is None:
        milliseconds = _mp3_ms(raw)
    if milliseconds is None:  # between 8 and 320 kilobits a second
        low, likely, high = (len(raw) * 8 * _PER_SECOND // bits for bits in (320_000, 64_000, 8_000))
        return Range(low, likely + _AUDIO_AROUND, high + 16, "audio: its length is not in its header")
    tokens = -(-milliseconds * _PER_SECOND // 1_000) + _AUDIO_AROUND
    slack = 4 + tokens // 20
    return Range(max(0, tokens - slack), tokens, tokens + slack, "audio: a token for each 100 ms of it")


def _wav_ms(raw: bytes) -> int | None:
    if raw[:4] != b"RIFF" or raw[8:12] != b"WAVE":
        return None
    at, per_second = 12, 0
    while at + 8 <= len(raw):
        name, size = raw[at : at + 4], int.from_bytes(raw[at + 4 : at + 8], "little")
        if name == b"fmt ":
            per_second = int.from_bytes(raw[at + 16 : at + 20], "little")
        elif name == b"data":  # a streamed file does not know its size
            return min(size, len(raw) - at - 8) * 1_000 // per_second if per_second else None
        at += 8 + size + size % 2
    return None


def _mp3_ms(raw: bytes) -> int | None:
    """The length of an MP3 (MPEG 1, layer 3) from the bit rate of its first frame."""
    at = 0
    if raw[:3] == b"ID3" and len(raw) >= 10:
        at = 10 + (raw[6] << 21 | raw[7] << 14 | raw[8] << 7 | raw[9])
    if len(raw) < at + 4 or raw[at] != 0xFF or raw[at + 1] & 0xFE != 0xFA:
        return None
    kbps = _MP3_KBPS[raw[at + 2] >> 4]
    return (len(raw) - at) * 8 // kbps if kbps else None


def _data(url: Any, most_chars: int | None = None) -> tuple[str, bytes] | None:
    """Decode a data URL, or bare base64: (media type or "", bytes)."""
    if not isinstance(url, str):
        return None
    kind = ""
    if url.startswith("data:"):
        head, comma, url = url.partition(",")
        kind = head[5:].partition(";")[0]
        if not comma or not head.endswith("base64"):
            return None
    elif "://" in url[:12]:
        return None
    raw = _decode(url if most_chars is None else url[: min(most_chars, len(url) // 4 * 4)])
    return (kind, raw) if raw is not None else None


def _decode(text: Any) -> bytes | None:
    if not isinstance(text, str):
        return None
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
