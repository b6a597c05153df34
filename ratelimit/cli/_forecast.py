"""What the three kinds of forecasts share on the command line: what was asked, progress, and texts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pricing.budget import Budget
from pricing.spend import Interval

from ..clock import US_PER_S
from ..errors import ConfigError
from ..forecast.outlook import REPLIES, Outlook, Relief, Span
from ..forecast.workload import Reading
from ..limit import Limits
from ._text import echo, shown

_NARROWEST = 120
"""Columns of a table that nobody sees on a terminal."""


class Asked(NamedTuple):
    """The command line, read."""

    file: str
    tiers: tuple[str, ...] = ()
    limits: Limits | None = None
    concurrency: int = 1000
    policy: str = "observed"
    swaps: tuple[tuple[str, str], ...] = ()
    model: str | None = None
    over: tuple[int, ...] = ()
    by: tuple[str, ...] = ()
    until: date | None = None
    deadline: int | None = None
    budget: Budget | None = None
    ledger: str | None = None
    at: date | None = None
    prices: tuple[str, ...] = ()
    region: str | None = None
    seed: int = 0
    html: str | None = None
    png: str | None = None
    jobs: int = 1
    no_cache: bool = False
    as_json: bool = False


def duration(us: int | None) -> str:
    """A duration for people: "42 s", "12:30 min", "3:20 h", "14.2 days"."""
    if us is None:
        return "unknown"
    if us == 0:
        return "0 s"
    if us < 10 * US_PER_S:
        return f"{us / US_PER_S:.1f} s"
    whole = round(us / US_PER_S)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    hours, minutes = divmod(minutes + (rest >= 30), 60)
    return f"{hours}:{minutes:02d} h" if hours < 48 else f"{whole / 86_400:.1f} days"


def between(found: Span | None, at_most_us: int | None = None) -> str:
    """A duration that is not known yet: the median, and where nine in ten lie."""
    if found is not None:
        return f"{duration(found.p50)} ({duration(found.p5)} – {duration(found.p95)})"
    return "unknown" if at_most_us is None else f"at most {duration(at_most_us)}"


def dollars(cost: Interval | None) -> str:
    """A cost that is not known yet: the median, and where nine in ten lie."""
    if cost is None:
        return "no price"
    amounts = cost.usd()
    return f"{amounts['p50'].format()} ({amounts['p5'].format()} – {amounts['p95'].format()})"


def fact(label: str, text: str) -> None:
    """Print one fact; its label in the first column."""
    echo(f"{label:<10}{text}".rstrip())


def print_binding(found: Outlook) -> None:
    """Say what binds, over time, and what relaxing it buys."""
    if not found.shares:
        return
    label = "binding"
    for name, part in sorted(found.shares.items(), key=lambda item: -item[1]):
        fact(label, f"{part:4.0%} of the time  {name}")
        label = ""
    if len(found.phases) > 1:
        label = "over time"
        for phase in found.phases:
            fact(label, f"{duration(phase.from_us)} – {duration(phase.until_us)}  {phase.limit}")
            label = ""
    label = "relaxing"
    for one in found.relief:
        fact(label, relieved(one))
        label = ""


def relieved(one: Relief) -> str:
    """What relaxing a limit buys, and which other one it then comes up against."""
    then = "" if one.binding in ("", REPLIES, one.change.removeprefix("twice ")) else f", then bound by {one.binding}"
    return f"{one.change}: {between(one.duration)}{then}"


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], left: frozenset[int]) -> None:
    """Print a table."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_NARROWEST)
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    console.print(table)


Tell = Callable[[str, int, "int | None"], object]


@contextmanager
def watched() -> Iterator[Tell | None]:
    """Show how far a terminal's user has to wait; anything else sees nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    # No thread of its own: processes are forked below it.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, whole: int | None) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(shown(what), total=whole)
            progress.update(tasks[what], advance=done, refresh=True)

        yield tell


def delivered(show: Callable[[], object], save: Callable[[], object]) -> None:
    """Write files before anything is printed: whoever reads the first lines alone (`| head`) has them all the same."""
    try:
        save()
    finally:
        show()


def day(at: date | None) -> date:
    """The day that prices are of."""
    return at or datetime.now(UTC).date()


def write(path: str, text: str) -> None:
    """Write a report. Raises ConfigError when that cannot be done."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


def reading_of(asked: Asked) -> Reading:
    """How requests are read and priced."""
    return Reading(
        policy=asked.policy,
        swap=(),
        at=asked.at,
        prices=asked.prices,
        ledger=asked.ledger,
        region=asked.region,
        cache=not asked.no_cache,
    )


def exit_code(*wrong: Any) -> int:
    """1 where something was left out of the forecast, as for `estimate`."""
    return int(any(wrong))
