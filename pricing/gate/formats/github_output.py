"""Lines for the file that GITHUB_OUTPUT names, each a name and a value: what later steps decide by.

A number that nobody knows is empty.
"""

from __future__ import annotations

from fractions import Fraction

from ..judge import Verdict
from ..rules import FAIL, WARN
from ._rows import comparable
from ._text import dollars


def render(verdict: Verdict) -> str:
    """Write the outputs: passed, status, cost, baseline, delta, delta_percent, failed, warnings, unpriced."""
    total, change = verdict.report.total, verdict.change
    before = None if verdict.baseline is None else verdict.baseline.total
    known = change is not None and comparable(change.total)
    delta = change.total.effects.change if change is not None and known else 0
    outputs = {
        "passed": "false" if verdict.status == FAIL else "true",
        "status": verdict.status,
        "cost": "" if total.cost is None else dollars(total.cost.expected),
        "baseline": "" if before is None or before.cost is None else dollars(before.cost.expected),
        "delta": dollars(delta) if known else "",
        "delta_percent": _tenths(delta, before.expected) if known and before is not None else "",
        "failed": str(len(verdict.failed)),
        "warnings": str(sum(check.status == WARN for check in verdict.checks)),
        "unpriced": str(total.without_price),
    }
    return "".join(f"{name}={value}\n" for name, value in outputs.items())


def _tenths(change: int, before: int) -> str:
    """A share in per cent with one decimal: "-3.4"; "" where nothing was before."""
    if not before:
        return ""
    whole, tenth = divmod(abs(tenths := round(Fraction(change * 1000, before))), 10)
    return f"{'-' if tenths < 0 else ''}{whole}.{tenth}"
