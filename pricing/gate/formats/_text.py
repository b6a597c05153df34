"""Words of others, as text that shows them and does nothing else; and numbers as text."""

from __future__ import annotations

import re
import unicodedata

from ...money import Usd
from ..metrics import DURATION, USD, shown_change
from ..report import Header
from ..rules import Override

_COMMAND = re.compile(r"##(?=\[|vso\[)", re.IGNORECASE)
"""GitHub and Azure obey these wherever they stand in a line."""


def visible(text: str) -> str:
    """Spell out what is no visible character, be it a line end or a mark that turns text around; and break commands."""
    text = _COMMAND.sub(r"#\\x23", text)
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() or unicodedata.category(one) == "Zs" else one.encode("unicode_escape").decode()
        for one in text
    )


def one_line(text: str) -> str:
    """What people wrote in several lines, in one."""
    return visible(" ".join(text.split()))


def shortened(text: str, most: int) -> str:
    """Cut a text in its middle: names of files differ in their ends."""
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[head + 1 - most :]}"


def dollars(pico: int) -> str:
    """An exact decimal: "12.5"."""
    return str(Usd(pico))


def seconds(us: int) -> str:
    """An exact decimal with all six places: "-0.500000"."""
    whole, part = divmod(abs(us), 1_000_000)
    return f"{'-' if us < 0 else ''}{whole}.{part:06d}"


def exact(number: int | None, unit: str) -> str | int | None:
    """A number of a metric as JSON has it: money and durations are texts, counts and tokens are numbers."""
    if number is None:
        return None
    return dollars(number) if unit == USD else seconds(number) if unit == DURATION else number


def moved(pico: int) -> str:
    """A change of money for people: "+$2.21", or "$0.00"."""
    return shown_change(pico, USD) if pico else Usd.ZERO.format()


def digest(text: str) -> str:
    """The start of a table's digest; enough to tell two apart."""
    return visible(text.rpartition(":")[2][:12]) or "unknown"


def differing(before: Header, after: Header) -> str:
    """Which settings two reports do not share: "seed 1 → 2"; "" for none."""
    old = {"tier": before.account, **before.settings}
    new = {"tier": after.account, **after.settings}
    pairs = [(name, old.get(name) or "none", new.get(name) or "none") for name in {**old, **new}]
    return ", ".join(
        f"{name} {shortened(was, 40)} → {shortened(now, 40)}" for name, was, now in sorted(pairs) if was != now
    )


def override_words(override: Override) -> str:
    """Which rule is overridden, and for which groups."""
    return override.rule + (f" [{', '.join(override.select)}]" if override.select else "")
