"""The server of the simulation: it counts what arrives, and refuses in the words of the real one."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from .meters import Fixed, Meter, Refill, Sliding, Slots
from .world import MEANING, Rule, World

WORDS = {
    "rpm": "requests per min (RPM)",
    "rpd": "requests per day (RPD)",
    "tpm": "tokens per min (TPM)",
    "tpd": "tokens per day (TPD)",
    "ipm": "images per min (IPM)",
}


def meter_of(rule: Rule, capacity: int) -> Any:
    """Open the books for one limit."""
    if rule.style == "slots":
        return Slots(capacity)
    if rule.style == "fixed":
        return Fixed(capacity, rule.period_us, rule.span_us, rule.phase_us)
    return (Refill if rule.style == "refill" else Sliding)(capacity, rule.period_us, rule.span_us)


class No(NamedTuple):
    """Why a request was refused: which limit, the units it holds, has spent and was asked for, and how long to wait."""

    rule: Rule
    limit: int
    used: int
    requested: int
    wait_us: int

    @property
    def too_large(self) -> bool:
        """Say whether no waiting would help."""
        return self.requested * self.rule.period_us > self.limit * self.rule.span_us


class Server:
    """The account's books on the other side of the network. What is in the air at once is the client's own business."""

    def __init__(self, world: World) -> None:
        self.rules = {model: [rule for rule in rules if rule.style != "slots"] for model, rules in world.rules.items()}
        self.books: dict[str, Meter] = {}
        self.limits: dict[str, int] = {}
        for rules in self.rules.values():
            for rule in rules:
                if rule.key not in self.books:
                    self.books[rule.key] = meter_of(rule, rule.capacity)
                    self.limits[rule.key] = rule.capacity
        self.rivals = 0
        self.refused = 0

    def arrive(self, model: str, amounts: tuple[int, ...], at_us: int) -> No | None:
        """Let a request in (None) or say why not. A refused one still counts as a request where there is room."""
        rules = self.rules[model]
        for rule in rules:
            book = self.books[rule.key]
            amount = amounts[rule.unit]
            if amount and not book.fits(amount, at_us):
                self.refused += 1
                used, wait_us = book.used(at_us), book.earliest_us(amount, at_us, 0, 0) - at_us
                for other in rules:
                    if other.unit == 0 and self.books[other.key].fits(1, at_us):
                        self.books[other.key].take(1, at_us)
                return No(rule, self.limits[rule.key], used, amount, wait_us)
        for rule in rules:
            if amounts[rule.unit]:
                self.books[rule.key].take(amounts[rule.unit], at_us)
        return None

    def change(self, key: str, share: float, at_us: int) -> None:
        """Lower or raise a limit. Windows stay as they are: no server was seen to change one."""
        book = self.books[key]
        if isinstance(book, Refill):
            self.limits[key] = max(1, int(self.limits[key] * share))
            book.change(self.limits[key], at_us)

    def rival(self, key: str, amount: int, at_us: int) -> None:
        """Somebody else takes of a limit, if there is room."""
        if self.books[key].fits(amount, at_us):
            self.books[key].take(amount, at_us)
            self.rivals += 1

    def headers(self, model: str, at_us: int) -> dict[str, str]:
        """Describe the books as x-ratelimit-* headers: one kind of requests and one of tokens, minutes before days."""
        found: dict[str, str] = {}
        for rule in self.rules[model]:
            book = self.books[rule.key]
            what = ("requests", "tokens", "input-images")[rule.unit]
            whole = not isinstance(book, Refill) or rule.span_us == rule.period_us
            if whole and f"x-ratelimit-limit-{what}" not in found:
                limit = self.limits[rule.key]
                found[f"x-ratelimit-limit-{what}"] = str(limit)
                found[f"x-ratelimit-remaining-{what}"] = str(max(0, limit - book.used(at_us)))
                found[f"x-ratelimit-reset-{what}"] = duration(book.reset_us(at_us))
        return found


def duration(us: int) -> str:
    """Write a duration as the server does: "534ms", "1.2s", "6m0s", "23h59m3.5s"."""
    ms = us // 1000
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + seconds


def error(code: str, kind: str, message: str) -> bytes:
    """Write the body of an error."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


def too_large(model: str, name: str, limit: int, requested: int) -> bytes:
    """Write the body of a 429 that no waiting helps."""
    text = f"Request too large for {model} in organization org on {WORDS[name]}: Limit {limit}, Requested {requested}. "
    kind = ("requests", "tokens", "images")[MEANING[name][0]]
    return error("rate_limit_exceeded", kind, text + "The input or output tokens must be reduced in order to run.")


def refusal(model: str, no: No) -> bytes:
    """Write the body of a 429 about a limit."""
    rule = no.rule
    if no.too_large:
        return too_large(model, rule.name, no.limit, no.requested)
    text = f"Rate limit reached for {model} in organization org on {WORDS[rule.name]}: Limit {no.limit}, "
    text += f"Used {no.used}, Requested {no.requested}. Please try again in {duration(max(no.wait_us, 1000))}. "
    kind = ("requests", "tokens", "images")[rule.unit]
    return error("rate_limit_exceeded", kind, text + "Visit the account page to learn more.")
