"""A real server for the client tests: the emulator, started once per test module."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import pytest

from ratelimit.emulator import Emulator

DAY = date(2026, 9, 15)
"""The day the tests live on: long enough before o3-pro's shutdown that nobody is warned."""


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    """A zero-latency account without tight limits."""
    with Emulator(limits={"rpm": 1_000_000, "tpm": 1_000_000_000}, latency=0, at=DAY) as emulator:
        yield emulator
