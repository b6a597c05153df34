"""JUnit XML: one test case per rule and group, for whatever shows test results.

What fails is a failure; a number that nobody knows, or that has no price, is an error; a warning passes, and says why
in its output; what is overridden is skipped, with the reason. Elements, their order and their attributes are those of
the schemas of Jenkins (junit-10.xsd) and of Ant (windyroad's JUnit.xsd); the output of a single test case is Jenkins'
alone.
"""

from __future__ import annotations

from collections import Counter
from datetime import date
from xml.etree import ElementTree

from ..judge import OVERRIDDEN, STALE, UNPRICED, Check, Verdict
from ..report import TOTAL
from ..rules import FAIL, WARN
from ._rows import comparable, counts
from ._text import dollars, one_line, visible

FAILURE, ERROR, SKIPPED = "failure", "error", "skipped"


def render(verdict: Verdict) -> str:
    """Write a verdict as JUnit XML."""
    kinds = [_kind(check) for check in verdict.checks]
    number = Counter(kinds)
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name="ratecard gate",
        package="ratecard",
        id="0",
        timestamp=f"{date.fromisoformat(verdict.report.header.at)}T00:00:00",
        hostname="localhost",
        tests=str(len(kinds)),
        failures=str(number[FAILURE]),
        errors=str(number[ERROR]),
        skipped=str(number[SKIPPED]),
        time="0",
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(verdict).items():
        ElementTree.SubElement(properties, "property", name=name, value=visible(value))
    for check, kind in zip(verdict.checks, kinds, strict=True):
        _case(suite, check, kind)
    ElementTree.SubElement(suite, "system-out").text = counts(verdict)
    ElementTree.SubElement(suite, "system-err")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _kind(check: Check) -> str:
    if check.status == OVERRIDDEN:
        return SKIPPED
    if check.status != FAIL:
        return ""
    unknown = check.rule.name == UNPRICED or (check.value is None and check.rule.name != STALE)
    return ERROR if unknown else FAILURE


def _type(check: Check) -> str:
    return check.rule.name if check.rule.name in (UNPRICED, STALE) else check.rule.metric.name


def _case(suite: ElementTree.Element, check: Check, kind: str) -> None:
    where = check.rule.metric.name if check.subject == TOTAL else check.subject
    name = f"{one_line(check.rule.name)} [{visible(check.subject)}]"
    case = ElementTree.SubElement(suite, "testcase", classname=f"ratecard.{visible(where)}", name=name, time="0")
    why = one_line(check.why)
    if kind:
        type_ = {} if kind == SKIPPED else {"type": _type(check)}
        reason = check.override.reason if check.override is not None else check.rule.message
        told = (one_line(reason), why) if kind == SKIPPED else (why, one_line(reason))
        ElementTree.SubElement(case, kind, {**type_, "message": told[0]}).text = told[1] or None
    elif check.status == WARN:
        message = f"\n{one_line(check.rule.message)}" if check.rule.message else ""
        ElementTree.SubElement(case, "system-out").text = f"warning: {why}{message}"


def _properties(verdict: Verdict) -> dict[str, str]:
    """What the costs are; a cost that is not known is left out."""
    report, baseline, change = verdict.report, verdict.baseline, verdict.change
    found = {"status": verdict.status}
    if report.total.cost is not None:
        found["cost"] = dollars(report.total.cost.expected)
    if baseline is not None and baseline.total.cost is not None:
        found["baseline"] = dollars(baseline.total.cost.expected)
    if change is not None and comparable(change.total):
        found["delta"] = dollars(change.total.effects.change)
        found |= {f"delta.{name}": dollars(pico) for name, pico in change.total.effects._asdict().items()}
    found["unpriced"] = str(report.total.without_price)
    found["digest"] = report.header.prices
    if baseline is not None:
        found["baseline.digest"] = baseline.header.prices
    return found | {"at": report.header.at, "account": report.header.account, "version": report.header.version}
