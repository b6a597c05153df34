"""Images and audio: the published rules by hand, and sizes read from real files' first bytes."""

from __future__ import annotations

import base64
import io
import struct
import wave
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.tokens import count_input
from pricing.tokens.attachments import audio_tokens, file_tokens, size_of, text_of
from pricing.tokens.images import UNKNOWN, image_size, image_tokens


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        # One tile, four, six: 85 and 170 each; low detail is the base. 3008 × 2000 was recorded as 1,105.
        ("gpt-4o", (100, 100), None, 255),
        ("gpt-4o", (1_024, 1_024), "high", 765),
        ("gpt-4o", (3_008, 2_000), "auto", 1_105),
        ("gpt-4o", (3_008, 2_000), "low", 85),
        ("gpt-4o", (2_048, 4_096), "high", 1_105),  # the example of the vision guide
        ("gpt-4o-mini", (1_126, 488), "auto", 19_834),
        ("gpt-5", (1_024, 1_024), None, 630),
        ("o3", (512, 512), None, 225),
        # The two examples of the page: 1,024 patches, and 1800 × 2400 shrunk to 1056 × 1408, which is 33 × 44.
        ("gpt-5.2", (1_024, 1_024), None, 1_024),
        ("gpt-5.2", (1_800, 2_400), None, 1_452),
        ("gpt-4.1-mini", (1_024, 1_024), None, 1_659),  # × 1.62, rounded up
        ("gpt-4.1-nano", (540, 360), None, 502),
        ("gpt-5.6-sol", (3_200, 3_200), None, 10_000),
    ],
)
def test_an_image_of_known_size_counts_by_the_rule(
    model: str, size: tuple[int, int], detail: str | None, tokens: int
) -> None:
    """Tiles and patches as the guide counts them."""
    assert image_tokens(model, size, detail).likely == tokens


@pytest.mark.parametrize("model", ["gpt-6-astra", "gpt-5.1", "nobody-knows"])
def test_without_a_rule_an_image_is_bounded_widely(model: str) -> None:
    """A model without a published rule gets no invented one."""
    low, likely, high, why = image_tokens(model, (640, 480), None)
    assert (low, likely, high) == UNKNOWN
    assert "no rule" in why


MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-5", "gpt-5-mini", "gpt-5.2", "gpt-5.4", "gpt-5.5", "gpt-4.1-nano", "o4-mini")
DETAILS = st.sampled_from([None, "auto", "high", "low", "original", "nonsense"])


@given(st.sampled_from(MODELS), st.integers(1, 20_000), st.integers(1, 20_000), DETAILS)
def test_an_unknown_size_is_bounded_by_every_size(model: str, width: int, height: int, detail: str | None) -> None:
    """Whatever the size turns out to be, its count lies within what was said without it; and bounds are in order."""
    unknown, known = image_tokens(model, None, detail), image_tokens(model, (width, height), detail)
    assert unknown.low <= known.low <= known.likely <= known.high <= unknown.high


def png(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def jpeg(width: int, height: int, before: int = 0) -> bytes:
    profile = b"\xff\xe2" + struct.pack(">H", before + 2) + bytes(before)
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8" + profile + frame


FILES = {
    "png": png(1_245, 1_395),
    "gif": b"GIF89a" + struct.pack("<HH", 1_245, 1_395),
    "jpeg": jpeg(1_245, 1_395),
    "jpeg after a profile of 60 kB": jpeg(1_245, 1_395, 60_000),
    "webp, lossy": b"RIFF\0\0\0\0WEBPVP8 " + bytes(4) + b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 1_245, 1_395),
    "webp, lossless": b"RIFF\0\0\0\0WEBPVP8L" + bytes(4) + b"\x2f" + struct.pack("<I", 1_244 | 1_394 << 14) + bytes(8),
    "webp, extended": b"RIFF\0\0\0\0WEBPVP8X"
    + bytes(8)
    + (1_244).to_bytes(3, "little")
    + (1_394).to_bytes(3, "little"),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_size_is_read_from_the_head_of_a_file(kind: str) -> None:
    """PNG, GIF, JPEG and the three kinds of WebP say how large they are; so do their data URLs."""
    assert image_size(FILES[kind]) == (1_245, 1_395)
    assert size_of("data:image/x;base64," + base64.b64encode(FILES[kind]).decode()) == (1_245, 1_395)


@given(st.binary(max_size=80), st.sampled_from([*(raw[:24] for raw in FILES.values()), b""]))
def test_no_bytes_break_the_reading(rest: bytes, head: bytes) -> None:
    """Cut, garbled and empty files have no size or a positive one, and no length of audio below nothing."""
    size = image_size(head + rest)
    assert size is None or min(size) > 0
    sound = {"input_audio": {"data": base64.b64encode(head + rest).decode(), "format": "mp3"}}
    low, likely, high, _ = audio_tokens(sound)
    assert 0 <= low <= likely <= high


@pytest.mark.parametrize(
    "url", ["https://example.com/x.png", "data:image/png,raw", "data:image/png;base64,~~~", "", None, 5]
)
def test_what_is_no_data_url_has_no_size(url: Any) -> None:
    """An address, or what is no image at all, is not looked into."""
    assert size_of(url) is None


def sound(seconds: float) -> str:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(round(32_000 * seconds)))
    return base64.b64encode(out.getvalue()).decode()


def test_audio_counts_by_its_length() -> None:
    """A token for each tenth of a second, and few around: a minute of WAV is some 600."""
    low, likely, high, why = audio_tokens({"input_audio": {"data": sound(60), "format": "wav"}})
    assert low <= 600 <= likely <= 604 <= high <= 700
    assert "100 ms" in why


def test_a_text_file_is_counted_and_others_are_bounded() -> None:
    """The text of a CSV is in the request and is counted; a PDF's pages are not, and are only bounded."""
    csv = {"type": "input_file", "filename": "a.csv", "file_data": "data:text/csv;base64,YSxiCjEsMgo="}
    assert text_of(csv) == "a,b\n1,2\n"
    pdf = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}
    assert text_of(pdf) is None
    assert file_tokens(pdf).low < file_tokens(pdf).high
    counted = count_input(
        {"model": "gpt-4o", "input": [{"role": "user", "content": [csv, {"type": "input_file", "file_id": "file-1"}]}]},
        "/v1/responses",
    )
    assert "files: " in counted.why
    assert counted.low < counted.tokens < counted.high
