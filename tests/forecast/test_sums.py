"""Sums of a forecast: of what can be sent, exact however large, and never of what has no price."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pricing
from pricing.columns import Tokens, money_of
from pricing.estimate import PRIOR_PLAIN, PRIOR_REASONING, Replies
from pricing.prices import load_prices
from pricing.spend import MOST_PICO, TOO_DEAR, Money, exact_sum
from ratelimit.errors import ConfigError
from ratelimit.forecast.document import of_job, of_trace
from ratelimit.forecast.job import JobForecast, Wish, forecast_job, spent_by
from ratelimit.forecast.lanes import Account, lanes
from ratelimit.forecast.latency import Pace, Replying
from ratelimit.forecast.outlook import Setting, outlook
from ratelimit.forecast.traced import TraceForecast, forecast_trace
from ratelimit.forecast.workload import ONLINE, Reading
from ratelimit.limit import Limit

from .conftest import workload

AT = date(2026, 7, 20)
counts = st.lists(st.tuples(st.integers(1, 5_000), st.integers(0, 5)), min_size=1, max_size=40)


def foresee(path: Path, tier: str = "tier_1", at: date = AT, **more: Any) -> JobForecast:
    return forecast_job(str(path), Reading(at=at), Wish(Account(tier, at=at), **more))


def traced(frame: pd.DataFrame, *tiers: str, at: date = AT) -> TraceForecast:
    return forecast_trace(frame, Reading(at=at), [Account(tier, at=at) for tier in tiers] or [Account(at=at)])


@given(counts, st.integers(0, 10**8))
def test_what_each_is_expected_to_cost_adds_up_to_the_mean(rows: list[tuple[int, int]], pico: int) -> None:
    """Caps and all, the expected costs of the requests are together the mean that is told, to the pico-dollar."""
    kinds = tuple(
        Replies(prior, most, choices, "")
        for prior in (PRIOR_PLAIN, PRIOR_REASONING)
        for most, choices in ((20, 1), (700, 3), (10**6, 1))
    )
    work = workload([tokens for tokens, _ in rows], output=-1)
    kind = np.array([place for _, place in rows])
    zeros = np.zeros(len(rows), np.int64)
    money = Money(work.input * 7, zeros + pico, zeros + (1 << 60), zeros - 1, ())
    work = replace(work, kinds=kinds, kind=kind, money={ONLINE: money})
    tokens, picos = work.expected(ONLINE)
    spent = spent_by(work, ONLINE, 0)
    assert spent.cost is not None
    assert exact_sum(picos) == spent.cost.mean
    assert exact_sum(tokens) == spent.output.mean


def test_what_cannot_be_sent_is_in_no_sum(write_job: Callable[..., Path]) -> None:
    """Cost, tokens, models and choices of a job with requests that never fit are those of the job without them."""
    small = [{"model": "o3", "input": "word " * n, "max_output_tokens": 90} for n in range(1, 20)]
    large = {"model": "o3", "input": "word " * 40_000}
    with_, without = (foresee(write_job(one), tiers=("tier_1",)) for one in ([*small, large, large], small))
    assert with_.spending == without.spending
    assert with_.outlook.duration == without.outlook.duration
    one, other = of_job(with_, 0), of_job(without, 0)
    assert one["tokens"] == other["tokens"]
    assert one["output_basis"] == other["output_basis"]
    assert one["requests"] == other["requests"] + 2
    assert one["models"]["o3"] == {**other["models"]["o3"], "requests": 21}
    for left, right in zip(with_.choices, without.choices, strict=True):
        assert left.mode == "batch" or (left.cost, left.missing) == (right.cost, 2)
        assert left.mode == "batch" or not left.meets(None, None)


def test_a_request_is_left_out_once(write_job: Callable[..., Path]) -> None:
    """What is without a price and cannot be sent either is one request that is missing, not two."""
    found = foresee(write_job([*[{"model": "o3", "input": "word"}] * 3, {"model": "nosuch", "input": "word"}]))
    assert {(one.requests, one.missing) for one in found.choices} == {(3, 1)}


def test_a_model_that_is_shut_down_is_not_sent(write_job: Callable[..., Path]) -> None:
    """From the day of its shutdown a model costs nothing, takes no time and is no choice; the day before it is one."""
    path = write_job([{"model": "o3-mini", "input": "word"}] * 3)
    gone, there = foresee(path, at=date(2026, 10, 23)), foresee(path, at=date(2026, 10, 22))
    assert dict(gone.outlook.refused) == {"o3-mini was shut down on 2026-10-23": 3}
    assert gone.spending.cost is None
    assert gone.cheapest is None
    assert {one.missing for one in gone.choices} == {3}
    assert there.cheapest is not None
    frame = pd.DataFrame({"t_s": [0], "model": "o3-mini", "input_tokens": 5, "output_tokens": 5})
    assert traced(frame, "tier_1", at=date(2026, 10, 23)).main.outlook.duration is None


def test_a_trace_s_sums_are_of_what_it_can_send() -> None:
    """The row that no tier lets through is in no cost and no tokens; it is listed with its tier."""
    frame = pd.DataFrame({"t_s": [0, 1], "model": "gpt-5", "input_tokens": [1, 300_000_000], "output_tokens": [1, 1]})
    found = traced(frame)
    assert found.spending == traced(frame[:1]).spending
    document = of_trace(found, 0)
    assert document["tokens"]["input"] == 1
    assert all(one["not_sent"][0]["requests"] == 1 for one in document["tiers"])


def test_every_mode_says_what_it_leaves_out() -> None:
    """A mode without a price for cached tokens lists the rows of which its sum knows nothing."""
    frame = pd.DataFrame({"t_s": [0, 1, 2], "model": "gpt-4o-mini", "input_tokens": 9, "cached_tokens": [5, 0, 5],
                          "output_tokens": 3})  # fmt: skip
    document = of_trace(traced(frame, "tier_1"), 0)
    assert document["unpriced"] == document["unpriced_by_mode"][ONLINE] == []
    assert [one["requests"] for one in document["unpriced_by_mode"]["batch"]] == [2]


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40)), min_size=1,
                max_size=8), st.sampled_from(["o3-pro", "gpt-5.5", "gpt-4o-mini"]),
       st.sampled_from([None, "eu"]))  # fmt: skip
def test_prices_never_wrap(rows: list[tuple[int, int]], model: str, region: str | None) -> None:
    """Up to the most tokens that a row may have: priced to the pico-dollar as in Python's integers, or refused."""
    table = load_prices()
    row = table.lookup(model, None, AT)
    assert row is not None
    points = 0 if region is None else table.uplift(row.model)
    if points is None:
        return
    column = np.array(rows, np.int64)
    zeros = np.zeros(len(rows), np.int64)
    most = column[:, 1]
    tokens = Tokens(zeros, zeros, column[:, 0], zeros, most)
    money = money_of(tokens, [model], [""], at=AT, prices=table, region=region)
    for place, (input_, written) in enumerate(rows):
        part = row.long if row.above is not None and input_ > row.above else row
        assert part is not None
        fixed = -(-input_ * (part.common.input or 0) * (10_000 + points) // 10_000)
        rate = -(-(part.common.output or 0) * (10_000 + points) // 10_000)
        if money.why[place] < 0:
            assert (int(money.fixed[place]), int(money.rate[place])) == (fixed, rate)
            assert int(money.worst[place]) == fixed + rate * written
        else:
            assert money.reasons[money.why[place]] == TOO_DEAR
            assert fixed + rate * written > MOST_PICO * 0.999


def test_half_a_trillion_tokens_are_no_bargain() -> None:
    """What one request cannot cost has no price, rather than a wrong one."""
    frame = pd.DataFrame({"model": ["o3-pro"], "input_tokens": [2**39], "output_tokens": [5]})
    total = pricing.forecast(frame, at=AT).iloc[-1]
    assert total["mean_usd"] is None
    assert total["unpriced"] == 1


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=10),
       st.one_of(st.integers(1, 10**25), st.integers(1, 10**6)), st.sampled_from(["tpm", "tpd"]))  # fmt: skip
