"""`ratecard ledger report | export | reconcile | accuracy`; `book` and `settle` are in _batches"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import click

from pricing.accuracy import Accuracy, accuracy
from pricing.budget import DAY_US
from pricing.entries import Entry
from pricing.export import FORMATS, first_to_last, write_csv, write_jsonl, write_parquet
from pricing.ledger import Ledger
from pricing.money import Usd
from pricing.reconcile import Line, Reconciliation, read_export, reconcile
from pricing.totals import Totals, fold, part_of

from ..errors import ConfigError
from ._batches import booking, settling
from ._shared import Day, Readable, counted, print_json
from ._text import columns, echo
from .run import spent


def read_split(text: str) -> str:
    """Check what to split by. Raises ConfigError for what a ledger cannot be split by."""
    part_of(text)
    return text


SPLIT = Readable("what", read_split)
_path = click.argument("path", type=click.Path(dir_okay=False))
_since = click.option("--since", type=Day(), help="Only calls from this day (UTC) on.")
_until = click.option("--until", type=Day(), help="Only calls up to the end of this day (UTC).")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("ledger")
def command() -> None:
    """Report what was spent, export it, and lay it beside OpenAI's own figures; book and settle batches."""


command.add_command(booking)
command.add_command(settling)


@command.command("report")
@_path
@click.option(
    "--by",
    type=SPLIT,
    multiple=True,
    default=("model",),
    show_default=True,
    help="model, asked_model, service_tier, endpoint, run, effort, attempt, row, state, hour, day, month or tag:NAME; "
    "several together. A model is named as it was served; as requested where no reply told.",
)
@_since
@_until
@_json
def report(path: str, by: tuple[str, ...], since: date | None, until: date | None, as_json: bool) -> None:
    """Total a ledger file, and split it by model, day, team …"""
    with Ledger(path, create=False) as ledger:
        part = part_of(by)
        parts: dict[str, Totals] = {}
        for entry in between(ledger, since, until):
            parts.setdefault(part(entry), Totals()).add(entry)
        total = fold(()) if not parts else _sum(parts)
    if as_json:
        print_json({"total": total.as_dict(), "by": {name: one.as_dict() for name, one in parts.items()}})
        return
    table = [
        [name or "-", spent(one), f"{one.posted_count:,} {'call ' if one.posted_count == 1 else 'calls'}", _open(one)]
        for name, one in [*sorted(parts.items()), ("total", total)]
    ]
    for line in columns(table, left=frozenset({0, 3})):
        echo(line)
    if "model" in by and (total.pending_count or total.expired_count or total.voided_count):
        echo("models are named as served; where no reply told, as requested", err=True)


@command.command("export")
@_path
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, allow_dash=True), help="- for stdout.")
@click.option("--format", "kind", type=click.Choice(FORMATS), help="What to write; else the ending of the output says.")
@_since
@_until
def export(path: str, output: str, kind: str | None, since: date | None, until: date | None) -> None:
    """Write every entry as a row of CSV, JSON Lines or Parquet, amounts exact."""
    kind = kind or output.rpartition(".")[2].lower()
    if kind not in FORMATS:
        raise click.UsageError(f"say what to write: --format {', '.join(FORMATS)}, or an output that ends so")
    if kind == "parquet" and output == "-":
        raise click.UsageError("a Parquet file needs a name: -o costs.parquet")
    if os.path.exists(output) and os.path.exists(path) and os.path.samefile(output, path):
        raise click.UsageError(f"-o {output} is the ledger itself: name another file")
    with Ledger(path, create=False) as ledger:
        last = max((entry.id for entry in ledger.entries()), default=0)

        def entries() -> Iterator[Entry]:
            return first_to_last(between(ledger, since, until), last)

        try:
            if kind == "parquet":
                count = write_parquet(entries, output)
            else:
                with click.open_file(output, "w", encoding="utf-8") as file:
                    count = (write_csv if kind == "csv" else write_jsonl)(entries, file)
        except BrokenPipeError:  # whoever read it has had enough
            raise
        except OSError as error:
            raise ConfigError(f"{output}: cannot be written: {error.strerror or error}") from error
    echo(f"{counted(count, 'row')}" + ("" if output == "-" else f"  →  {output}"), err=True)


