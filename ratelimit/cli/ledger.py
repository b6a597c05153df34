"""`ratecard ledger report`"""

from __future__ import annotations

import os

import click

from pricing.ledger import Ledger, Totals

from ..errors import ConfigError
from ._shared import Readable, print_json
from .run import spent


def read_split(text: str) -> str:
    """Check what to split by. Raises ConfigError for what a ledger cannot be split by."""
    Ledger().totals(by=text)
    return text


@click.group("ledger")
def command() -> None:
    """Report what was spent."""


@command.command("report")
@click.argument("path", type=click.Path(dir_okay=False))
@click.option(
    "--by",
    type=Readable("what", read_split),
    default="model",
    show_default=True,
    help="model, day, state or tag:NAME. A model is named as it was served; as requested where no reply told.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def report(path: str, by: str, as_json: bool) -> None:
    """Total a ledger file, and split it by model, day, state or a tag."""
    if not os.path.exists(path):
        raise ConfigError(f"{path}: no such ledger")
    with Ledger(path) as ledger:
        total, parts = ledger.totals(), ledger.totals(by=by)
    if as_json:
        print_json({"total": total.as_dict(), "by": {name: part.as_dict() for name, part in parts.items()}})
        return
    for name, part in [*sorted(parts.items()), ("total", total)]:
        noun = "call" if part.posted_count == 1 else "calls"
        click.echo(f"{name or '-':<28} {spent(part):>14}  {part.posted_count:>8,} {noun}" + _open(part))
    if by == "model" and (total.pending_count or total.expired_count or total.voided_count):
        click.echo("models are named as served; where no reply told, as requested", err=True)


def _open(part: Totals) -> str:
    notes = []
    if part.pending_count:
        notes.append(f"{part.pending_count:,} pending ≈ {part.pending_estimate.format()}")
    if part.expired_count:
        notes.append(f"{part.expired_count:,} of unknown usage ≈ {part.expired_estimate.format()}")
    if part.unpriced_count:
        notes.append(f"{part.unpriced_count:,} without a price")
    return "  " + ", ".join(notes) if notes else ""
