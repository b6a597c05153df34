"""`ratecard batch run | status | cancel | adopt`: runs of batches, on the command line."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path

import click

from pricing.budget import Budget
from pricing.context import tags
from pricing.export import needed
from pricing.ledger import Ledger
from pricing.money import Usd
from pricing.prices import load_prices

from ..batch.api import OpenAIApi
from ..batch.books import JOB_TAG
from ..batch.driver import DEADLINE, Outcome, Stopped
from ..batch.journal import SUBMITTED, Journal
from ..batch.run import (
    Settings,
    adopt,
    begin,
    cancel,
    drive,
    finish,
    good_in,
    job_budgets,
    journal_of,
    ledger_of,
    rest_of,
    standing,
)
from ..checks import check_files, read_base_url, read_job_budgets
from ..errors import ConfigError
from ..limiter import Limiter
from ..pieces import cores
from ..results import Results
from ._forecast import between, fact, watched
from ._prices import prices_option
from ._shared import TIER, Day, Readable, api_key, counted, print_bad_lines, print_json, region_option
from ._text import echo
from .forecast import read_duration
from .run import run_job

CANCELLING_US = 10 * 60 * 1_000_000
"""What a batch may take to be cancelled. Source: OpenAI's batch guide, read 2026-07-15."""
BUDGET, FAILED, INTERRUPTED = 3, 1, 130

base_url_option = click.option(
    "--base-url", type=Readable("url", read_base_url), help="Another server, such as `ratecard emulate`."
)
_output = click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="The run's results.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("run")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="Results, one line per request.")
@click.option("--tier", type=TIER, help="Usage tier: how many input tokens may wait.")
@click.option("--queue", type=click.IntRange(1), help="Input tokens of a model that may wait, in place of the tier's.")
@click.option(
    "--budget", "--max-cost", "budgets", multiple=True, type=Readable("usd", read_job_budgets),
    help='Most to spend: "5 USD" on this job, "25 USD/day" in the ledger; each batch is held at its worst case.',
)  # fmt: skip
@click.option("--ledger", type=click.Path(dir_okay=False), help="Cost ledger (OUTPUT.costs.db).")
@click.option("--attempts", type=click.IntRange(1), default=3, show_default=True, help="Most tries per line.")
@click.option("--deadline", type=Readable("duration", read_duration),
              help="When it must be done (20h …): what batches will not have done by then goes online.")  # fmt: skip
@click.option("--overflow", type=click.Choice(["online", "flex"]), default="online", show_default=True,
              help="How the rest goes when the deadline comes nearer.")  # fmt: skip
@click.option("--poll", type=Readable("duration", read_duration), default="60s", show_default=True,
              help="Time between two looks.")  # fmt: skip
@click.option("--retry-failed", is_flag=True, help="Try the lines again that failed for good in this run.")
@base_url_option
@click.option("--at", type=Day(), help="Read the dated tables as of this day (default: today).")
@prices_option
@region_option
@click.option("--jobs", type=click.IntRange(1), help="Processes for a large file (default: one for each core).")
@click.option("--no-cache", is_flag=True, help="Count all tokens anew.")
@_json
def running(
    file: str, output: str, tier: str | None, queue: int | None, budgets: Sequence[Sequence[Budget]],
    ledger: str | None, attempts: int, deadline: int | None, overflow: str, poll: int, retry_failed: bool,
    base_url: str | None, at: date | None, prices: Sequence[str], region: str | None, jobs: int | None,
    no_cache: bool, as_json: bool,
) -> None:  # fmt: skip
    """Send FILE through the Batch API: split, queued, collected. Started again, it goes on where it was.

    Exit codes: 0 done, 1 lines failed or an error, 2 wrong usage, 3 a budget stopped it.
    """
    settings = Settings(
        tier, queue, attempts, poll, tuple(one for several in budgets for one in several), at, tuple(prices), region,
        ledger, jobs or cores(), not no_cache,
    )  # fmt: skip
    if deadline is not None and tier is None:
        raise click.UsageError("--deadline needs --tier: how long the rest takes online hangs on its limits")
    book = ledger_of(output, settings)
    try:
        check_files(file, output, book)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    try:
        with plain(file), _api(base_url) as api, _journal(output, create=True) as journal:
            code = _run(api, journal, file, output, book, settings, deadline, overflow, base_url, retry_failed, as_json)
    except KeyboardInterrupt:
        echo(
            "stopped: batches that were submitted go on at the server; the same command goes on with the run", err=True
        )
        code = INTERRUPTED
    sys.exit(code)


