"""Reports as files: what is read is what was written, to the byte; and what is wrong with one is said with its key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pricing.errors import ConfigError
from pricing.gate.booked import together
from pricing.gate.report import MOST_REASONS, SCHEMA_VERSION, Cell, Part, Report, dumps, load_report

from .builders import group, report, reports

SOME = report(group("a.jsonl", (Cell("o3", "standard", False, 10, {"input": Part(100, 200), "output": Part(5, 40)}),)))


@given(reports)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_is_what_was_written(tmp_path: Path, made: Report) -> None:
    """Every number comes back, and what comes back is written as the same bytes."""
    path = tmp_path / "report.json"
    path.write_text(dumps(made))
    found = load_report(path)
    assert found.header == made.header
    assert found.named() == {
        one.name: one._replace(cells=tuple(sorted(one.cells, key=lambda cell: cell.key))) for one in made.groups
    }
    assert found.total == made.total
    assert dumps(found) == path.read_text()


@given(reports, st.randoms())
def test_the_order_of_groups_changes_nothing(made: Report, random: Any) -> None:
    """The same groups in another order, with cells in another order: the same bytes."""
    shuffled = [one._replace(cells=tuple(random.sample(one.cells, len(one.cells)))) for one in made.groups]
    random.shuffle(shuffled)
    assert dumps(made._replace(groups=tuple(shuffled))) == dumps(made)


def _set(*path: Any, to: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_set("schema_version", to=SCHEMA_VERSION + 1), "schema_version: 2 is newer than this ratecard knows"),
        (_set("schema_version", to="1"), "this is no report of ratecard"),
        (_set("schema_version", to=0), "schema_version: there has never been a version 0"),
        (_set("groups", 0, "requests", to=-1), "groups[0].requests: expected a whole number, found -1"),
        (_set("groups", 0, "cost", "p50", to=1.5), "groups[0].cost.p50: expected a decimal number as a text"),
        (_set("groups", 0, "cost", "p50", to="-1"), "groups[0].cost.p50: expected nothing below 0"),
        (_set("groups", 0, "cost", "p50", to="1e5x"), "groups[0].cost.p50: expected a decimal number as a text"),
        (_set("groups", 0, "cost", "expected", to="1"), "groups[0].cost.expected: is not the sum of its cells"),
        (_set("groups", 0, "cells", 0, "long", to="no"), "groups[0].cells[0].long: expected true or false"),
        (_set("groups", 0, "cells", 0, "requests", to=0), "groups[0].cells[0].requests: expected a number above 0"),
        (_set("groups", 0, "cells", 0, "parts", "input", to=[]), "groups[0].cells[0].parts.input: expected an object"),
        (_set("groups", 0, "name", to="total"), "groups: 'total' is no name for a group"),
        (_set("groups", to={}), "groups: expected a list, found {}"),
        (_set("total", to=None), "total: expected an object, found null"),
        (_set("header", "at", to=None), "header.at: expected a text, found null"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_key(tmp_path: Path, change: Callable[[Any], None], words: str) -> None:
    """One message: file, key, what was expected and what was found."""
    document = json.loads(dumps(SOME))
    change(document)
    path = tmp_path / "old.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError) as error:
        load_report(path)
    assert str(error.value).startswith(f"{path}: {words}")


@pytest.mark.parametrize("text", ["", "[", "[1]", '{"a": NaN}', "[" * 100_000, "\x00", '{"schema_version": 1}'])
def test_what_is_no_report_is_none(tmp_path: Path, text: str) -> None:
    """Any other file: one message with its name, and no traceback."""
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"old\.json"):
        load_report(path)


def test_a_report_with_a_day_that_is_none_is_refused(tmp_path: Path) -> None:
    """The day of a report is a date: overrides and the age of prices are reckoned by it."""
    path = tmp_path / "old.json"
    path.write_text(dumps(SOME).replace('"2026-11-25"', '"2026-13-45"'))
    with pytest.raises(ConfigError, match=r"header\.at: expected a date"):
        load_report(path)


def test_a_whole_of_many_reasons_adds_up(tmp_path: Path) -> None:
    """More reasons for having no price than are kept apart: whoever wrote the whole, it is read as what it is."""
    some = [group(f"g{which}", unpriced={f"no {which} {n:03d}": n + 1 for n in range(80)}) for which in "ab"]
    whole = together(some)
    assert sum(whole.unpriced.values()) == 2 * sum(range(1, 81))
    assert len(whole.unpriced) == MOST_REASONS + 1
    path = tmp_path / "report.json"
    path.write_text(dumps(Report(SOME.header, tuple(some), whole)))
    assert load_report(path).total.unpriced == whole.unpriced
