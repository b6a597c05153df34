"""Law: the commands that read a job take it in the same ways, and say what is wrong with it in few lines."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ratelimit.emulator import Emulator

AT = "2026-07-15"
LINES = "".join(json.dumps({"model": "o3", "input": f"word {number}"}) + "\n" for number in range(3))


def test_bad_lines_are_ten_and_a_number(ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """A file that is no job is ten lines of talk, not a thousand; the JSON has them all."""
    job = tmp_path / "novel.txt"
    job.write_text("It was a dark night.\n" * 1_000, encoding="utf-8")
    ended = ratecard("estimate", str(job))
    assert ended.code == 1
    assert [line.split(":")[0] for line in ended.err.splitlines()[:10]] == [f"line {n}" for n in range(1, 11)]
    assert ended.err.splitlines()[10:] == ["… and 990 more bad lines (--json lists them all)"]
    assert "$" not in ended.out  # what is no job costs nothing that could be told
    document = ratecard("estimate", str(job), "--json").document
    assert (len(document["bad_lines"]), document["cost"]) == (1_000, None)


@pytest.mark.parametrize("refuses", ["limits", "prices"])
def test_an_unknown_model_hides_no_bad_line(ratecard: Callable[..., Any], tmp_path: Path, refuses: str) -> None:
    """What is wrong with lines is told beside the models that have no limits or no price, before anything is sent."""
    job = tmp_path / "job.jsonl"
    job.write_text(LINES + "nonsense\n" + json.dumps({"model": "gpt-0", "input": "x"}) + "\n[]\n", encoding="utf-8")
    to = ["--tier", "tier_1"] if refuses == "limits" else ["--rpm", "10", "--budget", "5 USD"]
    ended = ratecard("run", str(job), "-o", "out.jsonl", *to, "--base-url", "http://127.0.0.1:9/v1", "--at", AT)
    first, second, error = ended.err.splitlines()
    assert (first.split(":")[0], second.split(":")[0]) == ("line 4", "line 6")
    assert error.startswith("error: ")
    assert "gpt-0" in error
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("by", ["name", "pipe"])
def test_a_job_is_read_from_a_file_or_a_pipe_packed_or_not(
    spawn: Callable[..., Any], tmp_path: Path, by: str, packed: bool
) -> None:
    """`-` is standard input for estimate and for run, and what gzip has packed is unpacked whatever its name."""
    job = tmp_path / "job.jsonl"
    job.write_bytes(gzip.compress(LINES.encode()) if packed else LINES.encode())
    with Emulator(limits={"rpm": 100_000, "tpm": 100_000_000}, latency=0) as server:
        to = ["-o", "out.jsonl", "--rpm", "100000", "--base-url", server.url, "--at", AT]
        for command in (["estimate"], ["run", *to]):
            with job.open("rb") as file:
                given = {"stdin": file} if by == "pipe" else {}
                child = spawn(*command, "-" if by == "pipe" else str(job), "--json", **given)
                out, err = child.communicate(timeout=60)
            assert (child.returncode, err) == (0, "")
            found = json.loads(out)
            assert (found["lines"] if command == ["estimate"] else found["lines"]["done"]) == 3


def test_a_cut_gzip_is_one_line(ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """What gzip has packed and something has cut is an error, whatever the file is called."""
    job = tmp_path / "job.jsonl"
    job.write_bytes(gzip.compress(LINES.encode())[:-9])
    ended = ratecard("estimate", str(job))
    assert ended.code == 1
    assert ended.err.startswith(f"error: {job}: cannot be read: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--service-tier", "flx"], ["unknown --service-tier 'flx'", "flex", "priority", "batch"]),
        (["--batch", "--service-tier", "flex"], ["--batch", "--service-tier flex"]),
    ],
)
def test_a_tier_that_cannot_be_meant_is_wrong_usage(
    ratecard: Callable[..., Any], job: Path, arguments: list[str], words: list[str]
) -> None:
    """A mistyped service tier, or two at once, is exit code 2 and names what there is."""
    ended = ratecard("estimate", str(job), *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert all(word in ended.err for word in words)


@pytest.mark.parametrize("arguments", [["--service-tier", "fast"], ["--batch", "--service-tier", "batch"]])
def test_a_tier_by_any_of_its_names_is_taken(ratecard: Callable[..., Any], job: Path, arguments: list[str]) -> None:
    """The names that requests and replies use are good, and so is saying batch twice."""
    assert ratecard("estimate", str(job), "--at", AT, *arguments).code in (0, 1)


@pytest.mark.parametrize("name", ["job.jsonl", "results.jsonl", "costs.db"])
def test_the_demo_writes_over_nothing(ratecard: Callable[..., Any], tmp_path: Path, name: str) -> None:
    """A folder that has a file of one of the demo's names is refused, and the file stays what it was."""
    (tmp_path / name).write_text("mine", encoding="utf-8")
    ended = ratecard("demo", "--requests", "1", "--keep", str(tmp_path))
    assert ended.code == 1
    assert ended.err == f"error: --keep {tmp_path}: has {name} already: name another folder\n"
    assert [(one.name, one.read_text("utf-8")) for one in tmp_path.iterdir()] == [(name, "mine")]
