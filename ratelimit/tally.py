"""What a job will cost, line by line: each piece of its file becomes a Part."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import IO, Any, NamedTuple

from pricing.cost import Unpriced
from pricing.estimate import CostRange, effort_of, estimate
from pricing.money import Usd

from .counted import counts
from .errors import ConfigError
from .job import BadLine, Block, Unique, digest_of
from .once import begin, learned_from, table_of
from .pieces import lines_of, over


class Row(NamedTuple):
    """The estimate of one line.

    exact   whether its input tokens are what the server will report
    basis   where the output numbers come from
    cost    CostRange, or the reason why there is none
    """

    number: int
    custom_id: str
    model: str
    tokens: int
    exact: bool
    basis: str
    cost: CostRange | str


@dataclass(slots=True)
class Sums:
    """What lines come to.

    mean_pico, worst_pico  pico-dollars, of the lines that have a price; percentiles do not add up
    bases                  where output numbers come from → lines
    reasons                why lines have no price, each once, in order
    """

    lines: int = 0
    input_tokens: int = 0
    inexact: int = 0
    unpriced: int = 0
    mean_pico: int = 0
    worst_pico: int = 0
    bases: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, None] = field(default_factory=dict)
    bad: list[BadLine] = field(default_factory=list)

    def add(self, rows: Iterable[Row | BadLine]) -> Sums:
        """Add rows."""
        for row in rows:
            if isinstance(row, BadLine):
                self.bad.append(row)
                continue
            self.lines += 1
            self.input_tokens += row.tokens
            self.inexact += not row.exact
            self.bases[row.basis] += 1
            if isinstance(row.cost, str):
                self.unpriced += 1
                self.reasons.setdefault(row.cost)
            else:
                self.mean_pico += row.cost.mean.pico
                self.worst_pico += row.cost.worst.pico
        return self

    def __iadd__(self, other: Sums) -> Sums:
        self.lines += other.lines
        self.input_tokens += other.input_tokens
        self.inexact += other.inexact
        self.unpriced += other.unpriced
        self.mean_pico += other.mean_pico
        self.worst_pico += other.worst_pico
        self.bases.update(other.bases)
        self.reasons |= dict.fromkeys(reason for reason in other.reasons if reason not in self.reasons)
        self.bad += other.bad
        return self


class Options(NamedTuple):
    """How every line is priced; `prices` are overlays of the price table, `ledger` teaches sizes, by their paths;
    `cache`: token counts of earlier runs are used."""

    batch: bool = False
    service_tier: str | None = None
    at: date | None = None
    prices: tuple[str, ...] = ()
    ledger: str | None = None
    region: str | None = None
    cache: bool = True


class Part(NamedTuple):
    """A piece of the file: what its lines come to, its size in bytes, and its rows, packed until someone asks."""

    sums: Sums
    size: int
    packed: bytes

    @property
    def rows(self) -> list[Row | BadLine]:
        """Its lines, one by one."""
        return [BadLine(*one) if len(one) == 3 else _unpacked(*one) for one in pickle.loads(self.packed)]


class _Work(NamedTuple):
    """What a process has to know; `version` is that of the prices, which must not change on the way."""

    path: str
    options: Options
    version: str


_Ids = list[tuple[int, str, bytes]]  # number, custom_id, its digest


def tally(file: IO[bytes], path: str, options: Options, *, jobs: int, size: int | None = None) -> Iterator[Part]:
    """Estimate every line of an open job file, in the order of the file.

    jobs  processes, at most; 1 stays in this one
    size  bytes of the file, where it is a plain one: then each process reads `path` for itself

    Raises  ConfigError when the file cannot be read, or when a process dies; TableError when an overlay is wrong
    Law     the sums are those of the rows, and a custom_id used again is bad wherever it was used before
    """
    # What is wrong with an overlay is told before anything is read; what has changed since the last job is read anew.
    work = _Work(path, options, begin(options.prices, options.region))
    learned_from(options.ledger)
    unique = Unique()
    for part, ids in over(file, path, _estimated, work, jobs=jobs, size=size, cache=options.cache):
        yield _checked(part, ids, unique)


def _estimated(work: _Work, piece: Block) -> tuple[Part, _Ids]:
    """Estimate the lines of a piece; with their custom_ids, for a look over the whole file."""
    batch, service_tier, at, overlays, ledger, region, _ = work.options
    prices, learned = table_of(overlays, work.version), learned_from(ledger)
    lines = lines_of(work.path, piece)
    # One step for all lines, then the next: what a step needs stays in the processor's caches.
    found = counts(lines, use=work.options.cache)
    rows: list[Row | BadLine] = []
    ids: _Ids = []
    for line, count in zip(lines, found, strict=True):
        if isinstance(line, BadLine):
            rows.append(line)
            continue
        ids.append((line.number, line.custom_id, digest_of(line.custom_id)))
        try:
            guess = estimate(
                line.body,
                endpoint=line.endpoint,
                batch=batch,
                service_tier=service_tier,
                at=at,
                prices=prices,
                input_count=count,
                region=region,
                prior=learned.foresee(str(line.body.get("model")), effort_of(line.body), {}),
            )
        except ConfigError as error:
            rows.append(BadLine(line.number, str(error), line.custom_id))
            continue
        cost = guess.cost.reason if isinstance(guess.cost, Unpriced) else guess.cost
        counted = guess.input
        rows.append(
            Row(line.number, line.custom_id, guess.model, counted.tokens, counted.exact, guess.output_basis, cost)
        )
    return _part(rows, piece.size), ids


def _part(rows: list[Row | BadLine], size: int) -> Part:
    return Part(Sums().add(rows), size, pickle.dumps([_packed(row) for row in rows], pickle.HIGHEST_PROTOCOL))


def _packed(row: Row | BadLine) -> tuple[Any, ...]:
    """As whole numbers and texts, a row is pickled in a tenth of the time."""
    if isinstance(row, BadLine) or isinstance(row.cost, str):
        return tuple(row)
    return (*row[:6], *[amount.pico for amount in row.cost])


def _unpacked(number: int, custom_id: str, model: str, tokens: int, exact: bool, basis: str, *cost: Any) -> Row:
    price = CostRange(*map(Usd, cost)) if len(cost) > 1 else cost[0]
    return Row(number, custom_id, model, tokens, exact, basis, price)


def _checked(part: Part, ids: _Ids, unique: Unique) -> Part:
    """Replace the rows whose custom_id an earlier line had, and take them out of the sums."""
    again = {bad.number: bad for one in ids if (bad := unique.check(*one)) is not None}
    return _part([again.get(row.number, row) for row in part.rows], part.size) if again else part
