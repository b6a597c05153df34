"""GitHub's workflow commands: annotations on the lines of the gate's file.

GitHub shows ten of a kind and step; where there are more, the tenth stands for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..judge import OVERRIDDEN, Check, Verdict
from ..rules import FAIL, WARN
from ._text import one_line, shortened, visible

MOST = 10
KINDS = {FAIL: "error", WARN: "warning", OVERRIDDEN: "notice"}


def render(verdict: Verdict) -> str:
    """Write a command for each check that did not pass; nothing where all did."""
    lines: list[str] = []
    for status, kind in KINDS.items():
        checks = [check for check in verdict.checks if check.status == status]
        listed = checks if len(checks) <= MOST else checks[: MOST - 1]
        lines += [_command(kind, _place(verdict, check), _title(check), _message(check)) for check in listed]
        if rest := checks[len(listed) :]:
            names = sorted({shortened(one_line(check.rule.name), 80) for check in rest})
            more = f"{len(rest):,} more: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
            lines.append(_command(kind, _place(verdict, None), f"Cost gate: {len(rest):,} more", more))
    return "".join(f"{line}\n" for line in lines)


def _command(kind: str, place: dict[str, str], title: str, message: str) -> str:
    properties = ",".join(f"{name}={_property(value)}" for name, value in {**place, "title": title}.items())
    return f"::{kind} {properties}::{_data(message)}"


def _place(verdict: Verdict, check: Check | None) -> dict[str, str]:
    """The line of the rule, or of what overrides it; a rule given in short stands nowhere."""
    if not verdict.config.file:
        return {}
    line = 0 if check is None else check.override.line if check.override is not None else check.rule.line
    return {"file": visible(verdict.config.file)} | ({"line": str(line)} if line else {})


def _title(check: Check) -> str:
    name = shortened(one_line(check.rule.name), 100)
    return f"Cost gate: {name} [{shortened(visible(check.subject), 60)}]"


def _message(check: Check) -> str:
    return "\n".join(_told(check))


def _told(check: Check) -> Iterator[str]:
    yield shortened(one_line(check.why), 2_000)
    if check.rule.message and check.status in (FAIL, WARN):
        yield shortened(one_line(check.rule.message), 1_000)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
