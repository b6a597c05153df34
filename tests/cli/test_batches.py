"""`ratecard ledger book` and `settle`: a batch from its submission to its bill, by its files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

TO = ("--batch-id", "b", "--ledger", "costs.db")
COUNT = 5


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A batch of five lines: three are served, the others expire."""
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "word"}], "max_completion_tokens": 50}
    asked = [
        {"custom_id": f"l{n}", "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(COUNT)
    ]
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000, "total_tokens": 2_000_000}
    reply = {"model": "gpt-4o-mini", "usage": usage}
    served = [
        {"custom_id": f"l{n}", "response": {"status_code": 200, "body": {**reply, "id": f"c{n}"}}, "error": None}
        for n in range(3)
    ]
    lost = [{"custom_id": f"l{n}", "response": None, "error": {"code": "batch_expired"}} for n in (3, 4)]
    paths = {}
    for name, lines in (("in", asked), ("out", served), ("err", lost)):
        paths[name] = str(tmp_path / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return paths


def test_a_batch_is_booked_and_settled(files: dict[str, str], ratecard: Callable[..., Any]) -> None:
    """Three lines of a million tokens each way cost $0.375 each; repeated commands change nothing."""
    assert ratecard("ledger", "book", files["in"], *TO).out.startswith("booked    5 lines\n")
    assert ratecard("ledger", "book", files["in"], *TO, "--json").document["booked"] == 0
    assert "5 booked before" in ratecard("ledger", "book", files["in"], *TO).out
    part = ratecard("ledger", "settle", files["out"], *TO)
    assert (part.code, "3 lines posted" in part.out, "2 lines ≈" in part.out) == (0, True, True)
    whole = ratecard("ledger", "settle", files["out"], "--errors", files["err"], *TO, "--json").document
    assert (whole["voided"], whole["unchanged"], whole["totals"]["pending_count"]) == (2, 3, 0)
    assert ratecard("ledger", "settle", "--errors", files["err"], *TO, "--json").document["unchanged"] == 2
    report = ratecard("ledger", "report", "costs.db", "--by", "run", "--json").document
    assert Decimal(report["by"]["b"]["posted"]) == 3 * (Decimal("0.075") + Decimal("0.30"))


def test_a_batch_beyond_a_budget_is_not_booked(files: dict[str, str], ratecard: Callable[..., Any]) -> None:
    """Exit code 3, one line that says why, and an empty ledger."""
    refused = ratecard("ledger", "book", files["in"], *TO, "--budget", "0.00001 USD")
    assert (refused.code, refused.out) == (3, "")
    assert refused.err.startswith("error: batch b (5 lines) is not booked: budget 0.00001 USD")
    assert ratecard("ledger", "report", "costs.db", "--json").document["total"]["pending_count"] == 0
    booked = ratecard("ledger", "book", files["in"], *TO, "--budget", "1 USD", "--tag", "team=search", "--json")
    assert (booked.code, booked.document["booked"]) == (0, COUNT)
    assert list(ratecard("ledger", "report", "costs.db", "--by", "tag:team", "--json").document["by"]) == ["search"]


def test_bad_lines_of_a_batch_are_named(files: dict[str, str], ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """A bad input line stops the booking; a torn output line, after a blank one, stops only itself."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text(Path(files["in"]).read_text(encoding="utf-8") * 2, encoding="utf-8")
    done = ratecard("ledger", "book", str(bad), *TO)
    assert done.code == 1
    assert "nothing is booked; line 6: custom_id 'l0' was used on line 1 already" in done.err
    assert "and 0 more" not in done.err
    torn = tmp_path / "torn.jsonl.gz"
    text = Path(files["out"]).read_text(encoding="utf-8")
    torn.write_bytes(gzip.compress(("\n" + text[:-40]).encode()))
    ratecard("ledger", "book", files["in"], *TO)
    settled = ratecard("ledger", "settle", str(torn), *TO, "--json")
    assert (settled.code, settled.document["posted"]) == (1, 2)
    assert settled.document["refused"] == [{"file": str(torn), "line": 4, "reason": "no JSON object"}]
    assert f"{torn}:4: no JSON object; not settled" in settled.err


def test_settling_says_what_is_odd(files: dict[str, str], ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """Lines without a booking are named, and a batch whose usage is another's is exit code 3."""
    batch = tmp_path / "batch.json"
    assert "no such ledger" in ratecard("ledger", "settle", files["out"], *TO).err
    assert ratecard("ledger", "settle", *TO).code == 2
    Path(files["in"]).write_text(Path(files["in"]).read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    ratecard("ledger", "book", files["in"], *TO)
    batch.write_text(json.dumps({"usage": {"input_tokens": 3_000_000, "output_tokens": 3_000_000}}), encoding="utf-8")
    good = ratecard("ledger", "settle", files["out"], *TO, "--batch", str(batch))
    assert (good.code, '2 lines without a booking; what they cost is posted all the same: "l1"; "l2"' in good.err) == (
        0,
        True,
    )
    batch.write_text(json.dumps({"usage": {"input_tokens": 1, "output_tokens": 3_000_000}}), encoding="utf-8")
    off = ratecard("ledger", "settle", files["out"], *TO, "--batch", str(batch))
    assert (off.code, "input_tokens: 3,000,000 in the lines posted, 1 in the batch's usage" in off.err) == (3, True)
    batch.write_text("{}", encoding="utf-8")
    assert "no batch with a usage" in ratecard("ledger", "settle", files["out"], *TO, "--batch", str(batch)).err
    assert ratecard("ledger", "book", files["in"], *TO, "--tag", "team").code == 2
