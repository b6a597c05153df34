"""Law: Usd is exact. The oracles are Decimal and Fraction, which share no code with it."""

from __future__ import annotations

import copy
import decimal
import pickle
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pricing.budget import Budget
from pricing.errors import ConfigError
from pricing.money import PICO, Usd

picos = st.integers(-(10**27) + 1, 10**27 - 1)
amounts = st.builds(Usd, picos)
decimals = st.decimals(-(10**14), 10**14, allow_nan=False, allow_infinity=False, places=12)


def fraction(amount: Usd) -> Fraction:
    return Fraction(amount.pico, PICO)


@given(amounts)
def test_what_is_printed_is_read_back(amount: Usd) -> None:
    """str, repr and decimal lose nothing: reading them gives the same amount."""
    assert Usd.parse(str(amount)) == amount
    assert eval(repr(amount), {"Usd": Usd}) == amount
    assert Fraction(amount.decimal()) == fraction(amount)
    assert Usd.parse(amount.decimal()) == amount


@given(decimals)
def test_parse_agrees_with_decimal(value: Decimal) -> None:
    """A text with up to 12 decimals is read as exactly that number, with or without a dollar sign."""
    text = f"{value:f}"
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    for written in (text, f" {sign}${digits} ", value):
        assert fraction(Usd.parse(written)) == Fraction(value)


@given(st.integers(-(10**15) + 1, 10**15 - 1))
def test_whole_dollars_are_read_from_integers_and_grouped_text(dollars: int) -> None:
    """25, "25", and "1,234" with its thousands marked, are whole dollars."""
    assert Usd.parse(dollars).pico == dollars * PICO
    assert Usd.parse(f"{dollars:,}").pico == dollars * PICO


