"""Input tokens of whole requests: exact for text, an interval with a reason for everything else.

Rules: n = Σ (3 + enc(role) + enc(content) [+ enc(name) + 1]) + prime, the same for Chat and Responses; `instructions`
count like one system message. Source: openai-cookbook, and recorded prompt counts (pydantic-ai cassettes, 2026-08-22).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..errors import ConfigError
from .encodings import Family, family_of
from .text import count_text

PER_MESSAGE = 3
PER_NAME = 1
_OLDEST = "gpt-3.5-turbo-0301"  # 4 a message, and a name replaces the role. Source: openai-cookbook, older revision
# What recorded counts of these families were below and above the rules: another format, not published.
_DEVIATES = {"gpt-4o-search-preview": (11, 0), "gpt-4o-mini-search-preview": (11, 0), "o1-mini": (0, 8)}
IMAGE_TOKENS = (0, 765, 50_000)
FILE_TOKENS = (0, 1_000, 200_000)
_ROLE = 1  # "user" is one token in both encodings
# Keys of a Responses body, beside its input, that add tokens.
_COUNTED = frozenset(
    {"instructions", "previous_response_id", "conversation", "prompt", "tools", "response_format", "text"}
)
# Tokens around function definitions, beside the text of their namespace; from 105 recorded calls with tools.
_TOOLS_AROUND = {"chat": 8, "responses": 3}
_TOOLS_AROUND_GPT_5 = {"chat": 89, "responses": 7}


class Count(NamedTuple):
    """Input tokens: the best number, and bounds that hold as far as the sources reach.

    exact  the count is what the server reports for such requests
    why    what makes it inexact; "" when exact
    """

    tokens: int
    low: int
    high: int
    exact: bool = True
    why: str = ""


def count_tokens(messages_or_text: str | Sequence[Mapping[str, Any]], model: str) -> int:
    """Count the tokens of a text, or the prompt tokens of a list of chat messages.

    Raises  ConfigError when given neither
    """
    if isinstance(messages_or_text, str):
        return count_text(messages_or_text, family_of(model).encoding)
    if isinstance(messages_or_text, Mapping) or not isinstance(messages_or_text, Sequence):
        raise ConfigError(f"count_tokens takes a text or a list of messages, not {type(messages_or_text).__name__}")
    return count_input({"model": model, "messages": messages_or_text}, "/v1/chat/completions").tokens


def count_input(body: Mapping[str, Any], endpoint: str) -> Count:
    """Count the input tokens of a request body. Malformed parts are named in `why` and never raise."""
    model = body.get("model")
    family = family_of(model if isinstance(model, str) else "")
    text = body.get("input")
    regular = family.known and family.name not in _DEVIATES and family.name != _OLDEST
    if regular and type(text) is str and endpoint.endswith("responses") and _COUNTED.isdisjoint(body):
        # The hot path: one text, and nothing else that counts.
        tokens = PER_MESSAGE + _ROLE + count_text(text, family.encoding) + family.prime_tokens
        return Count(tokens, tokens, tokens)
    counter = _Counter(family)
    if not family.known:
        counter.doubt(f"the encoding of {_shown(model)} is not published")
    elif family.name in _DEVIATES:
        low, high = _DEVIATES[family.name]
        counter.doubt(f"{family.name} counts messages in a format that is not published", low=low, high=high)
    if endpoint.endswith("responses"):
        instructions, items = body.get("instructions"), body.get("input")
        if instructions is not None and instructions != "":  # empty ones were not billed: one recording, 2025-04
            counter.message("system", instructions)
        if isinstance(items, str):
            counter.message("user", items)
        else:
            counter.items(items)
        counter.tokens += family.prime_tokens
        for key in ("previous_response_id", "conversation", "prompt"):
            if body.get(key):
                counter.doubt(f"{key}: what the server adds is not in the body", high=1_000_000)
        counter.around(body, "responses")
    elif endpoint.endswith("chat/completions"):
        messages = body.get("messages")
        if isinstance(messages, Sequence) and not isinstance(messages, str | bytes):
            for message in messages:
                counter.chat_message(message)
        else:
            counter.doubt("messages is not a list")
        counter.tokens += family.prime_tokens
        counter.around(body, "chat")
    else:
        counter.plain(body.get("input", body.get("prompt")))
    return counter.result()


class _Counter:
    """Adds a request up: exact tokens, and low/high bounds for what is not exact."""

    __slots__ = ("_encoding", "_family", "_high", "_low", "_per_message", "_per_name", "_why", "tokens")

    def __init__(self, family: Family) -> None:
        self._family = family
        self._encoding = family.encoding
        self._per_message, self._per_name = (4, -1) if family.name == _OLDEST else (PER_MESSAGE, PER_NAME)
        self.tokens = 0
        self._low = 0  # how far below and above `tokens` the truth may be
        self._high = 0
        self._why: list[str] = []

    def result(self) -> Count:
        if not self._why:
            return Count(self.tokens, self.tokens, self.tokens)
        low = max(0, self.tokens - self._low)
        return Count(self.tokens, low, self.tokens + self._high, False, "; ".join(dict.fromkeys(self._why)))

    def doubt(self, why: str, *, low: int = 0, high: int = 0) -> None:
        self._why.append(why)
        self._low += low
        self._high += high

    def text(self, text: str) -> None:
        self.tokens += count_text(text, self._encoding)

    def between(self, bounds: tuple[int, int, int], why: str) -> None:
        """Add something known only as (low, likely, high)."""
        low, likely, high = bounds
        self.tokens += likely
        self.doubt(why, low=likely - low, high=high - likely)

    def message(self, role: str, content: Any) -> None:
        self.tokens += self._per_message
        self.text(role)
        self.content(content)

    def content(self, content: Any) -> None:
        if isinstance(content, str):
            self.text(content)
        elif isinstance(content, Sequence) and not isinstance(content, bytes):
            for part in content:
                self.part(part)
        elif content is not None:
            self.doubt(f"content is {type(content).__name__}")

    def part(self, part: Any) -> None:
        if isinstance(part, str):
            self.text(part)
            return
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
            self.text(part["text"])
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            self.text(part["refusal"])
        elif kind in ("image_url", "input_image"):
            self.between(IMAGE_TOKENS, "images: their size is not in the request")
        elif kind in ("input_audio", "file", "input_file"):
            self.between(FILE_TOKENS, f"{kind}: its length is not known")
        else:
            self.doubt(f"unknown content part {_shown(kind)}", high=1_000)

    def chat_message(self, message: Any) -> None:
        if not isinstance(message, Mapping):
            self.doubt(f"a message is {type(message).__name__}")
            return
        role, name = message.get("role"), message.get("name")
        self.message(role if isinstance(role, str) else "user", message.get("content"))
        if isinstance(name, str):
            self.text(name)
            self.tokens += self._per_name
        calls = message.get("tool_calls") or message.get("function_call")
        if calls:
            self._tool_call(calls)
        if role in ("tool", "function"):
            self.doubt("tool results: their wrapping is not published", low=8, high=16)

    def items(self, items: Any) -> None:
        """The input items of a Responses request."""
        if not isinstance(items, Sequence) or isinstance(items, bytes):
            self.doubt("input is neither a text nor a list")
            return
        for item in items:
            if not isinstance(item, Mapping):
                self.doubt(f"an input item is {type(item).__name__}")
            elif item.get("type") in (None, "message"):
                role = item.get("role")
                self.message(role if isinstance(role, str) else "user", item.get("content"))
                if role == "assistant" and self._family.prime_tokens == 2:
                    self.doubt("replayed assistant turns cost up to two tokens more", high=2)
            elif item.get("type") in ("function_call", "custom_tool_call"):
                self._tool_call(item)
            elif item.get("type") in ("function_call_output", "custom_tool_call_output"):
                self.message("tool", item.get("output"))
                self.doubt("tool results: their wrapping is not published", low=8, high=16)
            else:
                self.doubt(f"{_shown(item.get('type'))} items: what they count is not published", high=20_000)

    def _tool_call(self, call: Any) -> None:
        self.tokens += PER_MESSAGE
        self.text(_compact(call))
        self.doubt(
            "tool calls: their wrapping is not published", low=count_text(_compact(call), self._encoding), high=32
        )

    def around(self, body: Mapping[str, Any], endpoint: str) -> None:
        """Tools and output schemas."""
        tools = body.get("tools")
        if isinstance(tools, Sequence) and not isinstance(tools, str) and tools:
            functions = [function for function in map(_function, tools) if function is not None]
            if functions:
                around = _TOOLS_AROUND_GPT_5 if self._family.name == "gpt-5" else _TOOLS_AROUND
                self.text(_namespace(functions))
                self.tokens += around[endpoint]
                self.doubt("function definitions: counted as their recorded rendering", low=24, high=32)
            if len(functions) < len(tools):
                self.doubt("hosted tools add a prompt of their own", high=20_000)
        for key in ("response_format", "text"):
            form = body.get(key)
            form = form.get("format", form) if isinstance(form, Mapping) else None
            if isinstance(form, Mapping) and form.get("type") == "json_schema":
                self.text(_compact(form.get("schema", form.get("json_schema"))))
                self.doubt("output schemas: counted as compact JSON", low=24, high=24)

    def plain(self, value: Any) -> None:
        """An embeddings input or legacy prompt: text, texts, or token arrays."""
        rest = [value]  # a list, not recursion: bodies may be nested deeper than Python's stack
        while rest:
            value = rest.pop()
            if isinstance(value, str):
                self.text(value)
            elif isinstance(value, Sequence) and not isinstance(value, bytes):
                for part in value:
                    if type(part) is int:
                        self.tokens += 1
                    else:
                        rest.append(part)
            elif value is not None:
                self.doubt(f"input is {type(value).__name__}")


def _function(tool: Any) -> Mapping[str, Any] | None:
    """The function of a Chat ({"function": {…}}) or Responses (flat) tool definition."""
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        return None
    function = tool.get("function", tool)
    return function if isinstance(function, Mapping) and isinstance(function.get("name"), str) else None


def _namespace(functions: Sequence[Mapping[str, Any]]) -> str:
    """Render function tools as the TypeScript namespace that recorded counts fit."""
    lines = ["namespace functions {", ""]
    for function in functions:
        if isinstance(function.get("description"), str):
            lines.append(f"// {function['description']}")
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
        if isinstance(properties, Mapping) and properties:
            required = parameters.get("required") if isinstance(parameters, Mapping) else ()
            lines.append(f"type {function['name']} = (_: {{")
            for name, schema in properties.items():
                schema = schema if isinstance(schema, Mapping) else {}
                if isinstance(schema.get("description"), str):
                    lines.append(f"// {schema['description']}")
                optional = "" if isinstance(required, list | tuple) and name in required else "?"
                lines.append(f"{name}{optional}: {_type(schema, 0)},")
            lines.append("}) => any;")
        else:
            lines.append(f"type {function['name']} = () => any;")
        lines.append("")
    lines.append("} // namespace functions")
    return "\n".join(lines)


def _type(schema: Mapping[str, Any], depth: int) -> str:
    if isinstance(schema.get("enum"), Sequence) and not isinstance(schema["enum"], str):
        return " | ".join(_compact(value) for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array" and isinstance(schema.get("items"), Mapping) and depth < 20:
        return _type(schema["items"], depth + 1) + "[]"
    if kind == "object" and isinstance(schema.get("properties"), Mapping) and depth < 20:
        inner = [
            f"{name}: {_type(value, depth + 1)},"
            for name, value in schema["properties"].items()
            if isinstance(value, Mapping)
        ]
        return "{\n" + "\n".join(inner) + "\n}"
    names = {"integer": "number", "null": "null"}
    return names.get(kind, kind) if isinstance(kind, str) else "any"


def _compact(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return str(type(value))


def _shown(value: Any) -> str:
    """Name a value of the body in a reason: short, whatever it is."""
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"
