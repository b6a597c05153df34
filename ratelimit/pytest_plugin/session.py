"""The hooks: which test spends what, in this process or in the workers of pytest-xdist, and what becomes of the run.

What a test has spent leaves a worker twice: with the report of its teardown, so that a crash later loses nothing of it,
and when the worker ends, with what came late (a stream that was closed after its test).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pricing.gate.report import Group

    from .gate import Outcome, Wanted
    from .ledger import CostLedger

CARGO = "ratecard_costs"
"""The name under which costs travel: in reports, and in what a worker gives back."""
PROPERTIES = ("cost_usd", "cost_tokens", "cost_unpriced")
_FINISHED = (0, 1, 5)  # passed, tests failed, no tests: all others were interrupted


class Spender:
    """A test, and the ledgers that it has asked for: one, or one for each time that it was run again.

    told  whether it was said that the test has broken its marks
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.told = False
        self._ledgers: list[CostLedger] = []
        self._closed: list[Group] = []
        self._tables: set[str] = set()

    @property
    def ledger(self) -> CostLedger | None:
        """The one of this run of the test."""
        return self._ledgers[-1] if self._ledgers else None

    def open(self, ledger: CostLedger) -> CostLedger:
        self._ledgers.append(ledger)
        self.told = False
        return ledger

    def close(self) -> None:
        """The test is over: keep the sums of its ledger, and the ledger itself only where news may come."""
        for ledger in self._ledgers[:]:
            if next(ledger.entries("pending"), None) is None:
                self._closed.append(ledger.spent())
                self._tables |= _tables(ledger)
                self._ledgers.remove(ledger)

    def spent(self) -> tuple[Group, list[str]]:
        """What it has spent in all, and the versions of the tables that priced it."""
        from pricing.gate.booked import together

        groups = [*self._closed, *(ledger.spent() for ledger in self._ledgers)]
        tables = self._tables.union(*map(_tables, self._ledgers))
        return together(groups, self.name, "tests"), sorted(tables)


def _tables(ledger: CostLedger) -> set[str]:
    return {entry.table_version for entry in ledger.entries() if entry.table_version}


