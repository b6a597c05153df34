"""Edges of a ledger's forecast: odd names and columns, days as text, entries of tomorrow, swaps by another name."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing import Ledger, Usage, Usd, forecast
from pricing.budget import Budget
from pricing.cost import Unpriced, cost
from pricing.daily import daily, daily_of_ledger
from pricing.errors import ConfigError
from pricing.projection import day_number
from ratelimit.cli import main
from ratelimit.forecast.booked import forecast_ledger

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
USAGE = {"input_tokens": 1_000, "output_tokens": 500}


def fill(path: Path, first: date, days: int, model: str = "o3-pro", *, priced: bool = True) -> Path:
    """A call a day, of one model as it was served."""
    clock = [0]
    amount: Any = cost(USAGE, model="o3-pro", at=date(2026, 7, 20)) if priced else Unpriced("no price")
    with Ledger(path, now_us=lambda: clock[0]) as book:
        for day in range(days):
            clock[0] = ((day_number(first) + day) * 86_400 + 3_600) * 10**6
            entry = book.pend(model=model, endpoint="/v1/responses", estimate=Usd(1))
            book.post(entry, cost=amount, usage=Usage.from_response(USAGE))
    return path


def test_a_day_is_a_day_however_it_is_given(tmp_path: Path) -> None:
    """Dates, their text and instants are days; what is none, and a seed or a now that is none, is a ConfigError."""
    path = fill(tmp_path / "costs.db", date(2026, 11, 1), 24)
    by_date = forecast(path, now=NOW, until=date(2026, 12, 5))
    for until in ("2026-12-05", pd.Timestamp("2026-12-05 13:00"), datetime(2026, 12, 5, 13, tzinfo=UTC)):
        pd.testing.assert_frame_equal(forecast(path, now=NOW, until=until), by_date)
    jobs = pd.DataFrame({"model": ["o3-pro"], "input_tokens": 1_000_000, "output_tokens": 0})
    assert forecast(jobs, at="2026-07-20")["mean_usd"].iloc[-1] == Decimal(20)
    wrong: list[dict[str, Any]] = [
        {"at": "yesterday"}, {"at": 5}, {"since": pd.NaT}, {"until": "2026-13-01"}, {"now": "2026-11-25"}, {"seed": -1},
        {"now": pd.NaT},
    ]  # fmt: skip
    for given_ in wrong:
        with pytest.raises(ConfigError, match=next(iter(given_))):
            forecast(jobs, **given_)
    for since, until in (("2027-01-01", "2026-12-01"), (None, "9999-12-31")):
        with pytest.raises(ConfigError, match="until"):
            forecast(path, now=NOW, since=since, until=until)


def test_columns_there_twice_and_parts_asked_twice_are_refused(tmp_path: Path) -> None:
    """Two columns of one name leave open which is meant, and a part cannot be split by itself: both are told."""
    path = fill(tmp_path / "costs.db", date(2026, 11, 1), 24)
    with Ledger(path) as book:
        entries = book.to_pandas()
    jobs = pd.DataFrame({"model": ["o3-pro"], "input_tokens": 10})
    for frame, name in ((jobs, "model"), (jobs, "input_tokens"), (entries, "cost"), (entries, "model")):
        with pytest.raises(ConfigError, match=f"2 columns named '{name}'"):
            forecast(pd.concat([frame, frame[[name]]], axis=1), now=NOW)
    for source in (path, entries):
        with pytest.raises(ConfigError, match="'model' once, not twice"):
            forecast(source, by=["model", "model"], now=NOW)
    for created in ("nonsense", None):
        with pytest.raises(ConfigError, match="created"):
            forecast(entries.assign(created=created), now=NOW)


def test_columns_of_any_kind_are_read(tmp_path: Path) -> None:
    """Categories, strings and missing values of pandas' own are what they say: no traceback, and the same amounts."""
    jobs = pd.DataFrame({"model": ["o3-pro", "o3-pro"], "input_tokens": 1_000, "output_tokens": 5})
    plain = forecast(jobs.assign(service_tier=["flex", None]))
    kinds = jobs.assign(
        model=pd.Categorical(jobs["model"]), service_tier=pd.Categorical(["flex", None]),
        input_tokens=pd.Categorical(jobs["input_tokens"]),
    )  # fmt: skip
    pd.testing.assert_frame_equal(forecast(kinds), plain)
    path = fill(tmp_path / "costs.db", date(2026, 11, 1), 24)
    with Ledger(path) as book:
        entries = book.to_pandas()
    entries.loc[3, "cost"] = None
    strings = entries.assign(
        cost=entries["cost"].map(str, na_action="ignore").astype("string"),
        state=pd.Categorical(entries["state"]), asked_model=pd.Categorical([None] * len(entries)),
    )  # fmt: skip
    by = ("asked_model",)
    pd.testing.assert_frame_equal(daily(strings, by), daily(entries.assign(asked_model=None), by))


