"""Traces: what is read is what was written, whatever the file looks like, and what is wrong is told with its row."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pricing import cost
from ratelimit import plan
from ratelimit.errors import ConfigError
from ratelimit.forecast.lanes import Account
from ratelimit.forecast.trace import read_trace
from ratelimit.forecast.traced import forecast_trace
from ratelimit.forecast.workload import Reading

START = datetime(2026, 7, 20, 9, 30, tzinfo=UTC)
models = st.sampled_from(["o3", "gpt-4o-mini"])
request = st.tuples(st.integers(0, 10**9), st.integers(1, 10**6), st.integers(0, 10**5), models)
rows = st.lists(request, min_size=1, max_size=30)
MIXED = "time,input_tokens,model\n2026-01-01T00:00:00Z,2,o3\n2026-01-01T00:00:00,2,o3\n"


@given(rows, st.sampled_from([",", ";", "\t"]), st.booleans(), st.booleans(), st.booleans(), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_is_what_was_written(
    tmp_path: Path, rows: list[Any], sign: str, packed: bool, marked: bool, parquet: bool, stamped: bool
) -> None:
    """In every dialect, packed or not, by seconds or by stamps: the same requests, in the order of their times."""
    rows = sorted(rows, key=lambda row: row[0])
    times = [START + timedelta(microseconds=row[0]) if stamped else row[0] / 1e6 for row in rows]
    frame = pd.DataFrame(
        {"Timestamp" if stamped else "t_s": times, "ContextTokens": [row[1] for row in rows],
         "GeneratedTokens": [row[2] for row in rows], "model": [row[3] for row in rows]}
    )  # fmt: skip
    path = tmp_path / "trace"
    if parquet:
        frame.to_parquet(path)
    else:
        if stamped:
            frame["Timestamp"] = [one.isoformat() for one in times]  # type: ignore[union-attr]
        text = frame.to_csv(index=False, sep=sign).encode("utf-8-sig" if marked else "utf-8")
        path.write_bytes(gzip.compress(text) if packed else text)
    for source in (path, frame):
        found = read_trace(source)
        assert found.bad_rows == 0
        assert found.arrival_us.tolist() == [row[0] - rows[0][0] for row in rows]
        assert found.input.tolist() == [row[1] for row in rows]
        assert found.output.tolist() == [row[2] for row in rows]
        assert [found.models[place] for place in found.model] == [row[3] for row in rows]
        assert found.start == (START + timedelta(microseconds=rows[0][0]) if stamped else None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("t_s,input_tokens,model\n", "there are no rows"),
        ("when,input_tokens,model\n1,2,o3\n", "no column of times (t_s, t_ms"),
        ("t_s,inputtokens,model\n1,2,o3\n", "no column of input tokens (input_tokens, input, "),
        ("t_s,inputtokens,model\n1,2,o3\n", "; is it 'inputtokens'?"),
        ("t_s,input_tokens\n1,2\n", "no column names the model; say which it is: --model MODEL"),
        (MIXED, "has a time zone on row 1 and none on row 2"),
    ],
)  # fmt: skip
def test_a_trace_that_cannot_be_used_says_why(tmp_path: Path, text: str, words: str) -> None:
    """One message, with the file, what was found and what would do."""
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_trace(path)
    assert words in str(error.value)
    assert "trace.csv" in str(error.value)


def test_bad_rows_are_listed_and_never_counted_as_nothing(tmp_path: Path) -> None:
    """Negative, broken and missing tokens, and times that are none: each row with its reason; the others count."""
    path = tmp_path / "trace.csv"
    path.write_text(
        "t_s,input_tokens,output_tokens,cached_tokens,model\n"
        "0,10,5,0,o3\n1,-1,5,0,o3\n2,1.5,5,0,o3\n3,many,5,0,o3\n4,,5,0,o3\nsoon,10,5,0,o3\n6,10,5,11,o3\n7,10,,0,o3\n8,10,5,0,\n"
    )
    found = read_trace(path)
    assert found.bad_rows == 7
    assert [(one.number, one.reason) for one in found.bad] == [
        (2, "input_tokens: a negative number of tokens"),
        (3, "input_tokens: not a whole number of tokens"),
        (4, "input_tokens: not a number"),
        (5, "input_tokens: is empty"),
        (6, "t_s: no time"),
        (7, "more cached tokens than input tokens"),
        (9, "model: is empty"),
    ]
    assert found.row.tolist() == [1, 8]
    assert found.output.tolist() == [5, -1], "what is not known is not 0"


def test_rows_out_of_order_are_put_in_order_and_said_so() -> None:
    """Unsorted stamps are sorted; zones may differ, for they are instants; without one they are UTC."""
    frame = pd.DataFrame({"t_s": [5, 1, 3], "input_tokens": [1, 2, 3]})
    found = read_trace(frame, model="o3")
    assert found.input.tolist() == [2, 3, 1]
    assert found.row.tolist() == [2, 3, 1]
    assert found.notes == ("1 rows came before the one above them: all were put in order",)
    mixed = pd.DataFrame({"time": ["2026-01-01T01:00:00+01:00", "2026-01-01T00:00:01Z"], "input_tokens": [1, 2]})
    assert read_trace(mixed, model="o3").arrival_us.tolist() == [0, 1_000_000]


def test_a_trace_is_priced_as_each_of_its_calls() -> None:
    """The cost of the whole is the sum of what `cost` says of each, cached tokens and long context included."""
    frame = pd.DataFrame(
        {"t_s": range(4), "input_tokens": [1_000, 300_000, 50, 9_000], "cached_tokens": [0, 1_000, 50, 0],
         "output_tokens": [10, 20, 0, 7], "model": ["o3", "gpt-5.5", "o3", "gpt-5.5"]}
    )  # fmt: skip
    at = datetime(2026, 7, 20, tzinfo=UTC).date()
    found = forecast_trace(frame, Reading(at=at), [Account(limits={"tpm": 10**9})])
    expected = 0
    for row in frame.itertuples():
        usage = {"input_tokens": row.input_tokens, "output_tokens": row.output_tokens}
        usage["input_tokens_details"] = {"cached_tokens": row.cached_tokens}
        expected += cost(usage, model=row.model, at=at).total.pico  # type: ignore[union-attr]
    assert found.spending.cost is not None
    assert set(found.spending.cost) == {expected}


def test_waits_backlog_and_utilisation_are_those_of_a_plain_count() -> None:
    """Two requests a second against one a second: the numbers that one can count by hand."""
    frame = pd.DataFrame(
        {"t_s": [n * 0.5 for n in range(240)], "input_tokens": 1, "output_tokens": 1, "latency_ms": 10}
    )
    (view,) = forecast_trace(frame, Reading(at=START.date()), [Account(limits={"rpm": 60})], model="o3").views
    waits = view.outlook.schedule.act_us - view.outlook.lanes.line  # lines are 0
    assert view.waits[3] == max(waits - [int(n * 500_000) for n in range(240)])
    assert view.filled[0].limit == "rpm of o3"
    assert view.filled[0].sustained == pytest.approx(240 / 119.5)
    assert view.filled[0].peak == 2.0
    assert view.backlog == pytest.approx(60, abs=2), "of 240 in two minutes 60 go at once, and then one a second"
    assert [share for _, share in view.delayed] == sorted((share for _, share in view.delayed), reverse=True)


def test_plan_gives_every_row_its_time() -> None:
    """A frame in, the same rows out, with when each goes and what it waits for; what never goes has no time."""
    frame = pd.DataFrame({"input_tokens": [600, 600, 600, 5_000], "note": list("abcd")}, index=[9, 8, 7, 6])
    planned = plan(frame, limits={"tpm": 1_200}, model="o3", at=START.date())
    assert planned["note"].tolist() == list("abcd")
    assert planned.index.tolist() == [9, 8, 7, 6]
    assert planned["admitted_s"].tolist()[:3] == [0, 0.1, 30.1]
    assert planned["waits_for"].tolist()[:3] == ["", "tpm of o3", "tpm of o3"]
    assert planned["admitted_s"].isna().tolist() == [False, False, False, True]
    assert "ever lets through" in planned["waits_for"].iloc[3]
    with pytest.raises(ConfigError, match="row 1: input_tokens: a negative number"):
        plan(frame.assign(input_tokens=-1), limits={"tpm": 1_200}, model="o3", at=START.date())
