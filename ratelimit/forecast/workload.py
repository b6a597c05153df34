"""The requests of a job or a trace, by column: what each takes from the limits and from the purse.

A column has a number for each request; names stand once, and requests point at them. So ten million requests fit into
memory, and whoever plans computes with all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from pricing.cost import Unpriced
from pricing.estimate import Estimate, Replies, asked_tier, effort_of, estimate, replies
from pricing.export import needed
from pricing.learned import RECALLED
from pricing.media import is_media
from pricing.spend import MOST_PICO, TOO_DEAR, Money, expected, joined

from ..counted import counts
from ..demand import demand
from ..errors import ConfigError
from ..job import BadLine, Block, Line, Unique, digest_of
from ..once import begin, learned_from, table_of
from ..pieces import lines_of, over

if TYPE_CHECKING:
    import numpy as np

    Ints = np.ndarray[Any, np.dtype[np.int64]]

ONLINE = "online"
MODES = (ONLINE, "flex", "batch", "window_2h", "window_8h")
"""Ways to send a job: as its lines say, or all of it in another service tier."""
UNKNOWN = -1
MOST_TOKENS = 1 << 40
POLICIES = ("observed", "documented")
"""What may be charged at admission. Not `conservative`: how much of what it reserves comes back, and when, hangs on
each reply, and a schedule without that would be far too long."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Requests; a column has (n,) numbers.

    models, tiers, kinds   the names that `model` and `tier` (the service tier asked for) point at, and the Replies
                           that `kind` does
    row                    the number of each request's line or row in its file
    input, cached          tokens; cached of input
    charged, images        what is taken from the limits at admission, beside one request
    output                 tokens; UNKNOWN where the reply is not there yet
    arrival_us             when it is there to be sent; µs after the first
    latency_us             how long it took; UNKNOWN
    money                  Money by mode
    """

    models: tuple[str, ...]
    tiers: tuple[str, ...]
    kinds: tuple[Replies, ...]
    row: Ints
    model: Ints
    tier: Ints
    kind: Ints
    input: Ints
    cached: Ints
    charged: Ints
    images: Ints
    output: Ints
    arrival_us: Ints
    latency_us: Ints
    money: Mapping[str, Money]

    def __len__(self) -> int:
        return len(self.row)

    def where(self, mask: Any) -> Workload:
        """Those requests alone for which `mask` (n,) is True."""
        columns = {name: getattr(self, name)[mask] for name in COLUMNS}
        money = {
            mode: Money(one.fixed[mask], one.rate[mask], one.worst[mask], one.why[mask], one.reasons)
            for mode, one in self.money.items()
        }
        return replace(self, **columns, money=money)

    def expected(self, mode: str) -> tuple[Ints, Ints]:
        """(n,) output tokens and (n,) pico-dollars that each is expected to take; 0 for what has no price.

        Law  the sums are the means of `spending` (tests/forecast/test_job.py)
        """
        np = needed("numpy", extra="pandas")
        money = self.money[mode]
        means = [expected(kind, 1) for kind in self.kinds] or [0]
        tokens = np.where(self.output >= 0, self.output, np.array(means, np.int64)[self.kind])
        picos = money.rate * np.maximum(self.output, 0)
        open_ = np.flatnonzero((self.output < 0) & (money.why < 0))
        if len(open_):
            rates, place = np.unique(money.rate[open_], return_inverse=True)
            keys, place = np.unique(self.kind[open_] * len(rates) + place, return_inverse=True)
            each = [expected(self.kinds[key // len(rates)], int(rates[key % len(rates)])) for key in keys.tolist()]
            picos[open_] = np.array(each, np.int64)[place]
        return tokens, np.where(money.why < 0, money.fixed + picos, 0)


COLUMNS = (
    "row", "model", "tier", "kind", "input", "cached", "charged", "images", "output", "arrival_us", "latency_us",
)  # fmt: skip


class Reading(NamedTuple):
    """How a job's lines are read.

    swap    model → the model that is to take its place
    modes   of MODES: how they may be sent
    prices  paths of overlays; `ledger` is the path of one that teaches the sizes of replies
    cache   whether token counts are looked up among those of earlier runs
    """

    policy: str = "observed"
    swap: tuple[tuple[str, str], ...] = ()
    modes: tuple[str, ...] = ("online",)
    at: date | None = None
    prices: tuple[str, ...] = ()
    ledger: str | None = None
    region: str | None = None
    cache: bool = True


class _Work(NamedTuple):
    path: str
    reading: Reading
    version: str


class _Piece(NamedTuple):
    """What a piece of a file comes to: its columns, the lines that are no requests, and the custom_ids for a check."""

    workload: Workload
    inexact: int
    bad: list[BadLine]
    ids: list[tuple[int, str, bytes]]
    size: int


class Job(NamedTuple):
    """A job file that was read.

    inexact  requests whose input tokens are an estimate
    bad      lines that are no requests
    """

    workload: Workload
    inexact: int
    bad: tuple[BadLine, ...]


def read_workload(
    file: IO[bytes],
    path: str,
    reading: Reading,
    *,
    jobs: int,
    size: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Job:
    """Read an open job file.

    jobs      processes, at most
    size      bytes of the file, where it is a plain one
    progress  told how many more bytes are done

    Raises  ConfigError when the file cannot be read; TableError when an overlay is wrong
    """
    work = _Work(path, reading, begin(reading.prices, reading.region))
    unique, parts, bad, inexact = Unique(), list[Workload](), list[BadLine](), 0
    swap = dict(reading.swap)

    def asked(line: Line) -> Line:
        return _swapped(line, swap)

    for piece in over(file, path, _read, work, jobs=jobs, size=size, cache=reading.cache, asked=asked):
        again = [one for each in piece.ids if (one := unique.check(*each)) is not None]
        workload = piece.workload
        if again:
            np = needed("numpy", extra="pandas")
            workload = workload.where(~np.isin(workload.row, [one.number for one in again]))
        parts.append(workload)
        bad += [*piece.bad, *again]
        inexact += piece.inexact
        if progress is not None:
            progress(piece.size)
    return Job(merged(parts, reading.modes), inexact, tuple(sorted(bad)))


def merged(parts: Sequence[Workload], modes: Iterable[str]) -> Workload:
    """Put requests one after another: those of the pieces of a file, or of several files."""
    np = needed("numpy", extra="pandas")
    names: dict[str, dict[Any, int]] = {"model": {}, "tier": {}, "kind": {}}
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for part in parts:
        for name, known in (("model", part.models), ("tier", part.tiers), ("kind", part.kinds)):
            places = np.array([names[name].setdefault(one, len(names[name])) for one in known], np.int64)
            columns[name].append(places[getattr(part, name)] if len(places) else getattr(part, name))
        for name in COLUMNS:
            if name not in names:
                columns[name].append(getattr(part, name))
    whole = {name: np.concatenate(column) if column else np.empty(0, np.int64) for name, column in columns.items()}
    money = {mode: joined(part.money[mode] for part in parts) for mode in modes}
    return Workload(tuple(names["model"]), tuple(names["tier"]), tuple(names["kind"]), **whole, money=money)


def _read(work: _Work, piece: Block) -> _Piece:
    """Read the lines of a piece."""
    reading = work.reading
    prices, learned = table_of(reading.prices, work.version), learned_from(reading.ledger, RECALLED)
    swap = dict(reading.swap)
    lines = lines_of(work.path, piece)
    asked = [_swapped(line, swap) if isinstance(line, Line) else None for line in lines]
    found = counts(asked, use=reading.cache)
    rows, inexact, bad = _Rows(reading.modes), 0, list[BadLine]()
    ids: list[tuple[int, str, bytes]] = []
    for line, ask, count in zip(lines, asked, found, strict=True):
        if isinstance(line, BadLine) or ask is None or count is None:
            bad.append(line if isinstance(line, BadLine) else BadLine(line.number, "its tokens cannot be counted"))
            continue
        ids.append((line.number, line.custom_id, digest_of(line.custom_id)))
        body, endpoint, model = ask.body, ask.endpoint, str(ask.body["model"])
        prior = learned.foresee(model, effort_of(body), {})
        try:
            wanted = demand(body, endpoint=endpoint, policy=reading.policy, at=reading.at, count=count)
            prices_of = [
                estimate(
                    body,
                    endpoint=endpoint,
                    batch=mode == "batch",
                    service_tier=None if mode in ("online", "batch") else mode,
                    at=reading.at,
                    prices=prices,
                    input_count=count,
                    region=reading.region,
                    prior=prior,
                )
                for mode in reading.modes
            ]
        except ConfigError as error:
            bad.append(BadLine(line.number, str(error), line.custom_id))
            continue
        reply = replies(body, endpoint, model, count, prior)
        if (most := max(wanted.tokens, reply.most * reply.choices)) > MOST_TOKENS:
            bad.append(BadLine(line.number, f"asks for {most:,} tokens, more than there can be", line.custom_id))
            continue
        inexact += not count.exact
        if is_media(endpoint):
            reply = Replies(None, 0, 1, prices_of[0].output_basis)
        rows.add(
            (line.number, model, asked_tier(body) or "", reply),
            (count.tokens, 0, wanted.tokens, wanted.images, UNKNOWN, 0, UNKNOWN),
            [_money(one) for one in prices_of],
        )
    return _Piece(rows.workload(), inexact, bad, ids, piece.size)


def _money(one: Estimate) -> tuple[int, int, int, str]:
    """What a request costs but for its output, a token of it, the most it can cost, and why it has no price."""
    if isinstance(one.cost, Unpriced):
        return 0, 0, 0, one.cost.reason
    worst = one.cost.worst.pico
    return (0, 0, 0, TOO_DEAR) if worst > MOST_PICO else (one.fixed, one.per_output, worst, "")


def _swapped(line: Line, swap: Mapping[str, str]) -> Line:
    """A line as if it asked for the model that takes its model's place."""
    other = swap.get(str(line.body.get("model")))
    return line if other is None else line._replace(body={**line.body, "model": other})


