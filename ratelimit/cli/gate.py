"""`ratecard gate [FILES…]`"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pricing.gate.judge import judge
from pricing.gate.rules import FAIL, WARN, read_rule

from ._gate import Output, baseline_of, check_outputs, config_of, found, put_out, read_output, source_options
from ._shared import Readable

FAILED = 3


def _fails(text: str) -> Any:
    return read_rule(text, FAIL)


def _warns(text: str) -> Any:
    return read_rule(text, WARN)


@click.command("gate")
@source_options
@click.option("--baseline", type=click.Path(dir_okay=False), help="Compare with this report.")
@click.option("--fail-if", "fail_if", multiple=True, type=Readable("rule", _fails), metavar="RULE",
              help="'cost.p95>20', 'cost.p50:+5%', 'cost[jobs/*]:+0.40', 'duration.p95>2h'.")  # fmt: skip
@click.option("--warn-if", "warn_if", multiple=True, type=Readable("rule", _warns), metavar="RULE",
              help="The same, but only warn.")  # fmt: skip
@click.option("-o", "--output", "outputs", multiple=True, type=Readable("output", read_output), metavar="NAME[=PATH]",
              help="table (default), json, junit, markdown, github …; more than once.")  # fmt: skip
@click.option("--tag", help="Of the markdown comment: which of several on one pull request this is.")
@click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
@click.option("--exit-code-on-fail", type=click.IntRange(0, 125), default=FAILED, show_default=True,
              envvar="RATECARD_EXIT_CODE_ON_FAIL", show_envvar=True, help="When a rule is broken.")  # fmt: skip
@click.option("--exit-zero", is_flag=True, envvar="RATECARD_EXIT_ZERO", help="Report, and never fail.")
def command(
    files: tuple[str, ...], config: str | None, baseline: str | None, fail_if: tuple[Any, ...],
    warn_if: tuple[Any, ...], outputs: tuple[Output, ...], tag: str | None, as_json: bool, exit_code_on_fail: int,
    exit_zero: bool, **options: Any,
) -> None:  # fmt: skip
    """Fail where a change costs too much: offline, without a key, and saying why. Nothing is sent.

    FILES are jobs, prompt suites, traces, ledgers, or one saved report; without any, the config's `sources`.

    Exit codes: 0 passed (there may be warnings), 1 error, 2 wrong usage, 3 a rule is broken.
    """
    gate, root = config_of(config)
    rules = (*gate.rules, *fail_if, *warn_if)
    if not rules:
        raise click.UsageError("there is no rule: give --fail-if 'cost.p95>20', or -c with a gate that has some")
    gate = gate._replace(rules=rules)
    before = baseline_of(baseline, gate, root)
    report = found(gate, root, files, **options)
    base = Path() if files else root
    read = [str(base / group.name) for group in report.groups]
    read += [path for path in (baseline, gate.baseline and str(root / gate.baseline), gate.file) if path]
    check_outputs(outputs, read)
    verdict = judge(report, before, gate, datetime.now(UTC).date())
    put_out(verdict, [*outputs, *([Output("json", None)] if as_json else [])] or [Output("table", None)], tag)
    failed, warned = len(verdict.failed), sum(check.status == WARN for check in verdict.checks)
    if failed or warned:
        click.echo(f"gate: {verdict.status}: {failed} failed, {warned} warned", err=True)
    sys.exit(exit_code_on_fail if verdict.status == FAIL and not exit_zero else 0)
