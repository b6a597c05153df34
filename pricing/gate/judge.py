"""The verdict: which rules two reports break. Pure; the only judge, whoever asks.

Laws  what has no price passes no rule on cost, unless the gate says so (`on_unpriced`)
      an unknown number passes no rule
      (tests/gate/test_judge.py)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from fractions import Fraction
from typing import NamedTuple

from .change import Change, change_of
from .metrics import ALIASES, METRICS, Metric, percent, shown, shown_change
from .report import TOTAL, Group, Header, Report
from .rules import FAIL, IGNORE, WARN, Config, Override, Rule, matches

PASS, OVERRIDDEN = "pass", "overridden"
UNPRICED, STALE, SETTINGS = "unpriced", "prices", "baseline"
"""Names of what is checked unasked: requests without a price, the age of prices, and what is compared."""
_NO_METRIC = Metric("none", "count", lambda _: None)


class Check(NamedTuple):
    """A rule, and a group (or the whole) that it is about.

    subject        the group's name, or "total"
    value, before  in the metric's unit; None where it is not known
    status         pass, warn, fail, or overridden (it would have failed or warned)
    why            one sentence with the numbers; also where it passes
    override       what lets it pass
    """

    rule: Rule
    subject: str
    value: int | None
    before: int | None
    status: str
    why: str
    override: Override | None = None

    @property
    def change(self) -> int | None:
        return None if self.value is None or self.before is None else self.value - self.before


class Exemption(NamedTuple):
    """An override of the gate: in force, used, or over.

    state  "in force" (it lets a check pass), "unused", or "expired"
    """

    override: Override
    state: str


class Verdict(NamedTuple):
    """What becomes of a report.

    status      pass, warn or fail: the worst of the checks
    checks      worst first
    overrides   all of the gate, with their states
    change      against the baseline; None without one
    """

    status: str
    checks: tuple[Check, ...]
    overrides: tuple[Exemption, ...]
    report: Report
    baseline: Report | None
    change: Change | None
    config: Config

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.status == FAIL)


_ORDER = {FAIL: 0, WARN: 1, OVERRIDDEN: 2, PASS: 3}


def judge(report: Report, baseline: Report | None, config: Config, today: date | None = None) -> Verdict:
    """Judge a report.

    today  by which overrides end and prices age; the day of the report unless told
    """
    day = today or date.fromisoformat(report.header.at)
    checks = [*_unasked(report, baseline, config, day)]
    for rule in config.rules:
        checks += _applied(rule, report, baseline, config)
    judged = [_overridden(check, config.overrides, day) for check in checks]
    used = {check.override for check in judged if check.override is not None}
    states = tuple(
        Exemption(one, "expired" if one.until < day else "in force" if one in used else "unused")
        for one in config.overrides
    )
    judged.sort(key=lambda check: _ORDER[check.status])
    worst = min((check.status for check in judged), key=_ORDER.__getitem__, default=PASS)
    status = PASS if worst == OVERRIDDEN else worst
    change = None if baseline is None else change_of(baseline, report)
    return Verdict(status, tuple(judged), states, report, baseline, change, config)


def _overridden(check: Check, overrides: Iterable[Override], day: date) -> Check:
    if check.status == PASS:
        return check
    for one in overrides:
        named = ALIASES.get(one.rule, one.rule) in (check.rule.name, check.rule.metric.name)
        if named and one.until >= day and (not one.select or matches(check.subject, one.select)):
            why = f"{check.why}; allowed until {one.until}: {one.reason}"
            return check._replace(status=OVERRIDDEN, why=why, override=one)
    return check


def _unasked(report: Report, baseline: Report | None, config: Config, day: date) -> Iterator[Check]:
    """Check what every gate looks at: requests without a price, old prices, and what is not to be compared."""
    total = report.total
    if total.without_price:
        reasons = [f"{count:,} × {reason}" for reason, count in sorted(total.unpriced.items())]
        if total.bad:
            reasons.append(f"{total.bad:,} × no request that can be read")
        level = PASS if config.unpriced == IGNORE else config.unpriced
        rule = Rule(UNPRICED, METRICS["unpriced"], 0, level=config.unpriced)
        why = f"without a price, and in no sum: {'; '.join(reasons)}"
        yield Check(rule, TOTAL, total.without_price, None, level, why)
    other = "" if baseline is None else _other_settings(baseline.header, report.header)
    if other:
        rule = Rule(SETTINGS, _NO_METRIC, level=WARN)
        yield Check(rule, TOTAL, None, None, WARN, f"the baseline was made with other settings: {other}")
    old = [
        (age, cell)
        for cell in total.cells
        if cell.read and (age := (day - _last_day(cell.read)).days) > config.stale_days
    ]
    if old and config.stale != IGNORE:
        age, cell = max(old, key=lambda one: one[0])
        models = ", ".join(sorted({cell.model for _, cell in old}))
        rule = Rule(STALE, _NO_METRIC, level=config.stale)
        why = (
            f"prices of {models} were read {age} days ago ({cell.read}), more than {config.stale_days}: update ratecard"
        )
        yield Check(rule, TOTAL, None, None, config.stale, why)


_COMPARED = ("mode", "policy", "region")


def _other_settings(before: Header, after: Header) -> str:
    """In what two reports differ that should not be compared: "mode online, now batch"."""
    pairs = [("tier", before.account, after.account)]
    pairs += [(name, before.settings.get(name, ""), after.settings.get(name, "")) for name in _COMPARED]
    return ", ".join(f"{name} {was or 'none'}, now {now or 'none'}" for name, was, now in pairs if was != now)


def _last_day(read: str) -> date:
    """The last day that "2026", "2026-07" or "2026-07-15" may mean."""
    year, *rest = (int(part) for part in read.split("-"))
    if len(rest) == 2:
        return date(year, rest[0], rest[1])
    month = rest[0] if rest else 12
    following = date(year + month // 12, month % 12 + 1, 1)
    return date.fromordinal(following.toordinal() - 1)


def _applied(rule: Rule, report: Report, baseline: Report | None, config: Config) -> list[Check]:
    """A rule on the whole, or on each group that it is about; also on those that are gone."""
    told = "there is no baseline" if baseline is None else "it is new: the baseline does not have it"
    if not rule.is_for_groups:
        return [_check(rule, report.total, None if baseline is None else baseline.total, config, told)]
    new, old = report.named(), {} if baseline is None else baseline.named()
    names = [name for name in sorted({*new, *old}) if rule.is_for(name)]
    if not names:
        why = f"no group's name matches: there are {', '.join(sorted(new)[:5]) or 'none'}"
        return [Check(rule, TOTAL, None, None, rule.level, why)]  # it would guard nothing
    return [
        _check(rule, new.get(name) or _empty(old[name]), old.get(name), config, told)
        for name in names
        if name in new or rule.decrease is not None
    ]


def _empty(group: Group) -> Group:
    """A group that is gone: it has nothing."""
    nothing = group.output._replace(expected=0, p5=0, p50=0, p95=0, worst=0)
    cost = None if group.cost is None else nothing
    span = None if group.duration is None else group.duration._replace(p5=0, p50=0, p95=0)
    return Group(group.name, group.kind, 0, {}, 0, 0, nothing, cost, span, "", ())


def _check(rule: Rule, group: Group, before: Group | None, config: Config, unknown: str) -> Check:
    """Judge one rule on one group.

    unknown  what is to be said where there is nothing before
    """
    unit, name = rule.metric.unit, rule.metric.name
    value = rule.metric.of(group)
    was = None if before is None else rule.metric.of(before)
    broken: list[tuple[str, str]] = []  # (status, why)
    notes: list[str] = []
    missing = group.without_price if rule.metric.priced else 0
    if missing and config.unpriced != IGNORE:
        status = rule.level if config.unpriced == FAIL else WARN
        broken.append((status, f"{missing:,} of {group.requests + group.bad:,} requests have no price"))
    elif missing:
        notes.append(f"without the {missing:,} that have no price")
    if value is None:
        if not missing:
            reason = group.why_unknown if unit == "s" else "there is nothing that has a price"
            broken.append((rule.level, f"{name} is not known: {reason or 'nothing tells it'}"))
        return _done(rule, group, None, was, broken, notes)
    notes.insert(0, f"{name} is {shown(value, unit)}")
    if rule.largest is not None and value > rule.largest:
        over = percent(value - rule.largest, rule.largest)
        broken.append(
            (rule.level, f"more than {shown(rule.largest, unit)}" + (f" by {over}" if over[:1] == "+" else ""))
        )
    if rule.increase is not None or rule.decrease is not None:
        if was is None:
            told = unknown if before is None else f"the baseline does not know its {name}"
            if config.missing == IGNORE:
                notes.append(told)
            else:
                broken.append((min(config.missing, rule.level, key=(WARN, FAIL).index), told))
        else:
            gaps = 0 if before is None or not rule.metric.priced else before.without_price
            if gaps and config.unpriced != IGNORE:
                status = rule.level if config.unpriced == FAIL else WARN
                broken.append((status, f"{gaps:,} requests of the baseline have no price"))
            broken += _changed(rule, value, was)
            notes[0] += f" ({shown(was, unit)} before)" if was != value else " as before"
    return _done(rule, group, value, was, broken, notes)


def _changed(rule: Rule, value: int, was: int) -> Iterator[tuple[str, str]]:
    """What a rule says of a change."""
    unit, change = rule.metric.unit, value - was
    if abs(change) < rule.least:
        return
    for allowed, moved in ((rule.increase, change), (rule.decrease, -change)):
        if allowed is None or moved <= (allowed * was if isinstance(allowed, Fraction) else allowed):
            continue
        amount = shown_change(change, unit)
        share = percent(change, was)
        limit = f"{float(allowed * 100):g}%" if isinstance(allowed, Fraction) else shown(allowed, unit)
        sign = "+" if allowed is rule.increase else "-"
        yield rule.level, f"{amount}{f' ({share})' if share else ''} against the baseline, more than {sign}{limit}"


def _done(
    rule: Rule, group: Group, value: int | None, was: int | None, broken: list[tuple[str, str]], notes: list[str]
) -> Check:
    status = min((status for status, _ in broken), key=_ORDER.__getitem__, default=PASS)
    why = ", ".join([*notes, *(text for _, text in broken)])
    return Check(rule, group.name, value, was, status, why)
