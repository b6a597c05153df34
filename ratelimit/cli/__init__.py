"""The command line: parses and prints, decides nothing. One file per command; data to stdout, talk to stderr.

Exit codes: 0 ok, 1 error, 2 usage, 3 a budget (or gate) said no.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

import click

from ..errors import RatecardError
from ._text import echo

COMMANDS = {
    "demo": "See it work: a local server, a real job, a report. No key, under 30 seconds.",
    "run": "Send a JSONL job at the full speed of your tier; results and costs come out.",
    "emulate": "Serve a local OpenAI-compatible API that enforces a tier's limits.",
    "models": "Show model cards, limits by tier and prices, with dates and sources.",
    "estimate": "Count the tokens and the cost of a JSONL job; nothing is sent.",
    "forecast": "Foresee cost, duration and the binding limit of a job, a trace or a ledger; nothing is sent.",
    "gate": "Fail a pull request that costs too much, offline, and say why.",
    "baseline": "Write, show and compare reports of costs.",
    "batch": "Send a job of any size through the Batch API, at half price.",
    "ledger": "Report what was spent.",
    "tables": "Check the fact tables, or print where they and their schemas are.",
}


class Commands(click.Group):
    """Loads a command's module when it is called: `ratecard --help` imports nothing else."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{cmd_name}", __name__).command
        command.short_help = COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ratecard", prog_name="ratecard")
def cli() -> None:
    """Use the OpenAI API at exactly the speed your account allows, and know what every call costs."""


def main(args: list[str] | None = None) -> Any:
    """Run the command line; our own errors are one clear line and exit code 1, not a traceback."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # one line, as for errors
        try:
            return cli.main(args, prog_name="ratecard")
        except RatecardError as error:
            echo(f"error: {error}", err=True)
            sys.exit(1)


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    echo(f"warning: {message}", err=True)
