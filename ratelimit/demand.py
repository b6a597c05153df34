"""What the server charges at admission: a request body in, a Demand out.

The formulas are rows of data/tiers.yaml (`admission`), named by policy: `observed` (default) reproduces recorded
headers, `documented` is the sentence of the rate-limit guide, `conservative` adds the whole possible output and is
never below the other two. This module only interprets those rows; it knows no numbers of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import ConfigError

if TYPE_CHECKING:
    from pricing.tokens import Count

    from .tiers import AdmissionRule

_PATHS = (
    "chat/completions", "responses", "embeddings", "completions", "moderations",
    "images/generations", "images/edits", "images/variations",
    "audio/transcriptions", "audio/translations", "audio/speech",
)  # fmt: skip
_MORE_THAN_TEXT = frozenset({"tools", "functions", "response_format"})
_MOST_PER_MESSAGE = 16
"""More tokens than the wrapping of a message takes (3 and its role)."""
_OUTPUT_CAPS = ("max_output_tokens", "max_completion_tokens", "max_tokens")


class Demand(NamedTuple):
    """What one request takes from each kind of limit.

    requests, tokens, images  int   units charged at admission
    concurrent                int   slots taken of what may be in the air at once
    policy                    str   which policy said so
    assumed                   bool  True where no observation backs the numbers for this model or endpoint
    refunds                   bool  True where the policy settles at the usage of the reply
    """

    requests: int
    tokens: int
    images: int = 0
    concurrent: int = 1
    policy: str = "observed"
    assumed: bool = False
    refunds: bool = False


def fixed(requests: int, tokens: int, images: int, policy: str) -> Demand:
    """The demand of a caller who names the numbers himself; Demand(…) takes three times as long to say the same."""
    return tuple.__new__(Demand, (requests, tokens, images, 1, policy, False, False))


class Text(NamedTuple):
    """The measurable parts of a body: what every formula but the exact one works from."""

    chars: int
    utf8_bytes: int
    messages: int
    images: int


def demand(
    body: Mapping[str, Any],
    *,
    endpoint: str,
    policy: str = "observed",
    at: date | None = None,
    count: Count | None = None,
    output: int | None = None,
) -> Demand:
    """Say what the server will charge for this request at admission.

    body      the JSON body as it would be sent; `model` is read from it
    endpoint  "/v1/responses", "/chat/completions", …: any prefix before the endpoint's own path is ignored
    policy    observed | documented | conservative (data/tiers.yaml, `admission`)
    at        day whose formula applies; today (UTC) unless told
    count     an input count made earlier, so that the text is not counted twice
    output    tokens that such replies take, as learned: what `conservative` then reserves, instead of all it may take

    Raises  ConfigError when the body is not a mapping, or the policy or the endpoint is unknown
    Source  recorded x-ratelimit headers 2024-02 … 2026-05; the rate-limit guide of 2026-07-15
    """
    if not isinstance(body, Mapping):
        raise ConfigError(f"a request body is a JSON object, not {type(body).__name__}")
    endpoint = normal_endpoint(endpoint)
    at = at or datetime.now(UTC).date()
    rule = _rule(policy, endpoint, at)
    if rule is None:
        return _unruled(body, endpoint, policy)
    choices = _positive(body.get("n"), 1)
    assumed = False
    images = 0
    if rule.base == "input_tokens":
        if count is None:
            from pricing.tokens import count_input

            count = count_input(body, endpoint)
        tokens = count.tokens
        assumed = not count.exact
        if rule.constants:
            model = body.get("model")
            without_tools, with_tools, guess = _constant(rule, model if isinstance(model, str) else "")
            tokens += with_tools if body.get("tools") else without_tools
            assumed = assumed or guess
        if not count.exact or rule.per_image:
            images = measure(body, endpoint).images
    else:
        text = measure(body, endpoint)
        images = text.images
        if rule.base == "utf8_bytes_div_4_ceil":
            tokens = -(-text.utf8_bytes // 4)
        elif rule.base == "utf8_bytes_div_4_floor":
            tokens = text.utf8_bytes // 4
        else:
            tokens = -(-text.chars // 4)
        tokens += rule.per_message * text.messages
    tokens += rule.per_choice * choices + rule.per_image * images
    if rule.max_tokens != "ignore":
        cap = rule.default_max_tokens
        learned = output is not None and rule.max_tokens == "add"
        if learned and output is not None:
            cap = output
        for key in _OUTPUT_CAPS:
            if body.get(key) is not None:
                most = _positive(body[key], cap)
                cap = min(cap, most) if learned else most
                break
        tokens = tokens + choices * cap if rule.max_tokens == "add" else max(tokens, choices * cap)
    if policy == "conservative":
        # A quarter of the bytes is often more than the true input: the safe side is never below what was observed.
        for other in ("observed", "documented"):
            tokens = max(tokens, demand(body, endpoint=endpoint, policy=other, at=at, count=count).tokens)
    return Demand(1, tokens, images, 1, policy, assumed, rule.refund)


def _unruled(body: Mapping[str, Any], endpoint: str, policy: str) -> Demand:
    """The demand where no row says what is charged: the text at a quarter of its bytes, and the images asked for.

    `conservative` adds what such images take at most, and settles it with the reply.
    """
    from pricing.cards import ENDPOINTS
    from pricing.media import images_of, most_image_tokens

    if endpoint.lstrip("/") not in ENDPOINTS and endpoint.removeprefix("/v1/") not in _PATHS:
        raise ConfigError(f"unknown endpoint {endpoint!r}; known: {', '.join(f'/{known}' for known in ENDPOINTS)}")
    tokens = -(-measure(body, endpoint).utf8_bytes // 4)
    if not endpoint.startswith("/v1/images/"):
        return Demand(1, tokens, policy=policy, assumed=True)
    drawn = most_image_tokens(body, str(body.get("model"))) if policy == "conservative" else None
    return Demand(1, tokens + (drawn or 0), images_of(body), policy=policy, assumed=True, refunds=drawn is not None)


@lru_cache(maxsize=256)
def normal_endpoint(endpoint: str) -> str:
    """Reduce any spelling of an endpoint ("/chat/completions", a full URL) to "/v1/…"."""
    path = endpoint.split("?", 1)[0].rstrip("/")
    for known in _PATHS:
        if path == known or path.endswith("/" + known):
            return "/v1/" + known
    return path if path.startswith("/") else "/v1/" + path


@lru_cache(maxsize=256)
def _rule(policy: str, endpoint: str, at: date) -> AdmissionRule | None:
    from .tiers import POLICIES, load_tiers

    if policy not in POLICIES:
        raise ConfigError(f"unknown admission policy {policy!r}; known: {', '.join(POLICIES)}")
    return load_tiers().rule(policy, endpoint, at)


@lru_cache(maxsize=1024)
def _constant(rule: AdmissionRule, model: str) -> tuple[int, int, bool]:
    """Find the constant of the model's family: (without tools, with tools, assumed). The longest name wins."""
    best, found = -1, (0, 0, True)
    for row in rule.constants:
        families, without_tools, with_tools, assumed = row
        for family in families:
            if (family == "*" or model == family or model.startswith(family + "-")) and len(family) > best:
                best, found = len(family), (without_tools, with_tools, assumed)
    return found


