"""The providers of a suite: which model a request is for, where it goes, and the fields that it carries.

Fields of `config` go into the request as its endpoint calls them; numbers become JSON numbers. What is not OpenAI's is
kept, with the reason why its requests cannot be counted.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pricing._yaml import Node
from pricing.cards import resolve

from .files import FILE, YAML, Files, refuse_code
from .names import Names, clean
from .prompts import Prompt, chosen

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
COMPLETIONS, EMBEDDINGS = "/v1/completions", "/v1/embeddings"
_KINDS = {
    "chat": CHAT,
    "responses": RESPONSES,
    "completion": COMPLETIONS,
    "embedding": EMBEDDINGS,
    "embeddings": EMBEDDINGS,
}
_FORMS = "openai:MODEL, openai:chat:MODEL, openai:responses:MODEL, openai:completion:MODEL, openai:embedding:MODEL"
_RUNS = ("exec:", "python:", "golang:", "ruby:", "package:", "file:", "javascript:")
_CALLS = ("http:", "https:", "webhook:", "websocket:", "ws:", "wss:")
_SAMPLING = ("temperature", "top_p")
_COMMON = (*_SAMPLING, "tools", "tool_choice", "parallel_tool_calls", "service_tier", "store", "metadata", "user",
           "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "top_logprobs")  # fmt: skip
_WRITING = ("max_tokens", "n", "seed", "stop", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs")
FIELDS: Mapping[str, tuple[str, ...]] = {
    CHAT: (*_COMMON, *_WRITING, "max_completion_tokens", "reasoning_effort", "response_format", "verbosity",
           "functions", "function_call", "modalities", "audio", "prediction", "web_search_options"),
    RESPONSES: (*_COMMON, "max_output_tokens", "max_tool_calls", "reasoning_effort", "reasoning", "response_format",
                "verbosity", "instructions", "truncation", "include", "background", "previous_response_id"),
    COMPLETIONS: (*_SAMPLING, *_WRITING, "best_of", "echo", "suffix", "user"),
    EMBEDDINGS: ("dimensions", "encoding_format", "user"),
}  # fmt: skip
"""What `config` may say of a request, by endpoint."""
_KNOWN = tuple(dict.fromkeys(field for fields in FIELDS.values() for field in fields))
_INTEGERS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_tool_calls", "n", "seed", "best_of",
             "top_logprobs", "dimensions")  # fmt: skip
_DECIMALS = (*_SAMPLING, "presence_penalty", "frequency_penalty")
_LIKE = 0.87
"""How like a field another name is that must be a typing error."""
_MOST_FILES = 3
"""File in file in file."""


class Provider(NamedTuple):
    """One provider.

    name     what lines are named after, no other provider's
    names    what tests choose it by: its id, and its label
    fields   of a request, beside the model and what the prompt becomes
    why      why its requests cannot be counted; "" when they can
    prompts  places of the prompts that it takes, None for all
    """

    name: str
    names: tuple[str, ...]
    endpoint: str
    model: str
    fields: Mapping[str, Any]
    why: str = ""
    prompts: frozenset[int] | None = None

    def body(self, content: str | list[Any]) -> dict[str, Any]:
        """Build the body of a request."""
        made: dict[str, Any] = {"model": self.model}
        if self.endpoint == CHAT:
            made["messages"] = content if isinstance(content, list) else [{"role": "user", "content": content}]
        elif self.endpoint == RESPONSES:
            made["input"] = content
        else:
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=2)
            made["prompt" if self.endpoint == COMPLETIONS else "input"] = text
        return {**made, **self.fields}


def read_providers(node: Node, prompts: tuple[Prompt, ...], files: Files) -> tuple[Provider, ...]:
    """Read `providers`. Raises TableError with the line and key of what is not understood."""
    names = Names()
    found = [
        provider._replace(name=names.new(clean(provider.name).replace("/", "_")))
        for entry in _entries(node, files)
        for provider in _provider(entry, prompts, files)
    ]
    if not found:
        node.fail("there is no provider in it")
    return tuple(found)


def _entries(node: Node, files: Files, depth: int = 0) -> Iterator[Node]:
    """The providers, those in files included."""
    if isinstance(node._value, dict):
        facts = node.entries()
        yield from [node] if "id" in facts else [_pair(name, one) for name, one in facts.items()]
        return
    for one in node.items() if isinstance(node._value, list) else [node]:
        name = one._value
        if isinstance(name, str) and name.startswith(FILE):
            refuse_code(one, name)
            if depth:
                one.fail("a file of providers names another file: write the provider out")
            for path in files.find(one, name):
                if path.suffix.lower() not in (*YAML, ".json"):
                    one.fail(f"providers in a file like {name!r} are not understood: .yaml and .json are")
                yield from _entries(files.document(one, path), files, depth + 1)
        else:
            yield one


def _pair(name: str, node: Node) -> Node:
    """`openai:gpt-4.1: {config: …}` as a mapping with an id."""
    inside = {} if node.nothing else node.entries()
    return Node({"id": Node(name, node.file, node.line, node.key), **inside}, node.file, node.line, node.key)


def _provider(node: Node, prompts: tuple[Prompt, ...], files: Files) -> Iterator[Provider]:
    if isinstance(node._value, dict) and "id" not in node._value:
        for name, one in node.entries().items():
            if not isinstance(one._value, dict):
                node.fail("missing key 'id'")
            yield from _provider(_pair(name, one), prompts, files)
        return
    facts: dict[str, Node] = {"id": node}
    if isinstance(node._value, dict):
        ignored = ("delay", "transform", "env", "inputs")
        facts = node.mapping(required=("id",), optional=("label", "config", "prompts", *ignored))
    name = facts["id"].text()
    label = facts["label"].text() if "label" in facts else ""
    refuse_template(facts["id"], name)
    kind, _, rest = name.partition(":")
    takes = chosen(facts.get("prompts"), prompts)
    known = (name, label) if label else (name,)
    if kind != "openai" or not rest:
        _refuse_programs(facts["id"], name)
        why = f"provider {name!r} is not one of OpenAI's API: its tokens and prices are not known here"
        yield Provider(label or name, known, "", name, {}, why, takes)
        return
    form, _, model = rest.partition(":")
    if form in _KINDS:
        if not model:
            facts["id"].fail(f"{name!r} names no model: write {name}:MODEL")
        endpoint = _KINDS[form]
    elif model:
        why = f"provider {name!r} is not understood: of OpenAI's {_FORMS} are"
        yield Provider(label or name, known, "", name, {}, why, takes)
        return
    else:
        model, endpoint = rest, _endpoint(rest)
    fields = _fields(facts["config"], endpoint, model, files) if "config" in facts else {}
    yield Provider(label or model, known, endpoint, fields.pop("model", model), fields, "", takes)


def _refuse_programs(node: Node, name: str) -> None:
    refuse_code(node, name)
    if name.startswith(_RUNS):
        node.fail(f"{name[:60]!r} would have to be run, and nothing is: name the model that it asks ({_FORMS})")
    if name.startswith(_CALLS) or name in ("http", "https", "websocket"):
        node.fail(f"{name[:60]!r} is a server of its own: name the model that it asks ({_FORMS})")


def _endpoint(model: str) -> str:
    """Where a model without a kind is asked: as a chat, unless its card offers something else only."""
    card = resolve(model)
    offered = {} if card is None else card.endpoints
    return next((one for one in (CHAT, COMPLETIONS, RESPONSES) if offered.get(one[1:])), CHAT)


def _fields(node: Node, endpoint: str, model: str, files: Files) -> dict[str, Any]:
    """What `config` says of a request; the rest of it is not sent by promptfoo either."""
    if node.nothing:
        return {}
    facts = node.entries()
    for name, one in facts.items():
        near = difflib.get_close_matches(name, _KNOWN, 1, _LIKE)
        if name not in _KNOWN and near:
            one.fail(f"unknown field {name!r}; did you mean {near[0]!r}?")
    if "mcp" in facts:
        facts["mcp"].fail("tools of an MCP server are not known here: write them as tools")
    made = {
        name: _number(facts[name], name) if name in (*_INTEGERS, *_DECIMALS) else _value(facts[name], files)
        for name in FIELDS[endpoint]
        if name in facts and not facts[name].nothing
    }
    if endpoint == RESPONSES:
        _as_responses(made)
    card = resolve(model)
    if endpoint == CHAT and card is not None and card.reasoning_tokens:
        made.pop("max_tokens", None)  # such models refuse it, and promptfoo leaves it out
    if "passthrough" in facts and not facts["passthrough"].nothing:
        facts["passthrough"].entries()
        made |= _value(facts["passthrough"], files)
    return made


def _as_responses(made: dict[str, Any]) -> None:
    """Say it as the Responses API does."""
    text = {}
    form = made.pop("response_format", None)
    if isinstance(form, Mapping):
        given = form.get("json_schema")
        inside = given if isinstance(given, Mapping) else form
        names = {"type": form.get("type"), "name": inside.get("name", "response_schema"), "strict": True}
        schema = form.get("type") == "json_schema"
        text["format"] = {**names, "schema": inside.get("schema")} if schema else {"type": form.get("type")}
    if (verbosity := made.pop("verbosity", None)) is not None:
        text["verbosity"] = verbosity
    effort = made.pop("reasoning_effort", None)
    if effort is not None and "reasoning" not in made:
        made["reasoning"] = {"effort": effort}
    if text:
        made["text"] = text


def _number(node: Node, name: str) -> int | float:
    """Read a number, quoted or not."""
    whole = name in _INTEGERS
    text = node._value
    value = Node(text, node.file, node.line, node.key, True).data() if isinstance(text, str) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or (whole and not isinstance(value, int)):
        if isinstance(text, str):
            refuse_template(node, text)
        node._expected("a whole number" if whole else "a number")
    return value


def _value(node: Node, files: Files, depth: int = 0) -> Any:
    """Read what goes into a request as it stands; a text file://… is what is in that file."""
    value = node._value
    if isinstance(value, dict):
        return {name: _value(one, files, depth) for name, one in value.items()}
    if isinstance(value, list):
        return [_value(one, files, depth) for one in value]
    refuse_template(node, value)
    if not value.startswith(FILE):
        return node.data()
    refuse_code(node, value)
    path = files.find(node, value)[0]
    if depth >= _MOST_FILES:
        node.fail(f"{value!r} is a file in a file, more than {_MOST_FILES} deep")
    if path.suffix.lower() in (*YAML, ".json"):
        return _value(files.document(node, path), files, depth + 1)
    return files.text(node, path).strip()


def refuse_template(node: Node, text: str) -> None:
    """Refuse a template where there is none to be. Raises TableError."""
    if "{{" in text or "{%" in text:
        node.fail(f"{text[:60]!r} is a template, which is understood in prompts only: write the value out")
