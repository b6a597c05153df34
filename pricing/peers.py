"""What other projects' price lists say of the models of ours: their data files are read, where they are installed.

Nothing of theirs is imported or run: litellm ships JSON, and the Python module of genai-prices is read as a syntax
tree. Only numbers are taken. A disagreement is a question, for theirs may be the wrong one.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from datetime import date
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from .errors import ConfigError
from .money import PICO
from .prices import PICO_PER_USD_PER_MTOK, PriceTable


class Place(NamedTuple):
    """Where in a price list a number stands.

    kind  as in prices.yaml, of tokens, or "audio_minute"
    long  the price of a request above the long-context threshold
    """

    model: str
    tier: str
    kind: str
    long: bool = False


class Disagreement(NamedTuple):
    """One number of theirs that is not ours. `ours` is None where our table has no price there."""

    place: Place
    ours: Decimal | None
    theirs: Decimal


class Comparison(NamedTuple):
    """What one project's list says: how many of its prices are ours too, and which are not."""

    name: str
    version: str
    equal: int
    disagreements: list[Disagreement]


def compare(table: PriceTable, models: list[str], at: date) -> list[Comparison]:
    """Compare the prices of a day with those that the installed projects ship. Dollars per million tokens, or minute.

    Raises  ConfigError when none is installed
    """
    found = []
    for name, (file, read) in _PEERS.items():
        path = _installed(name, file)
        if path is None:
            continue
        ours = {place: price for model in models for place, price in _ours(table, model, at)}
        theirs = read(path, frozenset(models), at)
        theirs = {
            place: price for place, price in theirs.items() if price or place in ours
        }  # $0: it does no such thing
        differing = [
            Disagreement(place, ours.get(place), price) for place, price in theirs.items() if ours.get(place) != price
        ]
        version_ = version(name)
        found.append(Comparison(name, version_, len(theirs) - len(differing), sorted(differing, key=_by_place)))
    if not found:
        raise ConfigError(f"none of {', '.join(_PEERS)} is installed here: pip install one of them to compare with it")
    return found


def _by_place(one: Disagreement) -> Place:
    return one.place


def _installed(name: str, file: str) -> Path | None:
    spec = importlib.util.find_spec(name.replace("-", "_"))
    places = () if spec is None else spec.submodule_search_locations or ()
    return next((Path(place, file) for place in places if Path(place, file).is_file()), None)


def _ours(table: PriceTable, model: str, at: date) -> Iterator[tuple[Place, Decimal]]:
    for tier in table.tiers(model):
        row = table.lookup(model, tier, at)
        if row is None:
            continue
        for long, one in ((False, row), (True, row.long)):
            for kind, pico in () if one is None else one.pico_per_token.items():
                yield Place(model, tier, kind, long), _plain(Decimal(pico) / PICO_PER_USD_PER_MTOK)
        if "audio_us" in row.per_unit:
            pico, per = row.per_unit["audio_us"]
            yield Place(model, tier, "audio_minute"), _plain(Decimal(pico * 60_000_000) / per / PICO)


def _plain(price: Decimal) -> Decimal:
    return round(price, 9).normalize()


_LITELLM = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_12hr": "cache_write_12h",
    "input_cost_per_audio_token": "input_audio",
    "output_cost_per_audio_token": "output_audio",
    "cache_read_input_audio_token_cost": "cached_input_audio",
    "input_cost_per_image_token": "input_image",
    "output_cost_per_image_token": "output_image",
    "cache_read_input_image_token_cost": "cached_input_image",
}
_LITELLM_TIERS = {"": "standard", "batches": "batch", "flex": "flex", "priority": "priority", "ultrafast": "ultrafast"}
_LITELLM_KEY = re.compile(r"(.+?)(_above_272k_tokens)?(?:_(batches|flex|priority|ultrafast))?")


