"""`ratecard baseline write | show | diff`"""

from __future__ import annotations

from typing import Any

import click

from pricing.gate.judge import judge
from pricing.gate.report import dumps, load_report
from pricing.gate.rules import Config

from ._gate import Output, config_of, found, put, put_out, read_output, source_options
from ._shared import Readable
from ._text import echo

_outputs = click.option(
    "-o", "--output", "outputs", multiple=True, type=Readable("output", read_output), metavar="NAME[=PATH]",
    help="table (default), json, markdown …; more than once.",
)  # fmt: skip
_as_json = click.option("--json", "as_json", is_flag=True, help="The same as -o json.")


@click.group("baseline")
def command() -> None:
    """Keep what a change is compared with: a report, as a file."""


@command.command("write")
@source_options
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), help="Where to (default: the config's `baseline`; - prints)."
)
def write(files: tuple[str, ...], config: str | None, output: str | None, **options: Any) -> None:
    """Write the report of FILES, or of the config's `sources`: the same input, the same bytes."""
    gate, root = config_of(config)
    path = output or (None if gate.baseline is None else str(root / gate.baseline))
    if path is None:
        raise click.UsageError("where to? give -o PATH, or `baseline` in the config")
    text = dumps(found(gate, root, files, **options))
    if path == "-":
        click.echo(text, nl=False)
        return
    put(path, text)
    echo(f"wrote {path}", err=True)


@command.command("show")
@click.argument("path", type=click.Path(dir_okay=False))
@_outputs
@_as_json
def show(path: str, outputs: tuple[Output, ...], as_json: bool) -> None:
    """Show a report."""
    _put_out(judge(load_report(path), None, _LOOK), outputs, as_json)


@command.command("diff")
@click.argument("old", type=click.Path(dir_okay=False))
@click.argument("new", type=click.Path(dir_okay=False))
@_outputs
@_as_json
def diff(old: str, new: str, outputs: tuple[Output, ...], as_json: bool) -> None:
    """Compare two reports, and say what of the change is due to prices, tokens, volume, and model or tier."""
    _put_out(judge(load_report(new), load_report(old), _LOOK), outputs, as_json)


_LOOK = Config(stale="ignore")
"""No rules: whoever looks judges."""


def _put_out(verdict: Any, outputs: tuple[Output, ...], as_json: bool) -> None:
    put_out(verdict, [*outputs, *([Output("json", None)] if as_json else [])] or [Output("table", None)])