def test_charges_never_wrap(tokens: list[int], capacity: int, name: str) -> None:
    """Whatever the limit and the request: what is taken of it is what `Limit.charge_us` says, or it never fits."""
    limit = Limit(name, "tokens", capacity, 60_000_000 if name == "tpm" else 86_400_000_000)
    (rule,) = lanes(workload(tokens), Account(limits={name: capacity}, at=AT)).rules
    charges = [limit.charge_us(one) for one in tokens]
    assert rule.charges_us.tolist() == [one if one <= limit.burst_us else 0 for one in charges]


def test_a_schedule_of_more_years_than_can_be_reckoned_with_is_refused() -> None:
    """Charges that add up to more than 64 bits of time end in a message, not in another time."""
    work = workload([10**6] * 20_000, latency_us=[1] * 20_000)
    account = Account(limits={"tpd": Limit("tpd", "tokens", 10**6, 86_400_000_000)}, at=AT)
    assert outlook(work, account, Setting({}), relief=False).duration is not None, "55 years are no trouble"
    long = Limit("tpd", "tokens", 10**6, 10**15)
    with pytest.raises(ConfigError, match="more than 36,000 years"):
        outlook(work, Account(limits={"tpd": long}, at=AT), Setting({}), relief=False)


def test_a_thousand_million_choices_are_refused_and_a_million_are_drawn(write_job: Callable[..., Path]) -> None:
    """More tokens than there can be are a bad line; the largest of many replies needs no room for them all."""
    chat = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}
    found = foresee(write_job([{**chat, "n": 10**9}, {**chat, "n": 10**30}, {**chat, "n": 2}]))
    assert [one.number for one in found.job.bad] == [1, 2]
    assert "more than there can be" in found.job.bad[0].reason
    kind = Replies(PRIOR_PLAIN, 10**6, 10**6, "")
    column = np.zeros(500, np.int64)
    replying = Replying({"m": Pace(0, 1, 0, "")}, ("m",), (kind,), (column, column, column - 1, column - 1))
    drawn = replying.draw_us(np.random.default_rng(0))
    assert (drawn > PRIOR_PLAIN.p95).all(), "of a million the largest is a large one"