class Costs:
    """The costs of a run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_worker = hasattr(config, "workerinput")
        self._spenders: dict[str, Spender] = {}
        self._heard: dict[tuple[str, str], tuple[Group, list[str]]] = {}  # worker and test → what it spent
        self._lost: list[str] = []
        self._outcome: Outcome | None = None
        self._wanted = None if self._is_worker else _wanted(config)

    def open(self, item: pytest.Item) -> CostLedger:
        """Begin the ledger of a test."""
        from .ledger import CostLedger, read_cap

        name = _name(item)
        caps = [read_cap(mark.args, mark.kwargs) for mark in item.iter_markers("cost")]
        spender = self._spenders.setdefault(name, Spender(name))
        return spender.open(CostLedger(name, caps))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Refuse marks that cannot be read. Another project's `cost`, on tests without our ledger, is let alone."""
        for mark in item.iter_markers("cost"):
            ours = "cost_ledger" in getattr(item, "fixturenames", ()) or {"max_usd", "max_tokens"} & mark.kwargs.keys()
            if not ours:
                continue
            from pricing.errors import ConfigError

            from .ledger import read_cap

            try:
                read_cap(mark.args, mark.kwargs)
            except ConfigError as error:
                pytest.fail(f"@pytest.mark.cost: {error}", pytrace=False)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, None]:
        """Fail a test that has spent too much."""
        outcome = yield
        self._check(item, "call", outcome)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, None]:
        """The same for what its fixtures have spent since."""
        outcome = yield
        self._check(item, "teardown", outcome)

    def _check(self, item: pytest.Item, when: str, outcome: Any) -> None:
        spender = self._spenders.get(_name(item)) if self._spenders else None
        if spender is None or spender.ledger is None or spender.told:
            return
        broken = spender.ledger.broken()
        if not broken:
            return
        spender.told = True
        text = f"@pytest.mark.cost: {'; '.join(broken)}"
        error = outcome.excinfo
        if error is None or issubclass(error[0], pytest.skip.Exception):
            outcome.force_exception(pytest.fail.Exception(text, pytrace=False))
        else:
            item.add_report_section(when, "costs", text)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
        """Put what a test has spent on its last report: for JUnit, and for whoever runs the workers."""
        spender = self._spenders.get(_name(item)) if self._spenders and call.when == "teardown" else None
        if spender is None:
            yield
            return
        spender.close()
        group, tables = spender.spent()
        kept = [one for one in item.user_properties if one[0] not in PROPERTIES]
        item.user_properties[:] = [*kept, *_properties(group)]
        outcome = yield
        if self._is_worker:
            setattr(outcome.get_result(), CARGO, _packed(group, tables))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hear from a worker what a test has spent."""
        cargo = getattr(report, CARGO, None)
        if cargo is not None and not self._is_worker:
            self._hear(getattr(report, "node", None), cargo)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: Any) -> None:
        """Hear all of it again when the worker ends; one that crashed has lost what its last test had spent."""
        told = getattr(node, "workeroutput", None)
        if told is None:
            self._lost.append(str(node.gateway.id))
            return
        for cargo in told.get(CARGO, ()):
            self._hear(node, cargo)

    def _hear(self, node: Any, cargo: Any) -> None:
        group, tables = _unpacked(cargo)
        self._heard[getattr(getattr(node, "gateway", None), "id", ""), group.name] = group, tables

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Add it all up, and judge it."""
        spent = [spender.spent() for spender in self._spenders.values()]
        if self._is_worker:
            self._config.workeroutput[CARGO] = [_packed(*one) for one in spent]  # type: ignore[attr-defined]  # xdist's
            return
        spent += self._heard.values()
        if self._config.option.collectonly or not (spent or self._wanted):
            return
        from .gate import outcome_of

        self._outcome = outcome_of(spent, self._wanted, whole=int(exitstatus) in _FINISHED, passed=int(exitstatus) == 0)
        if self._outcome.failed and int(exitstatus) in (0, 5):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._outcome.booked:
            for plugin in self._config.pluginmanager.get_plugins():
                if hasattr(plugin, "add_global_property"):  # the writer of JUnit's XML
                    for name, value in _properties(self._outcome.report.total):
                        plugin.add_global_property(name, str(value))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the section of costs, where there is something to say."""
        if self._outcome is None or not (self._outcome.booked or self._outcome.failed):
            return
        from .text import lines_of

        terminalreporter.section("costs")
        for line, markup in lines_of(self._outcome, self._config.option.cost_top, self._lost):
            terminalreporter.write_line(line, **markup)


def _wanted(config: pytest.Config) -> Wanted | None:
    """What the options ask for; None where nothing is. Raises UsageError."""
    option = config.option
    if option.cost_top < 0:
        raise pytest.UsageError(f"--cost-top is a number of tests, not {option.cost_top}")
    asked = (
        option.cost_baseline, option.cost_compare_fail, option.cost_fail_if,
        option.cost_baseline_write, option.cost_baseline_required,
    )  # fmt: skip
    if not any(asked):
        return None
    from pricing.errors import ConfigError

    from .gate import read_wanted

    try:
        return read_wanted(option, config.invocation_params.dir)
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None


def _name(item: pytest.Item) -> str:
    """The test's id, whichever worker runs it: xdist writes the name of a group behind it."""
    name = item.nodeid
    if getattr(item.config.option, "loadgroup", False) and item.get_closest_marker("xdist_group"):
        return name.rpartition("@")[0] or name
    return name


def _properties(group: Group) -> list[tuple[str, object]]:
    """What JUnit's XML says of a test, or of all. A cost that nobody knows is not there."""
    if not group.requests:
        return []
    from pricing.money import Usd

    found: list[tuple[str, object]] = [] if group.cost is None else [("cost_usd", str(Usd(group.expected)))]
    found.append(("cost_tokens", group.input + group.output.expected))
    return [*found, ("cost_unpriced", group.without_price)] if group.without_price else found


def _packed(group: Group, tables: list[str]) -> list[Any]:
    """A group as lists, dictionaries, texts and numbers, which is what xdist can carry."""
    cells = [
        [*cell.key, cell.requests, {name: list(part) for name, part in cell.parts.items()}, cell.read]
        for cell in group.cells
    ]
    cost = None if group.cost is None else list(group.cost)
    return [group.name, group.requests, dict(group.unpriced), group.input, list(group.output), cost, cells, tables]


def _unpacked(cargo: Any) -> tuple[Group, list[str]]:
    from pricing.gate.report import Cell, Group, Part, Range

    name, requests, unpriced, read, output, cost, cells, tables = cargo
    return Group(
        name,
        "tests",
        requests,
        unpriced,
        0,
        read,
        Range(*output),
        None if cost is None else Range(*cost),
        None,
        "",
        tuple(
            Cell(model, tier, long, count, {part: Part(*pair) for part, pair in parts.items()}, day)
            for model, tier, long, count, parts, day in cells
        ),
    ), tables
