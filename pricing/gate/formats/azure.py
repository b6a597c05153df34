"""Azure Pipelines' logging commands: issues on the lines of the gate's file. What is overridden is no issue."""

from __future__ import annotations

from ..judge import Check, Verdict
from ..rules import FAIL, WARN
from ._text import one_line, shortened, visible

KINDS = {FAIL: "error", WARN: "warning"}


def render(verdict: Verdict) -> str:
    """Write a command for each check that fails or warns; nothing where none does."""
    return "".join(f"{_command(verdict, check)}\n" for check in verdict.checks if check.status in KINDS)


def _command(verdict: Verdict, check: Check) -> str:
    properties = {"type": KINDS[check.status]}
    if verdict.config.file:
        properties["sourcepath"] = visible(verdict.config.file)
        if check.rule.line:
            properties["linenumber"] = str(check.rule.line)
    name, subject = shortened(one_line(check.rule.name), 100), shortened(visible(check.subject), 60)
    told = f"{name} [{subject}]: {shortened(one_line(check.why), 2_000)}"
    if check.rule.message:
        told += f" ({shortened(one_line(check.rule.message), 1_000)})"
    written = "".join(f"{key}={_property(value)};" for key, value in properties.items())
    return f"##vso[task.logissue {written}]{_data(told)}"


def _data(text: str) -> str:
    return text.replace("%", "%AZP25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(";", "%3B").replace("]", "%5D")
