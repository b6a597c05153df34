"""What a gate allows: rules, what becomes of unknown numbers, and overrides; from YAML, or in short.

gate:
  baseline: .costs/baseline.json
  sources: [jobs/*.jsonl]
  rules:
    - {metric: cost.p95, max: 20 USD}
    - {metric: cost.expected, select: "jobs/*", max_increase: 5%, min_change: "0.01", level: warn}
  overrides:
    - {rule: cost.p95, reason: "new judge, agreed with finance", until: 2026-12-31}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from fnmatch import fnmatchcase
from fractions import Fraction
from os import PathLike
from typing import NamedTuple, TypeVar

from .._yaml import Node, read_table
from ..errors import ConfigError, TableError
from .metrics import ALIASES, METRICS, Metric, metric_of, read_amount, read_change, shown

T = TypeVar("T")

OFF, WARN, FAIL, IGNORE = "off", "warn", "fail", "ignore"
_SHORT = re.compile(r"\s*([A-Za-z0-9_.]+)\s*(?:\[([^\]]+)\])?\s*(>|:)\s*(\S.*?)\s*")


class Rule(NamedTuple):
    """What a number may be.

    name            what it is called in reports and overrides
    largest         the most it may be, in the metric's unit; None: anything
    increase        the most it may rise above the baseline's: a Fraction of that, or an amount; None: anything
    decrease        the same, for falling
    least           changes below this amount are noise
    select, ignore  globs of group names: the rule is about each group that matches; without any, about the whole
    level           warn or fail
    message         what people should do
    line            where it stands in its file; 0 for one given in short
    """

    name: str
    metric: Metric
    largest: int | None = None
    increase: Fraction | int | None = None
    decrease: Fraction | int | None = None
    least: int = 0
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    level: str = FAIL
    message: str = ""
    line: int = 0

    @property
    def is_for_groups(self) -> bool:
        return bool(self.select or self.ignore)

    def is_for(self, name: str) -> bool:
        """Whether a group of this name is meant."""
        return (not self.select or matches(name, self.select)) and not matches(name, self.ignore)

    def words(self) -> str:
        """What it demands: "cost.p95 ≤ $20.00, +5% at most"."""
        parts = []
        if self.largest is not None:
            parts.append(f"≤ {shown(self.largest, self.metric.unit)}")
        for sign, change in (("+", self.increase), ("-", self.decrease)):
            if change is not None:
                parts.append(f"{sign}{_change(change, self.metric.unit)} at most")
        return f"{self.metric.name} {', '.join(parts)}"


class Override(NamedTuple):
    """A rule that may be broken for a while.

    rule    the name of a rule, or a metric
    select  globs of group names; empty: all, and the whole
    until   the last day
    """

    rule: str
    reason: str
    until: date
    select: tuple[str, ...] = ()
    line: int = 0


class Source(NamedTuple):
    """What a gate looks at.

    path   a file, or a glob
    model  of a trace that names none
    by     what a ledger is split into
    """

    path: str
    model: str | None = None
    by: str | None = None
    line: int = 0


class Config(NamedTuple):
    """A gate.

    baseline             path of a report; None: there is none
    unpriced             what becomes of requests without a price: fail, warn or ignore
    missing              what becomes of rules on a change where the baseline knows nothing: fail, warn or ignore
    stale_days, stale    prices read longer ago than so many days: warn, fail or ignore
    settings             tier, at, region, policy, ledger, seed, concurrency … as texts, for whoever makes the report
    file                 where it stands; "" for none
    """

    rules: tuple[Rule, ...] = ()
    sources: tuple[Source, ...] = ()
    baseline: str | None = None
    overrides: tuple[Override, ...] = ()
    unpriced: str = FAIL
    missing: str = WARN
    stale_days: int = 180
    stale: str = WARN
    settings: Mapping[str, str] = {}
    prices: tuple[str, ...] = ()
    file: str = ""


SETTINGS = ("tier", "at", "region", "policy", "ledger", "seed", "concurrency", "mode")
_RULE = (
    "name", "max", "max_increase", "max_decrease", "min_change", "select", "ignore", "level", "message"
)  # fmt: skip
_GATE = (
    "baseline", "sources", "rules", "overrides", "on_unpriced", "on_missing_baseline", "on_stale_prices", "prices",
    *SETTINGS,
)  # fmt: skip


def load_gate(path: str | PathLike[str]) -> Config:
    """Read a gate from its file.

    Raises  TableError with file, line and key
    """
    gate = read_table(path).mapping(required=("gate",))["gate"].mapping(optional=_GATE)
    levels = (FAIL, WARN, IGNORE)
    stale = gate["on_stale_prices"].mapping(optional=("older_than", "level")) if "on_stale_prices" in gate else {}
    config = Config(
        rules=tuple(rule for node in _items(gate, "rules") if (rule := _rule(node)) is not None),
        sources=tuple(_source(node) for node in _items(gate, "sources")),
        baseline=gate["baseline"].text() if "baseline" in gate else None,
        overrides=tuple(_override(node) for node in _items(gate, "overrides")),
        settings={name: gate[name].text() for name in SETTINGS if name in gate},
        prices=gate["prices"].texts() if "prices" in gate else (),
        unpriced=gate["on_unpriced"].text(levels) if "on_unpriced" in gate else FAIL,
        missing=gate["on_missing_baseline"].text(levels) if "on_missing_baseline" in gate else WARN,
        file=str(path),
    )
    if "older_than" in stale:
        config = config._replace(stale_days=_days(stale["older_than"]))
    if "level" in stale:
        config = config._replace(stale=stale["level"].text(levels))
    return _checked(config, gate)


def _items(gate: Mapping[str, Node], key: str) -> list[Node]:
    if key not in gate:
        return []
    return [gate[key]] if key == "sources" and gate[key].is_scalar else gate[key].items()


def _checked(config: Config, gate: Mapping[str, Node]) -> Config:
    """Overrides are of rules that are there; names are there once."""
    seen: dict[str, int] = {}
    for rule, node in zip(config.rules, (one for one in _items(gate, "rules") if not _is_off(one)), strict=True):
        if (first := seen.setdefault(rule.name, rule.line)) != rule.line:
            node.fail(f"the rule of line {first} has the same name, {rule.name!r}: give one of them another `name`")
    names = {*seen, *METRICS, *ALIASES, "unpriced", "prices", "baseline"}
    for override, node in zip(config.overrides, _items(gate, "overrides"), strict=True):
        if override.rule not in names:
            node.mapping(("rule",), ("select", "reason", "until"))["rule"].fail(
                f"no rule is named {override.rule!r}, and no metric; there are {', '.join(sorted(seen)) or 'none'}"
            )
    return config


def _is_off(node: Node) -> bool:
    facts = node.mapping(required=("metric",), optional=_RULE)
    return "level" in facts and facts["level"].text() == OFF


def _rule(node: Node) -> Rule | None:
    facts = node.mapping(required=("metric",), optional=_RULE)
    level = facts["level"].text((OFF, WARN, FAIL)) if "level" in facts else FAIL
    metric = _read(facts["metric"], metric_of)
    unit = metric.unit
    rule = Rule(
        "",
        metric,
        _read(facts["max"], lambda text: read_amount(text, unit)) if "max" in facts else None,
        _read(facts["max_increase"], lambda text: read_change(text, unit)) if "max_increase" in facts else None,
        _read(facts["max_decrease"], lambda text: read_change(text, unit)) if "max_decrease" in facts else None,
        _read(facts["min_change"], lambda text: read_amount(text, unit)) if "min_change" in facts else 0,
        _globs(facts, "select"),
        _globs(facts, "ignore"),
        level,
        facts["message"].text() if "message" in facts else "",
        node.line,
    )
    if rule.largest is None and rule.increase is None and rule.decrease is None:
        node.fail("a rule says what is allowed: max, max_increase or max_decrease")
    if rule.least and rule.increase is None and rule.decrease is None:
        facts["min_change"].fail("is about changes: it needs max_increase or max_decrease")
    name = facts["name"].text() if "name" in facts else _named(rule)
    return None if level == OFF else rule._replace(name=name)


def _named(rule: Rule) -> str:
    """What a rule is called that was given no name."""
    globs = [*rule.select, *(f"!{glob}" for glob in rule.ignore)]
    return rule.words() + (f" [{', '.join(globs)}]" if globs else "")


def _read(node: Node, read: Callable[[str], T]) -> T:
    """Read a text by a function of ours: what that refuses is wrong at this place."""
    try:
        return read(node.text())
    except TableError:
        raise
    except ConfigError as error:
        node.fail(str(error))


def _globs(facts: Mapping[str, Node], key: str) -> tuple[str, ...]:
    if key not in facts:
        return ()
    node = facts[key]
    return (node.text(),) if node.is_scalar else node.texts()


def _source(node: Node) -> Source:
    if node.is_scalar:
        return Source(node.text(), line=node.line)
    facts = node.mapping(required=("path",), optional=("model", "by"))
    model, by = (facts[key].text() if key in facts else None for key in ("model", "by"))
    return Source(facts["path"].text(), model, by, node.line)


def _override(node: Node) -> Override:
    facts = node.mapping(required=("rule", "reason", "until"), optional=("select",))
    return Override(
        facts["rule"].text(), facts["reason"].text(), facts["until"].date(), _globs(facts, "select"), node.line
    )


def _days(node: Node) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,4})\s*d(ays)?", node.text())
    if match is None:
        node.fail("expected a number of days such as 45d")
    return int(match[1])


def read_rule(text: str, level: str = FAIL) -> Rule:
    """Read a rule given in short: "cost.p95>20", "cost.p50:+5%", "requests:-10%", "cost[jobs/*]:+0.40".

    Raises  ConfigError when it is none
    """
    match = _SHORT.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is no rule such as 'cost.p95>20', 'cost.p50:+5%' or 'cost[jobs/*]:+10%'")
    metric = metric_of(match[1])
    select = tuple(glob.strip() for glob in match[2].split(",")) if match[2] else ()
    rule = Rule("", metric, select=select, level=level)
    limit = match[4]
    if match[3] == ">":
        rule = rule._replace(largest=read_amount(limit, metric.unit))
    elif limit.startswith("+"):
        rule = rule._replace(increase=read_change(limit, metric.unit))
    elif limit.startswith("-"):
        rule = rule._replace(decrease=read_change(limit[1:], metric.unit))
    else:
        raise ConfigError(f"{text!r}: after the colon comes a change with its sign, such as +5% or -10%")
    return rule._replace(name=_named(rule))


def matches(name: str, globs: tuple[str, ...]) -> bool:
    """Whether a name matches one of the globs; `*` stands for anything, "/" too."""
    return any(fnmatchcase(name, glob) for glob in globs)


def _change(change: Fraction | int, unit: str) -> str:
    if isinstance(change, int):
        return shown(change, unit)
    per_cent = float(change * 100)
    return f"{per_cent:g}%"
