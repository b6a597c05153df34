"""OpenMetrics text: numbers of the whole and of each group, which GitLab shows beside those of the target branch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..judge import Verdict
from ..report import Group
from ..rules import FAIL, WARN
from ._text import dollars, seconds, visible

Samples = dict[str, str]
"""What a number is of → the number; the key "" has no label of its own."""


def render(verdict: Verdict) -> str:
    """Write gauges; a number that nobody knows is left out."""
    groups = (verdict.report.total, *verdict.report.groups)
    lines = [line for name, about, of in _FAMILIES for line in _family(name, about, of, groups)]
    lines += ["# TYPE ratecard_gate_checks gauge", "# HELP ratecard_gate_checks Checks by what became of them."]
    for status in (FAIL, WARN):
        number = sum(check.status == status for check in verdict.checks)
        lines.append(f'ratecard_gate_checks{{status="{status}"}} {number}')
    return "\n".join([*lines, "# EOF"]) + "\n"


def _family(name: str, about: str, of: Callable[[Group], Samples], groups: tuple[Group, ...]) -> Iterator[str]:
    yield f"# TYPE {name} gauge"
    yield f"# HELP {name} {about}"
    for group in groups:
        for which, number in of(group).items():
            labels = f'group="{_label(group.name)}"' + (f',at="{which}"' if which else "")
            yield f"{name}{{{labels}}} {number}"


def _cost(group: Group) -> Samples:
    return {} if group.cost is None else {name: dollars(pico) for name, pico in group.cost._asdict().items()}


def _duration(group: Group) -> Samples:
    return {} if group.duration is None else {name: seconds(us) for name, us in group.duration._asdict().items()}


def _output(group: Group) -> Samples:
    return {name: str(tokens) for name, tokens in group.output._asdict().items()}


_FAMILIES: tuple[tuple[str, str, Callable[[Group], Samples]], ...] = (
    ("ratecard_cost_usd", "What requests with a price cost.", _cost),
    ("ratecard_duration_seconds", "How long they take.", _duration),
    ("ratecard_input_tokens", "Tokens of requests.", lambda group: {"": str(group.input)}),
    ("ratecard_output_tokens", "Tokens of replies.", _output),
    ("ratecard_requests", "Requests, with those that have no price.", lambda group: {"": str(group.requests)}),
    ("ratecard_unpriced", "Requests and lines without a price.", lambda group: {"": str(group.without_price)}),
)


def _label(text: str) -> str:
    return visible(text).replace("\\", "\\\\").replace('"', '\\"')
