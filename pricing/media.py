"""What a call of the Images and Audio endpoints may cost, before it is sent.

An image has a known largest number of output tokens where its model's card says so, by quality and size. What a piece
of audio has cannot be told from its request: nobody has measured it. What is not known is Unpriced, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .cards import resolve
from .cost import Unpriced

if TYPE_CHECKING:
    from .prices import PriceRow

IMAGES, SPEECH = "/v1/images/generations", "/v1/audio/speech"
PARTIAL_IMAGE_TOKENS = 100
"""Output tokens of each image that is sent while it is still being drawn (image generation guide, 2026-07-15)."""
_CALLS = ("/v1/images/", "/v1/audio/")


def is_media(endpoint: str) -> bool:
    """Say whether an endpoint draws, listens or speaks."""
    return endpoint.startswith(_CALLS)


def draws(model: str) -> bool:
    """Say whether a model's card is of one that makes images of a prompt, and writes nothing."""
    card = resolve(model)
    if card is None or card.endpoints.get("v1/completions"):
        return False
    return bool(card.image_output_tokens) or card.endpoints.get("v1/images/generations") is True


def images_of(body: Mapping[str, Any]) -> int:
    """Count the images that a request asks for."""
    number = body.get("n")
    return number if type(number) is int and number > 0 else 1


def most_image_tokens(body: Mapping[str, Any], model: str) -> int | None:
    """The most output tokens that the images of a request take; None where no card says so of such an image.

    Where quality or size are left to the server ("auto", or not named), they are the dearest there are.
    """
    card = resolve(model)
    qualities = card.image_output_tokens if card is not None else {}
    quality, size = body.get("quality"), body.get("size")
    tables = qualities.values() if quality in (None, "auto") else [qualities.get(str(quality), {})]
    sizes = [table.values() if size in (None, "auto") else [table.get(str(size), 0)] for table in tables]
    most = max((tokens for table in sizes for tokens in table), default=0)
    partial = body.get("partial_images")
    partial = partial if type(partial) is int and partial > 0 else 0
    return images_of(body) * (most + partial * PARTIAL_IMAGE_TOKENS) if most else None


def characters_of(body: Mapping[str, Any], row: PriceRow | Unpriced) -> int | None:
    """Count the characters of a speech, where its price is per character; None where it is not."""
    text = body.get("input")
    if isinstance(row, Unpriced) or "characters" not in row.per_unit or not isinstance(text, str):
        return None
    return len(text)


def why_unknown(endpoint: str, body: Mapping[str, Any], model: str) -> str:
    """Say why nobody can tell beforehand what such a call costs."""
    if endpoint == IMAGES:
        asked = ", ".join(f"{key} {body[key]!r}"[:60] for key in ("quality", "size") if isinstance(body.get(key), str))
        return f"no source says how many tokens an image of {model} takes" + (f" at {asked}" if asked else "")
    if endpoint.startswith("/v1/images/"):
        return "what the images that are sent along count is not known before the reply"
    if endpoint == SPEECH:
        return "how long a speech becomes is not known before it is made, and its reply does not say"
    return "how long the audio is is not known before the reply"