@given(st.integers(-(10**13), 10**13))
def test_formatted_cents_are_read_back(cents: int) -> None:
    """The text printed for people, "-$1,234.50", is an amount that can be typed in again."""
    amount = Usd(cents * (PICO // 100))
    assert Usd.parse(amount.format(2)) == amount


@given(amounts, amounts, amounts)
def test_addition_agrees_with_fractions(a: Usd, b: Usd, c: Usd) -> None:
    """Sums and differences are those of Fraction, in any order."""
    assert fraction(a + b) == fraction(a) + fraction(b)
    assert fraction(a - b) == fraction(a) - fraction(b)
    assert (a + b) + c == a + (b + c) == sum([c, b, a])
    assert a - a == Usd.ZERO
    assert -a + a == Usd.ZERO


@given(st.lists(amounts))
def test_sum_needs_no_start(values: list[Usd]) -> None:
    """sum() of amounts is their exact sum, however many there are."""
    expected = sum((fraction(value) for value in values), Fraction(0))
    assert fraction(sum(values, Usd.ZERO)) == expected
    if values:
        assert fraction(sum(values)) == expected  # type: ignore[arg-type]


@given(amounts, amounts)
def test_order_hash_and_equality_agree_with_fractions(a: Usd, b: Usd) -> None:
    """Comparisons are those of the numbers; equal amounts have equal hashes."""
    x, y = fraction(a), fraction(b)
    assert (a < b, a <= b, a == b, a != b, a >= b, a > b) == (x < y, x <= y, x == y, x != y, x >= y, x > y)
    assert Usd(a.pico) == a
    assert hash(Usd(a.pico)) == hash(a)
    assert len({a, b, Usd(a.pico)}) == len({x, y})
    assert bool(a) == bool(x)


@given(amounts, st.integers(-(10**9), 10**9))
def test_multiplication_is_exact(amount: Usd, times: int) -> None:
    """An amount times a count is exact from either side."""
    assert fraction(amount * times) == fraction(times * amount) == fraction(amount) * times


@given(amounts, st.integers(0, 12))
@example(Usd(-1), 0)
@example(Usd(PICO // 2), 0)
@example(Usd(-PICO // 2), 0)
def test_format_rounds_half_up(amount: Usd, places: int) -> None:
    """Printing with n places rounds half away from zero, as Decimal's ROUND_HALF_UP does, and never prints "-$0"."""
    with decimal.localcontext(prec=60):
        expected = amount.decimal().quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_UP)
    sign = "-" if expected < 0 else ""
    assert amount.format(places) == f"{sign}${expected.copy_abs():,f}"


@given(st.integers(1, PICO // 100 - 1))
def test_small_amounts_keep_two_digits(pico: int) -> None:
    """An amount under a cent is never printed as nothing: it is within 5 % of the truth."""
    printed = Fraction(Usd(pico).format().removeprefix("$"))
    assert abs(printed - Fraction(pico, PICO)) <= Fraction(pico, PICO) / 20
    assert printed > 0


@pytest.mark.parametrize(
    ("pico", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000000001"),
        (9_999_999_999, "$0.0100"),
        (60 * 10**9, "$0.06"),
        (1_234_500 * 10**9, "$1,234.50"),
        (-1_234_500 * 10**9, "-$1,234.50"),
        (1_005 * 10**9, "$1.01"),
    ],
)
def test_format_for_people(pico: int, text: str) -> None:
    """Amounts print as people write them."""
    assert Usd(pico).format() == text


@given(amounts, st.integers(0, 15), st.sampled_from(["", ">40", "<40", "^+40,", "040", "*^40", " ", ","]))
def test_format_specs_agree_with_decimal(amount: Usd, places: int, layout: str) -> None:
    """An f-string writes an amount as it writes the same Decimal: sign, width, commas, and decimals rounded half up."""
    exact = amount.decimal()
    rounded = exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, decimal.Context(prec=60))
    assert f"{amount:{layout}.{places}f}" == f"{rounded:{layout}.{places}f}"
    assert f"{amount:{layout}.{places}}" == f"{amount:{layout}.{places}f}"
    assert f"{amount:{layout}}" == (f"{exact:{layout}f}" if layout else str(amount))


@pytest.mark.parametrize(
    ("pico", "spec", "text"),
    [
        (60_000_000_000, "", "0.06"), (60_000_000_000, ">10", "      0.06"), (1, "", "0.000000000001"),
        (1, "<16", "0.000000000001  "), (1_234_565_000_000_000, ",.2f", "1,234.57"), (25_000_000_000, ".2f", "0.03"),
        (-1_500_000_000_000, "+08.1f", "-00001.5"), (0, ".2f", "0.00"), (5 * PICO, "e", "5e+0"), (1, ".2", "0.00"),
    ],
)  # fmt: skip
def test_amounts_in_f_strings(pico: int, spec: str, text: str) -> None:
    """The ways people write amounts into tables and messages, spelt out."""
    assert format(Usd(pico), spec) == text


@pytest.mark.parametrize("spec", ["d", "s", "x", ".", "abc", ">10q"])
def test_a_format_for_no_number_is_refused(spec: str) -> None:
    """A spec that is none for a Decimal is a ValueError, as with every number."""
    with pytest.raises(ValueError, match="format"):
        format(Usd(1), spec)


@pytest.mark.parametrize("places", [-1, 13])
def test_impossible_places_are_refused(places: int) -> None:
    """A number of decimals that no amount has is refused instead of computed with floats."""
    with pytest.raises(ConfigError, match="0 to 12"):
        Usd.ZERO.format(places)


@given(st.floats() | st.booleans())
def test_floats_and_booleans_are_refused(value: float) -> None:
    """Floats stop at the door: neither parse, the constructor nor arithmetic takes one."""
    with pytest.raises(TypeError, match="never a"):
        Usd.parse(value)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="whole pico-dollars"):
        Usd(value)  # type: ignore[arg-type]
    for operation in (Usd.__add__, Usd.__sub__, Usd.__mul__, Usd.__lt__):
        assert operation(Usd(1), value) is NotImplemented  # type: ignore[arg-type]
    assert Usd(0) != value


@pytest.mark.parametrize("number", [1, True, 1.0, Decimal(1)])
def test_amounts_mix_with_no_bare_number(number: object) -> None:
    """An amount plus, minus, or compared with a bare number is a TypeError: of what would it be?"""
    one = Usd.parse(1)
    for operation in (lambda: one + number, lambda: number + one, lambda: one - number, lambda: one < number):
        with pytest.raises(TypeError):
            operation()
    with pytest.raises(TypeError):
        one * one  # type: ignore[operator]


NOT_AMOUNTS = [
    "", " ", "$", "-", ".", "five", "1 2", "--1", "$$1", "NaN", "sNaN", "-nan", "Infinity", "-inf", "1e15", "1e1000000",
    "1e999999999999", "2,50", "1,2,3", "12,34.5", "1,0000", ",100", "1.5,000",
    Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), Decimal("-1e1000000"), 10**15, -(10**15),
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_AMOUNTS, ids=repr)
def test_what_is_no_amount_is_refused(value: str | int | Decimal) -> None:
    """NaN, infinities, absurd sizes, and commas that mark no thousands are refused with the value in the message."""
    with pytest.raises(ConfigError) as caught:
        Usd.parse(value)
    assert repr(value) in str(caught.value)


@given(picos.filter(lambda pico: pico != 0), st.integers(1, 9), st.integers(13, 5000))
def test_more_than_twelve_decimals_are_refused(pico: int, digit: int, places: int) -> None:
    """A thirteenth decimal is refused, however long the text; zeros there are no decimals."""
    text = str(Usd(pico))
    text += "" if "." in text else "."
    padded = text + "0" * (places - 1 - len(text.split(".")[1]))
    assert Usd.parse(padded + "0").pico == pico
    with pytest.raises(ConfigError, match="more than 12 decimals"):
        Usd.parse(padded + str(digit))


@pytest.mark.parametrize("text", ["1e-13", "1e-1000000", "1e-999999999999"])
def test_tiny_exponents_are_refused_at_once(text: str) -> None:
    """An exponent far below a pico-dollar is refused without computing a power of ten of that size."""
    with pytest.raises(ConfigError, match="more than 12 decimals"):
        Usd.parse(text)


@pytest.mark.parametrize("text", ["0", "-0", "0.000000000000000", "0e-999999999999", "0e999999999999"])
def test_zero_is_zero_however_written(text: str) -> None:
    """Every way to write nothing is Usd.ZERO, at once."""
    assert Usd.parse(text) == Usd.ZERO
    assert str(Usd.parse(text)) == "0"


def test_the_decimal_context_changes_nothing() -> None:
    """A program's own decimal context (precision 3, traps on everything) does not touch money."""
    with decimal.localcontext(prec=3) as context:
        for signal in context.traps:
            context.traps[signal] = True
        assert str(Usd.parse("123456789.123456789012")) == "123456789.123456789012"
        assert Usd.parse("999999999999999.999999999999").pico == 10**27 - 1
        assert f"{Usd.parse('123456789.125'):.2f}" == "123456789.13"


@given(amounts)
def test_amounts_survive_pickle_and_copy(amount: Usd) -> None:
    """Amounts cross process borders, and copies are equal."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(amount, protocol)) == amount
    assert copy.copy(amount) == copy.deepcopy(amount) == amount


def test_amounts_cannot_be_changed() -> None:
    """An amount in a set or a sum stays what it was."""
    amount = Usd(1)
    with pytest.raises(AttributeError):
        amount.pico = 2
    with pytest.raises(AttributeError):
        del amount.pico
    assert amount == Usd(1)


def test_a_budget_with_a_decimal_comma_is_refused() -> None:
    """ "2,50 USD" is not read as a budget of 250 dollars."""
    assert Budget.parse("1,250.50 USD/day").amount == Usd.parse("1250.5")
    with pytest.raises(ConfigError, match="2,50"):
        Budget.parse("2,50 USD")
