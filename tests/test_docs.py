"""What the pages show runs: the Python of docs/pacing.md, in order, as a reader would paste it."""

from __future__ import annotations

import re
from pathlib import Path

import openai
import pytest

import pricing
import ratelimit

PAGE = Path(__file__).resolve().parents[1] / "docs" / "pacing.md"


@pytest.mark.filterwarnings("ignore::ratelimit.errors.RatecardWarning")
def test_the_python_of_the_pacing_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Every block works with what the blocks before it have made."""
    names = {"ratelimit": ratelimit, "OpenAI": lambda: openai.OpenAI(api_key="x")}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        exec(block, names)
    assert "goes at once" in capsys.readouterr().out


def test_a_realtime_session_is_priced_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """The example of docs/middleware.md for what passes no middleware runs, and prints the cost that it says."""
    text = (PAGE.parent / "middleware.md").read_text(encoding="utf-8").partition("## Realtime")[2]
    block = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    exec(block, {})
    assert re.findall(r"print.*# ([\d.]+):", block) == [capsys.readouterr().out.strip()]


def test_the_python_of_the_forecast_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each block runs alone; the log larger than one machine is a ledger's export here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exports").mkdir()
    with pricing.Ledger("costs.db") as ledger:
        for _ in range(3):
            ledger.expire(ledger.pend(model="o3-pro", endpoint="e", estimate=pricing.Usd(10**12)), "cut")
        ledger.to_pandas().to_parquet("exports/one.parquet")
    blocks = re.findall(r"```python\n(.*?)```", (PAGE.parent / "forecast.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})
    printed = capsys.readouterr().out
    assert "waits_for" in printed
    assert "Projection(" in printed
