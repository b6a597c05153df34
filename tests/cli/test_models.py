"""What `ratecard models` says: every fact of o3-pro's page, typed from it, and the list of all."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

AT = "2026-08-01"

NOT_OFFERED = [
    "v1/chat/completions",
    "v1/realtime",
    "v1/assistants",
    "v1/fine-tuning",
    "v1/embeddings",
    "v1/images/generations",
    "v1/images/edits",
    "v1/audio/speech",
    "v1/audio/transcriptions",
    "v1/audio/translations",
    "v1/moderations",
    "v1/completions",
]
TIERS = {
    "tier_1": {"rpm": 500, "tpm": 30_000, "batch_queue_tokens": 90_000},
    "tier_2": {"rpm": 5_000, "tpm": 450_000, "batch_queue_tokens": 1_350_000},
    "tier_3": {"rpm": 5_000, "tpm": 800_000, "batch_queue_tokens": 50_000_000},
    "tier_4": {"rpm": 10_000, "tpm": 2_000_000, "batch_queue_tokens": 200_000_000},
    "tier_5": {"rpm": 10_000, "tpm": 30_000_000, "batch_queue_tokens": 5_000_000_000},
}


@pytest.mark.parametrize(
    ("model", "lines"),
    [
        ("gpt-4o", ["image tokens", "85, and 170 for each tile of 512 pixels"]),
        (
            "gpt-5.4",
            ["high detail: at most 2,500 patches, the longer side at most 2,048 pixels", "auto detail is high"],
        ),
        ("gpt-image-2", ["low: 217 at 1024x1024", "high: 7,050 at 1024x1024"]),
    ],
)
def test_image_tokens_are_sentences(ratecard: Callable[..., Any], model: str, lines: list[str]) -> None:
    """What an image counts is said in words and numbers, not in JSON."""
    shown = ratecard("models", model).out
    assert all(line in shown for line in lines)
    assert "{" not in shown


def test_a_model_past_its_last_day_is_marked(ratecard: Callable[..., Any]) -> None:
    """From its shutdown on a model is listed as shut down, and not the day before."""
    for at, marked in (("2026-12-10", False), ("2026-12-11", True)):
        (row,) = (line for line in ratecard("models", "--at", at).out.splitlines() if line.startswith("o3-pro "))
        assert row.endswith("2026-12-11, shut down" if marked else "2026-12-11")
        assert ("has been shut down" in ratecard("models", "o3-pro", "--at", at).out) is marked


def test_models_states_every_fact_of_the_model_page(ratecard: Callable[..., Any]) -> None:
    """`models o3-pro --json` has each fact of the page: sizes, dates, every yes and no, prices, all six tiers."""
    card = ratecard("models", "o3-pro", "--at", AT, "--json").document
    assert card["model"] == "o3-pro"
    assert card["description"] == "Version of o3 with more compute for better responses"
    assert card["snapshots"] == ["o3-pro-2025-06-10"]
    assert card["aliases"] == ["o3-pro"]
    assert (card["context_window"], card["max_output_tokens"]) == (200_000, 100_000)
    assert card["knowledge_cutoff"] == "2024-06-01"
    assert card["reasoning_tokens"] is True
    assert card["ratings"] == {"reasoning": "highest", "speed": "slowest"}
    assert card["modalities"] == {
        "text": {"input": True, "output": True},
        "image": {"input": True, "output": False},
        "audio": {"input": False, "output": False},
    }
    assert card["endpoints"] == {"v1/responses": True, "v1/batch": True, **dict.fromkeys(NOT_OFFERED, False)}
    assert card["features"] == {
        "streaming": False,
        "function_calling": True,
        "structured_outputs": True,
        "fine_tuning": False,
        "distillation": False,
        "predicted_outputs": False,
    }
    rates = {tier: row["usd_per_mtok"] for tier, row in card["prices"].items()}
    assert [Decimal(rates["standard"][kind]) for kind in ("input", "output")] == [20, 80]
    assert [Decimal(rates["batch"][kind]) for kind in ("input", "output")] == [10, 40]
    assert all(row["effective_from"] == "2025-06-10" for row in card["prices"].values())
    limits = {name: {key: n for key, n in row.items() if type(n) is int} for name, row in card["limits"].items()}
    assert limits == {**TIERS, "free": {}}
    assert card["limits"]["free"]["supported"] is False
    assert any("https://platform.openai.com/docs/models/o3-pro" in source for source in card["sources"])


def test_models_tells_people_the_same(ratecard: Callable[..., Any]) -> None:
    """The text of `models o3-pro` shows every one of those facts, and no tier or endpoint is left out."""
    ended = ratecard("models", "o3-pro", "--at", AT)
    assert (ended.code, ended.err) == (0, "")
    numbers = [f"{name} {n:,}" for row in TIERS.values() for name, n in row.items()]
    endpoints = [*NOT_OFFERED, "v1/responses", "v1/batch"]
    features = [
        "streaming",
        "function_calling",
        "structured_outputs",
        "fine_tuning",
        "distillation",
        "predicted_outputs",
    ]
    other = ["o3-pro-2025-06-10", "200,000", "100,000", "2024-06-01", "highest", "slowest", "$20", "$80", "$10", "$40"]
    other += ["not supported", "text", "image", "audio", "2026-12-11", "https://platform.openai.com/docs/models/o3-pro"]
    assert [fact for fact in [*numbers, *endpoints, *features, *other, *TIERS] if fact not in ended.out] == []
    free = next(line for line in ended.out.splitlines() if "limits free" in line)
    assert "not supported" in free


def test_models_prints_prices_to_their_last_digit(ratecard: Callable[..., Any]) -> None:
    """A price with three decimals is not rounded to cents: cached input of o3 on priority costs $0.875 per 1M."""
    rates = ratecard("models", "o3", "--at", AT, "--json").document["prices"]
    assert {tier: Decimal(row["usd_per_mtok"]["input"]) for tier, row in rates.items()} == {
        "standard": 2, "batch": 1, "flex": 1, "priority": Decimal("3.5"),
    }  # fmt: skip
    assert Decimal(rates["priority"]["usd_per_mtok"]["cached_input"]) == Decimal("0.875")
    assert "0.875" in ratecard("models", "o3", "--at", AT).out


def test_a_fine_tuned_model_has_the_card_of_its_base_and_not_its_prices(ratecard: Callable[..., Any]) -> None:
    """Limits and abilities are the base's; what a fine-tune costs no table states, so no price is shown as its own."""
    name = "ft:gpt-4o-mini:acme::1"
    tuned, base = (ratecard("models", model, "--json").document for model in (name, "gpt-4o-mini"))
    assert (tuned["model"], tuned["fine_tuned_from"], tuned["prices"]) == (name, "gpt-4o-mini", {})
    assert base["fine_tuned_from"] is None
    assert base["prices"]
    assert all(tuned[key] == base[key] for key in ("context_window", "limits", "endpoints", "shutdown"))
    lines = ratecard("models", name).out.splitlines()
    assert f"{'prices':<20} a fine-tune's own, not known" in lines
    assert not any(line.startswith("price ") for line in lines)


