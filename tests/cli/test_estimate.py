"""`ratecard estimate` of large jobs: the same answer from one process and from several, in order, in bounded memory."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pricing.estimate import estimate
from ratelimit import tally as module
from ratelimit.errors import ConfigError
from ratelimit.job import BadLine
from ratelimit.tally import Options, Row, tally

AT = "2026-07-15"
WORDS = ("the", "parcel", "was", "promised", "for", "Tuesday", "and", "it", "is", "Friday", "now", "please", "tell me")


def line(number: int, words: int) -> str:
    text = " ".join(WORDS[(number + k) % len(WORDS)] for k in range(words))
    return json.dumps({"custom_id": f"r{number}", "url": "/v1/responses", "body": {"model": "o3", "input": text}})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of 6 MB in twelve pieces, with bad lines here and there and ids that are used twice, far apart."""
    lines = [line(number, 40 + number % 300) for number in range(5_000)]
    lines[17] = "nonsense"
    lines[2_500] = line(3, 50)
    lines[4_999] = line(1_000, 50)
    lines[4_000] = '{"model": "nobody-priced-this", "input": "word"}'
    path = tmp_path_factory.mktemp("jobs") / "large.jsonl"
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    assert path.stat().st_size > module.ALONE_BYTES + 2 * module.PIECE_BYTES
    return path


def rows(path: Path, jobs: int) -> list[Row | BadLine]:
    with path.open("rb") as file:
        return [row for part in tally(file, str(path), Options(), jobs=jobs) for row in part.rows]


def test_several_processes_say_what_one_says(large: Path) -> None:
    """Every line, bad, repeated and unpriced ones too, has the same row and place, from one process and from three."""
    alone = rows(large, 1)
    assert rows(large, 3) == alone
    assert [row.number for row in alone] == list(range(1, 5_001))
    bad = {row.number: row.reason for row in alone if isinstance(row, BadLine)}
    assert set(bad) == {18, 2_501, 5_000}
    assert bad[2_501] == "custom_id 'r3' was used on line 4 already"
    assert bad[5_000] == "custom_id 'r1000' was used on line 1001 already"


def test_a_row_is_the_estimate_of_its_line(large: Path) -> None:
    """What a process sends back is what `pricing.estimate` says of the body."""
    by_number = {row.number: row for row in rows(large, 2)}
    for number in (1, 100, 4_700):
        body = json.loads(line(number - 1, 40 + (number - 1) % 300))["body"]
        guess = estimate(body)
        row = by_number[number]
        assert isinstance(row, Row)
        assert (row.tokens, row.exact, row.cost) == (guess.input.tokens, guess.input.exact, guess.cost)


def test_the_bytes_of_the_parts_are_those_of_the_file(large: Path) -> None:
    """A progress bar that adds the parts up ends where the file ends, but for its blank lines."""
    with large.open("rb") as file:
        read = sum(part.bytes for part in tally(file, "", Options(), jobs=2))
    assert large.stat().st_size - 1 == read


def test_the_file_is_never_read_far_ahead(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: whoever takes the parts slowly finds no more than a few pieces read in advance."""
    monkeypatch.setattr(module, "PIECE_BYTES", 64 * 1024)
    monkeypatch.setattr(module, "ALONE_BYTES", 64 * 1024)
    taken = 0
    with large.open("rb") as file:
        for part in tally(file, "", Options(), jobs=2):
            taken += part.bytes
            assert file.tell() - taken < 9 * 64 * 1024


def test_a_small_file_starts_no_process(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the bound one process does it all, however many are allowed."""
    monkeypatch.setattr(module, "_spread", None)
    raw = large.read_bytes()[: module.ALONE_BYTES - 2 * module.PIECE_BYTES]
    assert sum(len(part.rows) for part in tally(io.BytesIO(raw), "", Options(), jobs=8)) > 900


def test_a_process_that_dies_is_an_error_and_not_a_hang(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker killed, as for want of memory, ends the job with what to do about it."""
    monkeypatch.setattr(module, "PIECE_BYTES", 16 * 1024)
    monkeypatch.setattr(module, "ALONE_BYTES", 16 * 1024)
    with large.open("rb") as file:
        parts = tally(file, "", Options(), jobs=2)
        while not multiprocessing.active_children():
            next(parts)
        for child in multiprocessing.active_children():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(ConfigError, match="--jobs 1"):
            list(parts)


@pytest.fixture
def _ends_its_children() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("_ends_its_children")
def test_who_stops_early_leaves_no_process_behind(large: Path) -> None:
    """A caller that takes a part and goes away ends the processes with it."""
    with large.open("rb") as file:
        parts = tally(file, "", Options(), jobs=2)
        for _ in range(10):
            next(parts)
        parts.close()


def test_the_command_says_the_same_of_a_file_a_gz_and_a_pipe(large: Path, ratecard: Callable[..., Any]) -> None:
    """`-` is standard input; a large file, its .gz and a pipe have one answer, and nothing is said beside it."""
    packed = large.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(large.read_bytes(), 1))
    told = ratecard("estimate", str(large), "--at", AT, "--json", "--jobs", "1")
    assert told.code == 1  # bad lines
    assert told.document["lines"] == 4_997
    for argument, piped in ((str(packed), b""), ("-", large.read_bytes())):
        command = [sys.executable, "-m", "ratelimit", "estimate", argument, "--at", AT, "--json", "--jobs", "2"]
        done = subprocess.run(command, input=piped, capture_output=True)
        assert (done.returncode, done.stderr) == (1, b"")
        assert json.loads(done.stdout) == told.document


@pytest.mark.skipif(sys.platform != "linux", reason="counts the processes in /proc")
def test_ctrl_c_ends_at_once_and_leaves_nothing_running(tmp_path: Path) -> None:
    """An interrupt ends the command and its processes; there is no traceback, and no total that looks like one."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "ratelimit", "estimate", str(pipe), "--jobs", "2"]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with pipe.open("wb", buffering=0) as end:
        raw = (line(0, 300) + "\n").encode()
        number = 0
        while len(children(running.pid)) < 2:  # its processes are there, and it waits for more to read
            number += 1
            end.write((line(number, 300) + "\n").encode())
            assert number * len(raw) < 100_000_000
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=30)  # until every process that could still print has ended
    assert out == ""
    assert "Traceback" not in err
    assert running.returncode != 0


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
