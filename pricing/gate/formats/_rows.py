"""The rows that people read, in a terminal or in a comment: each group before and now, and why it changed."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from ..change import Difference, Effects
from ..judge import OVERRIDDEN, PASS, Verdict
from ..metrics import USD, percent, shown
from ..report import Group
from ..rules import FAIL, WARN
from ._text import moved

MOST_FACTS = 8
STATUSES = (FAIL, WARN, OVERRIDDEN, PASS)
WORDS = {FAIL: "failed", WARN: "passed with warnings", PASS: "passed"}
_NONE = "–"


class Row(NamedTuple):
    """A group.

    mark    "+" new, "-" gone, "~" changed, "=" the same; "" without a baseline
    before  what it cost; "no price" where nothing of it has one
    span    90 % of such runs cost that much
    why     what changed, and what that makes of the cost, in words
    """

    mark: str
    name: str
    before: str
    now: str
    change: str
    span: str
    why: tuple[str, ...]


def rows(verdict: Verdict) -> tuple[list[Row], Row]:
    """The groups, those that matter most first, and the whole."""
    change = verdict.change
    if change is None:
        groups = sorted(verdict.report.groups, key=lambda group: (group.cost is not None, -group.expected, group.name))
        return [_alone(group) for group in groups], _alone(verdict.report.total)
    return [_row(one) for one in change.groups], _row(change.total)


def _alone(group: Group) -> Row:
    return Row("", group.name, "", _cost(group), "", _span(group), tuple(_missing(group)))


def _row(one: Difference) -> Row:
    why: list[str] = []
    if one.mark == "~":
        why = list(one.facts[:MOST_FACTS])
        if len(one.facts) > MOST_FACTS:
            why.append(f"… and {len(one.facts) - MOST_FACTS:,} more changes")
        if any(one.effects) and comparable(one):
            why.append(effects_words(one.effects))
    if one.after is not None:
        why += _missing(one.after)
    return Row(one.mark, one.name, _cost(one.before), _cost(one.after), change_words(one), _span(one.after), tuple(why))


def comparable(one: Difference) -> bool:
    """Whether the change of the cost says anything: not where a group has a price on one side only."""
    return all(group is None or group.cost is not None or not _any(group) for group in (one.before, one.after))


def change_words(one: Difference) -> str:
    """The change of the expected cost: "+$2.21 (+21.7%)"."""
    if not comparable(one):
        return "unknown"
    change, before = one.effects.change, one.before.expected if one.before else 0
    share = percent(change, before) if change else ""
    return moved(change) + (f" ({share})" if share else "")


def effects_words(effects: Effects) -> str:
    """What is due to what: "price +$0.10 · tokens +$0.20 · volume $0.00 · model +$1.92"."""
    return " · ".join(f"{name} {moved(pico)}" for name, pico in effects._asdict().items())


def at_old_prices(verdict: Verdict) -> str:
    """What all of it would cost at the baseline's prices; "" where that is what it costs, or nobody knows."""
    change = verdict.change
    if change is None or not change.new_prices or verdict.report.total.cost is None:
        return ""
    return shown(verdict.report.total.expected - change.total.effects.price, USD)


def counts(verdict: Verdict) -> str:
    """ "1 failed, 1 warning, 3 passed · 0 unpriced" """
    number = Counter(check.status for check in verdict.checks)
    parts = [f"{number[FAIL]:,} failed", f"{number[WARN]:,} {'warning' if number[WARN] == 1 else 'warnings'}"]
    if number[OVERRIDDEN]:
        parts.append(f"{number[OVERRIDDEN]:,} overridden")
    return f"{', '.join(parts)}, {number[PASS]:,} passed · {verdict.report.total.without_price:,} unpriced"


def _any(group: Group) -> bool:
    return bool(group.requests or group.bad)


def _cost(group: Group | None) -> str:
    if group is None:
        return _NONE
    if group.cost is None:
        return "no price" if _any(group) else _NONE
    return shown(group.cost.expected, USD)


def _span(group: Group | None) -> str:
    if group is None or group.cost is None:
        return _NONE
    if group.cost.p5 == group.cost.p95:
        return "exact"
    return f"{shown(group.cost.p5, USD)}–{shown(group.cost.p95, USD)}"


def _missing(group: Group) -> list[str]:
    if not group.without_price:
        return []
    return [f"{group.without_price:,} of {group.requests + group.bad:,} requests have no price and are in no sum"]
