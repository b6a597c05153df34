"""What a newcomer tries first still works when the models of the first pages are gone."""

from __future__ import annotations

import re
import warnings
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
import time_machine

from pricing.cards import load_cards
from ratelimit.emulator import Emulator

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
LATER = date(2027, 6, 1)
"""By then every shutdown that the tables know of has come: o3-pro's on 2026-12-11, gpt-4o's on 2027-01-14."""


@pytest.fixture
def _later() -> Any:
    with time_machine.travel(datetime(LATER.year, LATER.month, LATER.day, 12, tzinfo=UTC), tick=True):
        yield


def test_later_is_after_every_shutdown() -> None:
    """When a table learns of a later shutdown, these tests move on with it."""
    assert all(card.shutdown is None or card.shutdown < LATER for card in load_cards())


@pytest.mark.usefixtures("_later")
def test_the_python_of_readme_still_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every block of README runs as pasted, against a local server in the place of OpenAI's, without a warning."""
    monkeypatch.chdir(tmp_path)
    with Emulator(limits={"rpm": 1_000, "tpm": 1_000_000}, latency=0) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        clients: list[Any] = []

        def ours(real: Any) -> Any:
            clients.append(real(base_url=server.url, api_key="x"))
            return clients[-1]

        for name in ("OpenAI", "AsyncOpenAI"):
            monkeypatch.setattr(openai, name, partial(ours, getattr(openai, name)))
        names: dict[str, Any] = {}
        blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
        assert len(blocks) == 2
        for block in blocks:
            exec(block, names)
        assert names["answer"].usage.output_tokens > 0
        assert server.counters()["admitted"] == 1
        clients[0].close()  # the only one that sent anything
    assert "goes at once" in capsys.readouterr().out
