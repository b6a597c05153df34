"""GitLab's Code Quality report: what did not pass, on the lines of the gate's file."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256

from ..judge import OVERRIDDEN, PASS, Check, Verdict
from ..rules import FAIL, WARN
from ._text import one_line, shortened, visible

SEVERITIES = {FAIL: "critical", WARN: "minor", OVERRIDDEN: "info"}


def render(verdict: Verdict) -> str:
    """Write an issue for each check that did not pass, in ASCII.

    A fingerprint is of the rule and its group alone, so that an issue stays the same one when its numbers move.
    """
    seen = Counter[tuple[str, str]]()
    issues = []
    for check in verdict.checks:
        if check.status == PASS:
            continue
        key = (check.rule.name, check.subject)
        issues.append(_issue(verdict, check, seen[key]))
        seen[key] += 1
    return json.dumps(issues, indent=2, ensure_ascii=True) + "\n"


def _issue(verdict: Verdict, check: Check, again: int) -> dict[str, object]:
    """One issue; `again` counts rules that say the same of the same, whose fingerprints must differ."""
    identity = json.dumps([check.rule.name, check.subject, *([again] if again else [])])
    told = f"{one_line(check.rule.name)} [{visible(check.subject)}]: {one_line(check.why)}"
    if check.rule.message and check.status in (FAIL, WARN):
        told += f" ({one_line(check.rule.message)})"
    return {
        "check_name": f"ratecard.{check.rule.metric.name}",
        "description": shortened(told, 2_000),
        "fingerprint": sha256(identity.encode()).hexdigest(),
        "severity": SEVERITIES[check.status],
        "location": {
            "path": visible(verdict.config.file).removeprefix("./") or "ratecard.yaml",
            "lines": {"begin": max(check.rule.line, 1)},
        },
    }
