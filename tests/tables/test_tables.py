"""The shipped tables state what OpenAI's pages state. The numbers here are typed from the pages, not read back.

The page is the stored copy of platform.openai.com/docs/models/o3-pro, about July to September 2026.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pricing.cards import load_cards, resolve
from pricing.errors import ConfigError, TableError
from pricing.prices import load_prices
from pricing.resources import data_path
from ratelimit.errors import NotOffered
from ratelimit.tiers import load_tiers

LOADERS: dict[str, Callable[[Path], Any]] = {"models": load_cards, "prices": load_prices, "tiers": load_tiers}

TODAY = date(2026, 11, 24)
USD_PER_MTOK = 10**6
"""A dollar per million tokens in pico-dollars per token."""


def usd_per_mtok(model: str, service_tier: str | None = None, at: date = TODAY) -> dict[str, float] | None:
    row = load_prices().lookup(model, service_tier, at)
    return row and {kind: pico / USD_PER_MTOK for kind, pico in row.pico_per_token.items()}


def test_o3_pro_costs_20_and_80_dollars() -> None:
    """o3-pro costs $20.00 per million input tokens and $80.00 per million output tokens."""
    assert usd_per_mtok("o3-pro") == {"input": 20, "output": 80}


def test_o3_pro_costs_half_in_a_batch() -> None:
    """The Batch API price of o3-pro is $10.00 and $40.00."""
    assert usd_per_mtok("o3-pro", "batch") == {"input": 10, "output": 40}


@pytest.mark.parametrize("service_tier", ["standard", "batch"])
def test_o3_pro_has_no_cached_price(service_tier: str) -> None:
    """The page has no cached price for o3-pro, so cached tokens are billed as input, and the row says so."""
    row = load_prices().lookup("o3-pro", service_tier, TODAY)
    assert row is not None
    assert row.cached_as_input
    assert "cached_input" not in row.pico_per_token


@pytest.mark.parametrize(("model", "dollars"), [("o3-pro", 20), ("o3", 2), ("o3-mini", 1.1)])
def test_the_quick_comparison(model: str, dollars: float) -> None:
    """The input prices of the page's quick comparison are the table's."""
    prices = usd_per_mtok(model)
    assert prices is not None
    assert prices["input"] == dollars


@pytest.mark.parametrize("service_tier", ["flex", "priority", "fast"])
def test_o3_pro_is_unpriced_in_other_service_tiers(service_tier: str) -> None:
    """No source prices o3-pro in Flex or Priority, so there is no row: unknown is never another price."""
    assert load_prices().lookup("o3-pro", service_tier, TODAY) is None


def test_the_card_states_window_output_and_cutoff() -> None:
    """o3-pro: 200,000 tokens of context, 100,000 of output, knowledge until 1 June 2024, reasoning tokens."""
    card = resolve("o3-pro")
    assert card is not None
    assert (card.context_window, card.max_output_tokens) == (200_000, 100_000)
    assert card.knowledge_cutoff == date(2024, 6, 1)
    assert card.reasoning_tokens is True
    assert dict(card.ratings) == {"reasoning": "highest", "speed": "slowest"}
    assert card.description == "Version of o3 with more compute for better responses"


@pytest.mark.parametrize(
    ("modality", "reads", "writes"), [("text", True, True), ("image", True, False), ("audio", False, False)]
)
def test_modalities(modality: str, reads: bool, writes: bool) -> None:
    """o3-pro reads text and images and writes text; audio is not supported."""
    card = resolve("o3-pro")
    assert card is not None
    assert dict(card.modalities[modality]) == {"input": reads, "output": writes}


ENDPOINTS = {
    "v1/chat/completions": False,
    "v1/responses": True,
    "v1/realtime": False,
    "v1/assistants": False,
    "v1/batch": True,
    "v1/fine-tuning": False,
    "v1/embeddings": False,
    "v1/images/generations": False,
    "v1/images/edits": False,
    "v1/audio/speech": False,
    "v1/audio/transcriptions": False,
    "v1/audio/translations": False,
    "v1/moderations": False,
    "v1/completions": False,
}


@pytest.mark.parametrize(("endpoint", "offered"), ENDPOINTS.items())
def test_endpoints(endpoint: str, offered: bool) -> None:
    """o3-pro is available in the Responses API only, and, having a Batch price, in batches of it."""
    card = resolve("o3-pro")
    assert card is not None
    assert card.endpoints[endpoint] is offered
    assert len(card.endpoints) == len(ENDPOINTS) == 14


FEATURES = {
    "streaming": False,
    "function_calling": True,
    "structured_outputs": True,
    "fine_tuning": False,
    "distillation": False,
    "predicted_outputs": False,
}


@pytest.mark.parametrize(("feature", "supported"), FEATURES.items())
def test_features(feature: str, supported: bool) -> None:
    """The page's features of o3-pro: function calling and structured outputs, nothing else."""
    card = resolve("o3-pro")
    assert card is not None
    assert card.features[feature] is supported
    assert len(card.features) == len(FEATURES)


