"""What a run is judged by, and the judgement: the rules, the report and the judge are those of every gate."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from pricing.cost import shipped_prices
from pricing.errors import ConfigError
from pricing.gate.booked import together
from pricing.gate.change import Change, change_of
from pricing.gate.judge import Verdict, judge
from pricing.gate.report import Group, Header, Report, dumps, load_report
from pricing.gate.rules import FAIL, Config, Rule, read_rule

_SHORT = {"total": "cost.expected", "test": "cost.expected[*]"}
"""The fields of --cost-compare-fail that are no metrics: the whole, and each test."""


class Wanted(NamedTuple):
    """What the options ask for.

    baseline  where it is, and what it says: None where it is not there
    shown     its path as it was given
    """

    rules: tuple[Rule, ...]
    unpriced: str
    path: Path | None
    shown: str
    baseline: Report | None
    required: bool
    write: bool


class Outcome(NamedTuple):
    """What became of the costs of a run.

    errors   why the run fails, besides the verdict
    notes    what people should know, and fails nothing
    verdict  None where there is no rule
    change   against the baseline; None without one
    """

    report: Report
    errors: tuple[str, ...]
    notes: tuple[str, ...]
    verdict: Verdict | None
    change: Change | None
    wanted: Wanted | None

    @property
    def booked(self) -> bool:
        return self.report.total.requests > 0

    @property
    def failed(self) -> bool:
        return bool(self.errors) or (self.verdict is not None and self.verdict.status == FAIL)


def read_wanted(option: Any, here: Path) -> Wanted:
    """Read the options, and the baseline.

    here  where pytest was called: paths are relative to it

    Raises  ConfigError
    """
    given: str | None = option.cost_baseline
    for name in ("write", "required"):
        if given is None and getattr(option, f"cost_baseline_{name}"):
            raise ConfigError(f"--cost-baseline-{name}: say which, with --cost-baseline PATH")
    if given is None and option.cost_compare_fail:
        raise ConfigError("--cost-compare-fail: say what to compare with, with --cost-baseline PATH")
    rules = [_compared(text) for text in option.cost_compare_fail]
    for text in option.cost_fail_if:
        try:
            rules.append(read_rule(text))
        except ConfigError as error:
            raise ConfigError(f"--cost-fail-if: {error}") from None
    path = None if given is None else here / given
    baseline = load_report(path) if path is not None and path.exists() else None
    return Wanted(
        tuple(rules),
        option.cost_unpriced,
        path,
        given or "",
        baseline,
        option.cost_baseline_required,
        option.cost_baseline_write,
    )


def _compared(text: str) -> Rule:
    """Read "total:5%", "test:0.01" or "tokens:+10%"; without a sign it is a rise."""
    field, colon, limit = text.rpartition(":")
    field, limit = field.strip(), limit.strip()
    if colon and limit:
        sign = "" if limit[0] in "+-" else "+"
        try:
            return read_rule(f"{_SHORT.get(field, field)}:{sign}{limit}")
        except ConfigError as error:
            raise ConfigError(f"--cost-compare-fail {text!r}: {error}") from None
    raise ConfigError(f"--cost-compare-fail {text!r}: expected a field and a change, such as total:5% or test:0.01")


def outcome_of(
    spent: Iterable[tuple[Group, list[str]]], wanted: Wanted | None, *, whole: bool, passed: bool
) -> Outcome:
    """Judge what tests have spent.

    spent   of each test, and by which tables it was priced; a test may be there several times
    whole   the run came to its end
    passed  no test failed
    """
    report = _report(spent)
    if wanted is None:
        return Outcome(report, (), (), None, None, None)
    baseline = wanted.baseline
    change = None if baseline is None else change_of(baseline, report)
    if not whole:
        note = "the run was interrupted: its costs were not judged, and no baseline was written"
        return Outcome(report, (), (note,), None, change, wanted)
    verdict = judge(report, baseline, Config(wanted.rules, unpriced=wanted.unpriced)) if wanted.rules else None
    errors: list[str] = []
    notes: list[str] = []
    if wanted.path is not None and baseline is None and not wanted.write:
        text = f"there is no baseline {wanted.shown}; --cost-baseline-write makes one"
        (errors if wanted.required else notes).append(text)
    if wanted.write:
        if verdict is not None and verdict.status == FAIL:
            notes.append("the baseline was not written, for a rule is broken")
        elif not passed:
            notes.append("the baseline was not written, for not all tests have passed")
        elif not report.total.requests:
            notes.append("the baseline was not written, for nothing was booked")
        else:
            assert wanted.path is not None
            try:
                _write(wanted.path, dumps(report))
                notes.append(f"the baseline is written to {wanted.shown}")
            except OSError as error:
                errors.append(f"the baseline {wanted.shown} cannot be written: {error.strerror or error}")
    return Outcome(report, tuple(errors), tuple(notes), verdict, change, wanted)


def _report(spent: Iterable[tuple[Group, list[str]]]) -> Report:
    by_name: dict[str, list[Group]] = {}
    tables: set[str] = set()
    for group, versions in spent:
        if group.requests:
            by_name.setdefault(group.name, []).append(group)
            tables.update(versions)
    groups = tuple(together(by_name[name], name, "tests") for name in sorted(by_name))
    prices = "+".join(sorted(tables)) or shipped_prices().version
    header = Header(_version(), str(datetime.now(UTC).date()), prices, "", "", {})
    return Report(header, groups, together(groups, kind="tests"))


def _version() -> str:
    try:
        return version("ratecard")
    except PackageNotFoundError:
        return ""


def _write(path: Path, text: str) -> None:
    """Write a file, all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="ascii")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
