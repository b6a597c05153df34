"""A run: batches are submitted as the queue has room, watched, collected, and what failed goes again.

Each step is taken, then written into the journal. Killed anywhere, a run goes on where it was: before an upload or a
creation whose end is not known is tried again, the server is asked for it, by the name of the file and by the tags of
the batch. One window stays: a batch that was created and is not listed yet; so after a lost reply the list is read
twice, some time apart, before the batch is created again.

Laws  every line ends exactly once, and no batch is submitted twice, wherever the run is killed; the enqueued tokens of
      this run, with those of others, never exceed the queue (tests/batch/test_driver.py)
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pricing.batches import book, settle
from pricing.budget import Budget
from pricing.errors import OverBudget
from pricing.ledger import Ledger
from pricing.prices import PriceTable

from ..clock import US_PER_S
from ..errors import ConfigError
from ..job import BadLine, Line, parse_line
from ..limit import canonical
from ..results import Results, result_line
from .answers import NO_RESULT, answers, code_of, judged, slim
from .api import ACTIVE, Api, Refusal, Remote, Unknown
from .journal import DONE, ENDED, FAILED, PLANNED, SUBMITTED, UPLOADED, Counts, Ended, Journal, Step
from .plan import plan_of
from .read import batch_line
from .split import PER_HOUR

RUN, NUMBER, TRY = "ratecard_run", "ratecard_batch", "ratecard_try"
"""Metadata of a batch: by them it is found again."""
JOB_TAG = "batch_job"
"""The tag of all entries of a run in the ledger: a budget counts by it."""
DEADLINE = "deadline"
ENDS = frozenset({"completed", "failed", "expired", "cancelled"})
_HOUR_US = 3_600 * US_PER_S
_CLOCKS_APART_S = 86_400
"""The server's clock may be so far behind ours."""
_FIRST_BACKOFF_US, _LONGEST_BACKOFF_US = 60 * US_PER_S, 900 * US_PER_S
_PATIENCE = 240
"""Looks in a row that may fail: four hours of them, at a look a minute."""
_UNSEEN_US = 15 * US_PER_S
"""How long after a lost reply the list is read again."""
_LIMIT = re.compile(r"Limit: ([\d,]+) enqueued tokens")


class Stopped(NamedTuple):
    """Why a run ended before its job did: in words, and by what: "budget", "refused" or "deadline"."""

    why: str
    by: str


class Outcome(NamedTuple):
    """How a run stands at its end.

    counts    lines
    batches   submitted, over all tries
    failures  code → lines that failed
    stopped   None when the job is done
    """

    counts: Counts
    batches: int
    failures: Mapping[str, int]
    stopped: Stopped | None


class Time(NamedTuple):
    """The time of a run: µs since the epoch, and how to wait for so many µs."""

    now_us: Callable[[], int]
    sleep: Callable[[int], None]


