"""Usage: what a reply used, as one flat record of disjoint counts.

Replies count in overlapping ways (cached tokens are part of the input, reasoning is part of the output, audio and image
tokens are part of both) and under many sets of names. Here every token is in exactly one count, so that a cost is a
plain sum. Contradictions are clamped and named, never trusted and never raised; totals that are no counts are no usage,
for they would price the reply at $0.

Five counts are in nearly every reply and have fields. Whatever else a reply counts (audio, images, predictions, longer
cache writes, seconds, calls of tools) is in `extra` under its name, and a name nobody knew before is one too: whether
it has a price is for the table to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeGuard

FIELDS = (
    "input_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)

INPUT = ("input_", "cached_input_", "cache_write_")
"""How the names of tokens that were read begin; all other tokens of the model were written."""

MOST = 10**9
"""No reply counts more tokens: a thousand times the largest context window. What says so is unreadable."""

NOTHING: Mapping[str, int] = MappingProxyType({})


class Usage:
    """Counts of one reply, or of several; every token is in one count only.

    input_tokens         text read at the full price: neither cached nor written to a cache
    cached_input_tokens  text read from a cache
    cache_write_tokens   written to a cache, for 30 minutes or for a time not told
    output_tokens        visible text
    reasoning_tokens     hidden output, billed as output
    extra                name → count of everything else there was, none of them 0:
                         cache_write_12h_tokens
                         input_audio_tokens, cached_input_audio_tokens, output_audio_tokens; the same of image
                         output_accepted_prediction_tokens, output_rejected_prediction_tokens
                         audio_us, characters, images
                         web_search_calls, web_search_preview_calls, file_search_calls, code_interpreter_sessions
                         storage_byte_days
                         MODEL/… any of these at the prices of another model, which a tool used
    requests             how many requests this is the sum of
    notes                contradictions found in the reply, in words
    """

    __slots__ = (*FIELDS, "extra", "notes", "requests")

    def __init__(
        self,
        input_tokens: int = 0,
        cached_input_tokens: int = 0,
        cache_write_tokens: int = 0,
        output_tokens: int = 0,
        reasoning_tokens: int = 0,
        notes: tuple[str, ...] = (),
        requests: int = 1,
        **extra: int,
    ) -> None:
        self.input_tokens = input_tokens
        self.cached_input_tokens = cached_input_tokens
        self.cache_write_tokens = cache_write_tokens
        self.output_tokens = output_tokens
        self.reasoning_tokens = reasoning_tokens
        self.notes = notes
        self.requests = requests
        self.extra = {name: count for name, count in extra.items() if count} if extra else NOTHING

    @property
    def total_input(self) -> int:
        """All input tokens, however they were read."""
        total = self.input_tokens + self.cached_input_tokens + self.cache_write_tokens
        return total + tokens_of(self.extra)[0] if self.extra else total

    @property
    def total_output(self) -> int:
        """All output tokens, visible or not."""
        total = self.output_tokens + self.reasoning_tokens
        return total + tokens_of(self.extra)[1] if self.extra else total

    def as_dict(self) -> dict[str, int]:
        """The counts by name: the five fields always, of the others those that are not 0."""
        return {
            "input_tokens": self.input_tokens,
            "cached_input_tokens": self.cached_input_tokens,
            "cache_write_tokens": self.cache_write_tokens,
            "output_tokens": self.output_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            **self.extra,
        }

    def __add__(self, other: Usage) -> Usage:
        if not isinstance(other, Usage):
            return NotImplemented
        counts = self.as_dict()
        for name, count in other.as_dict().items():
            counts[name] = counts.get(name, 0) + count
        notes = tuple(dict.fromkeys((*self.notes, *other.notes)))
        return Usage(**counts, notes=notes, requests=self.requests + other.requests)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Usage):
            return NotImplemented
        return self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(frozenset(self.as_dict().items()))

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}={value}" for name, value in self.as_dict().items() if value)
        return f"Usage({counts})"

    @classmethod
    def from_response(cls, usage: Any) -> Usage | None:
        """Read a `usage` object: of Responses, Chat, Embeddings, Images, transcriptions, Realtime, legacy Completions,
        assistants' runs and batches, or a row of the Usage API.

        → None when there is no usage object, or a total in it is no count (null, text, a fraction, negative, absurd):
          nobody knows then what was used. Parts that are missing are 0; parts that make no sense are 0 and noted
        Source  SDK 3.57 type docstrings; recorded responses 2024–2026
        """
        quick = _common(usage) if type(usage) is dict else None
        if quick is not None:
            return quick
        from ._usage_shapes import read

        return read(usage)

    @classmethod
    def from_reply(cls, reply: Any) -> Usage | None:
        """Read a whole reply: its usage, and the calls of tools that are billed beside it.

        reply  the body of a reply, an event that carries one (response.completed, response.done), a line of a batch's
               output file, or a batch
        → as from_response
        """
        from ._usage_shapes import read_reply

        return read_reply(reply)


def tokens_of(counts: Mapping[str, int]) -> tuple[int, int]:
    """Sum counts by name, as a Usage or a ledger's entry has them: tokens the model read, and tokens it wrote."""
    tokens = {name: count for name, count in counts.items() if name.endswith("_tokens") and "/" not in name}
    read = sum(count for name, count in tokens.items() if name.startswith(INPUT))
    return read, sum(tokens.values()) - read


def _common(usage: dict[str, Any]) -> Usage | None:
    """Read Responses and Chat when nothing in them is unusual; None leaves it to the careful reader.

    Every call comes by here.
    """
    if "input_tokens" in usage:
        total_in, total_out = usage["input_tokens"], usage.get("output_tokens")
        inside, outside = usage.get("input_tokens_details"), usage.get("output_tokens_details")
    else:
        total_in, total_out = usage.get("prompt_tokens"), usage.get("completion_tokens")
        inside, outside = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    if not (type(inside) is type(outside) is dict and type(total_in) is type(total_out) is int) or "object" in usage:
        return None
    cached = written = reasoning = 0
    for key, value in inside.items():
        if value != 0 or type(value) is not int:
            if key == "cached_tokens":
                cached = value
            elif key == "cache_write_tokens":
                written = value
            else:
                return None
    for key, value in outside.items():
        if value != 0 or type(value) is not int:
            if key != "reasoning_tokens":
                return None
            reasoning = value
    if not type(cached) is type(written) is type(reasoning) is int or not cached >= 0 <= written:
        return None
    if cached + written <= total_in <= MOST and 0 <= reasoning <= total_out <= MOST:
        return Usage(total_in - cached - written, cached, written, total_out - reasoning, reasoning)
    return None


def usage_of_work(usage: Any) -> Usage | None:
    """Read the usage of a reply that did its work; as Usage.from_response, but counts that are all 0 tell nothing.

    No model answers without reading: such zeros are a server's gap, and would post a call as exactly free.
    """
    found = Usage.from_response(usage)
    if found is None or found.input_tokens or found.output_tokens:  # every call comes by here
        return found
    return found if any(found.as_dict().values()) else None


def with_tools(usage: Usage, counts: Mapping[str, int], notes: tuple[str, ...] = ()) -> Usage:
    """Add the calls of hosted tools to the usage of a reply."""
    return Usage(**{**usage.as_dict(), **counts}, notes=(*usage.notes, *notes), requests=usage.requests)


def is_count(value: Any, most: int) -> TypeGuard[int]:
    """Say whether a value that a server sent is a whole number from 0 to the most that it can be."""
    return type(value) is int and 0 <= value <= most
