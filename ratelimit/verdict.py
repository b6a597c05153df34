"""What a failed attempt means: for its line, which may be tried again, and for the whole job, which may have to stop.

An error is read once, here; the runner only counts, waits and writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from .headers import read_refusal, retry_after_us

RETRYABLE = frozenset({408, 409, 429})

Stopper = Literal["", "quota", "auth"]


class Verdict(NamedTuple):
    """One error, read.

    again     another try may succeed
    after_us  µs the server asked to wait; None where it did not say
    refusal   the kind of a 429 (see `headers.Refusal`); "" for everything else
    stops     "quota" or "auth" when every other request would end the same way
    words     what to tell the person whose job stops, and what to do
    """

    again: bool
    after_us: int | None = None
    refusal: str = ""
    stops: Stopper = ""
    words: str = ""


def judge(error: Exception) -> Verdict:
    """Read the error of an attempt: one of openai's, or of the HTTP library below it."""
    status = getattr(error, "status_code", None)
    if status is None:
        return Verdict(again=_is_connection_error(error))
    if status == 429:
        return _refused(error)
    if status in (401, 403):
        said = _said(error)
        if status == 401:
            words = f"the server does not accept the API key (HTTP 401: {said}): set OPENAI_API_KEY to a valid key"
        else:
            words = f"the server denies this key access (HTTP 403: {said}): get access, or use another key"
        return Verdict(again=False, stops="auth", words=words)
    return Verdict(again=status in RETRYABLE or status >= 500)


def error_body(error: Exception) -> Any:
    """The body of a refused request as the server sent it (openai unwraps `error`; this wraps it again)."""
    body = getattr(error, "body", None)
    return body if isinstance(body, Mapping) and "error" in body else {"error": body}


def _refused(error: Exception) -> Verdict:
    refusal = read_refusal(error_body(error))
    if refusal.kind == "quota":
        words = (
            f"the account's quota is spent ({refusal.code}: {_short(refusal.message)}): add credit or raise the limit"
        )
        return Verdict(again=False, refusal="quota", stops="quota", words=words)
    if refusal.kind == "too_large":
        return Verdict(again=False, refusal="too_large")
    # The middleware has queued it again many times over by now; pauses that the server asks for are kept.
    after_us = refusal.retry_after_us
    if after_us is None:
        headers = getattr(getattr(error, "response", None), "headers", None)
        after_us = retry_after_us(headers) if headers is not None else None
    return Verdict(again=True, after_us=after_us, refusal=refusal.kind)


def _said(error: Exception) -> str:
    """The server's own words, where its body has any; a proxy's page of HTML is none."""
    inner = error_body(error)["error"]
    message = inner.get("message") if isinstance(inner, Mapping) else None
    return _short(message) if isinstance(message, str) and message else "no reason given"


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:299]}…"


def _is_connection_error(error: Exception) -> bool:
    return any(base.__name__ in ("APIConnectionError", "TransportError") for base in type(error).__mro__)
