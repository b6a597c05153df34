"""The projection's claims: ten million entries in ten seconds and 2 GiB, and how often its interval holds the truth.

    python benchmarks/forecast_ledger.py [--entries 10000000] [--rounds 3] [--only speed|coverage]

speed     a month of entries in a ledger file (2.6 GB at ten million), summed by day and model and projected, each round
          in a process of its own. The floor is the least that reads every row: SELECT SUM of one column.
coverage  120 histories of each kind and length, lognormal days, of which the 21 days that follow are projected: how
          often their sum lies within p5 – p95, and the expected sum over the true one
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pricing import Ledger
from pricing.projection import day_number, project

_PROJECT = """
import resource, sys, time
from datetime import UTC, datetime
begin = time.perf_counter()
from pricing.forecast import forecast
frame = forecast(sys.argv[1], now=datetime(2026, 11, 25, tzinfo=UTC))
print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(frame))
"""
_FILL = """
INSERT INTO entries (state, model, endpoint, tags, batch, created_us, closed_us, estimate, worst, cost, components,
    row_id, table_version, usage, exact, why, asked_model, attempt, wait_us, latency_us)
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ?1)
SELECT 'posted', CASE i % 3 WHEN 0 THEN 'o3-pro' WHEN 1 THEN 'gpt-5.6-terra' ELSE 'gpt-4.1' END, '/v1/responses',
    CASE i % 2 WHEN 0 THEN '{"team": "search"}' ELSE '{"team": "ads"}' END, 0, ?2 + i * ?3, ?2 + i * ?3 + 1000000,
    1000000000, 9000000000, 1000000000 + (i * 7919) % 1000000000, '{"input": 500000000, "output": 500000000}',
    'o3-pro/standard/2025-06-10', 'abc', '{"input_tokens": 1000, "output_tokens": ' || (100 + i % 900) || '}', 1, '',
    'o3-pro', 1, 0, 3000000
FROM n
"""


def speed(entries: int, rounds: int) -> None:
    """Fill a ledger file, and project it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "costs.db"
        Ledger(path).close()
        start = int(datetime(2026, 10, 26, tzinfo=UTC).timestamp() * 1e6)
        with closing(sqlite3.connect(path)) as db, db:
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                db.execute(f"DROP TRIGGER {name}")  # they count for budgets, one entry at a time
            db.execute("PRAGMA synchronous = OFF")
            db.execute(_FILL, (entries, start, 30 * 86_400_000_000 // entries))
        took, floors, peaks = [], [], []
        for _ in range(rounds):
            done = subprocess.run(
                [sys.executable, "-c", _PROJECT, str(path)], capture_output=True, text=True, check=True
            )
            seconds, peak, _rows = done.stdout.split()
            took.append(float(seconds))
            peaks.append(int(peak) / 1024)
            begin = time.perf_counter()
            with closing(sqlite3.connect(path)) as db:
                db.execute("SELECT SUM(cost / 1000000) FROM entries").fetchone()
            floors.append(time.perf_counter() - begin)
        median = statistics.median(took)
        print(
            f"{entries:,} entries: {median:.1f} s ({min(took):.1f} – {max(took):.1f}), peak {max(peaks):.0f} MiB; "
            f"{median / statistics.median(floors):.1f} × the floor of {statistics.median(floors):.1f} s"
        )


class Kind(NamedTuple):
    """Days of $100 and noise: growth per day, σ of a day's logarithm, weekdays' factors, and idle days before."""

    name: str
    growth: float
    sigma: float
    week: tuple[float, ...] = (1.0,) * 7
    idle: int = 0


_QUIET = (1.2, 1.25, 1.2, 1.15, 1.0, 0.3, 0.25)
KINDS = (
    (
        Kind("days alike", 0.0, 0.1),
        Kind("quiet weekends", 0.0, 0.3, _QUIET),
        Kind("days alike", 0.0, 0.6),
        Kind("quiet weekends", 0.01, 0.2, _QUIET),
    ),
    (
        Kind("a 50-cent call and 40 idle days before", 0.0, 0.2, idle=40),
        Kind("weekends at nothing", 0.0, 0.2, (1.0,) * 5 + (0.0, 0.0)),
        Kind("weekends at 1 %", 0.0, 0.2, (1.0,) * 5 + (0.01, 0.01)),
    ),
)
"""The second group is what breaks a product of level and weekday. In groups, so that another draws no other numbers."""


def coverage() -> None:
    """Project histories whose future is known."""
    rng = np.random.default_rng(5)
    print("history · growth per day · σ of a day · kind: within p5 – p95 (nominal 90 %), expected ÷ true")
    for kinds in KINDS:
        for days in (3, 7, 14, 30, 60, 100):
            for kind in kinds:
                found = [_trial(rng, kind, days, trial) for trial in range(120)]
                hits, ratio = sum(hit for hit, _ in found), statistics.median(one for _, one in found)
                name = f"{days:>3} days · {kind.growth:.0%} · {kind.sigma:g} · {kind.name}"
                print(f"  {name}: {hits / 120:.0%}, {ratio:.2f}")


def _trial(rng: np.random.Generator, kind: Kind, days: int, seed: int) -> tuple[bool, float]:
    """Project one history; whether the truth lies within, and the expected over the true sum."""
    first = day_number(date(2026, 8, 1))
    at = np.arange(days + 21)
    noise = np.exp(kind.sigma * rng.standard_normal(len(at)) - kind.sigma**2 / 2)
    costs = 100 * np.exp(kind.growth * at) * noise * np.array(kind.week)[(first + at + 3) % 7]
    past = np.concatenate(([0.5] if kind.idle else [], np.zeros(kind.idle), costs[:days]))
    picos = [round(one * 10**12) for one in past.tolist()]
    sums = pd.DataFrame({"day": first + days - len(past) + np.arange(len(past)), "requests": 1, "unpriced": 0})
    sums["usd"], sums["pico"] = [one // 10**12 for one in picos], [one % 10**12 for one in picos]
    today = date(1970, 1, 1) + timedelta(days=first + days)
    now = datetime(today.year, today.month, today.day, tzinfo=UTC)
    (found,) = project(sums, now=now, since=today, until=today + timedelta(days=20), seed=seed)
    assert found.total is not None
    truth = costs[days:].sum() * 1e12
    return found.total.p5 <= truth <= found.total.p95, found.total.mean / truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["speed", "coverage"])
    args = parser.parse_args()
    if args.only in (None, "speed"):
        speed(args.entries, args.rounds)
    if args.only in (None, "coverage"):
        coverage()


if __name__ == "__main__":
    main()
