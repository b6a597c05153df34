"""What hosted tools are billed for beside the tokens of a reply: searches, sessions, pictures of other models."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

from .cost import Unpriced
from .money import Usd
from .usage import MOST, Usage, is_count

if TYPE_CHECKING:
    from .prices import PriceTable

Billed = tuple[dict[str, int], tuple[str, ...]]
"""Counts by name, as a Usage has them, and notes."""

_CALLS = frozenset({"web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call"})


def billed_tools(reply: Mapping[str, Any]) -> Billed | None:
    """Count what a reply's hosted tools are billed for beside its tokens, and say where that had to be inferred.

    Searches are what `tool_usage` says; where a reply has none (before mid-2026), the searches among its output. A
    session of the code interpreter is billed once in 20 minutes per container, so a container that several replies
    used is counted in each of them: at most, and it says so.

    → None for a reply without them, as nearly all are
    Source  SDK 3.57, Response.tool_usage; the pricing page of 2026-07-15
    """
    output, told = reply.get("output"), reply.get("tool_usage")
    items = []
    if type(output) is list:
        items = [item for item in output if type(item) is dict and item.get("type") in _CALLS]
    told = told if isinstance(told, Mapping) else {}
    searches, drawn = told.get("web_search"), told.get("image_gen")
    number = searches.get("num_requests") if isinstance(searches, Mapping) else None
    drawn = drawn if isinstance(drawn, Mapping) and drawn.get("total_tokens") else None
    svg = reply.get("svg_usage")
    if not items and not number and drawn is None and svg is None:
        return None
    tools = reply.get("tools")
    offered = [tool for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []
    counts: dict[str, int] = {}
    notes: list[str] = []
    if not is_count(number, MOST):
        number = sum(_is_search(item) for item in items)
        if number:
            notes.append(f"{number} web searches counted from the output: the reply has no tool_usage")
    preview = any(str(tool.get("type")).startswith("web_search_preview") for tool in offered)
    counts["web_search_preview_calls" if preview else "web_search_calls"] = number
    counts["file_search_calls"] = sum(item["type"] == "file_search_call" for item in items)
    containers = {str(item.get("container_id")) for item in items if item["type"] == "code_interpreter_call"}
    if containers:
        counts["code_interpreter_sessions" + _size(offered)] = len(containers)
        notes.append(f"{len(containers)} code interpreter sessions at most: one lasts 20 minutes, over several replies")
    counts |= _drawn(drawn, offered)
    for drawing in (svg, *(item.get("svg_usage") for item in items)):
        for name, count in _drawing(drawing).items():
            counts[name] = counts.get(name, 0) + count
    return {name: count for name, count in counts.items() if count}, tuple(notes)


def most_fees(body: Mapping[str, Any], model: str, at: date, prices: PriceTable) -> Usd | Unpriced:
    """What a budget holds for the calls of a request's hosted tools.

    `max_tool_calls` bounds them: so many, all of the dearest. Without it nobody knows how often a tool will be called,
    and one call of each is held. Images that a tool draws are not in it: they are no calls, but tokens.
    """
    held = {}
    for kind in _offered(body):
        fee = prices.fee(kind, model, at)
        if fee is None:
            return Unpriced(f"no price is known for {kind} of {model!r} on {at}", model)
        held[kind] = -(-fee.pico // fee.per)
    return Usd(sum(count * held[kind] for kind, count in _most_calls(body, held).items()))


def unseen_calls(
    body: Mapping[str, Any], model: str, at: date, prices: PriceTable, seen: Mapping[str, int]
) -> dict[str, int]:
    """The calls of hosted tools that a budget is charged for a reply that does not say how many there were.

    Those that `most_fees` has held; where nothing bounds them, those that were seen if these are more.
    """
    fees = {kind: prices.fee(kind, model, at) for kind in _offered(body)}
    counts = _most_calls(body, {kind: 0 if fee is None else -(-fee.pico // fee.per) for kind, fee in fees.items()})
    if is_count(body.get("max_tool_calls"), MOST):
        return counts
    return counts | {name: max(count, counts.get(name, 0)) for name, count in seen.items()}


def _most_calls(body: Mapping[str, Any], fees: Mapping[str, int]) -> dict[str, int]:
    """How often tools of these fees are called at most: the dearest `max_tool_calls` times, else each of them once."""
    calls = body.get("max_tool_calls")
    if not is_count(calls, MOST):
        return dict.fromkeys(fees, 1)
    return {max(fees, key=fees.__getitem__): calls} if fees and calls else {}


def _offered(body: Mapping[str, Any]) -> list[str]:
    """The fees of the hosted tools that a request offers."""
    offered = body.get("tools")
    tools = [tool for tool in offered if isinstance(tool, Mapping)] if isinstance(offered, list) else []
    return sorted({kind for tool in tools if (kind := _fee_of(str(tool.get("type")), tools)) is not None})


def _fee_of(tool: str, tools: list[Mapping[str, Any]]) -> str | None:
    """The fee for a call of a hosted tool, as a Usage counts it; None where there is none."""
    if tool.startswith("web_search"):
        return "web_search_preview_calls" if tool.startswith("web_search_preview") else "web_search_calls"
    if tool == "file_search":
        return "file_search_calls"
    return "code_interpreter_sessions" + _size(tools) if tool == "code_interpreter" else None


def _is_search(item: Mapping[str, Any]) -> bool:
    action = item.get("action")
    kind = action.get("type") if isinstance(action, Mapping) else "search"
    return item.get("type") == "web_search_call" and kind == "search"


def _size(tools: list[Mapping[str, Any]]) -> str:
    """The memory of the code interpreter's container, as the name of its price has it: "" is 1 GB, "_4g" …"""
    for tool in tools:
        container = tool.get("container")
        if tool.get("type") == "code_interpreter" and isinstance(container, Mapping):
            size = container.get("memory_limit")
            if isinstance(size, str) and size != "1g":
                return f"_{size[:8]}"
    return ""


def _drawn(told: Mapping[str, Any] | None, tools: list[Mapping[str, Any]]) -> dict[str, int]:
    """Tokens of the image generation tool, at the prices of the model that the tool names."""
    if told is None:
        return {}
    hits = told.get("cached_tokens_details")
    if isinstance(hits, Mapping):
        hits = {str(name).removeprefix("cached_"): count for name, count in hits.items()}
    inside = told.get("input_tokens_details")
    inside = {**inside} if isinstance(inside, Mapping) else {}
    inside |= {"cached_tokens": told.get("cached_tokens"), "cached_tokens_details": hits}
    usage = Usage.from_response({**told, "input_tokens_details": inside})
    model = next((tool.get("model") for tool in tools if tool.get("type") == "image_generation"), None)
    model = model[:100] if isinstance(model, str) else "image_gen"
    if usage is None:
        return {f"{model}/unreadable_tokens": 1}
    return {f"{model}/{name}": count for name, count in usage.as_dict().items()}


def _drawing(told: Any) -> dict[str, int]:
    """Tokens of authoring an SVG, which another model does."""
    usage = Usage.from_response(told)
    if usage is None:
        return {}
    model = str(told.get("model"))[:100]
    written = {"output_tokens": usage.total_output, "input_tokens": usage.total_input}
    return {f"{model}/{name}": count for name, count in written.items()}
