"""Faults on demand: which requests fail, and how. Rules are plain data; the same seed gives the same faults.

    Emulator(..., faults=[{"kind": "429", "rate": 0.1}, {"kind": "cut_stream", "every": 5, "model": "gpt-4o"}])
    parse_faults("429:rate=0.1; cut_stream:every=5,model=gpt-4o")          # the same, as the command line takes it

A rule counts the requests that match its filters, and fires on some of them: all, a share (`rate`), each n-th
(`every`), or the `first` n; `after` skips that many before, `count` ends the rule after so many faults.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any

from ratelimit.errors import ConfigError

BEFORE = frozenset({"401", "403", "429", "slow_down", "insufficient_quota"})
"""Refusals: nothing is charged to any limit."""

AFTER = frozenset({"500", "503", "drop_connection"})
"""Failures of an admitted request: charged to the limits, not answered, not billed."""

SPOILED = frozenset({"garbage_json", "garbage_sse", "cut_stream", "no_usage", "no_headers"})
"""Replies that were generated and billed, and arrive damaged."""

LATE = frozenset({"drop_request", "late_500", "expire"})
"""Of files and batches only: the connection breaks before anything was done; all was done, and the answer is a 500; the
batch is not done within its window."""

KINDS = tuple(sorted(BEFORE | AFTER | SPOILED | LATE))

_STREAM_ONLY = frozenset({"cut_stream", "garbage_sse"})
_PLAIN_ONLY = frozenset({"garbage_json"})
_POLL_KINDS = frozenset({"429", "500", "503", "drop_connection", "garbage_json", "no_headers"})

_FILE_KINDS = BEFORE | {"500", "503", "drop_connection", "drop_request", "late_500"}
_LINE_KINDS = BEFORE | {"500", "503", "drop_connection"}

LINE = "batches/line"
_MODELS = ("chat/completions", "responses", "embeddings")
_KINDS_OF = {
    **dict.fromkeys(_MODELS, frozenset(KINDS) - LATE),
    "poll": _POLL_KINDS,
    **{f"files{what}": _FILE_KINDS | {"garbage_json"} for what in ("", "/retrieve", "/list", "/delete")},
    "files/content": _FILE_KINDS | {"cut_stream"},
    "batches": _FILE_KINDS | {"garbage_json", "expire"},
    **{f"batches/{what}": _FILE_KINDS | {"garbage_json"} for what in ("retrieve", "list", "cancel")},
    LINE: _LINE_KINDS,
}
"""What can happen where."""

ENDPOINTS = tuple(_KINDS_OF)


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule.

    kind       one of KINDS
    rate       share of the matching requests, 0 … 1; drawn by the emulator's seed
    every      each n-th matching request
    first      only the first n matching requests
    after      matching requests to let pass before the rule begins
    count      faults after which the rule is spent
    endpoint   one of ENDPOINTS ("poll": the GET of a background response; "files", "batches": POST; "batches/line": a
               line of a batch). None is every endpoint that models answer; for kinds of LATE, all they can happen to
    model      the model as the request names it; where it names none (files, batches) such a rule never fires
    custom_id  of the line of a batch

    Raises  ConfigError for an unknown kind or endpoint, or numbers out of range.
    """

    kind: str
    rate: float | None = None
    every: int | None = None
    first: int | None = None
    after: int = 0
    count: int | None = None
    endpoint: str | None = None
    model: str | None = None
    custom_id: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"unknown fault {self.kind!r}; known: {', '.join(KINDS)}")
        if self.rate is not None and not (isinstance(self.rate, int | float) and 0 <= self.rate <= 1):
            raise ConfigError(f"fault {self.kind}: rate is a number from 0 to 1, not {self.rate!r}")
        for name in ("every", "first", "after", "count"):
            value = getattr(self, name)
            lowest = 1 if name == "every" else 0
            if value is not None and (type(value) is not int or value < lowest):
                raise ConfigError(f"fault {self.kind}: {name} is a whole number of at least {lowest}, not {value!r}")
        if self.endpoint is not None and self.endpoint not in ENDPOINTS:
            raise ConfigError(f"fault {self.kind}: unknown endpoint {self.endpoint!r}; known: {', '.join(ENDPOINTS)}")
        if self.endpoint is not None and self.kind not in _KINDS_OF[self.endpoint]:
            what = "a poll" if self.endpoint == "poll" else self.endpoint
            possible = ", ".join(sorted(_KINDS_OF[self.endpoint]))
            raise ConfigError(f"fault {self.kind} cannot happen to {what}; possible: {possible}")
        if self.custom_id is not None and self.endpoint != LINE:
            raise ConfigError(f"fault {self.kind}: custom_id is for the lines of batches: endpoint={LINE}")


