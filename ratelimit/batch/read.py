"""A job file, read for batches: where each line stands and what it takes, by column, so that millions fit."""

from __future__ import annotations

import io
import json
from array import array
from collections.abc import Callable, Iterator
from datetime import date
from itertools import accumulate
from typing import IO, NamedTuple

from jiter import from_json

from pricing._ledger_closing import told
from pricing.cost import Unpriced
from pricing.estimate import effort_of, estimate

from ..counted import counts
from ..errors import ConfigError
from ..job import BadLine, Block, Line, digest_of, parse_line, raw_lines
from ..once import begin, learned_from, table_of
from ..pieces import over, read_line

UNPRICED = -1
_PARTS = 16


class Lane(NamedTuple):
    """What may stand in one batch file: a model and an endpoint."""

    model: str
    endpoint: str


class Columns:
    """The lines of a job that are requests; a column has a number for each.

    number, start, size   the line's number, where it begins in the file and how many bytes it has
    written               bytes of its line in a batch's file
    tokens, inputs        input tokens; inputs of embeddings
    lane                  place in `lanes`
    mean, worst           pico-dollars at batch prices: expected, and the most; UNPRICED
    """

    NAMES = ("number", "start", "size", "written", "tokens", "inputs", "lane", "mean", "worst")

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self.reasons: dict[str, int] = {}
        self.bad: list[BadLine] = []
        for name in self.NAMES:
            setattr(self, name, array("q"))

    number: array[int]
    start: array[int]
    size: array[int]
    written: array[int]
    tokens: array[int]
    inputs: array[int]
    lane: array[int]
    mean: array[int]
    worst: array[int]

    def __len__(self) -> int:
        return len(self.number)


class Options(NamedTuple):
    """How lines are counted and priced; as for `ratecard estimate`."""

    at: date | None = None
    prices: tuple[str, ...] = ()
    ledger: str | None = None
    region: str | None = None
    cache: bool = True


class _Work(NamedTuple):
    path: str
    options: Options
    version: str


class _Piece(NamedTuple):
    lanes: list[Lane]
    rows: list[bytes]
    ids: bytes
    reasons: list[str]
    bad: list[BadLine]
    size: int


def read_columns(
    file: IO[bytes],
    path: str,
    options: Options,
    *,
    jobs: int,
    size: int,
    progress: Callable[[int], object] | None = None,
) -> Columns:
    """Read an open plain job file.

    Raises  ConfigError when it cannot be read; TableError when an overlay is wrong
    """
    work = _Work(path, options, begin(options.prices, options.region))
    found, ids = Columns(), array("Q")
    places: dict[Lane, int] = {}
    # Jobs for batches are as large as they come: here memory counts for more than seconds.
    for piece in over(file, path, _read, work, jobs=jobs, size=size, fast=False):
        mapped = []
        for lane in piece.lanes:
            if lane not in places:
                places[lane] = len(found.lanes)
                found.lanes.append(lane)
            mapped.append(places[lane])
        columns = [array("q", raw) for raw in piece.rows]
        for name, column in zip(Columns.NAMES, columns, strict=True):
            getattr(found, name).extend(array("q", (mapped[one] for one in column)) if name == "lane" else column)
        ids.frombytes(piece.ids)
        for reason in piece.reasons:
            found.reasons[reason] = found.reasons.get(reason, 0) + 1
        found.bad += piece.bad
        if progress is not None:
            progress(piece.size)
    _drop_repeated(found, ids, path)
    found.bad.sort()
    return found


def _drop_repeated(found: Columns, ids: array[int], path: str) -> None:
    """Take out lines whose custom_id an earlier line has.

    Eight bytes of a digest are kept of each; where two are the same, which no chance brings about, the lines are read
    again and compared.
    """
    twice = set[int]()
    for part in range(_PARTS):  # a part at a time: a set of a million is larger than the job's columns
        seen = set[int]()
        for one in ids:
            if one % _PARTS == part:
                (twice if one in seen else seen).add(one)
    if not twice:
        return
    places = [place for place, one in enumerate(ids) if one in twice]
    gone: dict[int, BadLine] = {}
    with open(path, "rb") as file:
        first: dict[str, int] = {}
        for place in places:
            file.seek(found.start[place])
            line = parse_line(found.number[place], file.read(found.size[place]))
            if isinstance(line, Line):
                earlier = first.setdefault(told(line.custom_id), line.number)
                if earlier != line.number:
                    why = f"custom_id {line.custom_id!r} was used on line {earlier} already"
                    gone[place] = BadLine(line.number, why, line.custom_id)
    found.bad += gone.values()
    kept = [place for place in range(len(found)) if place not in gone]
    for name in Columns.NAMES:
        column = getattr(found, name)
        setattr(found, name, array("q", (column[place] for place in kept)))


