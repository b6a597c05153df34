"""What `ratecard gate` and `ratecard baseline` share: where reports come from, and where outputs go."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from pricing.gate.formats import check_format, render
from pricing.gate.judge import Verdict
from pricing.gate.report import Report, load_report
from pricing.gate.rules import Config, Source, load_gate

from ..collect import Collecting, collect, collecting
from ..errors import ConfigError
from ..forecast.workload import MODES, POLICIES
from ..pieces import cores
from ._forecast import watched
from ._prices import prices_option
from ._shared import TIER, Day, region_option
from ._text import echo

Command = TypeVar("Command", bound=Callable[..., Any])

CONFIG = "ratecard.yaml"
"""The config that is read where none is named."""
APPENDED = frozenset({"github-output"})
"""Outputs that are added to a file others write to as well."""


class Output(NamedTuple):
    """A format, and where it goes; None: standard output."""

    name: str
    path: str | None


def read_output(text: str) -> Output:
    """Read "junit=report.xml" or "table". Raises ConfigError for a format that there is not."""
    name, sign, path = text.partition("=")
    check_format(name)
    if sign and not path:
        raise ConfigError(f"{text!r}: after the = comes the path of a file")
    return Output(name, None if path in ("", "-") else path)


def check_outputs(outputs: Sequence[Output], inputs: Sequence[str]) -> None:
    """Nothing is written over what was read, or over another output. Raises click.UsageError."""
    taken = {os.path.realpath(path): path for path in inputs}
    for one in outputs:
        place = None if one.path is None else os.path.realpath(one.path)
        if place is None or place.startswith("/dev/"):
            continue
        if place in taken:
            raise click.UsageError(f"-o {one.name}={one.path} would be written over {taken[place]}")
        taken[place] = one.name


def source_options(command: Command) -> Command:
    """Give a command files, a config, and the settings that reports depend on; `found` makes them a report."""
    options = [
        click.argument("files", nargs=-1, type=click.Path(dir_okay=False)),
        click.option(
            "-c", "--config", type=click.Path(dir_okay=False), help=f"The gate (default: {CONFIG}, if it is there)."
        ),
        click.option("--tier", type=TIER, help="Usage tier, for durations."),
        click.option("--mode", type=click.Choice(MODES), help="How the jobs are sent (default: as their lines say)."),
        click.option("--at", type=Day(), help="Prices as of this day (default: today)."),
        prices_option,
        region_option,
        click.option("--policy", type=click.Choice(POLICIES), help="What is charged at admission."),
        click.option(
            "--ledger", type=click.Path(dir_okay=False), help="Learn the sizes and times of replies from this ledger."
        ),
        click.option("--model", help="Model of traces that name none."),
        click.option("--by", help="Split ledgers by this, such as model or tag:team."),
        click.option("--seed", type=int, help="Of everything drawn."),
        click.option("--concurrency", type=click.IntRange(1), help="Requests in the air, for durations."),
        click.option("--jobs", type=click.IntRange(1), help="Processes for a large file (default: one for each core)."),
        click.option("--no-cache", is_flag=True, help="Count all tokens anew."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def config_of(path: str | None) -> tuple[Config, Path]:
    """The gate that is meant, and the folder that its paths are relative to."""
    if path is None:
        if not os.path.isfile(CONFIG):
            return Config(), Path()
        path = CONFIG
    return load_gate(path), Path(path).parent


def found(config: Config, root: Path, files: Sequence[str], **options: Any) -> Report:
    """Make the report of the files, else of the config's sources. What the command names wins over the config."""
    how = collecting(config.settings, config.file)
    given = {name: value for name, value in options.items() if value is not None and name in Collecting._fields}
    if how.ledger is None and "ledger" in config.settings:
        how = how._replace(ledger=str(root / config.settings["ledger"]))
    overlays = (*(str(root / path) for path in config.prices), *options["prices"])
    how = how._replace(**given)._replace(
        prices=overlays, jobs=options["jobs"] or cores(), cache=not options["no_cache"]
    )
    sources: Sequence[Source] = config.sources
    if files:
        sources, root = [Source(file, options["model"], options["by"]) for file in files], Path()
    if not sources:
        raise click.UsageError(f"nothing to look at: name files, or list `sources` in {CONFIG}")
    with watched() as tell:
        return collect(sources, root, how, progress=tell)


def baseline_of(named: str | None, config: Config, root: Path) -> Report | None:
    """The report to compare with: the one that is named, else the config's; None where that is not there yet."""
    if named is not None:
        return load_report(named)
    if config.baseline is None:
        return None
    path = str(root / config.baseline)
    if not os.path.exists(path):
        echo(f"note: there is no baseline yet ({path}); `ratecard baseline write` makes one", err=True)
        return None
    return load_report(path)


def put_out(verdict: Verdict, outputs: Sequence[Output], tag: str | None = None) -> None:
    """Print and write all outputs. Those on standard output come last, in their order, so that files are never lost.

    tag  of a comment: which of several on one pull request this is
    """
    texts = [(one, render(one.name, verdict, tag=tag)) for one in outputs]
    for one, text in texts:
        if one.path is not None:
            put(one.path, text, append=one.name in APPENDED or os.environ.get("GITHUB_STEP_SUMMARY") == one.path)
    for one, text in texts:
        if one.path is None:
            _print(text)


def _print(text: str) -> None:
    """Print as UTF-8, whatever the locale: a pipe of a bare environment speaks ASCII."""
    if sys.stdout is None:
        raise ConfigError("standard output is closed: write to a file with -o NAME=PATH")
    try:
        sys.stdout.flush()
        buffer = getattr(sys.stdout, "buffer", None)
        if buffer is None:
            sys.stdout.write(text)
        else:
            buffer.write(text.encode("utf-8", "backslashreplace"))
            buffer.flush()
    except BrokenPipeError:  # whoever reads has seen enough; the verdict stands
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise ConfigError(f"standard output: cannot be written: {error.strerror or error}") from error


def put(path: str, text: str, *, append: bool = False) -> None:
    """Write a file, whole or not at all. Raises ConfigError when that cannot be done."""
    try:
        # /dev/stdout is a link, or a device: nothing to be replaced.
        if append or os.path.islink(path) or (os.path.exists(path) and not os.path.isfile(path)):
            with open(path, "a" if append else "w", encoding="utf-8", newline="\n") as file:
                if append and os.path.isfile(path) and _is_open_ended(path):
                    file.write("\n")
                file.write(text)
            return
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder or ".", prefix=".ratecard-")
        try:
            with open(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


def _is_open_ended(path: str) -> bool:
    """Whether a file's last line has no end."""
    with open(path, "rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
