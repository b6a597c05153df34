"""`ratecard ledger`: what a run spent, split, written out, laid beside a bill, and compared with what was expected."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pricing import Ledger, Usage, Usd
from pricing.cost import Cost, cost

NOON_US = 1_790_000_000_000_000
DAY = str(datetime.fromtimestamp(NOON_US // 1_000_000, UTC).date())


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Four bills of two teams, one of them a day later, and a call that was refused."""
    now_us = NOON_US
    with Ledger(tmp_path / "costs.db", now_us=lambda: now_us) as ledger:
        for number, team in enumerate(("search", "ads", "search", "ads")):
            now_us += 86_400_000_000 * (number == 3)
            price = cost(Usage(1_000, output_tokens=100 * number), model="o3", at=datetime(2026, 9, 21, tzinfo=UTC))
            assert isinstance(price, Cost)
            entry_id = ledger.pend(
                model="o3", endpoint="/v1/responses", estimate=Usd.parse("0.002"), tags={"team": team}
            )
            ledger.post(entry_id, usage=Usage(1_000, output_tokens=100 * number), cost=price)
        ledger.void(ledger.pend(model="o3", endpoint="/v1/responses", estimate=Usd(1)), "HTTP 429: not billed")
    return str(tmp_path / "costs.db")


def test_report_splits_by_several_and_by_days(path: str, ratecard: Callable[..., Any]) -> None:
    """Parts are named by every key, their sum is the total, and --since and --until take whole days."""
    report = ratecard("ledger", "report", path, "--by", "tag:team", "--by", "model", "--json").document
    assert set(report["by"]) == {"search, o3", "ads, o3", "-, o3"}
    assert sum(Decimal(part["posted"]) for part in report["by"].values()) == Decimal(report["total"]["posted"])
    one = ratecard("ledger", "report", path, "--by", "day", "--until", DAY, "--json").document
    two = ratecard("ledger", "report", path, "--by", "day", "--since", "2026-09-22", "--json").document
    assert (list(one["by"]), list(two["by"])) == ([DAY], ["2026-09-22"])
    assert one["total"]["posted_count"] + two["total"]["posted_count"] == 4
    assert "search, o3" in ratecard("ledger", "report", path, "--by", "tag:team", "--by", "model").out


def test_export_writes_what_the_ending_says(path: str, ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """CSV to a file, JSON Lines to stdout; each has every entry, and talk goes to stderr."""
    done = ratecard("ledger", "export", path, "-o", str(tmp_path / "costs.csv"))
    assert (done.out, "5 rows" in done.err) == ("", True)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "costs.csv").read_text(encoding="utf-8"))))
    lines = [
        json.loads(line) for line in ratecard("ledger", "export", path, "-o", "-", "--format", "jsonl").out.splitlines()
    ]
    assert [row["tag.team"] for row in rows] == [line.get("tag.team", "") for line in lines]
    assert len(rows) == len(lines) == 5
    assert ratecard("ledger", "export", path, "-o", "costs.xlsx").err.count("--format")
    assert "itself" in ratecard("ledger", "export", path, "-o", path, "--format", "csv").err


@pytest.fixture
def bill(tmp_path: Path) -> Callable[[str], str]:
    """What OpenAI bills for input of the first day: a file."""

    def write(value: str) -> str:
        row = {"amount": {"value": float(value), "currency": "usd"}, "line_item": "o3, input_tokens"}
        bucket = {"start_time": NOON_US // 1_000_000 // 86_400 * 86_400, "results": [row]}
        (tmp_path / "bill.json").write_text(json.dumps({"data": [bucket]}), encoding="utf-8")
        return str(tmp_path / "bill.json")

    return write


def test_reconcile_shows_where_a_bill_differs(
    path: str, bill: Callable[[str], str], ratecard: Callable[..., Any]
) -> None:
    """The residual stands at its day, model and component; a tolerance makes it the exit code 3."""
    found = ratecard("ledger", "reconcile", path, bill("0.006"), "--json").document
    lines = {line["component"]: line for line in found["lines"]}
    assert (lines["input"]["ours"], lines["input"]["residual"], lines["output"]["theirs"]) == ("0.006", "0", None)
    assert ratecard("ledger", "reconcile", path, bill("0.006"), "--tolerance", "0.01").err == ""
    off = ratecard("ledger", "reconcile", path, bill("0.106"), "--tolerance", "0.01")
    assert off.code == 3
    assert "1 line off by more than 0.01 USD" in off.err
    assert DAY in off.out


def test_accuracy_compares_sums(path: str, ratecard: Callable[..., Any]) -> None:
    """What was expected and what was billed, of the calls that have both."""
    found = ratecard("ledger", "accuracy", path, "--by", "tag:team", "--json").document["by"]
    assert {name: (part["calls"], part["estimated"]) for name, part in found.items()} == {
        "search": (2, "0.004"), "ads": (2, "0.004")
    }  # fmt: skip
    assert "4 calls" in ratecard("ledger", "accuracy", path).out


def test_estimate_expects_what_a_ledger_has_seen(job: Path, ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """With --ledger, replies are expected to be as large as those in it; without one they are strangers'."""
    job.write_text('{"model": "o3", "input": "word"}\n', encoding="utf-8")
    with Ledger(tmp_path / "seen.db") as ledger:
        for _ in range(30):
            entry_id = ledger.pend(model="o3", endpoint="e", estimate=None)
            ledger.post(entry_id, usage=Usage(1, output_tokens=77), cost=None)
    learned = ratecard("estimate", str(job), "--ledger", str(tmp_path / "seen.db"), "--json").document
    assert list(learned["output_basis"]) == ["learned: 30 replies of o3 in the ledger"]
    assert "prior" in next(iter(ratecard("estimate", str(job), "--json").document["output_basis"]))
    assert "no such ledger" in ratecard("estimate", str(job), "--ledger", "none.db").err


def test_the_last_day_there_is_and_a_missing_folder(path: str, ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """--until takes any date, and what cannot be written is one line, not a traceback."""
    report = ratecard("ledger", "report", path, "--until", "9999-12-31", "--json").document
    assert report["total"]["posted_count"] == 4
    for name in ("costs.csv", "costs.jsonl"):
        done = ratecard("ledger", "export", path, "-o", str(tmp_path / "nowhere" / name))
        assert (done.code, "cannot be written: No such file" in done.err) == (1, True)
