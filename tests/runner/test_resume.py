"""Law: whenever a run is killed, `--resume` finishes it, pays for no written result again, and hides nothing.

The witness is the server, which keeps every body it is sent; kills happen at instants of its own, chosen by a seed.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pricing import Budget, Ledger, Usd
from ratelimit.runner import run_name

LINES = 40


def test_a_run_killed_again_and_again_ends_with_every_line_once(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """About ten kills at random instants: one result per line, none paid again once written, no call unrecorded."""
    rng = random.Random(11)
    server = serve()
    desk.write(request_line(number) for number in range(LINES))
    written: set[str] = set()
    kills = left_open = closed = 0
    while True:
        before, answers = len(server.witness.bodies), server.witness.answers
        child = desk.spawn(server, "--resume", "--concurrency", "4")
        strike_at_its_hour(server.witness, child, rng, desk.ids)
        ended = desk.wait(child)
        again = written & set(server.sent()[before:])
        assert not again, f"paid twice after {kills} kills: {sorted(again)}"
        assert written <= set(desk.ids())
        closed += left_open
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL
        assert server.witness.answers >= answers
        kills += 1
        written = set(desk.ids())
        left_open = desk.states().get("pending", 0)
    assert kills >= 4
    calls = "1 call of an earlier run was" if left_open == 1 else f"{left_open} calls of an earlier run were"
    assert (f"{calls} never answered" in ended.err) == (left_open > 0)
    everything = {f"line-{number}" for number in range(LINES)}
    assert Counter(desk.ids()) == Counter(everything)
    entries = desk.entries()
    states = desk.states()
    assert states.get("pending", 0) == 0
    assert states["expired"] == closed > 0  # what was in the air at the kills: an estimate, for everybody to see
    assert all(entry.estimate and entry.why for entry in entries if entry.state == "expired")
    # A call may have been entered and killed before it was sent; one that was sent without an entry is a hole.
    entered = Counter(entry.custom_id for entry in entries)
    assert all(entered[mark] >= times for mark, times in Counter(server.sent()).items())
    posted = {entry.response_id: entry for entry in entries if entry.state == "posted"}
    for line in desk.results():
        usage, entry = line["response"]["body"]["usage"], posted[line["response"]["body"]["id"]]
        assert entry.cost.pico == usage["input_tokens"] * 20_000_000 + usage["output_tokens"] * 80_000_000
    report = desk.call(["ledger", "report", str(desk.costs), "--by", "state", "--json"]).report
    assert report["by"]["expired"]["expired_count"] == states["expired"]
    assert report["total"]["pending_count"] == 0


def strike_at_its_hour(witness: Any, child: Any, rng: random.Random, ids: Callable[[], list[str]]) -> None:
    """Kill a run as its n-th request arrives, or just after its n-th answer, or as its output has n more lines."""
    number = rng.randint(2, 8)
    moment = rng.choice(["request", "answer", "line"])
    requests, answers, lines = len(witness.bodies), witness.answers, len(ids())

    def on_request(count: int) -> None:
        if (moment == "request" and count - requests == number) or (moment == "line" and len(ids()) - lines >= number):
            child.kill()

    def on_answer(count: int) -> None:
        if moment == "answer" and count - answers == number:
            child.kill()

    witness.on_request, witness.on_answer = on_request, on_answer


def kill_with_three_in_the_air(desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]) -> None:
    """A job of three lines whose run is killed when all of them are sent and none is answered."""
    server = serve(latency=3600)
    desk.write(request_line(number) for number in range(3))
    child = desk.spawn(server)
    server.witness.on_request = lambda count: child.kill() if count == 3 else None
    assert desk.wait(child).code == -signal.SIGKILL


def test_what_a_killed_run_left_open_is_closed_as_expired(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Calls in the air at the kill stand pending, then expired at their estimates; the next run and its report tell."""
    kill_with_three_in_the_air(desk, serve, request_line)
    assert desk.states() == {"pending": 3}
    held = sum(entry.estimate.pico for entry in desk.entries())
    ended = desk.run(serve(), "--resume")
    assert ended.code == 0
    assert "3 calls of an earlier run were never answered; they count at their estimates" in ended.err
    assert desk.states() == {"expired": 3, "posted": 3}
    assert sum(entry.estimate.pico for entry in desk.entries("expired")) == held > 0
    assert "more estimated for 3" in ended.out


