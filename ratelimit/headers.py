"""What the server says about limits: durations, rate-limit headers, and the kinds of 429.

Input from a server is never trusted to be well formed: whatever cannot be read is None, and nothing here raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|h|m|s|d)")
_UNIT_US = {"us": 1, "µs": 1, "ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_MAX_US = 400 * 86_400_000_000

Kind429 = Literal["rate", "slow_down", "quota", "too_large", "unknown"]

QUOTA_CODES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
    }
)
"""`error.code` (or type) of a spent quota or spend limit: waiting does not help, somebody has to pay or raise it."""

MOST_SAID = 2_000
"""Characters of a message that are read: a longer one is nobody's rate limit, and reading it could take for ever."""

_REACHED = re.compile(
    r"on (?:[\w -]+? per \w+ \((\w+)\)|(\w+)): Limit:? ([\d,]+), Used:? ([\d,]+), Requested:? ([\d,]+)", re.IGNORECASE
)
_LARGE = re.compile(r"\((\w+)\): Limit:? ([\d,]+), Requested:? ([\d,]+)", re.IGNORECASE)
_AGAIN = re.compile(r"try again in ([\d.a-zµ]+?)\.?(?:\s|$)", re.IGNORECASE)


class Refusal(NamedTuple):
    """A 429, read.

    kind            rate: wait · slow_down: ramp down · quota: stop · too_large: never · unknown
    limit_name      "tpm", "rpm", …; "" where the message names none
    limit, used, requested   units; None where not said
    retry_after_us  µs, in the server's time; None where not said
    """

    kind: Kind429
    code: str = ""
    message: str = ""
    limit_name: str = ""
    limit: int | None = None
    used: int | None = None
    requested: int | None = None
    retry_after_us: int | None = None


class Bucket(NamedTuple):
    """One x-ratelimit triple: `limit`, `remaining` in units, `reset_us` until full; None where absent or unreadable."""

    limit: int | None
    remaining: int | None
    reset_us: int | None


def parse_duration_us(text: str | None) -> int | None:
    """Read "120ms", "8.64s", "6m0s", "1m12.5s" as µs; None for anything else.

    Source  2,300 recorded x-ratelimit-reset values
    """
    if not text:
        return None
    text = text.strip().lower()
    total, end = 0, 0
    for part in _PART.finditer(text):
        if part.start() != end or len(part[1]) > 16:
            return None
        whole, _, fraction = part[1].partition(".")
        unit_us = _UNIT_US[part[2]]
        total += int(whole) * unit_us
        if fraction:
            total += int(fraction) * unit_us // 10 ** len(fraction)
        end = part.end()
    if end == 0 or end != len(text) or total > _MAX_US:
        return None
    return total


def parse_count(text: str | None) -> int | None:
    """Read a count as headers and messages spell it ("30000", "30,000"); None for anything else."""
    if not text:
        return None
    digits = text.strip().replace(",", "")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 15 else None


def rate_limits(headers: Mapping[str, str]) -> dict[str, Bucket]:
    """Read every x-ratelimit triple: {"requests": Bucket, "tokens": Bucket, "project-tokens": …}."""
    found: dict[str, dict[str, str]] = {}
    for name, value in headers.items():
        name = name.lower()
        if name.startswith("x-ratelimit-"):
            field, _, what = name[len("x-ratelimit-") :].partition("-")
            if field in ("limit", "remaining", "reset") and what:
                found.setdefault(what, {})[field] = value
    return {
        what: Bucket(
            parse_count(fields.get("limit")),
            parse_count(fields.get("remaining")),
            parse_duration_us(fields.get("reset")),
        )
        for what, fields in found.items()
    }


class Observation(NamedTuple):
    """What a reply says of one limit at the instant of its admission.

    name        "rpm", "rpd", "tpm", "tpd" or "ipm"; "project-tpm" … for a limit of the project
    capacity    units per period, as the server has it
    backlog_us  µs of bucket time that was spent
    """

    name: str
    capacity: int
    backlog_us: int


_SPEAKS_OF = {
    "requests": ("rpm", "rpd"),
    "tokens": ("tpm", "tpd"),
    "input-images": ("ipm", "ipm"),
    "project-requests": ("project-rpm", "project-rpd"),
    "project-tokens": ("project-tpm", "project-tpd"),
}
_MINUTE_US, _DAY_US = _UNIT_US["m"], _UNIT_US["d"]
_CUT_US = 1_000
"""A reset is cut to the millisecond: it may have been so much longer."""
_TELLING_US = 5_000
"""A reset shorter than this is too coarse (it is cut to the millisecond) to tell a minute's bucket from a day's."""


