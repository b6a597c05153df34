"""Law: a limit that is counted per window is obeyed whether the server's window slides or is fixed, and wherever its
edges lie; late arrivals within the margin included.

The oracles add up what arrived, from the whole history, in units; ours keeps bucket time and forgets.
"""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

import ratelimit
from ratelimit.cells import Window
from ratelimit.limit import Limit
from ratelimit.stores.base import Booking, Lane
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import ManualClock, ask

MINUTE_US = 60_000_000

windows = st.builds(
    lambda capacity, period_us, part: Limit("w", "requests", capacity * part, period_us, period_us // part, True),
    st.integers(1, 40),
    st.sampled_from([1_000_000, MINUTE_US]),
    st.sampled_from([1, 1, 4, 60]),
)
buckets = st.builds(lambda capacity: Limit("b", "tokens", capacity), st.integers(1, 2_000))
slots = st.builds(lambda capacity: Limit("s", "concurrent", capacity), st.integers(1, 5))


@st.composite
def traffic(draw: st.DrawFn) -> tuple[list[Limit], int, list[tuple[int, list[int], float, bool]]]:
    """A lane, a margin, and requests as (pause, amount per limit, share of the margin it is late, ends at once)."""
    limits = [draw(windows), *draw(st.lists(st.one_of(windows, buckets, slots), max_size=2))]
    amounts = [
        st.just(1) if one.unit == "concurrent" else st.one_of(st.integers(0, one.largest), st.just(one.largest))
        for one in limits
    ]
    pause = st.sampled_from([0, 0, 1, 1_000, 300_000, 20_000_000])
    request = st.tuples(pause, st.tuples(*amounts).map(list), st.floats(0, 1), st.booleans())
    return limits, draw(st.sampled_from([0, 40_000])), draw(st.lists(request, min_size=1, max_size=30))


def lane_of(limits: list[Limit]) -> Lane:
    return Lane("m", tuple(limits), tuple(f"m:{number}" for number in range(len(limits))))


def charges_of(lane: Lane, amounts: list[int]) -> tuple[int, ...]:
    """What a gate charges for these amounts."""
    return tuple(
        -(-amount * period_us // capacity)
        for amount, (_, period_us, capacity, _) in zip(amounts, lane.plan, strict=False)
    )


def slides(arrivals: list[tuple[int, int]], window_us: int, most: Fraction) -> bool:
    """A sliding window accepts these (instant, amount): at each, all of the last window together are at most `most`."""
    return all(
        sum(amount for at_us, amount in arrivals if now_us - window_us < at_us <= now_us) <= most
        for now_us, _ in arrivals
    )


def steps(arrivals: list[tuple[int, int]], window_us: int, most: Fraction, edge_us: int) -> bool:
    """Fixed windows accept these, one of them beginning at `edge_us`."""
    counts: dict[int, int] = {}
    for at_us, amount in arrivals:
        number = (at_us - edge_us) // window_us
        counts[number] = counts.get(number, 0) + amount
    return max(counts.values()) <= most


@given(traffic(), st.integers(0, MINUTE_US))
@settings(max_examples=150)
def test_no_window_of_the_server_is_overrun(
    case: tuple[list[Limit], int, list[tuple[int, list[int], float, bool]]], edge_us: int
) -> None:
    """Sliding or fixed, in a lane with buckets and slots, each request late by any part of the margin."""
    limits, slack_us, requests = case
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=slack_us)
    lane = lane_of(limits)
    arrivals: list[list[tuple[int, int]]] = [[] for _ in limits]
    held: list[Booking] = []
    for pause_us, amounts, late, ends in requests:
        clock.advance(pause_us)
        charges = charges_of(lane, amounts)
        while not isinstance(answer := ask(store, lane, charges), Booking):
            if answer:
                clock.advance(answer)
            else:
                store.finish(held.pop())
        held.append(answer)
        assert all(len(held) <= limit.capacity for limit in limits if limit.unit == "concurrent")
        for number, amount in enumerate(amounts):
            margin_us = store.slack_us(lane.keys[number])
            arrivals[number].append((clock.now_us() + int(late * margin_us), amount))
        if ends:
            store.finish(held.pop())
    for limit, came in zip(limits, arrivals, strict=True):
        if limit.window:
            most = Fraction(limit.capacity * limit.burst_us, limit.period_us)
            assert slides(sorted(came), limit.burst_us, most)
            assert steps(came, limit.burst_us, most, edge_us)


@given(
    windows,
    st.lists(
        st.tuples(st.sampled_from([0, 0, 1, 5_000, 300_000]), st.floats(0, 1), st.floats(0, 1), st.booleans()),
        min_size=2,
        max_size=40,
    ),
    st.integers(0, MINUTE_US),
)
@settings(max_examples=200)
def test_a_reply_shortens_the_margin_and_overruns_no_window(
    limit: Limit, requests: list[tuple[int, float, float, bool]], edge_us: int
) -> None:
    """Where a reply shows when a request had arrived, its room is free one window after that instant, never earlier."""
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=40_000)
    lane = lane_of([limit])
    came: list[tuple[int, int]] = []
    replies: list[tuple[int, Booking, int]] = []
    for pause_us, share, late, answered in requests:
        clock.advance(pause_us)
        amount = int(share * limit.largest)
        while not isinstance(answer := ask(store, lane, charges_of(lane, [amount])), Booking):
            clock.advance(answer)
        arrived_us = clock.now_us() + int(late * store.slack_us(lane.keys[0]))
        came.append((arrived_us, amount))
        if answered:
            replies.append((arrived_us + pause_us, answer, arrived_us))
        for due_us, booking, at_us in list(replies):
            if clock.now_us() >= due_us:
                store.arrived(booking, clock.now_us() - at_us)
                replies.remove((due_us, booking, at_us))
    most = Fraction(limit.capacity * limit.burst_us, limit.period_us)
    assert slides(sorted(came), limit.burst_us, most)
    assert steps(came, limit.burst_us, most, edge_us)


