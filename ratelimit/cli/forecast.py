"""`ratecard forecast FILE`"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from pricing.budget import Budget

from ..errors import ConfigError
from ..forecast.choices import read_swap
from ..forecast.kinds import JOB, LEDGER, REPORT, SUITE, TRACE, kept, kind_of
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

_ONLY = {
    "model": (TRACE,),
    "over": (TRACE,),
    "by": (LEDGER,),
    "until": (LEDGER,),
    "deadline": (JOB,),
    "budget": (JOB, LEDGER),
    "policy": (JOB,),
    "concurrency": (JOB, TRACE),
    "ledger": (JOB, TRACE),
    "region": (JOB, TRACE),
    "rpm": (JOB, TRACE),
    "tpm": (JOB, TRACE),
    "rpd": (JOB, TRACE),
}
"""Options that say nothing to other kinds of files. Those that change no number, such as --jobs, everybody may give."""


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
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of everything drawn: the same seed, the same forecast.",
)
@click.option(
    "--html", type=click.Path(dir_okay=False), help="Write a report with charts, one file that needs no network."
)
@click.option("--png", type=click.Path(dir_okay=False), help="Write the charts as a picture.")
@click.option("--jobs", type=click.IntRange(1), help="Processes for a large file (default: one for each core).")
@click.option("--no-cache", is_flag=True, help="Count all tokens anew.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, /, file: str, **options: Any) -> None:
    """Foresee what a job costs, how long it takes, which limit binds, and what would change it. Nothing is sent.

    FILE is a job (JSONL, or - for standard input), a prompt suite (promptfooconfig.yaml), a trace (CSV or Parquet of
    requests with their times), or a ledger.
    """
    limits = own_limits(options.pop("rpm"), options.pop("tpm"), options.pop("rpd"))
    if limits and options["tiers"][1:]:
        raise click.UsageError("--rpm, --tpm and --rpd replace the limits of one --tier; leave the others out")
    _check_outputs(file, options)
    with kept(file) as path:
        asked = Asked(path, limits=limits, jobs=options.pop("jobs") or cores(), **options)
        kind = kind_of(path)
        if kind == REPORT:
            raise ConfigError(f"{file}: is a gate's saved report: `ratecard baseline show` shows it")
        kind = JOB if kind == SUITE else kind
        _check_options(context, kind)
        code = importlib.import_module(f"._forecast_{kind}", __package__).show(asked)
    sys.exit(code)


def _check_options(context: click.Context, kind: str) -> None:
    """Refuse an option that would say nothing. Raises UsageError naming the kinds that it is for."""
    for name, kinds in _ONLY.items():
        given = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        if given and kind not in kinds:
            raise click.UsageError(f"--{name} is for a {' or a '.join(kinds)}, and this file is a {kind}")


def _check_outputs(file: str, options: dict[str, Any]) -> None:
    """Refuse to write over what is read. Raises UsageError naming both."""
    read = [file, options["ledger"], *options["prices"]]
    written = [(f"--{name}", options[name]) for name in ("html", "png") if options[name]]
    for option, path in written:
        for one in read:
            if one and _same(path, one):
                raise click.UsageError(f"{option} {path} would write over {one}, which is read")
    if len(written) == 2 and _same(written[0][1], written[1][1]):
        raise click.UsageError(f"--html and --png are one file: {written[0][1]}")


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.abspath(one) == os.path.abspath(other)
