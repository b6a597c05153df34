"""Emulators for the tests: zero latency on a clock that only the test moves, one per test, on a free port."""

from __future__ import annotations

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
