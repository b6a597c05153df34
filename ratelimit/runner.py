"""Run a job file: JSONL in, paced, priced and resumable JSONL out, through the real openai client.

The client carries the middleware, so every attempt waits for its admission and leaves its line in the ledger; the
runner reads lines, keeps a bounded number of requests in the air, retries what may be retried, and writes each result
as it ends. Only a few requests stand before the limiter at a time: a request is built when it is nearly its turn, so
that the time between its admission and its way onto the wire stays short.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import itertools
import os
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pricing.entries import LEASE_OVER
from pricing.ledger import Ledger, fold

from .checks import knock
from .clock import US_PER_S
from .context import CURRENT, CallContext
from .errors import AdmissionError, ConfigError, OverBudget, RatecardError
from .job import BadLine, Line, fingerprint
from .limiter import Limiter
from .progress import Progress, Report, StoppedBy, Wait
from .reply import RUNNING
from .reservation import Reservation
from .results import Results, marked, result_line
from .verdict import Verdict, error_body, judge

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from .headers import Refusal

BEFORE_THE_LIMITER = 32
"""Requests built and waiting for admission at a time."""
FIRST_BACKOFF_US = US_PER_S
LONGEST_BACKOFF_US = 60 * US_PER_S
POLL_US = 2 * US_PER_S
SYNC_EVERY_S = 1.0


class Runner:
    """One job on its way.

    client       an AsyncOpenAI client, wrapped with `limiter` and `ledger` and with max_retries=0
    concurrency  most requests in the air at once
    attempts     most tries per line
    run          name of the job in the ledger
    on_slowed    called with the OverBudget of a budget that opens slowly, once per budget, when lines wait for it
    started      custom_id → id of a background response that an earlier run started: asked after, not started again
    """

    def __init__(
        self,
        client: AsyncOpenAI,
        limiter: Limiter,
        ledger: Ledger,
        results: Results,
        *,
        run: str,
        concurrency: int = 1000,
        attempts: int = 5,
        strict: bool = False,
        started: Mapping[str, str] | None = None,
        seed: int | None = None,
        on_result: Callable[[Mapping[str, Any]], None] | None = None,
        on_slowed: Callable[[OverBudget], None] | None = None,
    ) -> None:
        self.client = client
        self.limiter = limiter
        self.ledger = ledger
        self.results = results
        self.run_name = run
        self.progress = Progress(kept=len(results.done))
        self.bad_lines: list[BadLine] = []
        self._attempts = attempts
        self._strict = strict
        self._on_result = on_result
        self._on_slowed = on_slowed
        self._slowed: set[str] = set()  # budgets of which that was told
        self._random = random.Random(seed)
        self._air = asyncio.Semaphore(concurrency)
        self._door = asyncio.Semaphore(BEFORE_THE_LIMITER)
        self._started = dict(started or {})
        self._broken: RatecardError | None = None  # why the job cannot go on, when that is an error
        self._grounded: set[asyncio.Task[Any]] = set()  # lines whose request is not in the air
        self._ended = asyncio.Event()  # set, and replaced, whenever a request has ended: held budget came free
        self._work: dict[str, list[int]] = {}  # bucket time per limit of what was admitted, by lane

    def stop(self, reason: str, by: StoppedBy) -> None:
        """Admit nothing more, not even what stands in line; what is in the air is finished and written."""
        if not self.progress.stopped:
            self.progress.stopped, self.progress.stopped_by = reason, by
            for task in self._grounded - {asyncio.current_task()}:
                task.cancel()

    async def run(self, lines: Iterable[Line | BadLine]) -> Report:
        """Send every line, write every result, and say how it went.

        Raises  ConfigError when nothing answers where it should go, the job cannot be read on, or it has a bad line
                and `strict`; LedgerError when costs cannot be written any more: after what was in the air has been
                finished and written
        """
        progress, clock = self.progress, self.limiter.clock
        progress.started_us = clock.now_us()
        begun_us = time.time_ns() // 1000  # the ledger's clock is the wall
        syncing = asyncio.create_task(self._sync_often())
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    await self._feed(lines, group)
                except ConfigError as error:
                    self._break(error)
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        finally:
            syncing.cancel()
            self.results.sync()
            progress.finished_us = clock.now_us()
        if self._broken is not None:
            raise self._broken
        minimum_us, binding = self._minimum()
        return Report(
            progress,
            minimum_us,
            binding,
            self.bad_lines,
            self.ledger.totals(run=self.run_name),
            fold(self.ledger.entries(since_us=begun_us, run=self.run_name)),
            {
                model: part
                for model, part in self.ledger.totals(by="model", run=self.run_name).items()
                if part.posted_count or part.pending_count or part.expired_count  # else only refused under this name
            },
        )

    def _break(self, error: RatecardError) -> None:
        """Stop because of an error, which `run` raises when all that was in the air is written."""
        self._broken = self._broken or error
        self.stop(str(error), "error")

    async def _feed(self, lines: Iterable[Line | BadLine], group: asyncio.TaskGroup) -> None:
        """Start a task per line, as fast as places come free."""
        progress = self.progress
        somebody_there = False
        for line in lines:
            if progress.stopped:
                return
            progress.read += 1
            if isinstance(line, BadLine):
                self._bad(line)
            elif line.custom_id in self.results.done:
                progress.skipped += 1
            else:
                if not somebody_there:
                    await knock(self.client)
                    somebody_there = True
                await self._air.acquire()
                await self._door.acquire()
                if progress.stopped:
                    return
                task = group.create_task(self._carry(line))
                self._grounded.add(task)
                task.add_done_callback(self._grounded.discard)
            # One line per turn of the loop: building requests must not keep those in the air from being read.
            await asyncio.sleep(0)

    def _bad(self, line: BadLine) -> None:
        if self._strict:
            raise ConfigError(f"line {line.number}: {line.reason}")
        self.progress.bad += 1
        self.bad_lines.append(line)

    async def _carry(self, line: Line) -> None:
        """See one line to its end."""
        door = _Door(self._door)
        try:
            result = await self._result(line, door)
        finally:
            door.leave()
            self._air.release()
        if result is None:
            return
        result = marked(result, fingerprint(line))
        self.results.write(result)
        response = result["response"]
        if response is not None and response["status_code"] < 400:
            self.progress.done += 1
        else:
            self.progress.add_failure(result)
        if self._on_result is not None:
            self._on_result(result)

    async def _result(self, line: Line, door: _Door) -> dict[str, Any] | None:
        """Try a line until it has a result; None when the job was stopped before it could be sent."""
        if line.custom_id in self._started:
            result = await self._ask_after(line)
            if result is not None:
                return result
        attempt = 0
        while True:
            if self.progress.stopped:
                return None
            attempt += 1
            ended = self._ended
            try:
                return await self._attempt(line, door, attempt)
            except OverBudget as error:
                attempt -= 1
                if self.progress.in_flight == 0:
                    self.stop(str(error), "unpriced" if error.unpriced else "budget")
                    return None
                await ended.wait()  # what is in the air holds its worst case; when it settles, room comes free
            except AdmissionError as error:
                return result_line(line.custom_id, error={"code": _snake(error), "message": str(error)})
            except RatecardError as error:
                if isinstance(error, ConfigError):
                    return result_line(line.custom_id, error={"code": "config_error", "message": str(error)})
                self._break(error)
                return None
            except Exception as error:
                verdict = self._judged(error)
                if not verdict.again or attempt >= self._attempts:
                    return _failure(line, error)
                if self.progress.stopped:
                    return None
                await self._pause(verdict.after_us, attempt)

    async def _attempt(self, line: Line, door: _Door, number: int) -> dict[str, Any]:
        progress = self.progress
        admitted: Reservation | None = None
        task = asyncio.current_task()
        assert task is not None

        def on_admitted(reservation: Reservation) -> None:
            nonlocal admitted
            admitted = reservation
            self._grounded.discard(task)
            tokens = reservation.demand.tokens
            progress.admitted(self.limiter.clock.now_us(), reservation.model, tokens)
            limit = reservation.waited_for or "the line"
            progress.waits.add(Wait(reservation.waited_us, line.custom_id, limit, tokens))
            door.leave()

        def on_refused(refusal: Refusal) -> None:
            # The middleware queues it again: until it is admitted once more it is not in the air.
            nonlocal admitted
            progress.add_refusal(refusal.kind)
            if admitted is not None:
                admitted = None
                self._landed(task)

        await door.enter()
        token = CURRENT.set(
            CallContext(
                custom_id=line.custom_id,
                run=self.run_name,
                attempt=number,
                on_admitted=on_admitted,
                on_refused=on_refused,
                on_slowed=self._tell_slowed,
                on_cost=progress.add_cost,
            )
        )
        try:
            response = await self.client.post(
                line.endpoint.removeprefix("/v1"), cast_to=self._raw(), body=dict(line.body)
            )
            if admitted is not None:
                self._count(admitted)
            try:
                body = response.json()
            except ValueError:
                return result_line(line.custom_id, error=_unreadable(response))
            if isinstance(body, dict) and body.get("status") in RUNNING and line.body.get("background"):
                response_id = str(body.get("id"))
                answer = await self._poll(response_id)
                if not isinstance(answer, dict):
                    return _poll_failed(line, response_id, answer)
                body = answer
            return result_line(
                line.custom_id, status=response.status_code, request_id=response.headers.get("x-request-id"), body=body
            )
        finally:
            CURRENT.reset(token)
            if admitted is not None:
                self._landed(task)

    def _tell_slowed(self, error: OverBudget) -> None:
        name = str(error.budget)
        if self._on_slowed is not None and name not in self._slowed:
            self._slowed.add(name)
            self._on_slowed(error)

    def _landed(self, task: asyncio.Task[Any]) -> None:
        """Note that a line's request is not in the air any more; what a budget held for it has come free."""
        self.progress.in_flight -= 1
        self._grounded.add(task)
        self._ended.set()
        self._ended = asyncio.Event()

    async def _ask_after(self, line: Line) -> dict[str, Any] | None:
        """Get the result of a background response that an earlier run started; None when the server has it no more."""
        response_id = self._started.pop(line.custom_id)
        token = CURRENT.set(CallContext(on_cost=self.progress.add_cost))
        try:
            answer = await self._poll(response_id)
        finally:
            CURRENT.reset(token)
        if isinstance(answer, dict):
            return result_line(line.custom_id, status=200, body=answer)
        if getattr(answer, "status_code", None) != 404:
            return _poll_failed(line, response_id, answer)
        self.ledger.expire_response(response_id, "the server has this response no more; counted at its estimate")
        return None

    async def _poll(self, response_id: str) -> dict[str, Any] | Exception:
        """Ask after a background response until it has ended; gently, and each time a little differently.

        → the response, or the error of the last of too many polls that failed in a row
        """
        failed = 0
        while True:
            pause_us = POLL_US + self._random.randrange(POLL_US // 2)
            try:
                await asyncio.sleep(self.limiter.clock.seconds(pause_us))
                response = await self.client.get(f"/responses/{response_id}", cast_to=self._raw())
                body = response.json()
            except Exception as error:
                failed += 1
                unreadable = isinstance(error, ValueError)
                verdict = Verdict(again=True, after_us=POLL_US) if unreadable else self._judged(error)
                if verdict.refusal:  # polls take from no limit, so the middleware lets their 429s pass
                    self.progress.add_refusal(verdict.refusal)
                if not verdict.again or failed >= self._attempts:
                    return error
                await self._pause(verdict.after_us, failed)
                continue
            failed = 0
            if not isinstance(body, dict) or body.get("status") not in RUNNING:
                return body if isinstance(body, dict) else ValueError(f"expected a JSON object, found {body!r:.80}")

    def _judged(self, error: Exception) -> Verdict:
        """Read the error of an attempt, once, and stop the job when the others would end likewise."""
        verdict = judge(error)
        if verdict.stops:
            self.stop(verdict.words, verdict.stops)
        return verdict

    async def _pause(self, after_us: int | None, attempt: int) -> None:
        """Let the time pass that the server asked for, or a growing one of ours; jitter is only ever added."""
        if after_us is None:
            after_us = min(FIRST_BACKOFF_US << max(0, attempt - 1), LONGEST_BACKOFF_US)
        after_us += self._random.randrange(after_us // 4 + 1)
        await asyncio.sleep(self.limiter.clock.seconds(after_us))

    def _count(self, admitted: Reservation) -> None:
        """Add an admitted request to the work whose theoretical minimum the report states."""
        sums = self._work.setdefault(admitted.model, [0] * len(admitted.charges_us))
        for j, charge_us in enumerate(admitted.charges_us):
            sums[j] += charge_us

    def _minimum(self) -> tuple[int, str]:
        """The least time (µs) a bucket that starts full needs to admit all of the work, and which limit says so."""
        longest, name = 0, ""
        for gate in self.limiter.gates():
            for limit, sum_us in zip(gate.lane.limits, self._work.get(gate.lane.name, ()), strict=False):
                if sum_us - limit.burst_us > longest:
                    longest, name = sum_us - limit.burst_us, f"{limit.name} of {gate.lane.name}"
        return longest, name

    def _raw(self) -> Any:
        """The response class of the client's HTTP library: replies are kept as they came."""
        from .transports.wrap import family

        return importlib.import_module(family(type(self.client._client))[0]).Response

    async def _sync_often(self) -> None:
        while True:
            await asyncio.sleep(SYNC_EVERY_S)
            self.results.sync()


class _Door:
    """A line's place before the limiter; left when it is admitted, entered again for another try."""

    __slots__ = ("_inside", "_semaphore")

    def __init__(self, semaphore: asyncio.Semaphore) -> None:
        self._semaphore = semaphore
        self._inside = True  # taken by Runner.run before the task was made

    async def enter(self) -> None:
        if not self._inside:
            await self._semaphore.acquire()
            self._inside = True

    def leave(self) -> None:
        if self._inside:
            self._inside = False
            self._semaphore.release()


def _unreadable(response: Any) -> dict[str, str]:
    """The error of a reply that is no JSON: it was billed all the same, so it is not asked again.

    The same words for all of a kind: the summary counts alike ones together.
    """
    kind = response.headers.get("content-type", "").partition(";")[0].strip()
    found = f" but {kind}" if kind and kind != "application/json" else ""
    return {"code": "unreadable_reply", "message": f"HTTP {response.status_code}, and the reply is not JSON{found}"}


def _poll_failed(line: Line, response_id: str, error: Exception) -> dict[str, Any]:
    """The result line of a response that was started and is out of reach; started again, it would be paid twice."""
    message = f"response {response_id} was started and could not be asked after: {error}"
    return result_line(line.custom_id, error={"code": "poll_failed", "message": message})


def _failure(line: Line, error: Exception) -> dict[str, Any]:
    """The result line of a request that ended in an error: the server's own words when there are any."""
    response = getattr(error, "response", None)
    if response is None:
        why = f" ({type(error.__cause__).__name__}: {error.__cause__})" if error.__cause__ is not None else ""
        return result_line(line.custom_id, error={"code": _snake(error), "message": f"{error}{why}"})
    return result_line(
        line.custom_id,
        status=response.status_code,
        request_id=response.headers.get("x-request-id"),
        body=error_body(error),
    )


def _snake(error: Exception) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(error).__name__).lower()


def run_name(path: str | os.PathLike[str]) -> str:
    """Name a job in the ledger after its output file; alike names in different folders are different jobs."""
    whole = os.path.abspath(os.fspath(path))
    digest = hashlib.blake2b(whole.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return f"run:{os.path.basename(whole).encode('utf-8', 'replace').decode()}:{digest}"


class Begun(NamedTuple):
    """A job as the ledger knows it before anything is sent.

    run      the name of its entries
    closed   entries of a killed run that were closed: sent, and nobody knows what became of them
    started  custom_id → response id of background responses that can still be asked after; they stay pending
    """

    run: str
    closed: int
    started: Mapping[str, str]


def begin(ledger: Ledger, path: str | os.PathLike[str], *, resume: bool) -> Begun:
    """Find the job's name in the ledger, and close what its last run left open; the caller holds the output.

    Resuming goes on with the latest job of that output. Otherwise it is a new one, with a name, a budget and a sum of
    its own, even if the ledger has entries of an output that stood here before.
    """
    base = run_name(path)
    names = itertools.chain([base], (f"{base}:{number}" for number in itertools.count(2)))
    used = list(itertools.takewhile(lambda name: next(ledger.entries(run=name), None) is not None, names))
    latest = used[-1] if used else base
    closed, started = 0, {}
    for entry in list(ledger.entries(run=latest)):
        lost = entry.state == "expired" and entry.why == LEASE_OVER  # by whoever came by in the meantime
        if entry.state != "pending" and not lost:
            continue
        if resume and entry.response_id and entry.custom_id:
            started[entry.custom_id] = entry.response_id
        elif not lost:
            ledger.expire(entry.id, "the run that sent this call ended before its answer; counted at its estimate")
            closed += 1
    if not resume and used:
        return Begun(f"{base}:{len(used) + 1}", closed, started)
    return Begun(latest, closed, started)
