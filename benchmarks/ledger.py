"""What the ledger costs a call: its pending entry, its bill, and budgets in between.

Each kind of step is timed alone, in wall time, on a file in write-ahead mode; blocks of the kinds take turns, so that
what disturbs the machine disturbs all alike, and a ratio compares neighbours.

    python benchmarks/ledger.py [--rounds 30] [--calls 200] [--filled 20000] [--json]

Durability promised, by all alike: a commit survives the death of the process (WAL, synchronous=NORMAL); `sync()` makes
everything before it survive the death of the machine. Floor in the same run: one row of the same columns inserted, and
updated, by bare SQLite, each a transaction of its own. The ledger has `--filled` entries before it is measured.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from _common import environment

from pricing import Budget, Cost, Ledger, Usage, Usd
from pricing.entries import Entry
from pricing.prices import PriceRow

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")
COST = Cost(Usd(790_020_000_000), {"input": Usd(246_900_000_000), "output": Usd(543_120_000_000)}, ROW, "0123456789ab")
USAGE = Usage(10_345, 2_000, 0, 789, 6_000)
EXPECTED = {"input_tokens": 12_345, "output_tokens": 1_527, "output_p50": 792, "output_p95": 5_701}
BUDGETS = {
    "pend": [],
    "pend, a day's budget": ["1000000 USD/day"],
    "pend, five nested budgets": [
        "9000000 USD/month zone:Europe/Berlin", "1000000 USD/day", "1000000 USD/day tag:team", "1000000 USD/job",
        "1000 USD/call",
    ],
}  # fmt: skip
KINDS = ("floor: insert", "floor: update", *BUDGETS, "post", "post, after a day's budget", "sync", "memory: post")


def pend(ledger: Ledger, budgets: list[Budget]) -> int:
    return ledger.pend(
        model="o3-pro", endpoint="/v1/responses", estimate=Usd(10**11), worst=Usd(10**12), tags={"team": "search"},
        run="benchmark", custom_id="line", budgets=budgets, effort="high", attempt=1, wait_us=1, expected=EXPECTED,
    )  # fmt: skip


def post(ledger: Ledger, entry_id: int) -> bool:
    return ledger.post(
        entry_id, usage=USAGE, cost=COST, response_id=f"resp_{entry_id}", model="o3-pro-2025-06-10",
        service_tier="default", request_id="req_0123456789abcdef", latency_us=1_000_000,
    )  # fmt: skip


def timed(act: Callable[[Any], object], things: list[Any]) -> float:
    """Median µs per call."""
    spent = []
    for thing in things:
        start = time.perf_counter_ns()
        act(thing)
        spent.append(time.perf_counter_ns() - start)
    return statistics.median(spent) / 1000


class Floor:
    """The same columns by hand: a row in, and its end, two transactions."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL"):
            self.db.execute(statement)
        names = Entry._fields[1:]
        columns = ", ".join(f"{name} ANY" for name in names)
        self.db.execute(f"CREATE TABLE entries (id INTEGER PRIMARY KEY, {columns}) STRICT")
        self.insert = f"INSERT INTO entries VALUES (NULL{', ?' * len(names)})"
        self.row = ("pending", "o3-pro", "/v1/responses", *(None,) * (len(names) - 4), json.dumps(EXPECTED))

    def begin(self, _: int) -> None:
        self.db.execute(self.insert, self.row)

    def end(self, row_id: int) -> None:
        usage, parts = json.dumps(USAGE.as_dict()), json.dumps({k: v.pico for k, v in COST.components.items()})
        self.db.execute("UPDATE entries SET state = 'posted', cost = ?, components = ?, usage = ?, response_id = ? "
                        "WHERE id = ?", (COST.total.pico, parts, usage, f"resp_{row_id}", row_id))  # fmt: skip


def measure(folder: Path, rounds: int, calls: int, filled: int) -> list[dict[str, float]]:
    """Rounds of µs per call by kind."""
    floor, table, done = Floor(folder / "floor.db"), [], 0
    with Ledger(folder / "costs.db") as ledger, Ledger() as memory:
        for _ in range(filled):
            post(ledger, pend(ledger, []))
        read = {name: [Budget.parse(text) for text in texts] for name, texts in BUDGETS.items()}
        for _ in range(rounds):
            row, waiting = {}, {}
            row["floor: insert"] = timed(floor.begin, list(range(calls)))
            row["floor: update"] = timed(floor.end, list(range(done + 1, done + calls + 1)))
            done += calls
            for name, budgets in read.items():
                ids: list[int] = []
                row[name] = timed(lambda _, budgets=budgets, ids=ids: ids.append(pend(ledger, budgets)), [None] * calls)
                waiting[name] = ids
            row["post"] = timed(lambda one: post(ledger, one), waiting["pend"])
            row["post, after a day's budget"] = timed(lambda one: post(ledger, one), waiting["pend, a day's budget"])
            for one in waiting["pend, five nested budgets"]:
                post(ledger, one)
            row["sync"] = timed(lambda _: ledger.sync(), [None])
            row["memory: post"] = timed(lambda one: post(memory, one), [pend(memory, []) for _ in range(calls)])
            table.append(row)
    floor.db.close()
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--filled", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        table = measure(Path(scratch), given.rounds, given.calls, given.filled)
    if given.json:
        json.dump(
            {"environment": environment(), "sqlite": sqlite3.sqlite_version, "rounds": table}, sys.stdout, indent=2
        )
        return
    print(f"{environment()}, SQLite {sqlite3.sqlite_version}")
    print(f"{given.rounds} rounds of {given.calls}, {given.filled:,} entries before: median µs (quartiles), over floor")
    for kind in KINDS:
        low, middle, high = statistics.quantiles([row[kind] for row in table], n=4)
        of = "floor: update" if kind.startswith("post") else "floor: insert"
        ratio = statistics.median(row[kind] / row[of] for row in table)
        print(f"{kind:<28} {middle:8.1f} µs ({low:.1f} – {high:.1f})   {ratio:6.2f} × {of}")


if __name__ == "__main__":
    main()
