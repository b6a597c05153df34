"""The card's noes, told before a request is spent.

What the model card or the deprecation page rules out would come back as an error that still counts against the
limits, or as a bill for an answer that is cut off. Facts come from data/models.yaml; a fact the table does not state
stops nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from pricing.cards import ModelCard, resolve

from .demand import measure
from .errors import NotOffered, warn

if TYPE_CHECKING:
    from .call import Call

WARN_DAYS = 60
"""How long before a model's shutdown a warning is due: time enough to test a replacement."""

_FEATURE_OF = {
    "tools": ("function_calling", "function calling"),
    "prediction": ("predicted_outputs", "predicted outputs"),
}


def check(call: Call, policy: Literal["raise", "warn", "off"], today: date, warned: set[str]) -> None:
    """Stop (raise) or announce (warn) a request that the card says cannot work.

    today   the day shutdown dates are compared with
    warned  messages already given; a warning is given once

    Raises  NotOffered under policy "raise"
    """
    if policy == "off":
        return
    card = resolve(call.model)
    if card is None:
        return
    for no in findings(card, call, today):
        if policy == "raise":
            raise NotOffered(no)
        warn_once(no, warned)
    near = _shutdown_warning(card, today)
    if near is not None:
        warn_once(near, warned)


def findings(card: ModelCard, call: Call, today: date) -> Iterator[str]:
    """Yield every no the card has for this request, as a sentence that says what to do instead."""
    body = call.body
    fixed = _fixed_no(card, call.endpoint, today)
    if fixed is not None:
        yield fixed
    if body.get("stream") is True and card.features.get("streaming") is False:
        yield f"{card.model} does not support streaming: drop stream=True, or use background mode"
    for key, (feature, words) in _FEATURE_OF.items():
        if body.get(key) and card.features.get(feature) is False:
            yield f"{card.model} does not support {words}: drop {key!r}"
    for key in ("max_output_tokens", "max_completion_tokens", "max_tokens"):
        wanted = body.get(key)
        if type(wanted) is int and card.max_output_tokens is not None and wanted > card.max_output_tokens:
            yield f"{key}={wanted:,} is above the {card.max_output_tokens:,} output tokens {card.model} can produce"
    yield from _reasoning_noes(card, body, call.endpoint)
    most, what = _largest_input(card, call.endpoint)
    if most is not None and _could_exceed(body, call.endpoint, most):
        count = call.count
        if count.low > most:
            yield f"the input has at least {count.low:,} tokens and {what} of {card.model} is {most:,}: shorten it"


def _reasoning_noes(card: ModelCard, body: Mapping[str, Any], endpoint: str) -> Iterator[str]:
    """The noes about reasoning effort, and about function calling on Chat Completions, which hangs on it."""
    if not card.rejected_efforts and card.chat_tools is None:
        return
    reasoning = body.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, Mapping) else body.get("reasoning_effort")
    if isinstance(effort, str) and effort in card.rejected_efforts:
        yield f"{card.model} does not take the reasoning effort {effort!r}: ask for low or more"
    if endpoint == "/v1/chat/completions" and body.get("tools"):
        if card.chat_tools == "never":
            yield f"{card.model} calls no tools on v1/chat/completions: drop 'tools', or use v1/responses"
        elif card.chat_tools == "with_effort_none" and effort != "none":
            yield (
                f"{card.model} calls tools on v1/chat/completions only with reasoning_effort='none': set it, "
                "or use v1/responses"
            )


def _largest_input(card: ModelCard, endpoint: str) -> tuple[int | None, str]:
    """How many input tokens a request may have, and which fact says so."""
    if endpoint == "/v1/embeddings":
        return None, ""  # its bound holds for each of the texts, not for all of them
    if card.max_input_tokens is not None:
        return card.max_input_tokens, "the largest input"
    return card.context_window, "the context window"


@lru_cache(maxsize=1024)
def _fixed_no(card: ModelCard, endpoint: str, today: date) -> str | None:
    """The noes that depend on model, endpoint and day only."""
    if (gone := shut_down(card, today)) is not None:
        return gone
    path = endpoint.lstrip("/")
    if card.endpoints.get(path) is False:
        offered = ", ".join(name for name, offers in card.endpoints.items() if offers)
        return f"{card.model} is not offered on {path}; it is on {offered}"
    return None


def shut_down(card: ModelCard, today: date) -> str | None:
    """Say since when a model is gone; None while it is there."""
    if card.shutdown is None or today < card.shutdown:
        return None
    instead = f"; its replacement is {card.replacement}" if card.replacement else ""
    return f"{card.model} was shut down on {card.shutdown}{instead}"


@lru_cache(maxsize=256)
def _shutdown_warning(card: ModelCard, today: date) -> str | None:
    if card.shutdown is None or not 0 < (card.shutdown - today).days <= WARN_DAYS:
        return None
    days = (card.shutdown - today).days
    instead = f"; its replacement is {card.replacement}" if card.replacement else ""
    return f"{card.model} shuts down on {card.shutdown}, in {days} day{'s' if days != 1 else ''}{instead}"


def _could_exceed(body: Any, endpoint: str, context_window: int) -> bool:
    """Cheap test first: a text has at most as many tokens as bytes, so most requests need no counting."""
    return measure(body, endpoint).utf8_bytes > context_window


def warn_once(message: str, warned: set[str]) -> None:
    """Give a warning that was not given before."""
    if message not in warned:
        warned.add(message)
        warn(message)
