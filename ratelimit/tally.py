"""What a job will cost, line by line: on every core for a large file, in order, in bounded memory.

The first two megabytes are estimated in this process, so a small file never starts another one. A larger one is cut
into pieces that a few processes estimate; those that have been read and not yet handed on are never more than a few.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import date
from functools import lru_cache, partial
from itertools import islice
from typing import IO, NamedTuple

from pricing.cost import Unpriced
from pricing.estimate import CostRange, estimate
from pricing.learned import RECALLED, Learned, effort_of
from pricing.ledger import Ledger
from pricing.prices import PriceTable, load_prices

from .errors import ConfigError
from .job import BadLine, Unique, digest_of, parse_line, raw_lines

PIECE_BYTES = 512 * 1024
ALONE_BYTES = 2 * 1024 * 1024
"""What one process estimates before others are worth their start."""
FAST_BYTES = 64 * 1024 * 1024
"""From here on fastokens, where it is installed, is worth the second that it takes to load."""
_AHEAD = 3  # pieces in the air for each process

Piece = list[tuple[int, bytes]]


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


class Options(NamedTuple):
    """How every line is priced; `prices` are overlays of the price table, `ledger` teaches sizes, by their paths."""

    batch: bool = False
    service_tier: str | None = None
    at: date | None = None
    prices: tuple[str, ...] = ()
    ledger: str | None = None
    region: str | None = None


class Part(NamedTuple):
    """The rows of a piece of the file, and the bytes of it."""

    rows: list[Row | BadLine]
    bytes: int


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tally(file: IO[bytes], path: str, options: Options, *, jobs: int, size: int | None = None) -> Iterator[Part]:
    """Estimate every line of an open job file, in the order of the file.

    jobs  processes, at most; 1 stays in this one
    size  bytes of the file, where they are known

    Raises  ConfigError when the file cannot be read, or when a process dies; TableError when an overlay is wrong
    """
    _table(options.prices)  # what is wrong with it is told before anything is read
    _learned(options.ledger)
    unique = Unique()
    work = partial(_estimated, options=options)
    pieces = _pieces(raw_lines(file, path))
    if size is not None and size >= FAST_BYTES:
        from pricing.tokens import accelerate

        accelerate("o200k_base")
    alone = islice(pieces, None if jobs == 1 else ALONE_BYTES // PIECE_BYTES)
    for rows, digests, read in map(work, alone):
        yield Part(_checked(rows, digests, unique), read)
    if jobs > 1 and (first := next(pieces, None)) is not None:
        for rows, digests, read in _spread(work, _again(first, pieces), jobs):
            yield Part(_checked(rows, digests, unique), read)


_Result = tuple[list[Row | BadLine], list[bytes | None], int]


@lru_cache(maxsize=1)
def _table(overlays: tuple[str, ...]) -> PriceTable:
    """Read the prices once in each process: a table is too large to be sent along with every piece."""
    return load_prices(overlay=overlays)


@lru_cache(maxsize=1)
def _learned(ledger: str | None) -> Learned:
    """Learn from a ledger once in each process."""
    if ledger is None:
        return Learned()
    with Ledger(ledger, create=False) as book:
        return Learned(reversed(book.latest(RECALLED)))


def _estimated(piece: Piece, options: Options) -> _Result:
    """Estimate the lines of a piece; with the digest of each custom_id, for a look over the whole file."""
    rows: list[Row | BadLine] = []
    digests: list[bytes | None] = []
    batch, service_tier, at, overlays, ledger, region = options
    prices, learned = _table(overlays), _learned(ledger)
    for number, raw in piece:
        line = parse_line(number, raw)
        if isinstance(line, BadLine):
            rows.append(line)
            digests.append(None)
            continue
        digests.append(digest_of(line.custom_id))
        try:
            guess = estimate(
                line.body,
                endpoint=line.endpoint,
                batch=batch,
                service_tier=service_tier,
                at=at,
                prices=prices,
                region=region,
                prior=learned.foresee(str(line.body.get("model")), effort_of(line.body), {}),
            )
        except ConfigError as error:
            rows.append(BadLine(number, str(error), line.custom_id))
            continue
        cost = guess.cost.reason if isinstance(guess.cost, Unpriced) else guess.cost
        count = guess.input
        rows.append(Row(number, line.custom_id, guess.model, count.tokens, count.exact, guess.output_basis, cost))
    return rows, digests, sum(len(raw) for _, raw in piece)


def _checked(rows: list[Row | BadLine], digests: list[bytes | None], unique: Unique) -> list[Row | BadLine]:
    """Replace the rows whose custom_id an earlier line had."""
    checked: list[Row | BadLine] = []
    for row, digest in zip(rows, digests, strict=True):
        again = unique.check(row.number, row.custom_id or "", digest) if digest is not None else None
        checked.append(again or row)
    return checked


def _pieces(lines: Iterable[tuple[int, bytes]]) -> Iterator[Piece]:
    piece: Piece = []
    size = 0
    for line in lines:
        piece.append(line)
        size += len(line[1])
        if size >= PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _again(first: Piece, rest: Iterator[Piece]) -> Iterator[Piece]:
    yield first
    yield from rest


def _spread(work: Callable[[Piece], _Result], pieces: Iterator[Piece], jobs: int) -> Iterator[_Result]:
    """Map over several processes: in order, and never far ahead of whoever takes the results."""
    # A fork carries the vocabulary over; with threads about it is not safe, and elsewhere not to be had.
    forks = sys.platform == "linux" and threading.active_count() == 1
    context = multiprocessing.get_context("fork" if forks else "spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=signal.signal, initargs=_IGNORE_INTERRUPTS)
    waiting: deque[Future[_Result]] = deque()
    try:
        for piece in pieces:
            waiting.append(pool.submit(work, piece))
            if len(waiting) >= _AHEAD * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ConfigError("a process that counted died, perhaps for want of memory; try --jobs 1") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_IGNORE_INTERRUPTS = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends the others


__all__ = ["Options", "Part", "Row", "cores", "tally"]
