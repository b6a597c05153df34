"""The forecast of a trace, on paper."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from pricing.spend import exact_sum

from ..forecast.charts import Panel, cost_by_component, fullness, png, queue_depth, rate_against_limit, spend_over_time
from ..forecast.document import of_trace
from ..forecast.lanes import Account
from ..forecast.page import Card, Grid, page
from ..forecast.series import series
from ..forecast.traced import OVER_US, TraceForecast, View, forecast_trace
from ..forecast.workload import ONLINE
from ._forecast import Asked, day, delivered, dollars, duration, exit_code, fact, print_table, reading_of, write
from ._shared import counted, print_bad_lines, print_json
from ._text import echo


def show(asked: Asked) -> int:
    """Print, and write, what was asked for; → exit code."""
    plain = Account(None, asked.limits, concurrency=asked.concurrency, at=asked.at)
    accounts = [plain._replace(tier=tier) for tier in asked.tiers] or [plain]
    reading = reading_of(asked)._replace(swap=asked.swaps)
    rows = 0

    def tell(more: int) -> None:
        nonlocal rows
        rows += more
        echo(f"{rows:,} rows read", err=True)

    found = forecast_trace(
        asked.file,
        reading,
        accounts,
        model=asked.model,
        over_us=asked.over or OVER_US,
        seed=asked.seed,
        progress=tell if sys.stderr.isatty() else None,
    )
    delivered(
        lambda: print_json(of_trace(found, asked.seed)) if asked.as_json else _print(found),
        lambda: _write(found, asked) if asked.html or asked.png else None,
    )
    return exit_code(found.trace.bad_rows, found.spending.unpriced, found.main.outlook.refused)


def _print(found: TraceForecast) -> None:
    trace, work, go, spent = found.trace, found.work, found.go, found.spending
    since = "" if trace.start is None else f", from {trace.start:%Y-%m-%d %H:%M} UTC"
    long = duration(int(work.arrival_us[-1]))
    fact("trace", f"{counted(len(work), 'request')} for {_some(work.models)} in {long}{since}")
    output = spent.output
    spread = "" if output.p5 == output.p95 else f" ({output.p5:,} – {output.p95:,})"
    fact("tokens", f"{int(go.input.sum()):,} in ({int(go.cached.sum()):,} cached), {output.p50:,} out{spread}")
    if len(go) < len(work):
        left = len(work) - len(go)
        fact("left out", f"{counted(left, 'request')} that cannot be sent in {found.main.account.name}: in no sum")
    label = "cost"
    for mode, one in found.by_mode.items():
        if one.cost is not None:
            of = "" if one.requests == len(go) else f" of {one.requests:,} of {len(go):,} requests"
            fact(label, f"{_amount(one.cost.usd()['p50'].format(), dollars(one.cost), one.cost)}  {mode}{of}")
            label = ""
    if label:
        fact(label, "unknown: nothing that can be sent has a price")
    for mode, one in found.by_mode.items():
        for reason, number in one.unpriced.items():
            fact("unpriced", f"{counted(number, 'request')}{'' if mode == ONLINE else f' in {mode}'}: {reason}")
    for note in (*trace.notes, *found.facts):
        fact("note", note)
    grid = _grid(found)
    echo("")
    print_table(grid.title, grid.heads, grid.rows, frozenset(range(len(grid.heads))) - grid.numbers)
    for text in _not_sent(found):
        echo(text)
    print_bad_lines(trace.bad, trace.bad_rows, what="row")


def _not_sent(found: TraceForecast) -> list[str]:
    """What cannot be sent in which tiers, each thing once."""
    tiers: dict[tuple[str, int], list[str]] = {}
    for one in found.views:
        for reason, number in one.outlook.refused.items():
            plain = reason.replace(f" in {one.account.name}", "", 1)
            tiers.setdefault((plain, number), []).append(one.account.name)
    return [
        f"{', '.join(names)}: {counted(number, 'request')} not sent: {why}" for (why, number), names in tiers.items()
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")


def _amount(plain: str, spread: str, cost: object) -> str:
    """A cost whose quantiles are one is a plain one: all replies are known."""
    return plain if getattr(cost, "p5", None) == getattr(cost, "p95", None) else spread


def _grid(found: TraceForecast) -> Grid:
    overs = [f"> {duration(us)}" for us, _ in found.main.delayed]
    heads = ("tier", "wait p50", "p95", "longest", *overs, "backlog", "in the air", "used", "peak", "of", "binding")
    alone = f" of {found.work.models[0]}" if len(found.work.models) == 1 else ""
    rows = [[cell.removesuffix(alone) for cell in _row(one)] for one in found.views]
    numbers = frozenset(range(1, 8 + len(overs)))
    return Grid("Tiers", heads, rows, numbers, found.views.index(found.main))


def _row(one: View) -> list[str]:
    p50, p95, _, longest = one.waits
    shares = [f"{part:.1%}" for _, part in one.delayed]
    if one.outlook.duration is None:
        return [one.account.name, *[""] * (8 + len(shares)), "not sent"]
    full = one.filled[0] if one.filled else None
    filled = ("", "", "") if full is None else (f"{full.sustained:.0%}", f"{full.peak:.0%}", full.limit)
    times = [duration(us) for us in (p50, p95, longest)]
    return [one.account.name, *times, *shares, f"{one.backlog:,}", f"{one.in_the_air:,}", *filled, one.outlook.binding]


def _write(found: TraceForecast, asked: Asked) -> None:
    """Write the report, and the picture."""
    work, spent, main = found.work, found.spending, found.main
    _, picos = work.expected(ONLINE)
    priced, panels = main.outlook.goes & (work.money[ONLINE].why < 0), list[Panel]()
    if main.outlook.duration is not None:
        lines = series(work, main.outlook, spent.cost, picos)
        panels = [spend_over_time(lines), *(rate_against_limit(lines, one.limit) for one in main.filled[:2])]
        panels.append(queue_depth(lines, main.account.concurrency))
    if spent.cost is not None:
        parts = {}
        for place, model in enumerate(work.models):
            mine = (work.model == place) & priced
            if mine.any():  # what has no price is not $0
                inputs = exact_sum(work.money[ONLINE].fixed[mine])
                parts[model] = (inputs, exact_sum(picos[mine]) - inputs)
        panels.append(cost_by_component(parts))
    panels.append(fullness([(one.account.name, one.filled) for one in found.views if one.filled]))
    title = f"Forecast of {os.path.basename(asked.file)}"
    names = ", ".join(work.models)
    subtitle = f"{counted(len(work), 'request')} for {names}; limits of {main.account.name}, prices of {day(asked.at)}"
    _, p95, _, longest = main.waits
    cards = [
        Card("cost", "no price" if spent.cost is None else spent.cost.usd()["p50"].format(), dollars(spent.cost)),
        Card("wait, p95", duration(p95), f"longest {duration(longest)}"),
        Card("peak backlog", f"{main.backlog:,}", f"{main.in_the_air:,} in the air at most"),
        Card("binding limit", main.outlook.binding or "none"),
    ]
    notes = [
        *found.facts,
        *found.trace.notes,
        *(
            f"{n:,} requests without a price{'' if mode == ONLINE else f' in {mode}'}: {why}."
            for mode, one in found.by_mode.items()
            for why, n in one.unpriced.items()
        ),
        *(f"{text}." for text in _not_sent(found)),
    ]
    if found.trace.bad_rows:
        notes.append(f"{found.trace.bad_rows:,} rows are no requests and are left out.")
    if asked.html:
        write(asked.html, page(title, subtitle, cards, panels, [_grid(found)], notes))
    if asked.png:
        png(panels, title, asked.png)
