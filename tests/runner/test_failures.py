"""Law: whatever the server or the job file does, nothing that was paid is lost, and every line's end is told clearly.

Faults come from the emulator, on its own clock made fast; what was sent and how often is the server's own count.
"""

from __future__ import annotations

import contextlib
import gzip
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

SPEED = 200


def marks(*numbers: int) -> list[str]:
    return [f"line-{number}" for number in numbers]


@pytest.mark.filterwarnings("ignore:.*the server asks to slow down")
def test_passing_failures_are_retried_and_end_well(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """500s, 503s, broken connections, 429s and slow-downs are tried again; report and ledger have every attempt."""
    faults = "500:every=5; 503:every=7; drop_connection:every=9; 429:every=11; slow_down:every=13"
    server = serve(speed=SPEED, faults=faults)
    desk.write(request_line(number) for number in range(40))
    report = desk.run_scaled(server, SPEED, attempts=12)
    counters = server.counters()
    met = counters["faults"]
    assert min(met[kind] for kind in ("500", "503", "drop_connection", "429", "slow_down")) > 0
    assert sorted(desk.ids()) == sorted(marks(*range(40)))
    assert all(line["response"]["status_code"] == 200 for line in desk.results())
    assert (report.progress.done, report.progress.failed) == (40, 0)
    assert report.progress.attempts == counters["requests"] == 40 + sum(met.values())
    assert report.progress.refusals == {"rate": met["429"], "slow_down": met["slow_down"]}
    refused = met["500"] + met["503"] + met["429"] + met["slow_down"]
    # A broken connection may have been billed, so it counts at its estimate; an error answer was not.
    assert desk.states() == {"posted": 40, "voided": refused, "expired": met["drop_connection"]}
    assert report.totals.posted_count == counters["usage"]["calls"] == 40


def test_a_failure_that_stays_ends_in_the_server_s_own_words(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """After the last attempt the line's result is the server's status, request id and error; the others are done."""
    server = serve(faults="500:model=o3")
    desk.write([request_line(0), request_line(1, model="o3"), request_line(2)])
    ended = desk.run(server, "--attempts", "1", "--json")
    assert ended.code == 1
    assert ended.report["lines"]["done"] == 2
    assert ended.report["lines"]["failed"] == 1
    (failed,) = [line for line in desk.results() if line["response"]["status_code"] != 200]
    assert (failed["custom_id"], failed["response"]["status_code"], failed["error"]) == ("line-1", 500, None)
    assert failed["response"]["request_id"].startswith("req_")
    assert failed["response"]["body"]["error"]["type"] == "server_error"
    assert "had an error while processing" in failed["response"]["body"]["error"]["message"]


def test_attempts_are_counted_per_line(desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]) -> None:
    """`attempts` tries and not one more go out for a line whose failures never end."""
    server = serve(speed=SPEED, faults="503")
    desk.write(request_line(number) for number in range(3))
    report = desk.run_scaled(server, SPEED, attempts=3)
    assert Counter(server.sent()) == dict.fromkeys(marks(0, 1, 2), 3)
    assert report.progress.failed == 3


def test_a_spent_quota_stops_the_job_at_once(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """The first insufficient_quota ends the job with its message and exit code 1; what waited is not sent."""
    server = serve(faults="insufficient_quota:after=5")
    desk.write(request_line(number) for number in range(20))
    # Eight requests of 26 tokens and the constant of 217 fit into the burst; the others have to wait for their turn.
    ended = desk.run(server, "--tpm=2000", "--json")
    assert ended.code == 1
    assert "quota" in ended.report["stopped"]
    assert "check your plan and billing" in ended.report["stopped"]
    assert server.counters()["admitted"] == ended.report["lines"]["done"] == 5
    assert server.counters()["requests"] <= 8, "requests that waited for admission were sent into a spent quota"
    assert "check your plan and billing" in desk.run(server, "--resume", "--tpm=2000").out
    server.set_faults(None)
    assert desk.run(server, "--resume").code == 0
    assert sorted(desk.ids()) == sorted(marks(*range(20)))


def test_a_reply_that_cannot_be_read_costs_one_line_and_is_told(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Status 200 with garbage: an error result that says so, not sent again (it was billed), kept as an estimate; two
    of them are told in the same words, wherever their JSON breaks off."""
    server = serve(faults="garbage_json:first=2")
    desk.write(request_line(number) for number in range(4))
    ended = desk.run(server, "--concurrency", "1", "--json")
    assert ended.code == 1
    assert server.sent() == marks(0, 1, 2, 3)
    assert sorted(desk.ids()) == marks(0, 1, 2, 3)
    failed = desk.results()[0]
    assert failed["custom_id"] == "line-0"
    error = failed["error"] or failed["response"]["body"]["error"]
    assert "JSON" in error["message"], error
    assert desk.states() == {"posted": 2, "expired": 2}
    assert ended.report["cost"]["expired_estimate"] != "0"
    (words,) = ended.report["failures"]["unreadable_reply"]["messages"]
    assert words == {"message": "HTTP 200, and the reply is not JSON", "count": 2}


def test_a_reply_without_usage_is_kept_and_estimated(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """The reply is a result like any other; its cost is an estimate that the report shows, never $0."""
    server = serve(faults="no_usage:first=1")
    desk.write(request_line(number) for number in range(3))
    ended = desk.run(server, "--concurrency", "1", "--json")
    assert ended.code == 0
    assert desk.ids() == marks(0, 1, 2)
    assert "usage" not in desk.results()[0]["response"]["body"] or not desk.results()[0]["response"]["body"]["usage"]
    assert desk.states() == {"posted": 2, "expired": 1}
    assert ended.report["cost"]["expired_count"] == 1
    assert ended.report["cost"]["expired_estimate"] != "0"


def test_what_never_fits_is_never_sent(desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]) -> None:
    """A request larger than the whole limit fails at once with the numbers, unsent, and counts as no request."""
    server = serve()
    desk.write([request_line(0), request_line(1, words=3_000), request_line(2)])
    ended = desk.run(server, "--tpm=1000", "--json")
    assert ended.code == 1
    assert sorted(server.sent()) == marks(0, 2)
    (failed,) = [line for line in desk.results() if line["response"] is None]
    assert failed["custom_id"] == "line-1"
    assert failed["error"]["code"] == "never_fits"
    assert "the whole limit is 1,000" in failed["error"]["message"]
    assert ended.report["lines"]["failed"] == 1
    assert desk.states() == {"posted": 2}


def test_requests_in_the_report_are_requests_that_were_sent(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Lines that are turned down before they are sent are no requests: the report's count is the server's."""
    server = serve()
    desk.write([request_line(0), request_line(1, words=3_000), request_line(2)])
    ended = desk.run(server, "--tpm=1000", "--json")
    assert ended.report["requests"]["attempts"] == server.counters()["requests"] == 2


def test_what_the_server_finds_too_large_is_not_tried_again(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """A 429 "Request too large" is a result, not a reason to wait: one request, and the server's message is kept."""
    server = serve(limits={"rpm": 100_000, "tpm": 1_000})
    desk.write([request_line(0, words=3_000)])
    ended = desk.run(server, "--json")
    assert ended.code == 1
    assert server.counters()["requests"] == 1
    assert ended.report["requests"]["refused_by_kind"] == {"too_large": 1}
    (failed,) = desk.results()
    assert failed["response"]["status_code"] == 429
    assert "Request too large" in failed["response"]["body"]["error"]["message"]


def test_lines_that_fail_become_error_results(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """What the card rules out and what the server refuses: one error result each, with the reason, the rest done."""
    server = serve()
    on_chat = {"model": "o3-pro", "messages": [{"role": "user", "content": "hi"}], "user": "x"}
    refused = request_line(1, input=None)
    desk.write(
        [
            request_line(0),
            {"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": on_chat},
            refused,
            request_line(2, cap=100_001),
            request_line(3),
        ]
    )
    ended = desk.run(server)
    assert ended.code == 1
    found = {line["custom_id"]: line for line in desk.results()}
    assert set(found) == {*marks(0, 1, 2, 3), "chat"}
    assert found["chat"]["response"] is None
    assert found["chat"]["error"]["code"] == "not_offered"
    assert "not offered on v1/chat/completions" in found["chat"]["error"]["message"]
    assert "100,000 output tokens" in found["line-2"]["error"]["message"]
    assert found["line-1"]["response"]["status_code"] == 400
    assert "Missing required parameter" in found["line-1"]["response"]["body"]["error"]["message"]
    assert sorted(server.sent()) == marks(0, 1, 3)
    assert "2 done, 3 failed" in ended.out


BAD_LINES = [
    "not json",
    "[]",
    '{"model": "o3"}',
    '{"custom_id": "line-0", "url": "/v1/responses", "body": {"model": "o3", "input": "x"}}',
    '{"custom_id": "s", "url": "/v1/responses", "body": {"model": "o3", "input": "x", "stream": true}}',
]


def test_bad_lines_are_told_by_number_and_the_rest_is_done(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Every line that cannot be used is named with its number and a reason; the others are done; exit code 1."""
    server = serve()
    job: list[Any] = []
    for number, bad in enumerate(BAD_LINES):
        job += [request_line(number), bad]
    desk.write(job)
    ended = desk.run(server)
    assert ended.code == 1
    assert sorted(desk.ids()) == marks(0, 1, 2, 3, 4)
    told = [line.strip() for line in ended.err.splitlines()]
    assert [line.split(":")[0] for line in told] == [f"line {number}" for number in (2, 4, 6, 8, 10)]
    assert "used on line 1 already" in told[3]
    desk.output.unlink()
    bad_lines = desk.run(server, "--json").report["bad_lines"]
    assert [one["line"] for one in bad_lines] == [2, 4, 6, 8, 10]


def test_strict_stops_at_the_first_bad_line_and_loses_nothing(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """With --strict a bad line ends the job, by its number; what was in the air is finished and written."""
    server = serve(latency=0.2)
    desk.write([*(request_line(number) for number in range(6)), "not json", request_line(7)])
    ended = desk.run(server, "--strict", "--concurrency", "2")
    assert ended.code == 1
    assert "line 7: not JSON" in ended.err
    assert "Traceback" not in ended.err
    assert "line-7" not in server.sent()
    assert sorted(desk.ids()) == sorted(server.sent())
    assert desk.states() == {"posted": len(server.sent())}


def test_a_job_file_that_breaks_off_loses_nothing_in_the_air(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """A compressed job that is cut off is an error, and every request sent before it was noticed has its result."""
    server = serve(latency=0.2)
    desk.write(request_line(number) for number in range(200))
    packed = gzip.compress(desk.job.read_bytes())
    desk.job = desk.job.with_suffix(".jsonl.gz")
    desk.job.write_bytes(packed[: len(packed) // 2])
    ended = desk.run(server)
    assert ended.code == 1
    assert "cannot be read" in ended.err
    assert len(server.sent()) > 0
    assert sorted(desk.ids()) == sorted(server.sent())


def test_a_ledger_that_fails_stops_the_job_and_loses_no_reply(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """When costs cannot be written any more nothing more is sent, and what is in the air is finished and written."""
    server = serve(latency=0.3)
    desk.write(request_line(number) for number in range(60))

    def spoil(count: int) -> None:
        if count == 10:
            with contextlib.closing(sqlite3.connect(desk.costs)) as ledger:
                ledger.execute("DROP TABLE entries")

    server.witness.on_request = spoil
    ended = desk.wait(desk.spawn(server))
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert f"error: ledger {desk.costs}" in ended.err
    assert 10 <= len(server.sent()) < 60
    assert sorted(desk.ids()) == sorted(server.sent())


def test_a_background_response_is_polled_on_after_a_failed_poll(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """A poll that meets a 500, a broken connection or a 429 is repeated; the response is not asked, and paid, again."""
    kinds = ("500", "drop_connection", "429")
    faults = [{"kind": kind, "endpoint": "poll", "first": 1, "after": n} for n, kind in enumerate(kinds)]
    server = serve(speed=SPEED, latency=12, faults=faults)
    desk.write([request_line(0, background=True)])
    report = desk.run_scaled(server, SPEED)
    assert server.counters()["faults"] == dict.fromkeys(kinds, 1)
    assert server.sent() == marks(0)
    assert report.progress.done == 1
    assert desk.states() == {"posted": 1}
    assert desk.results()[0]["response"]["body"]["status"] == "completed"


def test_ctrl_c_finishes_what_is_in_the_air_and_sends_nothing_more(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """After SIGINT nothing that waits is sent; what was sent is written, and --resume does the rest once."""
    server = serve(latency=0.5)
    desk.write(request_line(number) for number in range(33))
    child: Any = None
    server.witness.on_request = lambda count: child.send_signal(signal.SIGINT) if count == 30 else None
    child = desk.spawn(server, "--rpm=30")  # thirty go at once; each of the others waits two seconds for its turn
    ended = desk.wait(child)
    assert ended.code == 1
    assert "interrupted" in ended.out
    assert "Traceback" not in ended.err
    assert sorted(desk.ids()) == sorted(server.sent())
    assert desk.states() == {"posted": len(server.sent())}
    assert len(server.sent()) == 30, "requests were admitted after Ctrl-C"
    assert desk.run(server, "--resume").code == 0
    assert Counter(server.sent()) == dict.fromkeys(marks(*range(33)), 1)
    assert sorted(desk.ids()) == sorted(marks(*range(33)))


def test_ctrl_c_twice_abandons_at_once_and_can_be_resumed(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """A second SIGINT does not wait for replies; calls in the air become expired entries; --resume sends them again."""
    server = serve(latency=3600)
    desk.write(request_line(number) for number in range(3))
    child: Any = None

    def interrupt(count: int) -> None:
        if count == 3:
            child.send_signal(signal.SIGINT)

    server.witness.on_request = interrupt
    child = desk.spawn(server)
    assert "Ctrl-C again" in child.stderr.readline() + child.stderr.readline()
    child.send_signal(signal.SIGINT)
    ended = desk.wait(child)
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert desk.results() == []
    calm = serve()
    assert desk.run(calm, "--resume").code == 0
    assert sorted(desk.ids()) == marks(0, 1, 2)
    assert desk.states() == {"expired": 3, "posted": 3}


def test_temporary_refusals_are_no_tries(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """A line that a rival's traffic keeps out eight times is sent a ninth time, however few tries it has."""
    server = serve(faults="429:first=8", speed=SPEED)
    desk.write([request_line(0)])
    report = desk.run_scaled(server, SPEED, attempts=2)
    assert (report.progress.done, report.progress.refusals) == (1, {"rate": 8})
    assert server.counters()["requests"] == 9
