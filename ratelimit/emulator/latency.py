"""How much a model writes and how long it takes: drawn from the seed and the request's bytes, so that runs repeat.

The numbers are plausible, not published: medians near what recorded exchanges of 2025 and 2026 show (gpt-4o 34 ms per
token, gpt-5 20 ms, gpt-5-pro 46 s for a one-line answer), longer answers than those test prompts had. Pass your own
`latency` and `output_tokens` where it matters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from math import exp
from statistics import NormalDist
from typing import NamedTuple

from ratelimit.errors import ConfigError

US_PER_MS = 1000
US_PER_S = 1_000_000


class Character(NamedTuple):
    """What a kind of model is like.

    visible    tokens   median of the visible answer
    reasoning  tokens   median of hidden reasoning; 0 for models that do not reason
    base_ms    ms       before the first token
    token_us   µs       per token, hidden ones included
    """

    visible: int
    reasoning: int
    base_ms: int
    token_us: int


_PRO = Character(350, 900, 8_000, 25_000)
_REASONING = Character(300, 400, 900, 15_000)
_PLAIN = Character(250, 0, 450, 20_000)
_EMBEDDING = Character(0, 0, 120, 0)

_REASONS = re.compile(r"^(o\d|gpt-([5-9]|\d\d))")

_EFFORT_PERCENT = {"none": 0, "minimal": 10, "low": 40, "medium": 100, "high": 250, "xhigh": 400}

_SIZE_SIGMA = 0.6
_UNIT_NORMAL = NormalDist()


@lru_cache(maxsize=256)
def character(model: str) -> Character:
    """Guess a model's kind from its name."""
    if "embedding" in model:
        return _EMBEDDING
    if _REASONS.match(model) and "-chat" not in model:
        return _PRO if "-pro" in model else _REASONING
    return _PLAIN


def reasons(model: str) -> bool:
    """Say whether a model thinks before it writes."""
    return character(model).reasoning > 0


class Draw(NamedTuple):
    """One request's luck.

    visible, reasoning  tokens   before any cap
    jitter              factor   on its duration, as standard normal deviate
    start               int      where in the filler text its answer begins
    """

    visible: int
    reasoning: int
    jitter: float
    start: int


def draw(seed: int, raw: bytes, kind: Character, effort: str | None = None) -> Draw:
    """Draw the size of an answer and the jitter of its duration: lognormal, the same for the same seed and body.

    seed    of the emulator
    raw     the body's bytes, as received
    kind    whose medians to use
    effort  reasoning effort as requested; None means the model's default
    """
    digest = blake2b(raw, digest_size=32, key=b"%d" % seed).digest()
    # 52 bits and a half: the largest value is still below 1, where the inverse normal has its pole
    z = [_UNIT_NORMAL.inv_cdf(((int.from_bytes(digest[i : i + 8], "big") >> 12) + 0.5) / (1 << 52)) for i in (0, 8, 16)]
    reasoning = kind.reasoning * _EFFORT_PERCENT.get(effort or "medium", 100) / 100
    return Draw(
        max(1, round(kind.visible * exp(_SIZE_SIGMA * z[0]))) if kind.visible else 0,
        # the real one counts reasoning in steps of 64
        round(reasoning * exp(_SIZE_SIGMA * z[1]) / 64) * 64,
        z[2],
        int.from_bytes(digest[24:], "big"),
    )


@dataclass(frozen=True, slots=True)
class Latency:
    """How long replies take: (base + tokens × time per token) × lognormal jitter, in emulated time.

    base_ms   ms   before the first token; None takes the model's own
    token_us  µs   per output token; None takes the model's own
    sigma          of the jitter's logarithm; 0 for none

    Raises  ConfigError for a negative number.
    """

    base_ms: int | None = None
    token_us: int | None = None
    sigma: float = 0.25

    def __post_init__(self) -> None:
        if min(self.base_ms or 0, self.token_us or 0, self.sigma) < 0:
            raise ConfigError(f"a latency is not negative: {self}")

    @property
    def zero(self) -> bool:
        """True where every reply leaves at once."""
        return self.base_ms == 0 and self.token_us == 0

    def times_us(self, kind: Character, reasoning: int, visible: int, jitter: float) -> tuple[int, int]:
        """Split a reply's duration (µs, emulated) into time before the first visible token and time of writing."""
        if self.zero:
            return 0, 0
        base_us = (kind.base_ms if self.base_ms is None else self.base_ms) * US_PER_MS
        token_us = kind.token_us if self.token_us is None else self.token_us
        factor = exp(self.sigma * jitter)
        return round((base_us + reasoning * token_us) * factor), round(visible * token_us * factor)


NO_LATENCY = Latency(0, 0, 0.0)

Latencies = Latency | float | None
"""None: by model · 0: none · seconds: the same for every reply · Latency: your own."""


def parse_latency(given: Latencies) -> Latency:
    """Read the `latency=` argument. Raises ConfigError for anything but None, seconds ≥ 0 or a Latency."""
    if given is None:
        return Latency()
    if isinstance(given, Latency):
        return given
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 86_400:
        raise ConfigError(f"latency is None, seconds, or a Latency, not {given!r}")
    return Latency(round(given * 1000), 0, 0.0) if given else NO_LATENCY


_TEXT = (
    "the river ran low that summer and the old mill stood quiet under a clear sky while people from the town went "
    "along its banks each day to talk of rain and food and of children who had left for the city some would stop "
    "near the bridge to watch birds cross the field others went on until the road turned north to a small house "
    "where light still fell from every window and music could be heard far into the night"
)
"""Filler for answers. Each word, with and without a space before it, is one token of o200k_base and of cl100k_base: so
the usage reported is the number of tokens in the text."""

_WORDS = _TEXT.split()
_TURN = " " + " ".join(_WORDS)
_STARTS = (0, *accumulate(1 + len(word) for word in _WORDS))


def filler(start: int, tokens: int) -> str:
    """Write `tokens` tokens of filler from the `start`-th word on, with the space before the first word."""
    begin = start % len(_WORDS)
    turns, rest = divmod(begin + tokens, len(_WORDS))
    return (_TURN * turns + _TURN[: _STARTS[rest]])[_STARTS[begin] :]
