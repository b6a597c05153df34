"""`ratecard models [MODEL] [--tier T]`"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from pricing.cards import load_cards, resolve
from pricing.money import Usd
from pricing.prices import load_prices

from ..errors import ConfigError, NotOffered
from ..tiers import load_tiers
from ._shared import Day, print_json


@click.command("models")
@click.argument("model", required=False)
@click.option("--tier", "only_tier", help="Show the limits of this tier only.")
@click.option("--at", type=Day(), help="Prices as of this day (default: today).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str | None, only_tier: str | None, at: Any, as_json: bool) -> None:
    """Show a model's card, limits by tier and prices, with dates and sources; without MODEL, list the models."""
    today = at or datetime.now(UTC).date()
    if model is None:
        names = [card.model for card in load_cards()]
        documents = [describe(name, only_tier, today) for name in names]
        if as_json:
            print_json(documents)
            return
        for document in documents:
            prices = document["prices"].get("standard", {}).get("usd_per_mtok", {})
            shut = f"  shuts down {document['shutdown']}" if document["shutdown"] else ""
            click.echo(
                f"{document['model']:<12} ${prices.get('input', '?')} in  ${prices.get('output', '?')} out{shut}"
            )
        return
    card = resolve(model)
    if card is None:
        raise ConfigError(f"no card for {model!r}; there are cards for {', '.join(c.model for c in load_cards())}")
    document = describe(card.model, only_tier, today)
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        if key == "prices":
            for tier, row in value.items():
                rates = "  ".join(f"{kind} ${rate}" for kind, rate in row["usd_per_mtok"].items())
                click.echo(f"{'price ' + tier:<22}{rates}  per 1M tokens, since {row['effective_from']}")
        elif key == "limits":
            for tier, limits in value.items():
                text = "  ".join(f"{name} {n:,}" for name, n in limits.items()) if isinstance(limits, dict) else limits
                click.echo(f"{'limits ' + tier:<22}{text}")
        elif isinstance(value, dict):
            yes = ", ".join(name for name, on in value.items() if on)
            no = ", ".join(name for name, on in value.items() if not on)
            click.echo(f"{key:<22}{yes}" + (f"   (not: {no})" if no else ""))
        elif isinstance(value, list):
            click.echo(f"{key:<22}{', '.join(map(str, value))}")
        elif value is not None:
            click.echo(f"{key:<22}{value:,}" if isinstance(value, int) else f"{key:<22}{value}")


def describe(model: str, only_tier: str | None, today: Any) -> dict[str, Any]:
    """Collect what the tables say of one model."""
    card = resolve(model)
    assert card is not None
    table, tiers = load_prices(), load_tiers()
    prices = {}
    for row in table.rows(model):
        if row.effective_from <= today and (row.effective_until is None or today <= row.effective_until):
            rates = {kind: str(Usd(pico * 1_000_000)) for kind, pico in row.pico_per_token.items()}
            prices[row.service_tier] = {"usd_per_mtok": rates, "effective_from": str(row.effective_from), "row": row.id}
    limits: dict[str, Any] = {}
    names = [only_tier] if only_tier else list(dict.fromkeys(name for s in tiers.schemes for name in s.tiers))
    for name in names:
        try:
            found: Any = {limit.name: limit.capacity for limit in tiers.limits(model, name)}
            queue = tiers.batch_queue_tokens(model, name)
            if queue is not None:
                found["batch_queue_tokens"] = queue
        except NotOffered:
            found = "not supported"
        except ConfigError:
            if only_tier:
                raise
            continue
        limits[name] = found
    return {
        "model": card.model,
        "snapshots": list(card.snapshots),
        "context_window": card.context_window,
        "max_output_tokens": card.max_output_tokens,
        "knowledge_cutoff": _day(card.knowledge_cutoff),
        "shutdown": _day(card.shutdown),
        "replacement": card.replacement,
        "endpoints": dict(card.endpoints),
        "features": dict(card.features),
        "prices": prices,
        "limits": limits,
    }


def _day(day: Any) -> str | None:
    return None if day is None else str(day)
