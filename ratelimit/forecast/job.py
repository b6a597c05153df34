"""The forecast of a job file: tokens, cost, duration, what binds, and what other choices come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pricing.budget import LENGTHS_US, Budget
from pricing.learned import RECALLED
from pricing.ledger import Ledger
from pricing.spend import Spending, spending

from ..errors import ConfigError
from ..job import STDIN, opened
from .choices import Choice, cheapest, choice_of, replacements, tiers_for
from .lanes import Account, lanes
from .latency import Pace, Replying, learned
from .outlook import Outlook, Setting, outlook
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
    account      whose limits `outlook` is of
    spending     online; by_model: the same for each model
    latency      where the durations of replies come from → requests
    outputs      where the sizes of replies come from → requests
    choices      ways to have it done, and the cheapest of them that meets what was asked
    facts        what the tables announce
    """

    job: Job
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
    setting = Setting(paces, *_budgeted(work, wish), seed=wish.seed)
    found = outlook(work, account, setting)
    spent = spent_by(work, ONLINE, wish.seed)
    by_model = {
        model: spent_by(work.where(work.model == place), ONLINE, wish.seed)
        for place, model in enumerate(models)
        if len(models) > 1
    } or ({models[0]: spent} if models else {})
    choices = tuple(_choices(plans, wish, account, setting)) if len(work) else ()
    go = work.where(found.goes)
    replying = Replying(paces, go.models, go.kinds, (go.model, go.kind, go.output, go.latency_us))
    limit = None if wish.budget is None or wish.budget.window in LENGTHS_US else wish.budget.amount
    best = cheapest(choices, wish.deadline_us, limit, account.name)
    return JobForecast(
        job, account, spent, by_model, found, replying.bases(), _outputs(work), choices, best, tuple(facts)
    )


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


def _budgeted(work: Workload, wish: Wish) -> tuple[tuple[str, int, int] | None, Any]:
    """A budget per hour, day, week or month as a limit on spending, and what each request is expected to cost."""
    budget = wish.budget
    if budget is None or budget.window not in LENGTHS_US:
        return None, None
    return (f"budget {budget}", budget.amount.pico, LENGTHS_US[budget.window]), work.expected(ONLINE)[1]


def _choices(
    plans: Mapping[tuple[tuple[str, str], ...], Workload], wish: Wish, account: Account, setting: Setting
) -> Iterator[Choice]:
    """Every tier, mode and model: what it comes to."""
    for swap, work in plans.items():
        # What it costs does not depend on the tier; few runs tell a choice from another one.
        costs = {mode: spent_by(work, mode, wish.seed) for mode in _modes(work)}
        accounts = [account] if account.limits else []
        for tier in _tiers(work, wish, account):
            accounts.append(account._replace(tier=tier, limits=None))
        for one in accounts:
            online = outlook(work, one, setting._replace(budget=None, picos=None), relief=False)
            for mode, cost in costs.items():
                if mode == "batch" and one.tier is None:
                    continue
                yield choice_of(mode, one, dict(swap), work, cost, online)


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
