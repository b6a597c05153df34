"""A report of what files come to, for a cost gate: jobs and prompt suites are counted, traces and ledgers are read.

Nothing is sent, and nothing depends on anything but the files, the tables and the settings: the same input gives the
same report. Quantiles are rounded to a millionth of a dollar or less, for the last digits of what floats add up to
differ between machines.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from pricing.cost import Unpriced, price_row
from pricing.errors import ConfigError
from pricing.export import needed
from pricing.gate.booked import groups_of
from pricing.gate.report import (
    TOTAL,
    Cell,
    Group,
    Header,
    Part,
    Range,
    Report,
    Span,
    cells_of,
    load_report,
    summed,
    unpriced_of,
)
from pricing.gate.rules import Source
from pricing.ledger import Ledger
from pricing.prices import PriceTable, load_prices
from pricing.resources import data_path
from pricing.spend import exact_sum, spending

from .forecast.job import paces_of, spent_by
from .forecast.kinds import JOB, LEDGER, REPORT, SUITE, TRACE, kind_of
from .forecast.lanes import Account
from .forecast.latency import Pace
from .forecast.outlook import Setting, outlook
from .forecast.trace import read_trace
from .forecast.traced import workload_of
from .forecast.workload import MODES, ONLINE, POLICIES, Reading, Workload, merged, read_workload
from .job import STDIN, opened
from .tiers import load_tiers

if TYPE_CHECKING:
    from pricing.spend import Interval

_MOST_DIGITS = 6  # of pico-dollars: a millionth of a dollar
Tell = Callable[[str, int, "int | None"], object]


class Collecting(NamedTuple):
    """How a report is made.

    tier         whose limits durations are of; None: there are none
    mode         online (as the lines say), flex, batch, window_2h or window_8h
    at           the day whose prices apply
    ledger       teaches the sizes and the times of replies
    jobs, cache  processes, and whether earlier token counts are used: they change no number
    """

    tier: str | None = None
    mode: str = ONLINE
    at: date | None = None
    region: str | None = None
    policy: str = "observed"
    prices: tuple[str, ...] = ()
    ledger: str | None = None
    seed: int = 0
    concurrency: int = 1000
    jobs: int = 1
    cache: bool = True

    @property
    def day(self) -> date:
        return self.at or datetime.now(UTC).date()


def collecting(settings: Mapping[str, str], file: str) -> Collecting:
    """Read a gate's settings. Raises ConfigError naming the file and the key."""

    def wrong(key: str, what: str) -> ConfigError:
        return ConfigError(f"{file}: gate.{key}: expected {what}, found {settings[key]!r}")

    given: dict[str, Any] = {key: settings[key] for key in ("tier", "region") if key in settings}
    for key, choices in (("mode", MODES), ("policy", POLICIES)):
        if key in settings:
            if settings[key] not in choices:
                raise wrong(key, f"one of {', '.join(choices)}")
            given[key] = settings[key]
    for key in ("seed", "concurrency"):
        if key in settings:
            if not settings[key].isascii() or not settings[key].isdigit() or len(settings[key]) > 9:
                raise wrong(key, "a whole number")
            given[key] = int(settings[key])
    if "at" in settings:
        try:
            given["at"] = date.fromisoformat(settings["at"])
        except ValueError:
            raise wrong("at", "a date, YYYY-MM-DD") from None
    if "tier" in given:
        load_tiers().scheme_of(given["tier"])
    return Collecting(**given)


def collect(sources: Sequence[Source], root: Path, how: Collecting, *, progress: Tell | None = None) -> Report:
    """Make the report of some files; a saved report is taken as it is, alone.

    sources   whose paths are relative to `root`; each file is a group, named by its path
    progress  told what is read, how many more bytes of it are done, and how many they are in all

    Raises  ConfigError when a file cannot be used; TableError when an overlay is wrong
    """
    files = list(_found(sources, root))
    for name, _ in files:
        if name != STDIN and (root / name).exists() and not (root / name).is_file():
            raise ConfigError(f"{name}: is no file: what is read by a gate is read more than once")
    kinds = [kind_of(str(root / name)) for name, _ in files]
    if REPORT in kinds:
        if len(files) > 1:
            raise ConfigError(f"{files[kinds.index(REPORT)][0]}: is a saved report: it is judged alone")
        return load_report(root / files[0][0])
    reading = Reading(how.policy, (), (how.mode,), how.day, how.prices, how.ledger, how.region, how.cache)
    prices = load_prices(overlay=how.prices)
    paces = {} if how.tier is None else paces_of(how.ledger)
    groups: list[Group] = []
    works: list[tuple[str, Workload]] = []
    for (name, source), kind in zip(files, kinds, strict=True):
        path = str(root / name)
        if kind == LEDGER:
            with Ledger(path, create=False) as book:
                parts = groups_of(book.entries(), source.by or (lambda _: ""), prices=prices)
            groups += [one._replace(name=f"{name}: {one.name}" if source.by else name) for one in parts]
            continue
        work, bad = _work(path, kind, source, reading, how, progress)
        works.append((kind, work))
        groups.append(_group(name, kind, work, bad, how, prices, paces))
    for name, count in Counter(group.name for group in groups).items():
        if count > 1 or name == TOTAL:
            raise ConfigError(
                f"{name!r} would be the name of two groups: rename the file, or split the ledger otherwise"
            )
    return (
        Report(_header(how, prices), tuple(groups), _total(groups, works, how, paces)) if groups else _nothing(sources)
    )


