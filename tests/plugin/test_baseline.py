"""Law: a run is judged against its baseline by the gate's own judge; what it cannot know passes no rule unsaid."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from pricing.gate.report import load_report

from .conftest import baseline, section

Run = Callable[..., pytest.RunResult]

BASE = ("--cost-baseline=costs.json",)
WRITE = (*BASE, "--cost-baseline-write")
TWO = """
def test_one(book):
    book()

def test_two(book):
    book()
"""
MORE = TWO.replace("book()", "book(read=14)", 1)
DEARER = TWO.replace("book()", "book(model='gpt-4o')", 1)


def test_a_baseline_is_a_report_of_the_gate(run: Run, pytester: pytest.Pytester) -> None:
    """It has a group per test, whose cells are by model and tier, and it is the same when the costs are."""
    result = run(TWO, *WRITE)
    assert "the baseline is written to costs.json" in section(result)
    text = (pytester.path / "costs.json").read_text()
    report = load_report(pytester.path / "costs.json")
    assert [group.name for group in report.groups] == ["test_it.py::test_one", "test_it.py::test_two"]
    assert {group.kind for group in (*report.groups, report.total)} == {"tests"}
    assert report.total.requests == 2
    (cell,) = report.total.cells
    assert cell.key == ("gpt-4o-mini", "standard", False)
    assert {name: part.quantity for name, part in cell.parts.items()} == {"input": 16, "output": 40}
    run(TWO, *WRITE, "-n1")
    assert (pytester.path / "costs.json").read_text() == text


def test_a_rise_fails_the_run_and_says_why(run: Run) -> None:
    """The exit code is 1 though every test has passed; the change is split into its causes."""
    run(TWO, *WRITE)
    same = run(TWO, *BASE, "--cost-compare-fail=total:5%")
    assert same.ret == 0
    assert section(same)[-1].startswith("pass total: cost.expected is $0.000026 as before")
    result = run(MORE, *BASE, "--cost-compare-fail=total:1%")
    result.assert_outcomes(passed=2)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    lines = section(result)
    assert "against costs.json: $0.000026 → $0.000027, +$0.00000090 (+3.4%): tokens +$0.00000090" in lines
    assert any(line.startswith("  ~ test_it.py::test_one") and "input 8 → 14 tokens" in line for line in lines)
    assert lines[-1].startswith("FAIL total: cost.expected is $0.000027 ($0.000026 before), +$0.00000090 (+3.4%)")
    assert run(MORE, *BASE, "--cost-compare-fail=total:5%").ret == 0


def test_a_model_s_change_is_a_cause(run: Run) -> None:
    """Another model's price is told apart from tokens and volume."""
    run(TWO, *WRITE)
    lines = section(run(DEARER, *BASE))
    assert lines[3].startswith("against costs.json: $0.000026 → $0.00023")
    assert ": model +$0.00021" in lines[3]
    assert "(gpt-4o-mini → gpt-4o)" in lines[4]


@pytest.mark.parametrize(
    ("field", "fails"),
    [
        ("total:700%", True),
        ("total:800%", False),
        ("total:0.0002", True),
        ("total:+$0.001", False),
        ("test:100%", True),
        ("test:2000%", False),
        ("cost.expected:+5%", True),
        ("tokens:5%", False),
        ("requests:0", False),
        ("cost[*two]:1%", False),
        ("cost[*one]:1%", True),
    ],
)
def test_fields_are_the_whole_each_test_or_a_metric(run: Run, field: str, fails: bool) -> None:
    """A change in per cent or as an amount, of the total, of each test, or of any number that the gate knows."""
    run(TWO, *WRITE)
    result = run(DEARER, *BASE, f"--cost-compare-fail={field}")
    assert (result.ret == 1) is fails, section(result)


def test_a_fall_can_be_a_failure(run: Run) -> None:
    """A test that stopped doing its work is cheaper: a change with a minus is a guard against that."""
    run(TWO, *WRITE)
    source = TWO.replace("book()", "pass", 1)
    assert run(source, *BASE, "--cost-compare-fail=total:-10%").ret == 1
    assert run(source, *BASE, "--cost-compare-fail=test:-10%").ret == 1
    assert run(source, *BASE, "--cost-compare-fail=total:5%").ret == 0


def test_rules_need_no_baseline(run: Run) -> None:
    """--cost-fail-if takes the gate's own shorthand, several times; each that is broken is named."""
    result = run(
        TWO, "--cost-fail-if=cost.expected>0.00001", "--cost-fail-if=cost[*one]>1", "--cost-fail-if=requests>1"
    )
    assert result.ret == 1
    assert [line[:4] for line in section(result)[3:]] == ["FAIL", "FAIL", "pass"]


