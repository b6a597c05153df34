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
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing import Ledger, Usage, count_tokens
from pricing.estimate import CostRange, estimate
from ratelimit import pieces
from ratelimit import tally as module
from ratelimit.errors import ConfigError
from ratelimit.job import BadLine, Block
from ratelimit.tally import Options, Row, Sums, tally

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
    assert path.stat().st_size > pieces.ALONE_BYTES + 2 * pieces.PIECE_BYTES
    return path


def rows(path: Path, jobs: int, size: int | None = None) -> list[Row | BadLine]:
    with path.open("rb") as file:
        return [row for part in tally(file, str(path), Options(), jobs=jobs, size=size) for row in part.rows]


def test_several_processes_say_what_one_says(large: Path) -> None:
    """Every line, bad, repeated and unpriced ones too, has the same row and place: from one process and from three,
    whether they are sent the lines or read the file themselves."""
    alone = rows(large, 1)
    assert rows(large, 3) == alone
    assert rows(large, 1, large.stat().st_size) == alone
    assert rows(large, 3, large.stat().st_size) == alone
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


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_sums_are_those_of_the_rows(large: Path, jobs: int) -> None:
    """What is added up where the lines are estimated is what the rows come to, in every part and over the file."""
    lines = tokens = inexact = unpriced = mean = worst = 0
    bad: list[BadLine] = []
    sums = Sums()
    with large.open("rb") as file:
        for part in tally(file, str(large), Options(), jobs=jobs, size=large.stat().st_size):
            assert part.sums == Sums().add(part.rows)
            sums += part.sums
            for row in part.rows:
                if isinstance(row, BadLine):
                    bad.append(row)
                    continue
                lines, tokens, inexact = lines + 1, tokens + row.tokens, inexact + (not row.exact)
                if isinstance(row.cost, CostRange):
                    mean, worst = mean + row.cost.mean.pico, worst + row.cost.worst.pico
                else:
                    unpriced += 1
    assert (sums.lines, sums.input_tokens, sums.inexact, sums.unpriced) == (lines, tokens, inexact, unpriced)
    assert (sums.mean_pico, sums.worst_pico, sums.bad) == (mean, worst, bad)
    assert sum(sums.bases.values()) == lines
    assert list(sums.reasons) == ["no price row for 'nobody-priced-this'"]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 3)), max_size=30), st.integers(1, 600))
@settings(deadline=None)
def test_a_custom_id_used_again_is_bad_and_not_counted(made: list[tuple[str, int]], piece: int) -> None:
    """Wherever a custom_id comes again, in the same piece or a later one, its line is bad and in no sum."""
    requests = [{"model": "gpt-4o", "input": "word " * words} for _, words in made]
    raw = [
        json.dumps({"custom_id": name, "url": "/v1/responses", "body": body}) + "\n"
        for (name, _), body in zip(made, requests, strict=True)
    ]
    first: dict[str, int] = {}
    for number, (name, _) in enumerate(made, 1):
        first.setdefault(name, number)
    sums = Sums()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_BYTES", piece)
        for part in tally(io.BytesIO("".join(raw).encode()), "", Options(), jobs=1):
            sums += part.sums
    again = [number for number, (name, _) in enumerate(made, 1) if first[name] != number]
    assert [bad.number for bad in sums.bad] == again
    assert sums.lines == len(first)
    texts = [requests[number - 1]["input"] for number in first.values()]
    assert sums.input_tokens == sum(3 + 1 + count_tokens(text, "gpt-4o") + 3 for text in texts)


OVERLAY = """
version: 1
currency: USD
sources: {{contract: {{url: "https://example.com/contract", read: 2026-07-01}}}}
adjustments: [{{percent: "{percent}", effective_from: 2020-01-01, source: contract}}]
"""


