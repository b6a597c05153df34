"""For all tests: `--on 2027-06-01` runs them as if it were that day, so that none fails when it comes.

Hypothesis fails no test for its time: on a machine that has other work, that would be chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import time_machine
from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

pytest_plugins = ["pytester"]
"""Runs pytest within a test: pytest takes this here only."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--on", metavar="DAY", help="Run the tests of this process as if it were noon (UTC) of this day.")


@pytest.fixture(scope="session", autouse=True)
def _no_cache() -> Iterator[None]:
    """No test knows the token counts of another: those of the cache say where theirs is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RATECARD_CACHE", "off")
        yield


@pytest.fixture(scope="session", autouse=True)
def _on_another_day(request: pytest.FixtureRequest) -> Iterator[None]:
    """The clock goes on from there; other processes that tests start live today."""
    day = request.config.getoption("--on")
    if day is None:
        yield
        return
    with time_machine.travel(datetime.fromisoformat(day).replace(hour=12, tzinfo=UTC), tick=True):
        yield
