"""Function tools as the model reads them: a TypeScript namespace, and the constants around it.

OpenAI publishes neither. The rendering follows the open harmony format (openai/harmony, Apache-2.0, read 2026-11) and
the constants fit 131 recorded requests with tools (2024-02 … 2026-08): nine in ten within two tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .images import Range

DEEPEST = 20
MOST_NODES = 20_000
"""A schema may refer to itself, and to what refers twice to what refers twice: rendering stops there."""

# Tokens beside the text of the namespace, by family and endpoint: (without a system message, with one)
_AROUND = {
    ("o200k", "chat"): (8, 4),
    ("o200k", "responses"): (2, 2),
    ("gpt-5", "chat"): (90, 90),
    ("gpt-5", "responses"): (7, 7),
    ("cl100k", "chat"): (9, 6),
    ("cl100k", "responses"): (9, 6),
}
NAMED = 7
"""tool_choice names a function: its name and this much more, but for gpt-5."""

# What the prompts of hosted tools took in recordings, by type; results that the server reads in come on top.
_HOSTED = {
    "web_search": 300,
    "web_search_preview": 300,
    "code_interpreter": 700,
    "image_generation": 1_700,
    "tool_search": 300,
    "mcp": 160,
    "custom": 40,
}
_HOSTED_MOST = 40_000


def function_of(tool: Any) -> Mapping[str, Any] | None:
    """Take the function out of a Chat ({"function": {…}}) or Responses (flat) tool; None for any other tool."""
    if not isinstance(tool, Mapping) or tool.get("type") != "function":
        return None
    function = tool.get("function", tool)
    return function if isinstance(function, Mapping) and isinstance(function.get("name"), str) else None


def around(functions: Sequence[Mapping[str, Any]], family: str, endpoint: str, *, system: bool) -> int:
    """Say how many tokens stand around the namespace of these functions.

    family    "gpt-5" | "o200k" | "cl100k"
    endpoint  "chat" | "responses"
    system    whether the request has a system message or instructions
    """
    first = functions[0]
    tokens = _AROUND[family, endpoint][system]
    if (family, endpoint) == ("gpt-5", "responses"):
        tokens += bool(first.get("description"))
    if (family, endpoint) != ("gpt-5", "chat"):
        tokens += not has_properties(first)
    return tokens - sum(map(has_properties, functions[1:]))


def hidden(family: str, endpoint: str, forced: str | None) -> int:
    """Say how many tokens recordings with tools held that nobody sent, beyond what is usual.

    215 to 229 in early Responses calls (2025-03 … 2025-04); 79 once in a forced call of gpt-5.5.
    """
    if family == "gpt-5":
        return 80 if forced is not None else 0
    return 230 if endpoint == "responses" else 0


def hosted(tool: Any) -> Range:
    """Bound what a tool that is no function adds."""
    kind = tool.get("type") if isinstance(tool, Mapping) else None
    likely = _HOSTED.get(kind, 0) if isinstance(kind, str) else 0
    return Range(0, likely, _HOSTED_MOST, "hosted tools add a prompt and results of their own")


def named_choice(choice: Any) -> str | None:
    """Find the function that tool_choice forces; None when it forces none."""
    if not isinstance(choice, Mapping) or choice.get("type", "function") != "function":
        return None
    named = choice.get("function", choice)
    name = named.get("name") if isinstance(named, Mapping) else None
    return name if isinstance(name, str) else None


def has_properties(function: Mapping[str, Any]) -> bool:
    """Say whether a function takes anything."""
    parameters = function.get("parameters")
    return isinstance(parameters, Mapping) and bool(_properties(parameters))


def namespace(functions: Sequence[Mapping[str, Any]]) -> str:
    """Render function tools as the namespace that recorded counts fit."""
    lines = ["namespace functions {", ""]
    for function in functions:
        if isinstance(function.get("description"), str) and function["description"]:
            lines.append(f"// {function['description']}")
        parameters = function.get("parameters")
        if isinstance(parameters, Mapping) and _properties(parameters):
            if isinstance(parameters.get("title"), str):
                lines.append(f"// {parameters['title']}")
            lines.append(f"type {function['name']} = (_: {_Schema(parameters).render(parameters, 0)}) => any;")
        else:
            lines.append(f"type {function['name']} = () => any;")
        lines.append("")
    lines.append("} // namespace functions")
    return "\n".join(lines)


def compact(value: Any) -> str:
    """Write a value as compact JSON; its type's name when it is none."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return str(type(value))


class _Schema:
    """Renders one JSON schema as a TypeScript type."""

    __slots__ = ("_definitions", "_nodes")

    def __init__(self, root: Mapping[str, Any]) -> None:
        definitions = root.get("$defs", root.get("definitions"))
        self._definitions = definitions if isinstance(definitions, Mapping) else {}
        self._nodes = 0

    def render(self, schema: Any, depth: int) -> str:
        self._nodes += 1
        if not isinstance(schema, Mapping) or depth > DEEPEST or self._nodes > MOST_NODES:
            return "any"
        if isinstance(schema.get("$ref"), str):
            return self.render(self._definitions.get(schema["$ref"].rpartition("/")[2]), depth + 1)
        if _is_list(schema.get("enum")):
            return " | ".join(map(compact, schema["enum"]))
        if "const" in schema:
            return compact(schema["const"])
        for key in ("anyOf", "oneOf"):
            if _is_list(schema.get(key)):
                return " | ".join(self.render(variant, depth + 1) for variant in schema[key])
        kind = schema.get("type")
        if isinstance(kind, list | tuple):
            return " | ".join(map(_kind, kind))
        if kind == "array":
            return self.render(schema["items"], depth + 1) + "[]" if "items" in schema else "any[]"
        if _properties(schema):
            return self._object(schema, depth)
        return _kind(kind)

    def _object(self, schema: Mapping[str, Any], depth: int) -> str:
        required = schema.get("required")
        lines = ["{"]
        for name, value in _properties(schema).items():
            value = value if isinstance(value, Mapping) else {}
            if isinstance(value.get("title"), str):
                lines += [f"// {value['title']}", "//"]
            if isinstance(value.get("description"), str):
                lines.append(f"// {value['description']}")
            optional = "" if isinstance(required, list | tuple) and name in required else "?"
            notes = ", ".join(f"{key}: {compact(value[key])}" for key in _NOTED if key in value)
            lines.append(f"{name}{optional}: {self.render(value, depth + 1)}," + (f" // {notes}" if notes else ""))
        lines.append("}")
        return "\n".join(lines)


# What a schema demands beside the type is rendered as a comment (two recordings).
_NOTED = (
    "default",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "multipleOf",
    "pattern",
    "format",
)


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    properties = schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _kind(kind: Any) -> str:
    return {"integer": "number"}.get(kind, kind) if isinstance(kind, str) else "any"
