"""Law: a job file goes in, and exactly one Batch-format result per line comes out, paced and priced to the last digit.

Prices, minimum times and counts are worked out here on their own, or are what the server counted.
"""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

USD_PER_MTOK = {
    "o3-pro-2025-06-10": ("20.00", "80.00"),
    "o3-2025-04-16": ("2.00", "8.00"),
    "o3-mini-2025-01-31": ("1.10", "4.40"),
}


def price_of(body: dict[str, Any]) -> Decimal | None:
    """Price a reply from its own usage; None when this test has no price for the model."""
    rates = USD_PER_MTOK.get(body["model"])
    if rates is None:
        return None
    usage = body["usage"]
    counts = (
        usage.get("input_tokens", usage.get("prompt_tokens")),
        usage.get("output_tokens", usage.get("completion_tokens")),
    )
    return sum((Decimal(rate) * count for rate, count in zip(rates, counts, strict=True)), Decimal()) / 1_000_000


def mixed_job(lines: int = 60) -> list[dict[str, Any]]:
    """Every kind of line there is, by turns, in an order of no meaning."""
    rng = random.Random(3)
    job: list[dict[str, Any]] = []
    for number in range(lines):
        text = f"{number}: " + "word " * rng.randint(1, 80)
        chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        bodies: list[tuple[str, dict[str, Any]]] = [
            ("/v1/responses", {"model": "o3-pro", "input": text, "max_output_tokens": 500}),
            ("/v1/responses", {"model": "o3", "input": chat, "instructions": "Be brief."}),
            ("/v1/chat/completions", {"model": "o3-mini", "messages": chat, "n": 2}),
            ("/v1/chat/completions", {"model": "o3", "messages": chat}),
            ("/v1/embeddings", {"model": "text-embedding-9", "input": [text, "more"], "dimensions": 8}),
        ]
        url, body = bodies[number % 5]
        body["user"] = f"line-{number}"
        bare = number % 3 == 0
        job.append(body if bare else {"custom_id": f"id-{number}", "method": "POST", "url": url, "body": body})
    rng.shuffle(job)
    return job


@pytest.fixture
def done(desk: Any, serve: Callable[..., Any]) -> tuple[Any, Any, Any]:
    """The mixed job, run once: desk, server, and what --json printed."""
    server = serve()
    desk.write(mixed_job())
    ended = desk.run(server, "--json")
    assert (ended.code, ended.err) == (0, "")
    return desk, server, ended.report


def test_every_line_gets_exactly_one_result(done: tuple[Any, Any, Any]) -> None:
    """One result per custom_id, whatever the order; a bare body is named after its line; all were sent just once."""
    desk, server, report = done
    job = [json.loads(line) for line in desk.job.read_text().splitlines()]
    ids = desk.ids()
    assert len(ids) == len(set(ids)) == 60
    assert {one for one in ids if one.startswith("id-")} == {line["custom_id"] for line in job if "custom_id" in line}
    bare = {number for number, line in enumerate(job, 1) if "custom_id" not in line}
    assert {int(one.split("-")[1]) for one in ids if one.startswith("line-")} == bare
    assert sorted(server.sent()) == sorted(f"line-{number}" for number in range(60))
    assert report["lines"] == {"read": 60, "done": 60, "failed": 0, "bad": 0, "skipped_as_done": 0, "not_sent": 0}


def test_results_are_batch_format_lines(done: tuple[Any, Any, Any]) -> None:
    """Each result has the four keys of the Batch API, its own ids, and the reply whole, of the endpoint asked."""
    desk, _, _ = done
    results = desk.results()
    kinds: dict[str, int] = {}
    for line in results:
        assert set(line) == {"id", "custom_id", "response", "error"}
        assert set(line["response"]) == {"status_code", "request_id", "body"}
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        body = line["response"]["body"]
        kinds[body["object"]] = kinds.get(body["object"], 0) + 1
        if body["object"] == "list":
            assert [len(item["embedding"]) for item in body["data"]] == [8, 8]
        elif body["object"] == "response":
            assert body["output"]
        else:
            assert all(choice["message"]["content"] for choice in body["choices"])
    assert kinds == {"response": 24, "chat.completion": 24, "list": 12}
    assert len({line["id"] for line in results}) == len({line["response"]["request_id"] for line in results}) == 60
    assert all(line["id"].startswith("batch_req_") for line in results)
    assert all(line["response"]["request_id"].startswith("req_") for line in results)


