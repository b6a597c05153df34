"""Law: the live line says where a job stands, in numbers that a reader can check, and only a terminal ever sees it.

Every number below is worked out by hand.
"""

from __future__ import annotations

import json
import os
import pty
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pricing.money import Usd
from ratelimit.cli.run import print_waits, progress_line
from ratelimit.emulator import Emulator
from ratelimit.limiter import Limiter
from ratelimit.progress import Progress, Wait, Waits
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import ManualClock


class Job:
    """A job half a minute old, under 500 requests and 30,000 tokens per minute."""

    def __init__(self, **state: Any) -> None:
        self.clock = ManualClock()
        self.limiter = Limiter(limits={"rpm": 500, "tpm": 30_000}, store=MemoryStore(self.clock))
        self.limiter.gate("o3-pro")
        self.progress = Progress(started_us=self.clock.now_us(), **state)
        self.clock.advance(30_000_000)

    def admit(self, tokens: int, lane: str = "o3-pro") -> None:
        """Admit a request now, which is answered at once."""
        self.progress.admitted(self.clock.now_us(), lane, tokens)
        self.progress.in_flight -= 1

    def rate(self) -> str:
        """The part of the line that tells the rate."""
        return next(part for part in self.parts() if part.endswith("tokens/min"))

    def parts(self) -> list[str]:
        return progress_line(self.progress, self.limiter, self.clock).split(" · ")


def test_the_line_of_a_job_in_full_swing() -> None:
    """Done of how many, failed, bad, in flight, $ so far and projected, tokens/min of the limit, 429s, time left."""
    job = Job(
        total=65, read=30, skipped=3, bad=2, done=10, failed=2, in_flight=4, spent=Usd.parse("1.20"),
        refusals={"rate": 1, "slow_down": 1},
    )  # fmt: skip
    job.admit(6_000)
    assert job.parts() == [
        "10/60 done",  # 65 lines, less 3 done before and 2 that are bad
        "2 failed",
        "2 bad lines",
        "4 in flight",
        "$1.20 (→ $7.20)",  # 12 cents each, 60 of them
        "6,000 of 30,000 tokens/min",
        "2 × 429",
        "2:00 left",  # 12 of 60 ended in 30 s: 2.5 s each for the other 48
    ]


def test_nothing_is_projected_from_nothing() -> None:
    """At the start there is no projection and no time left, and no division by zero."""
    job = Job(total=1_000)
    assert job.parts() == ["0/1,000 done", "0 in flight", "$0.00", "0 of 30,000 tokens/min"]
    job.progress.started_us = job.clock.now_us()
    assert job.parts()[0] == "0/1,000 done"


def test_few_replies_are_not_projected_yet() -> None:
    """Fewer than five replies say little about the others: the cost so far is shown alone."""
    assert "$0.40" in Job(total=100, done=4, spent=Usd.parse("0.40")).parts()
    assert "$0.50 (→ $10.00)" in Job(total=100, done=5, spent=Usd.parse("0.50")).parts()


def test_a_job_of_unknown_length_has_no_projection() -> None:
    """A job from a pipe is not counted first: what is done is shown, and nothing is guessed."""
    job = Job(done=2_000, spent=Usd.parse("33"))
    assert job.parts() == ["2,000 done", "0 in flight", "$33.00", "0 of 30,000 tokens/min"]


def test_the_rate_is_that_of_the_last_minute() -> None:
    """The burst at the start is told as what it was, is not extrapolated, and is gone after a minute."""
    job = Job()
    job.admit(30_000)
    assert job.rate() == "30,000 of 30,000 tokens/min"
    job.clock.advance(30_000_000)
    job.admit(15_000)
    assert job.rate() == "45,000 of 30,000 tokens/min"  # a full bucket, and what it was refilled by since
    job.clock.advance(30_000_000)
    assert job.rate() == "15,000 of 30,000 tokens/min"
    job.clock.advance(30_000_000)
    assert job.rate() == "0 of 30,000 tokens/min"


def test_the_rate_is_held_against_the_limits_of_the_models_in_use() -> None:
    """Two models have two limits, which add up; one that sends nothing at the time is not counted in."""
    job = Job()
    job.limiter.gate("o3")
    job.admit(1_000)
    assert job.rate() == "1,000 of 30,000 tokens/min"
    job.admit(2_000, "o3")
    assert job.rate() == "3,000 of 60,000 tokens/min"
    job.clock.advance(61_000_000)
    assert job.rate() == "0 of 60,000 tokens/min"


