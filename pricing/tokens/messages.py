"""Input tokens of whole requests: exact for text, an interval with a reason for everything else.

Rules: n = Σ (3 + enc(role) + enc(content) [+ enc(name) + 1]) + prime, the same for Chat and Responses; `instructions`
count like one system message. Source: openai-cookbook, and recorded prompt counts (pydantic-ai cassettes, 2026-08-22).
What stands around tools, calls and schemas fits 668 recorded requests of public test suites (2024-02 … 2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..cards import resolve
from ..errors import ConfigError
from . import tools as rendering
from .attachments import audio_tokens, file_tokens, size_of, text_of
from .encodings import Family, family_of
from .guess import guess_text
from .images import Range, image_tokens
from .text import count_text

PER_MESSAGE = 3
PER_NAME = 1
_OLDEST = "gpt-3.5-turbo-0301"  # 4 a message, and a name replaces the role. Source: openai-cookbook, older revision
# What recorded counts of these families were below and above the rules: another format, not published.
_DEVIATES = {"gpt-4o-search-preview": (11, 0), "gpt-4o-mini-search-preview": (11, 0), "o1-mini": (0, 8)}
_ROLE = 1  # "user" is one token in both encodings
# Keys of a Responses body, beside its input, that add tokens.
_COUNTED = frozenset(
    {"instructions", "previous_response_id", "conversation", "prompt", "tools", "response_format", "text", "reasoning"}
)
# Tokens around a call and around its result, beside the name of the function in each.
_CALL = {"gpt-5": (12, 8), "o200k": (6, 6), "cl100k": (6, 6)}
_REPLAYED = 2  # a replayed assistant turn, gpt-5 on Responses
_UNSEEN = 2_000_000  # what the server adds from its own store: at most a context window, and more than any


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

    An estimate where the model's encoding is not published: `count_input` says so, with bounds.

    Raises  ConfigError when given neither
    """
    if isinstance(messages_or_text, str):
        family = family_of(model)
        if not family.known:
            return guess_text(messages_or_text).likely
        return count_text(messages_or_text, family.encoding)
    if isinstance(messages_or_text, Mapping) or not isinstance(messages_or_text, Sequence):
        raise ConfigError(f"count_tokens takes a text or a list of messages, not {type(messages_or_text).__name__}")
    return count_input({"model": model, "messages": messages_or_text}, "/v1/chat/completions").tokens


def count_input(body: Mapping[str, Any], endpoint: str) -> Count:
    """Count the input tokens of a request body. Malformed parts are named in `why` and never raise."""
    model = body.get("model")
    model = model if isinstance(model, str) else ""
    family = family_of(model)
    text = body.get("input")
    endpoint = endpoint.removesuffix("/input_tokens")  # the endpoint that counts, and sends nothing
    regular = family.known and family.name not in _DEVIATES and family.name != _OLDEST
    if regular and type(text) is str and endpoint.endswith("responses") and _COUNTED.isdisjoint(body):
        # The hot path: one text, and nothing else that counts.
        tokens = PER_MESSAGE + _ROLE + count_text(text, family.encoding) + family.prime_tokens
        return Count(tokens, tokens, tokens)
    counter = _Counter(family, model, "chat" if endpoint.endswith("chat/completions") else "responses")
    if not family.known:
        counter.doubt(f"the encoding of {_shown(body.get('model'))} is not published: estimated from its bytes")
    elif family.name in _DEVIATES:
        low, high = _DEVIATES[family.name]
        counter.doubt(f"{family.name} counts messages in a format that is not published", low=low, high=high)
    if endpoint.endswith("responses"):
        counter.responses(body)
    elif endpoint.endswith("chat/completions"):
        counter.chat(body)
    else:
        counter.plain(body.get("input", body.get("prompt")))
    return counter.result()


def quotes(why: str) -> bool:
    """Say whether a reason shows a text of the request (an unknown type, a model): it stands in quotation marks."""
    return "'" in why or '"' in why


