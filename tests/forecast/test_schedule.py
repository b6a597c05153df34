"""The schedule of many requests at once against the scalar core, which decides one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.cells import Window
from ratelimit.forecast.schedule import IN_THE_AIR, NOTHING, Rule, Schedule, admissions, walk
from ratelimit.gcra import Bucket

START_US = 10**12
"""An instant before which no bucket was charged."""


def scalar(arrivals: list[int], rules: list[Rule]) -> list[int]:
    """When the scalar core admits each request: first come, first served, at once when every cell lets it."""
    cells: list[Bucket | Window] = [Window(rule.window_us) if rule.window_us else Bucket() for rule in rules]
    for cell, rule in zip(cells, rules, strict=True):
        cell.slack_us = rule.slack_us
    acts, now = [], 0
    for i, arrival in enumerate(arrivals):
        now = max(now, arrival + START_US)
        charged = [(cell, int(rule.charges_us[i]), rule.burst_us) for cell, rule in zip(cells, rules, strict=True)]
        charged = [one for one in charged if one[1]]
        now = max([now, *(cell.earliest_us(charge, burst, now) for cell, charge, burst in charged)])
        for cell, charge, _ in charged:
            cell.charge(now, charge)
        acts.append(now - START_US)
    return acts


@st.composite
def rule(draw: st.DrawFn, count: int) -> Rule:
    """A limit, and what each of so many requests takes of it: all, some or none of them."""
    burst = draw(st.sampled_from([1_000, 1_000_000, 60_000_000]))
    slack = draw(st.sampled_from([0, burst // 20]))
    most = max(1, int(burst * draw(st.sampled_from([0.01, 0.3, 1.0]))))
    some = st.integers(1, most)
    charges = draw(st.lists(st.one_of(some, some, st.just(0)), min_size=count, max_size=count))
    return Rule("rule", np.array(charges, np.int64), burst, draw(st.sampled_from([0, 0, burst])), slack)


@st.composite
def crowd(draw: st.DrawFn) -> tuple[list[int], list[Rule]]:
    """Requests: when each is there, and the limits that they pass."""
    count = draw(st.integers(1, 60))
    span = draw(st.sampled_from([0, 10**6, 10**8]))
    arrivals = sorted(draw(st.lists(st.integers(0, span), min_size=count, max_size=count)))
    return arrivals, [draw(rule(count)) for _ in range(draw(st.integers(1, 4)))]


@given(crowd())
def test_all_at_once_is_equal_to_one_by_one(crowd: tuple[list[int], list[Rule]]) -> None:
    """The vectorised schedule and the walk admit every request at the instant at which the scalar core does."""
    arrivals, rules = crowd
    there = np.array(arrivals, np.int64)
    expected = scalar(arrivals, rules)
    at_once = admissions(there, rules)
    walked = walk(there, rules, np.zeros(len(arrivals), np.int64), most=10**9)
    assert at_once.act_us.tolist() == expected
    assert walked.act_us.tolist() == expected
    assert walked.by.tolist() == at_once.by.tolist()


@given(crowd(), st.data())
def test_a_prefix_is_scheduled_as_in_the_whole(crowd: tuple[list[int], list[Rule]], data: st.DataObject) -> None:
    """Whoever comes later changes nothing for those before."""
    arrivals, rules = crowd
    cut = data.draw(st.integers(1, len(arrivals)))
    there = np.array(arrivals, np.int64)
    whole = admissions(there, rules)
    part = admissions(there[:cut], [one._replace(charges_us=one.charges_us[:cut]) for one in rules])
    assert part.act_us.tolist() == whole.act_us[:cut].tolist()


@given(crowd())
def test_the_cause_is_one_that_binds(crowd: tuple[list[int], list[Rule]]) -> None:
    """A request that waits names a cause, one that does not names none; without that rule alone none is later."""
    arrivals, rules = crowd
    there = np.array(arrivals, np.int64)
    found = admissions(there, rules)
    assert ((found.by == NOTHING) == (found.act_us == there)).all()
    for place in set(found.by.tolist()) - {NOTHING}:
        without = admissions(there, [one for number, one in enumerate(rules) if number != place])
        assert (without.act_us <= found.act_us).all()


@given(crowd(), st.integers(1, 5), st.integers(0, 10**7))
def test_more_room_is_never_slower(crowd: tuple[list[int], list[Rule]], most: int, take: int) -> None:
    """A larger burst, a faster refill or more in the air: no request is admitted later."""
    arrivals, rules = crowd
    there, takes = np.array(arrivals, np.int64), np.full(len(arrivals), take, np.int64)
    base = walk(there, rules, takes, most=most)
    assert (walk(there, rules, takes, most=most + 1).act_us <= base.act_us).all()
    wider = [one._replace(burst_us=one.burst_us * 2) for one in rules if not one.window_us]
    kept = [one for one in rules if one.window_us]
    assert (walk(there, [*kept, *wider], takes, most=most).act_us <= base.act_us).all()
    faster = [one._replace(charges_us=-(-one.charges_us // 2)) for one in rules]
    assert (walk(there, faster, takes, most=most).act_us <= base.act_us).all()


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=80), st.integers(1, 6), st.data())
def test_no_more_are_in_the_air_than_may_be(arrivals: list[int], most: int, data: st.DataObject) -> None:
    """At no instant more than `most` requests are begun and not ended."""
    arrivals.sort()
    takes = data.draw(st.lists(st.integers(1, 10**6), min_size=len(arrivals), max_size=len(arrivals)))
    found = walk(np.array(arrivals, np.int64), [], np.array(takes, np.int64), most=most)
    acts = found.act_us.tolist()
    for act in acts:
        assert sum(begun <= act < begun + take for begun, take in zip(acts, takes, strict=True)) <= most
    assert all((by == IN_THE_AIR) == (act > there) for by, act, there in zip(found.by, acts, arrivals, strict=True))


def test_a_wait_in_one_line_holds_up_nobody_in_another() -> None:
    """Whoever waits for a limit delays only those of his own line."""
    charges = np.array([60, 60, 0, 0], np.int64)
    lines = np.array([0, 0, 1, 0], np.int64)
    there, takes = np.zeros(4, np.int64), np.zeros(4, np.int64)
    found = walk(there, [Rule("rpm", charges, 60)], takes, most=10, lines=lines)
    assert found.act_us.tolist() == [0, 60, 0, 60]


def test_those_before_the_door_keep_others_out() -> None:
    """Only so many may wait for a limit at a time; the next one in the file begins when one of them is admitted."""
    charges = np.array([60, 60, 60, 0], np.int64)
    lines = np.array([0, 0, 0, 1], np.int64)
    there, takes = np.zeros(4, np.int64), np.zeros(4, np.int64)
    found = walk(there, [Rule("rpm", charges, 60)], takes, most=10, door=2, lines=lines)
    assert found.act_us.tolist() == [0, 60, 120, 60]
    assert found.by[3] == 0  # the limit that another one waits for at the door


def test_slots_are_held_until_a_reply_is_there() -> None:
    """A limit on requests in the air admits the next one when one of them has ended."""
    charges, there = np.ones(5, np.int64), np.zeros(5, np.int64)
    found = walk(there, [Rule("concurrency", charges, 0, slots=2)], np.array([5, 7, 5, 5, 5], np.int64), most=10)
    assert found.act_us.tolist() == [0, 0, 5, 7, 10]
    assert found.by.tolist() == [NOTHING, NOTHING, 0, 0, 0]


@pytest.mark.parametrize("most", [1, 10**9])
def test_nobody_is_scheduled_when_nobody_comes(most: int) -> None:
    """No request, no schedule, no error."""
    none = np.empty(0, np.int64)
    rules = [Rule("rpm", none, 60)]
    for found in (admissions(none, rules), walk(none, rules, none, most=most)):
        assert isinstance(found, Schedule)
        assert len(found.act_us) == len(found.by) == 0
