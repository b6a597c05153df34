"""The forecast of a ledger, on paper."""

from __future__ import annotations

import os
from datetime import UTC, datetime, time

import click

from pricing.money import Usd
from pricing.projection import Ahead, Projection, Reached

from ..forecast.booked import Effect, LedgerForecast, forecast_ledger
from ..forecast.charts import month, parts, png
from ..forecast.document import of_ledger
from ..forecast.page import Card, Grid, page
from ._forecast import Asked, exit_code, fact, print_table, write
from ._shared import counted, print_json
from ._text import echo


def show(asked: Asked) -> int:
    """Print, and write, what was asked for; → exit code."""
    if len(asked.tiers) > 1:
        raise click.UsageError("a ledger's forecast takes one --tier: the account's")
    now = None if asked.at is None else datetime.combine(asked.at, time(12), UTC)
    found = forecast_ledger(
        asked.file,
        by=asked.by or ("model",),
        now=now,
        until=asked.until,
        budget=asked.budget,
        tier=asked.tiers[0] if asked.tiers else None,
        swaps=dict(asked.swaps),
        prices=asked.prices,
        seed=asked.seed,
    )
    if asked.as_json:
        print_json(of_ledger(found, asked.seed))
    else:
        _print(found)
    if asked.html or asked.png:
        _write(found, asked)
    return exit_code(found.total.unpriced)


def _print(found: LedgerForecast) -> None:
    total = found.total
    fact("ledger", f"{counted(total.requests, 'call')}, {counted(total.days, 'whole day')} of history")
    fact("period", f"{found.since} – {found.until}, as of {found.now:%Y-%m-%d %H:%M} UTC")
    fact("spent", _spent(total))
    fact("total", _spread(total.total))
    for note in total.notes:
        fact("note", note)
    for one in found.reached:
        fact("reached", _when(one))
    for effect in found.effects:
        fact("ahead", _effect(effect))
    for text in found.facts:
        fact("note", text)
    grid = _grid(found)
    if grid.rows:
        echo("")
        print_table(grid.title, grid.heads, grid.rows, frozenset(range(len(grid.heads))) - grid.numbers)


def _spent(one: Projection) -> str:
    return Usd(one.spent).format() if one.priced else "unknown"


def _spread(total: Ahead | None) -> str:
    return "unknown" if total is None else f"{Usd(total.p50).format()} ({_between(total)})"


def _between(total: Ahead | None) -> str:
    return "" if total is None else f"{Usd(total.p5).format()} – {Usd(total.p95).format()}"


def _when(one: Reached) -> str:
    return f"{one.name}: {_so_far(one)}; {_day(one)}{_days(one)}"


def _so_far(one: Reached) -> str:
    return f"{Usd(one.amount).format()}, {Usd(one.spent).format()} so far"


def _day(one: Reached) -> str:
    """The day in the middle, in short."""
    if one.spent >= one.amount:
        return "already"
    return f"not by {one.horizon}" if one.p50 is None else str(one.p50)


def _days(one: Reached) -> str:
    """What is to be said of other days."""
    if one.spent >= one.amount:
        return ""
    if one.p50 is None:
        return "" if one.p5 is None else f", in one of twenty cases by {one.p5}"
    return f" ({one.p5} – {one.p95 or f'after {one.horizon}'})"


def _effect(one: Effect) -> str:
    if one.pico is None:
        return f"{one.what}; what that changes is not known"
    if one.pico == 0:
        return f"{one.what}: no change by the end of the period"
    sign = "more" if one.pico >= 0 else "less"
    return f"{one.what}: {Usd(abs(one.pico)).format()} {sign} by the end of the period"


def _grid(found: LedgerForecast) -> Grid:
    heads = ("part", "days", "calls", "spent", "p50", "p5", "p95", "notes")
    return Grid("Parts", heads, [_row(one) for one in found.parts], frozenset(range(1, 7)))


def _row(one: Projection) -> list[str]:
    total = one.total
    amounts = [""] * 3 if total is None else [Usd(pico).format() for pico in (total.p50, total.p5, total.p95)]
    name = ", ".join(part or "-" for part in one.name)
    return [name, f"{one.days:,}", f"{one.requests:,}", _spent(one), *amounts, "; ".join(one.notes)]


def _write(found: LedgerForecast, asked: Asked) -> None:
    """Write the report, and the picture."""
    names = [", ".join(part or "-" for part in one.name) for one in found.parts]
    panels = [month(found.total.series, found.now.date()), parts(names, [one.total for one in found.parts])]
    title = f"Forecast of {os.path.basename(asked.file)}"
    total = found.total.total
    cards = [
        Card(f"by {found.until}, p50", "unknown" if total is None else Usd(total.p50).format(), _between(total)),
        Card("spent so far", _spent(found.total), f"since {found.since}"),
        *(Card(one.name, _day(one), _so_far(one) + _days(one)) for one in found.reached),
    ]
    notes = [*found.total.notes, *map(_effect, found.effects), *found.facts]
    subtitle = f"{found.since} – {found.until}, as of {found.now:%Y-%m-%d %H:%M} UTC"
    if asked.html:
        write(asked.html, page(title, subtitle, cards, panels, [_grid(found)], notes))
    if asked.png:
        png(panels, title, asked.png)
