"""`ratecard run FILE.jsonl -o OUT.jsonl --tier T`"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.request import getproxies

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from pricing.budget import Budget
from pricing.ledger import Ledger, Totals
from pricing.money import Usd
from pricing.prices import PriceTable, load_prices

from ..checks import check_files, check_limits, check_prices, check_resumed, read_base_url, read_job_budgets
from ..clock import US_PER_S, Clock
from ..errors import ConfigError, OverBudget
from ..job import STDIN, read_job, survey
from ..limiter import Limiter
from ..progress import Progress, Report, Waits
from ..results import Results
from ..runner import Runner, begin
from ..stores import read_store
from ._prices import prices_option
from ._shared import (
    TIER,
    Day,
    Readable,
    api_key,
    counted,
    limit_options,
    own_limits,
    policy_option,
    print_bad_lines,
    print_json,
    region_option,
)
from ._text import echo


@click.command("run")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="Where results go (JSONL).")
@click.option("--tier", type=TIER, help='Usage tier of the account, such as "tier_1" or "grow".')
@limit_options
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    type=Readable("usd", read_job_budgets),
    help='Most to spend: "5 USD" on this job, "25 USD/day" in the ledger, or a file of budgets (.yaml); again for '
    "more. Then stop, and keep what is done.",
)
@click.option("--ledger", "ledger_path", type=click.Path(dir_okay=False), help="Cost ledger (OUTPUT.costs.db).")
@click.option(
    "--base-url", type=Readable("url", read_base_url), help="Send to another server, such as `ratecard emulate`."
)
@click.option("--resume", is_flag=True, help="Go on with an existing output file; what is done is not paid twice.")
@click.option("--strict", is_flag=True, help="Stop at the first line that cannot be read.")
@policy_option
@click.option(
    "--preflight",
    type=click.Choice(["raise", "warn", "off"]),
    default="raise",
    show_default=True,
    help="What to do about lines that the model card rules out.",
)
@click.option(
    "--headroom", type=click.FloatRange(0, 1, max_open=True), default=0.0, help="Share of the limits left unused."
)
@click.option(
    "--concurrency", type=click.IntRange(1), default=1000, show_default=True, help="Most requests in the air."
)
@click.option("--attempts", type=click.IntRange(1), default=5, show_default=True, help="Most tries per line.")
@click.option(
    "--store",
    type=Readable("url", read_store),
    help="Share the limits with other processes: sqlite:///limits.db is a file for all of this machine.",
)
@click.option("--at", type=Day(), help="Read the dated tables as of this day (default: today).")
@prices_option
@region_option
@click.option("--explain", is_flag=True, help="Say which limits the requests waited for, and which waited longest.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(**options: Any) -> None:
    """Send FILE (JSONL: Batch-format lines, or bare request bodies; - for standard input) at the full speed of a tier.

    Results go to --output as Batch-format lines, each written as its request finishes. Every call is priced into the
    ledger. --resume goes on after a crash.
    """
    limits = own_limits(options["rpm"], options["tpm"], options["rpd"])
    if options["tier"] is None and limits is None:
        raise click.UsageError("say which limits to obey: --tier build, or --rpm/--tpm")
    file, output = options["file"], options["output"]
    ledger_path = options["ledger_path"] or f"{output}.costs.db"
    try:
        check_files(file, output, ledger_path)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    limiter = Limiter(
        options["tier"],
        limits=limits,
        policy=options["policy"],
        headroom=options["headroom"],
        preflight=options["preflight"],
        at=options["at"],
        store=options["store"],
    )
    # What is wrong with the settings is said before a file is made.
    table = load_prices(overlay=options["prices"])
    budgets = [one for several in options["budgets"] for one in several]
    if file != STDIN and not os.path.exists(file):
        raise ConfigError(f"{file}: cannot be read: No such file or directory")
    api_key(options["base_url"])
    found = survey(file)
    if found is not None:
        try:
            check_limits(limiter, found.models, file)
            check_prices(budgets, found.models, table, options["at"] or datetime.now(UTC).date(), file)
        except ConfigError:
            print_bad_lines(found.first_bad, found.bad, "`ratecard estimate --json`")  # none hides the others
            raise

    def check(held: Mapping[str, str]) -> None:
        if found is not None:
            check_resumed(file, output, held)

    results = Results(output, resume=options["resume"], check=check)
    try:
        with Ledger(ledger_path) as ledger:
            begun = begin(ledger, output, resume=options["resume"])
            report = asyncio.run(
                run_job(
                    file,
                    results,
                    limiter=limiter,
                    ledger=ledger,
                    run=begun.run,
                    base_url=options["base_url"],
                    budgets=budgets,
                    concurrency=options["concurrency"],
                    attempts=options["attempts"],
                    strict=options["strict"],
                    at=options["at"],
                    prices=table,
                    region=options["region"],
                    started=begun.started,
                    total=None if found is None else found.lines,
                )
            )
    finally:
        results.close()
    if options["as_json"]:
        print_json(report.as_dict())
    else:
        if begun.closed:
            words = "was never answered; it counts at its estimate"
            if begun.closed > 1:
                words = "were never answered; they count at their estimates"
            echo(f"{counted(begun.closed, 'call')} of an earlier run {words}", err=True)
        print_summary(report, output, ledger_path)
        if options["explain"]:
            print_waits(report.progress.waits, report.progress.attempts)
    if report.exit_code:
        sys.exit(report.exit_code)


async def run_job(
    file: str,
    results: Results,
    *,
    limiter: Limiter,
    ledger: Ledger,
    run: str,
    base_url: str | None = None,
    budgets: Sequence[Budget] = (),
    concurrency: int = 1000,
    attempts: int = 5,
    strict: bool = False,
    at: date | None = None,
    prices: PriceTable | None = None,
    region: str | None = None,
    started: Mapping[str, str] | None = None,
    total: int | None = None,
    quiet: bool = False,
) -> Report:
    """Run a job with progress on a terminal; Ctrl-C stops admitting and finishes what is in the air.

    budgets  those whose window is "job" count this run
    total   lines of the job, where that is known
    """
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    from ..transports.packed import packed
    from ..transports.wrap import family, wrap

    library = importlib.import_module(family(DefaultAsyncHttpxClient)[0])
    # A proxy from the environment keeps the client's own transports; else connections are packed into small pools.
    transport = None if getproxies() else packed(library)
    async with AsyncOpenAI(
        api_key=api_key(base_url),
        base_url=base_url,
        max_retries=0,
        http_client=DefaultAsyncHttpxClient(
            transport=transport,
            limits=library.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            timeout=library.Timeout(600, connect=30, pool=None),  # a place in our own pool is not the server's fault
        ),
    ) as plain:
        client = wrap(
            plain, limiter=limiter, ledger=ledger, budget=budgets or None, prices=prices, at=at, region=region
        )
        runner = Runner(
            client,
            limiter,
            ledger,
            results,
            run=run,
            concurrency=concurrency,
            attempts=attempts,
            strict=strict,
            started=started,
            on_slowed=print_slowed,
        )
        runner.progress.total = total
        with _stop_on_interrupt(runner), _shown(runner.progress, limiter, quiet):
            return await runner.run(read_job(file))


@contextlib.contextmanager
def _stop_on_interrupt(runner: Runner) -> Iterator[None]:
    """First Ctrl-C: stop admitting. Second: as always."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        runner.stop("interrupted", "interrupted")
        loop.remove_signal_handler(signal.SIGINT)
        click.echo(err=True)  # below ^C
        echo("stopping: what is in the air is finished (Ctrl-C again to abandon it)", err=True)

    try:
        loop.add_signal_handler(signal.SIGINT, interrupted)
    except (NotImplementedError, RuntimeError, ValueError):
        yield  # not on this platform, or not in the main thread
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextlib.contextmanager
def _shown(progress: Progress, limiter: Limiter, quiet: bool) -> Iterator[None]:
    console = Console(stderr=True)
    if quiet or not sys.stderr.isatty():  # not `is_terminal`: CI forces colours, and a log is no terminal
        yield
        return
    line = _Line(progress, limiter)
    with Live(line, console=console, refresh_per_second=4, transient=True):
        yield