def test_every_result_belongs_to_its_own_line(done: tuple[Any, Any, Any]) -> None:
    """The reply under a custom_id is the reply to that line's body, not to its neighbour's."""
    desk, _, _ = done
    job = [json.loads(line) for line in desk.job.read_text().splitlines()]
    by_id = {line["custom_id"]: line["response"]["body"] for line in desk.results()}
    asked = {line["custom_id"]: line["body"] for line in job if "custom_id" in line}
    assert len(asked) == 40
    for custom_id, body in asked.items():
        reply = by_id[custom_id]
        assert reply["model"].startswith(body["model"])
        if reply["object"] == "response":
            assert reply["user"] == body["user"]


def test_the_ledger_is_the_price_list_times_the_usage(done: tuple[Any, Any, Any]) -> None:
    """Each entry, and their sum in the report, is $ per 1M tokens times the usage of the reply, to the last digit."""
    desk, _, report = done
    entries = {entry.custom_id: entry for entry in desk.entries()}
    assert len(entries) == 60
    total = Decimal()
    unpriced = 0
    for line in desk.results():
        entry, body = entries[line["custom_id"]], line["response"]["body"]
        assert entry.state == "posted"
        assert entry.run.startswith("run:out.jsonl:")
        price = price_of(body)
        if price is None:
            unpriced += 1
            assert entry.cost is None  # a model no table knows: unpriced, never $0
            assert "text-embedding-9" in entry.why
        else:
            assert entry.cost is not None
            assert entry.cost.decimal() == price
            assert entry.response_id == body["id"]
            total += price
    assert Decimal(report["cost"]["posted"]) == total > 0
    assert report["cost"]["unpriced_count"] == unpriced == 12
    by_model = report["cost_by_model"]
    assert sum(Decimal(part["posted"]) for part in by_model.values()) == total
    assert by_model["text-embedding-9"]["unpriced_count"] == 12


def test_the_report_agrees_with_the_server_s_own_counters(done: tuple[Any, Any, Any]) -> None:
    """Requests, admission charges, replies and tokens in the report are what the server counted, model by model."""
    _, server, report = done
    counters = server.counters()
    assert report["requests"] == {"attempts": counters["requests"], "refused_429": 0, "refused_by_kind": {}}
    assert counters["requests"] == counters["admitted"] == 60
    assert report["tokens_admitted"] == counters["charged_tokens"]
    assert report["cost"]["posted_count"] == counters["usage"]["calls"]
    for field in ("input_tokens", "output_tokens"):
        assert report["cost"][field] == counters["usage"][field]
        for model, bill in counters["usage_by_model"].items():
            assert report["cost_by_model"][model][field] == bill[field]
    assert report["cost"]["pending_count"] == report["cost"]["expired_count"] == report["cost"]["voided_count"] == 0
    assert report["stopped"] is None


def test_the_order_of_the_lines_changes_nothing(desk: Any, serve: Callable[..., Any]) -> None:
    """The same Batch lines in another order give the same replies under the same ids."""
    replies = []
    job = [line for line in mixed_job(30) if "custom_id" in line]
    for order in (job, job[::-1]):
        server = serve()
        desk.write(order)
        assert desk.run(server).code == 0
        replies.append({line["custom_id"]: line["response"]["body"]["usage"] for line in desk.results()})
        desk.output.unlink()
    assert replies[0] == replies[1]


