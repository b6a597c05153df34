"""A real server for the client tests: the emulator, started once per test module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ratelimit.emulator import Emulator

from .replies import DAY


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    """A zero-latency account without tight limits."""
    with Emulator(limits={"rpm": 1_000_000, "tpm": 1_000_000_000}, latency=0, at=DAY) as emulator:
        yield emulator
