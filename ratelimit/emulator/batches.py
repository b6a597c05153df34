"""The life of batches: validating → failed, or in_progress → finalizing → completed; expired; cancelling → cancelled.

Nothing runs in the background. Each batch knows the instant (emulated time) of its next change; whoever asks anything
first lets all changes happen that are due, in their order. So a batch that was validated first took its room in the
queue first, whenever somebody looks. A change that reads or writes a file takes real time, which is why callers in an
event loop ask from a thread.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections import deque
from collections.abc import Callable
from itertools import count
from math import exp
from typing import TYPE_CHECKING, Any

from . import batch_work
from .batch_errors import MOST_CREATED, over_limit, queue_full, too_many_batches
from .batch_queues import Enqueued, Queues
from .batch_state import Batch, BatchChange, BatchRules
from .batch_work import Scan
from .counters import Bill
from .errors import ErrorReply
from .faults import LINE, FaultPlan
from .files import FileStore, Stored

if TYPE_CHECKING:
    from .account import Account
    from .plan import Planner

US_PER_S = 1_000_000
_HOUR_US = 3_600 * US_PER_S
_WINDOW_US = 86_400 * US_PER_S
_MEDIAN_S = 600
_SIGMA = 0.5
"""Of a batch's duration where nobody gives one: lognormal. Reports have minutes to hours; nothing is published."""
_VALIDATING_US, _FINALIZING_US, _CANCELLING_US = 3 * US_PER_S, 2 * US_PER_S, 10 * US_PER_S

ENDED = ("failed", "completed", "expired", "cancelled")


