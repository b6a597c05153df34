"""The pacing claim: a job all ready at t=0 goes through at the speed of its limits, whatever kind of server has them.

3,000 Chat requests (lognormal sizes, median 600 tokens, σ 1, cap 20,000) against the emulator in a process of its own
that enforces 6,000 requests and 2.4 M tokens per minute, through the real AsyncOpenAI client. The number is the time of
the server's last admission over the least time that server allows for these requests.

    python benchmarks/pacing.py [--only NAME] [--rounds 3] [--requests 3000] [--json]

The floor is that least time itself. S is the sum of all tokens (or requests; whichever takes longer), L the limit:

* a bucket starts full and refills L per minute: (S − L) / L minutes;
* a bucket beside a rival: the same, with what the rival was admitted until then (in the server's log) added to S;
* windows of a second admit A = L / 60 each: ⌈S / A⌉ windows, the first of which is the rest of the second in which the
  job starts; the last admission is when the last window opens. That is the least for somebody who knows the server's
  edges and packs the windows full. "in order" is the same with the requests taken strictly in the order of the job: what
  does not fit behind its predecessors waits for the next window, and nothing goes into the room it leaves;
* a fixed minute begins with the first request: ⌈S / L⌉ − 1 minutes. (One aligned to the server's clock allows anything
  from nothing to that, depending on the second at which a job starts.)

"declared" means that the limiter was told of the windows (`Limit(…, burst_us=…, window=True)`), "undeclared" that it
takes the server for a bucket. The rival is a process that takes 30 % of the tokens, at its own steady pace.

Peers (2026-11-22, same work on a bucket, other machine): openai-cookbook 1.03 with no 429; the bare client with endless
retries 1.01 with 2,890; LiteLLM Router 1.05 with 49 and 2 lost; aiolimiter × 2 1.03 with 2,121 and 109 lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from _common import environment, served
from openai import AsyncOpenAI

import ratelimit
from pricing.ledger import Ledger
from pricing.tokens import count_text
from ratelimit.cli.run import run_job
from ratelimit.limit import MINUTE_US, US_PER_S, Limit
from ratelimit.limiter import Limiter
from ratelimit.results import Results

RPM, TPM = 6_000, 2_400_000
MODEL, RIVAL_MODEL = "o3", "o3-2025-04-16"  # one pool, told apart in the server's log
RIVAL_SHARE, RIVAL_TOKENS = 0.3, 600
WORDS = "every request of this job waits for its turn, and then it goes at once. "


def sizes(requests: int, seed: int) -> list[int]:
    """Tokens the server will charge per request."""
    rng = random.Random(seed)
    return [min(20_000, max(8, round(rng.lognormvariate(6.397, 1.0)))) for _ in range(requests)]


def body(tokens: int) -> dict[str, Any]:
    """A Chat body that is charged exactly `tokens`: ceil(bytes / 4) + 1 message + 1 choice."""
    return {"model": MODEL, "messages": [{"role": "user", "content": (WORDS * (tokens // 16 + 1))[: 4 * (tokens - 2)]}]}


def limits(burst_us: int) -> dict[str, Any]:
    """The limits as the client is told of them; 0: as a bucket."""
    if not burst_us:
        return {"rpm": RPM, "tpm": TPM}
    return {
        "rpm": Limit("rpm", "requests", RPM, MINUTE_US, burst_us=burst_us, window=True),
        "tpm": Limit("tpm", "tokens", TPM, MINUTE_US, burst_us=burst_us, window=True),
    }


async def ours(url: str, bodies: list[dict[str, Any]], folder: Path, told: dict[str, Any]) -> dict[str, Any]:
    """`ratecard run`: the runner, the wrapped client, a SQLite ledger, an output file."""
    job = folder / "job.jsonl"
    job.write_text("".join(json.dumps(body) + "\n" for body in bodies))
    limiter = Limiter(limits=told, preflight="off")
    results = Results(folder / "out.jsonl")
    with Ledger(folder / "costs.db") as ledger:
        start_us = time.time_ns() // 1000
        report = await run_job(
            str(job), results, limiter=limiter, ledger=ledger, run="bench", base_url=url, quiet=True, concurrency=64
        )
    results.close()
    return {"start_us": start_us, "done": report.progress.done, "slack_us": limiter.store.slack_us(f"{MODEL}:tpm")}


async def wrapped(url: str, bodies: list[dict[str, Any]], folder: Path, told: dict[str, Any]) -> dict[str, Any]:
    """The wrapped client alone, as a user would embed it: a gather over everything, 200 at a time."""
    limiter = ratelimit.Limiter(limits=told, preflight="off")
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


async def bare(url: str, bodies: list[dict[str, Any]], folder: Path, told: dict[str, Any]) -> dict[str, Any]:
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


class Case(NamedTuple):
    """What is measured.

    way       how the job is sent
    window    what the server enforces
    told_us   the window (µs) that the limiter is told of; 0: none
    rival     somebody else uses the account
    rounds    unless asked for: ten minutes for all of them
    """

    way: Any
    window: str = "continuous"
    told_us: int = 0
    rival: bool = False
    rounds: int = 3


CASES = {
    "ratecard run": Case(ours),
    "wrapped client": Case(wrapped, rounds=2),
    "bare client, 1,000 retries": Case(bare, rounds=2),
    "a rival takes 30 %": Case(ours, rival=True),
    "per second, declared": Case(ours, "second", US_PER_S, rounds=2),
    "per second, undeclared": Case(ours, "second", rounds=2),
    "fixed minute, declared": Case(ours, "minute-from-first", MINUTE_US, rounds=2),
}


@contextmanager
def rival(url: str) -> Iterator[None]:
    """Somebody else on the account, until the block ends."""
    per_s = RIVAL_SHARE * TPM / 60 / RIVAL_TOKENS
    command = [sys.executable, str(Path(__file__).with_name("_rival.py")), url, RIVAL_MODEL]
    process = subprocess.Popen([*command, str(per_s), str(RIVAL_TOKENS)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def in_bucket_s(total: int, limit: int, rivals: list[tuple[float, int]]) -> float:
    """The least time for a bucket that starts full; `rivals` are (s since the start, units) admitted to others."""
    taken, wait_s = 0, max(0.0, (total - limit) * 60 / limit)
    for at_s, units in rivals:
        if at_s > wait_s:
            break
        taken += units
        wait_s = max(0.0, (total + taken - limit) * 60 / limit)
    return wait_s


def in_windows_s(windows: int, length_s: float, passed_s: float) -> float:
    """When the last of so many windows opens, if `passed_s` of the first are over at the start."""
    return max(0.0, (windows - 1) * length_s - passed_s)


def in_order(tokens: list[int], most_tokens: int, most_requests: int) -> int:
    """How many windows it takes to admit requests in this order."""
    windows, sum_tokens, count = 1, 0, 0
    for size in tokens:
        if sum_tokens + size > most_tokens or count == most_requests:
            windows, sum_tokens, count = windows + 1, 0, 0
        sum_tokens += size
        count += 1
    return windows


def least_s(case: Case, tokens: list[int], start_us: int, log: list[dict[str, Any]]) -> tuple[float, float]:
    """The least time (s) the server allows for the job, and the same in the order of the job."""
    pairs = ((sum(tokens), TPM, "tokens"), (len(tokens), RPM, "requests"))
    if case.window == "continuous":
        others = [one for one in log if one["verdict"] == "admitted" and one["model"] == RIVAL_MODEL]
        others = [one for one in others if one["wall_us"] >= start_us]
        bound_s = max(
            in_bucket_s(total, limit, [((one["wall_us"] - start_us) / US_PER_S, one[unit]) for one in others])
            for total, limit, unit in pairs
        )
        return bound_s, bound_s
    length_us = US_PER_S if case.window == "second" else MINUTE_US
    passed_s = start_us % length_us / US_PER_S if case.window == "second" else 0.0
    most = [limit * length_us // MINUTE_US for _, limit, _ in pairs]
    full = max(-(-total // units) for (total, *_), units in zip(pairs, most, strict=True))
    return (
        in_windows_s(full, length_us / US_PER_S, passed_s),
        in_windows_s(in_order(tokens, *most), length_us / US_PER_S, passed_s),
    )


def once(case: Case, requests: int, seed: int) -> dict[str, Any]:
    """One run of the job, and what the server says of it."""
    count_text("loaded before the clock starts", "o200k_base")
    tokens = sizes(requests, seed)
    options = ("--rpm", str(RPM), "--tpm", str(TPM), "--latency", "0", "--model", MODEL, "--window", case.window)
    bodies, told = [body(n) for n in tokens], limits(case.told_us)
    with served(*options) as server, tempfile.TemporaryDirectory() as folder:
        somebody = rival(server.url) if case.rival else nullcontext()
        with somebody:
            run = asyncio.run(case.way(server.url, bodies, Path(folder), told))
        log = server.admissions()
    ours = [one for one in log if one["model"] == MODEL]
    last_s = (max(one["wall_us"] for one in ours if one["verdict"] == "admitted") - run["start_us"]) / US_PER_S
    least, ordered = least_s(case, tokens, run["start_us"], log)
    return {
        "ratio": last_s / least,
        "in_order": last_s / ordered,
        "seconds": last_s,
        "minimum": least,
        "refused": sum(one["verdict"] != "admitted" for one in ours),
        "lost": requests - run["done"],
        "slack_ms": run["slack_us"] / 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, help="default 2 or 3")
    parser.add_argument("--requests", type=int, default=3_000)
    parser.add_argument("--only", choices=list(CASES), action="append")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    results = {}
    for name, case in CASES.items():
        if given.only is None or name in given.only:
            rounds = given.rounds or case.rounds
            results[name] = [once(case, given.requests, seed) for seed in range(1, rounds + 1)]
    if given.json:
        json.dump({"environment": environment(), "results": results}, sys.stdout, indent=2)
        return
    print(environment())
    print(f"{given.requests} requests, {RPM:,} RPM, {TPM:,} TPM: time over the least possible, median (spread)")
    for name, rounds in results.items():
        print(
            f"{name:<27} {spread(rounds, 'ratio')}   in order {spread(rounds, 'in_order')}   "
            f"429s {[one['refused'] for one in rounds]}   lost {[one['lost'] for one in rounds]}   "
            f"margin {statistics.median(one['slack_ms'] for one in rounds):.0f} ms"
        )


def spread(rounds: list[dict[str, Any]], key: str) -> str:
    """Median, least and most of a ratio."""
    values = [one[key] for one in rounds]
    return f"{statistics.median(values):.4f} ({min(values):.4f} – {max(values):.4f})"


if __name__ == "__main__":
    main()
