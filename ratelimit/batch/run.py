"""A whole run: the plan, the journal, the driver, and what goes online when the deadline comes nearer.

Started again with the same job and output, it goes on where it was.
"""

from __future__ import annotations

import json
import os
import time
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from pricing.budget import Budget
from pricing.ledger import Ledger
from pricing.prices import load_prices
from pricing.tokens import count_input

from ..clock import US_PER_S
from ..errors import ConfigError
from ..job import BadLine, Line, parse_line
from ..limit import canonical
from ..results import Results
from .api import ACTIVE, Api, Refusal, Remote
from .books import JOB_TAG, Books, line_at
from .driver import ENDS, RUN, Driver, Outcome, Time, listed_from_s
from .journal import SUBMITTED, Journal, Step, digest_of_file
from .plan import Batch, LanePlan, Plan, plan_of, queue_of
from .read import Columns, Options, read_columns, written_out

BYTES_A_TOKEN = 3
"""Of a batch that is not ours and cannot be read: fewer than texts have, for it must not be taken for too small."""


class Settings(NamedTuple):
    """How a job is run.

    queue    input tokens that may wait, in the place of the tier's
    budgets  each has to have room for the worst case of a batch; those of the window "job" count this run
    ledger   path; it also teaches the sizes of replies
    """

    tier: str | None = None
    queue: int | None = None
    attempts: int = 3
    poll_us: int = 60_000_000
    budgets: tuple[Budget, ...] = ()
    at: date | None = None
    prices: tuple[str, ...] = ()
    region: str | None = None
    ledger: str | None = None
    jobs: int = 1
    cache: bool = True


def journal_of(output: str | os.PathLike[str]) -> Path:
    """Where the journal of a run is: beside its results."""
    return Path(f"{os.fspath(output)}.batch.db")


def ledger_of(output: str | os.PathLike[str], settings: Settings) -> str:
    """Where a run's costs are booked."""
    return settings.ledger or f"{os.fspath(output)}.costs.db"


