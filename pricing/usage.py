"""Usage: what a reply used, as one flat record of disjoint counts.

Replies count in overlapping ways (cached tokens are part of the input, reasoning is part of the output) and under two
sets of names. Here every token is in exactly one count, so that a cost is a plain sum. Contradictions are clamped and
named, never trusted and never raised; totals that are no counts are no usage, for they would price the reply at $0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIELDS = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)

MOST = 10**9
"""No reply counts more tokens: a thousand times the largest context window. What says so is unreadable."""
_ABSENT = object()


class Usage:
    """Token counts of one reply; every token is in one count only.

    input_tokens         read at the full price: neither cached nor written to a cache
    cached_input_tokens  read from a cache
    cache_write_tokens   written to a cache
    output_tokens        visible output
    reasoning_tokens     hidden output, billed as output
    notes                contradictions found in the reply, in words
    """

    __slots__ = (*FIELDS, "notes")

    def __init__(
        self,
        input_tokens: int = 0,
        cached_input_tokens: int = 0,
        cache_write_tokens: int = 0,
        output_tokens: int = 0,
        reasoning_tokens: int = 0,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.input_tokens = input_tokens
        self.cached_input_tokens = cached_input_tokens
        self.cache_write_tokens = cache_write_tokens
        self.output_tokens = output_tokens
        self.reasoning_tokens = reasoning_tokens
        self.notes = notes

    @property
    def total_input(self) -> int:
        """All input tokens, however they were read."""
        return self.input_tokens + self.cached_input_tokens + self.cache_write_tokens

    @property
    def total_output(self) -> int:
        """All output tokens, visible or not."""
        return self.output_tokens + self.reasoning_tokens

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return {name: getattr(self, name) for name in FIELDS}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Usage):
            return NotImplemented
        return self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.as_dict().values()))

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}={value}" for name, value in self.as_dict().items() if value)
        return f"Usage({counts})"

    @classmethod
    def from_response(cls, usage: Any) -> Usage | None:
        """Read the `usage` object of a Responses, Chat, Embeddings or legacy Completions reply.

        → None when there is no usage object, or a total in it is no count (null, text, a fraction, negative, absurd):
          nobody knows then what was used. Parts that are missing are 0; parts that make no sense are 0 and noted
        Source  SDK 3.54 type docstrings; recorded responses 2024–2026
        """
        if not isinstance(usage, Mapping):
            return None
        if "input_tokens" in usage:
            total_in, total_out = usage["input_tokens"], usage.get("output_tokens", _ABSENT)
            inside, outside = usage.get("input_tokens_details"), usage.get("output_tokens_details")
        elif "prompt_tokens" in usage:
            total_in, total_out = usage["prompt_tokens"], usage.get("completion_tokens", _ABSENT)
            inside, outside = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
        else:
            return None
        if total_out is _ABSENT:  # as of embeddings; but a reply whose total is more has produced something
            total_out = 0 if usage.get("total_tokens", total_in) == total_in else None
        if not (type(total_in) is type(total_out) is int and 0 <= total_in <= MOST and 0 <= total_out <= MOST):
            return None
        notes: list[str] = []
        cached = written = reasoning = 0
        if isinstance(inside, Mapping):
            cached = _part(inside, "cached_tokens", total_in, "input", notes)
            written = _part(inside, "cache_write_tokens", total_in - cached, "uncached input", notes)
        if isinstance(outside, Mapping):
            reasoning = _part(outside, "reasoning_tokens", total_out, "output", notes)
        return cls(
            total_in - cached - written,
            cached,
            written,
            total_out - reasoning,
            reasoning,
            tuple(notes) if notes else (),
        )


def _part(holder: Mapping[str, Any], key: str, whole: int, name: str, notes: list[str]) -> int:
    value = holder.get(key)
    if value is None:
        return 0
    # Neither a server's text nor a number of a thousand digits is anything that a ledger may keep.
    if type(value) is not int:
        notes.append(f"{key} is {type(value).__name__}: taken as 0")
        return 0
    if not 0 <= value <= MOST:
        notes.append(f"{key} is {'negative' if value < 0 else 'absurd'}: taken as 0")
        return 0
    if value > whole:
        notes.append(f"{key} {value} is more than the {whole} {name} tokens: clamped")
        return whole
    return value
