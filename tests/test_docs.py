"""What the pages show runs: the Python of docs/pacing.md, in order, as a reader would paste it."""

from __future__ import annotations

import re
from pathlib import Path

import openai
import pytest

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
