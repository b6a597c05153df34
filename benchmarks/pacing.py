"""The pacing claim: a job all ready at t=0 goes through at the speed of its limits, without one 429.

3,000 Chat requests (lognormal sizes, median 600 tokens, σ 1, cap 20,000) against the emulator in a process of its own
that enforces 6,000 requests and 2.4 M tokens per minute as a continuous bucket, through the real AsyncOpenAI client.
The number is the time of the server's last admission over the least time a full bucket needs for these requests.

    python benchmarks/pacing.py [--rounds 3] [--requests 3000] [--json]

Floor: the theoretical minimum itself. Peers (2026-11-22, same work, other machine): openai-cookbook 1.03 with no 429;
the bare client with endless retries 1.01 with 2,890; LiteLLM Router 1.05 with 49 and 2 lost; aiolimiter × 2 1.03 with
2,121 and 109 lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import environment, served
from openai import AsyncOpenAI

import ratelimit
from pricing.ledger import Ledger
from pricing.tokens import count_text
from ratelimit.cli.run import run_job
from ratelimit.limiter import Limiter
from ratelimit.results import Results

RPM, TPM = 6_000, 2_400_000
MODEL = "o3"
WORDS = "every request of this job waits for its turn, and then it goes at once. "


def sizes(requests: int, seed: int) -> list[int]:
    """Tokens the server will charge per request."""
    rng = random.Random(seed)
    return [min(20_000, max(8, round(rng.lognormvariate(6.397, 1.0)))) for _ in range(requests)]


def body(tokens: int) -> dict[str, Any]:
    """A Chat body that is charged exactly `tokens`: ceil(bytes / 4) + 1 message + 1 choice."""
    return {"model": MODEL, "messages": [{"role": "user", "content": (WORDS * (tokens // 16 + 1))[: 4 * (tokens - 2)]}]}


async def ours(url: str, bodies: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """`ratecard run`: the runner, the wrapped client, a SQLite ledger, an output file."""
    job = folder / "job.jsonl"
    job.write_text("".join(json.dumps(body) + "\n" for body in bodies))
    limiter = Limiter(limits={"rpm": RPM, "tpm": TPM}, preflight="off")
    results = Results(folder / "out.jsonl")
    with Ledger(folder / "costs.db") as ledger:
        start_us = time.time_ns() // 1000
        report = await run_job(
            str(job), results, limiter=limiter, ledger=ledger, run="bench", base_url=url, quiet=True, concurrency=64
        )
    results.close()
    return {"start_us": start_us, "done": report.progress.done, "slack_us": limiter.store.slack_us(f"{MODEL}:tpm")}


async def wrapped(url: str, bodies: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The wrapped client alone, as a user would embed it: a gather over everything, 200 at a time."""
    limiter = ratelimit.Limiter(limits={"rpm": RPM, "tpm": TPM}, preflight="off")
    done = 0
    gate = asyncio.Semaphore(200)
    async with AsyncOpenAI(base_url=url, api_key="x", max_retries=2) as plain:
        client = ratelimit.wrap(plain, limiter=limiter)

        async def send(request: dict[str, Any]) -> None:
            nonlocal done
            async with gate:
                await client.chat.completions.create(**request)
                done += 1

        start_us = time.time_ns() // 1000
        await asyncio.gather(*(send(request) for request in bodies))
    return {"start_us": start_us, "done": done, "slack_us": limiter.store.slack_us(f"{MODEL}:tpm")}


async def bare(url: str, bodies: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The bare client with many retries, 50 in flight: what people do without a limiter."""
    done = 0
    gate = asyncio.Semaphore(50)
    async with AsyncOpenAI(base_url=url, api_key="x", max_retries=1000) as client:

        async def send(request: dict[str, Any]) -> None:
            nonlocal done
            async with gate:
                await client.chat.completions.create(**request)
                done += 1

        start_us = time.time_ns() // 1000
        await asyncio.gather(*(send(request) for request in bodies))
    return {"start_us": start_us, "done": done, "slack_us": 0}


WAYS = {"ratecard run": ours, "wrapped client": wrapped, "bare client, 1,000 retries": bare}


def once(way: Any, requests: int, seed: int) -> dict[str, Any]:
    count_text("loaded before the clock starts", "o200k_base")
    tokens = sizes(requests, seed)
    minimum_s = max((sum(tokens) - TPM) * 60 / TPM, (requests - RPM) * 60 / RPM, 0)
    with served("--rpm", str(RPM), "--tpm", str(TPM), "--latency", "0", "--model", MODEL) as server:
        with tempfile.TemporaryDirectory() as folder:
            run = asyncio.run(way(server.url, [body(n) for n in tokens], Path(folder)))
        counters = server.counters()
    last_s = (counters["last_admission_us"] - run["start_us"]) / 1e6
    return {
        "ratio": last_s / minimum_s,
        "seconds": last_s,
        "minimum": minimum_s,
        "refused": sum(counters["refused"].values()),
        "lost": requests - run["done"],
        "slack_ms": run["slack_us"] / 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--only", choices=list(WAYS))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    results = {}
    for name, way in WAYS.items():
        if given.only in (None, name):
            results[name] = [once(way, given.requests, seed) for seed in range(1, given.rounds + 1)]
    if given.json:
        json.dump({"environment": environment(), "results": results}, sys.stdout, indent=2)
        return
    print(environment())
    print(f"{given.requests} requests, {RPM:,} RPM, {TPM:,} TPM, {given.rounds} rounds: median (spread)")
    for name, rounds in results.items():
        ratios = [one["ratio"] for one in rounds]
        print(
            f"{name:<28} ratio {statistics.median(ratios):.4f} ({min(ratios):.4f} – {max(ratios):.4f})   "
            f"429s {[one['refused'] for one in rounds]}   lost {[one['lost'] for one in rounds]}   "
            f"margin {statistics.median(one['slack_ms'] for one in rounds):.0f} ms"
        )


if __name__ == "__main__":
    main()
