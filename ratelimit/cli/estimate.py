"""`ratecard estimate FILE.jsonl`"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from pricing.money import Usd
from pricing.prices import load_prices

from ..job import opened
from ..pieces import cores
from ..tally import Options, Part, Row, Sums, tally
from ._prices import prices_option
from ._shared import Day, counted, print_bad_lines, print_json, region_option
from ._text import columns, echo


@click.command("estimate")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--batch", is_flag=True, help="Price as the Batch API does.")
@click.option("--service-tier", help='Price this tier, such as "flex".')
@click.option("--ledger", type=click.Path(dir_okay=False), help="Expect replies as large as those in this ledger were.")
@click.option("--lines", is_flag=True, help="Also list every line.")
@click.option("--at", type=Day(), help="Prices as of this day (default: today).")
@prices_option
@region_option
@click.option("--jobs", type=click.IntRange(1), help="Processes for a large file (default: one for each core).")
@click.option("--no-cache", is_flag=True, help="Count all tokens anew.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    file: str,
    batch: bool,
    service_tier: str | None,
    ledger: str | None,
    lines: bool,
    at: Any,
    prices: tuple[str, ...],
    region: str | None,
    jobs: int | None,
    no_cache: bool,
    as_json: bool,
) -> None:
    """Count the tokens and the cost of a JSONL job, per line and in total. Nothing is sent.

    FILE may be a prompt suite (promptfooconfig.yaml), or - for standard input.
    """
    table = load_prices(overlay=prices)
    tiers = tuple(dict.fromkeys((*table.tier_of.values(), *table.tier_of)))
    if service_tier is not None and service_tier not in tiers:
        raise click.UsageError(f"unknown --service-tier {service_tier!r}; known: {', '.join(tiers)}")
    if batch and service_tier is not None and table.tier(service_tier) != "batch":
        raise click.UsageError(f"--batch is a tier of its own: leave it off, or --service-tier {service_tier}")
    totals = Sums()
    rows: list[dict[str, Any]] | None = [] if lines else None
    options = Options(batch, service_tier, at, prices, ledger, region, not no_cache)
    with opened(file) as (stream, size):
        for part in _watched(tally(stream, file, options, jobs=jobs or cores(), size=size), size):
            totals += part.sums
            if rows is not None:
                rows += [_as_dict(row) for row in part.rows if isinstance(row, Row)]
    _print_json(totals, rows) if as_json else _print(totals, rows or ())
    if totals.bad or totals.unpriced:
        sys.exit(1)


def _cost(sums: Sums) -> dict[str, Usd] | None:
    """The costs; None where no line has a price: never $0 for what has none."""
    if sums.unpriced == sums.lines and (sums.lines or sums.bad):
        return None
    return {"mean": Usd(sums.mean_pico), "worst": Usd(sums.worst_pico)}


def _print_json(sums: Sums, rows: list[dict[str, Any]] | None) -> None:
    """Print the document that docs/json.md describes."""
    cost = _cost(sums)
    document: dict[str, Any] = {
        "lines": sums.lines,
        "input_tokens": sums.input_tokens,
        "inexact": sums.inexact,
        "unpriced": sums.unpriced,
        "cost": None if cost is None else {key: str(usd) for key, usd in cost.items()},
        "bad_lines": [{"line": one.number, "reason": one.reason} for one in sums.bad],
        "output_basis": dict(sums.bases.most_common()),
    }
    print_json(document if rows is None else {**document, "rows": rows})


def _print(sums: Sums, rows: Iterable[dict[str, Any]]) -> None:
    """Print for people."""
    table = [["line", "model", "input tokens", "$ expected", "$ at worst"]]
    for row in rows:
        prices = ["-", "-", row["unpriced"]] if "unpriced" in row else [row["mean"], row["worst"]]
        table.append([f"{row['line']:,}", row["model"], f"{row['input_tokens']:,}", *prices])
    for line in columns(table, left=frozenset({1})) if len(table) > 1 else ():
        echo(line)
    echo(f"lines     {sums.lines:,}")
    estimated = f" ({counted(sums.inexact, 'line')} estimated)" if sums.inexact else ""
    echo(f"input     {sums.input_tokens:,} tokens{estimated}")
    if (cost := _cost(sums)) is not None:
        echo(f"cost      {cost['mean'].format()} expected, {cost['worst'].format()} at worst")
    for basis, number in sums.bases.most_common():
        echo(f"output    {counted(number, 'line')}: {basis}")
    if sums.unpriced:
        echo(f"unpriced  {counted(sums.unpriced, 'line')}: {' · '.join(sums.reasons)}")
    print_bad_lines(sums.bad, len(sums.bad))


def _as_dict(row: Row) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "line": row.number,
        "custom_id": row.custom_id,
        "model": row.model,
        "input_tokens": row.tokens,
    }
    if isinstance(row.cost, str):
        return {**shown, "unpriced": row.cost}
    return {**shown, **{key: str(amount) for key, amount in row.cost._asdict().items()}}


def _watched(parts: Iterator[Part], size: int | None) -> Iterator[Part]:
    """Show how far a terminal's user has to wait; anything else sees nothing."""
    if not sys.stderr.isatty():
        yield from parts
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), DownloadColumn(), TimeRemainingColumn())
    # No thread of its own: processes are forked below it.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=size)
        for part in parts:
            progress.update(task, advance=part.size, refresh=True)
            yield part