def _litellm(path: Path, models: frozenset[str], at: date) -> dict[Place, Decimal]:
    """litellm: dollars per token as floats. It keeps no history, so `at` changes nothing."""
    found: dict[Place, Decimal] = {}
    document: Mapping[str, Any] = json.loads(path.read_bytes(), parse_float=Decimal)
    for model in models & document.keys():
        if document[model].get("litellm_provider") not in ("openai", "text-completion-openai"):
            continue
        for key, price in document[model].items():
            match = _LITELLM_KEY.fullmatch(key)
            if match is None or not isinstance(price, Decimal | int):
                continue
            tier, long = _LITELLM_TIERS[match[3] or ""], match[2] is not None
            if match[1] in _LITELLM:
                found[Place(model, tier, _LITELLM[match[1]], long)] = _plain(price * Decimal(10**6))
            elif key == "input_cost_per_second":
                found[Place(model, tier, "audio_minute")] = _plain(Decimal(price * 60))
    return found


_GENAI = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cached_input",
    "cache_write_mtok": "cache_write",
    "input_audio_mtok": "input_audio",
    "output_audio_mtok": "output_audio",
    "cache_audio_read_mtok": "cached_input_audio",
    "input_image_mtok": "input_image",
    "output_image_mtok": "output_image",
    "cache_image_read_mtok": "cached_input_image",
}


def _genai_prices(path: Path, models: frozenset[str], at: date) -> dict[Place, Decimal]:
    """genai-prices: a module of constructor calls. Of dated prices the last that has begun holds."""
    found: dict[Place, Decimal] = {}
    provider = next(
        call
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and _called(call) == "Provider" and _literal(_named(call, "id")) == "openai"
    )
    for call in _calls(_named(provider, "models"), "ModelInfo"):
        model = _literal(_named(call, "id"))
        if model not in models:
            continue
        dated = [one for one in _calls(_named(call, "prices"), "ConditionalPrice") if _begun(one, at)]
        _take(found, model, "standard", _named(dated[-1], "prices") if dated else _named(call, "prices"))
        for variant in _calls(_named(call, "price_variants"), "PriceVariant"):
            when = _literal(_named(variant, "when")) or {}
            tier = "batch" if when == {"processing": "batch"} else when.get("service_tier")
            if tier in ("batch", "flex", "priority") and len(when) == 1 and _begun(variant, at):
                _take(found, model, tier, _named(variant, "prices"))
    return found


def _take(found: dict[Place, Decimal], model: str, tier: str, prices: ast.expr | None) -> None:
    """Take the numbers of a ModelPrice."""
    if not isinstance(prices, ast.Call) or _called(prices) != "ModelPrice":
        return
    for keyword in prices.keywords:
        if keyword.arg in _GENAI:
            place = Place(model, tier, _GENAI[keyword.arg])
            numbers = [_literal(call.args[0]) for call in _calls(keyword.value, "Decimal")]
            for long, number in zip((False, True), numbers, strict=False):
                found[place._replace(long=long)] = _plain(Decimal(number))
        elif keyword.arg == "input_audio_hours":
            number = _literal(_calls(keyword.value, "Decimal")[0].args[0])
            found[Place(model, tier, "audio_minute")] = _plain(Decimal(number) / 60)


def _begun(call: ast.Call, at: date) -> bool:
    start = next(iter(_calls(_named(call, "constraint"), "date")), None)
    return start is None or date(*(_literal(part) for part in start.args)) <= at


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _named(call: ast.Call, name: str) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), None)


def _calls(node: ast.expr | None, name: str) -> list[ast.Call]:
    inside = [] if node is None else ast.walk(node)
    return [call for call in inside if isinstance(call, ast.Call) and _called(call) == name]


def _literal(node: ast.expr | None) -> Any:
    return None if node is None else ast.literal_eval(node)


_PEERS = {
    "genai-prices": ("data.py", _genai_prices),
    "litellm": ("model_prices_and_context_window_backup.json", _litellm),
}
