"""Projections of a ledger: sums that add up, honest about short histories, and dates that are reached."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing import Ledger, Usage, Usd, cost, forecast
from pricing.budget import Budget
from pricing.daily import daily, daily_of_ledger, empty, merged
from pricing.projection import day_number, project, reached
from ratelimit.errors import ConfigError
from ratelimit.forecast.booked import forecast_ledger

DAY_US = 86_400_000_000
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def sums(costs: list[float], last: date = date(2026, 11, 24), model: str = "o3") -> pd.DataFrame:
    """Days that end with `last`, each of so many dollars."""
    first = day_number(last) - len(costs) + 1
    picos = [round(cost * 10**12) for cost in costs]
    return pd.DataFrame(
        {"day": range(first, first + len(costs)), "model": model, "requests": 10, "unpriced": 0,
         "usd": [pico // 10**12 for pico in picos], "pico": [pico % 10**12 for pico in picos]}
    )  # fmt: skip


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A ledger of 40 days: two models, two teams, a voided call and one in the air."""
    path = tmp_path / "costs.db"
    clock = [0]
    usage = {"input_tokens": 1_000, "output_tokens": 500}
    with Ledger(path, now_us=lambda: clock[0]) as ledger:
        for day in range(40):
            for number in range(4):
                clock[0] = (day_number(date(2026, 10, 16)) + day) * DAY_US + number * 3_600_000_000
                model = ("o3-pro", "gpt-4.1")[number % 2]
                tags = {"team": ("search", "ads")[number // 2]}
                entry = ledger.pend(model=model, endpoint="/v1/responses", estimate=Usd(1), tags=tags)
                ledger.post(
                    entry, cost=cost(usage, model=model, at=date(2026, 7, 20)), usage=Usage.from_response(usage)
                )
        ledger.void(ledger.pend(model="o3", endpoint="/v1/responses", estimate=Usd(9)), "refused")
        ledger.pend(model="o3", endpoint="/v1/responses", estimate=Usd(9))
    return path


def test_sqlite_and_pandas_sum_alike_and_as_the_ledger(book: Path) -> None:
    """By model and by team: the sums of SQL are those of the frame, and their total is the ledger's."""
    with Ledger(book) as ledger:
        frame, total = ledger.to_pandas(), ledger.totals()
    for by in (("model",), ("model", "tag:team"), (), ("asked_model", "run")):
        of_file = daily_of_ledger(book, by, threads=3)
        pd.testing.assert_frame_equal(of_file, daily(frame, by), check_dtype=False)
        whole = int(of_file["usd"].sum()) * 10**12 + int(of_file["pico"].sum())
        assert Usd(whole) == total.posted
        assert int(of_file["requests"].sum()) == 160


@given(st.integers(0, 160), st.integers(0, 160))
def test_parts_of_a_log_add_up_to_the_whole(one: int, other: int) -> None:
    """Wherever a log is cut, the merged sums of its parts are those of the whole, to the pico-dollar."""
    rng = np.random.default_rng(one * 1_000 + other)
    frame = pd.DataFrame(
        {"created": pd.Timestamp("2026-11-01", tz="UTC") + pd.to_timedelta(rng.integers(0, 10, 160), "D"),
         "state": rng.choice(["posted", "expired", "voided", "pending"], 160),
         "cost": [Decimal(int(n)).scaleb(-12) if n % 5 else None for n in rng.integers(1, 10**15, 160)],
         "worst": Decimal("1.5"), "model": rng.choice(["a", "b"], 160)}
    )  # fmt: skip
    low, high = sorted((one, other))
    cut = [frame.iloc[:low], frame.iloc[low:high], frame.iloc[high:]]
    pd.testing.assert_frame_equal(merged([daily(part) for part in cut]), daily(frame))


def test_a_log_that_outgrows_one_machine_is_summed_by_dask(book: Path) -> None:
    """The same function on each partition, merged: the projection is that of the whole."""
    with Ledger(book) as ledger:
        frame = ledger.to_pandas()[["created", "state", "cost", "model"]]
    log = dd.from_pandas(frame, npartitions=5)
    parts = log.map_partitions(daily, meta=empty(["model"]))
    whole = merged([parts.compute(scheduler="synchronous")])
    pd.testing.assert_frame_equal(whole, daily(frame), check_dtype=False)
    assert project(whole, ("model",), now=NOW)[0].total == project(daily(frame), ("model",), now=NOW)[0].total


def test_short_histories_are_told(book: Path) -> None:
    """Of fewer than three whole days nothing is said, of fewer than fourteen nothing of weekdays."""
    (two,) = project(sums([5, 5]), now=NOW)
    assert two.total is None
    assert two.notes == ("2 whole days are too few to project: 3 are needed",)
    (ten,) = project(sums([5] * 10), now=NOW)
    assert ten.notes == ("10 days tell nothing of weekdays: from 14 on they are looked at",)
    assert project(sums([5] * 20), now=NOW)[0].notes == ()


@given(st.integers(3, 100), st.integers(1, 10_000))
def test_a_constant_history_goes_on(days: int, dollars: int) -> None:
    """What costs the same every day will, and half of today is over at noon."""
    (found,) = project(sums([dollars] * days), now=NOW)
    assert found.total is not None
    assert found.total.mean == pytest.approx((min(days, 24) + 5.5) * dollars * 1e12, rel=0.01)
    assert found.total.p5 <= found.total.p50 <= found.total.p95


def test_weekdays_and_the_seed_are_seen() -> None:
    """Quiet weekends stay quiet; the same seed is the same, and twice the spending is twice the projection."""
    costs = [(100 if (date(2026, 11, 24) - timedelta(days=55 - n)).weekday() < 5 else 10) for n in range(56)]
    frame = sums(costs)
    (found,) = project(frame, now=NOW, seed=3)
    saturday = next(one for one in found.series if one.day == date(2026, 11, 28))
    friday = next(one for one in found.series if one.day == date(2026, 11, 27))
    assert saturday.cost.mean < 0.3 * friday.cost.mean
    assert project(frame, now=NOW, seed=3)[0].total == found.total
    (twice,) = project(sums([2 * cost for cost in costs]), now=NOW, seed=3)
    assert found.total is not None
    assert twice.total is not None
    assert twice.total.p50 == pytest.approx(2 * found.total.p50, rel=1e-6)


def test_dates_are_reached_when_the_sum_is() -> None:
    """Ten dollars a day reach sixty in six days; what is spent already is reached today; what is far is not by then."""
    (found,) = project(sums([10] * 30), now=NOW.replace(hour=0), until=date(2027, 1, 31))
    today = date(2026, 11, 25)
    soon = reached("budget", 60 * 10**12, 0, found, today, date(2027, 1, 31))
    assert soon is not None
    assert soon.p50 is not None
    assert abs((soon.p50 - date(2026, 11, 30)).days) <= 1
    far = reached("budget", 10**18, 0, found, today, date(2027, 1, 31))
    assert far is not None
    assert far.p50 is None
    over = reached("budget", 5, 10, found, today, today)
    assert over is not None
    assert over.p95 == today


def test_a_ledger_file_is_foreseen(book: Path) -> None:
    """Month, parts, a budget, the tier's limit and the next tier, and o3-pro's shutdown with what a swap changes."""
    found = forecast_ledger(
        str(book), by=("model", "tag:team"), now=NOW, until=date(2026, 12, 31), tier="tier_1",
        budget=Budget.parse("100 USD/month"), swaps={"o3-pro": "gpt-6.1-sol"},
    )  # fmt: skip
    assert {one.name for one in found.parts} == {(m, t) for m in ("o3-pro", "gpt-4.1") for t in ("search", "ads")}
    assert [one.name.split(":")[0].split(" (")[0] for one in found.reached] == [
        "budget 100 USD/month", "monthly usage limit of tier_1", "tier_2",
    ]  # fmt: skip
    gone = next(one for one in found.effects if one.what.startswith("o3-pro shuts down on 2026-12-11"))
    assert gone.pico is not None
    assert gone.pico < 0
    with pytest.raises(ConfigError, match="that day is over"):
        forecast_ledger(str(book), now=NOW, until=date(2026, 11, 1))


def test_forecast_takes_ledgers_entries_and_requests(book: Path, tmp_path: Path) -> None:
    """One function for pandas users: each kind of source gives its frame, and what is neither is refused."""
    by_path = forecast(book, now=NOW)
    with Ledger(book) as ledger:
        pd.testing.assert_frame_equal(by_path, forecast(ledger, now=NOW))
        pd.testing.assert_frame_equal(by_path, forecast(ledger.to_pandas(), now=NOW))
    assert by_path["model"].tolist()[-1] == "total"
    assert isinstance(by_path["mean_usd"].iloc[-1], Decimal)
    requests = pd.DataFrame(
        {"model": ["o3-pro", "o3-pro", "nobody-priced-this"], "input_tokens": 1_000_000, "output_tokens": 0}
    )
    found = forecast(requests, at=date(2026, 7, 20)).set_index("model")
    assert found.loc["o3-pro", "mean_usd"] == Decimal(40)
    assert found.loc["nobody-priced-this", "mean_usd"] is None
    assert found.loc["total", "unpriced"] == 1
    unknown: Any = pd.DataFrame({"a": [1]})
    with pytest.raises(ConfigError, match="this one has a"):
        forecast(unknown)
    with pytest.raises(ConfigError, match="in row 1 is no number of tokens"):
        forecast(pd.DataFrame({"model": ["o3", "o3"], "input_tokens": [1, -1]}))
    (tmp_path / "no.db").write_text("nonsense")
    with pytest.raises(ConfigError, match="no ledger"):
        forecast(tmp_path / "no.db")