@pytest.mark.parametrize("binding", ["tpm", "rpm"])
def test_a_job_above_the_limits_is_paced_without_one_429(
    binding: str, desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """Twice the burst of a binding limit passes with no refusal; the minimum time stated is the bucket's arithmetic."""
    limits = {"rpm": 500, "tpm": 30_000} if binding == "tpm" else {"rpm": 60, "tpm": 1_000_000}
    rng = random.Random(5)
    server = serve(limits=limits, speed=30)
    desk.write(request_line(n, words=min(2_000, round(rng.lognormvariate(5.0, 0.8))), cap=50) for n in range(120))
    report = desk.run_scaled(server, 30, limits)
    counters = server.counters()
    assert (counters["refused_total"], report.progress.refused) == (0, 0)
    assert counters["admitted"] == report.progress.done == report.progress.attempts == 120
    charged = [one.tokens if binding == "tpm" else one.requests for one in server.admissions()]
    assert report.progress.tokens_admitted == counters["charged_tokens"]
    over = sum(charged) - limits[binding]
    assert over > limits[binding] / 2  # the limit binds for a long time, not just at the end
    exact_us = over * 60_000_000 / limits[binding]
    assert exact_us <= report.minimum_us <= exact_us + len(charged)  # rounded up once per request
    assert report.admission_us >= report.minimum_us
    assert report.binding_limit == f"{binding} of o3-pro"


def test_the_command_itself_waits_for_a_binding_limit(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """On the machine's own clock, too: a job a little above the limit passes with no 429, and the summary says so."""
    server = serve(limits={"rpm": 60, "tpm": 100_000})
    desk.write(request_line(number) for number in range(61))
    ended = desk.run(server, "--rpm=60", "--tpm=100000")
    assert (ended.code, ended.err) == (0, "")
    assert server.counters()["refused_total"] == 0
    assert server.counters()["admitted"] == 61
    assert "61 done" in ended.out
    assert "the limits allow 1.0 s at best" in ended.out
    assert "set by rpm of o3-pro" in ended.out
    assert "429s      0 in 61 requests" in ended.out


def test_a_tier_s_limits_are_obeyed(desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]) -> None:
    """`--tier` takes the limits from the table: a server that enforces it refuses nothing of a job beyond its burst."""
    server = serve(tier="tier_1", models=["o3-pro"])
    # 24 requests of 1,006 tokens and the constant of 217 take 29,352 of 30,000 tokens; the 25th waits 1.15 s.
    desk.write(request_line(number, words=1_000, cap=50) for number in range(25))
    arguments = desk.arguments(server, "--tier", "tier_1", "--json")
    arguments = [part for part in arguments if not part.startswith(("--rpm=", "--tpm="))]
    ended = desk.call(arguments)
    assert ended.code == 0
    assert server.counters()["refused_total"] == 0
    assert server.counters()["charged_tokens"] == 25 * 1_223
    assert ended.report["binding_limit"] == "tpm of o3-pro"
    assert ended.report["seconds"]["theoretical_minimum"] == "1.150"


def test_the_summary_for_people_states_time_429s_and_cost_by_model(desk: Any, serve: Callable[..., Any]) -> None:
    """Wall time against the minimum, 429s, the cost and its split by model, what has no price, and where it all is."""
    server = serve()
    desk.write(mixed_job(20))
    ended = desk.run(server)
    assert ended.code == 0
    costs: dict[str, Decimal] = {}
    for line in desk.results():
        body = line["response"]["body"]
        costs[body["model"]] = costs.get(body["model"], Decimal()) + (price_of(body) or 0)
    assert "20 done" in ended.out
    assert str(desk.output) in ended.out
    assert "the limits allow all of it at once" in ended.out
    assert "429s      0 in 20 requests" in ended.out
    assert f"cost      ${sum(costs.values()):.2f}" in ended.out
    for model in USD_PER_MTOK:
        assert any(model in line and f"${costs[model]:.2f}" in line for line in ended.out.splitlines())
    assert "4 calls have no price" in ended.out
    assert str(desk.costs) in ended.out


def test_each_result_is_written_as_its_request_ends(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """With one request in the air at a time, the file holds every earlier result when the next request arrives."""
    server = serve()
    desk.write(request_line(number) for number in range(8))
    seen: list[list[str]] = []
    server.witness.on_request = lambda number: seen.append(desk.ids())
    assert desk.run(server, "--concurrency", "1").code == 0
    assert seen == [[f"line-{number}" for number in range(count)] for count in range(8)]


def test_a_compressed_job_is_read_like_a_plain_one(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """A .jsonl.gz is sent whole."""
    server = serve()
    desk.write(request_line(number) for number in range(6))
    packed = desk.job.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(desk.job.read_bytes()))
    desk.job = packed
    assert desk.run(server, "--json").report["lines"]["done"] == 6


def test_a_job_from_a_pipe_is_sent_whole(
    desk: Any, serve: Callable[..., Any], request_line: Callable[..., Any]
) -> None:
    """A job that can be read only once (`… | ratecard run /dev/stdin`) loses no line to whoever counts lines first."""
    server = serve()
    desk.write(request_line(number) for number in range(6))
    lines = desk.job.read_bytes()
    desk.job = "/dev/stdin"
    command = [sys.executable, "-m", "ratelimit", *desk.arguments(server, "--json")]
    piped = subprocess.run(command, input=lines, capture_output=True, timeout=20)
    assert json.loads(piped.stdout)["lines"]["done"] == 6
    assert len(desk.ids()) == 6


def test_nothing_to_do_is_no_error(desk: Any, serve: Callable[..., Any]) -> None:
    """An empty job ends at once with nothing done, nothing sent and exit code 0."""
    server = serve()
    desk.write(["", "   "])
    ended = desk.run(server, "--json")
    assert ended.code == 0
    assert set(ended.report["lines"].values()) == {0}
    assert ended.report["cost"]["posted"] == "0"
    assert server.counters()["requests"] == 0
