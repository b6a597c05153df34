"""Markdown: a comment on a pull request that is found again by a hidden marker, or the summary of a step.

Worst first; what is too long loses lines in its middle, never half a row, and every table and fold stays whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..judge import OVERRIDDEN, PASS, Check, Verdict
from ..metrics import USD, shown
from ..report import TOTAL
from ..rules import FAIL, WARN
from ._markdown import code, prose
from ._rows import WORDS, Row, at_old_prices, change_words, counts, rows
from ._text import differing, digest

LIMIT = 65_000
"""Bytes; GitHub takes comments of 65,536 characters."""

LEAST = 8_000
ICONS = {FAIL: "❌", WARN: "⚠️", OVERRIDDEN: "⏭️", PASS: "✅"}


class _Section(NamedTuple):
    """A part of the comment: only lines of its body may be left out; `note` says there how many."""

    opening: tuple[str, ...]
    body: tuple[str, ...]
    closing: tuple[str, ...] = ("",)
    note: str = "- … {:,} more are left out here"


def render(verdict: Verdict, *, tag: str | None = None, limit: int = LIMIT) -> str:
    """Write a verdict as Markdown.

    tag    part of the marker; from the gate's settings, or "default"
    limit  bytes; no less than 8,000
    """
    sections = [
        _Section((marker(tag or verdict.config.settings.get("tag", "")), *_headline(verdict)), ()),
        _groups(verdict),
        *_why(verdict),
        *_checks(verdict),
        *_overrides(verdict),
        _Section(tuple(_footer(verdict)), (), ()),
    ]
    return "\n".join(_fitted(sections, max(limit, LEAST))) + "\n"


def marker(tag: str) -> str:
    """The first line, by which the comment is found again."""
    plain = re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9._/-]+", "-", tag)).strip("-")[:100]
    return f"<!-- ratecard-gate: {plain or 'default'} -->"


def _headline(verdict: Verdict) -> Iterator[str]:
    total = verdict.report.total
    cost = "no price" if total.cost is None else shown(total.cost.expected, USD)
    change = f", {change_words(verdict.change.total)} against the baseline" if verdict.change is not None else ""
    yield f"### {ICONS[verdict.status]} Cost gate {WORDS[verdict.status]}: {cost}{change}"
    yield ""
    yield counts(verdict)
    if price := at_old_prices(verdict):
        yield ""
        yield f"Prices have changed; at the baseline's it would be {price}."


def _groups(verdict: Verdict) -> _Section:
    groups, total = rows(verdict)
    old = verdict.change is not None
    head = ["", "group", *(["baseline", "now", "change"] if old else ["now"]), "p5–p95"]
    aligned = ["---", "---", *["--:"] * (len(head) - 2)]
    blank = _line(["", "… {:,} more are left out here", *[""] * (len(head) - 2)])
    return _Section(
        (_line(head), _line(aligned)),
        tuple(_line(_cells(row, code(row.name), old=old)) for row in groups),
        (_line(_cells(total, f"**{TOTAL}**", old=old)), ""),
        blank,
    )


def _cells(row: Row, name: str, *, old: bool) -> list[str]:
    return [row.mark, name, *([row.before, row.now, row.change] if old else [row.now]), row.span]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _why(verdict: Verdict) -> Iterator[_Section]:
    groups, total = rows(verdict)
    lines = [_reasons(code(row.name), row) for row in groups if row.why]
    if total.why:
        lines.insert(0, _reasons(f"**{TOTAL}**", total))
    if lines:
        yield _Section(("**Why**", ""), tuple(lines))


def _reasons(name: str, row: Row) -> str:
    return f"- {name}: {' · '.join(prose(why, 300) for why in row.why)}"


def _checks(verdict: Verdict) -> Iterator[_Section]:
    blank = _line(["", "… {:,} more are left out here", "", ""])
    head = (_line(["", "rule", "about", "why"]), _line(["---"] * 4))
    told = [check for check in verdict.checks if check.status != PASS]
    passed = [check for check in verdict.checks if check.status == PASS]
    if told:
        yield _Section(("**Rules**", "", *head), tuple(_line(_check(check)) for check in told), note=blank)
    if passed:
        opening = ("<details>", f"<summary>{len(passed):,} passed</summary>", "", *head)
        body = tuple(_line(_check(check)) for check in passed)
        yield _Section(opening, body, ("", "</details>", ""), blank)


def _check(check: Check) -> list[str]:
    message = prose(check.rule.message) if check.status in (FAIL, WARN) else ""
    about = TOTAL if check.subject == TOTAL else code(check.subject)
    why = prose(check.why) + (f" **{message}**" if message else "")
    return [ICONS[check.status], code(check.rule.name), about, why]


def _overrides(verdict: Verdict) -> Iterator[_Section]:
    lines = [
        f"- {code(one.rule)}{' for ' + code(', '.join(one.select)) if one.select else ''}: {state}, "
        f"until {one.until}: {prose(one.reason)}"
        for one, state in verdict.overrides
    ]
    if lines:
        yield _Section(("**Overrides**", ""), tuple(lines))


def _footer(verdict: Verdict) -> Iterator[str]:
    header = verdict.report.header
    parts = [f"costs of {code(header.account)}" if header.account else "costs"]
    parts[0] += f" on {code(header.at)}"
    parts.append(f"prices {code(digest(header.prices))}")
    if verdict.baseline is None:
        parts.append("no baseline")
    else:
        before = verdict.baseline.header
        parts.append(f"baseline of {code(before.at)}")
        parts.append("prices have changed" if before.prices != header.prices else "prices are unchanged")
        if other := differing(before, header):
            parts.append(f"made with other settings: {prose(other)}")
    yield " · ".join([*parts, f"ratecard {code(header.version)}"])


def _fitted(sections: Sequence[_Section], limit: int) -> list[str]:
    """Leave out lines in the middle until the rest fits."""
    bodies = [(place, line) for place, section in enumerate(sections) for line in section.body]
    frame = sum(_size(line) for section in sections for line in (*section.opening, *section.closing))
    notes = sum(_size(section.note) + 20 for section in sections if section.body)
    head = tail = len(bodies)
    if frame + sum(_size(line) for _, line in bodies) > limit:
        room = limit - frame - notes
        head, spent = 0, 0
        while head < tail and spent + _size(bodies[head][1]) <= room // 2:
            spent += _size(bodies[head][1])
            head += 1
        while tail > head and spent + _size(bodies[tail - 1][1]) <= room:
            spent += _size(bodies[tail - 1][1])
            tail -= 1
    lines: list[str] = []
    for place, section in enumerate(sections):
        lines += section.opening
        lines += [line for at, line in bodies[:head] if at == place]
        if left := sum(at == place for at, _ in bodies[head:tail]):
            lines.append(section.note.format(left))
        lines += [line for at, line in bodies[tail:] if at == place]
        lines += section.closing
    return lines


def _size(line: str) -> int:
    return len(line.encode()) + 1