class _Line:
    """The live line: done, failed, $ so far, $ projected, tokens per minute against the limit, time left."""

    def __init__(self, progress: Progress, limiter: Limiter) -> None:
        self._progress = progress
        self._limiter = limiter

    def __rich__(self) -> Text:
        return Text(progress_line(self._progress, self._limiter, self._limiter.clock))


def progress_line(progress: Progress, limiter: Limiter, clock: Clock) -> str:
    """Say in one line where a job stands."""
    p = progress
    done_us = max(1, clock.now_us() - p.started_us)
    work = None if p.total is None else max(0, p.total - p.skipped - p.bad)
    parts = [f"{p.done:,}" + (f"/{work:,}" if work is not None else "") + " done"]
    if p.failed:
        parts.append(f"{p.failed:,} failed")
    if p.bad:
        parts.append(f"{p.bad:,} bad lines")
    parts.append(f"{p.in_flight:,} in flight")
    money = p.spent.format()
    if work and p.done >= 5:
        money += f" (→ {Usd(p.spent.pico * work // p.done).format()})"
    parts.append(money)
    tokens, lanes = p.last_minute(clock.now_us())
    in_use = [gate.lane for gate in limiter.gates() if gate.lane.name in lanes or not lanes]
    limits = [limit.capacity for lane in in_use for limit in lane.limits if limit.name == "tpm"]
    known = limits and len(limits) == len(in_use)
    parts.append(f"{tokens:,}" + (f" of {sum(limits):,}" if known else "") + " tokens/min")
    if p.refused:
        parts.append(f"{p.refused:,} × 429")
    ended = p.done + p.failed
    if work and ended:
        parts.append(f"{_clock_text((work - ended) * done_us // ended)} left")
    return " · ".join(parts)