@given(st.text(min_size=1, max_size=6) | st.sampled_from(["te\"am'", "a.b", "a\\b", "$", "[0]", "é", "a\x00b", "\n"]))
@settings(max_examples=40, deadline=None)
def test_days_are_split_by_a_tag_of_any_name(name: str) -> None:
    """Whatever characters a tag's name is made of, SQL finds its values as pandas does."""
    amount = cost(USAGE, model="o3-pro", at=date(2026, 7, 20))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "costs.db"
        with Ledger(path, now_us=lambda: 10**15) as book:
            for tags in ({name: "x"}, {name: "y", "other": "x"}, {"other": "z"}):
                entry = book.pend(model="o3", endpoint="/v1/responses", estimate=Usd(1), tags=tags)
                book.post(entry, cost=amount, usage=Usage.from_response(USAGE))
            entries = book.to_pandas()
        by = (f"tag:{name}",)
        found = daily_of_ledger(path, by)
        pd.testing.assert_frame_equal(found, daily(entries, by), check_dtype=False)
        assert sorted(found[by[0]]) == sorted(["x", "y", "z" if name == "other" else ""])


def test_what_comes_after_the_day_of_the_forecast_is_not_spent_yet(tmp_path: Path) -> None:
    """With `--at` in the past: a budget counts what was spent until then, in line with the projection."""
    path = fill(tmp_path / "costs.db", date(2026, 11, 1), 25)
    day = cost(USAGE, model="o3-pro", at=date(2026, 7, 20))
    assert not isinstance(day, Unpriced)
    for text in (f"{day.total.decimal() * 20} USD/month", f"{day.total.decimal() * 20} USD"):
        found = forecast_ledger(
            str(path), now=datetime(2026, 11, 10, 12, tzinfo=UTC), budget=Budget.parse(text), tier="tier_1"
        )
        budget, *limits = found.reached
        assert budget.spent == found.total.spent == 10 * day.total.pico
        assert budget.p50 == date(2026, 11, 20)
        assert {one.spent for one in limits} == {found.total.spent}


def test_a_short_ledger_says_what_is_reached_already_and_what_nobody_can_tell(tmp_path: Path) -> None:
    """One call: a budget below it is spent; a larger one and the tier's limit are named as unknown, not left out."""
    path = fill(tmp_path / "costs.db", date(2026, 11, 25), 1)
    found = forecast_ledger(str(path), now=NOW, budget=Budget.parse("0.01 USD"), tier="tier_1")
    assert [(one.name, one.p50) for one in found.reached] == [("budget 0.01 USD", NOW.date())]
    assert [text.partition(":")[0] for text in found.facts] == [
        "monthly usage limit of tier_1", "tier_2 ($50 paid), if paid as spent",
    ]  # fmt: skip


@pytest.mark.parametrize("served", ["o3-pro", "o3-pro-2025-06-10"])
def test_a_swap_names_a_model_by_any_of_its_names(tmp_path: Path, served: str) -> None:
    """A ledger that was served a snapshot: `--swap` with the alias or the snapshot is the same swap."""
    path = fill(tmp_path / "costs.db", date(2026, 11, 1), 25, served)
    changes = set()
    for asked in ("o3-pro", "o3-pro-2025-06-10"):
        found = forecast_ledger(str(path), now=NOW, until=date(2026, 12, 31), swaps={asked: "gpt-6.1-sol"})
        (effect,) = found.effects
        assert "gpt-6.1-sol in its place" in effect.what
        assert not found.facts
        changes.add(effect.pico)
    (change,) = changes
    assert change is not None
    assert change < 0


def test_a_swap_without_effect_says_so(tmp_path: Path) -> None:
    """A swap of a model that has no call, or no announced shutdown: a note; a fine-tune is not its base."""
    path = fill(tmp_path / "costs.db", date(2026, 11, 1), 25, "gpt-6.1-sol")
    found = forecast_ledger(str(path), now=NOW, swaps={"o3": "gpt-4.1", "gpt-6.1-sol": "o3"})
    assert found.facts == (
        "--swap o3=gpt-4.1: no call of it in this ledger",
        "--swap gpt-6.1-sol=o3: no shutdown of gpt-6.1-sol is announced, so nothing changes",
    )
    tuned = fill(tmp_path / "tuned.db", date(2026, 11, 1), 25, "ft:gpt-4o-2024-08-06:acme::id")
    found = forecast_ledger(str(tuned), now=NOW, swaps={"gpt-4o": "gpt-6.1-sol"})
    assert found.facts == ("--swap gpt-4o=gpt-6.1-sol: no call of it in this ledger",)


def test_a_ledger_of_unpriced_calls_is_unknown_and_not_free(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no call has a price, spent and total are unknown, on the terminal, in JSON, pandas and the report."""
    path = fill(tmp_path / "costs.db", date(2026, 11, 1), 25, priced=False)
    arguments = ["forecast", str(path), "--at", "2026-11-25", "--html", str(tmp_path / "page.html")]
    with pytest.raises(SystemExit):
        main(arguments)
    text = capsys.readouterr().out
    assert "spent     unknown\ntotal     unknown\n" in text
    assert "$0" not in text + (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main([*arguments, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [found["total"]["spent"], found["total"]["cost"], found["days"]] == [None, None, []]
    row = forecast(path, now=NOW).iloc[-1]
    assert [row["spent_usd"], row["p50_usd"]] == [None, None]


@pytest.mark.parametrize("option", ["--until 9999-12-31", "--at 9999-12-31", "--by model --by model"])
def test_what_cannot_be_foreseen_is_an_error_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    """A year that is too far, or a part twice: refused before anything is drawn, without a traceback."""
    path = fill(tmp_path / "costs.db", date(2026, 11, 1), 25)
    with pytest.raises(SystemExit) as end:
        main(["forecast", str(path), "--at", "2026-11-25", *option.split()])
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith("error: ")