class Driver:
    """Takes a run to its end.

    api       files and batches
    journal   of the run
    job       path of the job file
    results   where results go
    ledger    booked at submission, trued up by every line's usage
    queues    model → input tokens that may wait; None where nothing is known
    attempts  most tries of a line
    budgets   each has to have room for the worst case of a batch before it is submitted
    poll_us   between two looks
    others    (batch) → input tokens of an active batch that is not ours
    until_us  when batches are given up: those in the air are cancelled, and what they have done is kept
    told      called with the journal after each round, for whoever shows progress
    """

    def __init__(
        self,
        api: Api,
        journal: Journal,
        job: str,
        results: Results,
        ledger: Ledger,
        *,
        time: Time,
        queues: Callable[[str], int | None],
        others: Callable[[Remote], int],
        attempts: int = 3,
        budgets: Sequence[Budget] = (),
        poll_us: int = 60 * US_PER_S,
        prices: PriceTable | None = None,
        region: str | None = None,
        told: Callable[[Journal], object] | None = None,
        until_us: int | None = None,
        seed: int | None = None,
    ) -> None:
        self._until_us = until_us
        self._api, self._journal, self._job = api, journal, job
        self._results, self._ledger, self._time = results, ledger, time
        self._queues, self._others_of = queues, others
        self._attempts, self._budgets, self._poll_us = attempts, budgets, poll_us
        self._prices, self._region, self._told = prices, region, told
        self._random = random.Random(seed)
        self._run = journal.run
        self._since_s = int(journal.fact("begun_us") or 0) // US_PER_S - _CLOCKS_APART_S
        self._foreign: dict[str, tuple[str, int]] = {}  # active batches that are not ours: model, tokens
        self._known: dict[str, int] = {}
        self._stopped: Stopped | None = None
        self._cancelled: set[int] = set()
        self._doubtful: set[int] = set()  # batches whose upload or creation may have happened

    def run(self) -> Outcome:
        """Go on until every line has ended, or something stops it.

        Raises  ConfigError when the job is not what it was; whatever the API raises for good
        """
        self._doubt()
        troubles = 0
        while True:
            try:
                if self._round():
                    break
                troubles = 0
            except Unknown:  # the network, or the server, is away: it may come back
                troubles += 1
                if troubles > _PATIENCE:
                    raise
            self._sleep()
        if self._stopped is None:
            self._write_failures()
        return self._outcome()

    def _round(self) -> bool:
        """Look, collect and submit; → whether there is nothing left to wait for."""
        journal = self._journal
        self._note_ends(self._look())
        for step in journal.batches(ENDED):
            self._collect(step)
        if self._until_us is not None and self._time.now_us() >= self._until_us:
            self._give_up()
        self._place_homeless()
        self._submit()
        if self._told is not None:
            self._told(journal)
        if journal.batches(SUBMITTED, ENDED) or self._doubtful:
            return False
        return self._stopped is not None or not journal.counts().open

    def _doubt(self) -> None:
        """What an earlier process was at when it died may have happened; what it created may not be listed yet."""
        for step in self._journal.batches(PLANNED, UPLOADED):
            self._doubtful.add(step.no)
            if step.file_id is not None:
                self._journal.step(step.no, not_before_us=self._time.now_us() + _UNSEEN_US)

    def _give_up(self) -> None:
        """The rest would be late: submit nothing more, and cancel what is in the air."""
        if self._stopped is None:
            self._stopped = Stopped("the deadline leaves no more time for batches", DEADLINE)
        for step in self._journal.batches(SUBMITTED):
            if step.no not in self._cancelled:
                self._api.cancel(str(step.batch_id))
                self._cancelled.add(step.no)

    # What the server says

    def _look(self) -> dict[str, Remote]:
        """Read the server's list: ours, and who else is in the queue."""
        seen = {batch.id: batch for batch in self._api.list(self._since_s)}
        ours = {step.batch_id: step for step in self._journal.batches() if step.batch_id is not None}
        self._foreign = {}
        for batch in seen.values():
            if batch.id in ours or batch.status not in ACTIVE:
                continue
            if batch.metadata.get(RUN) == self._run:
                continue  # ours, and not written down yet
            if batch.id not in self._known:
                self._known[batch.id] = self._others_of(batch)
            self._foreign[batch.id] = (batch.model, self._known[batch.id])
        for step in self._journal.batches(SUBMITTED):
            assert step.batch_id is not None
            if step.batch_id not in seen:
                seen[step.batch_id] = self._api.get(step.batch_id)
        return seen

    def _note_ends(self, seen: Mapping[str, Remote]) -> None:
        for step in self._journal.batches(SUBMITTED):
            batch = seen[str(step.batch_id)]
            if batch.status in ENDS:
                why = f"{batch.code}: {batch.message}" if batch.code or batch.message else ""
                self._journal.step(
                    step.no, state=ENDED, status=batch.status, why=why, output_id=batch.output_id,
                    errors_id=batch.errors_id, ended_us=self._time.now_us(),
                )  # fmt: skip

    # Submission

    def _submit(self) -> None:
        """Submit the batches that the queue has room for, in their order; of a model that has none, none."""
        self._recover()
        full = set[str]()
        for step in self._journal.batches(PLANNED, UPLOADED):
            if self._stopped is not None:
                return
            if step.model in full:
                continue
            now_us, queue = self._time.now_us(), self._queue(step.model)
            if queue is not None and step.tokens > queue and step.no not in self._doubtful:
                self._journal.released(step.no, why=f"larger than the queue of {queue:,}")  # it is cut anew
                continue
            room = self._room(step.model)
            waits = step.no in self._doubtful or step.not_before_us > now_us or self._too_many(now_us)
            if waits or (room is not None and step.tokens > room) or not self._send(step):
                full.add(step.model)

    def _room(self, model: str) -> int | None:
        """How many more input tokens of a model may wait."""
        queue, name = self._queue(model), canonical(model)
        if queue is None:
            return None
        ours = sum(step.tokens for step in self._journal.batches(SUBMITTED) if canonical(step.model) == name)
        theirs = sum(tokens for other, tokens in self._foreign.values() if not other or canonical(other) == name)
        return queue - ours - theirs

    def _queue(self, model: str) -> int | None:
        """The queue of a model: the smaller of what is known, and what the server has told."""
        told, known = self._journal.fact(f"queue:{canonical(model)}"), self._queues(model)
        return min((limit for limit in (known, None if told is None else int(told)) if limit is not None), default=None)

    def _too_many(self, now_us: int) -> bool:
        return self._journal.submitted_since(now_us - _HOUR_US) >= PER_HOUR

    def _send(self, step: Step) -> bool:
        """Book, upload and create; False where it has to wait."""
        try:
            if step.file_id is None:
                self._book(step)
                file_id = self._api.upload(_file_name(self._run, step.no), self._content(step))
                self._journal.step(step.no, state=UPLOADED, file_id=file_id)
                step = self._journal.batch(step.no)
            elif step.state == PLANNED:  # refused before: the file is there, the booking was undone
                self._book(step)
            made = self._api.create(str(step.file_id), step.endpoint, self._tags(step))
        except Unknown:
            self._doubtful.add(step.no)
            self._journal.step(step.no, not_before_us=self._time.now_us() + _UNSEEN_US)
            return False
        except OverBudget as error:
            if not self._journal.batches(SUBMITTED, ENDED):
                self._stopped = Stopped(str(error), "budget")
            return False
        except Refusal as error:
            self._refused(step, error)
            return False
        self._submitted(step.no, made)
        return True

    def _submitted(self, no: int, made: Remote) -> None:
        self._journal.step(no, state=SUBMITTED, batch_id=made.id, submitted_us=self._time.now_us())

    def _recover(self) -> None:
        """Find out whether steps that were begun have been taken; only then may they be taken again."""
        if not self._doubtful:
            return
        ours = [batch for batch in self._api.list(self._since_s) if batch.metadata.get(RUN) == self._run]
        for step in [self._journal.batch(no) for no in sorted(self._doubtful)]:
            made = next((batch for batch in ours if self._tags(step).items() <= batch.metadata.items()), None)
            if made is not None:
                self._submitted(step.no, made)
            elif step.not_before_us > self._time.now_us():
                continue  # not to be seen yet, perhaps: look once more
            elif step.file_id is None:
                found = self._api.find_file(_file_name(self._run, step.no))
                if found is not None:
                    self._journal.step(step.no, state=UPLOADED, file_id=found)
            self._doubtful.discard(step.no)

    def _tags(self, step: Step) -> dict[str, str]:
        return {RUN: self._run, NUMBER: str(step.no), TRY: str(step.attempt)}

    def _booking(self, step: Step) -> str:
        return f"{self._run}/{step.no}/{step.attempt}"

    def _book(self, step: Step) -> None:
        """Hold what a batch may cost. Raises OverBudget: nothing is held then."""
        lines = ({"custom_id": one.custom_id, "url": one.endpoint, "body": one.body} for one, _ in self._lines(step.no))
        tag = {JOB_TAG: self._run}
        book(
            self._ledger, lines, batch_id=self._booking(step), tags=tag, prices=self._prices, region=self._region,
            budgets=self._budgets,
        )  # fmt: skip

    def _refused(self, step: Step, error: Refusal) -> None:
        """A creation that the server refused: later, where that may help; else the run stops."""
        self._undo(step, str(error))
        if error.code == "token_limit_exceeded" or error.status == 429:
            self._later(step, str(error))
        elif error.status == 404 and step.file_id is not None:  # its file is gone
            self._journal.step(step.no, state=PLANNED, attempt=step.attempt + 1, file_id=None, why=str(error))
        else:
            self._journal.step(step.no, state=PLANNED, attempt=step.attempt + 1, why=str(error))
            self._stopped = Stopped(f"batch {step.no} was refused: {error}", "refused")

    def _later(self, step: Step, why: str) -> None:
        """Others have filled the queue, or it is smaller than was known: learn, and try again."""
        told = _LIMIT.search(why)
        if told is not None:
            limit = int(told[1].replace(",", ""))
            known = self._queue(step.model)
            if known is None or limit < known:
                self._journal.note(**{f"queue:{canonical(step.model)}": str(limit)})
            if step.tokens > limit:
                self._journal.released(step.no, status="failed", why=why)
                return
        pause_us = min(_LONGEST_BACKOFF_US, _FIRST_BACKOFF_US << min(step.attempt - 1, 8))
        pause_us = round(pause_us * self._random.uniform(0.5, 1.5))
        self._journal.step(
            step.no, state=PLANNED, attempt=step.attempt + 1, batch_id=None, why=why,
            not_before_us=self._time.now_us() + pause_us,
        )  # fmt: skip

    def _undo(self, step: Step, why: str) -> None:
        """Give back what was held for a batch that was not served at all."""
        failed = {"code": "batch_failed", "message": why}
        lines = ({"custom_id": line.custom_id, "error": failed} for line, _ in self._lines(step.no))
        settle(self._ledger, self._booking(step), (), lines, prices=self._prices, region=self._region)

    def _content(self, step: Step) -> Iterator[bytes]:
        for line, raw in self._lines(step.no):
            yield batch_line(line, raw) + b"\n"

    def _lines(self, no: int) -> Iterator[tuple[Line, bytes]]:
        """The open lines of a batch, from the job file."""
        with open(self._job, "rb") as file:
            for _, number, start, size in self._journal.lines_of(no):
                yield _line_at(file, self._job, number, start, size)

    # Collection

    def _collect(self, step: Step) -> None:
        """Take what a batch came to into the results, the ledger and the journal, in this order."""
        if step.status == "failed":
            self._failed(step)
            return
        places = self._places(step.no)
        tried = self._journal.attempts(step.no)
        ended: dict[int, Ended] = {}
        files: list[list[dict[str, Any]]] = [[], []]
        for which, file_id in enumerate((step.output_id, step.errors_id)):
            for line in self._answers(file_id):
                files[which].append(slim(line))
                place = places.get(str(line.get("custom_id")))
                if place is None or (place in ended and ended[place].state == DONE):
                    continue
                ended[place] = judged(place, line, tried[place], self._attempts)
                if ended[place].state == DONE and line["custom_id"] not in self._results.done:
                    self._results.write(line)
                    self._results.done.add(line["custom_id"])
        for name, place in places.items():
            if place not in ended:  # neither file has it
                error = {"code": NO_RESULT, "message": f"batch {step.batch_id} has no result of it"}
                ended[place] = judged(place, {"custom_id": name, "error": error}, tried[place], self._attempts)
                files[1].append({"custom_id": name, "error": error})
        self._results.sync()
        settle(self._ledger, self._booking(step), *files, prices=self._prices, region=self._region)
        self._ledger.sync()
        self._journal.collected(step.no, ended.values())

    def _answers(self, file_id: str | None) -> Iterator[dict[str, Any]]:
        """The lines of an output or error file; of one that is gone, none: its lines have no result then."""
        if file_id is None:
            return
        try:
            yield from answers(file_id, self._api.content(file_id))
        except Refusal as error:
            if error.status != 404:
                raise

    def _failed(self, step: Step) -> None:
        """A batch that the server did not take: nothing of it was served."""
        self._undo(step, step.why)
        if step.why.startswith("token_limit_exceeded"):
            self._later(step, step.why)
            return
        named = self._named(step)
        places = {place: number for number, (place, *_) in enumerate(self._journal.lines_of(step.no), 1)}
        ended = []
        for place, number in places.items():
            if named and number not in named:
                continue  # nothing is said of it
            error = {"code": step.why.partition(":")[0] or "batch_failed", "message": named.get(number) or step.why}
            ended.append(Ended(place, FAILED, json.dumps({"error": error})))
        if named and ended:
            self._journal.collected(step.no, ended)
            self._journal.released(step.no)
        else:
            self._journal.collected(step.no, ended)

    def _named(self, step: Step) -> Mapping[int, str]:
        """The lines of a batch's input that its errors name."""
        return self._api.get(str(step.batch_id)).lines

    def _places(self, no: int) -> dict[str, int]:
        """custom_id → place of the open lines of a batch."""
        found = {}
        with open(self._job, "rb") as file:
            for place, number, start, size in self._journal.lines_of(no):
                line, _ = _line_at(file, self._job, number, start, size)
                found[line.custom_id] = place
        return found

    def _place_homeless(self) -> None:
        """Put lines that are to be tried again into new batches, once their model's first tries are on their way."""
        journal = self._journal
        waiting = {step.model for step in journal.batches(PLANNED)}
        columns = None
        for number, lane in enumerate(journal.lanes):
            if lane.model in waiting or not (places := journal.homeless(number)):
                continue
            if columns is None:
                columns = journal.columns()
            plan = plan_of(columns, None, places=places, queues=lambda model, _: self._queue(model))
            journal.place(plan.lanes)

    def _write_failures(self) -> None:
        """At the end, the lines that failed: an earlier end would be taken out when the run goes on."""
        with open(self._job, "rb") as file:
            for number, start, size, answer in self._journal.failures():
                line, _ = _line_at(file, self._job, number, start, size)
                if line.custom_id in self._results.done:
                    continue
                error = answer.get("error") or (None if "response" in answer else answer)
                full = {
                    **result_line(line.custom_id, error=error),
                    **({k: answer[k] for k in ("response", "error") if k in answer}),
                }
                self._results.write(full)
        self._results.sync()

    def _sleep(self) -> None:
        """Wait for the next look; a little more or less, so that many runs do not ask at once."""
        self._time.sleep(round(self._poll_us * self._random.uniform(0.8, 1.2)))

    def _outcome(self) -> Outcome:
        failures: dict[str, int] = {}
        for *_, answer in self._journal.failures():
            code = code_of(answer)
            failures[code] = failures.get(code, 0) + 1
        batches = sum(step.attempt for step in self._journal.batches() if step.submitted_us is not None)
        return Outcome(self._journal.counts(), batches, failures, self._stopped)


def _file_name(run: str, no: int) -> str:
    """By its name an uploaded file is found again."""
    return f"ratecard-{run}-{no}.jsonl"


def _line_at(file: Any, path: str, number: int, start: int, size: int) -> tuple[Line, bytes]:
    file.seek(start)
    raw = file.read(size)
    line = parse_line(number, raw)
    if isinstance(line, BadLine):
        raise ConfigError(f"{path}:{number}: is not what it was when the run began: {line.reason}")
    return line, raw
