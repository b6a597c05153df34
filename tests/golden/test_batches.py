"""Golden batches: replies recorded from the real server, as the lines of a batch, priced by hand."""

from __future__ import annotations

import gzip
import json
from datetime import date
from pathlib import Path
from typing import Any

from pricing import Ledger, Usd
from pricing.batches import book, settle

DATA = Path(__file__).parent.parent / "data" / "openai_http.jsonl.gz"
PICO = {"gpt-4o-mini-2024-07-18": (75_000, 300_000), "gpt-4o-2024-08-06": (1_250_000, 5_000_000)}
"""Pico-dollars per token read and written in a batch: half of $0.15 and $0.60, of $2.50 and $10.00 per million."""


def recorded() -> dict[str, dict[str, Any]]:
    """Requests and whole replies of these models without cached tokens or audio, each reply once, by its id."""
    found = {}
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        for exchange in map(json.loads, lines):
            reply = exchange.get("response")
            if isinstance(reply, dict) and exchange["status"] == 200 and reply.get("model") in PICO:
                usage = reply.get("usage") or {}
                details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
                odd = (
                    details.get("cached_tokens")
                    or details.get("audio_tokens")
                    or (exchange["request"] or {"tools": 1}).get("tools")
                )
                if usage and not odd and exchange["path"] in ("/v1/chat/completions", "/v1/responses"):
                    found[reply["id"]] = exchange
    return found


def test_a_batch_of_recorded_replies_costs_what_a_hand_calculates() -> None:
    """Chat and Responses replies of two models, booked with their own requests, add up to the pico-dollar."""
    exchanges = recorded()
    assert len(exchanges) >= 40
    assert {one["path"] for one in exchanges.values()} == {"/v1/chat/completions", "/v1/responses"}
    lines = [{"custom_id": f"of {name}", "url": one["path"], "body": one["request"]} for name, one in exchanges.items()]
    served = [
        {"custom_id": f"of {name}", "response": {"status_code": 200, "body": one["response"]}, "error": None}
        for name, one in exchanges.items()
    ]
    total = 0
    for one in exchanges.values():
        usage = one["response"]["usage"]
        read, written = usage.get("prompt_tokens", usage.get("input_tokens")), usage["total_tokens"]
        pico_in, pico_out = PICO[one["response"]["model"]]
        total += read * pico_in + (written - read) * pico_out
    with Ledger() as ledger:
        assert book(ledger, lines, batch_id="b", at=date(2026, 1, 1)).booked == len(exchanges)
        for _ in range(2):
            done = settle(ledger, "b", served)
        assert (done.totals.posted, done.totals.posted_count) == (Usd(total), len(exchanges))
        assert (done.unbooked, done.unchanged) == ((), len(exchanges))
