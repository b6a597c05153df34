"""The forecast of a ledger: the month's end, when a budget, a limit or a tier is reached, and what is announced."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from pricing.budget import Budget
from pricing.cards import base_of, resolve
from pricing.cost import Unpriced, cost
from pricing.daily import daily_of_ledger, merged
from pricing.entries import Entry
from pricing.ledger import Ledger
from pricing.money import PICO
from pricing.prices import PriceTable, load_prices
from pricing.projection import Projection, Reached, day_number, month_end, project, reached
from pricing.usage import Usage

from ..errors import ConfigError
from ..tiers import load_tiers

if TYPE_CHECKING:
    import pandas

HORIZON_DAYS = 365
"""How far ahead dates are looked for."""
RECALLED = 20_000
"""The latest calls, which say what other prices would come to."""
_PAID = re.compile(r"\$([\d,]+)")


class Effect(NamedTuple):
    """What an announced fact changes.

    what     in words
    when     from this day on
    pico     pico-dollars more (or less) by the end of the period, expected; None: nobody knows
    """

    what: str
    when: date
    pico: int | None


class LedgerForecast(NamedTuple):
    """What a ledger comes to: the whole, its parts, dates at which amounts are reached, and effects of facts ahead."""

    since: date
    until: date
    now: datetime
    total: Projection
    parts: tuple[Projection, ...]
    reached: tuple[Reached, ...]
    effects: tuple[Effect, ...]
    facts: tuple[str, ...]


def forecast_ledger(
    path: str,
    *,
    by: Sequence[str] = ("model",),
    now: datetime | None = None,
    until: date | None = None,
    budget: Budget | None = None,
    tier: str | None = None,
    swaps: Mapping[str, str] | None = None,
    prices: Sequence[str] = (),
    seed: int = 0,
) -> LedgerForecast:
    """Foresee what a ledger comes to.

    now     the day that is not over; this instant unless told
    until   the last day; the end of this month unless told
    budget  a total, or one of a calendar day, week or month: when it is reached
    tier    of the account: its monthly limit, and what leads to the next tier
    swaps   model → the one in its place, from its shutdown on

    Raises  ConfigError when it is no ledger, or has nothing to go by
    """
    now = (now or datetime.now(UTC)).astimezone(UTC)
    today = now.date()
    until = until or month_end(today)
    table = load_prices(overlay=prices)
    split = tuple(by)
    sums = daily_of_ledger(path, (*split, *(("model",) if "model" not in split else ())))
    if sums.empty:
        raise ConfigError(f"{path}: the ledger has no call that has ended")
    names = ["model", *split] if "model" not in split else list(split)
    sums = merged([sums], names)
    (total,) = project(sums, now=now, until=until, seed=seed)
    horizon = today + timedelta(days=HORIZON_DAYS)
    (far,) = project(sums, now=now, until=horizon, seed=seed)
    parts = tuple(project(sums, split, now=now, until=until, seed=seed)) if split else ()
    by_model = project(sums, ("model",), now=now, until=until, seed=seed)
    with Ledger(path, create=False) as book:
        latest = [entry for entry in book.latest(RECALLED) if _day(entry) <= today]
    dates, untold = list[Reached](), list[str]()
    for name, one in _dates(sums, far, today, horizon, budget, tier):
        if one is None:
            untold.append(f"{name}: when it is reached, nobody can tell from so little")
        else:
            dates.append(one)
    effects, facts = _ahead(by_model, latest, today, until, table, swaps or {})
    since = today.replace(day=1)
    return LedgerForecast(since, until, now, total, parts, tuple(dates), tuple(effects), (*untold, *facts))


def _dates(
    sums: pandas.DataFrame, far: Projection, today: date, horizon: date, budget: Budget | None, tier: str | None
) -> Iterable[tuple[str, Reached | None]]:
    """When amounts are reached, by name; None where nothing tells."""

    def spent(since: date | None) -> int:
        frame = sums[sums["day"] <= day_number(today)]
        frame = frame if since is None else frame[frame["day"] >= day_number(since)]
        return int(frame["usd"].sum()) * PICO + int(frame["pico"].sum())

    def when(name: str, amount: int, spent: int, last: date) -> tuple[str, Reached | None]:
        return name, reached(name, amount, spent, far, today, last)

    month = today.replace(day=1)
    if budget is not None:
        starts = {"total": None, "day": today, "month": month, "week": today - timedelta(days=today.weekday())}
        if budget.window not in starts:
            known = ", ".join(starts)
            raise ConfigError(f"budget {budget}: a ledger is foreseen by days; the windows are {known}")
        ends = {"day": today, "month": month_end(today), "week": today + timedelta(days=6 - today.weekday())}
        last = ends.get(budget.window, horizon)
        yield when(f"budget {budget}", budget.amount.pico, spent(starts[budget.window]), last)
    if tier is not None:
        scheme = load_tiers().scheme_of(tier)
        monthly = scheme.tiers[tier].usd_per_month
        yield when(f"monthly usage limit of {tier}", monthly * PICO, spent(month), month_end(today))
        order = list(scheme.tiers)
        for following in order[order.index(tier) + 1 : order.index(tier) + 2]:
            words = scheme.tiers[following].qualification
            if (paid := _PAID.search(words)) is not None:
                amount = int(paid[1].replace(",", "")) * PICO
                yield when(f"{following} ({words}), if paid as spent", amount, spent(None), horizon)


def _ahead(
    found: Sequence[Projection],
    latest: Sequence[Entry],
    today: date,
    until: date,
    table: PriceTable,
    swaps: Mapping[str, str],
) -> tuple[list[Effect], list[str]]:
    """What the tables announce for the models of a ledger, and what it changes."""
    effects, facts = [], list[str]()
    idle = dict.fromkeys(swaps, "no call of it in this ledger")
    for one in found:
        model = one.name[0]
        calls = [entry for entry in latest if entry.model == model and entry.usage and entry.cost]
        facts += _long(model, calls, table)
        card = resolve(model)
        shutdown = None if card is None else card.shutdown
        swap = _swap_of(model, swaps)
        other = swaps[swap] if swap else (None if card is None else card.replacement)
        if swap and shutdown is not None:
            idle.pop(swap, None)
        elif swap in idle:
            idle[swap] = f"no shutdown of {model} is announced, so nothing changes"
        if shutdown is not None:
            days = (shutdown - today).days
            when = f"in {days:,} days" if days > 0 else "already"
            instead = f"; {other} in its place" if other else "; the tables name nothing in its place: --swap names it"
            words = f"{model} shuts down on {shutdown}, {when}{instead}"
            change = _change(one, calls, table, other, shutdown, today, until) if other else None
            effects.append(Effect(words, shutdown, change))
        for row in table.rows(model):
            last = row.effective_until
            if last is None or last < today or not any(_row_of(entry, row.id) for entry in calls):
                continue
            begins = last + timedelta(days=1)
            after = table.lookup(model, row.service_tier, begins)
            words = f"{model}: the {row.service_tier} price ends on {last}"
            words += "" if after is not None else ", and no later one is known"
            change = _change(one, calls, table, model, begins, today, until) if after is not None else None
            effects.append(Effect(words, begins, change))
    return effects, [*facts, *(f"--swap {name}={swaps[name]}: {why}" for name, why in idle.items())]


def _swap_of(model: str, swaps: Mapping[str, str]) -> str | None:
    """The swap meant for a model: by its own name, else by another of its card; a fine-tuned one's only by its own."""
    if model in swaps:
        return model
    card = None if base_of(model) != model else resolve(model)
    return (
        None
        if card is None
        else next((name for name in swaps if resolve(name) == card and base_of(name) == name), None)
    )


