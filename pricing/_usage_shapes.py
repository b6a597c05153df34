"""Readers of every shape in which OpenAI tells a usage, common or not; pricing/usage.py is what they fill."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

from .tools import billed_tools
from .usage import MOST, Usage, is_count, with_tools

MOST_SUMMED = 10**15
"""The same bound for rows that sum the requests of a day or a month, for bytes and for µs."""

MOST_KINDS = 20
"""Kinds of tokens that are told apart in one usage; there are six."""

US_PER_S = 1_000_000
_KIND = re.compile("[a-z0-9_]{1,40}")
_ABSENT = object()
_SIDES = (
    ("input_tokens", "output_tokens", ("input_tokens_details", "input_token_details"), "output"),
    ("prompt_tokens", "completion_tokens", ("prompt_tokens_details", "prompt_token_details"), "completion"),
)
_USAGE_API = "organization.usage."


def read(usage: Any) -> Usage | None:
    """Read a usage object of any shape; see Usage.from_response."""
    if not isinstance(usage, Mapping):
        return None
    if isinstance(kind := usage.get("object"), str) and kind.startswith(_USAGE_API):
        return _usage_api_row(kind.removeprefix(_USAGE_API).removesuffix(".result"), usage)
    if usage.get("type") == "duration":
        return _seconds(usage.get("seconds"))
    for name_in, name_out, names_inside, name_outside in _SIDES:
        if name_in in usage:
            inside = next((usage[name] for name in names_inside if usage.get(name) is not None), None)
            names_outside = (f"{name_outside}_tokens_details", f"{name_outside}_token_details")
            outside = next((usage[name] for name in names_outside if usage.get(name) is not None), None)
            total_out = usage.get(name_out, _ABSENT)
            if total_out is _ABSENT:  # as of embeddings; but a reply whose total is more has produced something
                total_out = 0 if usage.get("total_tokens", usage[name_in]) == usage[name_in] else None
            if outside is None and _draws(inside, name_in):
                outside = {"image_tokens": total_out}
            return _tokens(usage[name_in], total_out, inside, outside)
    return None


def _tokens(total_in: Any, total_out: Any, inside: Any, outside: Any) -> Usage | None:
    if not is_count(total_in, MOST) or not is_count(total_out, MOST):
        return None
    notes: list[str] = []
    counts = _input(total_in, inside if isinstance(inside, Mapping) else {}, notes)
    counts |= _output(total_out, outside if isinstance(outside, Mapping) else {}, notes)
    return Usage(**counts, notes=tuple(notes))


def _draws(inside: Any, name: str) -> bool:
    """Tell the usage of the Images API, which may leave out what its output is made of: it makes images."""
    return name == "input_tokens" and isinstance(inside, Mapping) and {"image_tokens", "text_tokens"} <= inside.keys()


def _input(total: int, details: Mapping[str, Any], notes: list[str]) -> dict[str, int]:
    """Divide the input: by what it is (text, audio, image …), then by how it was read (fresh, cached, written)."""
    cached = _part(details, "cached_tokens", total, "input", notes)
    written = _part(details, "cache_write_tokens", total - cached, "uncached input", notes)
    special = ("cached_tokens", "cache_write_tokens", "text_tokens")
    fresh = {"": total}
    for kind in _kinds(details, special, notes):
        fresh[kind] = _part(details, f"{kind}_tokens", fresh[""], "remaining input", notes)
        fresh[""] -= fresh[kind]
    _compare_text(details, fresh[""], "input", notes)
    counts = dict.fromkeys(("input_tokens", "cached_input_tokens"), 0)
    hits = details.get("cached_tokens_details")
    hits = hits if isinstance(hits, Mapping) else {}
    left = cached
    for kind in (*(kind for kind in fresh if kind), ""):
        hit = _part(hits, f"{kind or 'text'}_tokens", MOST, "", notes)
        hit = min(hit, left, fresh[kind])
        left -= hit
        fresh[kind] -= hit
        counts[_name("cached_input", kind)] = hit
    for kind in fresh:  # what is not told apart is text, as far as there is text
        hit = min(left, fresh[kind])
        left -= hit
        fresh[kind] -= hit
        counts[_name("cached_input", kind)] += hit
    counts |= _writes(written, details.get("cache_write_tokens_details"), notes)
    for kind in fresh:
        taken = min(written, fresh[kind])
        written -= taken
        counts[_name("input", kind)] = fresh[kind] - taken
    return counts


def _writes(written: int, details: Any, notes: list[str]) -> dict[str, int]:
    """Divide what was written to a cache by how long it is kept; 30 minutes where nothing is told."""
    counts = {"cache_write_tokens": written}
    if not isinstance(details, Mapping):
        return counts
    for kind in _kinds(details, ("ttl_30m_tokens",), notes):
        if kind.startswith("ttl_"):
            part = _part(details, f"{kind}_tokens", counts["cache_write_tokens"], "cache write", notes)
            counts[f"cache_write_{kind[4:]}_tokens"] = part
            counts["cache_write_tokens"] -= part
    return counts


def _output(total: int, details: Mapping[str, Any], notes: list[str]) -> dict[str, int]:
    reasoning = _part(details, "reasoning_tokens", total, "output", notes)
    counts = {"output_tokens": total - reasoning, "reasoning_tokens": reasoning}
    for kind in _kinds(details, ("reasoning_tokens", "text_tokens"), notes):
        part = _part(details, f"{kind}_tokens", counts["output_tokens"], "remaining output", notes)
        counts[f"output_{kind}_tokens"] = part
        counts["output_tokens"] -= part
    if reasoning == 0 and not any("prediction" in name for name in counts):
        _compare_text(details, counts["output_tokens"], "output", notes)
    return counts


def _kinds(details: Mapping[str, Any], special: Iterable[str], notes: list[str]) -> list[str]:
    """The kinds of tokens that details tell apart, those that nobody knew before included."""
    kinds = [
        key.removesuffix("_tokens")
        for key, value in details.items()
        if key.endswith("_tokens") and key not in special and value is not None
    ]
    known = [kind for kind in kinds if _KIND.fullmatch(kind)][:MOST_KINDS]
    if len(known) < len(kinds):
        notes.append(f"{len(kinds) - len(known)} parts have names that a ledger does not keep: counted as text")
    return known


def _compare_text(details: Mapping[str, Any], left: int, side: str, notes: list[str]) -> None:
    told = details.get("text_tokens")
    if type(told) is int and told != left and 0 <= told <= MOST:
        notes.append(f"text_tokens of the {side} is {told} where the other parts leave {left}: the total stands")


def _name(side: str, kind: str) -> str:
    return f"{side}_{kind}_tokens" if kind else f"{side}_tokens"


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


def _seconds(seconds: Any) -> Usage | None:
    """Audio that is billed by its length."""
    if type(seconds) not in (int, float) or not 0 <= seconds <= MOST:
        return None
    microseconds = (Decimal(str(seconds)) * US_PER_S).to_integral_value(ROUND_CEILING)
    return Usage(audio_us=int(microseconds))


_COUNTED = {
    "images": ("images", "images"),
    "audio_speeches": ("characters", "characters"),
    "code_interpreter_sessions": ("num_sessions", "code_interpreter_sessions"),
    "file_search_calls": ("num_requests", "file_search_calls"),
    "web_search_calls": ("num_requests", "web_search_calls"),
    "vector_stores": ("usage_bytes", "storage_byte_days"),
}
"""Results of the Usage API that are one number: its key → our name. Storage is told per day."""


def _usage_api_row(kind: str, row: Mapping[str, Any]) -> Usage | None:
    """Read a result of the Usage API: the sum of the requests of a bucket."""
    requests = row.get("num_model_requests", 1)
    requests = requests if is_count(requests, MOST_SUMMED) else 1
    if kind == "audio_transcriptions":
        usage = _seconds(row.get("seconds"))
    elif kind in _COUNTED:
        key, name = _COUNTED[kind]
        count = row.get(key)
        usage = Usage(0, 0, 0, 0, 0, (), 1, **{name: count}) if is_count(count, MOST_SUMMED) else None
    else:
        usage = _summed_tokens(row)
    if usage is not None:
        usage.requests = requests
    return usage


def _summed_tokens(row: Mapping[str, Any]) -> Usage | None:
    """Read summed tokens. Their parts by kind are disjoint already: input_audio_tokens are the uncached ones."""
    total_in, total_out = row.get("input_tokens"), row.get("output_tokens", 0)
    if not is_count(total_in, MOST_SUMMED) or not is_count(total_out, MOST_SUMMED):
        return None

    def told(key: str) -> int:
        value = row.get(key)
        return value if is_count(value, MOST_SUMMED) else 0

    counts: dict[str, int] = {}
    cached, written = told("input_cached_tokens"), told("input_cache_write_tokens")
    counts["cache_write_12h_tokens"] = min(told("input_cache_write_12h_tokens"), written)
    counts["cache_write_tokens"] = written - counts["cache_write_12h_tokens"]
    for kind in ("audio", "image"):
        counts[f"cached_input_{kind}_tokens"] = hit = min(told(f"input_cached_{kind}_tokens"), cached)
        cached -= hit
        counts[f"input_{kind}_tokens"] = told(f"input_{kind}_tokens")
        counts[f"output_{kind}_tokens"] = told(f"output_{kind}_tokens")
    counts["cached_input_tokens"] = cached
    counts["input_tokens"] = total_in - sum(n for name, n in counts.items() if not name.startswith("output_"))
    counts["output_tokens"] = total_out - counts["output_audio_tokens"] - counts["output_image_tokens"]
    notes: tuple[str, ...] = ()
    if counts["input_tokens"] < 0 or counts["output_tokens"] < 0:
        counts = {"input_tokens": total_in, "output_tokens": total_out}
        notes = ("the parts are more than the totals: all taken as fresh text",)
    return Usage(**counts, notes=notes)


def read_reply(reply: Any) -> Usage | None:
    """Read a whole reply; see Usage.from_reply."""
    if not isinstance(reply, Mapping):
        return None
    inner = reply.get("response")
    if isinstance(inner, Mapping):  # an event, or a line of a batch's output
        body = inner.get("body")
        return read_reply(body if isinstance(body, Mapping) else inner)
    usage = Usage.from_response(reply.get("usage"))
    if usage is None:
        return None
    if reply.get("object") == "batch":
        done = reply.get("request_counts")
        count = done.get("completed") if isinstance(done, Mapping) else None
        usage.requests = count if is_count(count, MOST) and count else 2  # more than one, as far as anybody knows
    tools = billed_tools(reply)
    return usage if tools is None else with_tools(usage, *tools)
