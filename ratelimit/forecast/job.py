"""The forecast of a job file: tokens, cost, duration, what binds, and what other choices come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pricing.budget import Budget
from pricing.learned import RECALLED
from pricing.ledger import Ledger
from pricing.spend import Spending, spending

from ..errors import ConfigError
from ..job import STDIN, opened
from .capped import checked, says_of, spending_rule, total_of
from .choices import BATCH, Choice, batch_choice, cheapest, choice_of, replacements, tiers_for
from .lanes import Account, lanes
from .latency import Pace, Replying, learned
from .outlook import Outlook, Setting, outlook
from .schedule import Rule
from .workload import MODES, ONLINE, Job, Reading, Workload, read_workload


class Wish(NamedTuple):
    """What a forecast is asked for.

    account   whose limits are looked at in detail; without a tier or limits: the first tier that sends every request
    tiers     to compare with; empty: all that know the models
    swaps     (model, the one in its place); a retiring model is swapped for its replacement unasked
    deadline_us, budget   for the choice
    """

    account: Account
    tiers: tuple[str, ...] = ()
    swaps: tuple[tuple[str, str], ...] = ()
    deadline_us: int | None = None
    budget: Budget | None = None
    seed: int = 0


class JobForecast(NamedTuple):
    """What a job comes to.

    job          Job as it was read
    go           the requests of it that can be sent in `account`: the sums are of these
    account      whose limits `outlook` is of
    spending     online; by_model: the same for each model; `unpriced` has all requests without a price
    latency      where the durations of replies come from → requests
    outputs      where the sizes of replies come from → requests
    choices      ways to have it done, and the cheapest of them that meets what was asked
    facts        what the tables announce
    """

    job: Job
    go: Workload
    account: Account
    spending: Spending
    by_model: Mapping[str, Spending]
    outlook: Outlook
    latency: Mapping[str, int]
    outputs: Mapping[str, int]
    choices: tuple[Choice, ...]
    cheapest: Choice | None
    facts: tuple[str, ...]


def forecast_job(
    path: str,
    reading: Reading,
    wish: Wish,
    *,
    jobs: int = 1,
    progress: Callable[[str, int, int | None], object] | None = None,
) -> JobForecast:
    """Foresee what a job file comes to.

    progress  told what is done, how many more bytes of it are done, and how many they are in all

    Raises  ConfigError when the file, the account or an option cannot be used; TableError when an overlay is wrong
    """
    checked(wish.budget)
    if path == STDIN and wish.swaps:
        raise ConfigError(
            "--swap reads the job once more, which standard input does not allow: save it, and name the file"
        )
    wish = wish._replace(account=wish.account._replace(at=wish.account.at or reading.at))
    reading = reading._replace(modes=MODES)
    job = _read(path, reading, jobs, progress, "reading")
    work = job.workload
    models = tuple(work.models)
    instead, facts = replacements(models, reading.at)
    plans: dict[tuple[tuple[str, str], ...], Workload] = {(): work}
    if path != STDIN:
        asked = tuple(pair for pair in wish.swaps if pair[0] in models)
        offered = tuple(instead.items()) if not wish.swaps else ()
        for swap in dict.fromkeys(pairs for pairs in (asked, offered) if pairs):
            other = reading._replace(swap=swap)
            plans[swap] = _read(path, other, jobs, progress, f"as {', '.join(new for _, new in swap)}").workload
    for model, _ in wish.swaps:
        if model not in models:
            raise ConfigError(f"--swap {model}=…: no request of the job asks for {model}; it has {', '.join(models)}")
    paces = paces_of(reading.ledger)
    account = _account(work, wish)
    setting = Setting(paces, _budgeted(work, ONLINE, wish), seed=wish.seed)
    found = outlook(work, account, setting)
    go = work.where(found.goes)
    spent = spent_of(work, found.goes, ONLINE, wish.seed)
    by_model = {models[0]: spent} if len(models) == 1 else _by_model(work, found.goes, wish.seed)
    choices = tuple(_choices(plans, wish, account, setting)) if len(work) else ()
    replying = Replying(paces, go.models, go.kinds, (go.model, go.kind, go.output, go.latency_us))
    best = cheapest(choices, wish.deadline_us, total_of(wish.budget), account.name)
    told = [*facts, *filter(None, [says_of(wish.budget)])]
    return JobForecast(
        job, go, account, spent, by_model, found, replying.bases(), _outputs(go), choices, best, tuple(told)
    )


def spent_of(work: Workload, goes: Any, mode: str, seed: int) -> Spending:
    """What those requests cost in a mode for which `goes` (n,) is True; without a price are all that have none."""
    go = work if goes.all() else work.where(goes)
    return spent_by(go, mode, seed)._replace(unpriced=work.money[mode].unpriced())


def _by_model(work: Workload, goes: Any, seed: int) -> dict[str, Spending]:
    parts = [(model, work.model == place) for place, model in enumerate(work.models)]
    return {model: spent_of(work.where(mine), goes[mine], ONLINE, seed) for model, mine in parts}


def spent_by(work: Workload, mode: str, seed: int) -> Spending:
    """What requests cost in a mode."""
    return spending(work.money[mode], work.kinds, work.kind, work.output, seed=seed)


def _read(
    path: str, reading: Reading, jobs: int, progress: Callable[[str, int, int | None], object] | None, what: str
) -> Job:
    with opened(path) as (stream, size):
        told = None if progress is None else lambda done: progress(what, done, size)
        return read_workload(stream, path, reading, jobs=jobs, size=size, progress=told)


def paces_of(ledger: str | None) -> dict[str, Pace]:
    """How fast models write, as a ledger tells."""
    if ledger is None:
        return {}
    with Ledger(ledger, create=False) as book:
        return learned(book.latest(RECALLED))


def _account(work: Workload, wish: Wish) -> Account:
    """The account in question; where none was named, the first tier that sends every request."""
    account = wish.account
    if account.tier is not None or account.limits or account.pools:
        return account
    tiers = wish.tiers or tuple(tiers_for(work.models))
    if not tiers:
        names = ", ".join(work.models) or "a job without requests"
        raise ConfigError(f"no tier has limits for {names}; give your own: --rpm and --tpm")
    refused = {tier: int((~lanes(work, account._replace(tier=tier)).goes).sum()) for tier in tiers}
    return account._replace(tier=min(refused, key=lambda tier: refused[tier]))


def _budgeted(work: Workload, mode: str, wish: Wish) -> Rule | None:
    """A budget of a window as a limit on what requests are expected to cost in a mode."""
    return None if wish.budget is None else spending_rule(wish.budget, work.expected(mode)[1])


def ways(work: Workload, account: Account, setting: Setting) -> list[Choice]:
    """What requests come to in each mode of a tier: what `cheapest` chooses from, here and for a run of batches."""
    return list(_choices({(): work}, Wish(account, (account.tier or "",)), account, setting))


def _choices(
    plans: Mapping[tuple[tuple[str, str], ...], Workload], wish: Wish, account: Account, setting: Setting
) -> Iterator[Choice]:
    """Every tier, mode and model: what it comes to."""
    for swap, work in plans.items():
        modes, rule = _modes(work), _budgeted(work, ONLINE, wish)
        rules = {mode: _budgeted(work, mode, wish) if mode != ONLINE else rule for mode in modes if rule is not None}
        # What it costs hangs on the tier only where that does not send all.
        cost = _Costs(work, wish.seed).of
        accounts = [account] if account.limits else []
        for tier in _tiers(work, wish, account):
            accounts.append(account._replace(tier=tier, limits=None))
        for one in accounts:
            online = outlook(work, one, setting._replace(budget=rule), relief=False)
            for mode in modes:
                if mode == BATCH:
                    if one.tier is not None:
                        yield batch_choice(one, dict(swap), work, cost, wish.budget if rule else None)
                    continue
                found = online
                if rule is not None and mode != ONLINE:  # it costs less, so the budget lets more of it through
                    found = outlook(work, one, setting._replace(budget=rules[mode]), relief=False)
                yield choice_of(mode, one, dict(swap), work, cost(mode, found.goes), found)


class _Costs:
    """What requests cost, each question answered once."""

    def __init__(self, work: Workload, seed: int) -> None:
        self._work, self._seed = work, seed
        self._known: dict[tuple[str, bytes], Spending] = {}

    def of(self, mode: str, goes: Any) -> Spending:
        key = mode, b"" if goes.all() else goes.tobytes()
        if key not in self._known:
            self._known[key] = spent_of(self._work, goes, mode, self._seed)
        return self._known[key]


def _tiers(work: Workload, wish: Wish, account: Account) -> Sequence[str]:
    if wish.tiers:
        return wish.tiers
    known = tiers_for(work.models)
    return known if account.tier is None or account.limits or account.tier in known else [account.tier, *known]


def _modes(work: Workload) -> list[str]:
    """The modes in which one request at least has a price."""
    return [mode for mode in MODES if mode == ONLINE or (work.money[mode].why < 0).any()]


def _outputs(work: Workload) -> dict[str, int]:
    found: dict[str, int] = {}
    for place, kind in enumerate(work.kinds):
        if number := int(((work.kind == place) & (work.output < 0)).sum()):
            found[kind.basis] = found.get(kind.basis, 0) + number
    return dict(sorted(found.items(), key=lambda item: -item[1]))
