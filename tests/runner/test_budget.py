"""Law: a job with a budget never costs more than it, keeps what it paid for, and goes on when it is given more.

The commands run in processes of their own: a run that forgets to stop is killed, and its test fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

CAP = 2_000
INPUT = 26  # "word" twenty times, and six tokens around one message
WORST = (Decimal(INPUT) * 20 + Decimal(CAP) * 80) / 1_000_000
"""Dollars that one request of `job` can cost at most: $0.16052."""
BUDGET = Decimal(1)
LINES = 24


def spent(desk: Any) -> Decimal:
    """What the replies in the output cost, by their own usage, at $20 and $80 per 1M tokens."""
    usages = [line["response"]["body"]["usage"] for line in desk.results()]
    tokens = sum(usage["input_tokens"] * 20 + usage["output_tokens"] * 80 for usage in usages)
    return Decimal(tokens) / 1_000_000


@pytest.fixture
def job(desk: Any, request_line: Callable[..., Any]) -> Iterator[Any]:
    """A job of about $2.80; a budget of $1 has room for the worst case of six requests at a time."""
    desk.write(request_line(number, words=20, cap=CAP) for number in range(LINES))
    return desk


@pytest.mark.parametrize("replies", [{"latency": 0}, {"latency": 0.1, "output_tokens": CAP}], ids=["usual", "worst"])
def test_a_job_stops_at_its_budget_and_goes_on_with_a_larger_one(
    replies: dict[str, Any], job: Any, serve: Callable[..., Any]
) -> None:
    """It spends what fits and no cent more, drains, keeps what it paid for, exits 3; a larger budget does the rest."""
    server = serve(**replies)
    ended = job.wait(job.spawn(server, "--budget", "1 USD", "--json"))
    assert ended.code == 3, ended
    counters = server.counters()
    results = job.results()
    assert all(line["response"]["status_code"] == 200 for line in results)
    assert len(results) == counters["requests"] == counters["usage"]["calls"] < LINES
    assert spent(job) == Decimal(ended.report["cost"]["posted"])
    assert spent(job) <= BUDGET
    assert spent(job) + WORST > BUDGET, "it stopped while another request would have fitted"
    assert job.states() == {"posted": len(results)}
    assert ended.report["stopped"].startswith("budget")
    assert ended.report["requests"]["attempts"] == counters["requests"]

    more = job.wait(job.spawn(server, "--budget", "10 USD", "--resume", "--json"))
    assert more.code == 0
    assert Counter(server.sent()) == Counter(f"line-{number}" for number in range(LINES))
    assert sorted(job.ids()) == sorted(f"line-{number}" for number in range(LINES))
    assert job.results()[: len(results)] == results
    assert Decimal(more.report["cost"]["posted"]) == spent(job) > BUDGET


def test_one_request_at_a_time_stops_likewise(job: Any, serve: Callable[..., Any]) -> None:
    """With one request in the air nothing is held by others: the first that may not fit ends the job."""
    server = serve()
    ended = job.wait(job.spawn(server, "--budget", "1", "--concurrency", "1"))
    assert ended.code == 3
    assert spent(job) <= BUDGET < spent(job) + WORST
    assert "budget" in ended.out
    assert "$1" in ended.out or "1 USD" in ended.out
    assert f"{len(job.results())} done" in ended.out
    assert "Traceback" not in ended.err


def test_the_report_counts_every_line_that_was_not_sent(job: Any, serve: Callable[..., Any]) -> None:
    """After an early stop `not_sent` is the rest of the file, not just the part of it that was read."""
    server = serve()
    report = job.wait(job.spawn(server, "--budget", "1", "--concurrency", "1", "--json")).report
    assert report["lines"]["done"] + report["lines"]["not_sent"] == LINES


def test_a_budget_too_small_for_anything_sends_nothing(job: Any, serve: Callable[..., Any]) -> None:
    """When not even the first request fits, the server sees nothing, and the message carries the numbers."""
    server = serve()
    ended = job.wait(job.spawn(server, "--budget", "$0.10"))
    assert ended.code == 3
    assert server.counters()["requests"] == 0
    assert job.results() == []
    assert job.states() == {}
    assert "0.1 USD" in ended.out
    assert "$0.16" in ended.out


def test_resuming_with_the_same_budget_spends_nothing_more(job: Any, serve: Callable[..., Any]) -> None:
    """The budget is the job's, not the process's: what earlier runs spent is counted."""
    server = serve()
    assert job.wait(job.spawn(server, "--budget", "1", "--concurrency", "1")).code == 3
    before = len(job.results())
    again = job.wait(job.spawn(server, "--budget", "1", "--concurrency", "1", "--resume"))
    assert again.code == 3
    assert len(job.results()) == before == server.counters()["requests"]


@pytest.mark.parametrize("output", ["other.jsonl", "elsewhere/out.jsonl"])
def test_the_budget_counts_this_job_only(output: str, job: Any, serve: Callable[..., Any]) -> None:
    """In a ledger shared with other jobs, their spending is not this job's, not even if the outputs are named alike."""
    server = serve()
    shared = str(job.folder / "shared.db")
    assert job.run(server, "--ledger", shared).code == 0
    job.output = job.folder / output
    job.output.parent.mkdir(exist_ok=True)
    ended = job.wait(job.spawn(server, "--ledger", shared, "--budget", "4", "--json"))
    assert ended.code == 0
    assert Decimal(ended.report["cost"]["posted"]) == spent(job)