def _run(
    api: OpenAIApi, journal: Journal, file: str, output: str, book: str, settings: Settings, deadline: int | None,
    overflow: str, base_url: str | None, retry_failed: bool, as_json: bool,
) -> int:  # fmt: skip
    """Take a run to its end; → exit code."""
    with watched() as tell:
        told = None if tell is None else lambda done: tell("reading", done, None)
        bad = begin(journal, file, settings, progress=told)
    if (noted := journal.fact("ledger")) not in (None, os.path.abspath(book)):
        raise ConfigError(f"--ledger {book}: this run is booked in {noted}: go on with that")
    journal.note(ledger=os.path.abspath(book))
    if retry_failed and (again := journal.retry_failed()):
        echo(f"{counted(again, 'line')} that failed will be tried again", err=True)
    until_us = None if deadline is None else _until(journal, file, settings, deadline)
    results = Results(output, resume=journal.fact("begun") is not None)
    journal.note(begun="yes")
    try:
        with Ledger(book) as books:
            outcome = drive(api, journal, results, books, settings, told=_Teller(as_json), until_us=until_us)
            if outcome.stopped is not None and outcome.stopped.by == DEADLINE:
                outcome = _overflow(journal, results, books, settings, output, overflow, base_url, outcome)
            spent = (
                totals[journal.run].posted if journal.run in (totals := books.totals(f"tag:{JOB_TAG}")) else Usd.ZERO
            )
    finally:
        results.close()
    if as_json:
        print_json(
            {**standing(journal), "batches_submitted": outcome.batches, "failures": dict(outcome.failures),
             "stopped": None if outcome.stopped is None else outcome.stopped.why, "cost": str(spent),
             "bad_lines": [{"line": one.number, "reason": one.reason} for one in bad]}
        )  # fmt: skip
    else:
        _print(outcome, output, book, spent)
    print_bad_lines(bad, len(bad))
    return _exit_code(outcome, bool(bad))


@contextmanager
def _journal(output: str, *, create: bool = False, look: bool = False) -> Iterator[Journal]:
    """The journal of a run; what is wrong with its file is said in words."""
    path = journal_of(output)
    try:
        with Journal(path, create=create, look=look) as journal:
            yield journal
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: cannot be used: {error}") from error


@contextmanager
def plain(file: str) -> Iterator[int]:
    """See that a job can be read more than once, as a batch's files demand; → its bytes."""
    if file == "-" or not os.path.isfile(file):
        raise ConfigError(f"{file}: a job for batches is read more than once: name a file that is there")
    with open(file, "rb") as stream:
        if stream.read(2) == b"\x1f\x8b":
            raise ConfigError(f"{file}: is packed: unpack it first, its lines are read more than once")
    yield os.path.getsize(file)


def _exit_code(outcome: Outcome, bad: bool) -> int:
    if outcome.stopped is not None and outcome.stopped.by == "budget":
        return BUDGET
    return FAILED if bad or outcome.counts.failed or outcome.counts.open else 0


@contextmanager
def _api(base_url: str | None) -> Iterator[OpenAIApi]:
    from openai import OpenAI

    with OpenAI(base_url=base_url, api_key=api_key(base_url)) as client:
        yield OpenAIApi(client)


def _until(journal: Journal, file: str, settings: Settings, within_us: int) -> int:
    """When batches have to be given up, so that the rest is done online in time; counted from the run's beginning."""
    deadline_us = int(journal.fact("begun_us") or 0) + within_us
    from ..forecast.choices import cheapest
    from ..forecast.job import paces_of, ways
    from ..forecast.lanes import Account
    from ..forecast.outlook import Setting
    from ..forecast.workload import MODES, ONLINE, Reading, read_workload
    from ..job import opened

    needed("numpy", extra="pandas")
    teacher = settings.ledger if settings.ledger and Path(settings.ledger).exists() else None
    reading = Reading(
        modes=MODES, at=settings.at, prices=settings.prices, ledger=teacher, region=settings.region,
        cache=settings.cache,
    )  # fmt: skip
    with opened(file) as (stream, size):
        work = read_workload(stream, file, reading, jobs=settings.jobs, size=size).workload
    choices = ways(work, Account(settings.tier, at=settings.at), Setting(paces_of(teacher)))
    online = next(one for one in choices if one.mode == ONLINE)
    if online.duration is None or online.missing:
        why = next(iter(online.notes), "")
        raise ConfigError(f"--deadline: not all of the job can go online in {settings.tier}: {why}")
    best = cheapest(choices, within_us, None, settings.tier or "")
    if best is not None and best.mode != "batch":
        echo(
            f"note: {best.mode} is the cheapest way that surely makes it; batches are tried as long as they may",
            err=True,
        )
    until_us = deadline_us - online.duration.p95 - CANCELLING_US
    if until_us <= time.time_ns() // 1000:
        echo(f"note: the deadline leaves no time for batches: online it takes {between(online.duration)}", err=True)
    else:
        at = datetime.fromtimestamp(until_us / 1e6).astimezone()
        took = between(online.duration)
        echo(f"note: what batches have not done by {at:%Y-%m-%d %H:%M} goes online (all of it: {took})", err=True)
    return until_us