@pytest.mark.parametrize(
    ("done", "total", "left"),
    [(30, 60, "30 s left"), (30, 120, "1:30 left"), (1, 121, "1:00 h left"), (10, 10, "0 s left")],
)
def test_the_time_left(done: int, total: int, left: str) -> None:
    """What is left takes as long per line as what has ended did."""
    assert Job(total=total, done=done).parts()[-1] == left


def test_every_line_done_before_leaves_nothing_to_do() -> None:
    """A resumed job with nothing left divides by nothing."""
    assert Job(total=5, skipped=5).parts()[0] == "0/0 done"


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[[Emulator], list[str]]:
    """A `run` command of ten requests."""
    lines = ({"model": "o3-pro", "input": f"word {n}", "max_output_tokens": 1_000} for n in range(10))
    job = tmp_path / "ten.jsonl"
    job.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def command(server: Emulator) -> list[str]:
        where = ["-o", str(tmp_path / "out.jsonl"), "--base-url", server.url, "--at", "2026-08-01"]
        return ["run", str(job), *where, "--rpm", "1000", "--tpm", "1000000"]

    return command


@pytest.mark.parametrize("env", [{}, {"FORCE_COLOR": "1", "TERM": "xterm"}], ids=["plain", "colours forced"])
def test_without_a_terminal_there_are_no_control_characters(
    env: dict[str, str], arguments: Callable[[Emulator], list[str]], spawn: Callable[..., Any]
) -> None:
    """Into a pipe or a log file goes plain text: no escape codes, no carriage returns, even where CI forces colours."""
    with Emulator(limits={"rpm": 1_000, "tpm": 1_000_000}, latency=0.3, output_tokens=20) as server:
        child = spawn(*arguments(server), env=env)
        out, err = child.communicate(timeout=20)
    assert child.returncode == 0, err
    assert "10 done" in out
    assert [text for text in out + err if not (text.isprintable() or text == "\n")] == []


def test_on_a_terminal_the_line_is_shown(arguments: Callable[[Emulator], list[str]], spawn: Callable[..., Any]) -> None:
    """On a terminal stderr shows the line while the job runs; stdout stays clean for the summary."""
    ours, theirs = pty.openpty()
    with Emulator(limits={"rpm": 1_000, "tpm": 1_000_000}, latency=0.8, output_tokens=20) as server:
        child = spawn(*arguments(server), stderr=theirs, env={"TERM": "xterm", "COLUMNS": "200", "NO_COLOR": "1"})
        os.close(theirs)
        shown = read_all(ours)
        out, _ = child.communicate(timeout=20)
    assert child.returncode == 0
    assert re.search(r"0/10 done · 10 in flight · \$0\.00 · [\d,]+ of 1,000,000 tokens/min", shown), shown
    assert "\x1b" not in out
    assert "10 done" in out


def read_all(terminal: int) -> str:
    """What a child wrote to a terminal until it closed it."""
    chunks = []
    with os.fdopen(terminal, "rb", buffering=0) as file:
        while True:
            try:
                chunk = file.read(4_096)
            except OSError:  # Linux says so when the other side is closed
                break
            if not chunk:
                break
            chunks.append(chunk)
    return b"".join(chunks).decode("utf-8", "replace")


def test_who_did_not_wait_is_not_among_those_who_did(capsys: pytest.CaptureFixture[str]) -> None:
    """Only waits that print as more than 0.0 s are listed and averaged; over all requests the average is beside it."""
    waits = Waits()
    for number in range(100):
        waits.add(Wait(12_000_000 if number < 2 else number, f"line {number}", "tpm", 10))
    print_waits(waits, 100)
    first, *others = capsys.readouterr().out.splitlines()
    assert first == "waits     2 of 100 requests for tpm, 12.0 s each on average (0.2 s over all)"
    assert [line.split()[:4] for line in others] == [["12.0", "s", "line", "1"], ["12.0", "s", "line", "0"]]
    assert waits.as_dict()["by_limit"]["tpm"]["requests"] == 2
    nobody = Waits()
    nobody.add(Wait(0, "line 1", "the line", 10))
    print_waits(nobody, 1)
    assert capsys.readouterr().out == "waits     none: every request went at once\n"
