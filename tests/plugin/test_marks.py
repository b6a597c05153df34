"""Law: a test's ledger has what its calls cost, and no test passes that has spent more than its marks allow."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from pricing.errors import ConfigError
from pricing.money import Usd
from ratelimit.emulator import Emulator
from ratelimit.pytest_plugin.ledger import Cap, read_cap

Run = Callable[..., pytest.RunResult]


def test_a_ledger_has_what_its_test_spends(run: Run) -> None:
    """Each test begins at nothing, and its entries name it as their run and by a tag; a program's own names stay."""
    result = run(
        """
        import pricing
        import pytest

        @pytest.mark.parametrize("times", [1, 2])
        def test_books(ask, cost_ledger, request, times):
            for _ in range(times):
                ask()
            assert cost_ledger.totals().posted_count == times
            assert cost_ledger.totals().posted > pricing.Usd.ZERO
            assert {entry.run for entry in cost_ledger.entries()} == {request.node.nodeid}
            assert {entry.tags["test"] for entry in cost_ledger.entries()} == {request.node.nodeid}
            assert isinstance(cost_ledger, pricing.Ledger)

        def test_own_names(ask, cost_ledger):
            with pricing.tags(test="mine", team="a"):
                ask()
            cost_ledger.pend(model="o3", endpoint="/v1/responses", estimate=None, run="job")
            first, second = cost_ledger.entries()
            assert (first.tags, second.run) == ({"test": "mine", "team": "a"}, "job")
        """
    )
    result.assert_outcomes(passed=3)


def test_more_than_max_usd_fails_the_test(run: Run) -> None:
    """The failure names what was spent and what was allowed; exactly as much passes."""
    result = run(
        """
        import pytest

        @pytest.mark.cost(max_usd="0.0000131")
        def test_over(ask):
            ask()

        @pytest.mark.cost(max_usd="0.0000132")
        def test_within(ask):
            ask()
        """
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["@pytest.mark.cost: $0.0000132 spent, max_usd is 0.0000131 (+0.8%)"])


def test_a_broken_mark_stops_the_spending(run: Run, server: Emulator) -> None:
    """The call after the one that went over is not sent, and a test that catches the refusal fails all the same."""
    before = server.counters()["requests"]
    result = run(
        """
        import pytest
        import ratelimit

        @pytest.mark.cost(max_usd="0.00001")
        def test_goes_on(ask):
            ask()
            for _ in range(5):
                with pytest.raises(ratelimit.OverBudget, match="not sent.*max_usd is 0.00001"):
                    ask()
        """
    )
    result.assert_outcomes(failed=1)
    assert server.counters()["requests"] - before == 1


def test_tokens_are_counted(run: Run) -> None:
    """max_tokens is about what was read and written together; a call without a price has tokens as well."""
    result = run(
        """
        import pytest

        @pytest.mark.cost(max_tokens=27)
        def test_over(ask):
            ask()

        @pytest.mark.cost(max_tokens=28)
        def test_within(ask):
            ask()

        @pytest.mark.cost(max_tokens=27)
        def test_unpriced(ask):
            ask(model="nobody-knows")
        """
    )
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(["*28 tokens used, max_tokens is 27"])


def test_every_mark_holds(run: Run) -> None:
    """That of the class and that of the function: the tighter one fails, wherever it stands."""
    result = run(
        """
        import pytest

        @pytest.mark.cost(max_usd="0.00001")
        class TestTight:
            @pytest.mark.cost(max_usd="1")
            def test_of_the_class(self, ask):
                ask()

        @pytest.mark.cost(max_usd=1)
        class TestWide:
            @pytest.mark.cost(max_tokens=5)
            def test_of_the_function(self, ask):
                ask()

            def test_within(self, ask):
                ask()
        """
    )
    result.assert_outcomes(failed=2, passed=1)


def test_block_sends_nothing_that_could_cost_more(run: Run, server: Emulator) -> None:
    """With block=True the worst case has to fit before the call; a cap on the output makes it fit."""
    before = server.counters()["requests"]
    result = run(
        """
        import pytest
        import ratelimit

        @pytest.mark.cost(max_usd="0.05", block=True)
        def test_uncapped(ask):
            ask(model="o3")

        @pytest.mark.cost(max_usd="0.05", block=True)
        def test_capped(ask):
            ask(model="o3", max_output_tokens=1000)

        @pytest.mark.cost(max_usd="0.05", block=True)
        def test_unpriced(ask):
            with pytest.raises(ratelimit.OverBudget, match="no price"):
                ask(model="nobody-knows")

        @pytest.mark.cost(max_usd="0.05", block=True, unpriced="allow")
        def test_allowed(ask):
            ask(model="nobody-knows")
        """
    )
    result.assert_outcomes(failed=1, passed=3)
    result.stdout.fnmatch_lines(["*OverBudget: @pytest.mark.cost(max_usd=…, block=True): *may cost up to*"])
    assert server.counters()["requests"] - before == 2


def test_what_has_no_price_fails_unless_it_is_allowed(run: Run) -> None:
    """An unknown price is not $0: the reason is told, and so is the way out."""
    result = run(
        """
        import pytest

        @pytest.mark.cost(max_usd=100)
        def test_unknown(ask):
            ask(model="nobody-knows")

        @pytest.mark.cost(max_usd=100, unpriced="allow")
        def test_allowed(ask):
            ask(model="nobody-knows")
        """
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*without a price (1 × no price row for 'nobody-knows')*unpriced=\"allow\"*"])


