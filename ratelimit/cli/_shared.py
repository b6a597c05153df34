"""What several commands need: reading options, printing JSON, and building a client."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import ConfigError
from ..job import open_job
from ..limit import Limits

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


def counted_lines(path: str) -> int | None:
    """Count the non-blank lines of a job file, for progress; None for what can be read only once, such as a pipe."""
    if not os.path.isfile(path):
        return None
    try:
        with open_job(Path(path)) as file:
            return sum(1 for line in file if line.strip())
    except (OSError, EOFError):
        return None  # reading it properly will say what is wrong
