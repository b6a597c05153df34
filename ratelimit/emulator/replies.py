"""Reply documents and event streams, field by field as recorded."""

from __future__ import annotations

import base64
import json
import os
import random
from array import array
from functools import lru_cache
from typing import Any, NamedTuple

from .plan import EMBEDDINGS, RESPONSES, Plan

_MOST_DELTAS = 64
"""Deltas per choice. A real stream has one per token; long answers are grouped so that a stream stays light."""

_DIMENSIONS = {"text-embedding-3-large": 3072}
_BASE_DIMENSIONS = 1536


class Stamp(NamedTuple):
    """Identity and dates of one reply: a tail its ids share, Unix seconds of emulated time."""

    tail: str
    created: int
    completed: int


def dumps(document: Any) -> bytes:
    """Encode a document as compactly as the streams are."""
    return json.dumps(document, separators=(",", ":")).encode()


def usage(plan: Plan) -> dict[str, Any]:
    """Build the usage object in the shape of the endpoint."""
    reads, writes, thoughts = plan.tokens
    if plan.endpoint == EMBEDDINGS:
        return {"prompt_tokens": reads, "total_tokens": reads}
    if plan.endpoint == RESPONSES:
        return {
            "input_tokens": reads,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": writes,
            "output_tokens_details": {"reasoning_tokens": thoughts},
            "total_tokens": reads + writes,
        }
    return {
        "prompt_tokens": reads,
        "completion_tokens": writes,
        "total_tokens": reads + writes,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": thoughts,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def response_id(tail: str) -> str:
    """The id of a Responses object."""
    return f"resp_{tail}"


def response(plan: Plan, stamp: Stamp, status: str, *, with_usage: bool = True) -> dict[str, Any]:
    """Build a Responses object in any state of its life.

    status  queued | in_progress | completed (or incomplete, where the answer was cut) | cancelled
    """
    body = plan.body
    ended = status == "completed"
    cut = ended and plan.cut
    reasoning, text = _mapping(body.get("reasoning")), _mapping(body.get("text"))
    return {
        "id": response_id(stamp.tail),
        "object": "response",
        "created_at": stamp.created,
        "status": "incomplete" if cut else status,
        "background": plan.background,
        "completed_at": stamp.completed if ended and not cut else None,
        "error": None,
        "frequency_penalty": 0.0,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "model": plan.model.served,
        "output": _output(plan, stamp) if ended else [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "presence_penalty": 0.0,
        "previous_response_id": body.get("previous_response_id"),
        "prompt_cache_key": body.get("prompt_cache_key"),
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": body.get("safety_identifier"),
        "service_tier": plan.service_tier if ended else body.get("service_tier") or "auto",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": {"format": text.get("format", {"type": "text"}), "verbosity": text.get("verbosity", "medium")},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_logprobs": body.get("top_logprobs", 0),
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "usage": usage(plan) if ended and with_usage else None,
        "user": body.get("user"),
        "metadata": body.get("metadata") or {},
    }


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _output(plan: Plan, stamp: Stamp) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if plan.reasoning:
        items.append({"id": f"rs_{stamp.tail}", "type": "reasoning", "summary": []})
    if plan.visible:
        items.append(_message(plan, stamp, "incomplete" if plan.cut else "completed", [_part(plan.text)]))
    return items


def _message(plan: Plan, stamp: Stamp, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": f"msg_{stamp.tail}", "type": "message", "status": status, "content": content, "role": "assistant"}


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def chat(plan: Plan, stamp: Stamp, *, with_usage: bool = True) -> dict[str, Any]:
    """Build a Chat Completions object."""
    text = plan.text
    document: dict[str, Any] = {
        "id": _chat_id(stamp),
        "object": "chat.completion",
        "created": stamp.created,
        "model": plan.model.served,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "length" if plan.cut else "stop",
            }
            for index in range(plan.choices)
        ],
        "usage": usage(plan),
        "service_tier": plan.service_tier,
        "system_fingerprint": None,
    }
    if not with_usage:
        del document["usage"]
    return document


def _chat_id(stamp: Stamp) -> str:
    return f"chatcmpl-{stamp.tail}"


def embeddings(plan: Plan, *, with_usage: bool = True) -> dict[str, Any]:
    """Build an embeddings list: vectors of length 1 that mean nothing, the same for the same position."""
    size = plan.body.get("dimensions")
    if type(size) is not int or not 1 <= size <= 8192:
        size = _DIMENSIONS.get(plan.model.name, _BASE_DIMENSIONS)
    given = plan.body["input"]
    inputs = len(given) if isinstance(given, list) and not isinstance(given[0], int) else 1
    as_text = plan.body.get("encoding_format") == "base64"
    document: dict[str, Any] = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _vector(index % 64, size, as_text)}
            for index in range(inputs)
        ],
        "model": plan.model.served,
        "usage": usage(plan),
    }
    if not with_usage:
        del document["usage"]
    return document


@lru_cache(maxsize=256)
def _vector(index: int, size: int, as_text: bool) -> str | list[float]:
    signs = random.Random(index)
    length = size**-0.5
    vector = array("f", (length if signs.getrandbits(1) else -length for _ in range(size)))
    return base64.b64encode(vector.tobytes()).decode() if as_text else vector.tolist()