def test_an_overlay_that_has_changed_is_read_anew(tmp_path: Path) -> None:
    """A second job of one process is priced by what the file says then; one that changes under a job is an error."""
    overlay = tmp_path / "acme.yaml"
    job = (line(0, 100) + "\n").encode()
    worst = []
    for percent in ("-10", "-50"):
        overlay.write_text(OVERLAY.format(percent=percent))
        (part,) = tally(io.BytesIO(job), "", Options(prices=(str(overlay),)), jobs=1)
        worst.append(part.sums.worst_pico)
    (plain,) = tally(io.BytesIO(job), "", Options(), jobs=1)
    assert [10 * amount for amount in worst] == [9 * plain.sums.worst_pico, 5 * plain.sums.worst_pico]
    work = module._Work("", Options(prices=(str(overlay),)), "another")
    with pytest.raises(ConfigError, match=r"acme\.yaml: changed while the job was read"):
        module._estimated(work, Block(1, 0, len(job), job))


def test_a_file_that_becomes_shorter_is_one_clear_error(large: Path, tmp_path: Path) -> None:
    """A plain file is read a second time by whoever estimates it; what is gone by then is missed, not left out."""
    path = tmp_path / "shrinks.jsonl"
    path.write_bytes(large.read_bytes())
    with path.open("rb") as file:
        parts = tally(file, str(path), Options(), jobs=1, size=path.stat().st_size)
        next(parts)
        os.truncate(path, pieces.PIECE_BYTES + 1_000)
        with pytest.raises(ConfigError, match=r"shrinks\.jsonl: became shorter while it was read"):
            list(parts)


def test_the_fast_engine_is_loaded_for_what_the_lines_ask_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of embeddings does not load the vocabulary of another family; a small job loads none."""
    asked: list[str] = []
    monkeypatch.setattr(pieces, "accelerate", asked.append)
    path = tmp_path / "job.jsonl"
    path.write_text('{"model": "text-embedding-3-small", "input": "word"}\n{"model": "unheard-of", "input": "word"}\n')
    rows(path, 1, path.stat().st_size)
    assert asked == []
    monkeypatch.setattr(pieces, "FAST_BYTES", 10)
    rows(path, 1, path.stat().st_size)
    assert asked == ["cl100k_base"]


def test_the_bytes_of_the_parts_are_those_of_the_file(large: Path) -> None:
    """A progress bar that adds the parts up ends where the file ends."""
    with large.open("rb") as file:
        assert sum(part.size for part in tally(file, "", Options(), jobs=2)) == large.stat().st_size


def test_the_file_is_never_read_far_ahead(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: whoever takes the parts slowly finds no more than a few pieces read in advance."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 64 * 1024)
    monkeypatch.setattr(pieces, "ALONE_BYTES", 64 * 1024)
    taken = 0
    with large.open("rb") as file:
        for part in tally(file, "", Options(), jobs=2):
            taken += part.size
            assert file.tell() - taken < 9 * 64 * 1024


def test_a_small_file_starts_no_process(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the bound one process does it all, however many are allowed."""
    monkeypatch.setattr(pieces, "_spread", None)
    raw = large.read_bytes()[: pieces.ALONE_BYTES - 2 * pieces.PIECE_BYTES]
    assert sum(len(part.rows) for part in tally(io.BytesIO(raw), "", Options(), jobs=8)) > 900


def test_a_process_that_dies_is_an_error_and_not_a_hang(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker killed, as for want of memory, ends the job with what to do about it."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 16 * 1024)
    monkeypatch.setattr(pieces, "ALONE_BYTES", 16 * 1024)
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


def test_a_ledger_that_has_grown_is_read_anew(tmp_path: Path) -> None:
    """A second job of one process expects replies as large as those that the ledger has then."""
    job = (line(0, 100) + "\n").encode()
    path = str(tmp_path / "seen.db")
    bases = []
    for _ in range(2):
        with Ledger(path) as ledger:
            for _ in range(25):
                ledger.post(
                    ledger.pend(model="o3", endpoint="e", estimate=None), usage=Usage(1, output_tokens=7), cost=None
                )
        (part,) = tally(io.BytesIO(job), "", Options(ledger=path), jobs=1)
        bases += part.sums.bases
    assert bases == [f"learned: {number} replies of o3 in the ledger" for number in (25, 50)]