class _Rows:
    """Requests one by one, on their way into columns."""

    def __init__(self, modes: Sequence[str]) -> None:
        self._names: tuple[dict[Any, int], ...] = ({}, {}, {})
        self._rows: list[tuple[int, ...]] = []
        self._money: dict[str, list[tuple[int, int, int, int]]] = {mode: [] for mode in modes}
        self._reasons: dict[str, dict[str, int]] = {mode: {} for mode in modes}

    def add(
        self,
        facts: tuple[int, str, str, Replies],
        numbers: tuple[int, ...],
        money: Sequence[tuple[int, int, int, str]],
    ) -> None:
        """Add a request: (row, model, tier, replies), the other columns, and (fixed, rate, worst, reason) by mode."""
        number, *names = facts
        places = (known.setdefault(name, len(known)) for known, name in zip(self._names, names, strict=True))
        self._rows.append((number, *places, *numbers))
        for (mode, column), (fixed, rate, worst, reason) in zip(self._money.items(), money, strict=True):
            reasons = self._reasons[mode]
            column.append((fixed, rate, worst, reasons.setdefault(reason, len(reasons)) if reason else -1))

    def workload(self) -> Workload:
        np = needed("numpy", extra="pandas")

        def columns(rows: Sequence[tuple[int, ...]], names: Sequence[str]) -> dict[str, Any]:
            return dict(zip(names, np.array(rows, np.int64).reshape(-1, len(names)).T.copy(), strict=True))

        money = {
            mode: Money(**columns(rows, ("fixed", "rate", "worst", "why")), reasons=tuple(self._reasons[mode]))
            for mode, rows in self._money.items()
        }
        models, tiers, kinds = map(tuple, self._names)
        return Workload(models, tiers, kinds, **columns(self._rows, COLUMNS), money=money)
