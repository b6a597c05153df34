"""`ratecard forecast FILE`"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from pricing.budget import Budget

from ..errors import ConfigError
from ..forecast.choices import read_swap
from ..forecast.kinds import JOB, REPORT, SUITE, kind_of
from ..forecast.workload import POLICIES
from ..pieces import cores
from ._forecast import Asked
from ._prices import prices_option
from ._shared import (
    TIER,
    Day,
    Readable,
    limit_options,
    own_limits,
    region_option,
)


def read_duration(text: str) -> int:
    """Read "90s", "45m", "2h", "1d" as µs."""
    units = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
    number, unit = text[:-1], text[-1:]
    try:
        seconds = float(number) * units[unit]
    except (KeyError, ValueError):
        seconds = -1
    if not 0 < seconds < 1e9:
        raise ConfigError(f"{text!r} is no duration such as 90s, 45m, 2h or 1d")
    return round(seconds * 1_000_000)


@click.command("forecast")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--tier", "tiers", type=TIER, multiple=True, help="Usage tier; again to compare just these (default: all)."
)
@limit_options
@click.option("--concurrency", type=click.IntRange(1), default=1000, show_default=True, help="Requests in the air.")
@click.option("--policy", type=click.Choice(POLICIES), default="observed", show_default=True,
              help="What is charged at admission.")  # fmt: skip
@click.option("--swap", "swaps", multiple=True, type=Readable("swap", read_swap), metavar="MODEL=OTHER",
              help="Compare with another model in the place of one.")  # fmt: skip
@click.option("--model", help="Model of a trace that names none.")
@click.option(
    "--over",
    multiple=True,
    type=Readable("duration", read_duration),
    help="Count waits in a trace of more than this; again for more.",
)
@click.option("--by", multiple=True, help="Split a ledger's forecast by this (default: model), such as tag:team.")
@click.option("--until", type=Day(), help="Last day of a ledger's forecast (default: of this month).")
@click.option("--deadline", type=Readable("duration", read_duration), help="When it must be done: 90s, 45m, 2h, 1d.")
@click.option("--budget", type=Readable("usd", Budget.parse), help='What it may cost: "50 USD", or "25 USD/day".')
@click.option(
    "--ledger", type=click.Path(dir_okay=False), help="Learn the sizes and times of replies from this ledger."
)
@click.option("--at", type=Day(), help="Prices and facts as of this day (default: today).")
@prices_option
@region_option
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of everything drawn: the same seed, the same forecast."
)
@click.option(
    "--html", type=click.Path(dir_okay=False), help="Write a report with charts, one file that needs no network."
)
@click.option("--png", type=click.Path(dir_okay=False), help="Write the charts as a picture.")
@click.option("--jobs", type=click.IntRange(1), help="Processes for a large file (default: one for each core).")
@click.option("--no-cache", is_flag=True, help="Count all tokens anew.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: str, **options: Any) -> None:
    """Foresee what a job costs, how long it takes, which limit binds, and what would change it. Nothing is sent.

    FILE is a job (JSONL, or - for standard input), a prompt suite (promptfooconfig.yaml), a trace (CSV or Parquet of
    requests with their times), or a ledger.
    """
    limits = own_limits(options.pop("rpm"), options.pop("tpm"), options.pop("rpd"))
    if limits and options["tiers"][1:]:
        raise click.UsageError("--rpm, --tpm and --rpd replace the limits of one --tier; leave the others out")
    asked = Asked(file, limits=limits, jobs=options.pop("jobs") or cores(), **options)
    kind = kind_of(file)
    if kind == REPORT:
        raise ConfigError(f"{file}: is a gate's saved report: `ratecard baseline show` shows it")
    room = importlib.import_module(f"._forecast_{JOB if kind == SUITE else kind}", __package__)
    sys.exit(room.show(asked))
