"""Law: a run tells what its tests cost, whoever runs them, and says nothing where no test asked."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ratelimit.emulator import Emulator

from .conftest import baseline, section

Run = Callable[..., pytest.RunResult]

THREE = """
import pytest

def test_cheap(book):
    book()

def test_dear(book):
    book(model="o3")

@pytest.mark.parametrize("number", range(3))
def test_several(book, number):
    for _ in range(number):
        book()

def test_free():
    pass
"""


def test_the_section_lists_the_dearest_first(run: Run) -> None:
    """The sum, then tests by what they cost; those that booked nothing are not there."""
    lines = section(run(THREE))
    assert lines[0] == "$0.00023 in 4 tests: 5 calls, 140 tokens"
    assert [line.rpartition("::")[2] for line in lines[1:]] == [
        "test_dear", "test_several[2]", "test_cheap", "test_several[1]",
    ]  # fmt: skip
    assert lines[1].split() == ["$0.00018", "1", "call", "28", "tokens", "test_it.py::test_dear"]


def test_the_list_is_as_long_as_one_likes(run: Run) -> None:
    """--cost-top cuts it, and says so; 0 shows all; less than that is none."""
    assert section(run(THREE, "--cost-top=1"))[2] == "  and 3 more (--cost-top=0 shows all)"
    many = "def test_many(book): book()\n" + "".join(f"def test_{n}(book): book()\n" for n in range(11))
    assert "  and 2 more (--cost-top=0 shows all)" in section(run(many))
    assert len(section(run(many, "--cost-top=0"))) == 13
    result = run(THREE, "--cost-top=-1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--cost-top is a number of tests, not -1"])


def test_calls_without_a_price_are_told(run: Run) -> None:
    """They are counted by reason, and are in no sum; so are calls of which nobody knows the end."""
    lines = section(
        run(
            """
            from pricing import Usd

            def test_unknown(book):
                book()
                book(model="nobody-knows")

            def test_open(cost_ledger):
                entry = cost_ledger.pend(model="o3", endpoint="/v1/responses", estimate=Usd.parse("0.02"))
                cost_ledger.expire(entry, "cut")
                cost_ledger.pend(model="o3", endpoint="/v1/responses", estimate=Usd.parse("0.01"))
            """
        )
    )
    assert lines[0].startswith("$0.03 in 2 tests: 4 calls")
    assert lines[3:] == [
        "without a price, and in no sum: 1 call",
        "  1 × no price row for 'nobody-knows'",
        "of it $0.01 are the estimates of 1 call not ended",
        "of it $0.02 are the estimates of 1 call of unknown end",
    ]


def properties(node: ElementTree.Element) -> dict[str, str]:
    return {one.attrib["name"]: one.attrib["value"] for one in node.findall("properties/property")}


@pytest.mark.parametrize("workers", ["0", "2"])
def test_junit_has_what_each_test_cost(run: Run, pytester: pytest.Pytester, workers: str) -> None:
    """Properties of each test that booked, and of the suite, exact; a cost that nobody knows is not there."""
    source = THREE + "\ndef test_unknown(book):\n    book(model='nobody-knows')\n"
    run(source, "--junitxml=junit.xml", f"-n{workers}")
    suite = ElementTree.parse(pytester.path / "junit.xml").getroot()[0]
    cases = {case.attrib["name"]: properties(case) for case in suite.iter("testcase")}
    assert cases["test_dear"] == {"cost_usd": "0.000176", "cost_tokens": "28"}
    assert cases["test_several[2]"] == {"cost_usd": "0.0000264", "cost_tokens": "56"}
    assert cases["test_unknown"] == {"cost_tokens": "28", "cost_unpriced": "1"}
    assert cases["test_free"] == cases["test_several[0]"] == {}
    assert properties(suite) == {"cost_usd": "0.0002288", "cost_tokens": "168", "cost_unpriced": "1"}


def test_workers_tell_their_costs(run: Run) -> None:
    """With pytest-xdist the section is the same, once, and marks hold in the workers."""
    held = THREE + "\n@pytest.mark.cost(max_usd=0)\ndef test_held(ask): ask()\n"
    alone, shared = run(held), run(held, "-n2")
    assert section(shared) == section(alone)
    shared.assert_outcomes(passed=6, failed=1)


def test_a_group_of_xdist_is_no_part_of_a_name(run: Run, pytester: pytest.Pytester) -> None:
    """A test that runs in a group has the name that it has elsewhere, so that baselines compare."""
    source = "import pytest\n@pytest.mark.xdist_group('a')\ndef test_it(book): book()"
    run(source, "-n1", "--dist=loadgroup", "--cost-baseline=costs.json", "--cost-baseline-write")
    assert list(baseline(pytester)) == ["test_it"]


def test_a_crash_loses_the_costs_of_one_test(run: Run) -> None:
    """What the tests before it had spent is there, and the section says that something is missing."""
    result = run(
        """
        import os

        def test_before(book):
            book()

        def test_crashes(book):
            book()
            os._exit(1)
        """,
        "-n1",
    )
    result.assert_outcomes(passed=1, failed=1)
    lines = section(result)
    assert lines[0].startswith("$0.000013 in 1 test: 1 call")
    assert lines[-1] == "gw0 crashed: what the test that was running there had spent is in no sum"


@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_runs_again_is_paid_again(run: Run, workers: str) -> None:
    """A rerun test has spent what all of its runs have, and a mark is about each run."""
    result = run(
        """
        import pytest

        tries = []

        @pytest.mark.cost(max_usd="0.00002")
        @pytest.mark.flaky(reruns=2)
        def test_flaky(book, cost_ledger):
            book()
            tries.append(1)
            assert cost_ledger.totals().posted_count == 1
            assert len(tries) == 3
        """,
        f"-n{workers}", "--junitxml=junit.xml",
    )  # fmt: skip
    result.assert_outcomes(passed=1)
    assert section(result)[0].startswith("$0.000040 in 1 test: 3 calls")


def test_nothing_is_lost_where_a_test_ends_early(run: Run) -> None:
    """Errors of setup and teardown, failures, and Ctrl-C keep what was spent; -x ends the run as ever."""
    source = """
        import pytest

        @pytest.fixture
        def broken(book):
            book()
            raise OSError("setup")

        @pytest.fixture
        def leaking(book):
            yield
            book()
            raise OSError("teardown")

        def test_setup(broken): pass
        def test_teardown(leaking): pass
        def test_fails(book):
            book()
            assert not book
        def test_stops(book):
            book()
            raise KeyboardInterrupt
        def test_never_runs(book):
            book()
        """
    result = run(source, apart=True)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert section(result)[0].endswith("in 4 tests: 4 calls, 112 tokens")
    assert section(run(source, "-x"))[0].endswith("in 1 test: 1 call, 28 tokens")


def test_news_that_come_after_the_test_count(run: Run) -> None:
    """A call that ends after its test is in the sum with its bill, not with its estimate."""
    source = """
        import pytest
        from pricing import Usage, Usd, cost

        @pytest.fixture(scope="session")
        def late():
            todo = []
            yield todo
            for ledger, entry in todo:
                usage = Usage(1_000_000)
                ledger.post(entry, usage=usage, cost=cost(usage, model="gpt-4o-mini"))

        def test_it(cost_ledger, late):
            entry = cost_ledger.pend(model="gpt-4o-mini", endpoint="/v1/responses", estimate=Usd.parse(7))
            late.append((cost_ledger, entry))
        """
    for options in ((), ("-n1",)):
        assert section(run(source, *options))[0] == "$0.15 in 1 test: 1 call, 1,000,000 tokens"


def test_who_does_not_use_it_does_not_notice(run: Run, pytester: pytest.Pytester) -> None:
    """No section, no property, no change of the exit code; the same where tests are only listed, or none is chosen."""
    pytester.makeini("[pytest]\naddopts = --cost-baseline=costs.json --cost-compare-fail=total:5%")
    plain = "def test_it(): pass"
    for source, options, code in (
        (plain, ("--junitxml=junit.xml",), 0),
        (plain, ("-n1",), 0),
        (THREE, ("--co",), 0),
        (THREE, ("-k", "nothing"), 5),
        (THREE, ("-k", "free"), 0),
    ):
        result = run(source, *options)
        assert result.ret == code
        assert "cost" not in result.stdout.str().replace("costs.json", "")
    assert "cost" not in (pytester.path / "junit.xml").read_text()


def test_it_can_be_switched_off(run: Run) -> None:
    """-p no:ratecard takes out the fixture, the mark and the options."""
    result = run(THREE, "-p", "no:ratecard")
    result.assert_outcomes(errors=5, passed=1)
    result.stdout.fnmatch_lines(["*fixture 'cost_ledger' not found"])


def test_it_is_announced(run: Run) -> None:
    """pytest lists its mark and its fixture with what they are for."""
    run("def test_it(): pass", "--markers").stdout.fnmatch_lines(["@pytest.mark.cost(max_usd, *): the test fails*"])
    run("def test_it(): pass", "--fixtures").stdout.fnmatch_lines(["cost_ledger*", "*ratelimit.wrap*"])


def test_the_page_s_example_runs_and_every_option_is_on_it(
    run: Run, server: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/pytest.md: its tests pass as they stand there, and it names whatever --help does."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "pytest.md").read_text(encoding="utf-8")
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    result = run(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    result.assert_outcomes(passed=1)
    assert section(result)[0].partition(", ")[0].endswith("in 1 test: 1 call")
    options = set(re.findall(r"--cost-[a-z-]+", run("", "--help").stdout.str()))
    assert len(options) == 7
    assert {one for one in options if f"`{one}" not in page} == set()


def test_importing_it_loads_nothing_heavy() -> None:
    """Everybody's pytest loads it, so it brings no client, no tokenizer, no tables and no numbers along."""
    heavy = {"openai", "httpx", "httpx2", "numpy", "pandas", "tiktoken", "yaml", "jiter", "rich", "click", "starlette"}
    code = "import sys, ratelimit.pytest_plugin; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not heavy & set(loaded)
    assert "pytest" in loaded