def begin(
    journal: Journal, job: str, settings: Settings, *, progress: Callable[[int], object] | None = None
) -> list[BadLine]:
    """Plan a job and write it down, or see that it is the one that the journal has; → lines that are no requests.

    Raises  ConfigError when the job is another one now, or no tier has its models
    """
    digest = digest_of_file(job)
    if journal.fact("run") is not None:
        if journal.fact("digest") != digest:
            raise ConfigError(
                f"{job}: has changed since the run began: its results would not belong together; name another output"
            )
        journal.note(job=os.path.abspath(job))  # it may have been moved
        if settings.queue is not None and journal.fact("queue") != str(settings.queue):
            journal.forget_queues()  # somebody knows better
            journal.note(queue=str(settings.queue))
        return [BadLine(*one) for one in json.loads(journal.fact("bad") or "[]")]
    columns = columns_of(job, settings, progress=progress)
    if digest_of_file(job) != digest:
        raise ConfigError(f"{job}: changed while it was read; run it again")
    plan = plan_of(columns, settings.tier, queue=settings.queue)
    bad = json.dumps([list(one) for one in columns.bad])
    journal.begin(plan, os.path.abspath(job), digest, now_us=time.time_ns() // 1000, bad=bad)
    return columns.bad


def columns_of(job: str, settings: Settings, *, progress: Callable[[int], object] | None = None) -> Columns:
    """Read a job."""
    teacher = settings.ledger if settings.ledger is not None and os.path.exists(settings.ledger) else None
    options = Options(settings.at, settings.prices, teacher, settings.region, settings.cache)
    with open(job, "rb") as file:
        return read_columns(file, job, options, jobs=settings.jobs, size=os.path.getsize(job), progress=progress)


def drive(
    api: Api,
    journal: Journal,
    results: Results,
    ledger: Ledger,
    settings: Settings,
    *,
    time_: Time | None = None,
    told: Callable[[Journal, str], object] | None = None,
    until_us: int | None = None,
) -> Outcome:
    """Take a run that has begun to its end.

    until_us  when batches are given up

    Raises  what Driver.run raises
    """
    table = load_prices(overlay=settings.prices)
    models = {canonical(lane.model) for lane in journal.lanes}
    if results.done:
        finish(journal, results.done)  # by an earlier process, that did not come to write it down
    done = journal.counts().done
    if done > len(results.done):
        raise ConfigError(
            f"{results.path}: has {len(results.done):,} of the {done:,} results that were written into it: put it back"
        )
    books = Books(
        journal, journal.fact("job") or "", ledger, budgets=job_budgets(journal, settings), prices=table,
        region=settings.region,
    )  # fmt: skip
    counts = journal.batches()
    mean = sum(one.tokens for one in counts) // max(1, sum(one.requests for one in counts))
    driver = Driver(
        api,
        journal,
        books,
        results,
        time=time_ or WALL,
        queues=lambda model: settings.queue if settings.queue is not None else queue_of(model, settings.tier),
        others=lambda batch: others_tokens(api, batch, models, mean),
        attempts=settings.attempts,
        poll_us=settings.poll_us,
        told=told,
        until_us=until_us,
    )
    return driver.run()


def job_budgets(journal: Journal, settings: Settings) -> list[Budget]:
    """The budgets of a run: what is for the job counts its entries, of all batches and of what goes online."""
    tag = f"{JOB_TAG}={journal.run}"
    return [one._replace(window="total", tag=tag) if one.window == "job" else one for one in settings.budgets]


WALL = Time(lambda: time.time_ns() // 1000, lambda us: time.sleep(us / 1e6))
"""The time that everybody lives by."""


def others_tokens(api: Api, batch: Remote, models: set[str], mean: int) -> int:
    """Input tokens of an active batch that is not ours: its input, counted; else its bytes say, or its requests.

    mean  tokens of a request of ours
    """
    if batch.model and canonical(batch.model) not in models:
        return 0
    tokens = size = 0
    try:
        for number, raw in enumerate(api.content(batch.input_id), 1):
            size += len(raw)
            line = parse_line(number, raw)
            if isinstance(line, Line) and canonical(str(line.body["model"])) in models:
                tokens += count_input(line.body, line.endpoint).high
            elif not isinstance(line, Line):
                tokens += len(raw) // BYTES_A_TOKEN
    except Refusal:
        return max(tokens, size // BYTES_A_TOKEN, batch.requests * mean)
    return tokens


def rest_of(journal: Journal, path: Path, service_tier: str | None = None) -> int:
    """Write the lines that are still open as a job of their own; → how many.

    service_tier  of all of them, in the place of their own
    """
    job, count = journal.fact("job") or "", 0
    with open(job, "rb") as file, path.open("wb") as rest:
        for _, number, start, size in journal.open_lines():
            line, _ = line_at(file, job, number, start, size)
            if service_tier:
                line = line._replace(body={**line.body, "service_tier": service_tier})
            rest.write(written_out(line) + b"\n")
            count += 1
    return count


def finish(journal: Journal, done: Collection[str]) -> int:
    """Note the open lines that have a good result, by their custom_ids; → how many."""
    job, places = journal.fact("job") or "", []
    with open(job, "rb") as file:
        for place, number, start, size in journal.open_lines():
            line, _ = line_at(file, job, number, start, size)
            if line.custom_id in done:
                places.append(place)
    return journal.finish(places)


def good_in(output: str | os.PathLike[str]) -> set[str]:
    """The custom_ids that have a good result in an output."""
    done = set[str]()
    with open(output, "rb") as results:
        for raw in results:
            result = json.loads(raw)
            if result.get("response") and 200 <= result["response"]["status_code"] < 300:
                done.add(result["custom_id"])
    return done


def cancel(api: Api, journal: Journal) -> int:
    """Cancel the batches of a run that are in the air; what they have done is collected when it goes on. → how many."""
    ours = {str(step.batch_id) for step in journal.batches(SUBMITTED)}
    # Also one whose creation nobody heard of.
    ours |= {
        one.id
        for one in api.list(listed_from_s(journal))
        if one.metadata.get(RUN) == journal.run and one.status in ACTIVE
    }
    for batch_id in sorted(ours):
        api.cancel(batch_id)
    return len(ours)


def adopt(api: Api, journal: Journal, job: Path, batch_ids: Sequence[str], settings: Settings) -> None:
    """Take over batches that were created elsewhere: their inputs become the job, and the run collects them.

    job  where their inputs are written

    Raises  ConfigError when there is such a run already, or the batches have lines of the same name
    """
    if journal.fact("run") is not None:
        raise ConfigError(f"{journal.path}: has a run already: name another output")
    remotes = [api.get(batch_id) for batch_id in dict.fromkeys(batch_ids)]
    fresh, counts = job.with_name(job.name + ".adopting"), []
    try:
        with fresh.open("wb") as file:
            for remote in remotes:
                lines = [raw for raw in api.content(remote.input_id) if raw.strip()]
                if not lines:
                    raise ConfigError(f"batch {remote.id}: its input is empty")
                file.writelines(raw + b"\n" for raw in lines)
                counts.append(len(lines))
        columns = columns_of(str(fresh), settings)
        if columns.bad:
            first = columns.bad[0]
            raise ConfigError(f"{job}:{first.number}: {first.reason}: such batches cannot be taken over together")
        fresh.replace(job)
    finally:
        fresh.unlink(missing_ok=True)
    plan = Plan(columns, tuple(_as_they_are(columns, counts)), 0, 0, {}, 0)
    journal.begin(
        plan, os.path.abspath(job), digest_of_file(job), now_us=min(one.created_s for one in remotes) * US_PER_S,
        elsewhere=[(one.id, one.input_id, one.created_s * US_PER_S) for one in remotes], bad="[]", adopted="yes",
    )  # fmt: skip


def _as_they_are(columns: Columns, counts: Sequence[int]) -> Iterator[LanePlan]:
    """Batches of so many lines each, as somebody else has cut them."""
    start = 0
    for count in counts:
        places = array("I", range(start, start + count))
        start += count
        lane = columns.lanes[columns.lane[places[0]]]
        tokens, size = (sum(column[place] for place in places) for column in (columns.tokens, columns.written))
        yield LanePlan(lane, None, ((Batch(places, tokens, size),),), {})


def standing(journal: Journal) -> Mapping[str, Any]:
    """How a run stands, for people and programs: lines and batches by state, and what waits where."""
    counts = journal.counts()
    steps = journal.batches()
    by_state: dict[str, int] = {}
    for step in steps:
        by_state[_state(step)] = by_state.get(_state(step), 0) + 1
    waiting: dict[str, int] = {}
    for step in steps:
        if step.state == SUBMITTED:
            waiting[step.model] = waiting.get(step.model, 0) + step.tokens
    return {
        "run": journal.run,
        "job": journal.fact("job"),
        "lines": counts._asdict(),
        "batches": by_state,
        "enqueued_tokens": waiting,
        "in_the_air": [step.batch_id for step in steps if step.state == SUBMITTED],
        "waiting_for": sorted({step.why for step in steps if step.state == "planned" and step.why}),
    }


def _state(step: Step) -> str:
    return step.status if step.status in ENDS and step.state not in ("planned", "uploaded", SUBMITTED) else step.state
