"""How long requests take in an account, which limit binds when, and what relaxing it buys.

The schedule is the scheduler's own, on a virtual clock. Where the requests in the air stay below what may be there at
once, it does not depend on replies, and the end is that of the last reply; else the job is walked through several
times, each with replies of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pricing.export import needed

from ..runner import BEFORE_THE_LIMITER
from .lanes import Account, Lanes, bounded, lanes
from .latency import Pace, Replying
from .schedule import IN_THE_AIR, NOTHING, Rule, Schedule, admissions, walk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .workload import Ints, Workload

AIR = "latency × concurrency"
REPLIES = "the last replies"
ARRIVALS = "arrivals"
_STEPS = 2_000_000
"""Admissions walked through in all, for quantiles of what depends on replies."""
_LEAST_RUNS, _MOST_RUNS = 3, 60
_BINS = 60
_WORTH = 0.02
"""Of the whole time: what takes less is not worth relaxing."""


class Span(NamedTuple):
    """A time that is not known yet (µs): nine in ten lie between p5 and p95."""

    p5: int
    p50: int
    p95: int


class Phase(NamedTuple):
    """From when until when (µs) what bound; share: of its time it was this."""

    from_us: int
    until_us: int
    limit: str
    share: float


class Relief(NamedTuple):
    """What something else in the place of a limit would buy, and what would bind most of the time then."""

    change: str
    duration: Span
    binding: str


class Outlook(NamedTuple):
    """What comes of sending requests in an account.

    duration           Span; None where nothing can be sent
    schedule           of the requests that go, in their order
    takes_us   (n,)    how long each of these was in the air in one run
    goes       (m,)    which of all requests go
    refused            reason → how many do not
    why        (m,)    place in `refused` of those that do not; -1: it goes
    binding            what took most of the time
    shares             of what bound → of the time
    phases             what bound, over time
    relief             what relaxing it buys
    lanes              the limits as they met the requests
    runs               how often the job was walked through; 0: the schedule does not depend on replies
    """

    duration: Span | None
    schedule: Schedule
    takes_us: Ints
    goes: Any
    refused: dict[str, int]
    why: Any
    binding: str
    shares: dict[str, float]
    phases: tuple[Phase, ...]
    relief: tuple[Relief, ...]
    lanes: Lanes
    runs: int


class Setting(NamedTuple):
    """What a forecast goes by, beside the account.

    paces   how fast models write, where that is known
    budget  a limit on spending, and what each request takes of it; what takes more than all of it is not sent
    trace   the requests come from outside, when they come, and each model's stand in a line of their own
    """

    paces: Mapping[str, Pace]
    budget: Rule | None = None
    trace: bool = False
    seed: int = 0


def outlook(work: Workload, account: Account, setting: Setting, *, relief: bool = True) -> Outlook:
    """Foresee how long requests take in an account.

    relief  also say what relaxing a limit buys

    Raises  ConfigError when the account is none, or the requests would take it longer than can be reckoned with
    """
    np = needed("numpy", extra="pandas")
    found = lanes(work, account)
    rules, refused, goes, why, line = list(found.rules), dict(found.refused), found.goes, found.why, found.line
    if (budget := setting.budget) is not None:
        over = (budget.charges_us > budget.burst_us) & goes
        if over.any():
            refused[f"costs more than {budget.name} allows at all"] = int(over.sum())
            goes, why = goes & ~over, np.where(over, len(refused) - 1, why)
        rules.append(bounded(budget._replace(charges_us=np.where(goes, budget.charges_us, 0))))
        line = np.zeros(len(work), np.int64)  # all pass it, so they stand in one line
    go = work.where(goes)
    rules = [rule._replace(charges_us=rule.charges_us[goes]) for rule in rules]
    columns = (go.model, go.kind, go.output, go.latency_us)
    engine = _Engine(np, go, rules, line[goes], Replying(setting.paces, go.models, go.kinds, columns), setting)
    duration, schedule, takes_us, runs = engine.run(account.concurrency)
    shares, phases = _bound(np, schedule, line[goes], engine.names, duration.p50)
    binding = _most(shares)
    wins = tuple(engine.relief(account.concurrency, duration, shares)) if relief and len(go) else ()
    whole = duration if len(go) else None
    return Outlook(whole, schedule, takes_us, goes, refused, why, binding, shares, phases, wins, found, runs)


class _Engine:
    """Requests under rules; run with other rules for what these would buy."""

    def __init__(
        self, np: Any, go: Workload, rules: list[Rule], line: Ints, replying: Replying, setting: Setting
    ) -> None:
        self._np, self._go, self._rules, self._line = np, go, rules, line
        self._replying, self._setting = replying, setting
        self._door = None if setting.trace else BEFORE_THE_LIMITER
        self.names = tuple(rule.name for rule in rules)

    def run(self, concurrency: int, rules: list[Rule] | None = None) -> tuple[Span, Schedule, Ints, int]:
        """→ how long it takes, a schedule, how long its requests are in the air, and how often it was walked."""
        np, rules = self._np, self._rules if rules is None else rules
        arrivals, count = self._go.arrival_us, len(self._go)
        rng = np.random.default_rng(self._setting.seed)
        takes_us = self._replying.draw_us(rng)
        several = bool(count) and bool((self._line != self._line[0]).any())
        if not any(rule.slots for rule in rules) and not (several and self._door):
            schedule = self._lines(arrivals, rules) if several else admissions(arrivals, rules)
            if self._fits(schedule.act_us, takes_us, concurrency):
                return Span(*self._replying.ends_us(schedule.act_us, (0.05, 0.5, 0.95))), schedule, takes_us, 0
        # One walk tells whether the replies matter at all: with several lines the door alone may.
        runs = max(_LEAST_RUNS, min(_MOST_RUNS, _STEPS // max(1, count)))
        ends, kept = [], []
        for number in range(runs):
            schedule = walk(arrivals, rules, takes_us, most=concurrency, door=self._door, lines=self._line)
            plain = not number and not any(rule.slots for rule in rules)
            if plain and self._fits(schedule.act_us, takes_us, concurrency):
                return Span(*self._replying.ends_us(schedule.act_us, (0.05, 0.5, 0.95))), schedule, takes_us, 0
            ends.append(int((schedule.act_us + takes_us).max()))
            kept.append((schedule, takes_us))
            takes_us = self._replying.draw_us(rng)
        span = Span(*(round(float(one)) for one in np.quantile(ends, (0.05, 0.5, 0.95))))
        middle = min(range(runs), key=lambda place: (abs(ends[place] - span.p50), place))
        return span, *kept[middle], runs

    def _lines(self, arrivals: Ints, rules: list[Rule]) -> Schedule:
        """Lines that know nothing of each other, one after the other."""
        np = self._np
        act, by = np.empty(len(arrivals), np.int64), np.empty(len(arrivals), np.int64)
        for line in np.unique(self._line):
            mine = self._line == line
            part = admissions(arrivals[mine], [rule._replace(charges_us=rule.charges_us[mine]) for rule in rules])
            act[mine], by[mine] = part
        return Schedule(act, by)

    def _fits(self, act_us: Ints, takes_us: Ints, concurrency: int) -> bool:
        """Whether the requests in the air, and those at the door, stay below what may be there at once."""
        np = self._np
        begun = np.sort(act_us)
        in_the_air = np.arange(1, len(begun) + 1) - np.searchsorted(np.sort(act_us + takes_us), begun, side="right")
        return int(in_the_air.max(initial=0)) + (self._door or 0) <= concurrency

    def relief(self, concurrency: int, now: Span, shares: Mapping[str, float]) -> list[Relief]:
        """What twice of each limit that binds would buy, and what no limit at all."""
        found = []
        for place, rule in enumerate(self._rules):
            if shares.get(rule.name, 0) > _WORTH:
                rules = [*self._rules[:place], _doubled(rule), *self._rules[place + 1 :]]
                found.append((f"twice {rule.name}", concurrency, rules))
        if shares.get(AIR, 0) > _WORTH:
            more = f"{2 * concurrency:,} requests in the air instead of {concurrency:,}"
            found.append((more, 2 * concurrency, self._rules))
        if found:
            found.append(("no limit but the replies themselves", len(self._go) + BEFORE_THE_LIMITER, []))
        return [self._relieved(change, many, rules) for change, many, rules in found]

    def _relieved(self, change: str, many: int, rules: list[Rule]) -> Relief:
        duration, schedule, _, _ = self.run(many, rules)
        names = tuple(rule.name for rule in rules)
        return Relief(change, duration, _most(_bound(self._np, schedule, self._line, names, duration.p50)[0]))


def _most(shares: Mapping[str, float]) -> str:
    """What bound most of the time; "" where nothing did."""
    return max(shares, key=lambda name: (shares[name], name), default="")


def _doubled(rule: Rule) -> Rule:
    """Twice the limit: each request takes half of it."""
    return rule._replace(charges_us=-(-rule.charges_us // 2), slots=2 * rule.slots)


def _bound(
    np: Any, schedule: Schedule, line: Ints, names: tuple[str, ...], end_us: int
) -> tuple[dict[str, float], tuple[Phase, ...]]:
    """What bound the line whose last request was admitted last: of the whole time, and over time."""
    if not len(schedule.act_us) or end_us <= 0:
        return {}, ()
    mine = line == line[int(schedule.act_us.argmax())]
    act, by = schedule.act_us[mine], schedule.by[mine]
    gaps = np.diff(act, prepend=0)
    causes = {place: names[place] for place in range(len(names))} | {IN_THE_AIR: AIR, NOTHING: ARRIVALS}
    edges = np.linspace(0, end_us, _BINS + 1)
    shares, bins = {}, {}
    for cause, name in causes.items():
        whole = np.cumsum(np.where(by == cause, gaps, 0))
        if whole[-1]:
            shares[name] = float(whole[-1]) / end_us
            bins[name] = np.diff(np.interp(edges, np.concatenate(([0], act)), np.concatenate(([0], whole))))
    if end_us > act[-1]:
        shares[REPLIES] = float(end_us - act[-1]) / end_us
        bins[REPLIES] = np.diff(np.maximum(edges - act[-1], 0))
    return shares, _phases(np, edges, bins)


def _phases(np: Any, edges: Any, bins: dict[str, Any]) -> tuple[Phase, ...]:
    """Runs of bins in which the same bound most."""
    names = list(bins)
    most = np.argmax(np.stack(list(bins.values())), 0)
    width = edges[1] - edges[0]
    phases, start = [], 0
    for place in range(1, len(most) + 1):
        if place == len(most) or most[place] != most[start]:
            name = names[most[start]]
            share = float(bins[name][start:place].sum()) / (width * (place - start))
            phases.append(Phase(round(edges[start]), round(edges[place]), name, share))
            start = place
    return tuple(phases)
