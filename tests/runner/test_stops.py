"""Law: what would fail every line alike is told once, before the first send or at the first refusal; nothing is lost.

The emulator refuses keys; a port of this machine on which nobody listens is a server that is not there.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from ratelimit.headers import QUOTA_CODES
from ratelimit.verdict import judge

LINES = 20
WAITING = "--tpm=2000"
"""Eight requests of 26 tokens and the constant of 217 fit into the burst; the others have to wait for their turn."""


@pytest.fixture
def job(desk: Any, request_line: Callable[..., Any]) -> Any:
    desk.write(request_line(number) for number in range(LINES))
    return desk


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port that is taken and on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def one_error_line(ended: Any) -> str:
    """The error of a run that did not begin: nothing on stdout, one line on stderr."""
    assert (ended.code, ended.out) == (1, ""), ended
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1, ended.err
    return str(ended.err)


# -- a key that is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("401", ["API key (HTTP 401: Incorrect API key", "set OPENAI_API_KEY"]),
        ("403", ["HTTP 403: Country, region, or territory not supported", "another key"]),
    ],
)
def test_a_refused_key_stops_the_job_at_once(fault: str, words: list[str], job: Any, serve: Callable[..., Any]) -> None:
    """The first refusal ends the job: what waits is not sent, the end says what to do, and --resume does all of it."""
    server = serve(faults=fault)
    ended = job.run(server, WAITING)
    assert ended.code == 1
    (stopped,) = [line for line in ended.out.splitlines() if line.startswith("stopped")]
    assert [word for word in words if word not in stopped] == []
    assert "--resume" in ended.out
    assert server.counters()["requests"] <= 8, "requests that waited for admission were sent with a refused key"
    assert all(line["response"]["status_code"] == int(fault) for line in job.results())
    assert set(job.states()) == {"voided"}
    server.set_faults(None)
    assert job.run(server, "--resume").code == 0
    assert sorted(job.ids()) == sorted(f"line-{number}" for number in range(LINES))


def test_a_key_that_is_withdrawn_meanwhile_loses_nothing(job: Any, serve: Callable[..., Any]) -> None:
    """What was paid for before the refusal stays, is told apart in --json, and is not sent again."""
    server = serve(faults="401:after=5")
    report = job.run(server, "--concurrency", "1", "--json").report
    assert report["stopped_by"] == "auth"
    assert report["lines"] == {
        "read": 7, "done": 5, "failed": 1, "bad": 0, "skipped_as_done": 0, "not_sent": LINES - 6,
    }  # fmt: skip
    server.set_faults(None)
    assert job.run(server, "--resume", "--json").report["lines"]["skipped_as_done"] == 5
    assert len(server.sent()) == LINES + 1


def refusal(status: int, code: str, kind: str, message: str) -> Exception:
    """An error as the openai client raises it."""
    body = {"message": message, "type": kind, "param": None, "code": code}
    request = httpx.Request("POST", "http://127.0.0.1/v1/responses")
    return openai.APIStatusError(message, response=httpx.Response(status, request=request), body=body)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", sorted(QUOTA_CODES))
def test_every_spent_quota_stops_the_job(code: str) -> None:
    """Whatever a spent quota or a closed account is called, no line is tried again, and nothing more is sent."""
    for error in (refusal(429, code, "x", "Pay."), refusal(429, "", code, "Pay.")):
        verdict = judge(error)
        assert (verdict.again, verdict.stops, verdict.refusal) == (False, "quota", "quota")
        assert f"({code}: Pay.)" in verdict.words


@pytest.mark.parametrize(
    ("status", "again", "stops"),
    [(400, False, ""), (401, False, "auth"), (403, False, "auth"), (404, False, ""), (408, True, ""), (409, True, ""),
     (422, False, ""), (500, True, ""), (503, True, "")],
)  # fmt: skip
def test_what_each_status_means(status: int, again: bool, stops: str) -> None:
    """Errors of the request end a line, errors of the moment are tried again, errors of the account end the job."""
    verdict = judge(refusal(status, "some_code", "some_type", "Some words."))
    assert (verdict.again, verdict.stops) == (again, stops)


# -- a server that is not there ----------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_told_once(job: Any, nobody: str, serve: Callable[..., Any]) -> None:
    """Nobody listens: one line names the URL, nothing is written or owed, and the same command works later."""
    server = serve()
    line = one_error_line(job.run(server, "--base-url", nobody))
    assert f"nothing answers at {nobody} (" in line
    assert "nothing was sent" in line
    assert (job.results(), job.states()) == ([], {})
    assert job.run(server).code == 0
    assert len(job.ids()) == LINES


def test_a_finished_job_needs_no_server(job: Any, nobody: str, serve: Callable[..., Any]) -> None:
    """Where nothing is left to send, nobody has to be there."""
    server = serve()
    assert job.run(server).code == 0
    assert job.run(server, "--resume", "--base-url", nobody).code == 0


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("localhost:8000/v1", "http://localhost:8000/v1"),
        ("127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("ftp://host/v1", "http://host/v1"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("https://host/", "https://host/v1"),
        ("http://127.0.0.1:port/v1", "http://127.0.0.1:8000/v1"),
    ],
)
def test_an_address_that_is_none_is_wrong_usage(url: str, meant: str, job: Any, idle: Any) -> None:
    """An address without its scheme or the path of its API is exit code 2, with the address that was meant."""
    ended = job.run(idle, "--base-url", url)
    assert (ended.code, ended.out) == (2, "")
    assert "--base-url" in ended.err
    assert re.search(rf"{re.escape(meant)}$", ended.err.strip()), ended.err
    assert not job.output.exists()


# -- limits that are not known, a key that is not set, files in each other's way ---------------------------------------


def test_a_tier_without_the_models_is_told_before_anything_is_sent(
    job: Any, idle: Any, request_line: Callable[..., Any]
) -> None:
    """One line names the file, the tier, each model and where it has limits, in the words of the command line."""
    models = ["o3-pro", "o3-mini-2025-01-31", "a-model-nobody-knows"]
    job.write(request_line(number, model=models[number % 3]) for number in range(9))
    arguments = [part for part in job.arguments(idle, "--tier", "grow") if not part.startswith(("--rpm", "--tpm"))]
    line = one_error_line(job.call(arguments))
    assert f"{job.job}: grow has no limits for" in line
    known = "only in tier_1, tier_2, tier_3, tier_4, tier_5"
    for model, where in zip(models, (known, known, "in no tier of the table"), strict=True):
        assert line.count(f"{model} ({where})") == 1
    assert "--tier" in line
    assert "--rpm" in line
    assert "limits=" not in line
    assert idle.sent() == []
    assert [path.name for path in job.folder.iterdir()] == ["job.jsonl"]


def test_a_tier_that_excludes_a_model_is_told_likewise(job: Any, idle: Any) -> None:
    """ "Not supported" in a tier is no matter of single lines either."""
    arguments = [part for part in job.arguments(idle, "--tier", "free") if not part.startswith(("--rpm", "--tpm"))]
    assert "free has no limits for o3-pro (only in tier_1" in one_error_line(job.call(arguments))


def test_own_limits_make_every_model_known(job: Any, serve: Callable[..., Any]) -> None:
    """With --rpm or --tpm beside the tier, a model that the table has no row for is sent."""
    assert job.run(serve(), "--tier", "grow").code == 0


def test_a_missing_key_is_told_before_a_file_is_made(job: Any, idle: Any) -> None:
    """Without a key nothing is created, and the same command works when there is one."""
    arguments = job.arguments(idle)
    where = arguments.index("--base-url")
    del arguments[where : where + 2]
    assert "OPENAI_API_KEY is not set" in one_error_line(job.call(arguments))
    assert [path.name for path in job.folder.iterdir()] == ["job.jsonl"]


@pytest.mark.parametrize("named", ["output", "ledger", "link", "both"])
def test_files_in_each_other_s_way_are_wrong_usage(named: str, job: Any, idle: Any) -> None:
    """An output or a ledger that is the job, or both in one file, are told; no file loses a byte."""
    before = job.job.read_bytes()
    link = job.folder / "link.jsonl"
    link.symlink_to(job.job)
    options = {
        "output": ["-o", str(job.job)],
        "ledger": ["--ledger", str(job.job)],
        "link": ["-o", str(link), "--resume"],
        "both": ["--ledger", str(job.output)],
    }[named]
    ended = job.run(idle, *options)
    assert (ended.code, ended.out) == (2, "")
    assert f"{options[0]} {options[1]} is the " in ended.err
    assert job.job.read_bytes() == before
    assert not job.output.exists()


# -- what is told at the end -------------------------------------------------------------------------------------------


def test_failures_are_told_by_code_and_message(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Lines that fail alike are one group with its number, the most frequent first; other words are another group."""
    unusable = [request_line(number, input=None) for number in range(4)]
    desk.write([*unusable, *(request_line(number, words=3_000 + number) for number in (4, 5))])
    ended = desk.run(serve(), "--tpm=1000")
    told = [line.strip() for line in ended.err.splitlines()]
    assert told[0].startswith("4 × HTTP 400 missing_required_parameter: Missing required parameter")
    assert [line.split(":")[0] for line in told[1:]] == ["1 × never_fits"] * 2
    desk.output.unlink()
    failures = desk.run(serve(), "--tpm=1000", "--json").report["failures"]
    assert failures["never_fits"]["count"] == 2
    assert [one["count"] for one in failures["never_fits"]["messages"]] == [1, 1]
    assert failures["never_fits"]["first_message"] == failures["never_fits"]["messages"][0]["message"]


