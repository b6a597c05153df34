"""The vocabularies that ship with the package: the published ones, offline, and safe on whatever is thrown at them."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from pricing.tokens import count_text, count_tokens, encoding_for
from pricing.tokens import text as text_module
from pricing.tokens.encodings import get_encoding, read_ranks
from pricing.tokens.guess import guess_text

ENCODINGS = ("o200k_base", "cl100k_base")


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("o200k_base", "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"),
        ("cl100k_base", "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"),
    ],
)
def test_the_vocabulary_is_the_published_one(name: str, sha256: str) -> None:
    """The file rebuilt from the merge pairs is byte for byte the .tiktoken file that OpenAI publishes."""
    ranks = sorted(read_ranks(name).items(), key=lambda item: item[1])
    rebuilt = b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks)
    assert hashlib.sha256(rebuilt).hexdigest() == sha256


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("cl100k_base", "tiktoken is great!", [83, 1609, 5963, 374, 2294, 0]),
        ("o200k_base", "tiktoken is great!", [83, 8251, 2488, 382, 2212, 0]),
    ],
)
def test_known_texts_have_their_known_ids(name: str, text: str, ids: list[int]) -> None:
    """The ids printed in OpenAI's cookbook come out."""
    assert get_encoding(name).encode(text) == ids


@pytest.mark.parametrize(
    ("text", "o200k", "cl100k"),
    [("antidisestablishmentarianism", 6, 6), ("2 + 2 = 4", 7, 7), ("お誕生日おめでとう", 8, 9), ("", 0, 0)],
)
def test_known_texts_have_their_known_counts(text: str, o200k: int, cl100k: int) -> None:
    """The counts printed in OpenAI's cookbook come out."""
    assert (count_text(text, "o200k_base"), count_text(text, "cl100k_base")) == (o200k, cl100k)


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("o3-pro", "o200k_base"),
        ("o3-pro-2025-06-10", "o200k_base"),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-0613", "cl100k_base"),
        ("gpt-4o", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("gpt-3.5-turbo-0301", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("davinci-002", "cl100k_base"),
        ("gpt-5.6-sol", "o200k_base"),
    ],
)
def test_a_model_counts_with_its_encoding(model: str, encoding: str) -> None:
    """Models, snapshots and fine-tunes find their encoding; the longest name wins."""
    assert encoding_for(model) == encoding
    assert count_tokens("お誕生日おめでとう", model) == {"o200k_base": 8, "cl100k_base": 9}[encoding]


@pytest.mark.parametrize("model", ["nobody-knows", "gpt-6-astra", "my-azure-deployment"])
def test_an_encoding_that_nobody_published_is_not_made_up(model: str) -> None:
    """Such a model has no encoding, and its texts are estimated from their bytes."""
    assert encoding_for(model) is None
    assert count_tokens("お誕生日おめでとう", model) == guess_text("お誕生日おめでとう").likely


OFFLINE = """
import socket
def refuse(*args, **kwargs):
    raise AssertionError("a socket was opened")
socket.socket = socket.create_connection = socket.getaddrinfo = refuse
from pricing.tokens import count_text
print(count_text("tiktoken is great!", "o200k_base"), count_text("tiktoken is great!", "cl100k_base"))
"""


def test_counting_needs_no_network_and_no_cache(tmp_path: Path) -> None:
    """A fresh process without a network, a cache directory or a home of its own counts, and leaves nothing behind."""
    known = {key: value for key, value in os.environ.items() if "CACHE" not in key and key != "HOME"}
    environment = known | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["6", "6"]
    assert list(tmp_path.iterdir()) == []


RNG = random.Random(7)
HOSTILE = {
    "one letter": "a" * 1_000_000,
    "spaces": " " * 1_200_000,
    "tabs": "\t" * 1_200_000,
    "spaces before a word": " " * 1_200_000 + "end",
    "newlines": "\n" * 200_000,
    "base64": base64.b64encode(RNG.randbytes(750_000)).decode(),
    "special tokens": "<|endoftext|><|endofprompt|><|fim_prefix|>" * 10_000,
    "lone surrogates": "\ud800 \udfff\udbff" * 10_000,
    "surrogate pairs": "\ud83d\ude00" * 10_000,
    "joined emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 10_000,
    "combining marks": "a" + "\u0301" * 100_000,
    "no break anywhere": "漢字" * 200_000,
    "zeroes": "\0" * 100_000,
}


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_no_text_is_too_hostile_to_count(kind: str, name: str) -> None:
    """Counting never raises, and a token has at least one byte and at most 128."""
    text = HOSTILE[kind]
    utf8_bytes = len(text.encode("utf-8", "surrogatepass"))
    tokens = count_text(text, name)
    assert -(-utf8_bytes // 128) <= tokens <= utf8_bytes


@pytest.mark.parametrize("name", ENCODINGS)
def test_special_tokens_in_a_text_are_text(name: str) -> None:
    """ "<|endoftext|>" typed by a user is counted as the characters it is, not as one token."""
    assert count_text("<|endoftext|>", name) > 1


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_memo_changes_no_count(name: str) -> None:
    """A text counted again, after other texts and after the memo was emptied, counts the same."""
    texts = [f"{RNG.random()} lorem ipsum\n" * (1 + n % 7) for n in range(text_module.MEMO_ENTRIES + 100)]
    sample = texts[:50]
    first = [count_text(text, name) for text in sample]
    again = [count_text(text, name) for text in sample]
    for text in texts:
        count_text(text, name)
    after = [count_text(text, name) for text in sample]
    encode = get_encoding(name).encode
    assert first == again == after == [len(encode(text)) for text in sample]


def mixed(size: int) -> str:
    """A long text of prose, code, tables, other scripts, and breaks of every kind."""
    rng = random.Random(3)
    words = [
        "the",
        "don't",
        "Isn't",
        "HTTPServer",
        "naïve",
        "x1",
        "1234567",
        "漢字",
        "слово",
        "😀",
        "été",
        "=>",
        "/*",
        "\\n",
    ]
    gaps = [
        " ",
        " ",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\n\n",
        " \n",
        "\n ",
        "\t",
        "",
        ", ",
        ". ",
        "'s ",
        "'LL ",
        "/\n",
        "\u00a0",
    ]
    parts = []
    while size > 0:
        part = rng.choice(words) + rng.choice(gaps)
        parts.append(part)
        size -= len(part)
    return "".join(parts)


@pytest.mark.parametrize("name", ENCODINGS)
def test_cutting_a_long_text_changes_no_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long text counted in pieces has the count of the whole, at the shipped piece length and at a tiny one."""
    text = mixed(1_500_000)
    whole = len(get_encoding(name).encode(text, disallowed_special=()))
    assert len(text_module._pieces(text)) > 2
    assert count_text(text, name) == whole
    monkeypatch.setattr(text_module, "_LONGEST_PIECE", 500)
    pieces = text_module._pieces(text)
    assert len(pieces) > 1_000
    assert "".join(pieces) == text
    assert count_text(text, name) == whole