def test_a_request_nobody_can_price_is_not_sent_under_a_budget(
    job: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """A model without a price could cost anything: a budget lets none of the job out, and one line says what helps."""
    server = serve()
    job.write([request_line(0, model="o3-prro"), request_line(1)])
    ended = job.wait(job.spawn(server, "--budget", "1"))
    assert (ended.code, ended.out) == (1, "")
    for words in (f"{job.job}: ", "o3-prro (did you mean o3-pro", "--prices", "unpriced:allow", "nothing was sent"):
        assert words in ended.err
    assert server.counters()["requests"] == 0
    assert not job.output.exists()
    for harmless in ("1 unpriced:allow", "1 warn", "1 USD/day tag:team=search"):
        job.output.unlink(missing_ok=True)
        assert job.run(server, "--budget", harmless).code == 0


def test_a_request_without_a_price_that_only_the_run_can_see_stops_it(
    job: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """A service tier that the model has no price in is met on the way; no larger budget is asked for then."""
    server = serve()
    line = request_line(0)
    line["body"]["service_tier"] = "flex"
    job.write([line])
    ended = job.run(server, "--budget", "1")
    assert ended.code == 3
    assert "no price" in ended.out
    assert "larger --budget" not in ended.out
    assert "go on     with a price" in ended.out
    assert server.counters()["requests"] == 0


@pytest.mark.parametrize("text", ["", "abc", "nan", "-1", "0", "5 EUR", "5/year", "5 USD slow", "1e999", "2,50"])
def test_a_budget_that_cannot_be_read_is_an_error_at_once(text: str, job: Any, idle: Any) -> None:
    """A budget that is no amount of dollars is an error, never taken for "no budget", and nothing is sent."""
    before = len(idle.sent())
    ended = job.run(idle, f"--budget={text}")
    assert ended.code == 2
    assert ended.out == ""
    assert "budget" in ended.err or "amount" in ended.err
    assert len(idle.sent()) == before


def test_several_budgets_bind_together(job: Any, serve: Callable[..., Any], tmp_path: Path) -> None:
    """A job's own budget, one of the ledger's day, and a file of them: the tightest stops it, with exit code 3."""
    server = serve()
    budgets = tmp_path / "budgets.yaml"
    budgets.write_text('budgets:\n  - 50 USD/month\n  - {amount: "1 USD/day", zone: Asia/Tokyo}\n', encoding="utf-8")
    given = ["--budget", "10 USD", "--budget", str(budgets), "--budget", "20 USD/week warn"]
    ended = job.wait(job.spawn(server, *given, "--concurrency", "1"))
    assert ended.code == 3
    assert "budget 1 USD/day zone:Asia/Tokyo" in ended.out
    assert job.wait(job.spawn(server, "--budget", "10 USD", "--concurrency", "1", "--resume")).code == 0