@given(
    windows,
    st.booleans(),
    st.lists(
        st.tuples(st.sampled_from([0, 0, 1, 5_000, 300_000]), st.floats(0, 1), st.floats(0, 1), st.booleans()),
        min_size=2,
        max_size=40,
    ),
    st.integers(0, MINUTE_US),
)
@settings(max_examples=200)
def test_a_window_left_at_the_edge_that_a_reply_told_is_never_overrun(
    limit: Limit, sliding: bool, requests: list[tuple[int, float, float, bool]], edge_us: int
) -> None:
    """Where replies tell when the server is back in its initial state, room is used from then on, and no more of it."""
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=40_000)
    lane = lane_of([limit])
    came: list[tuple[int, int]] = []
    for pause_us, share, late, answered in requests:
        clock.advance(pause_us)
        booking = Booking(lane, charges_of(lane, [int(share * limit.largest)]))
        while (wait_us := store.reserve(booking)) is not None:
            clock.advance(wait_us)
        arrived_us = clock.now_us() + int(late * store.slack_us(lane.keys[0]))
        came.append((arrived_us, int(share * limit.largest)))
        if answered:
            window_us = limit.burst_us
            clear_us = (
                arrived_us + window_us if sliding else arrived_us + window_us - (arrived_us - edge_us) % window_us
            )
            clock.advance(max(0, arrived_us - clock.now_us()))
            store.clears(booking, 0, clear_us - clock.now_us())
    most = Fraction(limit.capacity * limit.burst_us, limit.period_us)
    assert (slides if sliding else steps)(sorted(came), limit.burst_us, most, *([] if sliding else [edge_us]))


def test_an_edge_frees_a_whole_window() -> None:
    """A window that was filled just before the server's edge is free at it, and not a window later."""
    limit = Limit("w", "requests", 60, MINUTE_US, 1_000_000, True)
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=50_000)
    lane = lane_of([limit])
    booking = ask(store, lane, charges_of(lane, [1]))
    assert isinstance(booking, Booking)
    store.clears(booking, 0, 200_000)
    assert ask(store, lane, charges_of(lane, [1])) == 200_000
    clock.advance(200_000)
    assert isinstance(ask(store, lane, charges_of(lane, [1])), Booking)


@given(traffic(), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4))
@settings(max_examples=200)
def test_room_that_a_waiting_request_cannot_use_is_told_and_is_none_of_its_own(
    case: tuple[list[Limit], int, list[tuple[int, list[int], float, bool]]], shares: list[tuple[float, float, float]]
) -> None:
    """What `room_us` offers can be charged at once, and whoever waits is admitted not a microsecond later for it."""
    limits, slack_us, requests = case
    lane = lane_of([limit for limit in limits if limit.unit != "concurrent"])
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=slack_us)
    for pause_us, amounts, _, _ in requests:
        clock.advance(pause_us)
        first = Booking(lane, charges_of(lane, amounts))
        wait_us = store.reserve(first)
        if wait_us is None:
            continue
        for share in shares:
            room = store.room_us(first, wait_us)
            small = Booking(lane, [int(max(0, us) * part) for us, part in zip(room, share, strict=False)])
            assert store.reserve(small, (first,)) is None
        clock.advance(wait_us - 1)
        assert store.reserve(first) == 1
        clock.advance(1)
        assert store.reserve(first) is None


