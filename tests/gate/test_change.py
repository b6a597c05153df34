"""Law: the four effects add up to the change, to the pico-dollar. Where one thing changes, it is the only effect."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from pricing.gate.change import Effects, change_of, effects_of
from pricing.gate.report import Cell, Part, Report

from .builders import cells, group, header, report, reports


@given(reports, reports)
def test_the_effects_add_up_to_the_change(before: Report, after: Report) -> None:
    """Of each group, and of the whole: whatever the two reports are."""
    found = change_of(before, after)
    assert found.total.effects.change == after.total.expected - before.total.expected
    for one in found.groups:
        was, now = (0 if part is None else part.expected for part in (one.before, one.after))
        assert one.effects.change == now - was
    for place in range(4):
        assert found.total.effects[place] == sum(one.effects[place] for one in found.groups)


@given(reports)
def test_a_report_differs_from_itself_by_nothing(made: Report) -> None:
    """No effect, no facts, the mark of what is the same."""
    found = change_of(made, made)
    assert {found.total.mark, *(one.mark for one in found.groups)} <= {"="}
    assert {found.total.effects, *(one.effects for one in found.groups)} == {Effects(0, 0, 0, 0)}
    assert not any(one.facts for one in found.groups)


@given(reports, reports)
def test_the_way_back_has_the_opposite_sum(before: Report, after: Report) -> None:
    """From new to old, all of it is given back."""
    assert change_of(before, after).total.effects.change == -change_of(after, before).total.effects.change


whole = st.integers(1, 50)


@given(cells.filter(bool), whole)
def test_more_of_the_same_is_volume(some: tuple[Cell, ...], times: int) -> None:
    """So many times the requests, each as before: volume alone."""
    more = tuple(
        cell._replace(
            requests=cell.requests * times,
            parts={name: Part(part.quantity * times, part.pico * times) for name, part in cell.parts.items()},
        )
        for cell in some
    )
    cost = sum(cell.pico for cell in some)
    assert effects_of(some, more) == Effects(0, 0, (times - 1) * cost, 0)


@given(cells.filter(bool), st.fractions(0, 5))
def test_other_prices_are_price(some: tuple[Cell, ...], factor: Fraction) -> None:
    """The same requests and tokens at other prices: price alone."""
    dearer = tuple(
        cell._replace(parts={name: part._replace(pico=int(part.pico * factor)) for name, part in cell.parts.items()})
        for cell in some
    )
    change = sum(cell.pico for cell in dearer) - sum(cell.pico for cell in some)
    assert effects_of(some, dearer) == Effects(change, 0, 0, 0)


@given(st.integers(1, 100), st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**9))
def test_more_tokens_are_tokens(requests: int, before: int, after: int, rate: int) -> None:
    """The same requests, each with other tokens, at the same price: tokens alone."""
    old, new = (Cell("o3", "standard", False, requests, {"input": Part(n, n * rate)}) for n in (before, after))
    assert effects_of((old,), (new,)) == Effects(0, (after - before) * rate, 0, 0)


@given(st.integers(1, 100), st.integers(1, 10**6), st.integers(1, 10**9), st.integers(1, 10**9))
def test_another_model_is_model(requests: int, tokens: int, rate: int, other: int) -> None:
    """The same requests and tokens, answered by another model: model alone, both ways."""
    old = Cell("o3", "standard", False, requests, {"input": Part(tokens, tokens * rate)})
    new = Cell("o3-pro", "standard", False, requests, {"input": Part(tokens, tokens * other)})
    assert effects_of((old,), (new,)) == Effects(0, 0, 0, tokens * (other - rate))
    batch = new._replace(model="o3", service_tier="batch")
    assert effects_of((old,), (batch,)) == Effects(0, 0, 0, tokens * (other - rate))


def test_another_model_and_longer_prompts_are_told_apart() -> None:
    """10 requests of 100 tokens at 2 become 10 of 150 at 3: 1,000 for the model, 1,500 for the tokens."""
    old = Cell("o3", "standard", False, 10, {"input": Part(1_000, 2_000)})
    new = Cell("o3-pro", "standard", False, 10, {"input": Part(1_500, 4_500)})
    assert effects_of((old,), (new,)) == Effects(0, 1_500, 0, 1_000)


def test_caching_is_tokens() -> None:
    """Half of the input read from a cache at a tenth of the price: what is saved is tokens, not price."""
    old = Cell("o3", "standard", False, 10, {"input": Part(1_000, 10_000)})
    new = Cell("o3", "standard", False, 10, {"input": Part(500, 5_000), "cached_input": Part(500, 500)})
    assert effects_of((old,), (new,)) == Effects(0, -4_500, 0, 0)


def test_a_new_group_is_volume_and_so_is_one_that_is_gone() -> None:
    """What only one report has is neither price, tokens nor model."""
    cell = Cell("o3", "standard", False, 10, {"input": Part(1_000, 10_000)})
    found = change_of(report(group("gone", (cell,))), report(group("new", (cell, cell._replace(long=True)))))
    assert {one.name: (one.mark, one.effects) for one in found.groups} == {
        "gone": ("-", Effects(0, 0, -10_000, 0)),
        "new": ("+", Effects(0, 0, 20_000, 0)),
    }
    assert [one.name for one in found.groups] == ["new", "gone"], "what changed most comes first"


def test_what_changed_is_said_in_words() -> None:
    """Model, volume, tokens a request, and prices a million; and that the table is another one."""
    old = Cell("gpt-4o-mini", "standard", False, 10, {"input": Part(1_000, 150_000_000)})
    new = Cell("o3", "standard", False, 12, {"input": Part(2_400, 4_800_000_000)})
    found = change_of(report(group("a", (old,))), report(group("a", (new,)), head=header(prices="bbb")))
    assert found.new_prices
    assert found.groups[0].facts == ("gpt-4o-mini → o3", "requests 10 → 12", "input 100 → 200 tokens a request")
    dearer = old._replace(parts={"input": Part(1_000, 300_000_000)})
    assert change_of(report(group("a", (old,))), report(group("a", (dearer,)))).groups[0].facts == (
        "input of gpt-4o-mini $0.15 → $0.30 a million",
    )
