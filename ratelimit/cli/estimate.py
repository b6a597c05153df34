"""`ratecard estimate FILE.jsonl`"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import click

from pricing.cost import Unpriced
from pricing.estimate import estimate
from pricing.learned import RECALLED, Learned, effort_of
from pricing.ledger import Ledger
from pricing.money import Usd
from pricing.prices import load_prices

from ..errors import ConfigError
from ..job import BadLine, read_job
from ._prices import prices_option
from ._shared import Day, counted, print_json


@click.command("estimate")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--batch", is_flag=True, help="Price as the Batch API does.")
@click.option("--service-tier", help='Price this tier, such as "flex".')
@click.option("--ledger", type=click.Path(dir_okay=False), help="Expect replies as large as those in this ledger were.")
@click.option("--lines", is_flag=True, help="Also list every line.")
@click.option("--at", type=Day(), help="Prices as of this day (default: today).")
@prices_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    file: str,
    batch: bool,
    service_tier: str | None,
    ledger: str | None,
    lines: bool,
    at: Any,
    prices: tuple[str, ...],
    as_json: bool,
) -> None:
    """Count the tokens and the cost of a JSONL job, per line and in total. Nothing is sent."""
    table = load_prices(overlay=prices)
    learned = Learned()
    if ledger is not None:
        with Ledger(ledger, create=False) as book:
            learned = Learned(reversed(book.latest(RECALLED)))
    rows: list[dict[str, Any]] = []
    total = dict.fromkeys(("mean", "worst"), Usd.ZERO)  # percentiles do not add up
    counts = {"lines": 0, "input_tokens": 0, "inexact": 0, "unpriced": 0}
    bases: Counter[str] = Counter()
    reasons: dict[str, None] = {}
    bad: list[dict[str, Any]] = []
    for line in read_job(file):
        if isinstance(line, BadLine):
            bad.append({"line": line.number, "reason": line.reason})
            continue
        try:
            guess = estimate(
                line.body,
                endpoint=line.endpoint,
                batch=batch,
                service_tier=service_tier,
                at=at,
                prices=table,
                prior=learned.foresee(str(line.body.get("model")), effort_of(line.body), {}),
            )
        except ConfigError as error:
            bad.append({"line": line.number, "reason": str(error)})
            continue
        counts["lines"] += 1
        counts["input_tokens"] += guess.input.tokens
        counts["inexact"] += not guess.input.exact
        bases[guess.output_basis] += 1
        row: dict[str, Any] = {"line": line.number, "custom_id": line.custom_id, "model": guess.model}
        row["input_tokens"] = guess.input.tokens
        if isinstance(guess.cost, Unpriced):
            counts["unpriced"] += 1
            reasons.setdefault(guess.cost.reason)
            row["unpriced"] = guess.cost.reason
        else:
            for key, amount in guess.cost._asdict().items():
                row[key] = str(amount)
            for key in total:
                total[key] += getattr(guess.cost, key)
        if lines:
            rows.append(row)
    known = counts["unpriced"] < counts["lines"] or not counts["lines"]
    if as_json:
        cost = {key: str(usd) for key, usd in total.items()} if known else None  # never $0 for what has no price
        document: dict[str, Any] = {**counts, "cost": cost, "bad_lines": bad}
        document["output_basis"] = dict(bases.most_common())
        print_json({**document, "rows": rows} if lines else document)
    else:
        for row in rows:
            price = row.get("unpriced") or f"{row['mean']:>14} {row['worst']:>14}"
            click.echo(f"{row['line']:>7} {row['model']:<14} {row['input_tokens']:>9,} {price}")
        click.echo(f"lines     {counts['lines']:,}")
        click.echo(
            f"input     {counts['input_tokens']:,} tokens"
            + (f" ({counted(counts['inexact'], 'line')} estimated)" if counts["inexact"] else "")
        )
        if known:
            click.echo(f"cost      {total['mean'].format()} expected, {total['worst'].format()} at worst")
        for basis, number in bases.most_common():
            click.echo(f"output    {counted(number, 'line')}: {basis}")
        if counts["unpriced"]:
            click.echo(f"unpriced  {counted(counts['unpriced'], 'line')}: {' · '.join(reasons)}")
        for one in bad:
            click.echo(f"line {one['line']}: {one['reason']}", err=True)
    if bad or counts["unpriced"]:
        sys.exit(1)