_BLANK = Stamp(os.urandom(25).hex(), 7_310_000_000_000_001, 7_310_000_000_000_002)
_BLANKS = tuple(str(field).encode() for field in _BLANK)


def document(plan: Plan, stamp: Stamp, *, with_usage: bool = True) -> bytes:
    """Build and encode the whole reply to a request that is neither streamed nor in the background.

    The same body gets the same reply but for ids and dates, so it is encoded once and these are filled in.
    """
    if not with_usage:
        return _encoded(plan, stamp, with_usage)
    if not plan.template:
        plan.template = _encoded(plan, _BLANK, True)
    tail, created, completed = _BLANKS
    return (
        plan.template.replace(tail, stamp.tail.encode())
        .replace(created, b"%d" % stamp.created)
        .replace(completed, b"%d" % stamp.completed)
    )


def _encoded(plan: Plan, stamp: Stamp, with_usage: bool) -> bytes:
    if plan.endpoint == RESPONSES:
        return dumps(response(plan, stamp, "completed", with_usage=with_usage))
    if plan.endpoint == EMBEDDINGS:
        return dumps(embeddings(plan, with_usage=with_usage))
    return dumps(chat(plan, stamp, with_usage=with_usage))


class Chunk(NamedTuple):
    """A piece of a stream: µs of emulated time to let pass first, then bytes. `delta` marks visible output."""

    before_us: int
    data: bytes
    delta: bool = False


def stream(plan: Plan, stamp: Stamp, *, with_usage: bool = True) -> list[Chunk]:
    """Write the reply as the server-sent events of its endpoint, in the recorded order."""
    if plan.endpoint == RESPONSES:
        return _response_events(plan, stamp, with_usage)
    return _chat_events(plan, stamp, with_usage)


def _chat_events(plan: Plan, stamp: Stamp, with_usage: bool) -> list[Chunk]:
    head = {
        "id": _chat_id(stamp),
        "object": "chat.completion.chunk",
        "created": stamp.created,
        "model": plan.model.served,
        "service_tier": plan.service_tier,
        "system_fingerprint": None,
    }

    def event(before_us: int, choices: list[dict[str, Any]], counted: dict[str, Any] | None = None) -> Chunk:
        chunk = {**head, "choices": choices}
        if plan.include_usage:
            chunk["usage"] = counted
        return Chunk(before_us, b"data: " + dumps(chunk) + b"\n\n", bool(choices) and "content" in choices[0]["delta"])

    pieces = plan.pieces(_MOST_DELTAS)
    pause_us = plan.write_us // (len(pieces) * plan.choices) if pieces else 0
    events = []
    for index in range(plan.choices):

        def choice(delta: dict[str, Any], finish: str | None = None, index: int = index) -> list[dict[str, Any]]:
            return [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]

        opening = event(
            plan.think_us if index == 0 else 0, choice({"role": "assistant", "content": "", "refusal": None})
        )
        events.append(opening._replace(delta=False))
        events.extend(event(pause_us, choice({"content": piece})) for piece in pieces)
        events.append(event(0, choice({}, "length" if plan.cut else "stop")))
    if plan.include_usage and with_usage:
        events.append(event(0, [], usage(plan)))
    events.append(Chunk(0, b"data: [DONE]\n\n"))
    return events


def _response_events(plan: Plan, stamp: Stamp, with_usage: bool) -> list[Chunk]:
    events: list[Chunk] = []

    def event(name: str, before_us: int = 0, **fields: Any) -> None:
        line = dumps({"type": name, **fields, "sequence_number": len(events)})
        events.append(
            Chunk(
                before_us,
                b"event: " + name.encode() + b"\ndata: " + line + b"\n\n",
                name == "response.output_text.delta",
            )
        )

    begun = response(plan, stamp, "in_progress")
    event("response.created", response=begun)
    event("response.in_progress", response=begun)
    position, wait_us = 0, plan.think_us
    if plan.reasoning:
        thought = {"id": f"rs_{stamp.tail}", "type": "reasoning", "summary": []}
        event("response.output_item.added", item=thought, output_index=0)
        event("response.output_item.done", wait_us, item=thought, output_index=0)
        position, wait_us = 1, 0
    if plan.visible:
        pieces = plan.pieces(_MOST_DELTAS)
        pause_us = plan.write_us // len(pieces)
        where: dict[str, Any] = {"item_id": f"msg_{stamp.tail}", "output_index": position, "content_index": 0}
        whole = plan.text
        event(
            "response.output_item.added",
            wait_us,
            item=_message(plan, stamp, "in_progress", []),
            output_index=position,
        )
        event("response.content_part.added", **where, part=_part(""))
        for piece in pieces:
            event("response.output_text.delta", pause_us, **where, delta=piece, logprobs=[])
        event("response.output_text.done", **where, logprobs=[], text=whole)
        event("response.content_part.done", **where, part=_part(whole))
        item = _message(plan, stamp, "incomplete" if plan.cut else "completed", [_part(whole)])
        event("response.output_item.done", item=item, output_index=position)
    event(
        "response.incomplete" if plan.cut else "response.completed",
        response=response(plan, stamp, "completed", with_usage=with_usage),
    )
    return events


def model_card(name: str) -> dict[str, Any]:
    """Build an entry of GET /v1/models."""
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "system"}