_ON_WITH = {"budget": "a larger --budget", "unpriced": "a price (--prices FILE), or unpriced:allow in --budget,"}
"""What a job that was stopped needs besides --resume, where that is no matter of waiting."""


def print_summary(report: Report, output: str | None, ledger: str | None) -> None:
    """Print how a job ended, for people."""
    p, totals = report.progress, report.totals
    counts = [f"{p.done:,} done"]
    if p.failed:
        counts.append(f"{p.failed:,} failed")
    if p.bad:
        counts.append(counted(p.bad, "bad line"))
    if p.skipped:
        counts.append(f"{p.skipped:,} done before")
    if p.not_sent:
        counts.append(f"{p.not_sent:,} not sent")
    echo(", ".join(counts) + (f"  →  {output}" if output else ""))
    print_bad_lines(report.bad_lines, len(report.bad_lines))
    groups = p.failure_groups()
    for number, code, message in groups[:10]:
        echo(f"  {number:,} × {code}: {' '.join(message.split())[:300]}".rstrip(": "), err=True)
    untold = p.failed - sum(number for number, _, _ in groups[:10])
    if untold:
        echo(f"  … and {untold:,} more, each with its words in the output", err=True)
    echo(f"time      {_times(report)}")
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in p.refusals.items())
    echo(f"429s      {p.refused:,}" + (f" ({kinds})" if kinds else "") + f" in {counted(p.attempts, 'request')}")
    echo(f"cost      {spent(totals)}" + _caveats(totals))
    if totals != report.this_run:
        echo(f"          {spent(report.this_run)} of it for the requests of this run")
    parts = {model: part for model, part in report.by_model.items() if part.posted_count}
    if len(parts) > 1:
        for model, part in sorted(parts.items()):
            echo(f"          {spent(part):>12}  {model} ({counted(part.posted_count, 'call')})")
    if ledger:
        echo(f"ledger    {ledger}")
    if p.stopped:
        echo(f"stopped   {p.stopped}")
        if output:
            how = _ON_WITH.get(p.stopped_by, "the same command")
            echo(f"go on     with {how} and --resume; nothing that is done is sent again")


def print_slowed(error: OverBudget) -> None:
    """Say for which budget a job waits, and about until when; the live line does not tell it from a job that hangs."""
    wait = timedelta(microseconds=error.retry_after_us or 0)
    until = (datetime.now(UTC) + wait).strftime("%Y-%m-%d %H:%M:%S")
    echo(f"waiting for budget {error.budget}: it has room for the next request at about {until} UTC", err=True)


def print_waits(waits: Waits, requests: int) -> None:
    """Print what the requests of a job, so many in all, waited for, for people."""
    if not waits.by_limit:
        echo("waits     none: every request went at once")
    for limit, (count, sum_us) in sorted(waits.by_limit.items(), key=lambda item: -item[1][1]):
        seconds = sum_us / US_PER_S
        average = f"{seconds / count:.1f} s each on average ({seconds / requests:.1f} s over all)"
        echo(f"waits     {count:,} of {counted(requests, 'request')} for {limit}, {average}")
    for wait in sorted(waits.longest, reverse=True):
        echo(
            f"          {wait.waited_us / US_PER_S:8.1f} s  {wait.custom_id} for {wait.limit} ({wait.tokens:,} tokens)"
        )


def _times(report: Report) -> str:
    p = report.progress
    wall, last, least = (us / US_PER_S for us in (p.finished_us - p.started_us, report.admission_us, report.minimum_us))
    words = f"{wall:.1f} s"
    if p.attempts:
        words += f"; last admission after {last:.1f} s; "
        if least >= 0.05:  # what would print as 0.0 s
            words += f"the limits allow {least:.1f} s at best ({last / least:.3f} ×), set by {report.binding_limit}"
        else:
            words += "the limits allow all of it at once"
    return words


def spent(totals: Totals) -> str:
    """What was posted, for people; a sum of calls that all have no price is no $0.00."""
    unknown = totals.posted_count > 0 and totals.unpriced_count == totals.posted_count
    return "no price" if unknown else totals.posted.format()


def _caveats(totals: Totals) -> str:
    notes = []
    if totals.expired_count:
        notes.append(
            f"{totals.expired_estimate.format()} more estimated for {counted(totals.expired_count, 'call')} "
            "of unknown usage"
        )
    if totals.pending_count:
        notes.append(f"{counted(totals.pending_count, 'call')} pending, about {totals.pending_estimate.format()}")
    if totals.unpriced_count:
        notes.append(
            f"{counted(totals.unpriced_count, 'call')} {'has' if totals.unpriced_count == 1 else 'have'} no price"
        )
    return f" ({'; '.join(notes)})" if notes else ""


def _clock_text(us: int) -> str:
    seconds = us // US_PER_S
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes}:{seconds:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
