"""From a request body to a plan of its reply: checks first, then what it takes from the limits and what comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from ratelimit.demand import Demand, demand
from ratelimit.errors import ConfigError

from . import errors
from .account import Account, Model, Pool
from .errors import ErrorReply
from .latency import Latency, character, draw, filler, reasons

if TYPE_CHECKING:
    from pricing.tokens import Count

CHAT, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/responses", "/v1/embeddings"

_SERVICE_TIERS = {
    None: "default",
    "auto": "default",
    "default": "default",
    "flex": "flex",
    "scale": "scale",
    "priority": "priority",
    "fast": "priority",
    "ultrafast": "ultrafast",
}

_NAMES_SEEN = {CHAT: "messages", RESPONSES: "input", EMBEDDINGS: "input"}


@dataclass(slots=True, eq=False)
class Plan:
    """A request understood, and the reply it will get.

    pool               whose limits it passes
    body               as parsed
    demand             what it takes from the limits
    input_tokens       counted as the usage will say
    visible, reasoning tokens of each choice
    start              where in the filler text the answer begins
    cut                the answer ends at the caller's maximum
    think_us, write_us µs of emulated time before and during the visible answer
    template           the encoded reply with blanks for ids and dates, once it has been needed
    """

    endpoint: str
    model: Model
    pool: Pool
    body: Mapping[str, Any]
    demand: Demand
    input_tokens: int
    visible: int
    reasoning: int
    choices: int
    start: int
    cut: bool
    stream: bool
    background: bool
    include_usage: bool
    service_tier: str
    think_us: int
    write_us: int
    template: bytes = b""

    @property
    def output_tokens(self) -> int:
        """All tokens generated, hidden ones included, over all choices."""
        return (self.visible + self.reasoning) * self.choices

    @property
    def text(self) -> str:
        """The visible answer."""
        return filler(self.start, self.visible)[1:]

    def pieces(self, most: int) -> list[str]:
        """The visible answer in at most `most` pieces of whole tokens."""
        size = -(-self.visible // most)
        if not size:
            return []
        pieces = [filler(self.start + begin, min(size, self.visible - begin)) for begin in range(0, self.visible, size)]
        pieces[0] = pieces[0][1:]
        return pieces

    @property
    def tokens(self) -> tuple[int, int, int]:
        """(input, output, reasoning) as the bill counts them."""
        return self.input_tokens, self.output_tokens, self.reasoning * self.choices


class Planner:
    """Makes plans; the same body gets the same plan, and a body seen lately is not parsed again."""

    __slots__ = ("_account", "_at", "_latency", "_memo", "_output_tokens", "_policy", "_seed")

    def __init__(
        self,
        account: Account,
        *,
        seed: int,
        latency: Latency,
        output_tokens: int | None,
        policy: str,
        at: date,
    ) -> None:
        self._account = account
        self._seed = seed
        self._latency = latency
        self._output_tokens = output_tokens
        self._policy = policy
        self._at = at
        self._memo: dict[tuple[str, bytes], Plan | ErrorReply] = {}

    def clear(self) -> None:
        """Forget the bodies seen."""
        self._memo.clear()

    def plan(self, endpoint: str, raw: bytes) -> Plan | ErrorReply:
        """Understand a request, or say what is wrong with it."""
        key = (endpoint, raw)
        found = self._memo.get(key)
        if found is None:
            found = self._plan(endpoint, raw)
            if len(raw) <= 16_384:
                if len(self._memo) >= 4096:
                    self._memo.clear()
                self._memo[key] = found
        return found

    def _plan(self, endpoint: str, raw: bytes) -> Plan | ErrorReply:
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            return errors.not_json()
        if not isinstance(body, dict):
            return errors.not_json()
        return self.fresh(endpoint, body, raw)

    def fresh(self, endpoint: str, body: dict[str, Any], raw: bytes, count: Count | None = None) -> Plan | ErrorReply:
        """Understand a body that has been parsed, and remember nothing of it. count: its input, where it is known."""
        name = body.get("model")
        if not isinstance(name, str) or not name:
            return errors.missing("model") if name is None else errors.wrong_type("model", "a string", name)
        try:
            model = self._account.find(name)
        except ConfigError as problem:
            return errors.no_limits(str(problem))
        if model is None:
            return errors.unknown_model(name, endpoint)
        wrong = _check(endpoint, model, body)
        if wrong is not None:
            return wrong
        return self._admissible(endpoint, model, body, raw, count or _count(body, endpoint))

    def _admissible(
        self, endpoint: str, model: Model, body: dict[str, Any], raw: bytes, count: Count
    ) -> Plan | ErrorReply:
        if model.context_window is not None and count.tokens > model.context_window:
            return errors.context_exceeded(endpoint, model.context_window, count.tokens)
        choices = body.get("n") or 1
        kind = character(model.name)
        effort = body.get("reasoning_effort")
        if isinstance(body.get("reasoning"), dict):
            effort = body["reasoning"].get("effort")
        luck = draw(self._seed, raw, kind, effort if isinstance(effort, str) else None)
        visible, reasoning = luck.visible, luck.reasoning
        if endpoint == EMBEDDINGS:
            visible = reasoning = 0
        elif self._output_tokens is not None:
            visible, reasoning = self._output_tokens, 0
        most = _most(endpoint, body, model)
        cut = most is not None and visible + reasoning > most
        if cut:
            assert most is not None
            reasoning = min(reasoning, most)
            visible = most - reasoning
        think_us, write_us = self._latency.times_us(kind, reasoning, visible, luck.jitter)
        options = body.get("stream_options")
        service_tier = _SERVICE_TIERS[body.get("service_tier")]
        return Plan(
            endpoint=endpoint,
            model=model,
            pool=model.pool_of(count.tokens, service_tier),
            body=body,
            demand=demand(body, endpoint=endpoint, policy=self._policy, at=self._at, count=count),
            input_tokens=count.tokens,
            visible=visible,
            reasoning=reasoning,
            choices=choices,
            start=luck.start,
            cut=cut,
            stream=bool(body.get("stream")),
            background=endpoint == RESPONSES and bool(body.get("background")),
            include_usage=isinstance(options, dict) and bool(options.get("include_usage")),
            service_tier=service_tier,
            think_us=think_us,
            write_us=write_us,
        )


def _count(body: Mapping[str, Any], endpoint: str) -> Count:
    from pricing.tokens import count_input

    return count_input(body, endpoint)


def _most(endpoint: str, body: Mapping[str, Any], model: Model) -> int | None:
    """The most tokens one choice may have: what the caller allows, and what the model can."""
    if endpoint == RESPONSES:
        asked = body.get("max_output_tokens")
    else:
        asked = body.get("max_completion_tokens")
        if asked is None:
            asked = body.get("max_tokens")
    caps = [cap for cap in (asked, model.max_output) if cap is not None]
    return min(caps, default=None)


def _check(endpoint: str, model: Model, body: Mapping[str, Any]) -> ErrorReply | None:
    """Find the first thing the real server would refuse, as far as it is modelled."""
    if endpoint == CHAT and not model.offers(CHAT):
        return errors.only_in_responses() if model.offers(RESPONSES) else errors.wrong_endpoint(model.name, CHAT)
    if not model.offers(endpoint):
        return errors.wrong_endpoint(model.name, endpoint)
    required = _NAMES_SEEN[endpoint]
    value = body.get(required)
    if value is None:
        return errors.missing(required)
    if endpoint == CHAT and not isinstance(value, list):
        return errors.wrong_type(required, "an array of objects", value)
    if not isinstance(value, str | list):
        return errors.wrong_type(required, "a string or an array", value)
    if not value:
        return errors.invalid_value(required, f"Invalid '{required}': it must not be empty.")
    if endpoint == CHAT:
        for index, message in enumerate(value):
            if not isinstance(message, dict):
                return errors.wrong_type(f"messages[{index}]", "an object", message)
    if body.get("stream"):
        if not isinstance(body["stream"], bool):
            return errors.wrong_type("stream", "a boolean", body["stream"])
        if not model.streams:
            return errors.cannot_stream()
    for name in ("max_output_tokens", "max_completion_tokens", "max_tokens", "n"):
        given = body.get(name)
        if given is not None:
            if type(given) is not int:
                return errors.wrong_type(name, "an integer", given)
            if given < 1:
                return errors.invalid_value(
                    name,
                    f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {given} instead.",
                )
    if (body.get("n") or 1) > 128:
        return errors.invalid_value("n", "Invalid 'n': integer above maximum value. Expected a value <= 128.")
    if endpoint == CHAT and body.get("max_tokens") is not None and reasons(model.name):
        return errors.unsupported_parameter("max_tokens", "max_completion_tokens")
    tier = body.get("service_tier")
    if not (tier is None or isinstance(tier, str)) or tier not in _SERVICE_TIERS:
        return errors.invalid_value("service_tier", "Invalid service_tier argument")
    return None
