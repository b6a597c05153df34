"""fastokens in the place of tiktoken: the same counts, whatever the text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.tokens import accelerate, count_text, fast
from pricing.tokens import text as text_module
from pricing.tokens.encodings import get_encoding

ENCODINGS = ("o200k_base", "cl100k_base")


@pytest.fixture(scope="module")
def counters() -> dict[str, Callable[[str], int]]:
    """The fast counter of each encoding: a second to load, once."""
    found = {name: fast.load(name) for name in ENCODINGS}
    return {name: counter for name, counter in found.items() if counter is not None}


TEXTS = st.one_of(
    st.text(max_size=200),
    st.text(st.characters(exclude_categories=()), max_size=60),  # lone surrogates among them
    st.text(" \t\n\r\u00a0\u3000a1.'’", max_size=80),
    st.text("0123456789abcdefABCDEF+/=", max_size=200),
    st.lists(
        st.sampled_from(
            ["<|endoftext|>", "<|endofprompt|>", "don't", "HTTPServer", "漢字", "👩‍👩‍👧‍👦", "été", "\r\n", "  "]
        ),
        max_size=20,
    ).map("".join),
)


@given(TEXTS, st.sampled_from(ENCODINGS))
@settings(max_examples=600)
def test_fastokens_counts_as_tiktoken_does(counters: dict[str, Callable[[str], int]], text: str, name: str) -> None:
    """For any text, special-token text and lone surrogates included, both engines count the same."""
    assert counters[name](text) == len(get_encoding(name).encode(text, disallowed_special=()))


@pytest.fixture
def _forgets() -> Iterator[None]:
    """The engine of this process is what it was, afterwards."""
    text_module._memo.cache_clear()
    yield
    text_module._memo.cache_clear()


@pytest.mark.usefixtures("_forgets")
def test_accelerate_counts_with_fastokens_from_then_on() -> None:
    """A text is counted by the fast engine once it is asked for, and the count is what it was."""
    before = count_text("How many tokens are these?", "o200k_base")
    assert accelerate("o200k_base")
    memo = text_module._memo("o200k_base")
    calls: list[str] = []
    engine = memo.engine
    assert engine is not None

    def watched(text: str) -> int:
        calls.append(text)
        return engine(text)

    memo.engine = watched
    assert count_text("How many tokens are these, then?", "o200k_base") == before + 2
    assert calls == ["How many tokens are these, then?"]


@pytest.mark.usefixtures("_forgets")
def test_without_fastokens_tiktoken_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the extra is not installed, `accelerate` says so and counting works as before."""
    monkeypatch.setitem(sys.modules, "fastokens", None)
    assert not accelerate("o200k_base")
    assert count_text("tiktoken is great!", "o200k_base") == 6
