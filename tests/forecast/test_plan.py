"""What a trace or a frame may hold: zones, spans and times of all sizes, and plans that say why each row waits."""

from __future__ import annotations

import tracemalloc
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit import plan
from ratelimit.errors import ConfigError
from ratelimit.forecast.lanes import Account
from ratelimit.forecast.trace import read_trace
from ratelimit.forecast.traced import forecast_trace
from ratelimit.forecast.workload import Reading

AT = date(2026, 7, 20)
ZONES = ["Z", "+00", "+02", "-05", "+0530", "+05:30", "-00:30"]
FORMS = ["2026-11-25 09:30:00", "2026-11-25T09:30:00.25", "2026-11-25T09:30", "2026-11-25 09:30:00.123456"]


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"model": "o3", "input_tokens": [10, 20], "output_tokens": [5, 6], **columns})


@given(st.lists(st.tuples(st.sampled_from(FORMS), st.sampled_from(["", *ZONES])), min_size=1, max_size=6))
def test_zones_are_all_or_none(times: list[tuple[str, str]]) -> None:
    """However a zone is written it is one: times with and without one are refused together, and read right apart."""
    given_ = pd.DataFrame({"time": [form + zone for form, zone in times], "input_tokens": 1, "model": "o3"})
    zoned = {bool(zone) for _, zone in times}
    if len(zoned) == 2:
        with pytest.raises(ConfigError, match="has a time zone on row"):
            read_trace(given_)
        return
    found = read_trace(given_)
    assert ("times without a zone are read as UTC" in found.notes) == (zoned == {False})
    instants = sorted(pd.Timestamp(form + zone) for form, zone in times)
    first = instants[0]
    assert found.arrival_us.tolist() == [(one - first) // pd.Timedelta(microseconds=1) for one in instants]


def test_a_date_alone_has_no_zone() -> None:
    """The day at the end of a date is no offset of that many hours."""
    assert read_trace(frame(time=["2026-11-25", "2026-11-26"])).notes == ("times without a zone are read as UTC",)


@given(st.lists(st.integers(0, 10**12), min_size=2, max_size=2), st.sampled_from(["time", "t_s", "timestamp"]))
def test_spans_of_time_are_what_they_say(micros: list[int], name: str) -> None:
    """A column of timedeltas counts its own time, in whatever column; as a latency too."""
    spans = pd.to_timedelta(sorted(micros), unit="us")
    found = read_trace(frame(**{name: spans, "latency_ms": spans}))
    assert found.arrival_us.tolist() == [0, max(micros) - min(micros)]
    assert found.latency_us.tolist() == sorted(micros)
    assert found.start is None


@pytest.mark.parametrize(("columns", "words"), [
    ({"t_s": [0, 1e15]}, "row 2: t_s: a time before the year 1 or after 9999"),
    ({"timestamp": [2, 1e30]}, "row 2: timestamp: a time before the year 1 or after 9999"),
    ({"t_s": [0, float("inf")]}, "row 2: t_s: no time"),
    ({"t_s": [0, 1], "latency_ms": [1e300, 5]}, "row 1: latency_ms: longer than any reply takes"),
    ({"t_s": [0, 1], "input_tokens": [5, 2.0**41]}, "row 2: input_tokens: more tokens than there can be"),
])  # fmt: skip
def test_numbers_beyond_reckoning_are_bad_rows(columns: dict[str, Any], words: str) -> None:
    """A time, a duration or a size that cannot be meant is told with its row, and spoils no other one."""
    with pytest.raises(ConfigError, match=words):
        plan(frame(**columns), tier="tier_1", at=AT)


def test_ten_thousand_years_need_no_room(tmp_path: Path) -> None:
    """Two requests ages apart: memory is taken for requests, and not for the minutes between them."""
    path = tmp_path / "years.csv"
    path.write_text("time,input_tokens,output_tokens\n9999-12-31T23:59:59Z,10,5\n0001-01-01T00:00:00Z,10,5\n")
    tracemalloc.start()
    found = forecast_trace(path, Reading(at=AT), [Account("tier_1", at=AT)], model="o3")
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    assert found.main.filled[0].peak > 0


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(1, 900)), min_size=1, max_size=40))
def test_the_fullest_minute_is_that_of_a_plain_count(rows: list[tuple[int, int]]) -> None:
    """How full a limit is at most: what comes within each minute, counted one by one."""
    rows.sort()
    given_ = pd.DataFrame({"t_s": [at for at, _ in rows], "input_tokens": [tokens for _, tokens in rows]})
    (view,) = forecast_trace(given_, Reading(at=AT), [Account(limits={"tpm": 1_000}, at=AT)], model="o3").views
    minutes: dict[int, int] = {}
    for at, tokens in rows:
        minutes[(at - rows[0][0]) // 60] = minutes.get((at - rows[0][0]) // 60, 0) + tokens
    assert view.filled[0].peak == pytest.approx(max(minutes.values()) / 1_000, rel=1e-6)


def test_a_plan_says_of_each_row_its_own_reason() -> None:
    """A model nobody knows and a request that is too large are refused for two reasons, each its own."""
    planned = plan(frame(model=["nosuch", "o3-pro"], input_tokens=[5, 10**6]), tier="tier_1", at=AT)
    unknown, large = planned["waits_for"]
    assert unknown.startswith("no limits are published for nosuch")
    assert large.startswith("takes more than tpm of o3-pro ever lets through at once (1,000,000 > 30,000)")


def test_a_plan_tells_what_it_took_for_granted() -> None:
    """The notes of the reading are in the frame's attrs."""
    planned = plan(frame(timestamp=["2026-11-25 10:00", "2026-11-25 09:00"]), tier="tier_1", at=AT)
    assert planned.attrs["notes"] == [
        "times without a zone are read as UTC", "1 rows came before the one above them: all were put in order",
    ]  # fmt: skip


@pytest.mark.parametrize(("source", "options", "words"), [
    (frame(), {"concurrency": 0}, "concurrency is a whole number from 1 on, not 0"),
    (frame(), {"concurrency": -1}, "concurrency is a whole number from 1 on"),
    (frame(), {"seed": -1}, "seed is a whole number from 0 on"),
    ([1, 2], {}, "a plan is of a pandas DataFrame, not of list"),
    (None, {}, "a plan is of a pandas DataFrame, not of NoneType"),
    (pd.concat([frame(), frame()[["input_tokens"]]], axis=1), {}, "two columns 'input_tokens'"),
    (pd.concat([frame(t_s=0), frame(t_s=0)[["t_s"]]], axis=1), {}, "two columns 't_s'"),
])  # fmt: skip
def test_a_plan_of_nonsense_says_so(source: Any, options: dict[str, Any], words: str) -> None:
    """What is no frame, or no number, is told in words."""
    with pytest.raises(ConfigError, match=words):
        plan(source, tier="tier_1", at=AT, **options)


def test_a_huge_limit_is_a_limit() -> None:
    """More requests a minute than 64 bits hold limit nothing, and break nothing."""
    planned = plan(frame(), limits={"rpm": 10**23, "tpm": 10**30}, at=AT)
    assert planned["admitted_s"].tolist() == [0, 0]
