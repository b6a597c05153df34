"""What several commands need: reading options, printing JSON, and building a client."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, TypeVar

import click

from ..errors import ConfigError
from ..job import MOST_SHOWN, BadLine
from ..limit import Limits
from ..tiers import POLICIES, load_tiers
from ._text import echo

Command = TypeVar("Command", bound=Callable[..., Any])


def print_json(document: Any) -> None:
    """Print a document as stable JSON (sorted by us, not by chance); decimals are strings already."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


class Day(click.ParamType[date]):
    """A date option, YYYY-MM-DD."""

    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a date such as 2026-11-24", param, ctx)


class Readable(click.ParamType[Any]):
    """An option that is read by a function of ours: what that refuses is wrong usage, exit code 2."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._read(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


def known_tier(text: str) -> str:
    """Check the name of a tier. Raises ConfigError for one that no scheme has."""
    load_tiers().scheme_of(text)
    return text


TIER = Readable("tier", known_tier)

policy_option = click.option(
    "--policy", type=click.Choice(POLICIES), default="observed", show_default=True, help="What is charged at admission."
)


region_option = click.option(
    "--region", metavar="REGION", help='Region the account has chosen, such as "eu", where the server does not say so.'
)


def counted(number: int, noun: str, ending: str = "s") -> str:
    """Write a number and its noun: "1 call", "2 calls"."""
    return f"{number:,} {noun}" + ("" if number == 1 else ending)


def print_bad_lines(first: Sequence[BadLine], number: int, more_in: str = "--json", what: str = "line") -> None:
    """Say what is wrong with the first of so many lines, or rows below the head of a table, to stderr."""
    for bad in first[:MOST_SHOWN]:
        echo(f"{what} {bad.number}: {bad.reason}", err=True)
    if number > MOST_SHOWN:
        echo(f"… and {counted(number - MOST_SHOWN, f'more bad {what}')} ({more_in} lists them all)", err=True)


def limit_options(command: Command) -> Command:
    """Give a command --rpm, --tpm and --rpd; `own_limits` collects them."""
    for name, what in (("rpd", "requests per day"), ("tpm", "tokens per minute"), ("rpm", "requests per minute")):
        text = f"Own limit: {what}, in the place of the tier's."
        command = click.option(f"--{name}", type=click.IntRange(1), help=text)(command)
    return command


def own_limits(rpm: int | None, tpm: int | None, rpd: int | None) -> Limits | None:
    """Collect --rpm, --tpm and --rpd into the `limits=` of a Limiter; None when none was given."""
    given = {name: value for name, value in (("rpm", rpm), ("tpm", tpm), ("rpd", rpd)) if value is not None}
    return given or None


def api_key(base_url: str | None) -> str:
    """Find the API key; a server of one's own (--base-url) needs none."""
    key = os.environ.get("OPENAI_API_KEY")
    if key:
        return key
    if base_url:
        return "unused"
    raise ConfigError("OPENAI_API_KEY is not set; set it, or send the job to another server with --base-url")
