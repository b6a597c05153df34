"""The overhead claim: what pacing and cost accounting add to a call of the real openai client.

A warm `client.responses.create` (and Chat) against a zero-latency server in a process of its own, sync
and async: CPU time of this process per call, bare, and with pacing + cost in memory, and with the SQLite ledger. Short
blocks of each kind take turns, so that what disturbs the machine disturbs all alike; a ratio compares neighbours.

    python benchmarks/overhead.py [--rounds 40] [--calls 25] [--json]

Floors in the same run: the bare client; a middleware that does nothing but what every one of its kind must (read both
JSON bodies on their way, the reply through a tap); and that with two one-row SQLite commits.
Peers (2026-11-22, other machine): LiteLLM's SDK adds 150 %, its Router 280 %.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import gc
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
from _common import environment, served
from jiter import from_json
from openai import AsyncOpenAI, OpenAI

import ratelimit
from pricing.ledger import Ledger

LIMITS = {"rpm": 10_000_000, "tpm": 10_000_000_000}
TEXT = "Summarise in one sentence what this customer wants, and how urgent it is: " + "the parcel is late again. " * 12
CALLS: dict[str, Callable[[Any], Any]] = {
    "responses": lambda client: client.responses.create(model="o3", input=TEXT, max_output_tokens=200),
    "chat": lambda client: client.chat.completions.create(model="o3", messages=[{"role": "user", "content": TEXT}]),
}
KINDS = ("bare", "floor", "floor + SQLite", "pacing", "pacing + cost", "pacing + cost + SQLite")


class Tap(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """The least a tap can be: chunks pass, and the whole body is read as JSON at the end."""

    def __init__(self, inner: Any, book: sqlite3.Connection | None, number: int | None) -> None:
        self.inner, self.book, self.number, self.chunks = inner, book, number, []

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self.inner:
            self.chunks.append(chunk)
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self.inner:
            self.chunks.append(chunk)
            yield chunk

    def close(self) -> None:
        self.inner.close()
        self.read()

    async def aclose(self) -> None:
        await self.inner.aclose()
        self.read()

    def read(self) -> None:
        usage = from_json(b"".join(self.chunks))["usage"]
        if self.book is not None:
            self.book.execute("UPDATE calls SET usage = ? WHERE id = ?", (json.dumps(usage), self.number))


class Floor(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """What no middleware that reads requests and replies can be cheaper than."""

    def __init__(self, inner: Any, path: Path | None) -> None:
        self.inner, self.book = inner, None
        if path is not None:
            self.book = sqlite3.connect(path, isolation_level=None)
            for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL"):
                self.book.execute(statement)
            self.book.execute("CREATE TABLE calls (id INTEGER PRIMARY KEY, model TEXT, usage TEXT)")

    def handle_request(self, request: Any) -> Any:
        number = self.begin(request)
        return self.tapped(self.inner.handle_request(request), number)

    async def handle_async_request(self, request: Any) -> Any:
        number = self.begin(request)
        return self.tapped(await self.inner.handle_async_request(request), number)

    def begin(self, request: Any) -> int | None:
        model = from_json(request.content)["model"]
        if self.book is None:
            return None
        return self.book.execute("INSERT INTO calls (model) VALUES (?)", (model,)).lastrowid

    def tapped(self, reply: Any, number: int | None) -> Any:
        tap = Tap(reply.stream, self.book, number)
        return httpx2.Response(reply.status_code, headers=reply.headers, stream=tap, extensions=reply.extensions)


def floor(plain: Any, path: Path | None) -> Any:
    """The client over the floor, on the same connections."""
    http = copy.copy(plain._client)
    http._transport = Floor(http._transport, path)
    return plain.with_options(http_client=http)


def kinds(plain: Any, folder: Path) -> dict[str, Any]:
    """The clients compared, on the same connections."""

    def limiter() -> ratelimit.Limiter:
        return ratelimit.Limiter(limits=LIMITS, preflight="off")

    return {
        "bare": plain,
        "floor": floor(plain, None),
        "floor + SQLite": floor(plain, folder / "floor.db"),
        "pacing": ratelimit.wrap(plain, limiter=limiter()),
        "pacing + cost": ratelimit.wrap(plain, limiter=limiter(), ledger=Ledger()),
        "pacing + cost + SQLite": ratelimit.wrap(plain, limiter=limiter(), ledger=folder / "costs.db"),
    }


def block(call: Callable[[Any], Any], client: Any, calls: int) -> float:
    """CPU µs per call of a block of blocking calls."""
    start = time.process_time_ns()
    for _ in range(calls):
        call(client)
    return (time.process_time_ns() - start) / calls / 1000


async def block_async(call: Callable[[Any], Awaitable[Any]], client: Any, calls: int) -> float:
    """CPU µs per call of a block of awaited calls, one after the other."""
    start = time.process_time_ns()
    for _ in range(calls):
        await call(client)
    return (time.process_time_ns() - start) / calls / 1000


def measure_sync(url: str, folder: Path, rounds: int, calls: int, call: Callable[[Any], Any]) -> list[dict[str, float]]:
    """Rounds of CPU µs per call by kind, for OpenAI."""
    with OpenAI(base_url=url, api_key="x", max_retries=0) as plain:
        clients = kinds(plain, folder)
        for client in clients.values():
            block(call, client, 30)
        table = []
        for turn in range(rounds):
            order = random.Random(turn).sample(KINDS, len(KINDS))
            gc.collect()
            table.append({kind: block(call, clients[kind], calls) for kind in order})
        return table


async def measure_async(
    url: str, folder: Path, rounds: int, calls: int, call: Callable[[Any], Awaitable[Any]]
) -> list[dict[str, float]]:
    """Rounds of CPU µs per call by kind, for AsyncOpenAI."""
    async with AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as plain:
        clients = kinds(plain, folder)
        for client in clients.values():
            await block_async(call, client, 30)
        table = []
        for turn in range(rounds):
            order = random.Random(turn).sample(KINDS, len(KINDS))
            gc.collect()
            table.append({kind: await block_async(call, clients[kind], calls) for kind in order})
        return table


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=25)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    results: dict[str, list[dict[str, float]]] = {}
    limits = ("--rpm", str(LIMITS["rpm"]), "--tpm", str(LIMITS["tpm"]))
    with served(*limits, "--latency", "0", "--model", "o3") as server, tempfile.TemporaryDirectory() as scratch:
        for name, call in CALLS.items():
            for colour in ("sync", "async"):
                folder = Path(scratch, name, colour)
                folder.mkdir(parents=True)
                if colour == "sync":
                    table = measure_sync(server.url, folder, given.rounds, given.calls, call)
                else:
                    table = asyncio.run(measure_async(server.url, folder, given.rounds, given.calls, call))
                results[f"{name} {colour}"] = table
    if given.json:
        json.dump({"environment": environment(), "results": results}, sys.stdout, indent=2)
        return
    print(environment())
    print(f"{given.rounds} rounds: median CPU µs per call, and ratio to bare in the same round: median (quartiles)")
    for name, table in results.items():
        for kind in KINDS:
            low, middle, high = quartiles([row[kind] / row["bare"] for row in table])
            micros = statistics.median(row[kind] for row in table)
            print(f"{name:<16} {kind:<24} {micros:7.0f} µs   {middle:.3f} ({low:.3f} – {high:.3f})")


if __name__ == "__main__":
    main()
