"""Laws of a run, in virtual time: killed between any two steps, losing any reply, every line still ends once."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pricing import Ledger
from pricing.ledger import fold
from ratelimit.batch.api import Refusal
from ratelimit.batch.books import JOB_TAG, Books
from ratelimit.batch.driver import Driver, Outcome, Time
from ratelimit.batch.journal import Journal, digest_of_file
from ratelimit.batch.plan import Plan, plan_of
from ratelimit.batch.read import Columns, Options, read_columns
from ratelimit.batch.run import finish
from ratelimit.results import Results

from .server import S, Server, World


class Killed(BaseException):
    """The process died here."""


class Fuse:
    """Kills after so many steps; a step is a call of the server or a change of the journal, before and after it."""

    def __init__(self, steps: int | None = None) -> None:
        self.left = steps

    def burn(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed

    def around(self, thing: Any, *names: str) -> None:
        """Put the fuse before and after these methods."""
        for name in names:
            setattr(thing, name, self._around(getattr(thing, name)))

    def _around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def burning(*args: Any, **kwargs: Any) -> Any:
            self.burn()
            answer = method(*args, **kwargs)
            self.burn()
            return answer

        return burning


class Api:
    """A server as one process sees it."""

    def __init__(self, server: Server) -> None:
        for name in ("upload", "find_file", "create", "list", "get", "content"):
            setattr(self, name, getattr(server, name))


def job(folder: Path, words: list[int], model: str = "o3") -> Path:
    path = folder / "job.jsonl"
    lines = [
        {
            "custom_id": f"c{number}",
            "method": "POST",
            "url": "/v1/responses",
            "body": {"model": model, "input": "word " * count},
        }
        for number, count in enumerate(words)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def columns_of(path: Path) -> Columns:
    with path.open("rb") as file:
        return read_columns(file, str(path), Options(cache=False), jobs=1, size=path.stat().st_size)


def tokens_in(columns: Columns, path: Path) -> Callable[[Mapping[str, Any]], int]:
    """What a body takes, as the plan counts it."""
    raw = path.read_bytes().splitlines()
    known = {json.loads(raw[place])["body"]["input"]: columns.tokens[place] for place in range(len(columns))}
    return lambda body: known[body["input"]]


class Run:
    """A job, its server, and as many processes as it takes."""

    def __init__(self, folder: Path, words: list[int], world: World, seed: int, queue: int | None = None) -> None:
        self.folder, self.world = folder, world
        self.job = job(folder, words)
        self.columns = columns_of(self.job)
        self.queue = queue if queue is not None else world.queue
        self.server = Server(world, seed, tokens_in(self.columns, self.job))
        self.journal_path = folder / "run.db"
        with Journal(self.journal_path, create=True) as journal:
            journal.begin(self.plan(), str(self.job), digest_of_file(self.job), now_us=self.server.now_us)

    def plan(self) -> Plan:
        return plan_of(self.columns, None, queues=lambda *_: self.queue)

    def process(self, fuse: Fuse, **more: Any) -> Outcome:
        """One process: it goes on, and may die."""
        api = Api(self.server)
        fuse.around(api, "upload", "find_file", "create", "get")
        results = Results(self.folder / "out.jsonl", resume=True)
        try:
            with Journal(self.journal_path) as journal, Ledger(self.folder / "costs.db") as ledger:
                fuse.around(journal, "step", "submitted", "collected", "released", "place")
                finish(journal, results.done)
                driver = Driver(
                    api, journal, Books(journal, str(self.job), ledger), results,  # type: ignore[arg-type]
                    time=Time(lambda: self.server.now_us, self.server.sleep), queues=lambda _: self.queue,
                    others=lambda _: 0, seed=1, **more,
                )  # fmt: skip
                return driver.run()
        finally:
            results.close()

    def out(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "out.jsonl").read_text().splitlines()]


chances = st.sampled_from([0.0, 0.1, 0.3])
worlds = st.builds(
    World, queue=st.integers(400, 1_500), takes_s=st.sampled_from([(60, 60), (60, 7_200), (3_600, 80_000)]),
    loses=st.sampled_from([0.0, 0.05]), hides_s=st.sampled_from([0, 10]), fails=chances, breaks=chances,
    expires=chances, at_create=st.booleans(),
)  # fmt: skip


@given(worlds, st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(0, 10**6), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
def test_every_line_ends_once_wherever_a_run_is_killed(
    tmp_path_factory: pytest.TempPathFactory, world: World, words: list[int], seed: int, unknown: bool
) -> None:
    """Processes die one after the other; in the end each line is there once, and no batch was submitted twice."""
    run = Run(tmp_path_factory.mktemp("run"), words, world, seed, 10**6 if unknown else None)
    luck = random.Random(seed)
    for _ in range(400):
        try:
            outcome = run.process(Fuse(luck.randrange(1, 40)))
            break
        except Killed:
            run.server.now_us += luck.randrange(0, 7_200) * S  # somebody notices, and starts it again
    else:
        pytest.fail("it never ended")
    lines = run.out()
    assert Counter(line["custom_id"] for line in lines) == Counter(f"c{number}" for number in range(len(words)))
    assert outcome.counts.open == 0
    good = {line["custom_id"] for line in lines if line["response"] and line["response"]["status_code"] == 200}
    assert outcome.counts == (0, len(good), len(words) - len(good))
    # The server has seen each batch of each try once.
    tags = Counter(tuple(sorted(one.metadata.items())) for one in run.server.batches)
    assert set(tags.values()) <= {1}
    if not unknown:
        assert run.server.overfull == 0
    assert run.server.fullest <= world.queue


@given(worlds, st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(0, 10**6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=30)
def test_the_ledger_has_what_was_served_once(
    tmp_path_factory: pytest.TempPathFactory, world: World, words: list[int], seed: int
) -> None:
    """Every answer that came is posted once, at the batch price; nothing stays pending; what failed costs nothing."""
    run = Run(tmp_path_factory.mktemp("run"), words, world, seed)
    luck = random.Random(seed)
    for _ in range(400):
        try:
            run.process(Fuse(luck.randrange(1, 60)))
            break
        except Killed:
            pass
    served = sum(
        sum(1 for line in run.server.files[one.output][1]) for one in run.server.batches if one.output is not None
    )
    with Ledger(run.folder / "costs.db") as ledger:
        totals = fold(ledger.entries())
        posted = [entry for entry in ledger.entries() if entry.state == "posted"]
        assert totals.pending_count == 0
        assert len(posted) == served
        assert {entry.service_tier for entry in posted} <= {"batch"}
        assert all(entry.tags[JOB_TAG] for entry in posted)


@pytest.mark.parametrize("takes", [(3_600, 3_600), (600, 7_200)])
def test_the_queue_is_kept_full(tmp_path: Path, takes: tuple[int, int]) -> None:
    """The makespan is within 5 % of the least that the queue allows, and the time between two looks."""
    words = [random.Random(5).randrange(20, 120) for _ in range(1_200)]
    world = World(queue=10_000, takes_s=takes)
    run = Run(tmp_path, words, world, 3)
    start_us = run.server.now_us
    outcome = run.process(Fuse(), poll_us=20 * S)
    assert outcome.counts.done == len(words)
    token_seconds = sum(one.tokens * (one.ends_us - one.created_us) for one in run.server.batches)
    least_us = max(token_seconds / world.queue, max(one.ends_us - one.created_us for one in run.server.batches))
    longest_us = max(one.ends_us - one.created_us for one in run.server.batches)
    spent_us = run.server.now_us - start_us
    rounds = -(-sum(run.columns.tokens) // world.queue)
    if takes[0] == takes[1]:
        least_us = rounds * takes[0] * S  # whole rounds: nothing ends early
        assert spent_us <= 1.05 * least_us
    else:
        assert spent_us <= 1.05 * least_us + longest_us  # the last round ends with its longest batch


def test_others_in_the_queue_are_reckoned_with(tmp_path: Path) -> None:
    """What waits of other programs, and cannot be seen, is learned by a failed batch, which goes again later."""
    run = Run(tmp_path, [50] * 40, World(queue=1_000), 1)
    start = run.server.now_us
    run.server.rival(700, start, start + 5 * 3_600 * S)
    outcome = run.process(Fuse())
    assert outcome.counts == (0, 40, 0)
    assert run.server.overfull >= 1
    assert run.server.fullest <= 1_000


def test_a_queue_that_nobody_knows_is_learned_from_the_server(tmp_path: Path) -> None:
    """The message of the first failed batch tells the limit: what is larger is cut anew."""
    run = Run(tmp_path, [50] * 40, World(queue=600), 1, queue=10**6)
    outcome = run.process(Fuse())
    assert outcome.counts == (0, 40, 0)
    assert run.server.overfull == 1
    assert run.server.fullest <= 600


def test_a_run_that_goes_on_with_a_smaller_queue_cuts_its_batches_anew(tmp_path: Path) -> None:
    """What was planned for a larger one, and would wait for ever, is cut to the one there is."""
    run = Run(tmp_path, [50] * 40, World(queue=2_000), 1)
    with pytest.raises(Killed):
        run.process(Fuse(1))
    run.queue = 400
    outcome = run.process(Fuse())
    assert outcome.counts == (0, 40, 0)
    assert run.server.fullest <= 400


def test_files_that_are_gone_are_made_up_for(tmp_path: Path) -> None:
    """An input that was deleted is uploaded again; lines whose output was deleted fail: they may have been billed."""
    run = Run(tmp_path, [50] * 10, World(queue=2_000), 1)
    create, content, gone = run.server.create, run.server.content, {"create": 1, "content": 1}

    def once(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            gone[name] -= 1
            if gone[name] >= 0:
                raise Refusal("no such file", 404, "")
            return method(*args)

        return call

    run.server.create = once("create", create)  # type: ignore[method-assign]
    run.server.content = once("content", content)  # type: ignore[method-assign]
    outcome = run.process(Fuse())
    assert outcome.counts == (0, 0, 10)
    assert outcome.failures == {"results_gone": 10}
    assert len(run.out()) == 10
    with Journal(run.journal_path) as journal:
        assert journal.retry_failed() == 10
    assert run.process(Fuse()).counts == (0, 10, 0)


def test_a_line_larger_than_the_queue_fails_alone(tmp_path: Path) -> None:
    """It is named with its numbers in the results, and the others are done."""
    run = Run(tmp_path, [50, 5_000, 50], World(queue=1_000), 1)
    outcome = run.process(Fuse())
    assert outcome.counts == (0, 2, 1)
    (line,) = [line for line in run.out() if line["custom_id"] == "c1"]
    assert line["error"]["code"] == "never_fits"
    assert "are more than the whole queue of 1,000" in line["error"]["message"]
    assert outcome.failures == {"never_fits": 1}


def test_what_failed_for_good_is_tried_again_only_when_asked(tmp_path: Path) -> None:
    """A finished run that is started again submits nothing; its results stay as they are."""
    run = Run(tmp_path, [50] * 10, World(queue=1_000, breaks=0.5), 4)
    first = run.process(Fuse())
    assert first.counts.failed > 0
    before, batches = sorted(map(str, run.out())), len(run.server.batches)
    assert run.process(Fuse()).counts == first.counts
    assert len(run.server.batches) == batches
    assert {line["custom_id"] for line in run.out()} == {f"c{n}" for n in range(10)}
    assert len(before) == 10
    with Journal(run.journal_path) as journal:
        assert journal.retry_failed() == first.counts.failed
    assert run.process(Fuse()).counts.done >= first.counts.done