def _row_of(entry: Entry, row_id: str) -> bool:
    return entry.row_id == row_id


def _long(model: str, calls: Sequence[Entry], table: PriceTable) -> list[str]:
    """How much of the latest calls is long context, and what that costs more."""
    long, more, whole = 0, 0, 0
    for entry in calls:
        row = table.lookup(model, entry.service_tier, _day(entry))
        if row is None or row.above is None or row.long is None or entry.cost is None:
            continue
        given = sum(count for name, count in entry.usage.items() if name in _INPUT)
        whole += entry.cost.pico
        if given > row.above:
            long += 1
            rates = ((kind, pico - row.pico_per_token.get(kind, 0)) for kind, pico in row.long.pico_per_token.items())
            more += sum(pico * entry.usage.get(f"{kind}_tokens", 0) for kind, pico in rates)
    if not long or not whole:
        return []
    part = f"{long:,} of the latest {len(calls):,} calls"
    return [f"{model}: {part} are long context, whose higher prices are {more / whole:.0%} of what all of these cost"]


_INPUT = ("input_tokens", "cached_input_tokens", "cache_write_tokens")


def _change(
    one: Projection, calls: Sequence[Entry], table: PriceTable, other: str, when: date, today: date, until: date
) -> int | None:
    """What the days from `when` on cost more at other prices, going by the latest calls; None where they have none."""
    if when > until:
        return 0
    if one.total is None or not calls:
        return None
    before = after = 0
    for entry in calls:
        used = Usage(**entry.usage)  # type: ignore[arg-type]  # counts of a Usage, as the ledger keeps them
        priced = cost(used, model=other, service_tier=entry.service_tier, at=when, prices=table)
        if isinstance(priced, Unpriced) or entry.cost is None:
            return None
        before += entry.cost.pico
        after += priced.total.pico
    if not before:
        return None
    later = sum(day.cost.mean for day in one.series if day.day >= when)
    rest = one.total.mean - one.spent if when <= today else later
    return round(rest * (after - before) / before)


def _day(entry: Entry) -> date:
    return datetime.fromtimestamp(entry.created_us // 1_000_000, UTC).date()
