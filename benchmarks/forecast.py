"""The forecast's claims: a million requests scheduled within a second, what a run then measures, and what it costs.

    python benchmarks/forecast.py [--only schedule|backtest|coverage] [--rounds 3]

schedule  1,000,000 requests under RPM and TPM, tokens known; equal to the scalar core on a random prefix. The floor is
          two running sums of as many numbers.
backtest  a job through the real runner and the real client against the emulator, at 20 times the speed. A first job
          teaches a ledger; the second is foreseen with it, and then run. Foreseen over measured seconds: once with the
          very replies that came (so that only the schedule can be wrong), and once as it was foreseen before, whose
          median is as good as the replies let it be. And whether the binding limit is the runner's.
coverage  jobs drawn anew from the emulator's model of replies: how often the actual cost, and the actual end, lies
          within p5 – p95, and how often the cost lies between p50 and p95 (half of the jobs are below: at most 45 %)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
import warnings
from contextlib import closing
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from pricing.estimate import Prior, Replies
from pricing.learned import ENOUGH, Learned
from pricing.ledger import Ledger
from pricing.spend import Money, spending
from ratelimit.cells import Window
from ratelimit.cli.run import run_job
from ratelimit.clock import ScaledClock
from ratelimit.emulator import Emulator
from ratelimit.emulator.latency import Latency, character, draw
from ratelimit.forecast.job import Wish, forecast_job
from ratelimit.forecast.lanes import Account
from ratelimit.forecast.latency import Replying, _fit
from ratelimit.forecast.outlook import Setting, outlook
from ratelimit.forecast.schedule import Rule, admissions
from ratelimit.forecast.workload import Reading, Workload
from ratelimit.gcra import Bucket
from ratelimit.limiter import Limiter
from ratelimit.results import Results
from ratelimit.stores.decide import INITIAL_SLACK_US
from ratelimit.stores.memory import MemoryStore

DAY = date(2026, 7, 20)
SPEED = 20.0
MILLION = 1_000_000


def schedule(rounds: int) -> None:
    """Schedule a million requests under several pairs of limits."""
    rng = np.random.default_rng(1)
    tokens = np.clip(rng.lognormal(6.397, 1, MILLION), 8, 20_000).astype(np.int64)
    print("schedule of 1,000,000 requests (RPM, TPM, arrivals): seconds, median of rounds (least – most); × the floor")
    for rpm, tpm, gap_us in (
        (6_000, 2_400_000, 0), (3_400, 2_400_000, 0), (2_400, 2_400_000, 0),
        (6_000, 2_400_000, 13_000), (3_000, 2_400_000, 20_000),
    ):  # fmt: skip
        there = np.cumsum(rng.exponential(gap_us, MILLION)).astype(np.int64)
        rules = [
            Rule("rpm", np.full(MILLION, -(-60_000_000 // rpm)), 60_000_000),
            Rule("tpm", -(-tokens * 60_000_000 // tpm), 60_000_000),
        ]
        took, floor = [], []
        for _ in range(rounds):
            begin = time.perf_counter()
            found = admissions(there, rules)
            took.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            for rule in rules:
                np.maximum.accumulate(there - np.cumsum(rule.charges_us))
            floor.append(time.perf_counter() - begin)
        prefix = int(rng.integers(1_000, 20_000))
        assert found.act_us[:prefix].tolist() == _scalar(there[:prefix].tolist(), rules), "not the scalar core's"
        median = statistics.median(took)
        print(
            f"  {rpm:>6,} {tpm:>9,} {'all at once' if not gap_us else f'every {gap_us / 1e3:g} ms':>12}  {median:.3f} "
            f"({min(took):.3f} – {max(took):.3f}); {median / statistics.median(floor):.1f} ×; equal on {prefix:,}"
        )


def _scalar(arrivals: list[int], rules: list[Rule]) -> list[int]:
    cells: list[Any] = [Window(rule.window_us) if rule.window_us else Bucket() for rule in rules]
    acts, now, base = [], 0, 10**12
    for place, arrival in enumerate(arrivals):
        now = max(now, arrival + base)
        charges = [int(rule.charges_us[place]) for rule in rules]
        now = max(
            [now, *(cell.earliest_us(c, r.burst_us, now) for cell, c, r in zip(cells, charges, rules, strict=True))]
        )
        for cell, charge in zip(cells, charges, strict=True):
            cell.charge(now, charge)
        acts.append(now - base)
    return acts


CASES: dict[str, tuple[dict[str, Any], str, int, float, int]] = {
    # name: limits or tier, model, requests, median words, concurrency
    "o3-pro tier_1, TPM": ({"tier": "tier_1"}, "o3-pro", 240, 450, 1000),
    "gpt-4.1 own limits, RPM": ({"limits": {"rpm": 60, "tpm": 1_000_000}}, "gpt-4.1", 400, 40, 1000),
    "gpt-4.1 both limits": ({"limits": {"rpm": 60, "tpm": 30_000}}, "gpt-4.1", 400, 450, 1000),
    "o3 latency × concurrency": ({"limits": {"rpm": 10_000, "tpm": 10_000_000}}, "o3", 400, 60, 40),
    "o3 tier_2, TPM": ({"tier": "tier_2"}, "o3", 1_600, 900, 1000),
}


def backtest(rounds: int) -> None:
    """Foresee jobs, run them, and compare."""
    print("back-test against the emulator: foreseen ÷ measured seconds, with the replies that came / before they came")
    for name, (limits, model, requests, words, concurrency) in CASES.items():
        account = Account(limits.get("tier"), limits.get("limits"), concurrency=concurrency, at=DAY)
        same, before, within, binding = [], [], 0, 0
        for seed in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                taught = _job(Path(folder) / "first.jsonl", model, 120, words, seed + 100)
                job = _job(Path(folder) / "second.jsonl", model, requests, words, seed)
                first, second = Path(folder) / "first.db", Path(folder) / "second.db"
                asyncio.run(_run(taught, first, limits, model, 1000, seed))
                with closing(sqlite3.connect(first)) as db, db:  # its times are of the wall's clock, which is slower
                    db.execute("UPDATE entries SET latency_us = latency_us * ?", (SPEED,))
                foreseen = forecast_job(str(job), Reading(at=DAY, ledger=str(first)), Wish(account, tiers=("tier_1",)))
                measured, bound = asyncio.run(_run(job, second, limits, model, concurrency, seed))
                known = outlook(_replied(foreseen.job.workload, second), account, Setting({}), relief=False)
            span = foreseen.outlook.duration
            assert span is not None
            assert known.duration is not None
            same.append(known.duration.p50 / 1e6 / measured)
            before.append(span.p50 / 1e6 / measured)
            within += span.p5 / 1e6 <= measured <= span.p95 / 1e6
            binding += known.binding == foreseen.outlook.binding == (bound or known.binding)
        print(
            f"  {name:<26} {statistics.median(same):.3f} ({min(same):.3f} – {max(same):.3f}) / "
            f"{statistics.median(before):.3f} ({min(before):.3f} – {max(before):.3f}); last {measured:.0f} s; within "
            f"p5 – p95 {within} of {rounds}; binding limit equal {binding} of {rounds}: {bound or known.binding}",
            flush=True,
        )


def _replied(work: Workload, book: Path) -> Workload:
    """The requests with the replies that came."""
    with closing(sqlite3.connect(book)) as db:
        found = dict(db.execute("SELECT custom_id, latency_us FROM entries").fetchall())
    took = [round(found[f"c{row - 1}"] * SPEED) for row in work.row.tolist()]
    return replace(work, latency_us=np.array(took, np.int64))


def _job(path: Path, model: str, requests: int, words: float, seed: int) -> Path:
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(requests):
            text = "parcel " * max(5, min(6_000, round(rng.lognormvariate(0, 0.6) * words)))
            body = {"model": model, "input": f"Case {seed}-{number}: {text}"}
            file.write(
                json.dumps({"custom_id": f"c{number}", "method": "POST", "url": "/v1/responses", "body": body}) + "\n"
            )
    return path


async def _run(
    job: Path, book: Path, limits: dict[str, Any], model: str, concurrency: int, seed: int
) -> tuple[float, str]:
    clock = ScaledClock(SPEED)
    store = MemoryStore(clock, initial_slack_us=round(INITIAL_SLACK_US * SPEED))
    with Emulator(models=[model], seed=seed, speed=SPEED, at=DAY, **limits) as server, Ledger(book) as ledger:
        results = Results(job.with_suffix(".out"))
        report = await run_job(
            str(job),
            results,
            limiter=Limiter(limits.get("tier"), limits=limits.get("limits"), store=store, at=DAY),
            ledger=ledger,
            run="bench",
            base_url=server.url,
            at=DAY,
            quiet=True,
            concurrency=concurrency,
        )
        results.close()
    document = report.as_dict()
    assert document["lines"]["done"] == document["lines"]["read"], document["failures"]
    return float(document["seconds"]["wall"]), document["binding_limit"]


def coverage(rounds: int) -> None:
    """Foresee the cost of jobs whose replies are then drawn."""
    print("coverage of the actual cost, of 400 resampled jobs each: p5 – p95 (nominal 90 %) · below p95 · p50 – p95")
    rate, fixed = 80_000_000, 20_000_000_000
    for model in ("o3-pro", "gpt-4.1"):
        for seen in (ENOUGH, 60, 256):
            for requests in (20, 200, 5_000):
                within = below = upper = 0
                for trial in range(400):
                    sizes = _sizes(model, seen, 2 * trial)
                    actual = sum(fixed + rate * size for size in _sizes(model, requests, 2 * trial + 1))
                    prior = _prior(sizes)
                    zeros = np.zeros(requests, np.int64)
                    money = Money(zeros + fixed, zeros + rate, zeros + 10**16, zeros - 1, ())
                    kinds = (Replies(prior, 100_000, 1, "learned"),)
                    cost = spending(money, kinds, zeros, zeros - 1, seed=trial).cost
                    assert cost is not None
                    within += cost.p5 <= actual <= cost.p95
                    below += actual <= cost.p95
                    upper += cost.p50 <= actual <= cost.p95
                shares = " · ".join(f"{one / 400:.0%}" for one in (within, below, upper))
                print(f"  {model:<8} {seen:>4} replies seen, {requests:>5,} requests: {shares}", flush=True)

    print("coverage of the last reply, of 120 resampled jobs admitted evenly over five minutes: p5 – p95 · below p95")
    for model in ("o3-pro", "gpt-4.1"):
        for seen in (ENOUGH, 120, 256):
            for requests in (240, 5_000):
                within = below = 0
                act = np.linspace(0, 300e6, requests).astype(np.int64)
                zeros, none = np.zeros(requests, np.int64), np.full(requests, -1, np.int64)
                for trial in range(120):
                    known, true = (_replies(model, *one) for one in ((seen, 2 * trial), (requests, 2 * trial + 1)))
                    kinds = (Replies(_prior([size for size, _ in known]), 100_000, 1, "learned"),)
                    replying = Replying({"m": _fit("m", known)}, ("m",), kinds, (zeros, zeros, none, none))
                    low, high = replying.ends_us(act, (0.05, 0.95))
                    end_us = int((act + np.array([took_us for _, took_us in true])).max())
                    within += low <= end_us <= high
                    below += end_us <= high
                shares = f"{within / 120:.0%} · {below / 120:.0%}"
                print(f"  {model:<8} {seen:>4} replies seen, {requests:>5,} requests: {shares}", flush=True)


def _replies(model: str, count: int, seed: int) -> list[tuple[int, int]]:
    kind, usual = character(model), Latency()
    draws = [draw(seed, b"%d" % number, kind) for number in range(count)]
    return [
        (one.visible + one.reasoning, usual.times_us(kind, one.reasoning, one.visible, one.jitter)[1]) for one in draws
    ]


def _sizes(model: str, count: int, seed: int) -> list[int]:
    kind = character(model)
    draws = (draw(seed, b"%d" % number, kind) for number in range(count))
    return [one.visible + one.reasoning for one in draws]


def _prior(sizes: list[int]) -> Prior:
    book = Learned(kept=len(sizes))
    for size in sizes:
        book.add("m", "", {}, size)
    prior = book.foresee("m", "", {})
    assert prior is not None
    return prior


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["schedule", "backtest", "coverage"])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name, measure in (("schedule", schedule), ("coverage", coverage), ("backtest", backtest)):
        if args.only in (None, name):
            measure(args.rounds)


if __name__ == "__main__":
    sys.exit(main())
