"""The pytest plugin: what each test's calls cost, what they may cost, and what that was last time.

It is loaded in every run of pytest where the package is installed. So importing it loads nothing but pytest, its hooks
look away until a test asks for `cost_ledger` or somebody gives an option, and `-p no:ratecard` takes all of it out.

The packages' own docstrings say PYTEST_DONT_REWRITE: without it a program that has imported them and then runs pytest
would be warned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .session import Costs

if TYPE_CHECKING:
    from .ledger import CostLedger

NAME = "ratecard-costs"
MARK = (
    "cost(max_usd, max_tokens, unpriced, block): "
    'the test fails when what its cost_ledger has booked is more; max_usd="0.05", max_tokens=5_000, '
    'unpriced="allow" lets calls without a price pass, block=True sends no call that could cost more'
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the options of costs."""
    group = parser.getgroup("ratecard", "costs of tests (ratecard)")
    group.addoption(
        "--cost-top", type=int, default=10, metavar="N", help="Show the N dearest tests (10; 0 shows all of them)."
    )
    group.addoption("--cost-baseline", metavar="PATH", help="A report of costs to compare with, and to write.")
    group.addoption("--cost-baseline-write", action="store_true", help="Write the baseline when all tests have passed.")
    group.addoption("--cost-baseline-required", action="store_true", help="Fail where there is no baseline.")
    group.addoption(
        "--cost-compare-fail",
        action="append",
        default=[],
        metavar="FIELD:CHANGE",
        help="Fail when a cost has risen by more: total:5%%, test:0.01, tokens:+10%%. May be given several times.",
    )
    group.addoption(
        "--cost-fail-if",
        action="append",
        default=[],
        metavar="RULE",
        help="Fail when a rule of the gate is broken: 'cost>0.50', 'cost[tests/slow/*]>0.05'. Several times, too.",
    )
    group.addoption(
        "--cost-unpriced",
        choices=("fail", "warn", "ignore"),
        default="fail",
        help="What becomes of calls without a price when rules are given (fail).",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known, and read what is wanted: a wrong option is told before a test runs."""
    config.addinivalue_line("markers", MARK)
    config.pluginmanager.register(Costs(config), NAME)


@pytest.fixture
def cost_ledger(request: pytest.FixtureRequest) -> CostLedger:
    """A ledger (in memory) of what this test's clients spend: ratelimit.wrap(client, …, ledger=cost_ledger)."""
    costs = request.config.pluginmanager.get_plugin(NAME)
    assert isinstance(costs, Costs)
    return costs.open(request.node)
