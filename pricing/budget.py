"""Budgets: so much money per window, of everything or of a part. The ledger checks them as it writes a pending entry.

A call is admitted only if what is spent, what is held by calls in the air, and its own worst case fit together: that
is why concurrency cannot overshoot a budget. Everything here is pure: which calls a budget counts, where its window
began, what it says to a call, and which of its thresholds are reached.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from .errors import ConfigError, OverBudget
from .money import Usd

US_PER_S = 1_000_000
HOUR_US, DAY_US = 3_600 * US_PER_S, 86_400 * US_PER_S
SLOT_US = 900 * US_PER_S
"""Spending is summed by quarters of an hour: with one the calendar windows of every time zone begin. A rolling window
takes the quarter in which it begins whole, so it counts rather too much than too little."""
LENGTHS_US = {"hour": HOUR_US, "day": DAY_US, "week": 7 * DAY_US, "month": 30 * DAY_US}
"""Calendar windows, and how long a rolling one of that name is."""
WINDOWS = ("total", *LENGTHS_US, "job", "call")
ACTIONS = ("block", "slow", "warn")
UNPRICED = ("refuse", "allow")
THRESHOLDS = (50, 80, 100)
FREE = 2
"""One part in so many of a slow budget may be spent at any time; the rest opens evenly over its window."""

_FORM = re.compile(r"\$?\s*([\d.,_]+)\s*(?:usd|\$|dollars?)?\s*(?:(?:/|per)\s*(\w+))?", re.IGNORECASE)
_PARTS = re.compile(
    r"([^\w\s/.,]*)\s*([\d.,_]*)\s*((?!per\b)[^\W\d_]+|[^\w\s/])?\s*(?:(?:/|per\b)\s*(\w*))?\s*(.*)",
    re.IGNORECASE | re.DOTALL,
)
"""A sign, an amount, a currency, a window and the rest, whatever they are: to say which of them is wrong."""
_WORDS = re.compile(r"\s+(rolling|block|slow|warn|(?:tag|run|zone|unpriced|alert):\S+)(?=\s|$)")
_TAG = re.compile(r"[A-Za-z0-9_.-]+(=.+)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Scope = tuple[str, str]
"""What part of the ledger a budget counts: ("", "") all of it, ("run", its name), ("tag:team", the tag's value)."""

EVERYTHING: Scope = ("", "")


class Alert(NamedTuple):
    """A budget has reached one of its thresholds, or (at 100) has refused a call for the first time in its window.

    percent  the threshold
    part     the tag's value or the run that is counted, where the budget counts each apart; "" elsewhere
    """

    budget: Budget
    percent: int
    spent: Usd
    held: Usd
    part: str


class Budget(NamedTuple):
    """A cap on spending.

    amount        Usd
    window        total | hour | day | week (from Monday) | month, of the calendar; job: each run apart, over all its
                  time; call: each call apart
    run           count only the entries of this run; None counts the whole ledger
    tag           "team=search" counts only the entries with that tag; "team" counts each team apart
    zone          time zone of the calendar windows
    rolling       the window is the hour, the day, the 7 or the 30 days before each call instead
    action        block: a call that could overshoot is not sent; slow: it waits, for half of the amount may be spent
                  at any time and the rest opens evenly over the window; warn: it is sent, and only the thresholds tell
    unpriced      what becomes of a call without a price: refuse, or allow (it counts nothing until it has one)
    thresholds    per cent of the amount at which on_threshold, and the log "pricing.budget", are told, once per window
    on_threshold  called with an Alert

    A call outside of the budget's part of the ledger is neither counted nor refused by it.
    """

    amount: Usd
    window: str = "total"
    run: str | None = None
    tag: str = ""
    zone: str = "UTC"
    rolling: bool = False
    action: str = "block"
    unpriced: str = "refuse"
    thresholds: tuple[int, ...] = THRESHOLDS
    on_threshold: Callable[[Alert], object] | None = None

    @classmethod
    def parse(cls, text: str | int, *, run: str | None = None) -> Budget:
        """Read "25 USD/day", "$5", "100 USD per month slow tag:team=search zone:Europe/Berlin".

        After the amount and the window, in any order: rolling; block, slow or warn; tag:NAME or tag:NAME=VALUE;
        run:NAME; zone:NAME; unpriced:allow; alert:50,90 or alert:none.

        Raises  ConfigError when it is no positive amount, or a word is unknown; TypeError for a float
        """
        if isinstance(text, float):
            raise TypeError(f"money is never a float: write it as text, such as {str(text)!r}")
        plain = str(Usd.parse(text)) if type(text) is int else str(text).strip()
        words = _WORDS.findall(plain)
        match = _FORM.fullmatch(_WORDS.sub("", plain).strip())
        if match is None:
            raise ConfigError(_wrong(str(text), _WORDS.sub("", plain).strip()))
        given: dict[str, Any] = {}
        for word in words:
            name, value = _read(word)
            if name in given:
                raise ConfigError(f"a budget says each thing once; {word!r} is one too many in {text!r}")
            given[name] = value
        amount = Usd.parse(match[1].replace("_", ""))
        return cls(amount, (match[2] or "total").lower(), run)._replace(**given).checked()

    def checked(self) -> Budget:
        """The budget itself, when it is one.

        Raises  ConfigError naming what cannot be meant
        """
        if self.window not in WINDOWS:
            known = ", ".join(WINDOWS[1:])
            raise ConfigError(f"unknown budget window {self.window!r}; known: {known}; without one it is a total")
        if not isinstance(self.amount, Usd) or self.amount <= Usd.ZERO:
            raise ConfigError(f"a budget is more than nothing, not {str(self.amount)!r}")
        if self.action not in ACTIONS or self.unpriced not in UNPRICED:
            raise ConfigError(f"budget {self}: an action is one of {', '.join(ACTIONS)}; unpriced: refuse or allow")
        if self.tag and not _TAG.fullmatch(self.tag):
            raise ConfigError(f'budget {self}: a tag is "team=search", or "team" for each team; not {self.tag!r}')
        if self.tag and (self.run or self.window == "job"):
            raise ConfigError(f"budget {self}: counts a tag or a run, not both; give two budgets")
        if self.window not in LENGTHS_US and (self.rolling or self.action == "slow" or self.zone != "UTC"):
            raise ConfigError(f"budget {self}: rolling, slow and zones are for an hour, a day, a week or a month")
        if self.rolling and self.action == "slow":
            raise ConfigError(f"budget {self}: slow is for calendar windows, which have a beginning to pace from")
        if any(type(percent) is not int or not 0 < percent <= 100 for percent in self.thresholds):
            raise ConfigError(f"budget {self}: thresholds are whole per cents from 1 to 100")
        _zone(self.zone)
        return self

    @property
    def refuses_unpriced(self) -> bool:
        """Whether it stops a call that nobody can price."""
        return self.unpriced == "refuse" and self.action != "warn"

    def scope(self, run: str | None, tags: Mapping[str, str]) -> Scope | None:
        """The part of the ledger that this budget counts for a call; None when the call is none of its business."""
        if self.run:
            return ("run", self.run) if run == self.run else None
        if self.window == "job":
            return ("run", run) if run else None
        if self.tag:
            name, _, wanted = self.tag.partition("=")
            value = tags.get(name)
            return None if value is None or (wanted and value != wanted) else (f"tag:{name}", value)
        return EVERYTHING

    def start_us(self, now_us: int) -> int:
        """The instant (µs since the epoch) at which the window that holds `now_us` began."""
        length_us = LENGTHS_US.get(self.window)
        if length_us is None:
            return 0
        if self.rolling:
            return now_us - length_us
        if self.zone == "UTC" and self.window in ("hour", "day"):
            return now_us - now_us % length_us
        local = (_EPOCH + timedelta(microseconds=now_us)).astimezone(_zone(self.zone))
        if self.window == "hour":  # by what has passed of it, for an hour may come twice
            return now_us - (local.minute * 60 + local.second) * US_PER_S - local.microsecond
        back = {"day": 0, "week": local.weekday(), "month": local.day - 1}[self.window]
        return _midnight_us(local, -back)

    def end_us(self, now_us: int) -> int:
        """The instant at which the calendar window that holds `now_us` ends."""
        start_us = self.start_us(now_us)
        if self.window == "hour":
            return start_us + HOUR_US
        local = (_EPOCH + timedelta(microseconds=start_us)).astimezone(_zone(self.zone))
        if self.window == "month":
            return self.start_us(_midnight_us(local, 31) + DAY_US // 2)
        return _midnight_us(local, 7 if self.window == "week" else 1)

    def check(self, spent: Usd, held: Usd, worst: Usd | None, now_us: int) -> None:
        """Raise OverBudget unless what is spent, what is held and this worst case fit together."""
        if worst is None and self.refuses_unpriced:
            raise OverBudget(
                f"budget {self}: this call has no price, so it could cost anything; add a price row, lift the budget, "
                "or let it pass with unpriced:allow",
                budget=self,
                spent=spent,
                held=held,
            )
        if worst is None or self.action == "warn":
            return
        if self.window == "call":
            spent = held = Usd.ZERO
        needed = spent.pico + held.pico + worst.pico
        if needed <= self._open(now_us):
            return
        retry_after_us = self._wait_us(needed, worst, now_us) if self.action == "slow" else None
        later = "" if retry_after_us is None else f"; it opens that far in {-(-retry_after_us // US_PER_S):,} s"
        raise OverBudget(
            f"budget {self}: {spent.format()} spent, {held.format()} held by calls in the air, and this call may "
            f"cost up to {worst.format()}; a smaller max_output_tokens makes that less{later}",
            budget=self,
            spent=spent,
            held=held,
            estimate=worst,
            retry_after_us=retry_after_us,
        )

    def reached(self, spent: Usd, full: bool = False) -> list[int]:
        """The thresholds that this spending has reached; all of them when a call found no room (`full`)."""
        if self.window == "call":
            return []
        return [p for p in self.thresholds if full or spent.pico * 100 >= self.amount.pico * p]

    def _open(self, now_us: int) -> int:
        """How much may be spent by now (pico-dollars): all of it, unless the budget opens slowly."""
        if self.action != "slow":
            return self.amount.pico
        start_us, end_us = self.start_us(now_us), self.end_us(now_us)
        return max(self.amount.pico // FREE, self.amount.pico * (now_us - start_us) // (end_us - start_us))

    def _wait_us(self, needed: int, worst: Usd, now_us: int) -> int | None:
        """How long until a slow budget has opened so far; None when it never will for such a call."""
        if worst >= self.amount:
            return None
        start_us, end_us = self.start_us(now_us), self.end_us(now_us)
        opens_us = start_us - (-needed * (end_us - start_us) // self.amount.pico)
        return max(1, min(opens_us, end_us) - now_us)

    def __str__(self) -> str:
        words = [f"{self.amount} USD" + ("" if self.window == "total" else f"/{self.window}")]
        if self.rolling:
            words.append("rolling")
        words += [self.action] if self.action != "block" else []
        words += [f"tag:{self.tag}"] if self.tag else []
        words += [f"zone:{self.zone}"] if self.zone != "UTC" else []
        words += ["unpriced:allow"] if self.unpriced == "allow" else []
        if self.thresholds != THRESHOLDS:
            words.append(f"alert:{','.join(map(str, self.thresholds)) or 'none'}")
        return " ".join(words)


def _wrong(text: str, plain: str) -> str:
    """Say which parts of a budget's text cannot be read, and what is allowed in their places.

    plain  the text without the words that can
    """
    match = _PARTS.fullmatch(plain)
    assert match is not None  # every part may be missing, and the rest is anything
    sign, amount, currency, window, rest = match.groups()
    wrong = [] if amount else ["it has no amount"]
    if sign.startswith("-"):
        wrong.append("an amount is more than nothing")
    wrong += [
        f"{one[:40]!r} is no currency that is known here, for amounts are US dollars"
        for one in (sign.lstrip("-"), currency or "")
        if one.lower() not in ("", "usd", "$", "dollar", "dollars")
    ]
    if window is not None and window.lower() not in WINDOWS[1:]:
        wrong.append(f"{window[:40]!r} is no window ({', '.join(WINDOWS[1:])})")
    wrong += [f"{word[:40]!r} is not understood" for word in rest.split()[:3]]
    return (
        f'{text[:100]!r} is no budget: {"; ".join(wrong)}. A budget is written like "25 USD/day" or "5 USD", then '
        "words such as rolling, block, slow, warn, tag:team=search, run:x, zone:Europe/Berlin, unpriced:allow, alert:50"
    )


def _read(word: str) -> tuple[str, Any]:
    """One word of a budget's text, as a field and its value."""
    if word == "rolling":
        return "rolling", True
    name, colon, value = word.partition(":")
    if not colon:
        return "action", word
    if name != "alert":
        return name, value
    parts = () if value == "none" else tuple(value.split(","))
    if any(not part.isascii() or not part.isdigit() or len(part) > 3 for part in parts):
        raise ConfigError(f'alert:50,80,100 names whole per cents, or alert:none; not "alert:{value}"')
    return "thresholds", tuple(int(part) for part in parts)


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ConfigError(
            f"no time zone {name!r} is known here; write it like Europe/Berlin (on a machine without zones: "
            "pip install tzdata)"
        ) from None


def _midnight_us(local: datetime, days: int) -> int:
    """The first instant of the day that is so many days after that of a local time."""
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0) + timedelta(days=days)
    return (day.replace(tzinfo=local.tzinfo) - _EPOCH) // timedelta(microseconds=1)