def _overflow(
    journal: Journal, results: Results, ledger: Ledger, settings: Settings, output: str, how: str,
    base_url: str | None, outcome: Outcome,
) -> Outcome:  # fmt: skip
    """Send what batches have not done, at the speed of the tier."""
    rest = Path(f"{output}.rest.jsonl")
    number, name = rest_of(journal, rest, "flex" if how == "flex" else None), f"{journal.run}/{how}"
    for entry in list(ledger.entries(state="pending", run=name)):  # of a process that died here
        ledger.expire(entry.id, "the run that sent this call ended before its answer; counted at its estimate")
    echo(f"{counted(number, 'request')} go {how}", err=True)
    with tags(**{JOB_TAG: journal.run}):
        report = asyncio.run(
            run_job(
                str(rest),
                results,
                limiter=Limiter(settings.tier, at=settings.at),
                ledger=ledger,
                run=name,
                base_url=base_url,
                budgets=job_budgets(journal, settings),
                attempts=settings.attempts,
                at=settings.at,
                prices=load_prices(overlay=settings.prices),
                region=settings.region,
                total=number,
            )
        )
    document = report.as_dict()
    done = finish(journal, good_in(output))
    left = outcome.counts.open - done
    counts = outcome.counts._replace(open=left, done=outcome.counts.done + done)
    why = document.get("stopped")
    stopped = Stopped(str(why), str(report.progress.stopped_by)) if why else None
    rest.unlink(missing_ok=True)
    return outcome._replace(counts=counts, stopped=stopped)


class _Teller:
    """Says how a run goes: a line on stderr whenever something has changed."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._last, self._trouble = quiet, "", ""

    def __call__(self, journal: Journal, trouble: str) -> None:
        if self._quiet:
            return
        if trouble:
            if trouble != self._trouble:
                echo(f"{datetime.now():%H:%M:%S} the server cannot be asked, and is asked again: {trouble}", err=True)
            self._trouble = trouble
            return
        self._trouble = ""
        found = standing(journal)
        waiting = ", ".join(f"{tokens:,} tokens of {model} wait" for model, tokens in found["enqueued_tokens"].items())
        lines = found["lines"]
        batches = ", ".join(f"{number:,} {state}" for state, number in sorted(found["batches"].items()))
        text = f"{lines['done']:,} of {sum(lines.values()):,} lines done; batches: {batches}" + (
            f"; {waiting}" if waiting else ""
        )
        for why in found["waiting_for"]:
            text += f"; {why}"
        if text != self._last:
            echo(f"{datetime.now():%H:%M:%S} {text}", err=True)
            self._last = text


def _print(outcome: Outcome, output: str, book: str, spent: Usd) -> None:
    counts = outcome.counts
    fact("done", f"{counts.done:,} of {sum(counts):,} requests, in {counted(outcome.batches, 'submission')}")
    for code, number in sorted(outcome.failures.items()):
        fact("failed", f"{counted(number, 'request')}: {code}")
    if counts.open:
        fact("open", f"{counted(counts.open, 'request')}: the same command goes on")
    if outcome.stopped is not None:
        fact("stopped", outcome.stopped.why)
    fact("cost", f"{spent.format()} in {book}")
    fact("results", output)


@click.command("status")
@_output
@_json
def status(output: str, as_json: bool) -> None:
    """Say how a run stands, by its journal, also while it is under way; nothing is asked of the server."""
    with _journal(output, look=True) as journal:
        found = standing(journal)
    if as_json:
        print_json(found)
        return
    fact("job", str(found["job"]))
    for name, number in found["lines"].items():
        fact(name, f"{number:,} lines")
    for state, number in sorted(found["batches"].items()):
        fact("batches", f"{number:,} {state}")
    for model, tokens in found["enqueued_tokens"].items():
        fact("waiting", f"{tokens:,} tokens of {model}")


@click.command("cancel")
@_output
@base_url_option
def cancelling(output: str, base_url: str | None) -> None:
    """Cancel the batches of a run that are in the air. `batch run` collects what they have done, and goes on."""
    with _journal(output) as journal, _api(base_url) as api:
        number = cancel(api, journal)
    echo(f"cancelled {counted(number, 'batch', 'es')}", err=True)


@click.command("adopt")
@click.argument("batch_ids", nargs=-1, required=True)
@_output
@click.option("--ledger", type=click.Path(dir_okay=False), help="Cost ledger (OUTPUT.costs.db).")
@base_url_option
def adopting(batch_ids: Sequence[str], output: str, ledger: str | None, base_url: str | None) -> None:
    """Take over batches that were created elsewhere: `batch run OUTPUT.job.jsonl -o OUTPUT` collects them then."""
    job = Path(f"{output}.job.jsonl")
    with _journal(output, create=True) as journal, _api(base_url) as api:
        adopt(api, journal, job, batch_ids, Settings(ledger=ledger, jobs=cores()))
        found = len(journal.batches(SUBMITTED))
    echo(f"took over {found:,}; go on with: ratecard batch run {job} -o {output}", err=True)


COMMANDS = (running, status, cancelling, adopting)
