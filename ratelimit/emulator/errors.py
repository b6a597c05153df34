"""Error bodies of the real server, word for word where one was recorded or reported.

Sources  recorded exchanges 2024-02 … 2026-08 (unknown models, unsupported parameters); error bodies quoted in public
         issue threads (rate limits; o3-pro on Chat: simonw/llm#1169, 2025-06-10; o1 and `stream`: gh-models#31);
         the error-codes guide as of 2026-10 (slow_down, server_is_overloaded)
"""

from __future__ import annotations

import json
from typing import NamedTuple

from .buckets import Refusal
from .headers import Header, duration, retry_after

_LIMITS_PAGE = "Visit https://platform.openai.com/account/rate-limits to learn more."

_PERIOD_WORDS = {60_000_000: "min", 86_400_000_000: "day"}
_NAME_WORDS = {"rpm": "RPM", "tpm": "TPM", "rpd": "RPD", "tpd": "TPD", "ipm": "IPM"}


class ErrorReply(NamedTuple):
    """An error as it is sent.

    status   HTTP status
    code     what the emulator's counters call it
    body     JSON, encoded
    headers  beyond content-type and the request id
    """

    status: int
    code: str
    body: bytes
    headers: tuple[Header, ...] = ()


def error(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    counted_as: str = "",
    headers: tuple[Header, ...] = (),
) -> ErrorReply:
    """Build an error in OpenAI's envelope; `counted_as` names it in the counters (default: code, else type)."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return ErrorReply(status, counted_as or code or kind, json.dumps(body, indent=2).encode(), headers)


def refused(refusal: Refusal, model: str, pool: str, organization: str, speed: float) -> ErrorReply:
    """Tell a request that its limits did not admit it (429).

    Message and "try again in" are in the server's own time; retry-after is wall time, hence divided by `speed`.
    """
    bucket = refusal.bucket
    word = _NAME_WORDS.get(bucket.name, bucket.name.upper())
    per = f"{bucket.unit} per {_PERIOD_WORDS.get(bucket.period_us, 'period')} ({word})"
    about = model if pool == model else f"{model} (for limit {pool})"
    kind = bucket.unit if bucket.unit in ("tokens", "requests") else "rate_limit_error"
    if refusal.kind == "too_large":
        return error(
            429,
            f"Request too large for {about} in organization {organization} on {per}: Limit {bucket.capacity}, "
            f"Requested {refusal.requested}. The input or output tokens must be reduced in order to run "
            f"successfully. {_LIMITS_PAGE}",
            kind=kind,
            code="rate_limit_exceeded",
            counted_as="too_large",
        )
    return error(
        429,
        f"Rate limit reached for {about} in organization {organization} on {per}: Limit {bucket.capacity}, "
        f"Used {refusal.used}, Requested {refusal.requested}. Please try again in {duration(refusal.again_ms)}. "
        f"{_LIMITS_PAGE}",
        kind=kind,
        code="rate_limit_exceeded",
        counted_as=bucket.name,
        headers=tuple(retry_after(round(refusal.wait_us / speed))),
    )


def slow_down() -> ErrorReply:
    """The ramp limit: too fast a rise, even below the limits."""
    return error(
        429,
        "Your request rate has increased too quickly. Please reduce your rate and increase it gradually.",
        kind="rate_limit_error",
        code="slow_down",
    )


def insufficient_quota() -> ErrorReply:
    """The account has nothing left to spend; waiting does not help."""
    return error(
        429,
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
        kind="insufficient_quota",
        code="insufficient_quota",
    )


def bad_key() -> ErrorReply:
    """401: nobody has this key."""
    return error(
        401,
        "Incorrect API key provided: any. You can find your API key at https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    )


def no_access() -> ErrorReply:
    """403: the key is good, and may not do this."""
    return error(
        403,
        "Country, region, or territory not supported",
        kind="request_forbidden",
        code="unsupported_country_region_territory",
    )


def server_error() -> ErrorReply:
    """500: the server failed."""
    return error(
        500,
        "The server had an error while processing your request. Sorry about that!",
        kind="server_error",
    )


def overloaded() -> ErrorReply:
    """503: the engine is overloaded."""
    return error(
        503,
        "The engine is currently overloaded, please try again later.",
        kind="service_unavailable_error",
        code="server_is_overloaded",
    )


def fault(kind: str) -> ErrorReply:
    """The answer to what meets a fault where no limit of a model is spoken of: files, batches, lines of batches."""
    known = {
        "401": bad_key,
        "403": no_access,
        "slow_down": slow_down,
        "insufficient_quota": insufficient_quota,
        "503": overloaded,
    }
    if kind == "429":
        return error(
            429,
            f"Rate limit reached for requests. {_LIMITS_PAGE}",
            kind="requests",
            code="rate_limit_exceeded",
            headers=tuple(retry_after(1_000_000)),
        )
    return known.get(kind, server_error)()


def unknown_model(model: str, endpoint: str) -> ErrorReply:
    """No such model. Recorded: 404 on Chat and Embeddings, 400 on Responses."""
    if endpoint == "/v1/responses":
        return error(400, f"The requested model '{model}' does not exist.", param="model", code="model_not_found")
    return error(404, f"The model `{model}` does not exist or you do not have access to it.", code="model_not_found")


def only_in_responses() -> ErrorReply:
    """o3-pro and its like, asked over Chat Completions."""
    return error(
        404,
        "This model is only supported in v1/responses and not in v1/chat/completions.",
        param="model",
        counted_as="only_in_responses",
    )


def wrong_endpoint(model: str, endpoint: str) -> ErrorReply:
    """A model asked on an endpoint its card rules out."""
    return error(
        404,
        f"The model `{model}` is not supported in the {endpoint.removeprefix('/')} endpoint.",
        param="model",
        counted_as="wrong_endpoint",
    )


def cannot_stream() -> ErrorReply:
    """A model that answers only as a whole."""
    return error(
        400,
        "Unsupported value: 'stream' does not support true with this model. Supported values are: false.",
        param="stream",
        code="unsupported_value",
    )


def unsupported_parameter(name: str, instead: str = "") -> ErrorReply:
    """A parameter this model does not take."""
    hint = f" Use '{instead}' instead." if instead else ""
    return error(
        400,
        f"Unsupported parameter: '{name}' is not supported with this model.{hint}",
        param=name,
        code="unsupported_parameter",
    )


def not_json() -> ErrorReply:
    """The body is not JSON."""
    return error(
        400,
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library "
        "correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON. If you have trouble "
        "figuring out how to fix this, please contact us through our help center at help.openai.com.)",
        counted_as="not_json",
    )


def missing(name: str) -> ErrorReply:
    """A required parameter is absent."""
    return error(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def wrong_type(name: str, expected: str, got: object) -> ErrorReply:
    """A parameter of the wrong JSON type."""
    words = {str: "a string", list: "an array", dict: "an object", bool: "a boolean", int: "an integer"}
    found = words.get(type(got), "null" if got is None else "a number")
    return error(
        400,
        f"Invalid type for '{name}': expected {expected}, but got {found} instead.",
        param=name,
        code="invalid_type",
    )


def invalid_value(name: str, message: str) -> ErrorReply:
    """A parameter whose value is not allowed."""
    return error(400, message, param=name, code="invalid_value")


def context_exceeded(endpoint: str, window: int, tokens: int) -> ErrorReply:
    """The input alone is longer than the model's context window."""
    if endpoint == "/v1/responses":
        message = "Your input exceeds the context window of this model. Please adjust your input and try again."
        return error(400, message, param="input", code="context_length_exceeded")
    return error(
        400,
        f"This model's maximum context length is {window} tokens. However, your messages resulted in {tokens} tokens. "
        "Please reduce the length of the messages.",
        param="messages",
        code="context_length_exceeded",
    )


def unknown_response(response_id: str) -> ErrorReply:
    """No stored response has this id."""
    return error(404, f"Response with id '{response_id}' not found.", counted_as="unknown_response")


def not_cancellable() -> ErrorReply:
    """Only background responses can be cancelled."""
    return error(
        400, "Cannot cancel a synchronous response. Only background responses can be cancelled.", param="response_id"
    )


def unknown_url(method: str, path: str) -> ErrorReply:
    """No such endpoint."""
    return error(404, f"Invalid URL ({method} {path})", counted_as="unknown_url")


def no_limits(reason: str) -> ErrorReply:
    """The emulator itself cannot serve this model: no limits are known for it in the tier it plays."""
    return error(404, f"ratecard emulator: {reason}", code="emulator_no_limits")