class _Counter:
    """Adds a request up: exact tokens, and low/high bounds for what is not exact."""

    __slots__ = (
        "_endpoint",
        "_family",
        "_high",
        "_low",
        "_model",
        "_names",
        "_several_runs",
        "_system",
        "_why",
        "tokens",
    )

    def __init__(self, family: Family, model: str, endpoint: str) -> None:
        self._family = family
        self._model = model
        self._endpoint = endpoint
        self.tokens = 0
        self._low = 0  # how far below and above `tokens` the truth may be
        self._high = 0
        self._why: dict[str, None] = {}
        self._names: dict[str, str] = {}  # call id → function, for the results
        self._system = False
        self._several_runs = False

    def result(self) -> Count:
        if not self._why:
            return Count(self.tokens, self.tokens, self.tokens)
        low, high = max(0, self.tokens - self._low), self.tokens + self._high
        card = resolve(self._model)
        if card is not None and card.context_window is not None and not self._several_runs:
            high = max(self.tokens, min(high, card.context_window))  # a longer one is refused, and costs nothing
        return Count(self.tokens, low, high, False, "; ".join(self._why))

    def doubt(self, why: str, *, low: int = 0, high: int = 0) -> None:
        self._why[why] = None
        self._low += low
        self._high += high

    def text(self, text: str) -> None:
        if self._family.known:
            self.tokens += count_text(text, self._family.encoding)
        else:
            guess = guess_text(text)
            self.tokens += guess.likely
            self._low += guess.likely - guess.low
            self._high += guess.high - guess.likely

    def between(self, bounds: Range) -> None:
        """Add something known only as (low, likely, high)."""
        low, likely, high, why = bounds
        self.tokens += likely
        self.doubt(why, low=likely - low, high=high - likely)

    # Whole bodies

    def responses(self, body: Mapping[str, Any]) -> None:
        instructions, items = body.get("instructions"), body.get("input")
        if instructions is not None and instructions != "":  # empty ones were not billed: one recording, 2025-04
            self.message("system", instructions)
        if isinstance(items, str):
            self.message("user", items)
        elif isinstance(items, Sequence) and not isinstance(items, bytes):
            for item in items:
                self.item(item)
        elif items is not None or not body.get("prompt"):
            self.doubt("input is neither a text nor a list")
        self.tokens += self._family.prime_tokens
        for key in ("previous_response_id", "conversation", "prompt"):
            if body.get(key):
                self.doubt(f"{key}: what the server adds is not in the body", low=self.tokens, high=_UNSEEN)
        reasoning = body.get("reasoning")
        if isinstance(reasoning, Mapping) and reasoning.get("mode") == "pro":
            self._several_runs = True
            self.doubt("reasoning.mode pro: the sum of internal runs", high=20_000 + 100 * self.tokens)
        self.around(body)

    def chat(self, body: Mapping[str, Any]) -> None:
        messages = body.get("messages")
        if isinstance(messages, Sequence) and not isinstance(messages, str | bytes):
            for message in messages:
                self.chat_message(message)
        else:
            self.doubt("messages is not a list")
        self.tokens += self._family.prime_tokens
        self.around(body)

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

    # Messages and their parts

    def message(self, role: Any, content: Any) -> None:
        role = role if isinstance(role, str) else "user"
        self._system = self._system or role in ("system", "developer")
        self.tokens += 4 if self._family.name == _OLDEST else PER_MESSAGE
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
            self._image(part)
        elif kind in ("file", "input_file"):
            text = text_of(part)
            if text is None:
                self.between(file_tokens(part))
            else:
                self.text(text)
                self.doubt("files: what stands around their text is not published", high=64)
        elif kind == "input_audio":
            self.between(audio_tokens(part))
        else:
            self.doubt(f"unknown content part {_shown(kind)}", high=1_000)

    def _image(self, part: Mapping[str, Any]) -> None:
        image = part.get("image_url")
        detail = part.get("detail")
        if isinstance(image, Mapping):
            detail, image = image.get("detail"), image.get("url")
        detail = detail if isinstance(detail, str) else None
        self.between(image_tokens(self._model, size_of(image), detail))

    def chat_message(self, message: Any) -> None:
        if not isinstance(message, Mapping):
            self.doubt(f"a message is {type(message).__name__}")
            return
        role, name = message.get("role"), message.get("name")
        calls = message.get("tool_calls")
        if isinstance(message.get("function_call"), Mapping):
            calls = [{"function": message["function_call"]}]
        if role in ("tool", "function"):
            self._output(message.get("tool_call_id"), message.get("content"), name)
            return
        if message.get("content") or not calls:
            self.message(role, message.get("content"))
            if isinstance(name, str):
                self.text(name)
                self.tokens += -1 if self._family.name == _OLDEST else PER_NAME
        if isinstance(calls, Sequence) and not isinstance(calls, str | bytes):
            for call in calls:
                function = call.get("function", call.get("custom")) if isinstance(call, Mapping) else None
                function = function if isinstance(function, Mapping) else {}
                arguments = function.get("arguments", function.get("input"))
                self._call(function.get("name"), arguments, call.get("id") if isinstance(call, Mapping) else None)
            if len(calls) > 1 and self._family.kind != "gpt-5":  # several at once are one call of another tool
                self.tokens += 5
                self.doubt("parallel tool calls: their wrapping is not published", low=5, high=8 * len(calls))
        elif calls is not None:
            self.doubt("tool_calls is not a list")

    def item(self, item: Any) -> None:
        """An input item of a Responses request."""
        if not isinstance(item, Mapping):
            self.doubt(f"an input item is {type(item).__name__}")
            return
        kind = item.get("type")
        if kind is None or kind == "message":
            role = item.get("role")
            self.message(role, item.get("content"))
            if role == "assistant" and self._family.kind == "gpt-5":
                self.tokens += _REPLAYED
                self.doubt("replayed assistant turns cost up to three tokens more", low=_REPLAYED, high=1)
        elif kind in ("function_call", "custom_tool_call"):
            self._call(item.get("name"), item.get("arguments", item.get("input")), item.get("call_id"))
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._output(item.get("call_id"), item.get("output"))
        else:
            replaced = self.tokens if kind == "compaction" else 0  # it stands for what is before it
            self.doubt(f"{_shown(kind)} items: what they count is not published", low=replaced, high=20_000)

    # Tools

    def _call(self, name: Any, arguments: Any, call_id: Any) -> None:
        if isinstance(name, str):
            self.text(name)
            if isinstance(call_id, str):
                self._names[call_id] = name
        self.tokens += _CALL[self._family.kind][0]
        self.text(arguments if isinstance(arguments, str) else rendering.compact(arguments))
        self.doubt("tool calls: their wrapping is not published", low=6, high=8)

    def _output(self, call_id: Any, output: Any, name: Any = None) -> None:
        name = self._names.get(call_id, name) if isinstance(call_id, str) else name
        if isinstance(name, str):
            self.text(name)
        self.tokens += _CALL[self._family.kind][1]
        self.content(output)
        self.doubt("tool results: their wrapping is not published", low=6, high=8)

    def around(self, body: Mapping[str, Any]) -> None:
        """Tools and output schemas."""
        tools = body.get("tools")
        if not tools and isinstance(body.get("functions"), list):  # what Chat called them before 2023-11
            tools = [{"type": "function", "function": function} for function in body["functions"]]
        if isinstance(tools, Sequence) and not isinstance(tools, str | bytes) and tools:
            functions = [function for function in map(rendering.function_of, tools) if function is not None]
            if functions:
                self._functions(functions, rendering.named_choice(body.get("tool_choice", body.get("function_call"))))
            for tool in tools:
                if rendering.function_of(tool) is None:
                    self.between(rendering.hosted(tool))
        for key in ("response_format", "text"):
            form = body.get(key)
            form = form.get("format", form) if isinstance(form, Mapping) else None
            if isinstance(form, Mapping) and form.get("type") == "json_schema":
                self._schema(form.get("json_schema", form))

    def _schema(self, form: Any) -> None:
        """An output schema: its compact JSON, of which the server leaves something out."""
        before = self.tokens
        if isinstance(form, Mapping):
            if isinstance(form.get("description"), str) and self._endpoint == "responses":
                self.text(form["description"])
            form = form.get("schema", form)
        self.text(rendering.compact(form))
        size = self.tokens - before
        self.tokens -= min(size, 12 if self._endpoint == "chat" and self._family.kind != "gpt-5" else 4)
        self.doubt("output schemas: counted as compact JSON", low=min(self.tokens - before, 24 + size // 4), high=48)

    def _functions(self, functions: Sequence[Mapping[str, Any]], forced: str | None) -> None:
        before = self.tokens
        kind = self._family.kind
        self.text(rendering.namespace(functions))
        self.tokens += rendering.around(functions, kind, self._endpoint, system=self._system)
        if forced is not None and kind != "gpt-5":
            self.text(forced)
            self.tokens += rendering.NAMED
        lines = sum(str(function.get("description")).count("\n") for function in functions)
        self.doubt(
            "function definitions: counted as their recorded rendering",
            low=self.tokens - before,  # one recording was billed without its tools
            high=32 + lines + rendering.hidden(kind, self._endpoint, forced),
        )


def _shown(value: Any) -> str:
    """Name a value of the body in a reason: short, and a text in quotation marks, which no other reason has."""
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"
