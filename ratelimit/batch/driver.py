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
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pricing.errors import OverBudget

from ..clock import US_PER_S
from ..limit import canonical
from ..results import Results
from .answers import GONE, NO_RESULT, answers, code_of, judged, slim
from .api import ACTIVE, Api, Refusal, Remote, Unknown
from .books import Books
from .journal import DONE, ENDED, FAILED, OPEN, PLANNED, SUBMITTED, UPLOADED, Counts, Ended, Journal, Step
from .plan import plan_of
from .split import PER_HOUR

RUN, NUMBER, TRY = "ratecard_run", "ratecard_batch", "ratecard_try"
"""Metadata of a batch: by them it is found again."""
DEADLINE = "deadline"
LOST = "lost"
"""A batch that the server does not know any more."""
ENDS = frozenset({"completed", "failed", "expired", "cancelled", LOST})
_THEIRS = frozenset({"internal_error", "server_error", "batch_failed"})
"""Why a whole batch fails for no fault of its lines."""
_HOUR_US = 3_600 * US_PER_S
_CLOCKS_APART_S = 2 * 86_400
"""The server's clock may be so far behind ours."""
_FILES_US = 600 * US_PER_S
"""How long the files of a batch that has ended are waited for."""
_LOOKS = 5
"""How often a file is read that has fewer lines than the server says there are."""
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
    books     the job, and the ledger
    results   where results go
    queues    model → input tokens that may wait; None where nothing is known
    others    (batch) → input tokens of an active batch that is not ours
    attempts  most tries of a line
    poll_us   between two looks
    until_us  when batches are given up: those in the air are cancelled, and what they have done is kept
    told      called after each round with the journal, and with what is wrong meanwhile ("": nothing)
    """

    def __init__(
        self,
        api: Api,
        journal: Journal,
        books: Books,
        results: Results,
        *,
        time: Time,
        queues: Callable[[str], int | None],
        others: Callable[[Remote], int],
        attempts: int = 3,
        poll_us: int = 60 * US_PER_S,
        told: Callable[[Journal, str], object] | None = None,
        until_us: int | None = None,
        seed: int | None = None,
    ) -> None:
        self._api, self._journal, self._books, self._results = api, journal, books, results
        self._time, self._queues, self._others_of = time, queues, others
        self._attempts, self._poll_us, self._told, self._until_us = attempts, poll_us, told, until_us
        self._random = random.Random(seed)
        self._run = journal.run
        self._since_s = listed_from_s(journal)
        self._foreign: dict[str, tuple[str, int]] = {}  # active batches that are not ours: model, tokens
        self._known: dict[str, int] = {}
        self._seen_us: dict[int, int] = {}  # batches that have ended, and whose files are not there yet
        self._short: dict[int, int] = {}  # how often a batch's file was too short
        self._stopped: Stopped | None = None
        self._cancelled: set[int] = set()
        self._begun: set[int] = set()  # batches that may be booked
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
            except Unknown as error:  # the network, or the server, is away: it may come back
                troubles += 1
                if troubles > _PATIENCE:
                    raise
                if self._told is not None:
                    self._told(self._journal, str(error))
            self._sleep()
        for step in self._journal.batches(PLANNED, UPLOADED):
            if step.no in self._begun or step.file_id is not None:
                self._again(step, step.why)  # it stops: nothing stays held for these
        self._books.write_failures(self._results)
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
            self._told(journal, "")
        if journal.batches(SUBMITTED, ENDED) or self._doubtful:
            return False
        return self._stopped is not None or not journal.counts().open

    def _doubt(self) -> None:
        """What an earlier process was at when it died may have happened; what it created may not be listed yet."""
        journal, uploading = self._journal, False
        journal.rehome()
        if journal.fact("adopted"):
            for step in journal.batches(SUBMITTED):
                self._books.book(step, within_budgets=False)  # nothing can hold them back any more
        for step in journal.batches(PLANNED, UPLOADED):
            if step.attempt > 1:  # its last try may have died between two steps
                self._books.undo(step._replace(attempt=step.attempt - 1), step.why)
            if step.file_id is not None:
                self._doubtful.add(step.no)
                journal.step(step.no, not_before_us=self._time.now_us() + _UNSEEN_US)
            elif not uploading:  # one at a time, in their order
                self._doubtful.add(step.no)
                self._begun.add(step.no)
                uploading = True

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
                try:
                    seen[step.batch_id] = self._api.get(step.batch_id)
                except Refusal as error:
                    if error.status != 404:
                        raise
                    seen[step.batch_id] = Remote(step.batch_id, LOST, "", 0, "", None, None, {}, step.model, 0)
        return seen

    def _note_ends(self, seen: Mapping[str, Remote]) -> None:
        now_us = self._time.now_us()
        for step in self._journal.batches(SUBMITTED):
            batch = seen[str(step.batch_id)]
            if batch.status not in ENDS:
                continue
            missing = batch.completed + batch.failed and batch.output_id is None and batch.errors_id is None
            if missing and self._seen_us.setdefault(step.no, now_us) > now_us - _FILES_US:
                continue  # its files are on their way
            why = f"{batch.code}: {batch.message}" if batch.code or batch.message else ""
            self._journal.step(
                step.no, state=ENDED, status=batch.status, why=why, output_id=batch.output_id,
                errors_id=batch.errors_id, completed=batch.completed, ended_us=now_us,
            )  # fmt: skip

    # Submission

    def _submit(self) -> None:
        """Submit the batches that the queue has room for, in their order; of a model that has none, none."""
        self._recover()
        full, dear, sent = set[str](), "", False
        for step in self._journal.batches(PLANNED, UPLOADED):
            if self._stopped is not None:
                return
            if step.no in self._doubtful:
                full.add(step.model)
            if step.model in full:
                continue
            now_us, queue = self._time.now_us(), self._queue(step.model)
            if (queue is not None and step.tokens > queue) or self._journal.open_in(step.no) < step.requests:
                self._cut_anew(step)
                continue
            room = self._room(step.model)
            if step.not_before_us > now_us or self._too_many(now_us) or (room is not None and step.tokens > room):
                full.add(step.model)
                continue
            try:
                went = self._send(step)
            except OverBudget as error:
                went, dear = False, str(error)
            sent = sent or went
            if not went:
                full.add(step.model)
        if dear and not sent and not self._journal.batches(SUBMITTED, ENDED):
            self._stopped = Stopped(dear, "budget")

    def _cut_anew(self, step: Step) -> None:
        """A batch that the queue is too small for, or of which lines were done otherwise: its lines go into others."""
        self._again(step, step.why)
        self._journal.released(step.no)

    def _again(self, step: Step, why: str, **changes: Any) -> None:
        """Take a try back: first it is another one, then the last one's booking is undone; a crash undoes it again."""
        again = {"state": PLANNED, "attempt": step.attempt + 1, "batch_id": None, "why": why, **changes}
        self._journal.step(step.no, **again)
        self._books.undo(step, why)

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
        """Book, upload and create; False where it has to wait. Raises OverBudget: nothing is held then."""
        try:
            self._begun.add(step.no)
            self._books.book(step)
            if step.file_id is None:
                file_id = self._api.upload(_file_name(self._run, step.no), self._books.content(step.no))
                self._journal.step(step.no, state=UPLOADED, file_id=file_id)
                step = self._journal.batch(step.no)
            made = self._api.create(str(step.file_id), step.endpoint, self._tags(step))
        except Unknown:
            self._doubtful.add(step.no)
            self._journal.step(step.no, not_before_us=self._time.now_us() + _UNSEEN_US)
            return False
        except Refusal as error:
            self._refused(step, error)
            return False
        self._submitted(step.no, made)
        return True

    def _submitted(self, no: int, made: Remote) -> None:
        self._journal.submitted(no, made.id, self._time.now_us())

    def _recover(self) -> None:
        """Find out whether steps that were begun have been taken; only then may they be taken again."""
        if not self._doubtful:
            return
        known = {step.batch_id for step in self._journal.batches()}
        listed = [batch for batch in self._api.list(self._since_s) if batch.id not in known]
        for step in [self._journal.batch(no) for no in sorted(self._doubtful)]:
            made = next((batch for batch in listed if self._is_of(batch, step)), None)
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

    def _is_of(self, batch: Remote, step: Step) -> bool:
        """Whether a batch is what came of a step: by its tags, or by its input where the server has dropped them."""
        if RUN in batch.metadata:
            return self._tags(step).items() <= batch.metadata.items()
        return step.file_id is not None and batch.input_id == step.file_id and batch.status != "failed"

    def _refused(self, step: Step, error: Refusal) -> None:
        """A creation that the server refused: later, where that may help; else the run stops."""
        passing = error.status == 429 and error.code != "insufficient_quota"
        if error.code == "token_limit_exceeded" or passing:
            self._later(step, str(error))
        elif error.status == 404 and step.file_id is not None:  # its file is gone
            self._again(step, str(error), file_id=None)
        else:
            self._again(step, str(error))
            self._stopped = Stopped(f"batch {step.no} was refused: {error}", "refused")

    def _later(self, step: Step, why: str) -> None:
        """Others have filled the queue, or it is smaller than was known: learn, and try again."""
        told = _LIMIT.search(why)
        if told is not None:
            limit = int(told[1].replace(",", ""))
            known = self._queue(step.model)
            if known is None or limit < known:
                self._journal.note(**{f"queue:{canonical(step.model)}": str(limit)})
        pause_us = min(_LONGEST_BACKOFF_US, _FIRST_BACKOFF_US << min(step.attempt - 1, 8))
        pause_us = round(pause_us * self._random.uniform(0.5, 1.5))
        self._again(step, why, not_before_us=self._time.now_us() + pause_us)

    # Collection

    def _collect(self, step: Step) -> None:
        """Take what a batch came to into the results, the ledger and the journal, in this order."""
        if step.status == "failed":
            self._failed(step)
            return
        places, tried = self._books.places(step.no), self._journal.attempts(step.no)
        ended: dict[int, Ended] = {}
        files: list[list[dict[str, Any]]] = [[], []]
        gone = step.status == LOST
        for which, file_id in enumerate((step.output_id, step.errors_id)):
            try:
                for line in () if file_id is None else answers(file_id, self._api.content(file_id)):
                    files[which].append(slim(line))
                    self._take(line, places, tried, ended)
            except Refusal as error:
                if error.status != 404:
                    raise
                gone = True  # somebody has deleted it
        if len(files[0]) < step.completed and not gone and self._short.get(step.no, 0) < _LOOKS:
            self._short[step.no] = self._short.get(step.no, 0) + 1
            raise Unknown(f"batch {step.batch_id}: {len(files[0]):,} of its {step.completed:,} results are there")
        for name, place in places.items():
            if place not in ended:  # neither file has it
                code, what = (GONE, "are gone") if gone else (NO_RESULT, "have nothing of it")
                error_ = {"code": code, "message": f"the results of batch {step.batch_id} {what}"}
                ended[place] = judged(place, {"custom_id": name, "error": error_}, tried[place], self._attempts)
                if not gone:  # what is gone may have been served, and billed
                    files[1].append({"custom_id": name, "error": error_})
        self._results.sync()
        self._books.settle(step, *files)
        self._books.sync()
        self._journal.collected(step.no, ended.values())

    def _take(
        self, line: Mapping[str, Any], places: Mapping[str, int], tried: Mapping[int, int], ended: dict[int, Ended]
    ) -> None:
        """Take an answer of a batch's file."""
        place = places.get(str(line.get("custom_id")))
        if place is None or (place in ended and ended[place].state == DONE):
            return
        ended[place] = judged(place, line, tried[place], self._attempts)
        if ended[place].state == DONE and line["custom_id"] not in self._results.done:
            self._results.write(line)
            self._results.done.add(line["custom_id"])

    def _failed(self, step: Step) -> None:
        """A batch that the server did not take: nothing of it was served."""
        if step.why.startswith("token_limit_exceeded"):
            self._later(step, step.why)
            return
        self._books.undo(step, step.why)
        code = step.why.partition(":")[0] or "batch_failed"
        numbered = list(enumerate((place for place, *_ in self._journal.lines_of(step.no)), 1))
        named = self._api.get(str(step.batch_id)).lines
        tried = self._journal.attempts(step.no)
        blamed = {place for number, place in numbered if number in named}
        ended = []
        for number, place in numbered:
            if blamed and place not in blamed:
                continue  # nothing is said of it: it goes again
            if code in _THEIRS and tried[place] + 1 < self._attempts:
                ended.append(Ended(place, OPEN))
            else:
                error = {"code": code, "message": named.get(number) or step.why}
                ended.append(Ended(place, FAILED, json.dumps({"error": error})))
        self._journal.collected(step.no, ended)

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

    def _sleep(self) -> None:
        """Wait for the next look; a little more or less, so that many runs do not ask at once."""
        self._time.sleep(round(self._poll_us * self._random.uniform(0.8, 1.2)))

    def _outcome(self) -> Outcome:
        failures: dict[str, int] = {}
        for *_, answer in self._journal.failures():
            code = code_of(answer)
            failures[code] = failures.get(code, 0) + 1
        return Outcome(self._journal.counts(), self._journal.submissions(), failures, self._stopped)


def listed_from_s(journal: Journal) -> int:
    """From when on the server's list may have batches of a run (s)."""
    return int(journal.fact("begun_us") or 0) // US_PER_S - _CLOCKS_APART_S


def _file_name(run: str, no: int) -> str:
    """By its name an uploaded file is found again."""
    return f"ratecard-{run}-{no}.jsonl"
