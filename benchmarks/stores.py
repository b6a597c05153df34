"""What a reservation costs in each store, and how many a second several processes get out of one file.

One model under two limits (requests and tokens), 1,200 tokens reserved, never refused and not settled. For the file:
one process, then --processes at once (each counts its own; a round lasts --seconds of wall time). Floor in the same
run: the same transaction by hand, that is a write lock, two rows read, a look for tickets, two rows written, a commit,
and no arithmetic; with the same wait for the lock. Where there are fewer cores than processes, they share them.

    python benchmarks/stores.py [--processes 4] [--seconds 3] [--rounds 5] [--json]
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _common import environment

import ratelimit

RPM, TPM, TOKENS = 1_000_000_000, 1_000_000_000_000, 1_200
STATE = bytes(500)


def ours(store: str | None) -> Callable[[], object]:
    """A limiter's reservation."""
    limiter = ratelimit.Limiter(limits={"rpm": RPM, "tpm": TPM}, store=store)
    return lambda: limiter.reserve(model="o3", tokens=TOKENS)


def floor(path: Path) -> Callable[[], object]:
    """The same transaction by hand."""
    db = sqlite3.connect(path, isolation_level=None, timeout=0)
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "wal_autocheckpoint = 4000"):
        db.execute(f"PRAGMA {pragma}").fetchall()
    number = 0

    def call() -> None:
        nonlocal number
        number += 1
        pause_s = 0.000_05
        while True:
            try:
                db.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError:
                time.sleep(pause_s * (0.5 + random.random()))
                pause_s = min(2 * pause_s, 0.005)
        db.execute("SELECT * FROM cells WHERE key IN (?, ?)", ("a", "b")).fetchall()
        db.execute("SELECT * FROM waiting WHERE owner <> 1").fetchall()
        rows = [(number, number, STATE, key) for key in ("a", "b")]
        db.executemany("UPDATE cells SET at_us = ?, tat_us = ?, state = ? WHERE key = ?", rows)
        db.execute("COMMIT")

    return call


def make_floor(path: Path) -> None:
    """The floor's file."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE cells (key TEXT NOT NULL UNIQUE, at_us INTEGER, tat_us INTEGER, state BLOB)")
        db.execute("CREATE TABLE waiting (owner INTEGER PRIMARY KEY)")
        db.executemany("INSERT INTO cells VALUES (?, 0, 0, ?)", [("a", STATE), ("b", STATE)])
    db.close()


def per_second(call: Callable[[], object], seconds: float) -> float:
    """How many calls a second one process makes, for so long."""
    call()
    begun_s, count = time.perf_counter(), 0
    while time.perf_counter() - begun_s < seconds:
        for _ in range(20):
            call()
        count += 20
    return count / (time.perf_counter() - begun_s)


def worker(kind: str, path: str, seconds: float) -> None:
    """One of several processes: it says that it is ready, waits to be told, and says how many it got."""
    call = ours(f"sqlite:///{path}") if kind == "file" else floor(Path(path))
    call()
    print("ready", flush=True)
    sys.stdin.readline()
    print(per_second(call, seconds), flush=True)


def together(kind: str, path: Path, processes: int, seconds: float) -> float:
    """How many a second several processes get at once."""
    command = [sys.executable, __file__, "--worker", kind, str(path), "--seconds", str(seconds)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    for one in workers:
        assert one.stdout is not None
        one.stdout.readline()
    for one in workers:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    return sum(float(one.communicate()[0]) for one in workers)


def main() -> None:
    """Measure, round by round, and print medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*options.worker, options.seconds)
        return
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        file, by_hand = Path(name, "limits.db"), Path(name, "floor.db")
        make_floor(by_hand)
        for _ in range(options.rounds):
            for kind, measure in (
                ("memory, 1 process", lambda: per_second(ours(None), options.seconds)),
                ("file, 1 process", lambda: per_second(ours(f"sqlite:///{file}"), options.seconds)),
                ("floor, 1 process", lambda: per_second(floor(by_hand), options.seconds)),
                ("file, together", lambda: together("file", file, options.processes, options.seconds)),
                ("floor, together", lambda: together("floor", by_hand, options.processes, options.seconds)),
            ):
                figures.setdefault(kind, []).append(measure())
    medians = {kind: statistics.median(values) for kind, values in figures.items()}
    if options.json:
        print(json.dumps({"environment": environment(), "per_second": figures, "medians": medians}, indent=2))
        return
    print(f"{environment()}; SQLite {sqlite3.sqlite_version}, {options.processes} processes together")
    for kind, values in figures.items():
        print(f"{kind:<20}{medians[kind]:>10,.0f} /s   ({min(values):,.0f} – {max(values):,.0f})")
    for kind in ("1 process", "together"):
        print(f"of the floor, {kind}: {medians[f'file, {kind}'] / medians[f'floor, {kind}']:.2f}")


if __name__ == "__main__":
    main()