def measure(body: Mapping[str, Any], endpoint: str) -> Text:
    """Measure the text of a body without tokenising it. Malformed parts count as nothing and never raise."""
    seen = _Measure()
    if endpoint == "/v1/chat/completions":
        messages = body.get("messages")
        if isinstance(messages, Sequence) and not isinstance(messages, str):
            seen.messages = len(messages)
            for message in messages:
                if isinstance(message, Mapping):
                    seen.content(message.get("content"))
    elif endpoint == "/v1/responses":
        seen.content(body.get("instructions"))
        items = body.get("input")
        seen.messages = 1
        if isinstance(items, Sequence) and not isinstance(items, str):
            seen.messages = len(items)
            for item in items:
                if isinstance(item, Mapping):
                    seen.content(item.get("content", item.get("output", item.get("arguments"))))
        else:
            seen.content(items)
    else:
        seen.messages = 1
        seen.plain(body.get("input", body.get("prompt")))
    return Text(seen.chars, seen.utf8_bytes, seen.messages, seen.images)


def plainly_short(body: Mapping[str, Any], endpoint: str, tokens: int) -> bool:
    """Whether the bytes of a request alone show that it has no more than so many input tokens: nobody need count.

    Only a chat of plain texts shows that: tools, schemas, images and files have tokens that are not in its text.
    """
    messages = body.get("messages")
    if endpoint != "/v1/chat/completions" or not isinstance(messages, list) or body.keys() & _MORE_THAN_TEXT:
        return False
    if not all(
        isinstance(one, dict) and one.keys() <= {"role", "content"} and isinstance(one.get("content"), str)
        for one in messages
    ):
        return False
    return measure(body, endpoint).utf8_bytes + _MOST_PER_MESSAGE * (len(messages) + 1) <= tokens


class _Measure:
    __slots__ = ("chars", "images", "messages", "utf8_bytes")

    def __init__(self) -> None:
        self.chars = self.utf8_bytes = self.messages = self.images = 0

    def text(self, value: str) -> None:
        self.chars += len(value)
        self.utf8_bytes += len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))

    def content(self, value: Any) -> None:
        """A message's content: a string, or a list of typed parts."""
        if isinstance(value, str):
            self.text(value)
        elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            for part in value:
                if isinstance(part, str):
                    self.text(part)
                elif isinstance(part, Mapping):
                    if isinstance(part.get("text"), str):
                        self.text(part["text"])
                    elif part.get("type") in ("image_url", "input_image"):
                        self.images += 1

    def plain(self, value: Any) -> None:
        """An embeddings input or a legacy prompt: text, texts, or token arrays (a token counts as four bytes)."""
        rest = [value]  # a list, not recursion: bodies may be nested deeper than Python's stack
        while rest:
            value = rest.pop()
            if isinstance(value, str):
                self.text(value)
            elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
                for part in value:
                    if isinstance(part, int):
                        self.chars += 4
                        self.utf8_bytes += 4
                    else:
                        rest.append(part)
            elif isinstance(value, Mapping):
                rest.append(value.get("text"))  # a part of what is to be moderated


def _positive(value: Any, default: int) -> int:
    return value if type(value) is int and value > 0 else default
