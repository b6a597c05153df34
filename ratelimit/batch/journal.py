"""The journal of a run: every step of every batch, and where every line stands, in one SQLite file.

A step is written after it has been taken, so a crash leaves at most one step that was taken and is not written: the
driver asks the server for it before it takes it again. Everything a run needs is in here and in the job file; nothing
of a prompt or a reply is kept but the answer to a line that failed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ConfigError
from ..results import locked
from .plan import Batch, LanePlan, Plan
from .read import Columns, Lane

VERSION = 1
PLANNED, UPLOADED, SUBMITTED, ENDED, COLLECTED = "planned", "uploaded", "submitted", "ended", "collected"
OPEN, DONE, FAILED, FREE = 0, 1, 2, 3

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE batches (no INTEGER PRIMARY KEY, model TEXT NOT NULL, endpoint TEXT NOT NULL, tokens INTEGER NOT NULL,
    size INTEGER NOT NULL, requests INTEGER NOT NULL, attempt INTEGER NOT NULL DEFAULT 1, state TEXT NOT NULL,
    file_id TEXT, batch_id TEXT, output_id TEXT, errors_id TEXT, status TEXT NOT NULL DEFAULT '',
    why TEXT NOT NULL DEFAULT '', completed INTEGER NOT NULL DEFAULT 0,
    not_before_us INTEGER NOT NULL DEFAULT 0, submitted_us INTEGER, ended_us INTEGER)
    STRICT;
CREATE INDEX batches_by_state ON batches (state);
CREATE TABLE lines (place INTEGER PRIMARY KEY, number INTEGER NOT NULL, start INTEGER NOT NULL, size INTEGER NOT NULL,
    written INTEGER NOT NULL, tokens INTEGER NOT NULL, inputs INTEGER NOT NULL, lane INTEGER NOT NULL, batch INTEGER,
    state INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, result TEXT) STRICT;
CREATE INDEX lines_by_batch ON lines (batch);
CREATE INDEX lines_to_place ON lines (lane) WHERE batch IS NULL AND state = 0;
"""


class Step(NamedTuple):
    """A batch, and how far it is. Times are µs; why is in words; completed: lines that the server says are done."""

    no: int
    model: str
    endpoint: str
    tokens: int
    size: int
    requests: int
    attempt: int
    state: str
    file_id: str | None
    batch_id: str | None
    output_id: str | None
    errors_id: str | None
    status: str
    why: str
    completed: int
    not_before_us: int
    submitted_us: int | None
    ended_us: int | None


class Ended(NamedTuple):
    """How a line ended: its place, DONE, FAILED, or open for another try (FREE: that counts none), and its answer."""

    place: int
    state: int
    result: str | None = None


class Counts(NamedTuple):
    """Lines by how they stand."""

    open: int
    done: int
    failed: int


