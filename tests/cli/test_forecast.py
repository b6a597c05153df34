"""`ratecard forecast` at its edges: pipes, outputs, options of other kinds of files, and each thing said once."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pricing import Ledger, Usd
from ratelimit.cli._forecast import relieved
from ratelimit.errors import ConfigError
from ratelimit.forecast.kinds import kept, kind_of
from ratelimit.forecast.outlook import REPLIES, Relief, Span

AT = ("--at", "2026-07-20")
MODELS = ("o3-pro", "gpt-5.6-terra", "gpt-4o-mini", "gpt-5", "o3")


def body(model: str = "o3", words: int = 5, **more: Any) -> dict[str, Any]:
    return {"model": model, "input": "word " * words, "max_output_tokens": 50, **more}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A job for five models, of several pieces of what a pipe holds."""
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(body(MODELS[n % 5], n + 1)) + "\n" for n in range(300)), encoding="utf-8")
    assert path.stat().st_size > 2 * 65_536
    return path


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A trace with a row that no tier lets through, and one whose time is none."""
    path = tmp_path / "trace.csv"
    rows = ["0,gpt-5,1,1", "1,gpt-5,300000000,1", "never,gpt-5,1,1"]
    path.write_text("\n".join(["t_s,model,input_tokens,output_tokens", *rows]))
    return path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_read_once_and_whole(ratecard: Callable[..., Any], mixed: Path, trace: Path, tmp_path: Path) -> None:
    """A job and a trace through a named pipe come to what their files come to, and nothing hangs."""
    for file in (mixed, trace):
        pipe = tmp_path / f"pipe-{file.stem}"
        os.mkfifo(pipe)
        writer = threading.Thread(target=lambda file=file, pipe=pipe: pipe.write_bytes(file.read_bytes()))
        writer.start()
        ours = ratecard("forecast", str(pipe), "--tier", "tier_1", *AT, "--json")
        writer.join()
        assert ours.out == ratecard("forecast", str(file), "--tier", "tier_1", *AT, "--json").out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_kept_to_a_bound_and_for_no_gate(tmp_path: Path) -> None:
    """More than may be kept is told by the pipe's name; whoever reads a file twice refuses a pipe."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match=r"pipe: is no file: it can be read only once"):
        kind_of(str(pipe))
    writer = threading.Thread(target=pipe.write_bytes, args=(b"x" * 5_000,))
    writer.start()
    with pytest.raises(ConfigError, match=r"pipe: more than 4,000 bytes came out of it"), kept(str(pipe), 4_000):
        pass
    writer.join()


def test_options_that_say_nothing_are_refused(
    ratecard: Callable[..., Any], mixed: Path, trace: Path, tmp_path: Path
) -> None:
    """What a kind of file has no use for is wrong usage; a swap of what nobody asks for, or of a pipe, is an error."""
    with Ledger(tmp_path / "costs.db") as ledger:
        ledger.expire(ledger.pend(model="o3-pro", endpoint="e", estimate=Usd(10**12)), "cut")
    book = tmp_path / "costs.db"
    for file, *options in (
        (trace, "--budget", "5 USD"), (trace, "--deadline", "2h"), (trace, "--policy", "documented"),
        (trace, "--by", "run"),
        (mixed, "--model", "o3"), (mixed, "--over", "5s"), (mixed, "--until", "2026-12-01"),
        (book, "--ledger", str(book)), (book, "--rpm", "5"), (book, "--model", "o3"), (book, "--over", "5s"),
        (book, "--deadline", "2h"), (book, "--concurrency", "5"),
    ):  # fmt: skip
        ended = ratecard("forecast", str(file), *options)
        assert ended.code == 2, options
        assert f"{options[0]} is for a " in ended.err
    ended = ratecard("forecast", str(trace), "--swap", "nosuch=o3")
    assert (ended.code, "no request of the trace is for nosuch; they are for gpt-5" in ended.err) == (1, True)
    command = [sys.executable, "-m", "ratelimit", "forecast", "-", "--swap", "o3=o3-pro"]
    ended = subprocess.run(command, input=mixed.read_bytes(), capture_output=True)
    assert ended.returncode == 1
    assert b"--swap reads the job once more" in ended.stderr
    assert ratecard("forecast", str(mixed), "--seed", "-1").code == 2


def test_nothing_that_is_read_is_written_over(ratecard: Callable[..., Any], mixed: Path, tmp_path: Path) -> None:
    """An output that is the job, a price overlay or the other output is wrong usage, by whatever name."""
    before = mixed.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(mixed)
    prices = tmp_path / "own.yaml"
    prices.write_text("prices: []\n")
    for options in (
        ("--html", str(mixed)), ("--png", str(link)), ("--html", str(prices), "--prices", str(prices)),
        ("--html", "same", "--png", "same"),
    ):  # fmt: skip
        assert ratecard("forecast", str(mixed), "--tier", "tier_1", *options).code == 2, options
    assert mixed.read_bytes() == before


