"""A job file, read piece by piece: on every core where it is large, in order, in bounded memory.

A file is cut at line ends into pieces. Whoever reads a small file does it alone; the pieces of a larger one are read by
a few processes. Those read and not yet handed on are never more than a few.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain, islice
from typing import IO, TypeVar

from pricing.tokens import accelerate, encoding_for

from .counted import known
from .errors import ConfigError
from .job import BadLine, Block, Line, blocks, parse_line, raw_lines

PIECE_BYTES = 512 * 1024
ALONE_BYTES = 2 * 1024 * 1024
"""What one process reads before others are worth their start."""
FAST_BYTES = 64 * 1024 * 1024
"""From here on fastokens, where it is installed, is worth the second that it takes to load."""
_AHEAD = 3  # pieces in the air for each process

Work = TypeVar("Work")
Part = TypeVar("Part")


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def lines_of(path: str, piece: Block) -> list[Line | BadLine]:
    """Read the lines of a piece, with their digests. Raises ConfigError when it cannot be read."""
    return [read_line(number, raw) for number, raw in raw_lines(io.BytesIO(piece.read(path)), path, piece.first)]


def read_line(number: int, raw: bytes) -> Line | BadLine:
    """Read a line, with its digest."""
    line = parse_line(number, raw)
    return line if isinstance(line, BadLine) else line._replace(digest=blake2b(raw.strip(), digest_size=16).digest())


def over(
    file: IO[bytes],
    path: str,
    each: Callable[[Work, Block], Part],
    work: Work,
    *,
    jobs: int,
    size: int | None = None,
    cache: bool = False,
    fast: bool = True,
    asked: Callable[[Line], Line] = lambda line: line,
) -> Iterator[Part]:
    """Read an open job file: `each(work, piece)` of its pieces, in order.

    each  a function of a module, and `work` and what it returns can be pickled: it may run in another process
    jobs  processes, at most; 1 stays in this one
    size  bytes of the file, where it is a plain one: then each process reads `path` for itself
    cache  whether the counts of earlier runs are used: where they hold the first piece, fastokens is not loaded
    fast   whether fastokens may be used: its tables take 130 MB
    asked  turns a line into the one that `each` counts

    Raises  ConfigError when the file cannot be read, or when a process dies; and whatever `each` raises
    """
    pieces = blocks(file, path, PIECE_BYTES, keep=size is None)
    quick: list[str] = []
    if fast and size is not None and size >= FAST_BYTES and (first := next(pieces, None)) is not None:
        lines = [asked(line) for line in lines_of(path, first) if isinstance(line, Line)]
        quick = [encoding for encoding in _encodings(lines, cache=cache) if accelerate(encoding)]
        pieces = chain([first], pieces)
    # Of a file known to be large, one piece alone: it builds what the others take over.
    alone = 1 if size is not None and size > ALONE_BYTES else ALONE_BYTES // PIECE_BYTES
    for piece in islice(pieces, None if jobs == 1 else alone):
        yield each(work, piece)
    if jobs > 1 and (first := next(pieces, None)) is not None:
        yield from _spread(each, work, chain([first], pieces), jobs, quick)


def _encodings(lines: list[Line], *, cache: bool) -> list[str]:
    """Name the encodings that lines are counted with, unless nearly all that have one were counted before."""
    found = [encoding_for(line.body["model"]) for line in lines]
    there = known(lines) if cache else [False] * len(lines)
    left = [encoding for encoding, is_known in zip(found, there, strict=True) if encoding is not None and not is_known]
    few = 10 * len(left) <= sum(encoding is not None for encoding in found)
    return [] if few else sorted(set(left))


def _spread(
    each: Callable[[Work, Block], Part], work: Work, pieces: Iterable[Block], jobs: int, fast: list[str]
) -> Iterator[Part]:
    """Map over several processes: in order, and never far ahead of whoever takes the results."""
    # A fork carries the vocabulary over; with threads about it is not safe, and elsewhere not to be had.
    forks = sys.platform == "linux" and threading.active_count() == 1
    context = multiprocessing.get_context("fork" if forks else "spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(fast,))
    waiting: deque[Future[Part]] = deque()
    try:
        for piece in pieces:
            with _uninterrupted():
                waiting.append(pool.submit(each, work, piece))
            if len(waiting) >= _AHEAD * jobs:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ConfigError("a process that counted died, perhaps for want of memory; try --jobs 1") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back while processes start: one would die half made, and nobody would end the other."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(fast: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends the others
    for encoding in fast:
        accelerate(encoding)  # carried over by a fork; loaded here by a process that was started otherwise
