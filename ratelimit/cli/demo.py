"""`ratecard demo`: a local server, a real job, a report; no key, nothing leaves this machine."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import click

from pricing.cost import Unpriced
from pricing.estimate import estimate
from pricing.ledger import Ledger
from pricing.money import Usd

from ..clock import US_PER_S, ScaledClock
from ..errors import ConfigError, RatecardWarning
from ..job import Line, read_job
from ..limiter import Limiter
from ..results import Results
from ..stores.decide import INITIAL_SLACK_US
from ..stores.memory import MemoryStore
from ._shared import print_json
from .run import print_summary, run_job

DAY = date(2026, 11, 24)
"""The demo lives on this day, so that it shows the same thing after o3-pro's shutdown on 2026-12-11."""
MODEL, TIER = "o3-pro", "tier_1"
TOPICS = [
    "invoice",
    "shipment",
    "refund",
    "outage",
    "contract",
    "rollout",
    "latency",
    "backlog",
    "audit",
    "forecast",
    "pipeline",
    "incident",
]


@click.command("demo")
@click.option("--requests", type=click.IntRange(1, 2000), default=240, show_default=True, help="Size of the job.")
@click.option("--speed", type=click.FloatRange(1, 60), default=30, show_default=True, help="Emulated s per second.")
@click.option("--seed", type=int, default=1, show_default=True, help="Same seed, same job.")
@click.option("--keep", type=click.Path(file_okay=False), help="Keep job, results and ledger in this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(requests: int, speed: float, seed: int, keep: str | None, as_json: bool) -> None:
    """Run a job of o3-pro requests against a local server that enforces Tier 1, first the naive way, then ours."""
    # The demo knows that o3-pro's days are numbered: that is part of its story, not news on every run.
    warnings.simplefilter("ignore", RatecardWarning)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(keep) if keep else Path(scratch)
        job = folder / "job.jsonl"
        there = [name for name in ("job.jsonl", "results.jsonl", "costs.db") if (folder / name).exists()]
        if there:
            raise ConfigError(f"--keep {folder}: has {' and '.join(there)} already: name another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_job(job, requests, seed)
        except OSError as error:
            raise ConfigError(f"--keep {folder}: cannot be written: {error.strerror}") from error
        report = asyncio.run(_demo(job, folder, speed, seed, as_json))
    if as_json:
        print_json(report)
    elif keep:
        click.echo(f"kept      job, results and ledger in {keep}")
    else:
        click.echo("kept      nothing; --keep FOLDER keeps the job, the results and the ledger")


def write_job(path: Path, requests: int, seed: int) -> None:
    """Write a job of Batch-format lines: o3-pro, inputs of lognormal length (median about 500 tokens)."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for number in range(requests):
            words = min(6_000, max(20, round(rng.lognormvariate(6.1, 0.6))))
            text = " ".join(rng.choice(TOPICS) for _ in range(words))
            body = {"model": MODEL, "input": f"Summarise case {number}: {text}", "max_output_tokens": 4_000}
            line = {"custom_id": f"case-{number}", "method": "POST", "url": "/v1/responses", "body": body}
            file.write(json.dumps(line) + "\n")


async def _demo(job: Path, folder: Path, speed: float, seed: int, quiet: bool) -> dict[str, Any]:
    from ..emulator import Emulator

    def say(text: str = "") -> None:
        if not quiet:
            click.echo(text)

    bodies = [line.body for line in read_job(job) if isinstance(line, Line)]
    clock = ScaledClock(speed)
    say(f"A local server enforces {MODEL} on {TIER}: 500 requests and 30,000 tokens per minute.")
    say(
        f"The job: {len(bodies)} requests, all ready now. "
        f"Time runs {speed:g} × faster; every time below is the account's."
    )
    say()
    estimated = _estimate(bodies)
    say("1. Before anything is sent (ratecard estimate)")
    say(f"cost      {estimated['mean'].format()} expected, {estimated['worst'].format()} at worst")
    say()

    say("2. The bare openai client, default retries, everything at once")
    with Emulator(tier=TIER, models=[MODEL], seed=seed, speed=speed, at=DAY) as server:
        naive = await _naive(server.url, bodies, clock)
    say(f"lost      {naive['lost']} of {len(bodies)} requests failed after their retries")
    say(f"429s      {naive['refused_429']}")
    say()

    say("3. The same job through ratecard")
    with Emulator(tier=TIER, models=[MODEL], seed=seed, speed=speed, at=DAY) as server:
        output = folder / "results.jsonl"
        ledger_path = folder / "costs.db"
        # The same 100 ms of this machine's time that a limiter keeps for jitter at normal speed.
        store = MemoryStore(clock, initial_slack_us=round(INITIAL_SLACK_US * speed))
        results = Results(output)
        with Ledger(ledger_path) as ledger:
            report = await run_job(
                str(job),
                results,
                limiter=Limiter(TIER, store=store, at=DAY),
                ledger=ledger,
                run="demo",
                base_url=server.url,
                at=DAY,
                quiet=quiet,
            )
            checked = _check(ledger, output)
        results.close()
        counters = server.counters()
    if not quiet:
        print_summary(report, None, None)
        say(f"checked   {checked['words']}")
    return {
        "tier": TIER,
        "model": MODEL,
        "requests": len(bodies),
        "speed": str(speed),
        "estimated_cost": {name: str(usd) for name, usd in estimated.items()},
        "naive": naive,
        "ratecard": report.as_dict(),
        "server": {"admitted": counters["admitted"], "refused": counters["refused"]},
        "ledger_adds_up": checked["adds_up"],
    }


def _estimate(bodies: Sequence[Mapping[str, Any]]) -> dict[str, Usd]:
    """Add up what the requests may cost."""
    sums = {"mean": Usd.ZERO, "worst": Usd.ZERO}
    for body in bodies:
        priced = estimate(body, at=DAY).cost
        assert not isinstance(priced, Unpriced)
        for name in sums:
            sums[name] += getattr(priced, name)
    return sums


async def _naive(url: str, bodies: Sequence[Mapping[str, Any]], clock: ScaledClock) -> dict[str, Any]:
    """Send everything at once through the bare client, as first drafts do."""
    from openai import AsyncOpenAI, OpenAIError

    lost = 0
    async with AsyncOpenAI(base_url=url, api_key="unused") as client:
        refused = _count_refusals(client)
        start_us = clock.now_us()

        async def send(body: Mapping[str, Any]) -> None:
            nonlocal lost
            try:
                await client.responses.create(**body)
            except OpenAIError:
                lost += 1

        await asyncio.gather(*(send(body) for body in bodies))
    return {
        "lost": lost,
        "refused_429": refused[0],
        "seconds": f"{(clock.now_us() - start_us) / US_PER_S:.1f}",
    }


def _count_refusals(client: Any) -> list[int]:
    """Count 429s with a hook of the client's own HTTP client."""
    refused = [0]

    async def count(response: Any) -> None:
        refused[0] += response.status_code == 429

    client._client.event_hooks["response"].append(count)
    return refused


def _check(ledger: Ledger, output: Path) -> dict[str, Any]:
    """Add the ledger up against the results, with a price list of this line's own: $20 and $80 per million tokens."""
    pico = 0
    lines = 0
    with output.open(encoding="utf-8") as file:
        for line in file:
            response = json.loads(line)["response"]
            if response and response["status_code"] == 200:
                usage = response["body"]["usage"]
                pico += usage["input_tokens"] * 20_000_000 + usage["output_tokens"] * 80_000_000
                lines += 1
    totals = ledger.totals()
    adds_up = totals.posted.pico == pico and totals.posted_count == lines
    if adds_up:
        words = (
            f"{lines} replies re-priced at $20 / $80 per 1M tokens: {totals.posted}, to the last digit of the ledger"
        )
    else:
        words = (
            f"the ledger says {totals.posted} for {totals.posted_count} calls, "
            f"the replies {pico} pico-dollars for {lines}"
        )
    return {"adds_up": adds_up, "words": words}