def _nothing(sources: Sequence[Source]) -> Report:
    raise ConfigError(
        f"there is nothing to look at: {', '.join(source.path for source in sources) or 'no file is named'}"
    )


def _found(sources: Sequence[Source], root: Path) -> Iterator[tuple[str, Source]]:
    """The files of sources, each once, in the order of their names."""
    found: dict[str, Source] = {}
    for source in sources:
        if glob.has_magic(source.path) and not (root / source.path).exists():
            names = [name for name in glob.glob(source.path, root_dir=root, recursive=True) if (root / name).is_file()]
            if not names:
                raise ConfigError(f"{source.path}: no file matches")
        else:
            names = [source.path]
        for name in names:
            found.setdefault(_posix(name, root), source)
    yield from sorted(found.items())


def _posix(name: str, root: Path) -> str:
    """A path as people on every system write it; of a file below `root`, relative to that."""
    path = Path(name)
    if path.is_absolute() and path.is_relative_to(root.absolute()):
        path = path.relative_to(root.absolute())
    return str(PurePosixPath(*path.parts)) if os.sep != "/" else os.path.normpath(path)


def _work(
    path: str, kind: str, source: Source, reading: Reading, how: Collecting, progress: Tell | None
) -> tuple[Workload, int]:
    """The requests of a file, and how many of its lines or rows are none."""
    told = None if progress is None else lambda done: progress(path, done, None)
    if kind == TRACE:
        trace = read_trace(path, model=source.model, progress=told)
        work = workload_of(trace, reading)
        if how.mode not in work.money:
            raise ConfigError(f"{path}: no model of it has prices for {how.mode}")
        return work, trace.bad_rows
    assert kind in (JOB, SUITE)
    with opened(path) as (stream, size):
        told = None if progress is None else lambda done: progress(path, done, size)
        job = read_workload(stream, path, reading, jobs=how.jobs, size=size, progress=told)
    return job.workload, len(job.bad)


def _group(
    name: str, kind: str, work: Workload, bad: int, how: Collecting, prices: PriceTable, paces: Mapping[str, Pace]
) -> Group:
    spent = spent_by(work, how.mode, how.seed)
    cells = summed(_cells(work, how, prices))  # two names of a service tier are one cell
    cost = None if spent.cost is None else _range(spent.cost, sum(cell.pico for cell in cells))
    duration, why = _duration([(kind, work)], how, paces)
    output = Range(*spent.output)
    if not spent.unpriced:
        output = output._replace(
            expected=sum(cell.parts["output"].quantity for cell in cells if "output" in cell.parts)
        )
    input_ = exact_sum(work.input)
    return Group(name, kind, len(work), dict(spent.unpriced), bad, input_, output, cost, duration, why, cells)


def _range(cost: Interval, expected: int) -> Range:
    """An interval with exact ends, and quantiles that are the same on every machine."""
    if cost.p5 == cost.p95:  # it is known
        return Range(expected, cost.p5, cost.p50, cost.p95, cost.worst)
    p5, p50, p95 = (min(cost.worst, _rounded(pico)) for pico in (cost.p5, cost.p50, cost.p95))
    return Range(expected, p5, p50, p95, cost.worst)