def test_the_report_is_there_before_the_first_line(mixed: Path, tmp_path: Path) -> None:
    """Whoever reads the first line alone has the whole report all the same."""
    report = tmp_path / "report.html"
    command = [
        sys.executable,
        "-m",
        "ratelimit",
        "forecast",
        str(mixed),
        "--tier",
        "tier_1",
        *AT,
        "--html",
        str(report),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"job")
        assert report.read_text(encoding="utf-8").endswith("</html>\n")
        process.stdout.close()


def test_an_output_that_cannot_be_written_is_an_error_in_words(
    ratecard: Callable[..., Any], mixed: Path, tmp_path: Path
) -> None:
    """No such folder, and nothing to draw: one line, after the numbers; a file's name of stray bytes is no trouble."""
    for option in ("--png", "--html"):
        ended = ratecard("forecast", str(mixed), "--tier", "tier_1", *AT, option, str(tmp_path / "no" / "x"))
        assert ended.code == 1
        assert "cannot be written: No such file" in ended.err
        assert ended.out.startswith("job")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("{nonsense\n")
    ended = ratecard("forecast", str(empty), "--tier", "tier_1", "--png", str(tmp_path / "x.png"))
    assert (ended.code, "is not written: there is nothing to draw" in ended.err) == (1, True)
    odd = tmp_path / os.fsdecode(b"odd\xff.jsonl")
    try:
        odd.write_text(json.dumps(body("gpt-5\ud800")) + "\n" + json.dumps(body()) + "\n", encoding="utf-8")
    except OSError:
        pytest.skip("no such names here")
    ended = ratecard("forecast", str(odd), "--tier", "tier_1", *AT, "--html", "odd.html", "--png", "odd.png")
    assert ended.err == ""
    assert r"odd\udcff.jsonl" in Path("odd.html").read_text(encoding="utf-8")


def test_what_is_not_sent_is_told_with_its_tier(ratecard: Callable[..., Any], trace: Path) -> None:
    """Of a trace each reason stands once with its tiers, rows are rows, and what is left out of the sums is said."""
    ended = ratecard("forecast", str(trace), *AT)
    assert ended.code == 1
    assert "left out  1 request that cannot be sent in tier_1: in no sum" in ended.out
    lines = [line for line in ended.out.splitlines() if "not sent" in line]
    assert lines[0].startswith("tier_1: 1 request not sent: takes more than tpm of gpt-5")
    assert len(lines) == len({line.partition(":")[0] for line in lines}) == 5
    assert "row 3: t_s: no time" in ended.err


def test_each_outcome_and_each_fact_stands_once(ratecard: Callable[..., Any], mixed: Path) -> None:
    """The choices have a row for each outcome, and a note for each fact; of one tier only its own rows are there."""
    whole, own = (
        ratecard("forecast", str(mixed), "--at", "2026-11-25", *tier).out for tier in ((), ("--tier", "tier_1"))
    )
    for text, tiers in ((whole, r"(?:free|tier_1|tier_2|build)"), (own, "tier_1")):
        table = text.partition("Choices")[2]
        rows = re.findall(rf"^ {tiers}\b.*(?:online|flex|batch) .*$", table, re.MULTILINE)
        outcomes = [re.split(r"(?=online|flex|batch)", row, maxsplit=1)[1].split() for row in rows]
        assert len(outcomes) == len(set(map(tuple, outcomes))) > 2
        notes = re.findall(r"^\d+  (.*)$", table, re.MULTILINE)
        assert len(notes) == len(set(notes)) <= 20
        assert not any(f"in {tier}" in note.partition(", only in")[0] for note in notes for tier in ("build", "launch"))
    assert " – tier_5 " in whole
    assert "tier_2" not in own.partition("Choices")[2].partition("\n1  ")[0]
    assert own.rstrip().endswith("duration unknown")


def test_what_relaxing_runs_into_next_is_said() -> None:
    """Where twice a limit comes up against another one, that is named; not the replies, and not the limit itself."""
    span = Span(1_000_000, 1_000_000, 1_000_000)
    once = "twice tpm of o3: 1.0 s (1.0 s – 1.0 s)"
    assert relieved(Relief("twice tpm of o3", span, "tpm of gpt-4.1")) == f"{once}, then bound by tpm of gpt-4.1"
    assert {relieved(Relief("twice tpm of o3", span, then)) for then in ("", REPLIES, "tpm of o3")} == {once}


def test_what_has_no_price_is_no_bar_of_nothing(ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """A chart of costs names the models that have a price, and the others not at $0."""
    path = tmp_path / "trace.csv"
    path.write_text("t_s,model,input_tokens,output_tokens\n0,nobody-priced-this,5,5\n1,o3,5,5\n")
    ended = ratecard("forecast", str(path), "--rpm", "5", *AT, "--html", str(tmp_path / "x.html"))
    assert ended.code == 1
    chart = (tmp_path / "x.html").read_text(encoding="utf-8").partition("Cost by component")[2].partition("</svg>")[0]
    assert "nobody-priced-this" not in chart
    assert "$0.00005" in chart
    assert "$0.00<" not in chart
