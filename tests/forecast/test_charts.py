"""Charts and pages: names are words, nothing hides in a page, and a rate is one of its limit's period."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.forecast.charts import (
    components,
    cost_by_component,
    fullness,
    png,
    rate_against_limit,
    spend_over_time,
    svg,
    visible,
)
from ratelimit.forecast.lanes import Account
from ratelimit.forecast.outlook import Setting, outlook
from ratelimit.forecast.page import Card, page
from ratelimit.forecast.series import series
from ratelimit.forecast.traced import Filled, forecast_trace
from ratelimit.forecast.workload import ONLINE, Reading

from .conftest import workload

AT = date(2026, 7, 20)
NASTY = ["a$\\frac{$b", "$x_{$", "<script>alert(1)</script>", "bell\x07 esc\x1b[31m nul\x00", "half\ud800", "_hidden"]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("name", NASTY)
def test_names_are_words_wherever_they_are_drawn(name: str, tmp_path: Path) -> None:
    """Formulas, markup, control characters and halves of characters: picture and page show them, spelled out."""
    work = workload([100] * 30, models=[name], latency_us=[10**6] * 30)
    account = Account(limits={"rpm": 5, "tpm": 100_000}, at=AT)
    found = outlook(work, account, Setting({}))
    lines = series(work, found, None, work.expected(ONLINE)[1])
    full = [(name, [Filled(f"rpm of {name}", 0.5, 20.0)])]
    panels = [
        *(rate_against_limit(lines, limit) for limit in lines.rates),
        fullness(full),
        cost_by_component({name: (5, 6)}),
    ]
    png(panels, f"Forecast of {name}", str(tmp_path / "x.png"))
    text = page(f"Forecast of {name}", name, [Card(name, name, name)], panels, [], [name])
    assert text == visible(text)
    text.encode("utf-8")
    assert "<script>" not in text
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(drawing)
    shown = visible(name).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert f"rpm of {shown}" in text


@given(st.text())
def test_what_is_visible_stays_and_what_hides_is_spelled_out(text: str) -> None:
    """No control character and no half of a character is left; a text without such is itself."""
    found = visible(text)
    assert all(one in "\n\t" or ord(one) >= 32 for one in found)
    found.encode("utf-8")
    assert visible(found) == found
    if text.isprintable():
        assert found == text


@given(st.lists(st.integers(1, 900), min_size=1, max_size=50), st.integers(1, 60), st.sampled_from(["rpm", "rpd"]))
def test_a_rate_is_of_the_limit_s_own_period(tokens: list[int], rate: int, name: str) -> None:
    """What a chart says of a limit is what was admitted in its period before, counted one by one: twice it at most."""
    work = workload(tokens, latency_us=[5_000_000] * len(tokens))
    account = Account(limits={name: max(rate, 3), "tpm": 5_000}, at=AT)
    found = outlook(work, account, Setting({}), relief=False)
    lines = series(work, found, None, work.expected(ONLINE)[1])
    act = found.schedule.act_us.tolist()
    for limit, taken in ((f"{name} of o3", [1] * len(tokens)), ("tpm of o3", tokens)):
        units, most, period_us = lines.rates[limit]
        for until, unit in zip(lines.until_us.tolist(), units.tolist(), strict=True):
            within = [one for at, one in zip(act, taken, strict=True) if until - period_us < at <= until]
            assert unit == pytest.approx(sum(within), abs=1e-3 * len(act))
            assert unit <= 2 * most * 1.001
    panel = rate_against_limit(lines, f"{name} of o3")
    assert panel.title == f"Requests per {'minute' if name == 'rpm' else 'day'}: {name} of o3"


def test_what_is_spent_ends_at_the_expected_cost(tmp_path: Path) -> None:
    """The line over time and the total beside it are one number."""
    frame = pd.DataFrame({"t_s": range(50), "model": "o3", "input_tokens": 500})
    found = forecast_trace(frame, Reading(at=AT), [Account("tier_1", at=AT)])
    assert found.spending.cost is not None
    lines = series(found.work, found.main.outlook, found.spending.cost, found.work.expected(ONLINE)[1])
    assert lines.spent[-1] == pytest.approx(found.spending.cost.mean)
    assert components({"o3": found.spending}, {"o3": 0})["o3"][1] == found.spending.cost.mean


def ticks(drawing: str) -> list[str]:
    """The words of a drawing."""
    return [re.sub(r"<.*?>", "", one) for one in re.findall(r"<text.*?</text>", drawing, re.DOTALL)]


def test_axes_are_written_one_way() -> None:
    """Shares of a limit are plain numbers, with no formula among them; a budget is a line only where it is a total."""
    words = ticks(svg(fullness([("tier_1", [Filled("rpm", 0.9, 2.2)]), ("tier_2", [Filled("rpm", 0.6, 1.1)])])))
    assert not any("mathdefault" in word or "×" in word or "%" in word for word in words)
    work = workload([100] * 3, latency_us=[1] * 3)
    found = outlook(work, Account(limits={"tpm": 10**6}, at=AT), Setting({}), relief=False)
    lines: Any = series(work, found, None, work.expected(ONLINE)[1])
    assert ("budget" in ticks(svg(spend_over_time(lines, 5)))) != ("budget" in ticks(svg(spend_over_time(lines))))


def test_an_hourly_budget_is_no_line_on_what_is_spent_in_all(tmp_path: Path) -> None:
    """A report of a job under an hourly budget draws none; one under a total does."""
    from ratelimit.cli import main

    path = tmp_path / "job.jsonl"
    path.write_text("".join(json.dumps({"model": "o3", "input": "word " * n}) + "\n" for n in range(1, 20)))
    for budget, drawn in (("1 USD/hour", False), ("1 USD", True), ("1 USD warn", False)):
        report = tmp_path / "report.html"
        with pytest.raises(SystemExit):
            main(
                ["forecast", str(path), "--tier", "tier_1", "--at", str(AT), "--budget", budget, "--html", str(report)]
            )
        assert ("budget" in ticks(report.read_text(encoding="utf-8").partition("</svg>")[0])) == drawn
