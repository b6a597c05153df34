"""`ratecard batch plan | run | status | cancel | adopt`"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import date
from typing import Any

import click

from pricing.learned import RECALLED
from pricing.ledger import Ledger
from pricing.money import Usd

from ..batch.plan import LanePlan, Plan, done_us, occupancy, plan_of, took_us
from ..batch.read import Columns, Options, read_columns
from ..pieces import cores
from ._batch_run import COMMANDS, plain
from ._forecast import duration, fact, print_table, watched
from ._prices import prices_option
from ._shared import TIER, Day, counted, print_bad_lines, print_json, region_option
from ._text import echo

_FEW = 20
"""Lines that fit into no batch, and lanes, that people are shown; the JSON has them all."""


@click.group("batch")
def command() -> None:
    """Jobs through the Batch API, at half price, however large: split, queued, collected."""


for one in COMMANDS:
    command.add_command(one)


@command.command("plan")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--tier", type=TIER, help="Usage tier: how many input tokens may wait.")
@click.option(
    "--queue", type=click.IntRange(1), help="Input tokens of a model that may wait, in the place of the tier's."
)
@click.option("--at", type=Day(), help="Prices as of this day (default: today).")
@prices_option
@region_option
@click.option("--ledger", type=click.Path(dir_okay=False), help="Learn the sizes of replies from this ledger.")
@click.option("--jobs", type=click.IntRange(1), help="Processes for a large file (default: one for each core).")
@click.option("--no-cache", is_flag=True, help="Count all tokens anew.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def planning(
    file: str, tier: str | None, queue: int | None, at: date | None, prices: Sequence[str], region: str | None,
    ledger: str | None, jobs: int | None, no_cache: bool, as_json: bool,
) -> None:  # fmt: skip
    """Say how FILE would go through the Batch API: batches, rounds of the queue, cost, the end. Nothing is sent."""
    options = Options(at, tuple(prices), ledger, region, not no_cache)
    with watched() as tell, plain(file) as size, open(file, "rb") as stream:
        told = None if tell is None else lambda done: tell("reading", done, size)
        columns = read_columns(stream, file, options, jobs=jobs or cores(), size=size, progress=told)
    plan, took = plan_of(columns, tier, queue=queue), list[int]()
    if ledger is not None:
        with Ledger(ledger, create=False) as book:
            took = took_us(book.latest(RECALLED))
    if as_json:
        print_json(document(plan, tier, took))
    else:
        _print(plan, tier, took)
    wrong = columns.bad or plan.unpriced or any(lane.never for lane in plan.lanes)
    sys.exit(1 if wrong else 0)


def document(plan: Plan, tier: str | None, took: Sequence[int] = ()) -> dict[str, Any]:
    """The plan as JSON has it."""
    columns, done = plan.columns, done_us(plan, took)
    return {
        "tier": tier,
        "requests": plan.requests,
        "batches": plan.batches,
        "cost": {"expected": str(Usd(plan.mean)), "worst": str(Usd(plan.worst))},
        "unpriced": [{"reason": reason, "requests": count} for reason, count in sorted(plan.unpriced.items())],
        "done_after": None
        if done is None
        else dict(zip(("p5", "p50", "p95"), (us // 1_000_000 for us in done), strict=True)),
        "done_after_at_most": plan.most_us // 1_000_000,
        "lanes": [_lane(lane, columns) for lane in plan.lanes],
        "bad_lines": [{"line": bad.number, "reason": bad.reason} for bad in columns.bad],
    }


def _lane(lane: LanePlan, columns: Columns) -> dict[str, Any]:
    return {
        "model": lane.lane.model,
        "endpoint": lane.lane.endpoint,
        "queue_tokens": lane.queue,
        "tokens": lane.tokens,
        "rounds": [
            [{"requests": len(one.places), "tokens": one.tokens, "bytes": one.size} for one in several]
            for several in lane.rounds
        ],
        "occupancy": [{"s": at_us // 1_000_000, "tokens": tokens} for at_us, tokens in occupancy(lane)],
        "never": [{"line": columns.number[place], "reason": why} for place, why in sorted(lane.never.items())],
    }


def _print(plan: Plan, tier: str | None, took: Sequence[int]) -> None:
    columns, done = plan.columns, done_us(plan, took)
    fact("job", f"{counted(plan.requests, 'request')} in {counted(plan.batches, 'batch', 'es')}")
    fact("account", tier or "unknown (--tier): no queue is known, the server will tell")
    fact("cost", f"{Usd(plan.mean).format()} expected, {Usd(plan.worst).format()} at worst, at batch prices")
    for reason, count in sorted(plan.unpriced.items()):
        fact("unpriced", f"{counted(count, 'request')}: {reason}")
    if done is not None:
        low, middle, high = map(duration, done)
        fact("done", f"after {middle} ({low} – {high}), if batches take as long as {len(took):,} of yours did")
    fact(
        "" if done else "done",
        f"at most {duration(plan.most_us)} after the first is submitted; most batches take far less",
    )
    echo("")
    heads = ("model", "endpoint", "requests", "tokens", "queue", "rounds", "batches", "fullest round")
    print_table("Queues", heads, [_row(lane) for lane in plan.lanes[:_FEW]], frozenset({0, 1}))
    never = [(columns.number[place], why) for lane in plan.lanes for place, why in lane.never.items()]
    for number, why in sorted(never)[:_FEW]:
        echo(f"line {number}: never: {why}", err=True)
    if len(never) > _FEW:
        echo(f"… and {len(never) - _FEW:,} more that fit into no batch (--json lists them all)", err=True)
    print_bad_lines(columns.bad, len(columns.bad))


def _row(lane: LanePlan) -> list[str]:
    fullest = max((sum(batch.tokens for batch in one) for one in lane.rounds), default=0)
    share = "" if not lane.queue else f" ({fullest / lane.queue:.0%})"
    return [
        lane.lane.model, lane.lane.endpoint, f"{sum(len(one.places) for one in lane.batches):,}", f"{lane.tokens:,}",
        "unknown" if lane.queue is None else f"{lane.queue:,}", f"{len(lane.rounds):,}",
        f"{sum(len(one) for one in lane.rounds):,}", f"{fullest:,}{share}",
    ]  # fmt: skip
