"""Long runs of letters: counted in windows, they have the count of the whole."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.tokens import count_text, runs
from pricing.tokens.encodings import get_encoding

ENCODINGS = ("o200k_base", "cl100k_base")


def in_windows(text: str, name: str) -> int | None:
    encoding = get_encoding(name)
    return runs.count_run(text, encoding.encode, lambda token: len(encoding.decode_single_token_bytes(token)))


@given(st.sampled_from(ENCODINGS), st.integers(0, 2**32), st.sampled_from([1, 2, 3, 26]), st.integers(1, 6_000))
@settings(max_examples=150)
def test_windows_count_what_the_whole_has(name: str, seed: int, letters: int, size: int) -> None:
    """Random runs of few and of many letters, and repeated words, in windows so small that every run has dozens."""
    rng = random.Random(seed)
    alphabet = rng.sample("abcdefghijklmnopqrstuvwxyz", letters)
    words = ["".join(rng.choices(alphabet, k=rng.randint(1, 12))) for _ in range(20)]
    text = "".join(rng.choices(words if seed % 2 else alphabet, k=size))[:size]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "WINDOW", 300)
        patch.setattr(runs, "OVERLAP", 150)
        counted = in_windows(text, name)
    assert counted in (None, len(get_encoding(name).encode(text)))


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_megabyte_of_letters_is_counted_in_windows(name: str) -> None:
    """At the shipped sizes the windows of a random run agree, and the count is that of the whole."""
    text = "".join(random.Random(7).choices("abcdefghijklmnopqrstuvwxyz", k=600_000))
    whole = len(get_encoding(name).encode(text))
    assert in_windows(text, name) == whole
    assert count_text(text, name) == whole


def test_windows_that_never_agree_are_no_count() -> None:
    """An encoding that depends on where a window starts has no answer here, and is counted whole."""
    encoded = iter(([1] * 51_000, [2] * 52_000))
    assert runs.count_run("a" * 120_000, lambda _: next(encoded), lambda _: 1) is None
