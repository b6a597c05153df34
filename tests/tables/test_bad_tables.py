"""A broken table is refused with the line, the key and words that help; each file in bad/ is broken in one way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pricing.cards import load_cards
from pricing.errors import TableError
from pricing.resources import data_path

BAD = Path(__file__).parent / "bad"
SHIPPED = ("models", "prices", "tiers")

WRONG: dict[str, tuple[int, str | None, tuple[str, ...]]] = {
    "models-alias-clash": (14, "models[1].aliases[1]", ("'m1' already names the model on line 5",)),
    "models-alias": (10, "models[0].sources", ("aliases (*name) are not allowed: write the value out",)),
    "models-aliases-text": (6, "models[0].aliases", ("expected a list, found 'm1-latest'",)),
    "models-anchor": (5, "models[0].model", ("anchors (&name) are not allowed: write the value out",)),
    "models-anchored-list": (10, "models[0].sources", ("anchors (&name) are not allowed: write the value out",)),
    "models-billion-laughs": (2, "lol", ("anchors (&name) are not allowed: write the value out",)),
    "models-colon-missing": (10, None, ("not YAML",)),
    "models-custom-tag": (
        10,
        "models[0].sources",
        ("tags (!python/object/apply:os.system) are not allowed", "write the plain value"),
    ),
    "models-encoding": (6, "models[0].encoding", ("expected one of o200k_base, cl100k_base, found 'p50k_base'",)),
    "models-huge-integer": (7, "models[0].context_window", ("999999999999999999999999999999 is larger than any ",)),
    "models-input-beyond-window": (
        8,
        "models[0].max_input_tokens",
        ("300000 input tokens do not fit a context window of 200000",),
    ),
    "models-image-two-ways": (8, "models[0].image_tokens", ("expected tiles or patches, one of them",)),
    "models-image-no-way": (8, "models[0].image_tokens", ("expected tiles or patches, one of them",)),
    "models-image-tiles-multiplied": (
        8,
        "models[0].image_tokens.multiplier_percent",
        ("multiplier_percent belongs to patches",),
    ),
    "models-image-auto-unknown": (8, "models[0].image_tokens.auto", ("expected one of high, found 'original'",)),
    "models-chat-tools": (8, "models[0].chat_tools", ("expected one of never, with_effort_none", "'sometimes'")),
    "models-evidence-undefined": (8, "models[0].encoding_evidence[0]", ("unknown source 'blog'",)),
    "models-impossible-date": (
        6,
        "models[0].released",
        ("expected a date that exists, YYYY-MM-DD, found '2025-02-29'",),
    ),
    "models-indentation": (7, None, ("not YAML",)),
    "models-key-is-a-list": (9, "models[0].endpoints", ("a key must be a text",)),
    "models-key-is-empty": (9, "models[0].endpoints", ("a key must be a text",)),
    "models-merge-key": (7, "models[0].<<", ("merge keys (<<) are not allowed: write the value out",)),
    "models-missing-name": (5, "models[0]", ("missing key 'model'",)),
    "models-modality": (9, "models[0].modalities.video", ("unknown key 'video'; known here: text, image, audio",)),
    "models-model-twice": (11, "models[1].model", ("'m1' already names the model on line 5",)),
    "models-nested-too-deep": (10, "models[0].sources" + "[0]" * 29, ("nested more than 32 deep",)),
    "models-nothing": (7, "models[0].context_window", ("expected a whole number, found nothing",)),
    "models-null": (7, "models[0].context_window", ("expected a whole number, found nothing",)),
    "models-number-list": (7, "models[0].context_window", ("expected a whole number, found a list",)),
    "models-octal": (7, "models[0].context_window", ("expected a whole number, found '0200000'",)),
    "models-other-digits": (7, "models[0].context_window", ("expected a whole number, found '٢٠٠'",)),
    "models-output-beyond-window": (
        8,
        "models[0].max_output_tokens",
        ("300000 output tokens do not fit a context window of 200000",),
    ),
    "models-shutdown-before-release": (
        7,
        "models[0].shutdown",
        ("expected a day after the release on 2025-06-10", "2025-06-10"),
    ),
    "models-source-undefined": (10, "models[0].sources[1]", ("unknown source 'blog'; the table's sources are page",)),
    "models-sources-empty": (10, "models[0].sources", ("expected at least one source",)),
    "models-sources-list": (2, "sources", ("expected a mapping, found a list",)),
    "models-sources-missing": (5, "models[0]", ("missing key 'sources'",)),
    "models-tag": (
        7,
        "models[0].context_window",
        ("tags (tag:yaml.org,2002:int) are not allowed", "write the plain value"),
    ),
    "models-unknown-endpoint": (
        9,
        "models[0].endpoints./v2/everything",
        ("unknown key '/v2/everything'", "known here"),
    ),
    "models-unknown-feature": (
        9,
        "models[0].features.streeming",
        ("unknown key 'streeming'; did you mean 'streaming'?",),
    ),
    "models-unknown-key": (
        7,
        "models[0].context_windw",
        ("unknown key 'context_windw'; did you mean 'context_window'?",),
    ),
    "models-wrong-type": (7, "models[0].context_window", ("expected a whole number, found 'plenty'",)),
    "models-yes": (9, "models[0].endpoints.v1/responses", ("expected true or false, found 'yes'",)),
    "models-zero": (7, "models[0].context_window", ("expected a whole number of at least 1, found '0'",)),
    "prices-bom-not-utf-8": (2, None, ("not UTF-8 (byte 0xa3)",)),
    "prices-comma": (9, "rows[0].usd_per_mtok.input", ("expected a price in dollars such as \"2.50\", found '2,00'",)),
    "prices-control-character": (2, None, ("control character U+0007: save the file as plain UTF-8",)),
    "prices-currency": (2, "currency", ("expected one of USD, found 'EUR'",)),
    "prices-date-order-of-digits": (8, "rows[0].effective_from", ("expected a date, YYYY-MM-DD, found '10.06.2025'",)),
    "prices-dollar-sign": (
        9,
        "rows[0].usd_per_mtok.input",
        ("expected a price in dollars such as \"2.50\", found '$2.00'",),
    ),
    "prices-duplicate-key": (11, "rows[0].model", ("duplicate key 'model', first on line 6",)),
    "prices-empty-document": (2, None, ("expected a mapping, found nothing",)),
    "prices-empty": (1, None, ("the file is empty, or only comments",)),
    "prices-ends-before-it-begins": (
        9,
        "rows[0].effective_until",
        ("expected a day from 2025-06-10 on, found 2025-06-09",),
    ),
    "prices-exponent": (
        9,
        "rows[0].usd_per_mtok.input",
        ("expected a price in dollars such as \"2.50\", found '2e0'",),
    ),
    "prices-float-noise": (
        9,
        "rows[0].usd_per_mtok.input",
        ("2.0000000000000001 has more than 6 decimals", "float noise? write the published price"),
    ),
    "prices-huge": (9, "rows[0].usd_per_mtok.input", ("is it in cents or pico-dollars?",)),
    "prices-impossible-date": (
        8,
        "rows[0].effective_from",
        ("expected a date that exists, YYYY-MM-DD, found '2025-06-31'",),
    ),
    "prices-input-missing": (9, "rows[0].usd_per_mtok", ("missing key 'input'",)),
    "prices-just-text": (1, None, ("expected a mapping, found 'twenty dollars'",)),
    "prices-list": (1, None, ("expected a mapping, found a list",)),
    "prices-negative": (9, "rows[0].usd_per_mtok.input", ("expected a price of at least 0, found '-2.00'",)),
    "prices-not-utf-8": (2, None, ("not UTF-8 (byte 0xa3)",)),
    "prices-old-after-new": (
        11,
        "rows[1]",
        ("rows of one model and tier go from old to new", "2025-06-09 follows o3/standard/2025-06-10"),
    ),
    "prices-only-comments": (1, None, ("the file is empty, or only comments",)),
    "prices-output-as-input": (
        9,
        "rows[0].usd_per_mtok.output",
        ("expected a price in dollars such as \"2.50\", found 'input'",),
    ),
    "prices-overlap": (12, "rows[1]", ("overlaps o3/standard/2025-06-10, which holds until",)),
    "prices-per-token": (
        9,
        "rows[0].usd_per_mtok.input",
        ("$0.000002 per million tokens is no price that exists", "is it per token, or per thousand?"),
    ),
    "prices-pico": (
        9,
        "rows[0].usd_per_mtok.input",
        ("$2000000 per million tokens is no price that exists", "is it in cents or pico-dollars?"),
    ),
    "prices-row-null": (6, "rows[0]", ("expected a mapping, found nothing",)),
    "prices-rows-mapping": (5, "rows", ("expected a list, found a mapping",)),
    "prices-same-day": (
        11,
        "rows[1]",
        ("rows of one model and tier go from old to new", "2025-06-10 follows o3/standard/2025-06-10"),
    ),
    "prices-snapshot-as-model": (6, "rows[0].model", ("'o3-2025-04-16' is another name of o3: write o3",)),
    "prices-source-http": (
        4,
        "sources.page.url",
        ("expected a URL that begins with https://", "'http://example.com/pricing'"),
    ),
    "prices-source-missing": (6, "rows[0]", ("missing key 'source'",)),
    "prices-source-read-when": (4, "sources.page.read", ("expected a date, YYYY-MM-DD, found 'last July'",)),
    "prices-source-undefined": (10, "rows[0].source", ("unknown source 'pagee'; the table's sources are page",)),
    "prices-source-without-date": (4, "sources.page", ("missing key 'read'",)),
    "prices-tab-indentation": (10, None, ("indented with a tab: use spaces",)),
    "prices-two-documents": (11, None, ("a second document begins here: a table is one document",)),
    "prices-unclosed-brace": (10, None, ("not YAML",)),
    "prices-unit-missing": (6, "rows[0]", ("missing key 'usd_per_mtok'",)),
    "prices-unit-other": (9, "rows[0].usd_per_ktok", ("unknown key 'usd_per_ktok'; did you mean 'usd_per_mtok'?",)),
    "prices-unknown-key": (7, "rows[0].servce_tier", ("unknown key 'servce_tier'; did you mean 'service_tier'?",)),
    "prices-unknown-kind": (
        9,
        "rows[0].usd_per_mtok.cache_input",
        ("unknown key 'cache_input'; did you mean 'cached_input'?",),
    ),
    "prices-unknown-model": (6, "rows[0].model", ("unknown model 'o9'; did you mean o3 or o1?",)),
    "prices-unknown-service-tier": (
        7,
        "rows[0].service_tier",
        ("expected one of standard, batch, flex, priority", "'turbo'"),
    ),
    "prices-unterminated-quote": (9, None, ("not YAML", "quoted scalar")),
    "prices-utf-16": (1, None, ("control character U+0000: save the file as plain UTF-8",)),
    "prices-version": (1, "version", ("this ratecard reads tables of version 1",)),
    "prices-word": (9, "rows[0].usd_per_mtok.input", ("expected a price in dollars such as \"2.50\", found 'free'",)),
    "tiers-admission-base": (25, "admission.observed[0].base", ("'characters'",)),
    "tiers-admission-endpoint": (23, "admission.observed[0].endpoint", ("'/v1/respones'",)),
    "tiers-admission-max-tokens": (
        26,
        "admission.observed[0].max_tokens",
        ("expected one of ignore, add, max, found 'maybe'",),
    ),
    "tiers-admission-refund": (27, "admission.observed[0].refund", ("expected true or false, found 'off'",)),
    "tiers-constants-without-exact-base": (
        26,
        "admission.observed[0].constants",
        ("constants belong to base: input_tokens",),
    ),
    "tiers-duplicate-tier": (21, "limits[0].tiers.tier_1", ("duplicate key 'tier_1', first on line 20",)),
    "tiers-fraction": (20, "limits[0].tiers.tier_1.rpm", ("expected a whole number, found '500.5'",)),
    "tiers-limits-twice": (25, "limits[1].tiers.tier_1", ("o3 has limits in tier_1 already",)),
    "tiers-misplaced-underscore": (20, "limits[0].tiers.tier_1.tpm", ("expected a whole number, found '3_00_00'",)),
    "tiers-month-as-money": (9, "schemes[0].tiers.tier_1.usd_per_month", ("expected a whole number, found '$100'",)),
    "tiers-negative-limit": (
        20,
        "limits[0].tiers.tier_1.rpm",
        ("expected a whole number of at least 1, found '-500'",),
    ),
    "tiers-no-limits": (20, "limits[0].tiers.tier_1", ("expected at least one of rpm, tpm, rpd, tpd, ipm",)),
    "tiers-no-schemes": (4, "schemes", ("expected at least one scheme",)),
    "tiers-policy-missing": (21, "admission", ("missing key 'documented'",)),
    "tiers-policy-unknown": (29, "admission.conservativ", ("unknown key 'conservativ'; did you mean 'conservative'?",)),
    "tiers-rule-ends-before-it-begins": (
        25,
        "admission.observed[0].effective_until",
        ("expected a day from 2025-03-22 on, found 2025-03-21",),
    ),
    "tiers-rules-overlap": (28, "admission.observed[1]", ("overlaps the rule for /v1/responses from 2025-03-22",)),
    "tiers-shares-and-tiers": (24, "limits[1].shares", ("shares stands in the place of tiers and pools",)),
    "tiers-shares-nothing": (24, "limits[1].shares", ("o3-mini has no limits of its own before this line",)),
    "tiers-neither-tiers-nor-shares": (21, "limits[1]", ("missing key 'tiers'",)),
    "tiers-pool-without-condition": (27, "limits[1].pools[0]", ("expected above or service_tier, one of them",)),
    "tiers-pool-with-two-conditions": (27, "limits[1].pools[0]", ("expected above or service_tier, one of them",)),
    "tiers-pool-beside-nothing": (
        28,
        "limits[1].pools[0].tiers.build",
        ("o3-pro has no limits in build that a pool could stand beside",),
    ),
    "tiers-pool-twice": (32, "limits[1].pools[1].tiers.tier_1", ("o3-pro has such a pool in tier_1 already",)),
    "tiers-not-offered-and-limits": (25, "limits[1].tiers.tier_1", ("o3 has limits in tier_1 already",)),
    "tiers-scheme-ends-before-it-begins": (
        7,
        "schemes[0].effective_until",
        ("expected a day from 2026-10-07 on, found 2026-10-05",),
    ),
    "tiers-scheme-twice": (10, "schemes[1].name", ("duplicate scheme 'numbered'",)),
    "tiers-schemes-overlap": (
        10,
        "schemes[1]",
        ("schemes go from old to new", "expected effective_from after 2026-10-05"),
    ),
    "tiers-source-missing": (16, "limits[0]", ("missing key 'source'",)),
    "tiers-supported-and-limits": (20, "limits[0].tiers.tier_1", ("supported", "false stands alone")),
    "tiers-supported-true": (20, "limits[0].tiers.tier_1", ("supported", "false stands alone")),
    "tiers-tier-of-other-scheme": (
        20,
        "limits[0].tiers.build",
        ("unknown tier 'build' in scheme numbered", "its tiers are tier_1"),
    ),
    "tiers-unknown-limit": (20, "limits[0].tiers.tier_1.tpn", ("unknown key 'tpn'; did you mean 'tpm'?",)),
    "tiers-unknown-model": (16, "limits[0].model", ("unknown model 'o3-prp'; did you mean o3-pro or ",)),
    "tiers-unknown-scheme": (17, "limits[0].scheme", ("expected one of numbered, named, found 'numberd'",)),
    "tiers-unknown-tier": (
        20,
        "limits[0].tiers.tier_9",
        ("unknown tier 'tier_9' in scheme numbered", "its tiers are tier_1"),
    ),
    "tiers-word": (20, "limits[0].tiers.tier_1.tpm", ("expected a whole number, found '30k'",)),
    "tiers-zero-limit": (20, "limits[0].tiers.tier_1.rpm", ("expected a whole number of at least 1, found '0'",)),
}
"""File → line, key, and phrases of the message."""


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.usefixtures("scanner")
def test_a_bad_table_says_what_where_and_why(name: str, load: Callable[[Path], Any]) -> None:
    """A broken table raises TableError with the file, the line and key of the mistake, and words that name it."""
    path = BAD / f"{name}.yaml"
    line, key, phrases = WRONG[name]
    with pytest.raises(TableError) as caught:
        load(path)
    error = caught.value
    assert (error.file, error.line, error.key) == (str(path), line, key)
    assert [phrase for phrase in phrases if phrase not in error.reason] == []
    assert str(error) == f"{path}:{line}: " + (f"{key}: " if key else "") + error.reason


def test_every_bad_table_is_expected() -> None:
    """Every file in bad/ has its row in this module, and every row its file."""
    assert sorted(path.name for path in BAD.iterdir()) == sorted(f"{name}.yaml" for name in WRONG)


def test_messages_are_short() -> None:
    """No message repeats a table at length, however long the value in it is."""
    for name in WRONG:
        with pytest.raises(TableError) as caught:
            load_cards(BAD / f"{name}.yaml")
        assert len(caught.value.reason) < 500, name


@pytest.mark.parametrize("kind", SHIPPED)
@pytest.mark.parametrize("newline", ["\r\n", "\r"], ids=["CRLF", "CR"])
@pytest.mark.usefixtures("scanner")
def test_newlines_do_not_matter(kind: str, newline: str, load: Callable[[Path], Any], tmp_path: Path) -> None:
    """A table saved on another system, with a byte-order mark, loads, and its mistakes have the same lines."""
    lines = data_path(f"{kind}.yaml").read_text("utf-8").splitlines()
    path = tmp_path / f"{kind}.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + newline.join(lines).encode())
    load(path)
    lines[30] = "wrong: yes: no"
    path.write_bytes(b"\xef\xbb\xbf" + newline.join(lines).encode())
    with pytest.raises(TableError) as caught:
        load(path)
    assert caught.value.line == 31


def test_a_missing_file_is_a_table_error(load: Callable[[Path], Any], tmp_path: Path) -> None:
    """A path without a file, and a folder, are TableErrors that name it and have no line."""
    for path in (tmp_path / "prices.yaml", tmp_path):
        with pytest.raises(TableError, match="cannot be read") as caught:
            load_cards(path)
        assert (caught.value.file, caught.value.line, caught.value.key) == (str(path), None, None)


def test_a_file_too_large_for_a_table_is_refused(tmp_path: Path) -> None:
    """A file of more than 16 MiB is refused before it is scanned."""
    path = tmp_path / "models.yaml"
    path.write_bytes(b"#" * (16 * 1024 * 1024 + 1))
    with pytest.raises(TableError, match="larger than 16,777,216 bytes"):
        load_cards(path)


@pytest.mark.parametrize("escape", [r"\UFFFFFFFF", r"\U00110000", r"\xZZ"])
@pytest.mark.usefixtures("scanner")
def test_absurd_escapes_are_table_errors(escape: str, tmp_path: Path) -> None:
    """An escape that is no character is refused as a TableError by both scanners."""
    path = tmp_path / "models.yaml"
    path.write_text(f'version: "{escape}"\n', "utf-8")
    with pytest.raises(TableError, match="not YAML"):
        load_cards(path)


@pytest.mark.usefixtures("scanner")
def test_a_quoted_null_is_a_text(tmp_path: Path) -> None:
    """A bare null is no value, and the quoted word is a text like any other."""
    path = tmp_path / "models.yaml"
    sources = 'version: 1\nsources: {s: {url: "https://a", read: "2026"}}\n'
    card = sources + "models: [{model: m, description: NULL, sources: [s]}]\n"
    path.write_text(card.replace("NULL", '"null"'), "utf-8")
    assert next(iter(load_cards(path))).description == "null"
    for nothing in ("null", "~", ""):
        path.write_text(card.replace("NULL", nothing), "utf-8")
        with pytest.raises(TableError, match="expected a text, found nothing"):
            load_cards(path)


def test_a_tab_after_a_value_is_harmless(tmp_path: Path) -> None:
    """Only indentation with tabs is refused; a tab before a comment means nothing and loads."""
    path = tmp_path / "models.yaml"
    path.write_text("version: 1\t# the first\nsources: {}\nmodels: []\n", "utf-8")
    assert len(load_cards(path)) == 0
