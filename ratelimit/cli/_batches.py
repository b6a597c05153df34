"""`ratecard ledger book | settle`"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click

from pricing.batches import Booked, Settled, book, settle
from pricing.budget import Budget
from pricing.ledger import Ledger
from pricing.prices import load_prices

from .._json import loads
from ..checks import read_job_budgets
from ..errors import ConfigError, OverBudget
from ..job import BadLine, open_job, raw_lines, read_job
from ._prices import prices_option
from ._shared import Day, Readable, counted, print_json, region_option
from ._text import echo

_SHOWN = 5
"""Lines of one kind that are named to people; the JSON has them all."""

_batch_id = click.option("--batch-id", required=True, help="The batch's id: by it its lines are found again.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _read_tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigError(f'a tag is written like team=search, not "{text}"')
    return name, value


@click.command("book")
@click.argument("file", type=click.Path(dir_okay=False))
@_batch_id
@click.option("--ledger", "path", required=True, type=click.Path(dir_okay=False), help="Made when it is not there.")
@click.option(
    "--tag", "tags", type=Readable("name=value", _read_tag), multiple=True, help="On every entry; repeatable."
)
@click.option(
    "--budget",
    "budgets",
    type=Readable("usd", read_job_budgets),
    multiple=True,
    help="As of `ratecard run`; without room for the worst case of the whole batch nothing is booked, exit code 3.",
)
@click.option("--at", type=Day(), help="The day (UTC) it was submitted, if not now: its prices apply.")
@prices_option
@region_option
@_json
def booking(
    file: str,
    batch_id: str,
    path: str,
    tags: Sequence[tuple[str, str]],
    budgets: Sequence[Sequence[Budget]],
    at: date | None,
    prices: tuple[str, ...],
    region: str | None,
    as_json: bool,
) -> None:
    """Book FILE, the input of a batch, when it is submitted: a pending entry for every line, or none at all."""
    table = load_prices(overlay=prices)
    lines = list(_input_lines(file))
    with Ledger(path) as ledger:
        try:
            done = book(
                ledger, lines, batch_id=batch_id, at=at, tags=dict(tags), prices=table, region=region,
                budgets=[one for several in budgets for one in several],
            )  # fmt: skip
        except OverBudget as error:
            echo(f"error: {error}", err=True)
            sys.exit(3)
    if as_json:
        print_json({**done._asdict(), "estimate": str(done.estimate), "worst": str(done.worst)})
    else:
        _print_booked(done)


@click.command("settle")
@click.argument("output", required=False, type=click.Path(dir_okay=False))
@_batch_id
@click.option("--ledger", "path", required=True, type=click.Path(dir_okay=False), help="The one it is booked in.")
@click.option("--errors", type=click.Path(dir_okay=False), help="The batch's error file.")
@click.option(
    "--batch",
    "batch_file",
    type=click.Path(dir_okay=False),
    help="The batch itself (JSON of GET /v1/batches/ID): exit with 3 when its usage is not that of its lines.",
)
@prices_option
@region_option
@_json
def settling(
    output: str | None,
    batch_id: str,
    path: str,
    errors: str | None,
    batch_file: str | None,
    prices: tuple[str, ...],
    region: str | None,
    as_json: bool,
) -> None:
    """Settle a batch by OUTPUT, its output file: each line costs what its reply used, at the batch price.

    In parts, in any order and again, as one likes: nothing is billed twice.
    """
    if output is None and errors is None:
        raise click.UsageError("say what to settle by: OUTPUT, --errors FILE, or both")
    table = load_prices(overlay=prices)
    usage = None if batch_file is None else _usage(batch_file)
    files = {name: None if file is None else Numbered(file) for name, file in (("output", output), ("errors", errors))}
    with Ledger(path, create=False) as ledger:
        done = settle(
            ledger, batch_id, files["output"] or (), files["errors"] or (), usage=usage, prices=table, region=region
        )
    refused = [
        {"file": str(source), "line": source.numbers[one.position - 1], "reason": one.reason}
        for one in done.refused
        if (source := files[one.file]) is not None
    ]
    if as_json:
        print_json(_document(done, refused))
    else:
        _print_settled(done)
    _tell(done, refused)
    if refused:
        sys.exit(1)
    if done.mismatches:
        sys.exit(3)


class Numbered:
    """The JSON of a file's lines, with the number that each has in it; what is no JSON is None."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.numbers: list[int] = []

    def __iter__(self) -> Iterator[Any]:
        with open_job(Path(self._path)) as file:
            for number, raw in raw_lines(file, self._path):
                self.numbers.append(number)
                try:
                    yield loads(raw)
                except (ValueError, RecursionError):
                    yield None

    def __str__(self) -> str:
        return self._path


def _input_lines(file: str) -> Iterator[Mapping[str, Any]]:
    """The lines of a batch's input file. Raises ConfigError naming the bad ones: such a batch would not be accepted."""
    bad = []
    for line in read_job(file):
        if isinstance(line, BadLine):
            bad.append(f"line {line.number}: {line.reason}")
        else:
            yield {"custom_id": line.custom_id, "url": line.endpoint, "body": line.body}
    if bad:
        raise ConfigError(f"{file}: nothing is booked; {_some(bad)}")


def _usage(file: str) -> Mapping[str, Any]:
    with open_job(Path(file)) as stream:
        try:
            usage = loads(stream.read())["usage"]
        except (ValueError, RecursionError, LookupError, TypeError):
            usage = None
    if not isinstance(usage, Mapping):
        raise ConfigError(f"{file}: no batch with a usage (batches made before 2025-09-07 have none)")
    return usage


def _document(done: Settled, refused: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        **done._asdict(),
        "unbooked": list(done.unbooked),
        "refused": list(refused),
        "totals": done.totals.as_dict(),
        "mismatches": [one._asdict() for one in done.mismatches],
    }


def _print_booked(done: Booked) -> None:
    before = f", {done.lines - done.booked:,} booked before" if done.booked < done.lines else ""
    echo(f"booked    {counted(done.booked, 'line')}{before}")
    echo(f"cost      {done.estimate.format()} expected, {done.worst.format()} at worst")
    if done.unpriced:
        echo(f"unpriced  {counted(done.unpriced, 'line')}", err=True)


def _print_settled(done: Settled) -> None:
    totals = done.totals
    echo(
        f"settled   {counted(done.posted, 'line')} posted, {done.voided:,} not billed, {done.expired:,} of unknown "
        f"usage, {done.unchanged:,} that changed nothing"
    )
    echo(f"cost      {totals.posted.format()} for {counted(totals.posted_count, 'line')} of the batch")
    if totals.pending_count:
        echo(f"pending   {counted(totals.pending_count, 'line')} ≈ {totals.pending_estimate.format()}")
    if totals.unpriced_count:
        echo(f"unpriced  {counted(totals.unpriced_count, 'line')}", err=True)


def _tell(done: Settled, refused: Sequence[Mapping[str, Any]]) -> None:
    if done.unbooked:
        names = _some([json.dumps(name) for name in done.unbooked])
        lines = counted(len(done.unbooked), "line")
        echo(f"warning: {lines} without a booking; what they cost is posted all the same: {names}", err=True)
    for one in refused[:_SHOWN]:
        echo(f"error: {one['file']}:{one['line']}: {one['reason']}; not settled", err=True)
    if len(refused) > _SHOWN:
        echo(f"error: {len(refused) - _SHOWN:,} more such lines", err=True)
    for each in done.mismatches:
        echo(f"{each.name}: {each.ours:,} in the lines posted, {each.theirs:,} in the batch's usage", err=True)


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + rest