class Journal:
    """One run, held for this process alone; or looked at, while another process may be at it.

    create  make the file where there is none
    look    only read

    Raises  ConfigError when the file is none, is of a newer version, or another process holds it
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = False, look: bool = False) -> None:
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise ConfigError(f"{self.path}: there is no such run")
        self._lock: FileIO | None = None
        if not look:
            try:
                self._lock = FileIO(f"{self.path}.lock", "a")
            except OSError as error:
                raise ConfigError(f"{self.path}: cannot be written: {error.strerror or error}") from error
            if not locked(self._lock):
                self._lock.close()
                raise ConfigError(f"{self.path}: another process is at this run: wait for it, or stop it")
        self._db = sqlite3.connect(self.path, isolation_level=None, timeout=5)
        try:
            if not look:
                self._db.execute("PRAGMA journal_mode = WAL")  # whoever looks holds up nobody
                self._db.execute("PRAGMA synchronous = FULL")
            with self._whole() if create else nullcontext():
                if create and not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    for statement in _SCHEMA.split(";"):
                        self._db.execute(statement)
                    self._facts(version=str(VERSION))
            version = self.fact("version")
        except sqlite3.DatabaseError as error:
            self.close()
            raise ConfigError(f"{self.path}: no journal of a run: {error}") from error
        if version is None or int(version) > VERSION:
            self.close()
            raise ConfigError(
                f"{self.path}: is of version {version}, and this ratecard knows {VERSION}: update ratecard"
            )

    def close(self) -> None:
        self._db.close()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """All of it, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # Facts of the run

    def fact(self, name: str) -> str | None:
        """What is noted of the run under a name."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def note(self, **facts: str) -> None:
        """Note facts of the run."""
        with self._whole():
            self._facts(**facts)

    def _facts(self, **facts: str) -> None:
        self._db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())

    @property
    def run(self) -> str:
        """The name of the run: on the server's side it is a metadata tag, and part of file names."""
        return self.fact("run") or ""

    @property
    def lanes(self) -> list[Lane]:
        return [Lane(*pair) for pair in json.loads(self.fact("lanes") or "[]")]

    # Lines and batches

    def begin(
        self,
        plan: Plan,
        job: str,
        digest: str,
        *,
        now_us: int,
        elsewhere: Sequence[tuple[str, str, int]] = (),
        **facts: str,
    ) -> None:
        """Write a plan down.

        digest     of the job file; facts: what else is to be noted of the run
        elsewhere  the plan's batches were submitted by others: (batch id, file id, µs) of each

        Raises  ConfigError when there is one already
        """
        if self.fact("run") is not None:
            raise ConfigError(f"{self.path}: has a run already")
        columns = plan.columns
        with self._whole():
            lanes = json.dumps([list(lane) for lane in columns.lanes])
            run = uuid.uuid4().hex[:12]
            self._facts(run=run, job=job, digest=digest, lanes=lanes, begun_us=str(now_us), **facts)
            self._db.executemany(
                "INSERT INTO lines (place, number, start, size, written, tokens, inputs, lane)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                zip(
                    range(len(columns)), columns.number, columns.start, columns.size, columns.written, columns.tokens,
                    columns.inputs, columns.lane, strict=True,
                ),
            )  # fmt: skip
            for lane in plan.lanes:
                self._place(lane)
            for no, (batch_id, file_id, at_us) in enumerate(elsewhere, 1):
                self._db.execute(
                    "UPDATE batches SET state = ?, batch_id = ?, file_id = ?, submitted_us = ? WHERE no = ?",
                    (SUBMITTED, batch_id, file_id, at_us, no),
                )

    def place(self, lanes: Iterable[LanePlan]) -> None:
        """Put lines that stand in no batch into new ones."""
        with self._whole():
            for lane in lanes:
                self._place(lane)

    def _place(self, lane: LanePlan) -> None:
        for batch in lane.batches:
            self._add(lane.lane, batch)
        for place, why in lane.never.items():
            self._end([Ended(place, FAILED, json.dumps({"code": "never_fits", "message": why}))])

    def _add(self, lane: Lane, batch: Batch) -> int:
        row = self._db.execute(
            "INSERT INTO batches (model, endpoint, tokens, size, requests, state) VALUES (?, ?, ?, ?, ?, ?)",
            (*lane, batch.tokens, batch.size, len(batch.places), PLANNED),
        )
        no = int(row.lastrowid or 0)
        self._db.executemany("UPDATE lines SET batch = ? WHERE place = ?", ((no, place) for place in batch.places))
        return no

    def submitted(self, no: int, batch_id: str, now_us: int) -> None:
        """Note that a batch was submitted."""
        with self._whole():
            self._db.execute(
                "UPDATE batches SET state = ?, batch_id = ?, submitted_us = ? WHERE no = ?",
                (SUBMITTED, batch_id, now_us, no),
            )
            self._facts(submissions=str(self.submissions() + 1))

    def submissions(self) -> int:
        """How many batches were created for the run."""
        return int(self.fact("submissions") or 0)

    def batches(self, *states: str) -> list[Step]:
        """Batches in these states (all without any), in their order."""
        marks = ",".join("?" * len(states))
        where = f"WHERE state IN ({marks})" if states else ""
        return [
            Step(*row)
            for row in self._db.execute(f"SELECT {', '.join(Step._fields)} FROM batches {where} ORDER BY no", states)
        ]

    def submitted_since(self, us: int) -> int:
        """How many batches were submitted after an instant."""
        row = self._db.execute("SELECT count(*) FROM batches WHERE submitted_us > ?", (us,)).fetchone()
        return int(row[0])

    def batch(self, no: int) -> Step:
        """One batch."""
        return Step(*self._db.execute(f"SELECT {', '.join(Step._fields)} FROM batches WHERE no = ?", (no,)).fetchone())

    def step(self, no: int, **changes: Any) -> None:
        """Write down how far a batch is."""
        names = ", ".join(f"{name} = ?" for name in changes)
        with self._whole():
            self._db.execute(f"UPDATE batches SET {names} WHERE no = ?", (*changes.values(), no))

    def lines_of(self, no: int, *, every: bool = False) -> list[tuple[int, int, int, int]]:
        """The open lines of a batch, or all of them: (place, number, start, size) each."""
        where = "" if every else f"AND state = {OPEN}"
        found = self._db.execute(
            f"SELECT place, number, start, size FROM lines WHERE batch = ? {where} ORDER BY place", (no,)
        )
        return found.fetchall()

    def open_in(self, no: int) -> int:
        """How many open lines a batch has."""
        row = self._db.execute("SELECT count(*) FROM lines WHERE batch = ? AND state = ?", (no, OPEN)).fetchone()
        return int(row[0])

    def rehome(self) -> None:
        """Take open lines out of batches that are over."""
        with self._whole():
            self._db.execute(
                "UPDATE lines SET batch = NULL WHERE state = ? AND batch IN (SELECT no FROM batches WHERE state = ?)",
                (OPEN, COLLECTED),
            )

    def attempts(self, no: int) -> dict[int, int]:
        """How often each open line of a batch has been tried."""
        return dict(self._db.execute("SELECT place, attempts FROM lines WHERE batch = ? AND state = ?", (no, OPEN)))

    def collected(self, no: int, ended: Iterable[Ended]) -> None:
        """Write down how the lines of a batch ended, and the batch itself; lines of which nothing is said go again."""
        with self._whole():
            self._end(ended)
            self._leave(no)

    def _end(self, ended: Iterable[Ended]) -> None:
        for one in ended:
            if one.state in (OPEN, FREE):
                tried = (int(one.state == OPEN), one.place)
                self._db.execute("UPDATE lines SET batch = NULL, attempts = attempts + ? WHERE place = ?", tried)
            else:
                self._db.execute(
                    "UPDATE lines SET state = ?, result = ? WHERE place = ?", (one.state, one.result, one.place)
                )

    def released(self, no: int) -> None:
        """Take the open lines of a batch out of it, to be put into others; no try is counted."""
        with self._whole():
            self._leave(no)

    def _leave(self, no: int) -> None:
        self._db.execute("UPDATE lines SET batch = NULL WHERE batch = ? AND state = ?", (no, OPEN))
        self._db.execute("UPDATE batches SET state = ? WHERE no = ?", (COLLECTED, no))

    def homeless(self, lane: int) -> list[int]:
        """Places of the open lines of a lane that stand in no batch."""
        return [
            row[0]
            for row in self._db.execute(
                "SELECT place FROM lines WHERE batch IS NULL AND state = 0 AND lane = ? ORDER BY place", (lane,)
            )
        ]

    def columns(self) -> Columns:
        """What the planner needs of all lines; prices are not kept."""
        found = Columns()
        found.lanes = self.lanes
        for number, start, size, written, tokens, inputs, lane in self._db.execute(
            "SELECT number, start, size, written, tokens, inputs, lane FROM lines ORDER BY place"
        ):
            for name, value in zip(
                Columns.NAMES, (number, start, size, written, tokens, inputs, lane, -1, -1), strict=True
            ):
                getattr(found, name).append(value)
        return found

    def counts(self) -> Counts:
        """How the lines stand."""
        found = dict(self._db.execute("SELECT state, count(*) FROM lines GROUP BY state").fetchall())
        return Counts(found.get(OPEN, 0), found.get(DONE, 0), found.get(FAILED, 0))

    def failures(self) -> Iterator[tuple[int, int, int, Mapping[str, Any]]]:
        """The lines that failed: (number, start, size, answer)."""
        for number, start, size, result in self._db.execute(
            "SELECT number, start, size, result FROM lines WHERE state = ? ORDER BY place", (FAILED,)
        ):
            yield number, start, size, json.loads(result or "{}")

    def open_lines(self) -> Iterator[tuple[int, int, int, int]]:
        """The lines that have not ended: (place, number, start, size)."""
        rows = self._db.execute("SELECT place, number, start, size FROM lines WHERE state = ? ORDER BY place", (OPEN,))
        yield from rows.fetchall()

    def forget_queues(self) -> None:
        """Forget what the server has told of its queues."""
        with self._whole():
            self._db.execute("DELETE FROM facts WHERE name LIKE 'queue:%'")

    def finish(self, places: Iterable[int]) -> int:
        """Note that open lines were done by other ways than batches; → how many."""
        with self._whole():
            return sum(
                self._db.execute(
                    "UPDATE lines SET state = ? WHERE place = ? AND state = ?", (DONE, place, OPEN)
                ).rowcount
                for place in places
            )

    def retry_failed(self) -> int:
        """Open the lines that failed once more; → how many."""
        with self._whole():
            done = self._db.execute(
                "UPDATE lines SET state = ?, batch = NULL, attempts = 0, result = NULL WHERE state = ?", (OPEN, FAILED)
            )
        return done.rowcount


def digest_of_file(path: str | os.PathLike[str]) -> str:
    """What a job file holds, as a digest: a run goes on only with the job it began with. Raises ConfigError."""
    whole = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                whole.update(block)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    return whole.hexdigest()
