"""JSON: the verdict with all that it rests on. Amounts and seconds are decimals as text, counts are numbers.

The schema is data/gate_verdict.schema.json; new keys may come, none changes its meaning within a version.
"""

from __future__ import annotations

import json
from typing import Any

from ..change import Change, Difference
from ..judge import Check, Exemption, Verdict
from ..metrics import USD
from ..report import Group, as_document
from ._rows import STATUSES, comparable
from ._text import exact

SCHEMA_VERSION = 1


def render(verdict: Verdict) -> str:
    """Write a verdict as JSON, in ASCII, with sorted keys."""
    return json.dumps(as_json(verdict), indent=2, ensure_ascii=True, sort_keys=True) + "\n"


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as a document."""
    report = as_document(verdict.report)
    before = None if verdict.baseline is None else as_document(verdict.baseline)
    statuses = [check.status for check in verdict.checks]
    return {
        "schema_version": SCHEMA_VERSION,
        "status": verdict.status,
        "counts": {status: statuses.count(status) for status in STATUSES},
        "checks": [_check(check) for check in verdict.checks],
        "overrides": [_exemption(one) for one in verdict.overrides],
        "change": None if verdict.change is None else _change(verdict.change, verdict.report.total),
        "header": report["header"],
        "baseline_header": None if before is None else before["header"],
        "report": report,
    }


def _check(check: Check) -> dict[str, Any]:
    unit = check.rule.metric.unit
    override = check.override
    return {
        "rule": check.rule.name,
        "metric": check.rule.metric.name,
        "unit": unit,
        "subject": check.subject,
        "level": check.rule.level,
        "status": check.status,
        "value": exact(check.value, unit),
        "before": exact(check.before, unit),
        "change": exact(check.change, unit),
        "why": check.why,
        "message": check.rule.message,
        "line": check.rule.line or None,
        "override": None if override is None else {"reason": override.reason, "until": override.until.isoformat()},
    }


def _exemption(one: Exemption) -> dict[str, Any]:
    override = one.override
    return {
        "rule": override.rule,
        "select": list(override.select),
        "reason": override.reason,
        "until": override.until.isoformat(),
        "state": one.state,
        "line": override.line or None,
    }


def _change(change: Change, total: Group) -> dict[str, Any]:
    known = total.cost is not None
    return {
        "new_prices": change.new_prices,
        "at_old_prices": exact(total.expected - change.total.effects.price, USD) if known else None,
        "total": _difference(change.total),
        "groups": [_difference(one) for one in change.groups],
    }


def _difference(one: Difference) -> dict[str, Any]:
    known = comparable(one)
    return {
        "name": one.name,
        "mark": one.mark,
        "before": _expected(one.before),
        "after": _expected(one.after),
        "change": exact(one.effects.change, USD) if known else None,
        "effects": {name: exact(pico, USD) for name, pico in one.effects._asdict().items()} if known else None,
        "facts": list(one.facts),
    }


def _expected(group: Group | None) -> str | int | None:
    return None if group is None or group.cost is None else exact(group.cost.expected, USD)
