"""The section of costs at the end of a run, line by line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pricing.gate.change import Change, Difference
from pricing.gate.judge import PASS, Check
from pricing.gate.metrics import USD, percent, shown, shown_change
from pricing.gate.report import Group
from pricing.gate.rules import FAIL

from .gate import Outcome

Line = tuple[str, dict[str, bool]]
"""A line, and how the terminal writes it."""
PLAIN: dict[str, bool] = {}
RED, YELLOW, GREEN = {"red": True}, {"yellow": True}, {"green": True}
MOST_REASONS = 5


def lines_of(outcome: Outcome, top: int, lost: Sequence[str]) -> Iterator[Line]:
    """The lines of the section.

    top   how many tests, and how many changes, are shown; 0 for all
    lost  workers that crashed
    """
    for line, markup in _lines(outcome, top, lost):
        yield "".join(one if one.isprintable() else "?" for one in line), markup


def _lines(outcome: Outcome, top: int, lost: Sequence[str]) -> Iterator[Line]:
    if outcome.booked:
        yield from _spent(outcome, top)
    if lost:
        workers = ", ".join(lost)
        yield f"{workers} crashed: what the test that was running there had spent is in no sum", YELLOW
    if outcome.change is not None and outcome.wanted is not None:
        yield from _changed(outcome.change, outcome.wanted.shown, top)
    for check in outcome.verdict.checks if outcome.verdict is not None else ():
        yield _judged(check)
    for note in outcome.notes:
        yield note, YELLOW
    for error in outcome.errors:
        yield f"FAIL {error}", RED


def _spent(outcome: Outcome, top: int) -> Iterator[Line]:
    total, groups = outcome.report.total, outcome.report.groups
    tests = f"{len(groups):,} test{'s' if len(groups) != 1 else ''}"
    yield f"{_cost(total)} in {tests}: {_calls(total.requests)}, {_tokens(total):,} tokens", PLAIN
    dearest = sorted(groups, key=lambda group: (-group.expected, group.cost is not None, group.name))
    listed = dearest[:top] if top else dearest
    rows = [(_cost(group), _calls(group.requests), f"{_tokens(group):,} tokens", group.name) for group in listed]
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    for row in rows:
        numbers = "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False))
        yield f"  {numbers}  {row[3]}", PLAIN
    if len(listed) < len(groups):
        yield f"  and {len(groups) - len(listed):,} more (--cost-top=0 shows all)", PLAIN
    if total.unpriced:
        worst = sorted(total.unpriced.items(), key=lambda one: (-one[1], one[0]))
        yield f"without a price, and in no sum: {_calls(total.without_price)}", YELLOW
        for reason, count in worst[:MOST_REASONS]:
            yield f"  {count:,} × {reason}", YELLOW
    for state, said in (("pending", "not ended"), ("expired", "of unknown end")):
        parts = [part for cell in total.cells if (part := cell.parts.get(f"{state}_estimate"))]
        if parts:
            calls, pico = (sum(column) for column in zip(*parts, strict=True))
            yield f"of it {shown(pico, USD)} are the estimates of {_calls(calls)} {said}", YELLOW


def _changed(change: Change, path: str, top: int) -> Iterator[Line]:
    before, after, effects = change.total.before, change.total.after, change.total.effects
    assert before is not None
    assert after is not None
    parts = ", ".join(f"{name} {shown_change(pico, USD)}" for name, pico in effects._asdict().items() if pico)
    because = f": {parts}" if parts else ""
    yield f"against {path}: {_moved(before, after)}{because}", PLAIN
    if change.new_prices:
        yield "  the price tables are not those of the baseline", PLAIN
    moved = [one for one in change.groups if one.mark != "="]
    for one in moved[:top] if top else moved:
        yield f"  {_difference(one)}", PLAIN
    if top and len(moved) > top:
        yield f"  and {len(moved) - top:,} more (--cost-top=0 shows all)", PLAIN


def _difference(one: Difference) -> str:
    if one.before is None or one.after is None:
        there = one.after or one.before
        assert there is not None
        return f"{one.mark} {one.name}  {_cost(there)}"
    facts = f"  ({'; '.join(one.facts)})" if one.facts else ""
    return f"{one.mark} {one.name}  {_moved(one.before, one.after)}{facts}"


def _moved(before: Group, after: Group) -> str:
    change = after.expected - before.expected
    share = percent(change, before.expected)
    return f"{_cost(before)} → {_cost(after)}, {shown_change(change, USD)}" + (f" ({share})" if share else "")


def _judged(check: Check) -> Line:
    message = f"{check.subject}: {check.why}"
    if check.status == PASS:
        return f"pass {message}", GREEN
    return f"{check.status.upper()} {message}", RED if check.status == FAIL else YELLOW


def _cost(group: Group) -> str:
    return "no price" if group.cost is None else shown(group.expected, USD)


def _calls(count: int) -> str:
    return f"{count:,} call{'s' if count != 1 else ''}"


def _tokens(group: Group) -> int:
    return group.input + group.output.expected
