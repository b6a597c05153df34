"""Plain text for a terminal or a log; whoever prints it may colour it.

No line begins with a word of others: a CI system may take a line that begins with "::" for a command.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..judge import OVERRIDDEN, PASS, Check, Verdict
from ..rules import FAIL, WARN
from ._rows import STATUSES, WORDS, Row, at_old_prices, counts, rows
from ._text import differing, digest, one_line, override_words, shortened, visible

MOST = 30
"""Groups, and checks of a status; a log is no place for more."""

NAME = 60
SIGNS = {FAIL: "✗", WARN: "!", OVERRIDDEN: "~", PASS: "✓"}


def render(verdict: Verdict) -> str:
    """Write a verdict as text: groups, rules, overrides, and what follows."""
    return "\n".join([*_header(verdict), "", *_groups(verdict), "", *_checks(verdict), *_last(verdict)]) + "\n"


def _header(verdict: Verdict) -> Iterator[str]:
    header = verdict.report.header
    account = f" of {one_line(header.account)}" if header.account else ""
    change = "no baseline"
    if verdict.change is not None:
        change = "changed" if verdict.change.new_prices else "unchanged"
    yield f"Costs{account} on {visible(header.at)}, prices {digest(header.prices)} ({change})"
    if verdict.baseline is not None:
        before = verdict.baseline.header
        yield f"baseline of {visible(before.at)}, prices {digest(before.prices)}"
        if other := differing(before, header):
            yield f"made with other settings: {one_line(other)}"


def _groups(verdict: Verdict) -> Iterator[str]:
    groups, total = rows(verdict)
    listed = [*groups[:MOST], total]
    old = verdict.change is not None
    head = Row("", "", "baseline", "now", "change", "p5–p95", ())
    cells = [["", *_cells(head, old=old)[1:]], *(_cells(row, old=old) for row in listed)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(cells[0]))]
    yield _line(cells[0], widths)
    for row, texts in zip(listed, cells[1:], strict=True):
        if row is total and len(groups) > MOST:
            yield f"  … and {len(groups) - MOST:,} more"
        yield _line(texts, widths)
        for why in row.why:
            yield f"    · {one_line(why)}"
    if price := at_old_prices(verdict):
        yield f"  at the baseline's prices it would be {price}"


def _cells(row: Row, *, old: bool) -> list[str]:
    name = f"{row.mark or '•'} {shortened(visible(row.name), NAME) or '(no name)'}"
    return [name, *([row.before, row.now, row.change] if old else [row.now]), row.span]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (f"{cell:<{width}}" if not place else f"{cell:>{width}}" for place, (cell, width) in
                    enumerate(zip(cells, widths, strict=True)))  # fmt: skip
    return "  ".join([first, *rest]).rstrip()


def _checks(verdict: Verdict) -> Iterator[str]:
    for status in STATUSES:
        some = [check for check in verdict.checks if check.status == status]
        for check in some[:MOST]:
            yield from _check(check)
        if len(some) > MOST:
            yield f"{SIGNS[status]} … and {len(some) - MOST:,} more: {status}"


def _check(check: Check) -> Iterator[str]:
    name = shortened(one_line(check.rule.name), 2 * NAME)
    yield f"{SIGNS[check.status]} {name} · {shortened(visible(check.subject), NAME)}: {one_line(check.why)}"
    if check.rule.message and check.status in (FAIL, WARN):
        yield f"  → {one_line(check.rule.message)}"


def _last(verdict: Verdict) -> Iterator[str]:
    for one, state in verdict.overrides:
        yield f"override {one_line(override_words(one))}: {state}, until {one.until}: {one_line(one.reason)}"
    yield f"{WORDS[verdict.status]}: {counts(verdict)}"