def test_snapshot_and_alias_are_the_same_card() -> None:
    """o3-pro and o3-pro-2025-06-10 name one card, with one price and its limits under the model's name."""
    cards = load_cards()
    card = cards.resolve("o3-pro")
    assert card is not None
    assert card is cards.resolve("o3-pro-2025-06-10") is resolve("o3-pro")
    assert (card.model, card.snapshots) == ("o3-pro", ("o3-pro-2025-06-10",))
    prices = load_prices()
    assert prices.lookup("o3-pro-2025-06-10", None, TODAY) is prices.lookup("o3-pro", None, TODAY)
    assert prices.rows("o3-pro-2025-06-10") == prices.rows("o3-pro")


@pytest.mark.parametrize(
    "name",
    ["ft:o3", "ft:o3:acme", "ft::acme::1", "ft:o9:acme::1", "o3-pro-2025-06-11", "O3-pro", "o3-pro ", "o3-", "o9", ""],
)
def test_only_exact_names_resolve(name: str) -> None:
    """A near name is unknown and unpriced, never taken for the model it resembles."""
    assert resolve(name) is None
    assert load_prices().lookup(name, None, TODAY) is None


@pytest.mark.parametrize(
    "name", ["ft:gpt-4o-mini-2024-07-18:acme::7p4lURel", "ft:gpt-4o-mini:acme:shop:7p4:ckpt-step-9"]
)
def test_a_fine_tuned_model_has_the_card_of_its_base_and_no_price(name: str) -> None:
    """What a fine-tuned model can do is its base's; what it costs no table says, and it is not the base's price."""
    assert resolve(name) is resolve("gpt-4o-mini") is not None
    assert load_cards().named(name) is None
    assert load_prices().lookup(name, None, TODAY) is None
    assert load_prices().rows(name) == []


TIER_ROWS = {
    "tier_1": (500, 30_000, 90_000),
    "tier_2": (5_000, 450_000, 1_350_000),
    "tier_3": (5_000, 800_000, 50_000_000),
    "tier_4": (10_000, 2_000_000, 200_000_000),
    "tier_5": (10_000, 30_000_000, 5_000_000_000),
}


@pytest.mark.parametrize(("tier", "row"), TIER_ROWS.items())
def test_the_rate_limit_table(tier: str, row: tuple[int, int, int]) -> None:
    """Requests and tokens per minute and the batch queue of o3-pro, tier by tier."""
    tiers = load_tiers()
    limits = {limit.name: (limit.capacity, limit.unit, limit.period_us) for limit in tiers.limits("o3-pro", tier)}
    assert limits == {"rpm": (row[0], "requests", 60_000_000), "tpm": (row[1], "tokens", 60_000_000)}
    assert tiers.batch_queue_tokens("o3-pro", tier) == row[2]


def test_the_free_tier_does_not_offer_o3_pro() -> None:
    """Free: not supported, which is another answer than limits nobody knows."""
    for question in (load_tiers().limits, load_tiers().batch_queue_tokens):
        with pytest.raises(NotOffered, match="o3-pro is not supported in the free tier"):
            question("o3-pro", "free")


def test_the_two_schemes_and_their_dates() -> None:
    """Tiers 1 to 5 until 5 October 2026; Build, Launch and Grow from the day after."""
    numbered, named = load_tiers().schemes
    assert (numbered.effective_from, numbered.effective_until) == (None, date(2026, 10, 5))
    assert list(numbered.tiers) == ["free", *TIER_ROWS]
    assert (named.effective_from, named.effective_until) == (date(2026, 10, 6), None)
    assert list(named.tiers) == ["free", "build", "launch", "grow"]
    assert load_tiers().scheme_of("tier_5") is numbered
    assert load_tiers().scheme_of("grow") is load_tiers().scheme_of("free") is named


