"""Function tools as a namespace: what is rendered, and that no schema runs away."""

from __future__ import annotations

from typing import Any

import pytest

from pricing.tokens import count_input
from pricing.tokens.tools import MOST_NODES, function_of, named_choice, namespace

WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the weather.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "The city"},
            "unit": {"type": "string", "enum": ["c", "f"]},
            "days": {"type": "integer", "title": "Days", "default": 3, "maximum": 9},
            "where": {"$ref": "#/$defs/Point"},
            "tags": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
        },
        "required": ["city"],
        "$defs": {"Point": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]}},
    },
}
RENDERED = """namespace functions {

// Get the weather.
type get_weather = (_: {
// The city
city: string,
unit?: "c" | "f",
// Days
//
days?: number, // default: 3, maximum: 9
where?: {
lat: number,
},
tags?: string | null[],
}) => any;

type now = () => any;

} // namespace functions"""


def test_the_namespace_is_the_recorded_one() -> None:
    """Descriptions, titles, enums, defaults, references, unions and functions without parameters: line by line."""
    assert namespace([WEATHER, {"name": "now"}]) == RENDERED


def test_chat_and_responses_define_functions_in_two_shapes() -> None:
    """The flat and the nested shape are one function, and the older `functions` of Chat count like tools."""
    flat, nested = {"type": "function", **WEATHER}, {"type": "function", "function": WEATHER}
    assert namespace([function_of(flat) or {}]) == namespace([function_of(nested) or {}])
    body = {"model": "gpt-4", "messages": [{"role": "user", "content": "Hello!"}]}
    new = count_input({**body, "tools": [nested]}, "/v1/chat/completions")
    assert count_input({**body, "functions": [WEATHER]}, "/v1/chat/completions") == new


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ({"type": "function", "name": "f"}, "f"),
        ({"type": "function", "function": {"name": "f"}}, "f"),
        ({"name": "f"}, "f"),
        ("auto", None),
        ({"type": "allowed_tools", "tools": []}, None),
        ({"type": "function", "function": 5}, None),
    ],
)
def test_a_forced_function_is_found(choice: Any, name: str | None) -> None:
    """tool_choice names a function in three shapes, or none."""
    assert named_choice(choice) == name


@pytest.mark.parametrize(
    "definitions",
    [
        {"A": {"$ref": "#/$defs/A"}},
        {"A": {"type": "object", "properties": {"next": {"$ref": "#/$defs/A"}}}},
        {"A": {"type": "object", "properties": {f"p{n}": {"$ref": "#/$defs/A"} for n in range(30)}}},
        {"A": {"anyOf": [{"$ref": "#/$defs/A"}] * 30}},
    ],
)
def test_no_schema_runs_away(definitions: dict[str, Any]) -> None:
    """Schemas that refer to themselves, once or thirty times, are rendered as far as the bounds go, and no further."""
    parameters = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": definitions}
    tool = {"type": "function", "name": "f", "parameters": parameters}
    assert len(namespace([tool])) < 200 * MOST_NODES
    assert count_input({"model": "gpt-4o", "input": "x", "tools": [tool]}, "/v1/responses").tokens > 0