def test_a_snapshot_tells_whole_units_of_a_window() -> None:
    """Three of seven requests are three, although a unit of the window weighs a rounded number of µs."""
    limiter = ratelimit.Limiter(limits={"rpm": Limit("rpm", "requests", 7, window=True)}, preflight="off")
    for _ in range(3):
        limiter.reserve(model="o3")
    (lane,) = limiter.snapshot()["lanes"].values()
    assert (lane["limits"]["rpm"]["spent"], lane["limits"]["rpm"]["free"]) == (3, 4)
    (part,) = ratelimit.explain({"model": "o3", "input": "x"}, limiter=limiter).parts
    assert (part.spent, part.takes) == (3, 1)


def test_a_bucket_that_turns_out_to_be_a_window_is_not_closed_for_its_backlog() -> None:
    """A full minute of backlog, told by a refusal, is one full window once the server is known to count per second."""
    bucket, window = Limit("l", "requests", 60), Limit("l", "requests", 60, MINUTE_US, 1_000_000, True)
    store = MemoryStore(ManualClock(), initial_slack_us=0)
    before = lane_of([bucket])
    store.open(before)
    store.observe(before.keys[0], MINUTE_US)
    after = Lane("m", (window,), before.keys)
    store.open(after)
    assert ask(store, after, charges_of(after, [1])) == 1_000_000


def test_a_quick_server_costs_no_margin() -> None:
    """A request that was answered at once makes room one window after it was sent, not a margin later."""
    limit = Limit("w", "requests", 60, MINUTE_US, 1_000_000, True)
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=50_000)
    lane = lane_of([limit])
    for waits_us, answered in ((0, True), (1_000_000, True), (1_000_000, False), (1_050_000, False)):
        answer = ask(store, lane, charges_of(lane, [1]))
        if waits_us:
            assert answer == waits_us
            clock.advance(waits_us)
            answer = ask(store, lane, charges_of(lane, [1]))
        assert isinstance(answer, Booking)
        if answered:
            store.arrived(answer, 0)


@given(traffic())
@settings(max_examples=100)
def test_a_refusal_by_a_window_is_the_exact_time_at_which_it_ends(
    case: tuple[list[Limit], int, list[tuple[int, list[int], float, bool]]],
) -> None:
    """Refused until one microsecond before the promised instant, admitted at it, whatever kinds of limits are mixed."""
    limits, slack_us, requests = case
    limits = [limit for limit in limits if limit.unit != "concurrent"]
    clock = ManualClock()
    store = MemoryStore(clock, initial_slack_us=slack_us)
    lane = lane_of(limits)
    for pause_us, amounts, _, _ in requests:
        clock.advance(pause_us)
        charges = charges_of(lane, amounts)
        answer = ask(store, lane, charges)
        if not isinstance(answer, Booking):
            clock.advance(answer - 1)
            assert ask(store, lane, charges) == 1
            clock.advance(1)
            assert isinstance(ask(store, lane, charges), Booking)


moves = st.lists(
    st.tuples(st.sampled_from([0, 1, 40, 400, 2_000]), st.integers(0, 1_000), st.integers(-1, 20)),
    max_size=50,
)


@given(moves, st.sampled_from([0, 50]))
@settings(max_examples=200)
def test_settling_in_a_window_equals_replaying_history(case: list[tuple[int, int, int]], slack_us: int) -> None:
    """What is spent, and when the next charge fits, is what it would be had every charge had its true size at once."""
    window, now_us, kept_us = Window(1_000), 10_000, 1_000 + slack_us
    window.slack_us = slack_us
    history: list[list[int]] = []
    numbers: list[int] = []
    unsettled: list[int] = []
    for pause_us, amount, which in case:
        now_us += pause_us
        if which >= 0 and unsettled:
            one = unsettled.pop(which % len(unsettled))
            true_us = amount * history[one][1] // 1_000
            window.refund(numbers[one], history[one][1] - true_us)
            history[one][1] = true_us
        elif window.earliest_us(max(1, amount), 1_000, now_us) == now_us:
            numbers.append(window.charge(now_us, max(1, amount)))
            history.append([now_us, max(1, amount)])
            unsettled.append(len(history) - 1)

        def spent_us(at_us: int) -> int:
            return sum(charge_us for act_us, charge_us in history if act_us + kept_us > at_us)

        assert window.spent_us(now_us) == spent_us(now_us)
        edges = sorted({now_us, *(act_us + kept_us for act_us, _ in history if act_us + kept_us > now_us)})
        fits_us = next(at_us for at_us in edges if spent_us(at_us) + max(1, amount) <= 1_000)
        assert window.copy().earliest_us(max(1, amount), 1_000, now_us) == fits_us


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 1, 40, 400, 2_000]), st.integers(1, 1_000), st.sampled_from("cccro")),
        max_size=40,
    )
)
@settings(max_examples=200)
def test_an_observation_never_loosens_a_window(case: list[tuple[int, int, str]]) -> None:
    """Beside a twin that hears nothing, a window that is told of backlogs never admits anything earlier."""
    deaf, told, now_us = Window(1_000), Window(1_000), 10_000
    numbers: list[tuple[int, int]] = []
    for pause_us, amount, kind in case:
        now_us += pause_us
        if kind == "o":
            before_us = told.copy().earliest_us(amount, 1_000, now_us)
            told.raise_to(now_us + 2 * amount, now_us)
            assert told.copy().earliest_us(amount, 1_000, now_us) >= before_us
        elif kind == "r" and numbers:
            mine, theirs = numbers.pop()
            deaf.refund(mine, amount)
            told.refund(theirs, amount)
        else:
            numbers.append((deaf.charge(now_us, amount), told.charge(now_us, amount)))
        assert told.copy().earliest_us(amount, 1_000, now_us) >= deaf.copy().earliest_us(amount, 1_000, now_us)