@pytest.mark.parametrize("tier", ["build", "launch", "grow"])
def test_limits_nobody_published_are_not_invented(tier: str) -> None:
    """o3-pro in a named tier is a ConfigError that says in which tiers its limits are published, and what to do."""
    with pytest.raises(ConfigError) as caught:
        load_tiers().limits("o3-pro", tier)
    message = str(caught.value)
    assert f"no limits are published for o3-pro in {tier}, only in tier_1, tier_2, tier_3, tier_4, tier_5;" in message
    assert "limits={" in message


def test_a_model_without_any_limits() -> None:
    """A model the table does not have is a ConfigError, not an unlimited model."""
    with pytest.raises(ConfigError, match="no limits are published for o9 in tier_1, nor in any other tier"):
        load_tiers().limits("o9", "tier_1")


@pytest.mark.parametrize("tier", ["tier_6", "Tier 1", "tier1", ""])
def test_an_unknown_tier_lists_the_known_ones(tier: str) -> None:
    """A tier of no scheme is a ConfigError that lists every tier there is, once."""
    with pytest.raises(ConfigError) as caught:
        load_tiers().limits("o3-pro", tier)
    known = "free, tier_1, tier_2, tier_3, tier_4, tier_5, build, launch, grow"
    assert str(caught.value) == f"unknown tier {tier!r}; known: {known}"


@pytest.mark.parametrize(
    ("at", "prices"),
    [
        (date(2025, 4, 15), None),
        (date(2025, 4, 16), {"input": 10, "cached_input": 2.5, "output": 40}),
        (date(2025, 6, 9), {"input": 10, "cached_input": 2.5, "output": 40}),
        (datetime(2025, 6, 9, 23, 59, 59), {"input": 10, "cached_input": 2.5, "output": 40}),
        (date(2025, 6, 10), {"input": 2, "cached_input": 0.5, "output": 8}),
        (TODAY, {"input": 2, "cached_input": 0.5, "output": 8}),
    ],
)
def test_o3_became_cheaper_on_2025_06_10(at: date, prices: dict[str, float] | None) -> None:
    """A call is priced by the row of its day: o3 cost $10 and $40 until 9 June 2025, then $2 and $8."""
    assert usd_per_mtok("o3", None, at) == prices


def test_a_row_ends_where_the_next_begins(tmp_path: Path) -> None:
    """A price without a last day holds until the day before the next row, history stays, and the version changes."""
    raw = data_path("prices.yaml").read_text("utf-8")
    path = tmp_path / "prices.yaml"
    path.write_text(raw.replace('    effective_until: "2025-06-09"\n', ""), "utf-8")
    prices = load_prices(path)
    before, after = prices.lookup("o3", None, date(2025, 6, 9)), prices.lookup("o3", None, date(2025, 6, 10))
    assert before is not None
    assert after is not None
    assert (before.effective_until, before.pico_per_token["input"]) == (date(2025, 6, 9), 10 * USD_PER_MTOK)
    assert (after.effective_until, after.pico_per_token["input"]) == (None, 2 * USD_PER_MTOK)
    assert prices.rows("o3")[:2] == [before, after]
    assert prices.tiers("o3") == ["standard", "batch", "flex", "priority"]
    assert prices.version != load_prices().version


def test_a_lookup_without_a_day_means_today() -> None:
    """A price asked for without a day is today's."""
    assert load_prices().lookup("o3") is load_prices().lookup("o3", None, date.today())


def test_many_lookups_keep_their_answers() -> None:
    """The memo of lookups is bounded, and an answer is the same before and after it is emptied."""
    prices = load_prices(data_path("prices.yaml"))
    first = prices.lookup("o3", None, TODAY)
    for number in range(5_000):
        assert prices.lookup(f"model-{number}", None, TODAY) is None
    assert prices.lookup("o3", None, TODAY) is first
    assert len(prices._found) <= 4_097


@pytest.mark.parametrize(
    ("at", "max_tokens"), [(date(2024, 1, 31), None), (date(2025, 3, 21), "add"), (date(2025, 3, 22), "ignore")]
)
def test_an_admission_rule_holds_on_its_days(at: date, max_tokens: str | None) -> None:
    """The observed chat formula counts the output cap until 21 March 2025; before February 2024 none is known."""
    rule = load_tiers().rule("observed", "/v1/chat/completions", at)
    assert (rule and rule.max_tokens) == max_tokens


