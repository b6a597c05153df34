"""What holds for every model of the shipped tables: names, sources, endpoints, and limits that grow with the tier."""

from __future__ import annotations

from collections import Counter
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest

from pricing.cards import ModelCard, load_cards, resolve
from ratelimit.emulator.account import Account
from ratelimit.errors import ConfigError, NotOffered
from ratelimit.tiers import load_tiers

CARDS = list(load_cards())
TIERS = load_tiers()
NUMBERED = ("tier_1", "tier_2", "tier_3", "tier_4", "tier_5")
NAMED = ("free", "build", "launch", "grow")

NO_ENDPOINT = {
    "o1", "gpt-6-rosalind", "text-embedding-ada-002", "o3-deep-research", "o4-mini-deep-research",
    "computer-use-preview", "gpt-4o-2024-05-13", "gpt-3.5-turbo", "gpt-image-2", "gpt-image-1.5", "gpt-audio",
    "gpt-realtime-2", "gpt-4o-transcribe", "gpt-transcribe", "gpt-live-transcribe", "whisper-1",
}  # fmt: skip
"""Models whose endpoints no source states."""


def limits(model: str, tier: str) -> dict[str, int]:
    """The limits of a model in a tier by name; none where nobody published them."""
    try:
        found = {limit.name: limit.capacity for limit in TIERS.limits(model, tier)}
        queue = TIERS.batch_queue_tokens(model, tier)
        for part in TIERS.parts(model, tier):
            label = f"{part.above or part.service_tier}"
            found |= {f"{label} {limit.name}": limit.capacity for limit in part.limits}
            if part.batch_queue_tokens is not None:
                found[f"{label} queue"] = part.batch_queue_tokens
    except (ConfigError, NotOffered):
        return {}
    return found if queue is None else {**found, "queue": queue}


def test_every_name_finds_one_card() -> None:
    """A model, an alias and a snapshot each name one card, and a fine-tuned model of any of them finds it too."""
    names = Counter(name for card in CARDS for name in {card.model, *card.aliases, *card.snapshots})
    assert [name for name, times in names.items() if times > 1] == []
    for card in CARDS:
        for name in (card.model, *card.aliases, *card.snapshots):
            assert resolve(name) is card
            assert resolve(f"ft:{name}:acme:shop:7p4lURel") is card


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.model)
def test_every_card_says_where_it_is_from(card: ModelCard) -> None:
    """A card has a source; an encoding has evidence, which is among the sources; a shutdown has a deprecation page."""
    assert card.sources
    assert (card.encoding is None) == (card.encoding_evidence == ())
    assert set(card.encoding_evidence) <= set(card.sources)
    pages = [source for source in card.sources if source.name.startswith("deprecations")]
    assert (card.shutdown is None) == (pages == [])


def test_endpoints_are_known_but_for_those_listed() -> None:
    """Which models no source puts on any endpoint is a list, so that a forgotten one is noticed."""
    assert {card.model for card in CARDS if not any(card.endpoints.values())} == NO_ENDPOINT


@pytest.mark.parametrize("model", TIERS.models())
def test_every_row_of_limits_has_its_sources(model: str) -> None:
    """Whatever the table says of a model in a tier names a page and a date."""
    for tier in (*NUMBERED, *NAMED):
        if limits(model, tier):
            assert all(source.url and source.read for source in TIERS.sources(model, tier))
            assert TIERS.sources(model, tier)
            assert all(part.source.url for part in TIERS.parts(model, tier))


@pytest.mark.parametrize("model", TIERS.models())
@pytest.mark.parametrize("tiers", [NUMBERED, NAMED], ids=["numbered", "named"])
def test_limits_grow_with_the_tier(model: str, tiers: tuple[str, ...]) -> None:
    """No limit, queue or separate pool is smaller in a higher tier."""
    rows = [row for tier in tiers if (row := limits(model, tier))]
    for lower, higher in pairwise(rows):
        for name in lower.keys() & higher.keys():
            assert lower[name] <= higher[name], name


@pytest.mark.parametrize("model", TIERS.models())
@pytest.mark.parametrize(("named", "numbered"), [("build", "tier_2"), ("launch", "tier_4"), ("grow", "tier_5")])
def test_named_tiers_are_numbered_ones(model: str, named: str, numbered: str) -> None:
    """Where a model is seen in both schemes, Build is Tier 2, Launch is Tier 4 and Grow is Tier 5."""
    new, old = limits(model, named), limits(model, numbered)
    for name in new.keys() & old.keys():
        assert new[name] == old[name], name