class Batches:
    """All batches of the account. Any thread may call; one change happens at a time.

    account, planner  of their own: no batch takes from the limits of online requests
    faults            the rules in force
    now_us            the emulated clock
    """

    def __init__(
        self,
        *,
        account: Account,
        planner: Planner,
        rules: BatchRules,
        faults: Callable[[], FaultPlan],
        now_us: Callable[[], int],
        speed: float,
        seed: int,
        instant: bool,
        organization: str,
        nonce: str,
        log_size: int,
    ) -> None:
        self._account = account
        self._planner = planner
        self._rules = rules
        self._faults = faults
        self._now_us = now_us
        self._speed = speed
        self._seed = seed
        self._instant = instant
        self._organization = organization
        self._nonce = nonce
        self._lock = threading.RLock()
        self._queues = Queues(account, rules.queue, log_size)
        self._changes: deque[BatchChange] = deque(maxlen=log_size)
        self._halted = False
        self.files = FileStore(now_us, nonce)
        self._start_anew()

    def _start_anew(self) -> None:
        self._batches: dict[str, Batch] = {}
        self._due: list[tuple[int, int, Batch, int, Callable[[Batch, int], None]]] = []
        self._ticks = count()
        self._created: deque[int] = deque()
        self._refused = 0
        self._bill = Bill()
        self._failed_lines = 0

    # -- what the API does ---------------------------------------------------------------------------------------------

    def create(
        self,
        source: Stored,
        endpoint: str,
        metadata: dict[str, str] | None,
        keep_s: int | None = None,
        late: bool = False,
    ) -> dict[str, Any] | ErrorReply:
        """Make a batch of a file; it is validated later. keep_s: seconds until its results expire."""
        with self._lock:
            now_us = self.advance()
            while self._created and self._created[0] <= now_us - _HOUR_US:
                self._created.popleft()
            if len(self._created) >= MOST_CREATED:
                self._refused += 1
                return too_many_batches(round((self._created[0] + _HOUR_US - now_us) / self._speed))
            number = len(self._batches) + 1
            work_us = self._work_us(number)
            batch = Batch(
                id=f"batch_{self._nonce}{number:016x}",
                number=number,
                endpoint=endpoint,
                source=source,
                metadata=metadata,
                keep_s=keep_s,
                created_us=now_us,
                expires_us=now_us + _WINDOW_US,
                work_us=work_us,
                late=late,
            )
            if late:
                batch.expires_us = now_us + work_us + min(_VALIDATING_US, work_us // 10)
            elif self._rules.expires is not None:
                batch.expires_us = now_us + round(self._rules.expires * US_PER_S)
            if self._rules.over_limit == "429":
                found = batch.found = self._scan(batch)
                full = None if found.errors else self._queues.full(found.wanted)
                if full is not None:
                    assert full.limit is not None
                    self._refused += 1
                    return over_limit(queue_full(full.name, full.limit, self._organization))
                if not found.errors:
                    self._hold(batch, now_us)
            source.pins += 1
            self._created.append(now_us)
            self._batches[batch.id] = batch
            self._changes.append(BatchChange(now_us, batch.id, "validating"))
            self._later(batch, now_us + min(_VALIDATING_US, work_us // 10), self._validate)
            return batch.document(now_us)

    def get(self, key: str) -> dict[str, Any] | None:
        """Tell how a batch stands; None when there is none."""
        with self._lock:
            now_us = self.advance()
            batch = self._batches.get(key)
            return None if batch is None else batch.document(now_us)

    def listed(self) -> list[dict[str, Any]]:
        """Tell how all stand, oldest first."""
        with self._lock:
            now_us = self.advance()
            return [batch.document(now_us) for batch in self._batches.values()]

    def page(self, after: str | None, limit: int) -> tuple[list[dict[str, Any]], bool] | None:
        """A page of them, newest first, and whether there are more; None when `after` is no batch."""
        with self._lock:
            now_us = self.advance()
            if after is not None and after not in self._batches:
                return None
            newest = list(reversed(self._batches.values()))
            begin = 0 if after is None else newest.index(self._batches[after]) + 1
            page = [batch.document(now_us) for batch in newest[begin : begin + limit]]
            return page, len(newest) > begin + limit

    def cancel(self, key: str) -> dict[str, Any] | str | None:
        """Begin to cancel a batch. → how it stands, the state in which it ended before, or None when there is none."""
        with self._lock:
            now_us = self.advance()
            batch = self._batches.get(key)
            if batch is None:
                return None
            if batch.status in ENDED:
                return batch.status
            if batch.status != "cancelling":
                batch.goes = batch.answered(now_us)
                self._enter(batch, "cancelling", now_us)
                self._later(batch, now_us + min(_CANCELLING_US, batch.work_us // 10), self._cancelled)
            return batch.document(now_us)

    # -- what tests ask ------------------------------------------------------------------------------------------------

    @property
    def lock(self) -> threading.RLock:
        """Held while files are looked up or changed."""
        return self._lock

    def changes(self) -> list[BatchChange]:
        """List the latest changes of state, oldest first."""
        with self._lock:
            self.advance()
            return list(self._changes)

    def enqueued(self) -> list[Enqueued]:
        """List what the queues held, at each change."""
        with self._lock:
            self.advance()
            return list(self._queues.log)

    def counters(self) -> dict[str, Any]:
        """Sum up for GET /_emulator."""
        with self._lock:
            self.advance()
            states: dict[str, int] = {}
            for batch in self._batches.values():
                states[batch.status] = states.get(batch.status, 0) + 1
            return {
                "created": len(self._batches),
                "refused": self._refused,
                "by_status": states,
                "queues": self._queues.snapshot(),
                "usage": self._bill.as_dict(),
                "failed_lines": self._failed_lines,
                "files": len(self.files),
            }

    def finish(self, key: str | None = None) -> None:
        """Let everything happen now that would happen to a batch, or to all, without waiting for it."""
        with self._lock:
            now_us = self.advance()
            while not self._halted and (mine := [each for each in self._due if key in (None, each[2].id)]):
                first = min(mine)
                self._due.remove(first)
                heapq.heapify(self._due)
                self._happen(first, now_us)

    def advance(self) -> int:
        """Let everything happen that is due. → the instant (µs, emulated) that it is now"""
        with self._lock:
            now_us = self._now_us()
            while self._due and self._due[0][0] <= now_us and not self._halted:
                first = heapq.heappop(self._due)
                self._happen(first, first[0])
            return now_us

    def clear(self) -> None:
        """Forget all batches and files."""
        with self._lock:
            self._start_anew()
            self._queues.clear()
            self._changes.clear()
            self.files.clear()

    def halt(self) -> None:
        """Let nothing happen any more, and stop what is happening. Takes no lock: another thread may be at work."""
        self._halted = True

    def close(self) -> None:
        """Remove the files. How the batches stood can still be asked."""
        with self._lock:
            self._halted = True
            self._due.clear()
            self.files.clear()

    def open(self) -> None:
        """Go on."""
        self._halted = False

    # -- what happens to a batch ---------------------------------------------------------------------------------------

    def _later(self, batch: Batch, at_us: int, act: Callable[[Batch, int], None]) -> None:
        heapq.heappush(self._due, (at_us, next(self._ticks), batch, batch.version, act))

    def _happen(self, event: tuple[int, int, Batch, int, Callable[[Batch, int], None]], at_us: int) -> None:
        _, _, batch, version, act = event
        if version != batch.version:
            return
        try:
            act(batch, at_us)
        except BaseException:
            heapq.heappush(self._due, event)  # a full disk, or the end of the server: it has not happened
            raise

    def _enter(self, batch: Batch, status: str, at_us: int) -> None:
        batch.status = status
        batch.version += 1
        batch.at[status] = at_us
        self._changes.append(BatchChange(at_us, batch.id, status))

    def _validate(self, batch: Batch, at_us: int) -> None:
        found = batch.found
        if found is None:
            found = batch.found = self._scan(batch)
        errors = found.errors
        if not errors and not batch.held:
            full = self._queues.full(found.wanted)
            if full is None:
                self._hold(batch, at_us)
            else:
                assert full.limit is not None
                message = queue_full(full.name, full.limit, self._organization)
                errors = [batch_work.problem("token_limit_exceeded", message)]
        if errors:
            batch.errors = errors
            self._end(batch, "failed", at_us)
            return
        faults = self._faults()
        if any(rule.endpoint == LINE for rule in faults.rules):
            batch_work.meet_faults(batch.source, found, faults)
        batch.order = batch_work.turns(self._seed, batch.number, len(found))
        self._enter(batch, "in_progress", at_us)
        batch.lines = batch.goes = lines = len(found)
        if batch.late:
            batch.goes = int(lines * self._luck(batch.number, "late").uniform(0.1, 0.9))
            self._later(batch, max(at_us, batch.expires_us), self._expire)
        elif at_us + batch.work_us <= batch.expires_us:
            self._later(batch, at_us + batch.work_us, self._finalize)
        else:
            batch.goes = lines * max(0, batch.expires_us - at_us) // batch.work_us
            self._later(batch, max(at_us, batch.expires_us), self._expire)

    def _finalize(self, batch: Batch, at_us: int) -> None:
        self._enter(batch, "finalizing", at_us)
        self._later(batch, at_us + min(_FINALIZING_US, batch.work_us // 10), self._complete)

    def _complete(self, batch: Batch, at_us: int) -> None:
        self._write(batch, at_us, None)
        self._end(batch, "completed", at_us)

    def _expire(self, batch: Batch, at_us: int) -> None:
        self._write(batch, at_us, batch_work.EXPIRED)
        self._end(batch, "expired", at_us)

    def _cancelled(self, batch: Batch, at_us: int) -> None:
        if batch.order is not None:
            self._write(batch, at_us, batch_work.CANCELLED)
        self._end(batch, "cancelled", at_us)

    def _end(self, batch: Batch, status: str, at_us: int) -> None:
        if batch.held and batch.found is not None:
            self._queues.release(batch.found.wanted, at_us)
            batch.held = False
        batch.order = None
        if batch.found is not None:
            batch.found.forget()
        self.files.unpin(batch.source)
        self._enter(batch, status, at_us)

    def _hold(self, batch: Batch, at_us: int) -> None:
        assert batch.found is not None
        self._queues.hold(batch.found.wanted, at_us)
        batch.held = True

    def _scan(self, batch: Batch) -> Scan:
        return batch_work.scan(
            batch.source,
            batch.endpoint,
            account=self._account,
            planner=self._planner,
            queues=self._queues,
            check=self._check,
        )

    def _write(self, batch: Batch, at_us: int, rest: dict[str, str] | None) -> None:
        assert batch.found is not None
        assert batch.order is not None
        began_us = batch.at["in_progress"]
        results = batch_work.write(
            batch.source,
            batch.endpoint,
            batch.found,
            batch.order,
            done=batch.goes,
            done_us=lambda turn: min(at_us, began_us + batch.work_us * (turn + 1) // batch.lines),
            rest=rest,
            tail=f"{self._nonce}{batch.number:08x}",
            planner=self._planner,
            drafts=self.files.drafts,
            check=self._check,
        )
        for name in ("output", "errors"):
            path = getattr(results, name)
            if path is not None:
                filename = f"{batch.id}_{'error' if name == 'errors' else name}.jsonl"
                setattr(results, name, self.files.add(path, filename, "batch_output", batch.keep_s, at_us).id)
        batch.results = results
        self._failed_lines += results.failed
        self._bill.calls += results.completed
        self._bill.input_tokens += results.input_tokens
        self._bill.output_tokens += results.output_tokens
        self._bill.reasoning_tokens += results.reasoning_tokens

    def _check(self) -> None:
        if self._halted:
            raise RuntimeError("the emulator has been stopped")

    # -- small things --------------------------------------------------------------------------------------------------

    def _luck(self, number: int, what: str) -> random.Random:
        return random.Random(f"batch {what} {self._seed} {number}")

    def _work_us(self, number: int) -> int:
        rules = self._rules
        if rules.seconds is not None:
            return round(rules.seconds * US_PER_S)
        if rules.expires is not None:
            return round(2 * rules.expires * US_PER_S)
        if self._instant:
            return 0
        return round(_MEDIAN_S * exp(self._luck(number, "work").gauss(0, _SIGMA)) * US_PER_S)