def _rounded(pico: int) -> int:
    """Round to a millionth of a dollar, or to seven digits where that is less."""
    unit: int = 10 ** max(0, min(_MOST_DIGITS, len(str(pico)) - 7))
    return (pico + unit // 2) // unit * unit


def _added(ranges: Iterable[Range]) -> Range | None:
    """Sums of what is known, or nearly: of such the quantiles add up well enough, and on the safe side."""
    found = list(ranges)
    return Range(*(sum(column) for column in zip(*found, strict=True))) if found else None


def _cells(work: Workload, how: Collecting, prices: PriceTable) -> Iterator[Cell]:
    """The requests that have a price, by model, service tier and length."""
    np = needed("numpy", extra="pandas")
    money = work.money[how.mode]
    for model, name in enumerate(work.models):
        for tier, asked in enumerate(work.tiers):
            mine = (work.model == model) & (work.tier == tier) & (money.why < 0)
            if not mine.any():
                continue
            row = price_row(name, asked or None if how.mode == ONLINE else how.mode, how.day, prices)
            assert not isinstance(row, Unpriced), "it has a price"
            above = row.above is not None and work.input > row.above
            for long in (False, True):
                which = mine & (above == long)
                if which.any():
                    yield _cell(np, work.where(which), how, (name, row.service_tier, long), row)


def _cell(np: Any, work: Workload, how: Collecting, key: tuple[str, str, bool], row: Any) -> Cell:
    money, count = work.money[how.mode], len(work)
    fixed = exact_sum(money.fixed)
    once = spending(money, work.kinds, work.kind, work.output, seed=how.seed, runs=1)
    assert once.cost is not None
    cached = exact_sum(work.cached)
    rate = (row.long if key[2] else row).common.cached_input or 0
    points = fixed and rate and cached * rate
    parts = {"cached_input": Part(cached, min(fixed, points))} if cached else {}
    rest = fixed - sum(part.pico for part in parts.values())
    fresh = exact_sum(work.input) - cached
    parts |= {"input": Part(fresh, rest)} if fresh or not rest else {"calls": Part(count, rest)}
    # Expected output in whole tokens: then what it costs is their price exactly, and no rounding looks like a price.
    written, pico = max(0, once.cost.mean - fixed), int(money.rate.max())
    if pico and int(money.rate.min()) == pico:
        tokens = -(-written // pico)
        parts["output"] = Part(tokens, tokens * pico)
    elif written or once.output.mean:
        parts["output"] = Part(max(1, once.output.mean), written)
    return Cell(*key, count, {name: part for name, part in parts.items() if any(part)}, row.source.read)


def _duration(
    works: Sequence[tuple[str, Workload]], how: Collecting, paces: Mapping[str, Pace]
) -> tuple[Span | None, str]:
    """How long requests take together; else why that is not known."""
    if how.tier is None:
        return None, "no tier is given"
    if not works:
        return None, "what is booked is of the past"
    if len({kind == TRACE for kind, _ in works}) > 1:
        return None, "jobs and traces do not run one after the other"
    if how.mode != ONLINE:
        return None, f"nobody publishes how long {how.mode} takes"
    trace = works[0][0] == TRACE
    work = works[0][1] if len(works) == 1 else merged([work for _, work in works], (how.mode,))
    if trace and len(works) > 1:
        return None, "traces do not run one after the other"
    account = Account(how.tier, concurrency=how.concurrency, at=how.day)
    found = outlook(work, account, Setting(paces, trace=trace, seed=how.seed), relief=False)
    if found.refused:
        reason, number = next(iter(found.refused.items()))
        return None, f"{number:,} requests cannot be sent in {how.tier}: {reason}"
    return (None, "there are no requests") if found.duration is None else (Span(*found.duration), "")


def _total(
    groups: Sequence[Group], works: Sequence[tuple[str, Workload]], how: Collecting, paces: Mapping[str, Pace]
) -> Group:
    """The whole: quantiles do not add up, so what is not known is simulated together."""
    if len(groups) == 1 and works:
        return groups[0]._replace(name=TOTAL)
    expected, cells = sum(group.expected for group in groups), cells_of(groups)
    booked = [group for group in groups if group.kind == LEDGER]
    cost = _added(group.cost for group in booked if group.cost is not None)
    output = _added(group.output for group in booked) or Range.known(0)
    if works:
        work = merged([work for _, work in works], (how.mode,))
        spent = spent_by(work, how.mode, how.seed)
        output = _added([output, Range(*spent.output)]) or output
        if spent.cost is not None:
            cost = _added([_range(spent.cost, expected), *([cost._replace(expected=0)] if cost else [])])
    output = output._replace(expected=sum(group.output.expected for group in groups))
    duration, why = (
        _duration(works, how, paces) if len(works) == len(groups) else (None, "what is booked is of the past")
    )
    return Group(
        TOTAL, groups[0].kind if len({group.kind for group in groups}) == 1 else JOB,
        sum(group.requests for group in groups), unpriced_of(groups), sum(group.bad for group in groups),
        sum(group.input for group in groups), output, cost, duration, why, cells,
    )  # fmt: skip


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _header(how: Collecting, prices: PriceTable) -> Header:
    settings = {
        "mode": how.mode,
        "policy": how.policy,
        "region": how.region or "",
        "seed": str(how.seed),
        "concurrency": str(how.concurrency),
        "learned": "yes" if how.ledger else "no",
    }
    return Header(
        version("ratecard"), str(how.day), prices.version, _digest(data_path("tiers.yaml")), how.tier or "", settings
    )
