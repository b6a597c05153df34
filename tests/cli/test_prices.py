"""Law: every command that prices takes an overlay, `--prices FILE`, and says in one line what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pricing.ledger import Ledger
from ratelimit.emulator import Emulator

AT = "2026-08-01"
HEAD = 'version: 1\ncurrency: USD\nsources: {contract: {url: "https://example.com/order-form-7", read: "2026-01-15"}}\n'
HALF = HEAD + 'adjustments: [{percent: "-50", effective_from: "2026-01-01", source: contract}]\n'


@pytest.fixture
def overlay(tmp_path: Path) -> str:
    path = tmp_path / "acme.yaml"
    path.write_text(HALF, "utf-8")
    return str(path)


def test_estimate_and_models_are_at_the_overlay_s_prices(ratecard: Callable[..., Any], job: Path, overlay: str) -> None:
    """Half the price in the overlay is half the estimate, and half of what the model's page shows, with the row."""
    listed, halved = (
        ratecard("estimate", str(job), "--at", AT, "--json", *more).document["cost"]
        for more in ((), ("--prices", overlay))
    )
    assert Decimal(halved["mean"]) * 2 == Decimal(listed["mean"])
    assert Decimal(halved["worst"]) * 2 == Decimal(listed["worst"])
    row = ratecard("models", "o3", "--at", AT, "--prices", overlay, "--json").document["prices"]["standard"]
    assert row["usd_per_mtok"] == {"input": "1.00", "cached_input": "0.25", "output": "4.00"}
    assert row["row"] == "o3/standard/2025-06-10 -50 % by acme.yaml"


def test_a_run_is_priced_by_the_overlay(ratecard: Callable[..., Any], job: Path, overlay: str, tmp_path: Path) -> None:
    """The ledger of a job has the negotiated prices, and names the file in every row."""
    with Emulator(limits={"rpm": 100_000, "tpm": 100_000_000}, latency=0) as server:
        to = ["-o", "out.jsonl", "--rpm", "100000", "--tpm", "100000000", "--base-url", server.url, "--at", AT]
        ended = ratecard("run", str(job), *to, "--prices", overlay, "--json")
    assert ended.code == 0
    with Ledger("out.jsonl.costs.db") as ledger:
        entries = list(ledger.entries())
    assert entries
    assert all((entry.row_id or "").endswith("-50 % by acme.yaml") for entry in entries)


def test_check_validates_overlays(ratecard: Callable[..., Any], overlay: str, tmp_path: Path) -> None:
    """`tables check --prices` says that an overlay is right, or where it is wrong; a table's name is no overlay's."""
    good = ratecard("tables", "check", "--prices", overlay)
    assert (good.code, good.out) == (0, f"{overlay}: ok\n")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(HALF.replace('"-50"', '"50"'), "utf-8")
    bad = ratecard("tables", "check", "--prices", overlay, "--prices", str(wrong))
    assert bad.code == 1
    assert bad.err.startswith(f"error: {wrong}:4: adjustments[0].percent: expected a percentage with its sign")
    named = ratecard("tables", "check", overlay)
    assert named.code == 1
    assert f"give an overlay as --prices {overlay}" in named.err
    job = tmp_path / "job.jsonl"
    job.write_text('{"model": "o3", "input": "word"}\n', "utf-8")
    for command in (("models", "o3"), ("estimate", str(job))):
        assert ratecard(*command, "--prices", str(wrong)).err.startswith(f"error: {wrong}:4:")


def test_a_model_without_a_card_is_shown_with_its_overlay_s_price(ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """`models` shows what an overlay prices and no card names, and `tables check` names it: it may be mistyped."""
    overlay = str(tmp_path / "own.yaml")
    row = 'model: o3-mii, service_tier: standard, effective_from: "2026-01-01", source: contract'
    Path(overlay).write_text(f'{HEAD}rows: [{{{row}, usd_per_mtok: {{input: "1", output: "2"}}}}]\n', "utf-8")
    assert ratecard("models", "o3-mii").code == 1
    assert "price standard" in ratecard("models", "o3-mii", "--prices", overlay, "--at", "2026-07-15").out
    assert [one.split()[0] for one in ratecard("models", "--prices", overlay).out.splitlines()][-1] == "o3-mii"
    checked = ratecard("tables", "check", "--prices", overlay)
    assert (checked.code, checked.out) == (0, f"{overlay}: ok\n")
    assert "o3-mii has a price and no card" in checked.err
    assert "did you mean o3-mini" in checked.err


def test_a_region_is_in_the_estimate_and_in_the_run(ratecard: Callable[..., Any], tmp_path: Path) -> None:
    """--region adds a tenth to what is estimated, and to what the ledger of a job says."""
    line = '{"model": "gpt-5.6-terra", "input": "Why?", "max_output_tokens": 50}'
    (tmp_path / "new.jsonl").write_text(line, "utf-8")
    job = str(tmp_path / "new.jsonl")
    home, there = (
        ratecard("estimate", job, "--at", AT, "--json", *more).document["cost"] for more in ((), ("--region", "eu"))
    )
    assert Decimal(there["mean"]) == Decimal(home["mean"]) * 11 / 10
    assert Decimal(there["worst"]) == Decimal(home["worst"]) * 11 / 10
    with Emulator(limits={"rpm": 100_000, "tpm": 100_000_000}, latency=0) as server:
        to = ["--rpm", "100000", "--tpm", "100000000", "--base-url", server.url, "--at", AT, "--region", "eu"]
        assert ratecard("run", job, "-o", "out.jsonl", *to).code == 0
    with Ledger("out.jsonl.costs.db") as ledger:
        (entry,) = ledger.entries()
    tokens = [cost.pico for name, cost in entry.components.items() if name != "regional_uplift"]
    assert entry.components["regional_uplift"].pico * 10 == sum(tokens)