def _read(work: _Work, piece: Block) -> _Piece:
    """Read the lines of a piece."""
    options = work.options
    prices, learned = table_of(options.prices, work.version), learned_from(options.ledger)
    lines: list[Line | BadLine] = []
    spans: list[tuple[int, int, int]] = []
    for number, start, raw in _spanned(piece.read(work.path), work.path, piece):
        line = read_line(number, raw)
        lines.append(line)
        spans.append((start, len(raw), len(batch_line(line, raw)) + 1 if isinstance(line, Line) else 0))
    found = counts(lines, use=options.cache)
    lanes: dict[Lane, int] = {}
    columns = [array("q") for _ in Columns.NAMES]
    ids, reasons, bad = array("Q"), list[str](), list[BadLine]()
    for line, (start, size, written), count in zip(lines, spans, found, strict=True):
        if isinstance(line, BadLine) or count is None:
            bad.append(line if isinstance(line, BadLine) else BadLine(line.number, "its tokens cannot be counted"))
            continue
        model = str(line.body["model"])
        try:
            guess = estimate(
                line.body, endpoint=line.endpoint, batch=True, at=options.at, prices=prices, input_count=count,
                region=options.region, prior=learned.foresee(model, effort_of(line.body), {}),
            )  # fmt: skip
        except ConfigError as error:
            bad.append(BadLine(line.number, str(error), line.custom_id))
            continue
        mean = worst = UNPRICED
        if isinstance(guess.cost, Unpriced):
            reasons.append(guess.cost.reason)
        else:
            mean, worst = guess.cost.mean.pico, guess.cost.worst.pico
        lane = lanes.setdefault(Lane(model, line.endpoint), len(lanes))
        # Of an estimate the queue is charged the most that it may be.
        row = (line.number, start, size, written, count.high, _inputs(line), lane, mean, worst)
        for column, number in zip(columns, row, strict=True):
            column.append(number)
        ids.append(int.from_bytes(digest_of(told(line.custom_id))[:8], "little"))
    return _Piece(list(lanes), [one.tobytes() for one in columns], ids.tobytes(), reasons, bad, piece.size)


def _spanned(raw: bytes, path: str, piece: Block) -> Iterator[tuple[int, int, bytes]]:
    """The lines of a piece: number, where it begins in the file, and its bytes."""
    starts = list(accumulate((len(part) for part in io.BytesIO(raw)), initial=piece.start))
    for number, part in raw_lines(io.BytesIO(raw), path, piece.first):
        yield number, starts[number - piece.first], part


def _inputs(line: Line) -> int:
    """How many inputs a request for embeddings has; 0 for any other."""
    if not line.endpoint.endswith("embeddings"):
        return 0
    given = line.body.get("input")
    return len(given) if isinstance(given, list) and given and not isinstance(given[0], int) else 1


def batch_line(line: Line, raw: bytes) -> bytes:
    """A line as a batch's file has it: as it stands there, where it is one; else with the same content."""
    if _is_batch_line(line, raw):
        return raw.strip().removeprefix(b"\xef\xbb\xbf")
    return written_out(line)


def written_out(line: Line) -> bytes:
    """A request as a line of a batch's file, or of a job."""
    document = {"custom_id": line.custom_id, "method": "POST", "url": line.endpoint, "body": line.body}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def _is_batch_line(line: Line, raw: bytes) -> bool:
    try:
        document = from_json(raw.strip().removeprefix(b"\xef\xbb\xbf"))
    except ValueError:
        return False
    there = (document.get("method"), document.get("url"), document.get("custom_id"))
    return there == ("POST", line.endpoint, line.custom_id)