def test_a_busy_window_learns_of_late_requests() -> None:
    """A full window pays for no delay, so a late request widens its margin although much was spent before it."""
    limit = Limit("w", "requests", 60, window=True)
    store = MemoryStore(ManualClock(), initial_slack_us=0)
    lane = lane_of([limit])
    for _ in range(3):
        answer = ask(store, lane, charges_of(lane, [1]))
        assert isinstance(answer, Booking)
    assert max(0, *(backlog_us for _, _, backlog_us in answer.place)) == 0


def test_a_window_keeps_no_more_than_what_is_in_it() -> None:
    """However long it runs, and however often limits change, nothing of the past is kept."""
    window, now_us = Window(1_000), 0
    for _ in range(5_000):
        now_us += 400
        assert window.earliest_us(300, 1_000, now_us) == now_us
        window.charge(now_us, 300)
    assert len(window._charges) <= 3


@given(st.integers(1, 5_000), st.integers(1, 1_000), st.integers(0, 100))
@settings(deadline=None)
def test_the_wait_for_more_than_a_window_is_that_of_its_last_portion(
    total_us: int, spent_us: int, slack_us: int
) -> None:
    """A sum larger than a window is foreseen to take a window for each burst of it; single steps take as long."""
    window = Window(1_000)
    window.slack_us = slack_us
    window.charge(10_000, spent_us)
    foreseen_us = window.copy().earliest_us(total_us, 1_000, 10_000)
    now_us = 10_000
    for _ in range(total_us):
        now_us = window.earliest_us(1, 1_000, now_us)
        window.charge(now_us, 1)
    assert foreseen_us == now_us


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 700, 9_000]),  # time that passes first
            st.integers(1, 12_000),  # what is asked for, or given back
            st.integers(-3, 30),  # below 0: a charge; else which one to refund, or to have seen arrive
            st.sampled_from(["refund", "arrived", "clears"]),
        ),
        max_size=60,
    )
)
@settings(max_examples=300)
def test_a_thinned_window_admits_nothing_that_the_whole_one_would_not(
    moves: list[tuple[int, int, int, str]],
) -> None:
    """With four charges kept apart instead of all, every instant told is the same or later, and refunds only shrink."""
    whole, thin, now_us, numbers = Window(60_000), Window(60_000), 1_000, []
    whole.slack_us = thin.slack_us = 2_500
    for pause_us, amount, which, what in moves:
        now_us += pause_us
        if which < 0 or not numbers:
            assert thin.earliest_us(amount, 60_000, now_us) >= whole.earliest_us(amount, 60_000, now_us)
            numbers.append(whole.charge(now_us, amount))
            assert thin.charge(now_us, amount) == numbers[-1]
        else:
            number = numbers[which % len(numbers)]
            if what == "refund":
                assert thin.refund(number, amount) <= whole.refund(number, amount)
            elif what == "arrived":
                whole.arrived(number, now_us - amount)
                thin.arrived(number, now_us - amount)
            else:
                whole.clears(number, now_us + amount)
                thin.clears(number, now_us + amount)
        thin.thin(4)
        thin = Window.of(*thin.kept(), window_us=60_000)
        thin.slack_us = 2_500
        assert thin.spent_us(now_us) >= whole.spent_us(now_us)
        assert len(thin.kept()[2]) <= 5 * 4 * 8