@pytest.mark.parametrize(
    ("given", "code", "word"),
    [((), 1, "FAIL"), (("--cost-unpriced=warn",), 0, "WARN"), (("--cost-unpriced=ignore",), 0, "")],
)
def test_no_rule_passes_on_an_unknown_price(run: Run, given: tuple[str, ...], code: int, word: str) -> None:
    """A call without a price fails the run under a rule, unless that is said to be allowed."""
    source = TWO + "\ndef test_unknown(book):\n    book(model='nobody-knows')\n"
    result = run(source, "--cost-fail-if=cost>5", *given)
    assert result.ret == code
    assert [line for line in section(result) if line.startswith(f"{word} ")] or not word
    assert run(source).ret == 0


def test_a_missing_baseline_is_told(run: Run) -> None:
    """It passes with a warning; --cost-baseline-required makes it fail."""
    result = run(TWO, *BASE, "--cost-compare-fail=total:5%")
    assert result.ret == 0
    assert "there is no baseline costs.json; --cost-baseline-write makes one" in section(result)
    result = run(TWO, *BASE, "--cost-compare-fail=total:5%", "--cost-baseline-required")
    assert result.ret == 1
    assert section(result)[-1].startswith("FAIL there is no baseline costs.json")


def test_a_baseline_is_written_by_a_good_run_alone(run: Run, pytester: pytest.Pytester) -> None:
    """Not where a test failed, a rule is broken, nothing was booked, or the run was interrupted."""
    run(TWO, "--cost-baseline=kept/costs.json", "--cost-baseline-write")
    file = pytester.path / "kept" / "costs.json"
    before = file.read_text()
    write = ("--cost-baseline=kept/costs.json", "--cost-baseline-write")
    assert "for not all tests" in section(run(TWO + "    assert not book", *write))[-1]
    assert run(DEARER, *write, "--cost-compare-fail=total:5%").ret == 1
    assert run("def test_it(): pass", *write).ret == 0
    interrupted = run(TWO + "    raise KeyboardInterrupt", *write, "--cost-compare-fail=total:5%", apart=True)
    assert "the run was interrupted" in section(interrupted)[-1]
    assert file.read_text() == before
    assert [one.name for one in file.parent.iterdir()] == ["costs.json"]
    run(DEARER, *write)
    assert file.read_text() != before


def test_a_baseline_that_cannot_be_written_fails(run: Run, pytester: pytest.Pytester) -> None:
    """A folder in its place is told, after the tests, with exit code 1."""
    (pytester.path / "file").write_text("")
    result = run(TWO, "--cost-baseline=file/costs.json", "--cost-baseline-write")
    assert result.ret == 1
    assert section(result)[-1].startswith("FAIL the baseline file/costs.json cannot be written")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--cost-baseline-write",), "--cost-baseline-write: say which"),
        (("--cost-baseline-required",), "--cost-baseline-required: say which"),
        (("--cost-compare-fail=total:5%",), "say what to compare with"),
        ((*BASE, "--cost-compare-fail=total"), "expected a field and a change"),
        ((*BASE, "--cost-compare-fail=total:"), "expected a field and a change"),
        ((*BASE, "--cost-compare-fail=cost.expectd:5%"), "unknown metric 'cost.expectd'*did you mean"),
        ((*BASE, "--cost-compare-fail=total:five"), "--cost-compare-fail 'total:five': not an amount"),
        (("--cost-fail-if=cots>5",), "--cost-fail-if: unknown metric 'cots'"),
        (("--cost-fail-if=cost",), "--cost-fail-if: 'cost' is no rule"),
        (("--cost-baseline=bad.json",), "bad.json: no JSON"),
        (("--cost-baseline=new.json",), "is newer than this ratecard knows"),
        (("--cost-baseline=.",), "cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_told_before_a_test_runs(
    run: Run, pytester: pytest.Pytester, options: tuple[str, ...], says: str
) -> None:
    """A usage error, before anything is spent."""
    (pytester.path / "bad.json").write_text("{")
    (pytester.path / "new.json").write_text(json.dumps({"schema_version": 99, "groups": []}))
    result = run(TWO, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{says}*".replace("[", "[[]")])


def test_workers_are_judged_once(run: Run, pytester: pytest.Pytester) -> None:
    """With pytest-xdist the controller alone reads the baseline, judges and writes."""
    run(TWO, *WRITE, "-n1")
    assert sorted(baseline(pytester)) == ["test_one", "test_two"]
    result = run(MORE, *BASE, "--cost-compare-fail=total:1%", "-n1")
    result.assert_outcomes(passed=2)
    assert result.ret == 1
    assert len([line for line in section(result) if line.startswith("FAIL")]) == 1