def test_models_lists_all_and_reads_dates_and_snapshots(ratecard: Callable[..., Any]) -> None:
    """Without a model every card is listed with its prices of that day; a snapshot's name finds its model's card."""
    documents = ratecard("models", "--json").document
    assert [card["model"] for card in documents][:3] == ["o3-pro", "o3", "o3-mini"]
    assert len(documents) == 53
    before, after = (ratecard("models", "--at", day).out.splitlines() for day in ("2025-06-09", "2025-06-10"))
    assert before[0].split() == ["model", "context", "output", "$", "in", "$", "out", "shutdown"]
    assert before[2].split() == ["o3", "200,000", "100,000", "10.00", "40.00", "2026-12-11"]
    assert after[2].split() == ["o3", "200,000", "100,000", "2.00", "8.00", "2026-12-11"]
    assert len(after) == 54
    assert max(map(len, after)) <= 80
    assert ratecard("models", "o3-pro-2025-06-10", "--json").document["model"] == "o3-pro"
    assert "did you mean gpt-5.6-terra" in ratecard("models", "gpt-56-terra").err
    only = ratecard("models", "o3-pro", "--tier", "tier_2", "--json").document["limits"]
    assert set(only) == {"tier_2"}
    assert only["tier_2"]["tpm"] == 450_000


def test_models_of_a_tier(ratecard: Callable[..., Any]) -> None:
    """`models --tier` lists the models that have limits there, with these; one without says where it has some."""
    lines = ratecard("models", "--tier", "grow").out.splitlines()
    assert lines[0].split() == ["model", "rpm", "tpm", "shutdown"]
    assert "gpt-5.6-luna            30,000  180,000,000" in lines
    assert not any(line.startswith("o3") for line in lines)
    documents = ratecard("models", "--tier", "grow", "--json").document
    assert [one["model"] for one in documents] == [line.split()[0] for line in lines[1:]]
    assert all(set(one["limits"]) == {"grow"} for one in documents)
    astra = next(one for one in documents if one["model"] == "gpt-6-astra")
    assert astra["limits"]["grow"]["pools"] == {"ultrafast": {"tpm": 5_000_000}}
    assert "ultrafast: tpm 5,000,000" in ratecard("models", "gpt-6-astra").out
    assert "o3-pro" not in ratecard("models", "--tier", "free").out
    assert "only in tier_1" in ratecard("models", "o3", "--tier", "grow").err
    long = ratecard("models", "gpt-4.1", "--tier", "tier_1")
    assert "above 128,000 input tokens: rpm 100  tpm 200,000" in long.out
