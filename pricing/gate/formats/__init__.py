"""What others read of a verdict: people in a terminal or a pull request, CI systems, scripts.

Every format is a module with one pure function: the same verdict gives the same bytes, in no environment but this one.
Names of files, tags and models come from elsewhere; in no format can they become anything but words.

Laws  no name becomes a link, markup, a mention, a command or a line of its own; every document is of its format
      (tests/gate/test_formats_safe.py, tests/gate/test_formats.py)
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import NamedTuple

from ...errors import ConfigError
from ..judge import Verdict


class Format(NamedTuple):
    """A format.

    module   has `render(verdict)`; loaded when it is needed
    about    what it is for, in a line
    """

    module: str
    about: str


FORMATS = {
    "table": Format("table", "text for people: what it cost, what it costs, why, and which rule says what"),
    "json": Format("document", "everything, with a JSON Schema (data/gate_verdict.schema.json)"),
    "junit": Format("junit", "JUnit XML: one test case per rule and group"),
    "markdown": Format("markdown", "a pull request's comment, or a step summary"),
    "github": Format("github", "GitHub's workflow commands: annotations on the lines of the gate's file"),
    "github-output": Format("github_output", "lines for the file that GITHUB_OUTPUT names"),
    "benchmark": Format("benchmark", "costs as github-action-benchmark's customSmallerIsBetter"),
    "gitlab": Format("gitlab", "GitLab's Code Quality report (artifacts:reports:codequality)"),
    "gitlab-metrics": Format("gitlab_metrics", "OpenMetrics text (artifacts:reports:metrics)"),
    "azure": Format("azure", "Azure Pipelines' logging commands: issues on the lines of the gate's file"),
}
"""Name → what it is."""


def render(name: str, verdict: Verdict, *, tag: str | None = None) -> str:
    """Write a verdict in a format.

    tag  of markdown's hidden marker: which of several comments on one pull request this is

    Raises  ConfigError for an unknown format
    """
    check_format(name)
    module = import_module(f"{__name__}.{FORMATS[name].module}")
    text: str = module.render(verdict, tag=tag) if name == "markdown" else module.render(verdict)
    return text


def check_format(name: str) -> None:
    """Raises ConfigError for an unknown format, with the nearest one."""
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(FORMATS)}"
        raise ConfigError(f"unknown format {name!r}; {hint}")