def test_a_run_killed_before_its_first_result_holds_no_budget(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Where nothing was written there is nothing to resume; the calls of the killed run are closed all the same."""
    kill_with_three_in_the_air(desk, serve, request_line)
    assert desk.run(serve(), "--budget", "0.9 USD").code == 0  # room for $0.48, and not for as much again held
    assert desk.states() == {"expired": 3, "posted": 3}


@pytest.mark.parametrize("late", [False, True], ids=["at once", "after the lease"])
def test_a_background_response_in_the_air_at_the_kill_is_not_asked_for_again(
    late: bool, desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Its id stands in the ledger, so --resume asks after it: one request, one payment, one result.

    Even when somebody under a budget has come by meanwhile, and has found the entry's lease over.
    """
    server = serve(latency=0.5)
    desk.write([request_line(0, background=True)])

    def strike(_: int) -> None:
        """Kill the run as soon as it has noted the id of the response."""
        for _ in range(10_000):
            if any(entry.response_id for entry in desk.entries()):
                break
        child.kill()

    server.witness.on_answer = strike
    child = desk.spawn(server)
    assert desk.wait(child).code == -signal.SIGKILL
    server.witness.on_answer = lambda _: None
    (entry,) = desk.entries()
    assert entry.response_id
    if late:
        with Ledger(desk.costs, now_us=lambda: entry.created_us + 2 * 3_600_000_000) as ledger:
            ledger.counted(Budget(Usd(1)))
        assert desk.states() == {"expired": 1}
    assert desk.run(server, "--resume").code == 0
    assert server.sent() == ["line-0"]
    assert [line["response"]["body"]["id"] for line in desk.results()] == [entry.response_id]
    assert desk.states() == {"posted": 1}


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.99, 1.0])
def test_a_torn_last_line_is_sent_again_and_only_that(
    cut: float, desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Wherever the last line was torn, within a character or just before its line end, each line ends up once."""
    server = serve()
    lines = [request_line(number) for number in range(5)]
    for line in lines:
        line["custom_id"] = f"größe-{line['custom_id']}"
    desk.write(lines)
    assert desk.run(server, "--concurrency", "1").code == 0
    raw = desk.output.read_bytes()
    whole, last = raw[: raw[:-1].rindex(b"\n") + 1], raw[raw[:-1].rindex(b"\n") + 1 :]
    keep = last.index("ö".encode()) + 1 if cut == 0 else round(cut * (len(last) - 1))
    desk.output.write_bytes(whole + last[:keep])
    ended = desk.run(server, "--resume", "--json")
    assert ended.code == 0
    assert sorted(desk.ids()) == sorted(line["custom_id"] for line in lines)
    assert desk.output.read_bytes().startswith(whole)
    assert server.sent()[:5] == [line["body"]["user"] for line in lines]
    assert set(server.sent()[5:]) <= {"line-4"}
    assert ended.report["lines"]["skipped_as_done"] + ended.report["lines"]["done"] == 5


def test_failed_lines_are_tried_again_and_replaced(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Lines that ended in an error are sent again; their old results give way, and what was done stays untouched."""
    server = serve(faults="500:every=2")
    desk.write(request_line(number) for number in range(6))
    assert desk.run(server, "--attempts", "1", "--concurrency", "1").code == 1
    good = [line for line in desk.results() if line["response"]["status_code"] == 200]
    assert len(good) == 3
    server.set_faults(None)
    ended = desk.run(server, "--resume", "--json")
    assert ended.code == 0
    assert ended.report["lines"] == {
        "read": 6, "done": 3, "failed": 0, "bad": 0, "skipped_as_done": 3, "not_sent": 0,
    }  # fmt: skip
    assert sorted(desk.ids()) == [f"line-{number}" for number in range(6)]
    assert desk.results()[:3] == good
    assert server.sent()[6:] == ["line-1", "line-3", "line-5"]


def test_resuming_a_finished_job_does_nothing(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Nothing is sent, the output stays the same to the byte, and the report still states what the job cost."""
    server = serve()
    desk.write(request_line(number) for number in range(4))
    first = desk.run(server, "--json").report
    raw = desk.output.read_bytes()
    ended = desk.run(server, "--resume", "--json")
    assert ended.code == 0
    assert server.counters()["requests"] == 4
    assert desk.output.read_bytes() == raw
    assert ended.report["lines"]["skipped_as_done"] == 4
    assert ended.report["cost"] == first["cost"]


def test_resume_without_an_output_begins_one(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """`--resume` may stand in a script from the first run on."""
    server = serve()
    desk.write(request_line(number) for number in range(2))
    assert desk.run(server, "--resume").code == 0
    assert desk.ids() == ["line-0", "line-1"] or desk.ids() == ["line-1", "line-0"]


def test_an_existing_output_is_refused_untouched(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Without `--resume` a file that holds anything is an error before anything is sent, and stays as it was."""
    server = serve()
    desk.write(request_line(number) for number in range(2))
    assert desk.run(server).code == 0
    for content in (desk.output.read_bytes(), b"my notes", b"\n"):
        desk.output.write_bytes(content)
        ended = desk.run(server)
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.count("\n") == 1
        assert str(desk.output) in ended.err
        assert "--resume" in ended.err
        assert desk.output.read_bytes() == content
    assert server.counters()["requests"] == 2


FOREIGN = {
    "a job": b'{"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {}}\n',
    "a job without its last line end": b'{"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {}}',
    "notes": b"remember the milk\nand the eggs\n",
    "notes of one line": b"remember the milk",
    "a JSON document": b'{"a": 1}\n',
    "JSON of other shapes": b"[1, 2]\n",
    "a result of another shape": b'{"custom_id": "a", "response": 200}\n',
    "a result without its name": b'{"response": {"status_code": 200}}\n',
    "bytes": b"\x89PNG\r\n\x1a\n\x00\xff\xfe\n",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_resume_never_touches_a_file_that_is_not_its_own(
    content: bytes, desk: Any, idle: Any, request_line: Callable[..., Any]
) -> None:
    """Resuming with a wrong file is one clear error; the file keeps every byte and nothing is sent."""
    before = len(idle.sent())
    desk.write([request_line(0)])
    desk.output.write_bytes(content)
    ended = desk.run(idle, "--resume")
    assert desk.output.read_bytes() == content
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.count("\n") == 1
    assert f"{desk.output}:1" in ended.err
    assert "is this the right file?" in ended.err
    assert len(idle.sent()) == before


def test_a_refused_resume_leaves_nothing_behind(desk: Any, idle: Any, request_line: Callable[..., Any]) -> None:
    """A resume that ends in an error leaves the folder as it was: no half-written copy of the output."""
    desk.write([request_line(0)])
    desk.output.write_bytes(FOREIGN["notes"])
    before = names(desk.folder)
    assert desk.run(idle, "--resume").code == 1
    assert names(desk.folder) == before


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_second_run_on_the_same_output_is_refused(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """While a run writes an output, no other can take it over: it would pay again and lose the first one's lines."""
    server = serve()
    desk.write(request_line(number) for number in range(6))
    late: list[Any] = []

    async def intrude() -> None:
        second = desk.spawn(server, "--resume")
        late.append(await asyncio.get_running_loop().run_in_executor(None, desk.wait, second))

    server.witness.on_request = lambda count: intrude() if count == 4 else None
    ended = desk.wait(desk.spawn(server, "--concurrency", "1"))
    assert ended.code == 0
    assert Counter(server.sent()) == Counter(f"line-{number}" for number in range(6))
    assert sorted(desk.ids()) == [f"line-{number}" for number in range(6)]
    assert (late[0].code, late[0].out, late[0].err.count("\n")) == (1, "", 1)
    assert desk.states() == {"posted": 6}


def test_a_bare_line_that_has_changed_is_a_new_line(desk: Any, serve: Callable[..., Any]) -> None:
    """A bare body edited between two runs is sent: its name carries a digest, so it is not taken for done."""
    server = serve()
    desk.write([{"model": "o3-pro", "input": "one", "user": "a"}, {"model": "o3-pro", "input": "two", "user": "b"}])
    assert desk.run(server).code == 0
    desk.write([{"model": "o3-pro", "input": "one", "user": "a"}, {"model": "o3-pro", "input": "three", "user": "b"}])
    assert desk.run(server, "--resume").code == 0
    assert [body["input"] for body in server.witness.bodies][2:] == ["three"]


def test_another_job_s_output_is_not_gone_on_with(
    desk: Any, idle: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """An output that shares no custom_id with the job is refused, failed lines included, and stays as it was."""
    desk.write([{**request_line(number), "custom_id": f"other-{number}"} for number in range(2)])
    server = serve(faults="garbage_json:after=1")
    assert desk.run(server).code == 1  # one line of it failed
    before = desk.output.read_bytes()
    desk.write(request_line(number) for number in range(3))
    ended = desk.run(idle, "--resume")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert "out.jsonl has the results of another job: none of its 2 custom_ids is in" in ended.err
    assert desk.output.read_bytes() == before
    assert sorted(path.name for path in desk.folder.iterdir()) == ["job.jsonl", "out.jsonl", "out.jsonl.costs.db"]
    assert idle.sent() == []


def test_the_result_of_another_request_of_that_name_is_not_taken_for_this_one_s(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """A changed body under an old custom_id is refused by name and line; another layout of the same JSON is none."""
    server = serve()
    desk.write([request_line(0), request_line(1)])
    assert desk.run(server).code == 0
    desk.write([request_line(0), request_line(1, words=21)])
    ended = desk.run(server, "--resume")
    assert ended.code == 1
    assert "another request named 'line-1' than line 2 of" in ended.err
    body = request_line(1)["body"]
    laid_out = {**request_line(1), "body": dict(reversed(body.items()))}
    desk.write([request_line(0), json.dumps(laid_out, separators=(" ,", ": ")), request_line(2)])
    assert desk.run(server, "--resume").code == 0
    assert server.sent() == ["line-0", "line-1", "line-2"]


def test_an_output_of_the_batch_api_is_gone_on_with(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Lines that carry no fingerprint of ours are known by their custom_ids alone."""
    line = {"id": "batch_req_6a", "custom_id": "line-0", "response": {"status_code": 200, "body": {}}, "error": None}
    desk.output.write_text(json.dumps(line) + "\n", encoding="utf-8")
    desk.write([request_line(0), request_line(1)])
    server = serve()
    assert desk.run(server, "--resume").code == 0
    assert server.sent() == ["line-1"]


def test_a_background_response_that_the_server_lost_is_asked_for_again(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Where the id leads nowhere any more, its entry is closed at its estimate, and the line is sent once more."""
    desk.write([request_line(0, background=True)])
    with Ledger(desk.costs) as ledger:
        entry_id = ledger.pend(
            model="o3-pro", endpoint="/v1/responses", estimate=Usd(5), custom_id="line-0", run=run_name(desk.output)
        )
        assert ledger.attach(entry_id, "resp_of_another_day")
    server = serve()
    assert desk.run(server, "--resume").code == 0
    assert server.sent() == ["line-0"]
    assert desk.states() == {"expired": 1, "posted": 1}
