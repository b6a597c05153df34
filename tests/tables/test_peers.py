"""The price lists of other projects are read as data, without running them, and every disagreement is listed."""

from __future__ import annotations

import contextlib
import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from pricing import peers
from pricing.errors import ConfigError
from pricing.peers import Disagreement, Place, compare
from pricing.prices import load_prices
from ratelimit.cli import main

DAY = date(2026, 11, 20)
GENAI = """\
import datetime
from decimal import Decimal
raise SystemExit("this module is read, never run")
providers: list[Provider] = [
    Provider(id='other', models=[ModelInfo(id='o3', prices=ModelPrice(input_mtok=Decimal('99')))]),
    Provider(
        id='openai',
        models=[
            ModelInfo(id='not-ours', prices=ModelPrice(input_mtok=Decimal('1'))),
            ModelInfo(
                id='o3',
                prices=[
                    ConditionalPrice(prices=ModelPrice(input_mtok=Decimal('10'))),
                    ConditionalPrice(
                        constraint=StartDateConstraint(start_date=datetime.date(2025, 6, 10)),
                        prices=ModelPrice(input_mtok=Decimal('2'), output_mtok=Decimal('8.5')),
                    ),
                    ConditionalPrice(
                        constraint=StartDateConstraint(start_date=datetime.date(2027, 1, 1)),
                        prices=ModelPrice(input_mtok=Decimal('0.1')),
                    ),
                ],
                price_variants=[
                    PriceVariant(when={'service_tier': 'default'}, prices=ModelPrice(), constraint=None),
                    PriceVariant(when={'processing': 'batch'}, prices=ModelPrice(cache_read_mtok=Decimal('0.5'))),
                ],
            ),
            ModelInfo(
                id='gpt-5.4',
                prices=ModelPrice(
                    input_mtok=TieredPrices(base=Decimal('2.5'), tiers=[Tier(start=272000, price=Decimal('4'))])
                ),
            ),
            ModelInfo(id='whisper-1', prices=ModelPrice(input_audio_hours=Decimal('0.36'))),
        ],
    ),
]
"""
LITELLM = {
    "o3": {
        "litellm_provider": "openai",
        "input_cost_per_token": 2e-06,
        "output_cost_per_token_flex": 4e-06,
        "cache_read_input_token_cost_priority": 8e-07,
        "supports_vision": True,
    },
    "gpt-5.4": {"litellm_provider": "openai", "input_cost_per_token_above_272k_tokens_batches": 2.5e-06},
    "text-embedding-ada-002": {"litellm_provider": "openai", "output_cost_per_token": 0.0},
    "whisper-1": {"litellm_provider": "openai", "input_cost_per_second": 0.0001},
    "gpt-4o": {"litellm_provider": "somebody", "input_cost_per_token": 1.0},
}
MODELS = ["o3", "gpt-5.4", "whisper-1", "gpt-4o", "text-embedding-ada-002"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins of both projects, found before real ones."""
    files = {
        "genai_prices/__init__.py": "raise SystemExit('imported')",
        "genai_prices/data.py": GENAI,
        "genai_prices-0.0.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: genai-prices\nVersion: 0.0.1\n",
        "litellm/__init__.py": "raise SystemExit('imported')",
        "litellm/model_prices_and_context_window_backup.json": json.dumps(LITELLM),
        "litellm-0.0.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: litellm\nVersion: 0.0.2\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed")
def test_disagreements_are_listed_and_agreements_counted() -> None:
    """Tiers, dates, long context and minutes are compared where they stand; what is equal is counted."""
    genai, litellm = compare(load_prices(), MODELS, DAY)
    assert (genai.name, genai.version, genai.equal) == ("genai-prices", "0.0.1", 3)
    assert genai.disagreements == [
        Disagreement(Place("gpt-5.4", "standard", "input", True), Decimal(5), Decimal(4)),
        Disagreement(Place("o3", "batch", "cached_input"), None, Decimal("0.5")),
        Disagreement(Place("o3", "standard", "output"), Decimal(8), Decimal("8.5")),
    ]
    assert (litellm.name, litellm.version, litellm.equal) == ("litellm", "0.0.2", 4)
    assert litellm.disagreements == [
        Disagreement(Place("o3", "priority", "cached_input"), Decimal("0.875"), Decimal("0.8"))
    ]


@pytest.mark.usefixtures("installed")
def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    """`ratecard tables diff` lists each disagreement for people, and all of it as JSON."""

    def run(*options: str) -> str:
        with contextlib.suppress(SystemExit):
            main(["tables", "diff", "--at", str(DAY), *options])
        return capsys.readouterr().out

    shown = run()
    assert "genai-prices 0.0.1: 3 prices equal, 2 differ, 1 that we have none for" in shown
    assert (
        "o3                       batch      cached_input                     ours     none  theirs      0.5" in shown
    )
    place = {"model": "o3", "tier": "priority", "kind": "cached_input", "long": False}
    disagreements = [{**place, "ours": "0.875", "theirs": "0.8"}]
    assert json.loads(run("--json"))["litellm"] == {"version": "0.0.2", "equal": 4, "disagreements": disagreements}


def test_without_any_of_them_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no other project is installed there is nothing to compare with, and the error says so."""
    monkeypatch.setattr(peers, "_installed", lambda name, file: None)
    with pytest.raises(ConfigError, match="none of genai-prices, litellm is installed here"):
        compare(load_prices(), MODELS, DAY)
