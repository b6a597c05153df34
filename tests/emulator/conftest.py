"""Emulators for the tests: zero latency on a clock that only the test moves, one per test, on a free port."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from ratelimit.emulator import Emulator

START_US = 1_790_000_000_000_000


class HandClock:
    """A clock that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now_us = START_US

    def __call__(self) -> int:
        return self.now_us

    def advance(self, seconds: float) -> None:
        self.now_us += round(seconds * 1_000_000)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def emulate(clock: HandClock) -> Iterator[Callable[..., Emulator]]:
    """Start emulators on the hand clock; every one is stopped when the test ends."""
    running: list[Emulator] = []

    def start(**options: Any) -> Emulator:
        if "tier" not in options:
            options.setdefault("limits", {"rpm": 500, "tpm": 30_000})
        emulator = Emulator(**{"latency": 0, "now_us": clock, **options}).start()
        running.append(emulator)
        return emulator

    yield start
    for emulator in running:
        emulator.stop()


@pytest.fixture
def connect() -> Iterator[Callable[[Emulator], openai.OpenAI]]:
    """Make openai clients that do not retry, and close them."""
    clients: list[openai.OpenAI] = []

    def open_client(emulator: Emulator, **options: Any) -> openai.OpenAI:
        client = openai.OpenAI(base_url=emulator.url, api_key="any", **{"max_retries": 0, **options})
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        client.close()


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as client:
        yield client


def job(count: int, *, model: str = "gpt-4o-mini", url: str = "/v1/chat/completions", **body: Any) -> list[Any]:
    """The lines of a batch: a-0, a-1, … each with a text of its own."""
    lines = []
    for number in range(count):
        given = {"messages": [{"role": "user", "content": f"Number {number}"}]} if "chat" in url else {}
        if not given:
            given = {"input": f"Number {number}"}
        lines.append(
            {"custom_id": f"a-{number}", "method": "POST", "url": url, "body": {"model": model, **given, **body}}
        )
    return lines


@pytest.fixture
def lines() -> Callable[..., list[Any]]:
    return job


@pytest.fixture
def submit() -> Callable[..., Any]:
    """Upload lines and create their batch. What is no mapping is a line as it stands."""

    def create(client: openai.OpenAI, given: list[Any], **options: Any) -> Any:
        rows = [json.dumps(row) if isinstance(row, dict) else row for row in given]
        uploaded = client.files.create(file=("in.jsonl", "\n".join(rows).encode()), purpose="batch")
        url = given[0]["url"] if given and isinstance(given[0], dict) and "url" in given[0] else "/v1/chat/completions"
        return client.batches.create(
            input_file_id=uploaded.id, **{"endpoint": url, "completion_window": "24h", **options}
        )

    return create


@pytest.fixture
def records() -> Callable[..., list[Any]]:
    """Read a file of results; none where there is no file."""

    def read(client: openai.OpenAI, file_id: str | None) -> list[Any]:
        if file_id is None:
            return []
        return [json.loads(row) for row in client.files.content(file_id).text.splitlines()]

    return read