Faults = str | Iterable[Fault | Mapping[str, Any]] | None
"""What may be given as faults: a string, or rules as Fault objects or mappings."""

_WORDS = ("endpoint", "model", "custom_id")
_FIELDS = {field.name for field in fields(Fault)}


def parse_faults(given: Faults) -> tuple[Fault, ...]:
    """Read fault rules from a string ("500:every=10; 429:rate=0.1,model=o3-pro"), JSON, mappings or Fault objects.

    Raises  ConfigError naming the rule that cannot be read.
    """
    if given is None:
        return ()
    if isinstance(given, str):
        text = given.strip()
        if text.startswith("["):
            try:
                given = json.loads(text)
            except ValueError:
                raise ConfigError(f"faults are not valid JSON: {text[:80]!r}") from None
        else:
            return tuple(_from_text(part.strip()) for part in text.split(";") if part.strip())
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise ConfigError(f"faults is a list of rules, not {type(given).__name__}")
    return tuple(rule if isinstance(rule, Fault) else _from_mapping(rule) for rule in given)


def _from_mapping(rule: Any) -> Fault:
    if not isinstance(rule, Mapping):
        raise ConfigError(f'a fault is a mapping such as {{"kind": "500", "rate": 0.1}}, not {rule!r}')
    unknown = set(rule) - _FIELDS
    if unknown or "kind" not in rule:
        wrong = f"unknown key {min(map(str, unknown))!r}" if unknown else "no kind"
        raise ConfigError(f"fault {dict(rule)!r}: {wrong}; keys: {', '.join(sorted(_FIELDS))}")
    return Fault(**{**rule, "kind": str(rule["kind"])})


def _from_text(text: str) -> Fault:
    kind, _, options = text.partition(":")
    rule: dict[str, Any] = {"kind": kind.strip()}
    for option in filter(None, (part.strip() for part in options.split(","))):
        name, equals, value = (part.strip() for part in option.partition("="))
        try:
            rule[name] = float(value) if name == "rate" else value if name in _WORDS else int(value)
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(f"fault {text!r}: cannot read {option!r}; write it like 500:every=10,model=o3-pro")
    return _from_mapping(rule)


class FaultPlan:
    """The rules in force, and how far each has come."""

    __slots__ = ("_fired", "_seed", "_seen", "rules")

    def __init__(self, rules: Iterable[Fault] = (), seed: int = 0) -> None:
        self.rules = tuple(rules)
        self._seed = seed
        self._seen = [0] * len(self.rules)
        self._fired = [0] * len(self.rules)

    def pick(self, endpoint: str, model: str, stream: bool = False, custom_id: str | None = None) -> str | None:
        """Say which fault this request meets, or None. The first rule that fires wins."""
        found: str | None = None
        for index, rule in enumerate(self.rules):
            if rule.endpoint is None:
                if not (rule.kind in _KINDS_OF[endpoint] if rule.kind in LATE else endpoint in _MODELS):
                    continue
            elif rule.endpoint != endpoint:
                continue
            if rule.model is not None and rule.model != model:
                continue
            if rule.custom_id is not None and rule.custom_id != custom_id:
                continue
            if rule.kind in (_PLAIN_ONLY if stream else _STREAM_ONLY):
                continue
            nth = self._seen[index] - rule.after
            self._seen[index] += 1
            if found is None and nth >= 0 and self._fires(index, rule, nth):
                self._fired[index] += 1
                found = rule.kind
        return found

    def _fires(self, index: int, rule: Fault, nth: int) -> bool:
        if rule.count is not None and self._fired[index] >= rule.count:
            return False
        if rule.first is not None and nth >= rule.first:
            return False
        if rule.every is not None and (nth + 1) % rule.every:
            return False
        return rule.rate is None or _uniform(self._seed, index, nth) < rule.rate


def _uniform(seed: int, rule: int, nth: int) -> float:
    digest = blake2b(f"fault {seed} {rule} {nth}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
