"""A project of tests that call a model: each run of pytest in it is a real one, against the emulator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import openai
import pytest

import pricing
import ratelimit
import ratelimit.pytest_plugin.gate
import ratelimit.pytest_plugin.text
from ratelimit.emulator import Emulator

DAY = date(2026, 9, 15)
"""The day whose prices apply: no model of these tests is near its end."""

CONFTEST = f"""
import os
from datetime import date

import pytest

import pricing
import ratelimit

DAY = date.fromisoformat("{DAY}")


@pytest.fixture
def client(cost_ledger):
    import openai

    with openai.OpenAI(base_url=os.environ["EMULATOR"], api_key="x", max_retries=0) as plain:
        yield ratelimit.wrap(plain, limits={{"rpm": 100_000, "tpm": 100_000_000}}, ledger=cost_ledger, at=DAY)


@pytest.fixture
def ask(client):
    def ask(text="hello", model="gpt-4o-mini", **settings):
        return client.responses.create(model=model, input=text, **settings)

    return ask


@pytest.fixture
def book(cost_ledger):
    def book(model="gpt-4o-mini", read=8):
        entry = cost_ledger.pend(model=model, endpoint="/v1/responses", estimate=None)
        usage = pricing.Usage(read, output_tokens=20)
        cost_ledger.post(entry, usage=usage, cost=pricing.cost(usage, model=model, at=DAY))
    return book
"""
"""`ask` sends a request; `book` writes to the ledger what such a request would, and needs no client."""

Run = Callable[..., pytest.RunResult]


@pytest.fixture(scope="session")
def server() -> Iterator[Emulator]:
    """An account without tight limits, whose every answer has 20 tokens."""
    limits = {"rpm": 1_000_000, "tpm": 1_000_000_000}
    with Emulator(limits=limits, latency=0, at=DAY, output_tokens=20) as emulator:
        # What an inner run in this process is the first to load, pytester takes out of it afterwards.
        with openai.OpenAI(base_url=emulator.url, api_key="x") as plain:
            client = ratelimit.wrap(plain, limits=limits, ledger=pricing.Ledger(), at=DAY)
            client.responses.create(model="gpt-4o-mini", input="hello")
        yield emulator


@pytest.fixture
def run(pytester: pytest.Pytester, server: Emulator, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run tests, given as the source of a file, strictly: unknown marks and warnings are errors."""
    monkeypatch.setenv("EMULATOR", server.url)
    pytester.makeconftest(CONFTEST)

    def run(source: str, *options: str, apart: bool = False) -> pytest.RunResult:
        pytester.makepyfile(test_it=source)
        strict = ("-W", "error", "--strict-markers", "-p", "no:cacheprovider", "-p", "no:randomly", *options)
        return pytester.runpytest_subprocess(*strict) if apart else pytester.runpytest_inprocess(*strict)

    return run


def section(result: pytest.RunResult) -> list[str]:
    """The lines of the section of costs, but for that which says in some years that the prices are old."""
    lines = result.stdout.lines
    begin = next((place for place, line in enumerate(lines) if line.strip("=") == " costs "), None)
    if begin is None:
        return []
    end = next(place for place in range(begin + 1, len(lines)) if lines[place].startswith(("=", "!")))
    return [line for line in lines[begin + 1 : end] if line and "WARN total: prices of" not in line]


def baseline(pytester: pytest.Pytester, name: str = "costs.json") -> dict[str, Any]:
    """What a baseline says: test → its group."""
    document = json.loads((pytester.path / name).read_text())
    return {group["name"].rpartition("::")[2]: group for group in document["groups"]}
