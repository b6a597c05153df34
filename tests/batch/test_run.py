"""`ratecard batch run` with the real openai client against the emulator: whole, killed, cancelled, adopted, late."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from pricing import Ledger
from ratelimit.batch.journal import Journal
from ratelimit.emulator import Emulator

SPEED = 200.0
MODEL = "gpt-4.1-mini"


def write_job(path: Path, requests: int, words: int = 40) -> Path:
    lines = (
        {"custom_id": f"c{number}", "method": "POST", "url": "/v1/responses",
         "body": {"model": MODEL, "input": f"Case {number}: " + "parcel " * words, "max_output_tokens": 60}}
        for number in range(requests)
    )  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def emulate() -> Iterator[Callable[..., Emulator]]:
    """Servers with a small queue, in which a batch takes a minute or two of their fast time."""
    running: list[Emulator] = []

    def start(**more: Any) -> Emulator:
        settings = {"limits": {"rpm": 5_000, "tpm": 2_000_000}, "models": [MODEL], "batch_queue": {MODEL: 1_000},
                    "batch_seconds": 60, "speed": SPEED, "seed": 7, **more}  # fmt: skip
        server = Emulator(**settings)
        server.start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def ratecard(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a command as a process of its own."""

    def start(*arguments: str) -> subprocess.Popen[str]:
        env = {**os.environ, "OPENAI_API_KEY": "any", "RATECARD_CACHE": "off"}
        command = [sys.executable, "-m", "ratelimit", *arguments]
        return subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


def run_of(server: Emulator, job: Path, *more: str) -> list[str]:
    return ["batch", "run", str(job), "-o", "out.jsonl", "--queue", "1000", "--poll", "0.2s", "--base-url", server.url,
            *more]  # fmt: skip


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ended_within(process: subprocess.Popen[str], seconds: float) -> bool:
    """Give a process so much time; → whether it has ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)
    return process.returncode is not None


def fullest(server: Emulator) -> int:
    """The most tokens that ever waited at once, by the server's own log."""
    return max(one.tokens for one in server.enqueued())


def test_a_job_larger_than_the_queue_is_done_without_a_failed_batch(
    tmp_path: Path, emulate: Callable[..., Emulator], ratecard: Callable[..., Any]
) -> None:
    """Four queues full of requests: all results once, at half the price; no batch failed."""
    server = emulate()
    process = ratecard(*run_of(server, write_job(tmp_path / "job.jsonl", 80), "--json"))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert document["lines"] == {"open": 0, "done": 80, "failed": 0}
    assert Counter(line["custom_id"] for line in lines_of(tmp_path / "out.jsonl")) == {f"c{n}": 1 for n in range(80)}
    assert {batch["status"] for batch in server.batches()} == {"completed"}
    assert len(server.batches()) == document["batches_submitted"]
    assert fullest(server) <= 1_000
    with Ledger(tmp_path / "out.jsonl.costs.db") as ledger:
        entries = list(ledger.entries())
        assert {entry.state for entry in entries} == {"posted"}
        assert {entry.service_tier for entry in entries} == {"batch"}
        assert str(ledger.totals().posted) == document["cost"]
    usage = [batch["usage"] for batch in server.batches()]
    assert sum(one["total_tokens"] for one in usage) == sum(sum(e.usage.values()) for e in entries)