def test_many_kinds_of_failures_are_told_in_a_few_lines(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Thirty messages, each with a number of its own: ten lines, and how many more there are; twenty in --json."""
    desk.write(request_line(number, words=3_000 + number) for number in range(30))
    ended = desk.run(serve(), "--tpm=1000")
    told = ended.err.splitlines()
    assert len(told) == 11
    assert "20 more" in told[-1]
    desk.output.unlink()
    failures = desk.run(serve(), "--tpm=1000", "--json").report["failures"]
    assert (failures["never_fits"]["count"], len(failures["never_fits"]["messages"])) == (30, 20)


def test_one_of_anything_is_singular(desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]) -> None:
    """One call is no "1 calls", in the summary and in the ledger's report; a job that binds no limit says so."""
    desk.write([request_line(0, model="nobody-priced-this")])
    ended = desk.run(serve())
    report = desk.call(["ledger", "report", str(desk.costs)])
    assert "in 1 request\n" in ended.out
    assert "1 call has no price" in ended.out
    assert "the limits allow all of it at once" in ended.out
    assert not re.search(r"\b1 (calls|lines|requests)\b", ended.out + report.out)


def test_a_budget_that_stops_says_so_once(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """The end names the budget, not "budget: budget", and how to go on."""
    desk.write(request_line(number) for number in range(3))
    ended = desk.run(serve(), "--budget", "0.1")
    assert ended.code == 3
    assert "stopped   budget 0.1 USD/job: " in ended.out
    assert "go on     with a larger --budget and --resume" in ended.out


# -- what a run cost ---------------------------------------------------------------------------------------------------


def test_a_job_begun_anew_has_a_sum_and_a_budget_of_its_own(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """The output is deleted and the job run again into the same ledger: its cost is reported once, not doubled."""
    server = serve()
    desk.write(request_line(number) for number in range(4))
    costs = []
    for _ in range(3):
        report = desk.run(server, "--budget", "0.65", "--concurrency", "1", "--json").report
        assert report["lines"]["done"] == 4
        assert report["cost"] == report["cost_this_run"]
        costs.append(report["cost"]["posted"])
        desk.output.unlink()
    assert costs == costs[:1] * 3
    assert desk.states() == {"posted": 12}


def test_a_resumed_job_tells_this_run_s_part(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """`cost` is the job's over all its runs, `cost_this_run` what this one sent; the summary tells both."""
    server = serve(faults="500:after=3")
    desk.write(request_line(number) for number in range(4))
    first = desk.run(server, "--attempts", "1", "--concurrency", "1", "--json").report
    server.set_faults(None)
    text = desk.run(server, "--resume").out
    again = desk.run(server, "--resume", "--json").report
    assert first["cost"]["posted_count"] == 3
    assert again["cost"]["posted_count"] == 4
    assert again["cost_this_run"]["posted_count"] == 0
    assert re.search(r"cost +\$\d.*\n +\$\d+\.\d+ of it for the requests of this run\n", text), text