def test_what_fixtures_spend_is_the_test_s(run: Run) -> None:
    """A fixture that spends too much before the test fails it; one that does so after it is an error of its end."""
    result = run(
        """
        import pytest

        @pytest.fixture
        def early(ask):
            ask()

        @pytest.fixture
        def late(ask):
            yield
            ask()

        @pytest.mark.cost(max_usd="0.00001")
        def test_early(early):
            pass

        @pytest.mark.cost(max_usd="0.00001")
        def test_late(late):
            pass
        """
    )
    result.assert_outcomes(failed=1, passed=1, errors=1)


def test_a_test_s_own_end_is_its_own(run: Run) -> None:
    """A failure stays, with the costs beside it; a skip does not hide them; an expected failure is one."""
    result = run(
        """
        import pytest

        pytestmark = pytest.mark.cost(max_usd="0.00001")

        def test_fails(ask):
            ask()
            assert 1 == 2

        def test_skips(ask):
            ask()
            pytest.skip("enough")

        @pytest.mark.xfail(strict=True)
        def test_is_known(ask):
            ask()
        """
    )
    result.assert_outcomes(failed=2, xfailed=1)
    result.stdout.fnmatch_lines(["E * assert 1 == 2", "*Captured costs call*", "@pytest.mark.cost: *spent*"])


def test_any_kind_of_test_has_a_ledger(run: Run, pytester: pytest.Pytester) -> None:
    """Methods of unittest, doctests and tests of asynchronous code book, and marks hold for them."""
    pytester.makefile(".txt", test_doc=">>> getfixture('ask')().usage.total_tokens\n28\n")
    result = run(
        """
        import asyncio
        import os
        import unittest
        from datetime import date

        import openai
        import pytest

        import ratelimit

        class TestOld(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _asks(self, ask):
                self.ask = ask

            @pytest.mark.cost(max_usd="0.00001")
            def test_method(self):
                self.ask()

            def test_another(self):
                self.ask()

        @pytest.mark.cost(max_usd="0.00001")
        def test_async(cost_ledger):
            async def main():
                async with openai.AsyncOpenAI(base_url=os.environ["EMULATOR"], api_key="x") as plain:
                    client = ratelimit.wrap(
                        plain, limits={"rpm": 1000}, ledger=cost_ledger, at=date(2026, 9, 15)
                    )
                    calls = [client.responses.create(model="gpt-4o-mini", input="hello") for _ in range(3)]
                    await asyncio.gather(*calls)
            asyncio.run(main())
            assert cost_ledger.totals().posted_count == 3
        """,
        "--doctest-glob=*.txt",
    )
    result.assert_outcomes(failed=2, passed=2)
    result.stdout.fnmatch_lines(["*in 4 tests: 6 calls, 168 tokens"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("0.05", "max_usd is never a float"),
        ("True", "max_usd is never a bool"),
        ("-1", "below 0"),
        ("'-1'", "less than nothing"),
        ("'five'", "not an amount"),
        ("[1]", "a text such as"),
    ],
)
def test_an_amount_that_is_none_is_refused(arguments: str, says: str) -> None:
    """Money is a text, a whole number or a Decimal; what is wrong is said."""
    with pytest.raises(ConfigError, match=says):
        read_cap((), {"max_usd": eval(arguments)})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "says what a test may cost"),
        ({"unpriced": "allow"}, "says what a test may cost"),
        ({"max_dollars": 1}, "max_dollars is unknown; there are max_usd"),
        ({"max_tokens": 5.0}, "whole number of tokens"),
        ({"max_tokens": True}, "whole number of tokens"),
        ({"max_usd": 1, "unpriced": "maybe"}, '"fail" or "allow"'),
        ({"max_usd": 1, "block": 1}, "True or False"),
        ({"max_tokens": 1, "block": True}, "needs a max_usd"),
        ({"max_usd": 0, "block": True}, "needs a max_usd"),
    ],
)
def test_a_mark_that_makes_no_sense_is_refused(given: dict[str, Any], says: str) -> None:
    """Every wrong argument is named."""
    with pytest.raises(ConfigError, match=says):
        read_cap((), given)


def test_amounts_are_read_as_people_write_them() -> None:
    """Text, with its currency or without, whole numbers and Decimals are exact; calls without a price need a word."""
    for given in ("0.05", "$0.05", "0.05 USD", Decimal("0.05")):
        assert read_cap((), {"max_usd": given}) == Cap(Usd.parse("0.05"), None, unpriced=False, block=False)
    assert read_cap((), {"max_usd": 2}).largest == Usd.parse(2)
    assert read_cap((), {"max_usd": 0}).largest == Usd.ZERO
    assert read_cap((), {"max_tokens": 5_000}) == Cap(None, 5_000, unpriced=True, block=False)
    assert not read_cap((), {"max_tokens": 5_000, "unpriced": "fail"}).unpriced


def test_a_wrong_mark_is_an_error_of_its_test_alone(run: Run, server: Emulator) -> None:
    """It is told before the test runs, in one line; the others run, and another project's own `cost` is let alone."""
    before = server.counters()["requests"]
    result = run(
        """
        import pytest

        @pytest.mark.cost(max_usd=0.05)
        def test_float(ask):
            ask()

        @pytest.mark.cost(max_usd=0.05)
        def test_without_a_ledger():
            pass

        @pytest.mark.cost("0.05")
        def test_unnamed(ask):
            ask()

        @pytest.mark.cost("high", owner="team-a")
        def test_of_others():
            pass

        @pytest.mark.cost
        def test_bare_of_others():
            pass
        """
    )
    result.assert_outcomes(errors=3, passed=2)
    result.stdout.fnmatch_lines(['@pytest.mark.cost: max_usd is never a float: write it as text, max_usd="0.05"'])
    assert server.counters()["requests"] == before
