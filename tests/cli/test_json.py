"""Law: docs/json.md names every key that `--json` prints, and none that it does not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pricing import Ledger, Usd
from pricing.ledger import Totals
from pricing.peers import Comparison, Disagreement, Place
from ratelimit.cli import tables
from ratelimit.emulator import Emulator

AT = "2026-08-01"
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "json.md").read_text(encoding="utf-8")

Key = tuple[str, ...]


def documented(heading: str) -> list[Key]:
    """The keys of one table of the page, each as its parts; an item of a list is the part "[]"."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    keys = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert keys, heading
    assert len(keys) == len(set(keys)), f"{heading}: a key stands twice"
    return [tuple(key.replace("[]", ".[]").split(".")) for key in keys]


SUMS = {key for (key,) in documented("Sums of a ledger")}


def real(value: Any, at: Key = ()) -> Iterator[Key]:
    """The keys of a document, down to what is neither an object nor a list."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from real(inner, (*at, name))
    elif isinstance(value, list) and value:
        for inner in value:
            yield from real(inner, (*at, "[]"))
    elif value != []:
        yield at


def fits(key: Key, pattern: Key) -> bool:
    """Whether a real key is what a documented one says."""
    return len(key) == len(pattern) and all(
        name in SUMS if part == "<sum>" else part[0] == "<" or part == name
        for name, part in zip(key, pattern, strict=True)
    )


def check(heading: str, *documents: Any) -> None:
    """Every key of the documents is documented, and every documented key is in one of them."""
    patterns, keys = documented(heading), [key for document in documents for key in real(document)]
    unknown = sorted({key for key in keys if not any(fits(key, pattern) for pattern in patterns)})
    assert unknown == [], f"{heading}: printed, and not documented"
    missing = [pattern for pattern in patterns if not any(fits(key, pattern) for key in keys)]
    assert missing == [], f"{heading}: documented, and not printed"


def test_sums_are_documented() -> None:
    """The sums of a ledger are those of the table, all of them."""
    assert set(Totals().as_dict()) == SUMS


def test_estimate_s_keys_are_documented(ratecard: Callable[..., Any], job: Path) -> None:
    """A job with a line of every kind: priced, without a price, unusable."""
    job.write_text(job.read_text() + '{"model": "nobody-priced-this", "input": "word"}\nnonsense\n', encoding="utf-8")
    check("ratecard estimate", ratecard("estimate", str(job), "--at", AT, "--lines", "--json").document)


def test_forecast_s_keys_are_documented(ratecard: Callable[..., Any], job: Path) -> None:
    """A job with a line of every kind, with a choice and without one, and a model in the place of another."""

    def lines(*bodies: tuple[str, int]) -> list[str]:
        return [json.dumps({"model": model, "input": "word " * words}) for model, words in bodies]

    def forecast(*options: str) -> Any:
        return ratecard("forecast", str(job), "--at", AT, "--json", *options).document

    few = lines(("o3", 5), ("o3", 6), ("o3", 7))
    job.write_text("\n".join(few), encoding="utf-8")
    whole = forecast("--tier", "tier_1", "--swap", "o3=gpt-6.1-sol")
    slow = forecast("--tier", "tier_1", "--rpm", "1", "--deadline", "2h")
    job.write_text("\n".join([*few, *lines(("o3", 40_000), ("nobody-priced-this", 1)), "nonsense"]), encoding="utf-8")
    parts = [forecast("--tier", tier) for tier in ("tier_1", "free")]
    job.write_text("\n".join(lines(("nobody-priced-this", 1))), encoding="utf-8")
    documents = (whole, slow, *parts, forecast("--rpm", "5"))
    check(
        "ratecard forecast, of a job",
        *({key: one for key, one in each.items() if one not in ({}, None)} for each in documents),
    )


def test_the_forecasts_of_traces_and_ledgers_are_documented(ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """A trace with a bad row, one without a price and one that never fits; a ledger of three weeks."""
    trace = tmp_path / "trace.csv"
    rows = ["2026-07-20T10:00:00,o3,10,5", "2026-07-20T10:00:01,nobody,10,5", "never,o3,1,1"]
    rows += ["2026-07-20T10:00:02,o3,999999999,5", *["2026-07-20T10:00:03,o3,20000,5"] * 3]
    trace.write_text("\n".join(["time,model,input_tokens,output_tokens", *rows]))
    document = ratecard("forecast", str(trace), "--tier", "tier_1", "--at", "2026-11-25", "--json").document
    check("ratecard forecast, of a trace", document)
    clock = [0]
    with Ledger(tmp_path / "costs.db", now_us=lambda: clock[0]) as ledger:
        for day in range(21):
            clock[0] = 1_793_750_400_000_000 + day * 86_400_000_000  # from 2026-11-04 on
            ledger.expire(ledger.pend(model="o3-pro", endpoint="e", estimate=Usd(10**12)), "cut")
    to = ("--at", "2026-11-25", "--tier", "tier_1", "--by", "model", "--json")
    document = ratecard("forecast", str(tmp_path / "costs.db"), *to).document
    assert document["facts"] == document["total"]["notes"] == document["parts"][0]["notes"] == []
    document["facts"] = document["total"]["notes"] = document["parts"][0]["notes"] = ["said elsewhere"]
    check("ratecard forecast, of a ledger", document)


def test_batch_keys_are_documented(ratecard: Callable[..., Any], job: Path) -> None:
    """A plan with a line of every kind; a run to its end, with a failure, and how it stands."""

    def line(name: str, model: str, words: int) -> str:
        body = {"model": model, "input": "word " * words, "max_output_tokens": 20}
        return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/responses", "body": body})

    lines = [line("a", "o3", 5), line("b", "o3", 6_000), line("c", "nobody-priced-this", 1), "nonsense"]
    job.write_text("\n".join(lines), encoding="utf-8")
    plan = ratecard("batch", "plan", str(job), "--queue", "5000", "--json").document
    assert plan["done_after"] is None, "no batches of one's own"
    check("ratecard batch plan", plan | {"done_after": {"p5": 1, "p50": 2, "p95": 3}})
    with Emulator(limits={"rpm": 100, "tpm": 100_000}, models=["o3"], latency=0) as server:
        to = ("-o", "out.jsonl", "--queue", "5000", "--poll", "0.1s", "--base-url", server.url, "--json")
        job.write_text("\n".join([*lines[:2], lines[3]]), encoding="utf-8")
        run = ratecard("batch", "run", str(job), *to).document
    status = ratecard("batch", "status", "-o", "out.jsonl", "--json").document
    assert {key: run[key] for key in status} == status
    status |= {
        "enqueued_tokens": {"o3": 5},
        "in_the_air": ["batch_1"],
        "waiting_for": ["the queue is full"],
    }  # of a run that is not at its end
    check("ratecard batch status", status)
    check("ratecard batch run", {key: part for key, part in run.items() if key not in status})


def test_models_keys_are_documented(ratecard: Callable[..., Any]) -> None:
    """The cards of the list, which have every kind of fact between them; one alone is the same document."""
    documents = [one for day in ("20", "22") for one in ratecard("models", "--at", f"2026-11-{day}", "--json").document]
    check("ratecard models", *({key: facts for key, facts in one.items() if facts != {}} for one in documents))
    assert ratecard("models", "o3-pro", "--at", "2026-11-20", "--json").document == documents[0]


def test_run_s_and_ledger_report_s_keys_are_documented(ratecard: Callable[..., Any], job: Path) -> None:
    """A job that meets a refusal and a failure, and has a bad line."""
    job.write_text("nonsense\n" + job.read_text(), encoding="utf-8")
    limits = {"rpm": 100_000, "tpm": 100_000_000}
    with Emulator(limits=limits, latency=0, faults="429:first=1; 401:after=2") as server:
        own = [f"--{name}={value}" for name, value in limits.items()]
        to = ["-o", "out.jsonl", *own, "--concurrency", "1", "--base-url", server.url, "--at", AT]
        document = ratecard("run", str(job), *to, "--json").document
    assert document["stopped_by"] == "auth"
    check("ratecard run", document)
    ledger = "out.jsonl.costs.db"
    check("ratecard ledger report", ratecard("ledger", "report", ledger, "--json").document)
    check("ratecard ledger accuracy", ratecard("ledger", "accuracy", ledger, "--json").document)


def test_the_keys_of_batches_are_documented(ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """A line with a booking and one without, one that tells nothing, and a usage that differs."""
    body = {"model": "o3", "messages": [{"role": "user", "content": "word"}]}
    (tmp_path / "in.jsonl").write_text(json.dumps({"custom_id": "a", "url": "/v1/chat/completions", "body": body}))
    reply = {"status_code": 200, "body": {"model": "o3", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}}
    lines = [{"custom_id": name, "response": reply} for name in "ab"]
    (tmp_path / "out.jsonl").write_text("\n".join(map(json.dumps, [*lines, {}])))
    (tmp_path / "batch.json").write_text(json.dumps({"usage": {"input_tokens": 9, "output_tokens": 1}}))
    to = ("--batch-id", "b", "--ledger", "costs.db", "--json")
    check("ratecard ledger book", ratecard("ledger", "book", "in.jsonl", *to).document)
    done = ratecard("ledger", "settle", "out.jsonl", "--batch", "batch.json", *to).document
    check("ratecard ledger settle", {key: value if value != [] else None for key, value in done.items()})


def test_reconcile_s_keys_are_documented(ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """A day with a bill that is counted here, beside an export of that day."""
    with Ledger(tmp_path / "costs.db", now_us=lambda: 1_790_000_000_000_000) as ledger:
        ledger.expire(ledger.pend(model="o3", endpoint="e", estimate=Usd(1)), "cut")
    amount = {"value": 0.5, "currency": "usd"}
    bucket = {"start_time": 1_789_948_800, "results": [{"amount": amount, "line_item": "o3, input_tokens"}]}
    (tmp_path / "costs.json").write_text(json.dumps({"object": "page", "data": [bucket]}), encoding="utf-8")
    paths = (str(tmp_path / "costs.db"), str(tmp_path / "costs.json"))
    check("ratecard ledger reconcile", ratecard("ledger", "reconcile", *paths, "--json").document)


def test_diff_s_keys_are_documented(ratecard: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with a price that is not ours."""
    place = Place("o3", "standard", "input")
    found = [Comparison("litellm", "0", 1, [Disagreement(place, None, Decimal(1))])]
    monkeypatch.setattr(tables, "compare", lambda *_: found)
    check("ratecard tables diff", ratecard("tables", "diff", "--json").document)


def test_demo_s_keys_are_documented(spawn: Callable[..., Any]) -> None:
    """The demo's own keys, and within them the report of its run."""
    out, err = spawn("demo", "--json", "--requests", "2").communicate(timeout=60)
    assert err == ""
    document = json.loads(out)
    run, document["ratecard"] = document["ratecard"], None
    check("ratecard demo", document)
    assert [key for key in real(run) if not any(fits(key, pattern) for pattern in documented("ratecard run"))] == [
        ("failures",),
        ("requests", "refused_by_kind"),
        ("waits", "by_limit"),
    ], "besides empty collections everything is documented"
