"""`ratecard models [MODEL] [--tier T]`"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import click

from pricing.cards import ModelCard, load_cards, resolve
from pricing.money import Usd
from pricing.prices import load_prices

from ..errors import ConfigError, NotOffered
from ..tiers import TierTable, load_tiers
from ._shared import TIER, Day, print_json


@click.command("models")
@click.argument("model", required=False)
@click.option("--tier", "only_tier", type=TIER, help="Show the limits of this tier only.")
@click.option("--at", type=Day(), help="Prices as of this day (default: today).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str | None, only_tier: str | None, at: date | None, as_json: bool) -> None:
    """Show a model's card, limits by tier and prices, with dates and sources; without MODEL, list the models."""
    today = at or datetime.now(UTC).date()
    if model is None:
        documents = [describe(card, None, today) for card in load_cards()]
        for document in documents if only_tier else ():
            document["limits"] = {name: row for name, row in document["limits"].items() if name == only_tier}
        if as_json:
            print_json(documents)
        else:
            for document in documents:
                click.echo(_summary(document))
        return
    card = resolve(model)
    if card is None:
        raise ConfigError(f"no card for {model!r}; there are cards for {', '.join(c.model for c in load_cards())}")
    document = describe(card, only_tier, today)
    if as_json:
        print_json(document)
        return
    for label, text in _facts(document):
        click.echo(f"{label:<20} {text}")


def describe(card: ModelCard, only_tier: str | None, today: date) -> dict[str, Any]:
    """Collect what the tables say of one model on a day; None where no source says anything."""
    table = load_prices()
    prices = {}
    for tier in table.tiers(card.model):
        row = table.lookup(card.model, tier, today)
        if row is not None:
            rates = {kind: _rate(pico) for kind, pico in row.pico_per_token.items()}
            if row.cached_as_input:
                rates["cached_input"] = rates["input"]
            prices[row.service_tier] = {
                "usd_per_mtok": rates,
                "cached_input_published": "cached_input" in row.pico_per_token,
                "effective_from": str(row.effective_from),
                "row": row.id,
                "source": str(row.source),
            }
    return {
        "model": card.model,
        "description": card.description or None,
        "released": _day(card.released),
        "shutdown": _day(card.shutdown),
        "replacement": card.replacement,
        "snapshots": list(card.snapshots),
        "aliases": list(card.aliases),
        "context_window": card.context_window,
        "max_output_tokens": card.max_output_tokens,
        "knowledge_cutoff": _day(card.knowledge_cutoff),
        "reasoning_tokens": card.reasoning_tokens,
        "ratings": dict(card.ratings),
        "encoding": card.encoding,
        "modalities": {name: dict(ways) for name, ways in card.modalities.items()},
        "endpoints": dict(card.endpoints),
        "features": dict(card.features),
        "tools": list(card.tools),
        "prices": prices,
        "limits": _limits(card.model, only_tier, load_tiers()),
        "sources": [str(source) for source in card.sources],
    }


def _limits(model: str, only_tier: str | None, tiers: TierTable) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in [only_tier] if only_tier else dict.fromkeys(name for s in tiers.schemes for name in s.tiers):
        try:
            row: dict[str, Any] = {limit.name: limit.capacity for limit in tiers.limits(model, name)}
        except NotOffered:
            found[name] = {"supported": False}
            continue
        except ConfigError:
            if only_tier:
                raise
            continue  # no source gives this model's limits in this tier
        queue = tiers.batch_queue_tokens(model, name)
        if queue is not None:
            row["batch_queue_tokens"] = queue
        until = tiers.scheme(model, name).effective_until
        source = "; ".join(str(one) for one in tiers.sources(model, name))
        found[name] = {**row, "scheme_until": _day(until), "source": source}
    return found


def _rate(pico_per_token: int) -> str:
    """A price per million tokens to its last digit, with two decimals at least."""
    whole, _, part = str(Usd(pico_per_token * 1_000_000)).partition(".")
    return f"{whole}.{part:0<2}"


def _summary(document: dict[str, Any]) -> str:
    rates = document["prices"].get("standard", {}).get("usd_per_mtok", {})
    shut = f"  shuts down {document['shutdown']}" if document["shutdown"] else ""
    return f"{document['model']:<12} ${rates.get('input', '?')} in  ${rates.get('output', '?')} out{shut}"


def _facts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every fact as a label and a text for people, in the order of a model page."""
    for key, value in document.items():
        label = key.replace("_", " ")
        if key == "prices":
            for tier, row in value.items():
                rates = "  ".join(f"{kind} ${rate}" for kind, rate in row["usd_per_mtok"].items())
                note = "" if row["cached_input_published"] else ", none published for cached input"
                yield f"price {tier}", f"{rates}  per 1M tokens, since {row['effective_from']}{note}"
                yield "", f"({row['source']})"
        elif key == "limits":
            for tier, row in value.items():
                if row.get("supported") is False:
                    yield f"limits {tier}", "not supported"
                    continue
                numbers = "  ".join(f"{name} {n:,}" for name, n in row.items() if isinstance(n, int))
                yield f"limits {tier}", numbers + (f"  until {row['scheme_until']}" if row["scheme_until"] else "")
            for source in dict.fromkeys(row["source"] for row in value.values() if "source" in row):
                yield "", f"({source})"
        elif key == "modalities":
            for name, ways in value.items():
                yield f"modality {name}", " and ".join(way for way, on in ways.items() if on) or "not supported"
        elif key == "ratings":
            for name, text in value.items():
                yield name, text
        elif isinstance(value, dict):
            yes, no = ([name for name, on in value.items() if on is wanted] for wanted in (True, False))
            if value:
                yield label, ", ".join(yes) or "none"
                yield f"  not {label}", ", ".join(no) or "none"
        elif isinstance(value, list):
            for number, text in enumerate(value) if key == "sources" else [(0, ", ".join(value))]:
                yield label if number == 0 else "", text
        elif value is not None:
            yield label, f"{value:,}" if type(value) is int else {True: "yes", False: "no"}.get(value, str(value))


def _day(day: date | None) -> str | None:
    return None if day is None else str(day)