def test_separate_pools_are_those_of_the_pages() -> None:
    """Long context has pools above 128,000 input tokens for two models and 272,000 for two, ultrafast for two."""
    found = {
        (model, part.above or part.service_tier)
        for model in TIERS.models()
        for tier in (*NUMBERED, *NAMED)
        if limits(model, tier)
        for part in TIERS.parts(model, tier)
    }
    assert found == {
        ("gpt-4.1", 128_000),
        ("gpt-4.1-mini", 128_000),
        ("gpt-5.4-pro", 272_000),
        ("gpt-5.5", 272_000),
        ("gpt-6-astra", "ultrafast"),
        ("gpt-6.1-sol", "ultrafast"),
    }
    assert limits("gpt-4.1", "tier_1")["128000 tpm"] == 200_000
    assert limits("gpt-5.5", "tier_5")["272000 queue"] == 2_000_000_000


def test_a_row_in_two_sources_has_the_limits_of_both() -> None:
    """gpt-5: tokens per minute from the compare page, requests from recorded headers, and both are named."""
    assert limits("gpt-5", "tier_1") == {"rpm": 500, "tpm": 500_000}
    assert limits("gpt-5", "tier_2") == {"tpm": 1_000_000}
    assert [source.name for source in TIERS.sources("gpt-5", "tier_1")] == ["compare_page", "recorded_headers"]


def test_a_tier_of_two_schemes_is_read_in_the_newer_one_first() -> None:
    """Free is a tier of both schemes: the newer row counts, and the older where the newer has none."""
    assert TIERS.scheme("text-embedding-3-small", "free").name == "named"
    assert TIERS.scheme("gpt-4o-mini", "free").name == "numbered"
    assert limits("gpt-4o-mini", "free") == {"rpm": 3, "rpd": 200, "tpm": 40_000}


@pytest.mark.parametrize("tier", [*NUMBERED, *NAMED])
def test_the_emulator_plays_every_model_with_limits(tier: str) -> None:
    """Each model that has limits in a tier can be served alone, under those limits and the name of its card."""
    for model in TIERS.models():
        if not limits(model, tier):
            continue
        account = Account(tier=tier, limits=None, models=[model], window="continuous", at=date(2026, 9, 1), now_us=0)
        found = account.find(model)
        assert found is not None
        own = {bucket.name: bucket.capacity for bucket in found.pool.buckets}
        assert own == {limit.name: limit.capacity for limit in TIERS.limits(model, tier)}


def test_models_counted_together_have_one_row(tmp_path: Path) -> None:
    """`shares` gives a model the limits and pools of another one, and its name to count under."""
    path = tmp_path / "tiers.yaml"
    path.write_text(SHARING, "utf-8")
    tiers = load_tiers(path)
    assert tiers.limits("gpt-4o-2024-05-13", "t") == tiers.limits("gpt-4o", "t")
    assert tiers.parts("gpt-4o-2024-05-13", "t") == tiers.parts("gpt-4o", "t")
    assert tiers.pool("gpt-4o-2024-05-13", "t") == tiers.pool("gpt-4o", "t") == "gpt-4o"
    assert [source.name for source in tiers.sources("gpt-4o-2024-05-13", "t")] == ["page", "message"]


SHARING = """version: 1
sources:
  page: {url: "https://example.com/limits", read: "2026-07-15"}
  message: {url: "https://example.com/429", read: "2026-03-22"}
schemes:
  - {name: s, source: page, tiers: {t: {qualification: "any", usd_per_month: 100}}}
limits:
  - model: gpt-4o
    scheme: s
    source: page
    tiers: {t: {rpm: 60, tpm: 6_000}}
    pools: [{above: 1_000, tiers: {t: {tpm: 9_000}}}]
  - {model: gpt-4o-2024-05-13, scheme: s, source: message, shares: gpt-4o}
admission: {observed: [], documented: [], conservative: []}
"""


def test_a_card_is_a_key() -> None:
    """Caches are keyed by cards, whose mappings cannot be hashed: a card is the same as itself, and as no copy."""
    card = CARDS[0]
    copy = card._replace(model=card.model)
    assert {card: 1}[card] == 1
    assert (card == copy, card != copy, card in {copy: 1}) == (False, True, False)
