"""The forecast of a job file, on paper."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pricing.spend import Spending, exact_sum

from ..forecast.capped import total_of
from ..forecast.charts import (
    comparison,
    components,
    cost_by_component,
    png,
    queue_depth,
    rate_against_limit,
    spend_over_time,
)
from ..forecast.choices import Choice
from ..forecast.document import of_job
from ..forecast.job import JobForecast, Wish, forecast_job
from ..forecast.lanes import Account
from ..forecast.page import Card, Grid, page
from ..forecast.series import series
from ..forecast.workload import ONLINE
from ..job import STDIN
from ._forecast import (
    Asked,
    between,
    day,
    delivered,
    dollars,
    duration,
    exit_code,
    fact,
    print_binding,
    print_table,
    reading_of,
    watched,
    write,
)
from ._shared import counted, print_bad_lines, print_json
from ._text import echo

MOST_LIMITS = 2
"""Limits that have a chart: those that bind most."""


def show(asked: Asked) -> int:
    """Print, and write, what was asked for; → exit code."""
    tier = asked.tiers[0] if asked.tiers else None
    account = Account(tier, asked.limits, concurrency=asked.concurrency, at=asked.at)
    wish = Wish(account, asked.tiers, asked.swaps, asked.deadline, asked.budget, asked.seed)
    with watched() as tell:
        found = forecast_job(asked.file, reading_of(asked), wish, jobs=asked.jobs, progress=tell)
    delivered(
        lambda: print_json(of_job(found, asked.seed)) if asked.as_json else _print(found, asked),
        lambda: _write(found, asked) if asked.html or asked.png else None,
    )
    return exit_code(found.job.bad, found.spending.unpriced, found.outlook.refused)


def _print(found: JobForecast, asked: Asked) -> None:
    work, go, spent = found.job.workload, found.go, found.spending
    left = f"; {_left(found)}" if len(go) < len(work) else ""
    fact("job", f"{counted(len(work), 'request')} for {', '.join(work.models) or 'nobody'}{left}")
    fact("account", found.account.name + ("" if asked.tiers or asked.limits else " (name yours: --tier)"))
    inexact = f" ({counted(found.job.inexact, 'request')} estimated)" if found.job.inexact else ""
    fact("input", f"{int(go.input.sum()):,} tokens{inexact}")
    output = spent.output
    fact("output", f"{output.p50:,} tokens ({output.p5:,} – {output.p95:,}), {output.worst:,} at worst")
    for basis, number in found.outputs.items():
        fact("", f"{counted(number, 'request')}: {basis}")
    if spent.cost is not None:
        amounts = spent.cost.usd()
        fact("cost", f"{dollars(spent.cost)}, {amounts['worst'].format()} at worst")
    elif len(work):
        fact("cost", "unknown: nothing that can be sent has a price")
    _print_unpriced(spent)
    if found.outlook.duration is not None:
        fact("duration", between(found.outlook.duration))
    for basis, number in found.latency.items():
        fact("", f"{counted(number, 'request')}: {basis}")
    for reason, number in found.outlook.refused.items():
        fact("not sent", f"{counted(number, 'request')}: {reason}")
    print_binding(found.outlook)
    for text in found.facts:
        fact("note", text)
    _print_choices(found, asked)
    print_bad_lines(found.job.bad, len(found.job.bad))


def _left(found: JobForecast) -> str:
    """How many requests are in no sum because they cannot be sent."""
    return f"in no sum: {len(found.job.workload) - len(found.go):,} that cannot be sent"


def _print_unpriced(spent: Spending) -> None:
    for reason, number in spent.unpriced.items():
        fact("unpriced", f"{counted(number, 'request')}: {reason}")


def _print_choices(found: JobForecast, asked: Asked) -> None:
    if not found.choices:
        return
    grid = _grid(found)
    echo("")
    left = frozenset(range(len(grid.heads))) - grid.numbers
    print_table(grid.title, grid.heads, grid.rows, left)
    for number, note in enumerate(_notes(found), 1):
        echo(f"{number}  {note}")
    echo(_verdict(found, asked))


def _grid(found: JobForecast) -> Grid:
    """The choices as a table; a column that says nothing is left out."""
    heads = ("tier", "mode", "instead", "left out", "cost p50", "p95", "duration p50", "p95", "binding", "notes")
    place_of = {note: f"{number}" for number, note in enumerate(_notes(found), 1)}
    outcomes: dict[tuple[str, ...], list[str]] = {}
    best = None
    for one in found.choices:
        said = " ".join(place_of[note] for note in _said(one))
        left = f"{one.missing:,}" if one.missing else ""
        outcome = (one.mode, ", ".join(one.models.values()), left, *_amounts(one), *_times(one), one.binding, said)
        outcomes.setdefault(outcome, []).append(one.tier)
        if one == found.cheapest:
            best = list(outcomes).index(outcome)
    order = list(dict.fromkeys(one.tier for one in found.choices))
    rows = [(_in_short(tiers, order), *outcome) for outcome, tiers in outcomes.items()]
    keep = [place for place in range(len(heads)) if any(row[place] for row in rows)]
    numbers = frozenset(place for place, column in enumerate(keep) if 3 <= column <= 7)
    return Grid("Choices", [heads[at] for at in keep], [[row[at] for at in keep] for row in rows], numbers, best)


def _in_short(tiers: Sequence[str], order: Sequence[str]) -> str:
    """Tiers of which the same is to be said: those that follow one another as the first and the last."""
    runs: list[list[str]] = []
    for tier in tiers:
        if runs and order.index(tier) == order.index(runs[-1][-1]) + 1:
            runs[-1].append(tier)
        else:
            runs.append([tier])
    return ", ".join(f"{run[0]} – {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def _verdict(found: JobForecast, asked: Asked) -> str:
    wanted = [f"within {duration(asked.deadline)}"] if asked.deadline is not None else []
    if asked.budget is not None and asked.budget.action != "warn":
        wanted.append(f"for {asked.budget}")
    under = f" {' '.join(wanted)}" if wanted else ""
    best = found.cheapest
    if best is None:
        unsure = "" if all(one.foreseen for one in found.choices) else "; of some of them that is not known"
        return f"none of these does the whole job{under}{unsure}"
    swaps = [f"with {new} instead of {old}" for old, new in best.models.items()]
    name = " ".join([best.tier, best.mode, *swaps])
    known = best.slowest_us() is not None
    lasts = between(best.duration, best.at_most_us) if known else "duration unknown"
    return f"cheapest{under}: {name}, {dollars(best.cost)}, {lasts}"


def _amounts(one: Choice) -> tuple[str, str]:
    if one.cost is None:
        return "no price", ""
    amounts = one.cost.usd()
    return amounts["p50"].format(), amounts["p95"].format()


def _times(one: Choice) -> tuple[str, str]:
    if one.duration is not None:
        return duration(one.duration.p50), duration(one.duration.p95)
    return ("≤", duration(one.at_most_us)) if one.at_most_us is not None else ("unknown", "")


def _said(one: Choice) -> list[str]:
    """What is to be said of a choice, without its tier, which stands beside it: a fact of several tiers is one."""
    return list(dict.fromkeys(note.replace(f" in {one.tier}", "", 1) for note in one.notes))


def _notes(found: JobForecast) -> list[str]:
    """What is to be said of choices, each thing once: the table has their numbers."""
    return list(dict.fromkeys(note for one in found.choices for note in _said(one)))


def _write(found: JobForecast, asked: Asked) -> None:
    """Write the report, and the picture."""
    work, go, spent = found.job.workload, found.go, found.spending
    _, picos = work.expected(ONLINE)
    money = go.money[ONLINE]
    panels = []
    if found.outlook.duration is not None:
        lines = series(work, found.outlook, spent.cost, picos)
        cap = total_of(asked.budget)
        total = None if cap is None else cap.pico
        panels.append(spend_over_time(lines, total))
        ranked = sorted(lines.rates, key=lambda name: -found.outlook.shares.get(name, 0))
        panels += [rate_against_limit(lines, name) for name in ranked[:MOST_LIMITS]]
        panels.append(queue_depth(lines, found.account.concurrency))
    if spent.cost is not None:
        priced = money.why < 0
        inputs = {model: exact_sum(money.fixed[priced & (go.model == place)]) for place, model in enumerate(go.models)}
        panels.append(cost_by_component(components(found.by_model, inputs)))
    if found.choices:
        panels.append(comparison(found.choices, found.cheapest))
    title = f"Forecast of {os.path.basename(asked.file) if asked.file != STDIN else 'standard input'}"
    names = ", ".join(work.models)
    subtitle = f"{counted(len(work), 'request')} for {names}; limits of {found.account.name}, prices of {day(asked.at)}"
    cards = [
        Card("cost, p50", "no price" if spent.cost is None else spent.cost.usd()["p50"].format(), _spread(spent)),
        Card("duration, p50", duration(_p50(found)), between(found.outlook.duration)),
        Card("binding limit", found.outlook.binding or "none", _shares(found)),
        Card("tokens", f"{int(go.input.sum()):,} in", f"{spent.output.p50:,} out, p50"),
    ]
    told = [f"{number}: {note}" for number, note in enumerate(_notes(found), 1)]
    notes = [_verdict(found, asked), *found.facts, *_assumed(found), *told]
    if asked.html:
        wins = [(one.change, between(one.duration), one.binding) for one in found.outlook.relief]
        grids = [Grid("What relaxing buys", ("change", "duration", "binding then"), wins), _grid(found)]
        write(asked.html, page(title, subtitle, cards, panels, grids, notes))
    if asked.png:
        png(panels, title, asked.png)


def _p50(found: JobForecast) -> int | None:
    return None if found.outlook.duration is None else found.outlook.duration.p50


def _spread(spent: Spending) -> str:
    return "" if spent.cost is None else f"{dollars(spent.cost)}, {spent.cost.usd()['worst'].format()} at worst"


def _shares(found: JobForecast) -> str:
    parts = sorted(found.outlook.shares.items(), key=lambda item: -item[1])
    return " · ".join(f"{part:.0%} {name}" for name, part in parts)


def _assumed(found: JobForecast) -> list[str]:
    """What the numbers rest on, and what is not in them."""
    return [
        *(f"Output sizes of {counted(number, 'request')}: {basis}." for basis, number in found.outputs.items()),
        *(f"Times of the replies to {counted(number, 'request')}: {basis}." for basis, number in found.latency.items()),
        *(f"{counted(number, 'request')} without a price: {why}." for why, number in found.spending.unpriced.items()),
        *([f"Of {counted(len(found.job.workload), 'request')}, {_left(found)}."] if found.outlook.refused else []),
        *(f"{counted(number, 'request')} cannot be sent: {why}." for why, number in found.outlook.refused.items()),
        *([f"{counted(len(found.job.bad), 'line')} of the file cannot be used."] if found.job.bad else []),
    ]
