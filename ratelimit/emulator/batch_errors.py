"""Refusals of the Files and Batches endpoints, in the words that people reported or that the API uses elsewhere."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import errors
from .errors import ErrorReply
from .files import MOST_BATCH_BYTES
from .headers import retry_after

MOST_CREATED = 2_000
"""Batches that may be created in an hour."""

ENDPOINTS = (
    "/v1/responses", "/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/moderations",
    "/v1/images/generations", "/v1/images/edits", "/v1/videos",
)  # fmt: skip
SERVED = ENDPOINTS[:3]
"""What the emulator has replies for."""

_LONGEST_KEY, _LONGEST_VALUE, _MOST_PAIRS = 64, 512, 16
_SHORTEST_S, _LONGEST_S = 3_600, 2_592_000


def no_file(key: str) -> ErrorReply:
    """No file has this id, or no more."""
    return errors.error(404, f"No such File object: {key}", param="id", counted_as="unknown_file")


def no_input(key: str) -> ErrorReply:
    """The file that a batch should read is not there."""
    return errors.error(400, f"No such File object: {key}", param="input_file_id", counted_as="unknown_file")


def no_batch(key: str) -> ErrorReply:
    """No batch has this id."""
    return errors.error(404, f"No batch found with id '{key}'.", counted_as="unknown_batch")


def wrong_purpose(purpose: str) -> ErrorReply:
    """The file was not uploaded for a batch."""
    return errors.invalid_value("input_file_id", f"Invalid file purpose: expected 'batch', but got '{purpose}'.")


def not_served(endpoint: str) -> ErrorReply:
    """An endpoint that batches may have, and the emulator does not."""
    return errors.error(
        400,
        f"ratecard emulator: batches of {endpoint} are not emulated; of {', '.join(SERVED)} they are.",
        param="endpoint",
        code="emulator_not_served",
    )


def no_form(why: str) -> ErrorReply:
    """What was uploaded is no multipart form."""
    return errors.error(400, f"Could not parse multipart form: {why}.", counted_as="not_multipart")


def no_uploads() -> ErrorReply:
    """Uploads in parts are not emulated."""
    return errors.error(
        404,
        "ratecard emulator: uploads in parts (/v1/uploads) are not emulated; send the file to POST /v1/files.",
        code="emulator_no_uploads",
    )


def too_large(path: Path | None, most: int) -> ErrorReply:
    """The file is larger than its purpose allows. Reported with 413 in 2026; the model is that of the first line."""
    if most != MOST_BATCH_BYTES:
        return errors.error(
            413, f"File is too large: more than the maximum of {most} bytes.", counted_as="file_too_large"
        )
    model = "given"
    if path is not None:
        with path.open("rb") as file, suppress(ValueError, TypeError, KeyError, RecursionError):
            model = json.loads(file.readline())["body"]["model"]
    return errors.error(
        413,
        f"The batch input file is larger than the {most} maximum for the {model} model.",
        counted_as="file_too_large",
    )


def unsupported(name: str, value: object, known: tuple[str, ...]) -> ErrorReply:
    """A parameter that must be one of a few words."""
    words = [f"'{word}'" for word in known]
    listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])}, and {words[-1]}"
    return errors.invalid_value(name, f"Invalid value: '{value}'. Supported values are: {listed}.")


def too_many_batches(again_us: int) -> ErrorReply:
    """More batches in an hour than may be. That there is such a limit is documented; the words are ours."""
    return errors.error(
        429,
        f"Rate limit reached for batches created per hour: Limit {MOST_CREATED}. Please try again later.",
        kind="requests",
        code="rate_limit_exceeded",
        counted_as="too_many_batches",
        headers=tuple(retry_after(again_us)),
    )


def queue_full(queue: str, limit: int, organization: str) -> str:
    """The message of a batch that found no room among the enqueued tokens, as reported 2024 to 2026."""
    return (
        f"Enqueued token limit reached for {queue} in organization {organization}. Limit: {limit:,} enqueued tokens. "
        "Please try again once some in_progress batches have been completed."
    )


def over_limit(message: str) -> ErrorReply:
    """The same, told at once (some reports have it so)."""
    return errors.error(429, message, kind="tokens", code="token_limit_exceeded")


def ended(status: str) -> ErrorReply:
    """A batch that cannot be cancelled any more: 409, as reported."""
    return errors.error(409, f"Cannot cancel a batch with status '{status}'.", counted_as="not_cancellable")


def page_limit(given: str | None, default: int, most: int) -> int | ErrorReply:
    """Read the `limit` of a list."""
    if given is None:
        return default
    try:
        limit = int(given)
    except ValueError:
        return errors.wrong_type("limit", "an integer", given)
    if not 1 <= limit <= most:
        side, sign, bound = ("below minimum", ">=", 1) if limit < 1 else ("above maximum", "<=", most)
        return errors.invalid_value(
            "limit", f"Invalid 'limit': integer {side} value. Expected a value {sign} {bound}, but got {limit} instead."
        )
    return limit


def wrong_metadata(given: Any) -> ErrorReply | None:
    """Check what somebody wants written on a batch: at most 16 pairs of short texts."""
    if given is None:
        return None
    if not isinstance(given, dict):
        return errors.wrong_type("metadata", "an object", given)
    if len(given) > _MOST_PAIRS:
        return errors.error(
            400,
            f"Invalid 'metadata': too many properties. Expected an object with at most {_MOST_PAIRS} properties, but "
            f"got an object with {len(given)} properties instead.",
            param="metadata",
            code="object_above_max_properties",
        )
    for key, value in given.items():
        name = f"metadata.{key}"
        if not isinstance(value, str):
            return errors.wrong_type(name, "a string", value)
        for text, most in ((key, _LONGEST_KEY), (value, _LONGEST_VALUE)):
            if len(text) > most:
                return errors.error(
                    400,
                    f"Invalid '{name}': string too long. Expected a string with maximum length {most}, but got a "
                    f"string with length {len(text)} instead.",
                    param=name,
                    code="string_above_max_length",
                )
    return None


def expiry(name: str, given: Any) -> int | ErrorReply | None:
    """Read when a file should expire, {"anchor": "created_at", "seconds": 3600}, as seconds."""
    if given is None:
        return None
    if not isinstance(given, dict):
        return errors.wrong_type(name, "an object", given)
    if given.get("anchor") != "created_at":
        return unsupported(f"{name}.anchor", given.get("anchor"), ("created_at",))
    seconds = given.get("seconds")
    if isinstance(seconds, str) and seconds.isdecimal():  # a form has only text
        seconds = int(seconds)
    if type(seconds) is not int:
        return errors.wrong_type(f"{name}.seconds", "an integer", seconds)
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        return errors.invalid_value(
            f"{name}.seconds",
            f"Invalid '{name}.seconds': expected {_SHORTEST_S} to {_LONGEST_S} seconds, but got {seconds} instead.",
        )
    return seconds