@command.command("reconcile")
@_path
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--tolerance",
    type=Readable("usd", Usd.parse),
    help="Exit with 3 when a line of costs differs by more than this, such as 0.01.",
)
@_json
def reconciled(path: str, file: str, tolerance: Usd | None, as_json: bool) -> None:
    """Compare a ledger with FILE, what OpenAI's Costs or Usage API gave (JSON), by UTC day, model and component."""
    buckets = read_export(file)
    with Ledger(path, create=False) as ledger:
        found = reconcile(ledger.entries(), buckets)
    off = [line for line in found.lines if tolerance is not None and _beyond(line, tolerance)]
    if as_json:
        print_json(_document(found))
    else:
        _print(found)
    if off:
        echo(f"{counted(len(off), 'line')} off by more than {tolerance} USD", err=True)
        sys.exit(3)


@command.command("accuracy")
@_path
@click.option("--by", type=SPLIT, multiple=True, default=("model", "effort"), show_default=True, help="As of `report`.")
@_since
@_until
@_json
def compared(path: str, by: tuple[str, ...], since: date | None, until: date | None, as_json: bool) -> None:
    """Compare what calls were expected to cost with what they did."""
    with Ledger(path, create=False) as ledger:
        parts = accuracy(between(ledger, since, until), part_of(by))
    if as_json:
        print_json({"by": {name: _accuracy(one) for name, one in parts.items()}})
        return
    table = [
        [
            name or "-",
            f"{one.estimated.format()} expected",
            f"{one.actual.format()} billed",
            counted(one.calls, "call"),
            f"half are off by {_per_cent(one.error_median)} at most",
            f"95 % by {_per_cent(one.error_p95)}",
            f"output within its p95: {one.within_p95:,} of {one.counted:,}",
        ]
        for name, one in sorted(parts.items())
    ]
    for line in columns(table, left=frozenset({0, 4, 5, 6})):
        echo(line)
    if not parts:
        echo("no call was posted with the server's own usage after an estimate with a price", err=True)


def between(ledger: Ledger, since: date | None, until: date | None) -> Iterator[Entry]:
    """The entries of some days."""
    if since is not None and until is not None and until < since:
        raise ConfigError(f"--until {until} is before --since {since}")
    end_us = None if until is None else _midnight_us(until) + DAY_US
    for entry in ledger.entries(since_us=None if since is None else _midnight_us(since)):
        if end_us is None or entry.created_us < end_us:
            yield entry


def _midnight_us(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000


def _sum(parts: dict[str, Totals]) -> Totals:
    """Parts are disjoint and leave nothing out, so their sum is the total."""
    total = Totals()
    for part in parts.values():
        for name in Totals.__slots__:
            setattr(total, name, getattr(total, name) + getattr(part, name))
    return total


def _open(part: Totals) -> str:
    notes = []
    if part.pending_count:
        notes.append(f"{part.pending_count:,} pending ≈ {part.pending_estimate.format()}")
    if part.expired_count:
        notes.append(f"{part.expired_count:,} of unknown usage ≈ {part.expired_estimate.format()}")
    if part.unpriced_count:
        notes.append(f"{part.unpriced_count:,} without a price")
    return ", ".join(notes)


def _beyond(line: Line, tolerance: Usd) -> bool:
    return isinstance(line.residual, Usd) and abs(line.residual.pico) > tolerance.pico


def _document(found: Reconciliation) -> dict[str, Any]:
    def text(value: Any) -> Any:
        return str(value) if isinstance(value, Usd) else value

    return {
        "unit": found.unit,
        "lines": [{name: text(value) for name, value in line._asdict().items()} for line in found.lines],
        "open": {day: {name: text(value) for name, value in one._asdict().items()} for day, one in found.open.items()},
        "total": {name: str(getattr(found, name)) for name in ("ours", "theirs", "residual", "settled")},
    }


def _print(found: Reconciliation) -> None:
    def text(value: Usd | int | None) -> str:
        return "-" if value is None else value.format() if isinstance(value, Usd) else f"{value:,}"

    table = [["", "", "", "ours", "theirs", "residual"]]
    table += [[line.day, line.model or "-", line.component or "-", *map(text, line[3:])] for line in found.lines]
    if found.unit == "usd":
        table.append(["total", "", "", *map(text, (found.ours, found.theirs, found.residual))])
    for row in columns(table, left=frozenset({0, 1, 2})):
        echo(row)
    if found.unit == "usd":
        echo(f"settled    {found.settled.format()}: theirs where they have a line, ours where they have none")
    for day, one in sorted(found.open.items()):
        echo(
            f"{day}: in this ledger {one.pending.format()} is pending, {one.expired.format()} of unknown usage, "
            f"{one.estimated.format()} counted here, and {counted(one.unpriced_count, 'call')} without a price"
        )


def _accuracy(one: Accuracy) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Usd) else value for name, value in one._asdict().items()}


def _per_cent(per_mille: int | None) -> str:
    return "-" if per_mille is None else f"{per_mille / 10:.1f} %"
