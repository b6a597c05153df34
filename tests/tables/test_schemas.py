"""The JSON Schemas that editors use agree with the tables and with the reader, as far as a schema can see."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pricing._yaml import Node
from pricing.cards import CHAT_TOOLS, DETAILS, ENCODINGS, ENDPOINTS, FEATURES, MODALITIES
from pricing.errors import TableError
from pricing.resources import data_path
from ratelimit.limit import KNOWN
from ratelimit.tiers import ADMISSION_ENDPOINTS, BASES, POLICIES

KINDS_OF_TABLE = ("models", "prices", "tiers")
BAD = Path(__file__).parent / "bad"
SCHEMAS = {kind: json.loads(data_path(f"{kind}.schema.json").read_text("utf-8")) for kind in KINDS_OF_TABLE}
TABLES = {kind: yaml.safe_load(data_path(f"{kind}.yaml").read_text("utf-8")) for kind in KINDS_OF_TABLE}

BEYOND_A_SCHEMA = {
    "models-alias-clash": "two cards",
    "models-model-twice": "two cards",
    "models-output-beyond-window": "two numbers",
    "models-input-beyond-window": "two numbers",
    "models-image-auto-unknown": "two keys",
    "models-evidence-undefined": "a reference",
    "models-shutdown-before-release": "two dates",
    "models-source-undefined": "a reference",
    "models-impossible-date": "the length of February",
    "prices-impossible-date": "the length of June",
    "prices-ends-before-it-begins": "two dates",
    "prices-old-after-new": "two rows",
    "prices-overlap": "two rows",
    "prices-same-day": "two rows",
    "prices-source-undefined": "a reference",
    "prices-snapshot-as-model": "another table",
    "prices-unknown-kind": "a reference",
    "prices-unknown-model": "another table",
    "prices-unknown-service-tier": "a reference",
    "tiers-limits-twice": "two rows",
    "tiers-not-offered-and-limits": "two rows",
    "tiers-pool-twice": "two rows",
    "tiers-pool-beside-nothing": "two rows",
    "tiers-shares-nothing": "two rows",
    "tiers-rule-ends-before-it-begins": "two dates",
    "tiers-rules-overlap": "two rows",
    "tiers-scheme-ends-before-it-begins": "two dates",
    "tiers-scheme-twice": "two schemes",
    "tiers-schemes-overlap": "two schemes",
    "tiers-tier-of-other-scheme": "a reference",
    "tiers-unknown-model": "another table",
    "tiers-unknown-scheme": "a reference",
    "tiers-unknown-tier": "a reference",
    # YAML 1.1 has understood these before a schema sees them; the reader works on the text.
    "models-anchor": "safe_load",
    "models-anchored-list": "safe_load",
    "models-merge-key": "safe_load",
    "models-octal": "safe_load",
    "models-tag": "safe_load",
    "models-yes": "safe_load",
    "prices-duplicate-key": "safe_load",
    "tiers-admission-refund": "safe_load",
    "tiers-duplicate-tier": "safe_load",
    "tiers-misplaced-underscore": "safe_load",
}
"""Bad tables that a schema lets pass, and what it cannot compare."""


def problems(kind: str, table: Any) -> list[str]:
    return [error.json_path for error in Draft202012Validator(SCHEMAS[kind]).iter_errors(table)]


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from subschemas(value)


@pytest.mark.parametrize("kind", KINDS_OF_TABLE)
def test_the_shipped_table_validates(kind: str) -> None:
    """Each shipped table, read as any YAML library reads it, fits its schema."""
    assert problems(kind, TABLES[kind]) == []


@pytest.mark.parametrize("kind", KINDS_OF_TABLE)
def test_the_schema_is_a_schema(kind: str) -> None:
    """Each schema is valid JSON Schema 2020-12, and every reference in it leads somewhere and is used."""
    schema = SCHEMAS[kind]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(schema)
    refs = {part["$ref"] for part in subschemas(schema) if "$ref" in part}
    assert refs == {f"#/$defs/{name}" for name in schema["$defs"]}


@pytest.mark.parametrize("kind", KINDS_OF_TABLE)
def test_every_property_is_described_and_no_other_is_allowed(kind: str) -> None:
    """An editor has a sentence to show for every key, and marks every key the reader would refuse."""
    for part in subschemas(SCHEMAS[kind]):
        if part.get("type") != "object" or "properties" not in part:
            continue
        assert part["additionalProperties"] is False
        for name, value in part["properties"].items():
            target = SCHEMAS[kind]["$defs"][value["$ref"].rpartition("/")[2]] if "$ref" in value else {}
            description = value.get("description") or target.get("description", "")
            assert re.fullmatch(r"[^\n]{10,}\.", description), name


@pytest.mark.parametrize(
    ("kind", "place", "known"),
    [
        ("models", "$defs.card.properties.endpoints.properties", ENDPOINTS),
        ("models", "$defs.card.properties.features.properties", FEATURES),
        ("models", "$defs.card.properties.modalities.properties", MODALITIES),
        ("models", "$defs.card.properties.encoding.enum", ENCODINGS),
        ("tiers", "$defs.rule.properties.base.enum", BASES),
        ("tiers", "$defs.rule.properties.endpoint.enum", ADMISSION_ENDPOINTS),
        ("tiers", "properties.admission.required", POLICIES),
        ("models", "$defs.card.properties.chat_tools.enum", CHAT_TOOLS),
        ("models", "$defs.card.properties.image_tokens.properties.patches.properties", DETAILS),
        ("models", "$defs.card.properties.image_tokens.properties.auto.enum", DETAILS),
        ("tiers", "$defs.numbers.properties", (*KNOWN, "batch_queue_tokens")),
    ],
)
def test_the_schema_knows_the_same_words(kind: str, place: str, known: tuple[str, ...]) -> None:
    """The names a schema offers are the ones the reader accepts, in the same order."""
    found: Any = SCHEMAS[kind]
    for step in place.split("."):
        found = found[int(step) if step.isdigit() else step]
    assert tuple(found) == tuple(known)


MUTATIONS: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("models", "$.version", lambda t: t.update(version=2)),
    ("models", "$", lambda t: t.pop("sources")),
    ("models", "$", lambda t: t.update(model={})),
    ("models", "$.models[0]", lambda t: t["models"][0].pop("model")),
    ("models", "$.models[0]", lambda t: t["models"][0].update(contextwindow=1)),
    ("models", "$.models[0].context_window", lambda t: t["models"][0].update(context_window=0)),
    ("models", "$.models[0].context_window", lambda t: t["models"][0].update(context_window="200000")),
    ("models", "$.models[0].released", lambda t: t["models"][0].update(released="10.06.2025")),
    ("models", "$.models[0].endpoints", lambda t: t["models"][0]["endpoints"].update({"v2/responses": True})),
    ("models", "$.models[0].features.streaming", lambda t: t["models"][0]["features"].update(streaming="no")),
    ("models", "$.models[0].sources", lambda t: t["models"][0].update(sources=[])),
    ("models", "$.sources.deprecations.url", lambda t: t["sources"]["deprecations"].update(url="http://a")),
    ("models", "$.sources.deprecations.read", lambda t: t["sources"]["deprecations"].update(read="July")),
    ("prices", "$.currency", lambda t: t.update(currency="EUR")),
    ("prices", "$.rows[0]", lambda t: t["rows"][0].pop("usd_per_mtok")),
    ("prices", "$.rows[0]", lambda t: t["rows"][0].pop("source")),
    ("prices", "$.rows[0].service_tier", lambda t: t["rows"][0].update(service_tier="Fast!")),
    ("prices", "$.rows[0].usd_per_mtok.input", lambda t: t["rows"][0]["usd_per_mtok"].update(input=20.0)),
    ("prices", "$.rows[0].usd_per_mtok.input", lambda t: t["rows"][0]["usd_per_mtok"].update(input="-20.00")),
    ("prices", "$.rows[0].usd_per_mtok.input", lambda t: t["rows"][0]["usd_per_mtok"].update(input="input")),
    ("prices", "$.rows[0].usd_per_mtok.output", lambda t: t["rows"][0]["usd_per_mtok"].update(output="0.00002")),
    ("prices", "$.rows[0].usd_per_mtok", lambda t: t["rows"][0]["usd_per_mtok"].update({"Audio ": "1.00"})),
    ("prices", "$.rows[0].long_context", lambda t: t["rows"][0].update(long_context={"usd_per_mtok": {"input": "1"}})),
    ("prices", "$.rows[0].long_context.above", lambda t: t["rows"][0].update(long_context={"above": 0})),
    ("prices", "$.service_tiers.batch", lambda t: t["service_tiers"].update(batch="half")),
    ("prices", "$.fees[0]", lambda t: t["fees"][0].pop("usd_per_1k")),
    ("prices", "$.fees[0].fee", lambda t: t["fees"][0].update(fee="web search")),
    ("prices", "$.regional_uplift.percent", lambda t: t["regional_uplift"].update(percent="10")),
    ("tiers", "$.schemes", lambda t: t.update(schemes=[])),
    ("tiers", "$.limits[0].tiers.tier_1", lambda t: t["limits"][0]["tiers"]["tier_1"].update(rpm=0)),
    ("tiers", "$.limits[0].tiers.tier_1", lambda t: t["limits"][0]["tiers"]["tier_1"].update(supported=False)),
    ("tiers", "$.limits[0].tiers.tier_1", lambda t: t["limits"][0]["tiers"].update(tier_1={"supported": True})),
    ("tiers", "$.limits[0].tiers.tier_1", lambda t: t["limits"][0]["tiers"].update(tier_1={})),
    ("tiers", "$.admission", lambda t: t["admission"].pop("observed")),
    ("tiers", "$.admission.observed[0].base", lambda t: t["admission"]["observed"][0].update(base="characters")),
    ("tiers", "$.admission.observed[2].base", lambda t: t["admission"]["observed"][2].update(base="chars_div_4_ceil")),
    ("tiers", "$.admission.observed[0].max_tokens", lambda t: t["admission"]["observed"][0].update(max_tokens=16)),
]


@pytest.mark.parametrize(("kind", "place", "mutate"), MUTATIONS, ids=[f"{k}-{p}" for k, p, _ in MUTATIONS])
def test_a_mutated_table_is_rejected(kind: str, place: str, mutate: Callable[[Any], Any]) -> None:
    """One wrong value in a shipped table is one complaint of the schema, at the place of the mistake."""
    table = copy.deepcopy(TABLES[kind])
    mutate(table)
    assert problems(kind, table) == [place]


@pytest.mark.parametrize("path", sorted(BAD.iterdir()), ids=lambda path: path.stem)
def test_the_schema_rejects_what_it_can(path: Path) -> None:
    """Every bad table that is YAML at all is rejected by its schema too, save the ones listed with a reason."""
    try:
        table = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return
    assert BEYOND_A_SCHEMA.keys() <= {path.stem for path in BAD.iterdir()}
    rejected = bool(problems(path.name.split("-")[0], table))
    assert rejected == (path.stem not in BEYOND_A_SCHEMA)


@settings(max_examples=300, deadline=None)
@given(st.from_regex(r"-?[0-9]{0,8}(\.[0-9]{0,7})?", fullmatch=True) | st.text("0123456789.-+e_ $٣", max_size=12))
def test_schema_and_reader_agree_on_prices(text: str) -> None:
    """A text is a price to the schema exactly when it is one to the reader."""
    accepted = Draft202012Validator(SCHEMAS["prices"]["$defs"]["price"]).is_valid(text)
    try:
        price = Node(text, "prices.yaml", 1, "rows[0].usd_per_mtok.input").decimal()
    except TableError:
        assert not accepted
    else:
        assert accepted
        assert price == Decimal(text)