def test_killed_again_and_again_it_loses_nothing_and_submits_nothing_twice(
    tmp_path: Path, emulate: Callable[..., Emulator], ratecard: Callable[..., Any]
) -> None:
    """kill -9 at any moment, ten times; in the end every line is there once."""
    server = emulate()
    job, luck = write_job(tmp_path / "job.jsonl", 60), random.Random(3)
    for _ in range(10):
        process = ratecard(*run_of(server, job))
        ended = ended_within(process, luck.uniform(0.6, 2.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if ended:
            break
    process = ratecard(*run_of(server, job))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert Counter(line["custom_id"] for line in lines_of(tmp_path / "out.jsonl")) == {f"c{n}": 1 for n in range(60)}
    tags = Counter(tuple(sorted(batch["metadata"].items())) for batch in server.batches())
    assert set(tags.values()) == {1}
    assert {batch["status"] for batch in server.batches()} == {"completed"}
    with Ledger(tmp_path / "out.jsonl.costs.db") as ledger:
        assert Counter(entry.state for entry in ledger.entries()) == {"posted": 60}


def test_what_fails_is_tried_again_and_then_told(
    tmp_path: Path, emulate: Callable[..., Emulator], ratecard: Callable[..., Any]
) -> None:
    """A batch that expires half done goes on with the rest alone."""
    server = emulate(batch_seconds=600, batch_expires=400)
    process = ratecard(*run_of(server, write_job(tmp_path / "job.jsonl", 20), "--attempts", "6", "--json"))
    out, err = process.communicate(timeout=120)
    document = json.loads(out)
    found = lines_of(tmp_path / "out.jsonl")
    assert Counter(line["custom_id"] for line in found) == {f"c{n}": 1 for n in range(20)}
    assert "expired" in {batch["status"] for batch in server.batches()}
    assert document["lines"]["done"] + document["lines"]["failed"] == 20
    assert process.returncode == (1 if document["lines"]["failed"] else 0), err


def test_a_budget_stops_it_with_what_is_done(
    tmp_path: Path, emulate: Callable[..., Emulator], ratecard: Callable[..., Any]
) -> None:
    """A batch whose worst case does not fit is not submitted: exit code 3, and a larger budget goes on."""
    server, job = emulate(), write_job(tmp_path / "job.jsonl", 60)
    process = ratecard(*run_of(server, job, "--budget", "0.0015 USD", "--json"))
    out, _ = process.communicate(timeout=120)
    document = json.loads(out)
    assert process.returncode == 3
    assert "budget" in document["stopped"]
    assert 0 < document["lines"]["done"] < 60
    with Ledger(tmp_path / "out.jsonl.costs.db") as ledger:
        assert ledger.totals().posted.pico <= 15 * 10**8
    process = ratecard(*run_of(server, job, "--budget", "1 USD"))
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert len(lines_of(tmp_path / "out.jsonl")) == 60


def test_a_cancelled_run_is_collected_and_goes_on(
    tmp_path: Path, emulate: Callable[..., Emulator], ratecard: Callable[..., Any]
) -> None:
    """`status` tells what is in the air, `cancel` ends it, and `run` does the rest."""
    server, job = emulate(batch_seconds=6_000), write_job(tmp_path / "job.jsonl", 20)
    process = ratecard(*run_of(server, job))
    while not server.batches():
        assert not ended_within(process, 0.05)
    assert not ended_within(process, 0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on" in err
    status = ratecard("batch", "status", "-o", "out.jsonl", "--json")
    found = json.loads(status.communicate(timeout=30)[0])
    assert len(found["in_the_air"]) == len(server.batches())
    assert found["enqueued_tokens"][MODEL] == fullest(server)
    ended = ratecard("batch", "cancel", "-o", "out.jsonl", "--base-url", server.url)
    ended.communicate(timeout=30)
    assert ended.returncode == 0
    server.finish_batches()
    assert {batch["status"] for batch in server.batches()} == {"cancelled"}
    process = ratecard(*run_of(server, job, "--attempts", "5"))
    while not ended_within(process, 0.2):
        server.finish_batches()
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert Counter(line["custom_id"] for line in lines_of(tmp_path / "out.jsonl")) == {f"c{n}": 1 for n in range(20)}


def test_batches_created_elsewhere_are_taken_over(
    tmp_path: Path, emulate: Callable[..., Emulator], ratecard: Callable[..., Any]
) -> None:
    """Their inputs become the job, their results the output, and the ledger has what they cost."""
    server = emulate()
    job = write_job(tmp_path / "theirs.jsonl", 10)
    with openai.OpenAI(base_url=server.url, api_key="any") as client:
        with job.open("rb") as file:
            uploaded = client.files.create(file=file, purpose="batch")
        batch = client.batches.create(input_file_id=uploaded.id, endpoint="/v1/responses", completion_window="24h")
    process = ratecard("batch", "adopt", batch.id, "-o", "out.jsonl", "--base-url", server.url)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "ratecard batch run out.jsonl.job.jsonl -o out.jsonl" in err
    process = ratecard(*run_of(server, tmp_path / "out.jsonl.job.jsonl"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert len(lines_of(tmp_path / "out.jsonl")) == 10
    assert len(server.batches()) == 1
    with Ledger(tmp_path / "out.jsonl.costs.db") as ledger:
        assert ledger.totals().posted_count == 10


def test_what_batches_do_not_do_in_time_goes_online(
    tmp_path: Path, emulate: Callable[..., Emulator], ratecard: Callable[..., Any]
) -> None:
    """With a deadline that leaves batches no time: they are cancelled, and the rest goes at the speed of the tier."""
    server = emulate(batch_seconds=6_000, tier="tier_1", limits=None)
    job = write_job(tmp_path / "job.jsonl", 20)
    process = ratecard(*run_of(server, job, "--tier", "tier_1", "--deadline", "1m", "--json"))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    document = json.loads(out)
    assert document["lines"] == {"open": 0, "done": 20, "failed": 0}
    assert "goes online" in err or "leaves no time" in err
    assert Counter(line["custom_id"] for line in lines_of(tmp_path / "out.jsonl")) == {f"c{n}": 1 for n in range(20)}
    with Ledger(tmp_path / "out.jsonl.costs.db") as ledger:
        assert {entry.batch for entry in ledger.entries() if entry.state == "posted"} == {False}


def test_what_would_spoil_a_run_is_refused(
    tmp_path: Path, emulate: Callable[..., Emulator], ratecard: Callable[..., Any]
) -> None:
    """An output that exists, a job that has changed, a second process, a pipe: one line each, and nothing is sent."""
    server, job = emulate(), write_job(tmp_path / "job.jsonl", 5)
    (tmp_path / "out.jsonl").write_text("{}\n")
    process = ratecard(*run_of(server, job))
    assert "exists already" in process.communicate(timeout=60)[1]
    assert process.returncode == 1
    (tmp_path / "out.jsonl").unlink()
    with Journal(tmp_path / "out.jsonl.batch.db"):
        process = ratecard(*run_of(server, job))
        assert "another process is at this run" in process.communicate(timeout=60)[1]
    with job.open("a") as file:
        file.write("\n")
    process = ratecard(*run_of(server, job))
    assert "has changed since the run began" in process.communicate(timeout=60)[1]
    process = ratecard("batch", "run", "-", "-o", "x.jsonl", "--base-url", server.url)
    assert "name a file that is there" in process.communicate(timeout=60)[1]
    assert server.batches() == []
