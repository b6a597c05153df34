"""The published JSON Schemas agree with what gates read and write."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from jsonschema import Draft202012Validator

from pricing.errors import TableError
from pricing.gate import rules
from pricing.gate.formats import render
from pricing.gate.judge import Verdict
from pricing.gate.metrics import ALIASES, METRICS
from pricing.gate.report import KINDS, dumps
from pricing.gate.rules import load_gate
from pricing.resources import data_path

from .conftest import cell, example, group, report, verdict, verdicts

NAMES = ("gate", "gate_report", "gate_verdict")
SCHEMAS: dict[str, Any] = {name: json.loads(data_path(f"{name}.schema.json").read_text("utf-8")) for name in NAMES}


def subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from subschemas(value)


def strict(name: str) -> Draft202012Validator:
    """A schema that allows no key but those that it describes."""
    schema = copy.deepcopy(SCHEMAS[name])
    for part in subschemas(schema):
        if part.get("type") == "object" and "properties" in part:
            part["additionalProperties"] = False
    return Draft202012Validator(schema)


@pytest.mark.parametrize("name", NAMES)
def test_each_schema_is_a_schema(name: str) -> None:
    """It is JSON Schema 2020-12, every reference leads somewhere, and every property has a sentence for an editor."""
    schema = SCHEMAS[name]
    assert schema["$id"] == f"https://ratecard.invalid/{name}.schema.json"
    Draft202012Validator.check_schema(schema)
    refs = {part["$ref"] for part in subschemas(schema) if "$ref" in part}
    assert refs == {f"#/$defs/{one}" for one in schema["$defs"]}
    for part in subschemas(schema):
        for key, value in part.get("properties", {}).items() if part.get("type") == "object" else ():
            target = schema["$defs"][value["$ref"].rpartition("/")[2]] if "$ref" in value else {}
            description = value.get("description") or target.get("description", "")
            assert re.fullmatch(r"[^\n]{5,}\.", description), key


def test_a_report_is_described_once() -> None:
    """The report inside of a verdict is the report that is saved."""
    shared = SCHEMAS["gate_report"]["$defs"]
    inner = SCHEMAS["gate_verdict"]["$defs"]
    assert {name: inner[name] for name in shared} == shared
    whole = SCHEMAS["gate_report"]
    assert inner["report"]["properties"] == whole["properties"]
    assert inner["report"]["required"] == whole["required"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(verdicts())
def test_what_is_written_fits(of: Verdict) -> None:
    """Every verdict and every report has exactly the keys that its schema describes."""
    strict("gate_verdict").validate(json.loads(render("json", of)))
    strict("gate_report").validate(json.loads(dumps(of.report)))


def test_what_has_everything_fits() -> None:
    """Durations, overrides, prices that changed, groups that came and went; and nothing at all."""
    for of in (example(), verdict(report()), verdict(report(group("a", cell(1))), report())):
        strict("gate_verdict").validate(json.loads(render("json", of)))
        strict("gate_report").validate(json.loads(dumps(of.report)))


def documented(heading: str) -> list[tuple[str, ...]]:
    """The keys of a table of docs/json.md, each as its parts."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "json.md").read_text(encoding="utf-8")
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [
        tuple(key.replace("[]", ".[]").split(".")) for key in re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    ]


def keys(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The keys of a document down to what is neither an object nor a list."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else (("[]", one) for one in value)
        if value and isinstance(value, list)
        else ()
    )
    for name, one in inner:
        yield from keys(one, (*at, name))
    if value != [] and not (isinstance(value, dict | list) and value):
        yield at