def test_the_table_names_its_models() -> None:
    """53 models have cards and 32 of them limits, each counted under its own name."""
    tiers = load_tiers()
    assert tiers.models()[:3] == ("o3-pro", "o3", "o3-mini")
    assert len(tiers.models()) == 32
    assert tiers.pool("o3-pro", "tier_1") == "o3-pro"
    assert len(load_cards()) == 53


def test_o3_pro_has_no_price_before_it_existed() -> None:
    """No row prices a call before the model's first day."""
    assert usd_per_mtok("o3-pro", None, date(2025, 6, 9)) is None
    assert usd_per_mtok("o3-pro", None, date(2025, 6, 10)) is not None


def test_fast_is_priority() -> None:
    """Fast and priority are one service tier under two names, so they find the same row."""
    prices = load_prices()
    assert prices.lookup("o3", "fast", TODAY) is prices.lookup("o3", "priority", TODAY)
    assert usd_per_mtok("o3", "fast") == {"input": 3.5, "cached_input": 0.875, "output": 14}


@pytest.mark.parametrize("service_tier", [None, "", "default", "auto", "standard"])
def test_default_is_standard(service_tier: str | None) -> None:
    """A reply that names no service tier, or default or auto, is billed at the standard price."""
    row = load_prices().lookup("o3-pro", service_tier, TODAY)
    assert row is not None
    assert row.id == "o3-pro/standard/2025-06-10"


def test_every_price_has_a_source_and_every_card_too() -> None:
    """No row of the shipped tables is without a source, and no price is zero."""
    for card in load_cards():
        assert card.sources
        for row in load_prices().rows(card.model):
            assert row.source
            assert all(pico > 0 for pico in row.pico_per_token.values())


def test_the_shipped_tables_are_read_once() -> None:
    """Loading without a path returns the same tables each time."""
    assert load_cards() is load_cards()
    assert load_prices() is load_prices()
    assert load_tiers() is load_tiers()


@pytest.mark.parametrize("kind", ["models", "prices", "tiers"])
@pytest.mark.usefixtures("scanner")
def test_both_scanners_read_the_shipped_tables(kind: str, load: Callable[[Path], Any]) -> None:
    """The shipped tables load with libyaml and on a machine without it."""
    load(data_path(f"{kind}.yaml"))


RAW = {kind: data_path(f"{kind}.yaml").read_bytes() for kind in ("models", "prices", "tiers")}
PIECES = [
    b"",
    b"\n",
    b" ",
    b"\t",
    b"---\n",
    b"...\n",
    b"- ",
    b": ",
    b"? ",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b'"',
    b"'",
    b"#",
]
PIECES += [
    b"&a ",
    b"*a",
    b"<<: *a\n",
    b"!!int ",
    b"!!python/none ",
    b"%YAML 9.9\n",
    b"|\n",
    b">\n",
    b"null",
    b"~",
    b"yes",
]
PIECES += [
    b"0",
    b"-1",
    b"9" * 30,
    b"1e9",
    b"2025-02-30",
    b"\xff",
    b"\x00",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"\xef\xbb\xbf",
]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A shipped table after one to four cuts, insertions, replacements or repetitions of a slice."""
    kind = draw(st.sampled_from(sorted(RAW)))
    raw = RAW[kind]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        end = min(len(raw), start + draw(st.integers(0, 40)))
        piece = draw(st.sampled_from(PIECES) | st.binary(max_size=6) | st.just(raw[start:end] * 2))
        raw = raw[:start] + piece + raw[end:]
    return kind, raw


@settings(max_examples=150, deadline=None)
@given(mutated())
@example(("models", b"version: &a 1\n"))
@example(("tiers", b"[" * 100_000))
@example(("prices", b"? " * 5_000))
@example(("prices", b"- " * 5_000))
def test_a_mutated_table_loads_or_is_a_table_error(case: tuple[str, bytes]) -> None:
    """Whatever bytes a table consists of, it loads or raises TableError naming the file; nothing else escapes."""
    kind, raw = case
    found: list[TableError] = []
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{kind}.yaml"
        path.write_bytes(raw)
        for scanner in ("C", "Python"):
            if scanner == "Python":
                patch.delattr(yaml, "CSafeLoader", raising=False)
            try:
                LOADERS[kind](path)
            except TableError as error:
                found.append(error)
    last = len(raw.decode("utf-8", "replace").splitlines()) + 1
    assert all(error.file == str(path) for error in found)
    assert all(error.line is None or 1 <= error.line <= last for error in found)
