"""What came of a line: the answers of a batch's files, and whether another try may mend one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import RatecardError
from .journal import DONE, FAILED, FREE, OPEN, Ended

NO_RESULT, GONE, CANCELLED = "no_result", "results_gone", "batch_cancelled"
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses of a line that another try may mend."""
_AGAIN_CODES = frozenset({"batch_expired", "server_error", NO_RESULT, None})


def answers(file_id: str, lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Read the lines of an output or error file. Raises RatecardError when one is no JSON."""
    for raw in lines:
        if raw.strip():
            try:
                line = json.loads(raw)
            except ValueError as error:
                raise RatecardError(f"file {file_id}: a line of it is no JSON: {error}") from error
            if isinstance(line, dict):
                yield line


def judged(place: int, line: Mapping[str, Any], tried: int, most: int) -> Ended:
    """How a line ended: done, failed, or to be tried again.

    tried  how often it has been tried before; most  how often it may be
    """
    response, error = line.get("response"), line.get("error")
    status = response.get("status_code") if isinstance(response, Mapping) else None
    if type(status) is int and 200 <= status < 300:
        return Ended(place, DONE)
    code = error.get("code") if isinstance(error, Mapping) else None
    if status is None and code == CANCELLED:  # nobody has tried it
        return Ended(place, FREE)
    again = status in _AGAIN if status is not None else code in _AGAIN_CODES
    if again and tried + 1 < most:
        return Ended(place, OPEN)
    return Ended(place, FAILED, json.dumps(line, ensure_ascii=False))


def code_of(answer: Mapping[str, Any]) -> str:
    """The name of a failure: the server's, or its status."""
    error = answer.get("error") or answer
    code = error.get("code") if isinstance(error, Mapping) else None
    response = answer.get("response")
    status = response.get("status_code") if isinstance(response, Mapping) else None
    return str(code or (f"HTTP {status}" if status else "failed"))


_BILLED = ("id", "object", "model", "usage", "created", "created_at", "error", "service_tier")


def slim(line: Mapping[str, Any]) -> dict[str, Any]:
    """What the ledger needs of an answer: not its text."""
    response = line.get("response")
    if isinstance(response, Mapping):
        body = response.get("body")
        kept = {key: body[key] for key in _BILLED if key in body} if isinstance(body, Mapping) else {}
        response = {**response, "body": kept}
    return {"custom_id": line.get("custom_id"), "response": response, "error": line.get("error")}