def test_the_keys_are_documented() -> None:
    """docs/json.md has a row for every key of a verdict and of a report, and for none that is not there."""
    document = json.loads(render("json", example()))
    saved, document["report"] = document["report"], None
    for heading, one in (("ratecard gate", document), ("ratecard baseline write", saved)):
        patterns, found = documented(heading), set(keys(one))

        def fits(key: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
            pairs = zip(key, pattern, strict=False)
            return len(key) == len(pattern) and all(part[0] == "<" or part == name for name, part in pairs)

        assert sorted(key for key in found if not any(fits(key, pattern) for pattern in patterns)) == []
        assert [pattern for pattern in patterns if not any(fits(key, pattern) for key in found)] == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("status", "good"), ("counts.fail", -1), ("checks.0.value", 1.5), ("change.total.change", 3.21),
        ("change.total.effects.price", "1e3"), ("report.groups.1.cost.p50", 12), ("header.at", "today"),
        ("overrides.0.state", "maybe"), ("schema_version", 2), ("report.groups.1.cells.0.requests", 0),
    ],
)  # fmt: skip
def test_a_wrong_value_does_not_fit(place: str, value: Any) -> None:
    """The schema sees a wrong word, a float in the place of money, a number below nothing."""
    document = json.loads(render("json", example()))
    *path, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    at = document
    for step in path:
        at = at[step]
    assert last in at
    at[last] = value
    errors = list(Draft202012Validator(SCHEMAS["gate_verdict"]).iter_errors(document))
    (error,) = errors
    assert [*path, last][: len(error.absolute_path)] == list(error.absolute_path), "or above, where null may be"


def test_the_schema_of_a_gate_knows_the_same_words() -> None:
    """Keys, metrics, levels and kinds are those that the reader knows, in the same order."""
    defs = SCHEMAS["gate"]["$defs"]
    assert set(defs["gate"]["properties"]) == set(rules._GATE)
    assert tuple(defs["rule"]["properties"]) == ("name", "metric", *rules._RULE[1:])
    assert defs["rule"]["properties"]["metric"]["enum"] == [*METRICS, *ALIASES]
    assert SCHEMAS["gate_verdict"]["$defs"]["check"]["properties"]["metric"]["enum"] == [*METRICS, "none"]
    assert SCHEMAS["gate_report"]["$defs"]["group"]["properties"]["kind"]["enum"] == list(KINDS)


GOOD = """
gate:
  baseline: .costs/baseline.json
  sources: [jobs/*.jsonl, {path: trace.csv, model: o3}, {path: costs.db, by: "tag:team"}]
  prices: [negotiated.yaml]
  tier: grow
  seed: 7
  on_unpriced: warn
  on_missing_baseline: ignore
  on_stale_prices: {older_than: 45d, level: fail}
  rules:
    - {metric: cost.p95, max: 20}
    - {metric: cost, select: "jobs/*", ignore: [jobs/tmp*], max_increase: 5%, min_change: 0.01, level: warn}
    - {name: tokens, metric: tokens.input, max_decrease: 1k, message: why so few}
    - {metric: duration.p95, max: 2h, level: off}
  overrides:
    - {rule: tokens, reason: a new prompt, until: 2026-12-31, select: jobs/a*}
"""
BAD = {
    "a typing error": ("baseline:", "basline:"),
    "no gate": ("gate:", "gates:"),
    "an unknown metric": ("cost.p95", "cost.p96"),
    "an unknown level": ("level: warn", "level: maybe"),
    "a rule that allows anything": ("metric: cost.p95, max: 20", "metric: cost.p95"),
    "a floor for no change": ("metric: cost.p95, max: 20", "metric: cost.p95, max: 20, min_change: 1"),
    "an override without a reason": ("reason: a new prompt, ", ""),
    "an override without an end": ("until: 2026-12-31", "until: never"),
    "an age that is none": ("45d", "45"),
    "an empty name": ("name: tokens", 'name: ""'),
    "a text for a list": ("[negotiated.yaml]", "negotiated.yaml"),
    "a source without a path": ("{path: trace.csv, ", "{"),
}


def read(text: str) -> Any:
    """Scalars as texts, as our reader and editors of YAML 1.2 have them: `off` is no truth value, a day is no date."""
    return yaml.load(text, Loader=yaml.BaseLoader)


def test_a_good_gate_is_good_for_both(tmp_path: Path) -> None:
    """The schema and the reader take every key there is."""
    Draft202012Validator(SCHEMAS["gate"]).validate(read(GOOD))
    file = tmp_path / "ratecard.yaml"
    file.write_text(GOOD, encoding="utf-8")
    assert len(load_gate(file).rules) == 3


@pytest.mark.parametrize("what", BAD)
def test_a_bad_gate_is_bad_for_both(what: str, tmp_path: Path) -> None:
    """A mistake that an editor marks is one that the reader refuses."""
    old, new = BAD[what]
    assert GOOD.count(old) >= 1
    text = GOOD.replace(old, new)
    assert not Draft202012Validator(SCHEMAS["gate"]).is_valid(read(text))
    file = tmp_path / "ratecard.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TableError):
        load_gate(file)