def observations(buckets: Mapping[str, Bucket]) -> list[Observation]:
    """Say what x-ratelimit triples tell of the limits they name. What they leave open is left out.

    `…-requests` may describe the daily bucket: reset × limit / (limit − remaining) is the period, 60 s or 86,400 s. A
    full bucket says nothing, and non-streaming reasoning replies show one that is not: an observation can only tighten.

    Source  974 recorded triples of a minute's bucket, 108 of a day's (2024-02 … 2026-05)
    """
    found = []
    for what, (limit, remaining, reset_us) in buckets.items():
        names = _SPEAKS_OF.get(what)
        if names is None or limit is None or remaining is None or reset_us is None:
            continue
        if remaining >= limit or reset_us < _TELLING_US:
            continue
        spent = limit - remaining
        daily = reset_us * limit // spent > 10 * _MINUTE_US
        period_us = _DAY_US if daily else _MINUTE_US
        # `remaining` is cut to whole units, so a limit of few seems to have up to one more spent; `reset` is cut to the
        # millisecond and tells it better. A server that counts per window frees all at once, within that time.
        backlog_us = min(-(-spent * period_us // limit), reset_us + _CUT_US)
        found.append(Observation(names[daily], limit, backlog_us))
    return found


def edges_us(buckets: Mapping[str, Bucket]) -> dict[tuple[str, int], int]:
    """Say when a server that counts per window lets everything in again: µs from now at most, by name and capacity of
    the limit: `…-requests` may speak of the day's, whose capacity is another one.

    `reset` is the "time until the rate limit resets to its initial state" (the rate-limit guide). Where it is the time
    in which a bucket would be full, it is taken for that of a bucket, and says nothing here.
    """
    found = {}
    for what, (limit, remaining, reset_us) in buckets.items():
        names = _SPEAKS_OF.get(what)
        if names is None or not limit or remaining is None or reset_us is None:
            continue
        full_us = [(limit - remaining) * period_us // limit for period_us in (_MINUTE_US, _DAY_US)]
        if all(abs(reset_us - us) > _TELLING_US for us in full_us):
            found[names[0], limit] = reset_us + _CUT_US
    return found


def retry_after_us(headers: Mapping[str, str]) -> int | None:
    """Read retry-after-ms, else retry-after in seconds (µs, wall time); None when absent, negative or a date."""
    for name, unit_us in (("retry-after-ms", 1000), ("retry-after", 1_000_000)):
        value = headers.get(name)
        if value:
            try:
                us = float(value) * unit_us
            except ValueError:
                continue
            if 0 <= us <= _MAX_US:  # also refuses NaN and infinity
                return int(us)
    return None


def read_refusal(body: bytes | str | Mapping[str, Any] | None) -> Refusal:
    """Tell the kinds of 429 apart: by `error.code` first, then its type, and its prose last.

    Source  rate-limit bodies seen 2023–2026-09; the error-codes guide (Aug–Oct 2026)
    """
    if isinstance(body, bytes | str):
        try:
            body = json.loads(body)
        except ValueError:
            return Refusal("unknown")
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return Refusal("unknown")
    code, kind, message = (_text(error.get(key))[:MOST_SAID] for key in ("code", "type", "message"))
    if code in QUOTA_CODES or kind in QUOTA_CODES:
        return Refusal("quota", code or kind, message)
    if code == "slow_down" or kind == "slow_down":
        return Refusal("slow_down", code or kind, message)
    large = message.startswith("Request too large") and _LARGE.search(message)
    if large:
        return Refusal("too_large", code, message, large[1].lower(), parse_count(large[2]), None, parse_count(large[3]))
    if code == "rate_limit_exceeded" or kind in ("tokens", "requests", "rate_limit_error", "rate_limit_exceeded"):
        reached, again = _REACHED.search(message), _AGAIN.search(message)
        after_us = parse_duration_us(again[1]) if again else None
        if not reached:
            return Refusal("rate", code, message, retry_after_us=after_us)
        name = (reached[1] or reached[2]).lower()
        limit, used, requested = (parse_count(reached[k]) for k in (3, 4, 5))
        return Refusal("rate", code, message, name, limit, used, requested, after_us)
    return Refusal("unknown", code or kind, message)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
