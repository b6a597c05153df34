"""The estimate for encodings that nobody published: bounds that no text breaks, and numbers close to the truth."""

from __future__ import annotations

import base64
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.tokens import count_input, count_text
from pricing.tokens.guess import guess_text

PROSE = (
    "The parcel was promised for Tuesday, and it is Friday now. I have called three times; each time somebody said "
    "that it was on its way, and each time it was not. Please tell me what happened, and when I may expect it. "
)
CODE = (
    'def area(width: float, height: float) -> float:\n    """Area of a rectangle."""\n    return width * height\n\n\n'
)
CHINESE = "包裹原定于星期二送达，现在已经是星期五了。我打过三次电话，每次都有人说已经在路上了，但每次都没有到。"
NOISE = base64.b64encode(random.Random(5).randbytes(750)).decode()


@given(st.one_of(st.text(), st.text(" \n\ta"), st.text("=-+0123456789"), st.text(st.characters(exclude_categories=()))))
@settings(max_examples=400)
def test_the_bounds_hold_for_every_known_encoding(text: str) -> None:
    """Whatever the text, the counts of both published encodings lie within the bounds, and so does the estimate."""
    low, likely, high, _ = guess_text(text)
    assert low <= likely <= high
    for name in ("o200k_base", "cl100k_base"):
        assert low <= count_text(text, name) <= high


@pytest.mark.parametrize("text", [PROSE, CODE, CHINESE, NOISE, " " * 5_000, "\n" * 5_000])
def test_the_bounds_hold_for_texts_of_a_kind(text: str) -> None:
    """Prose, code, Chinese, base64 and blanks: none is above its bytes or below a 128th of them."""
    low, _, high, _ = guess_text(text)
    assert low <= count_text(text, "o200k_base") <= high


@pytest.mark.parametrize("text", [PROSE * 4, CODE * 8, CHINESE * 12])
def test_the_estimate_is_close_for_what_people_send(text: str) -> None:
    """For prose, code and Chinese of a thousand characters the estimate is within a quarter of o200k_base."""
    true = count_text(text, "o200k_base")
    assert abs(guess_text(text).likely - true) <= true / 4


def test_a_model_without_a_published_encoding_is_estimated_and_says_so() -> None:
    """gpt-6 is in no published list: the count is an estimate with the bounds of its text, and the reason is named."""
    counted = count_input({"model": "gpt-6-astra", "input": PROSE}, "/v1/responses")
    assert not counted.exact
    assert "encoding of 'gpt-6-astra' is not published" in counted.why
    for model in ("gpt-5.5", "gpt-4"):  # whichever it turns out to be like
        true = count_input({"model": model, "input": PROSE}, "/v1/responses").tokens
        assert counted.low <= true <= counted.high
        assert abs(counted.tokens - true) <= true / 4
