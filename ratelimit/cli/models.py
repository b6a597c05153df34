"""`ratecard models [MODEL] [--tier T]`"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import click

from pricing.cards import ImageRule, ModelCard, load_cards, near_names, resolve
from pricing.prices import PriceTable, load_prices

from ..errors import ConfigError, NotOffered
from ..limit import KNOWN, Limit
from ..tiers import TierTable, load_tiers
from ._prices import describe_ended, describe_fees, describe_prices, fee_facts, price_facts, prices_option
from ._shared import TIER, Day, print_json
from ._text import columns, echo


@click.command("models")
@click.argument("model", required=False)
@click.option("--tier", "only_tier", type=TIER, help="Show the limits of this tier only.")
@click.option("--at", type=Day(), help="Prices as of this day (default: today).")
@prices_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str | None, only_tier: str | None, at: date | None, prices: tuple[str, ...], as_json: bool) -> None:
    """Show a model's card, limits by tier and prices, with dates and sources.

    Without MODEL, list the models: all, or those that have limits in --tier, with these.
    """
    today = at or datetime.now(UTC).date()
    table = load_prices(overlay=prices)
    if model is None:
        cards = [*load_cards(), *map(ModelCard, table.without_card())]
        documents = [describe(card, only_tier, today, table) for card in cards]
        if only_tier:
            documents = [one for one in documents if one["limits"].get(only_tier, {}).get("supported", True)]
            documents = [one for one in documents if one["limits"]]
        if as_json:
            print_json(documents)
        else:
            for line in _table(documents, only_tier, today):
                echo(line)
        return
    card = resolve(model) or (ModelCard(model) if table.rows(model) else None)
    if card is None:
        near = ", ".join(near_names(model))
        hint = f"did you mean {near}?" if near else "`ratecard models` lists them"
        raise ConfigError(f"no card for {model!r}; {hint}")
    if only_tier:
        load_tiers().limits(card.model, only_tier)  # says which tiers have it, where this one has not
    document = describe(card, only_tier, today, table, model)
    if as_json:
        print_json(document)
        return
    for label, text in _facts(document, today):
        echo(f"{label:<20} {text}")


def describe(card: ModelCard, only_tier: str | None, today: date, table: PriceTable, asked: str = "") -> dict[str, Any]:
    """Collect what the tables say of one model on a day; None where no source says anything.

    asked  the name it was asked by: a fine-tuned model has the card of its base, and not its prices
    """
    tuned = asked.startswith("ft:") and asked != card.model
    name = asked if tuned else card.model
    return {
        "model": name,
        "fine_tuned_from": card.model if tuned else None,
        "description": card.description or None,
        "released": _day(card.released),
        "shutdown": _day(card.shutdown),
        "replacement": card.replacement,
        "snapshots": list(card.snapshots),
        "aliases": list(card.aliases),
        "context_window": card.context_window,
        "max_input_tokens": card.max_input_tokens,
        "max_output_tokens": card.max_output_tokens,
        "dimensions": card.dimensions,
        "knowledge_cutoff": _day(card.knowledge_cutoff),
        "reasoning_tokens": card.reasoning_tokens,
        "ratings": dict(card.ratings),
        "encoding": card.encoding,
        "encoding_evidence": [str(source) for source in card.encoding_evidence],
        "image_output_tokens": {quality: dict(sizes) for quality, sizes in card.image_output_tokens.items()},
        "image_tokens": _image_rule(card.image_tokens),
        "modalities": {name: dict(ways) for name, ways in card.modalities.items()},
        "endpoints": dict(card.endpoints),
        "features": dict(card.features),
        "rejected_efforts": list(card.rejected_efforts),
        "chat_tools": card.chat_tools,
        "tools": list(card.tools),
        "notes": list(card.notes),
        "conflicts": list(card.conflicts),
        "prices": describe_prices(table, name, today),
        "prices_ended": describe_ended(table, name, today),
        "fees": describe_fees(table, name, today) if card.endpoints.get("v1/responses") else {},
        "limits": _limits(card.model, only_tier, load_tiers()),
        "sources": [str(source) for source in card.sources],
    }


def _image_rule(rule: ImageRule | None) -> dict[str, Any] | None:
    if rule is None:
        return None
    if rule.tiles is not None:
        return {"tiles": rule.tiles._asdict()}
    levels = {name: bounds._asdict() for name, bounds in rule.patches.items()}
    return {"patches": levels, "multiplier_percent": rule.multiplier_percent, "auto": rule.auto}


def _limits(model: str, only_tier: str | None, tiers: TierTable) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in [only_tier] if only_tier else dict.fromkeys(name for s in tiers.schemes for name in s.tiers):
        try:
            row = _numbers(tiers.limits(model, name), tiers.batch_queue_tokens(model, name))
        except NotOffered:
            found[name] = {"supported": False}
            continue
        except ConfigError:
            continue  # no source gives this model's limits in this tier
        for part in tiers.parts(model, name):
            key = f"above_{part.above}" if part.above is not None else part.service_tier
            row.setdefault("pools", {})[key] = _numbers(part.limits, part.batch_queue_tokens)
        if (pool := tiers.pool(model, name)) != model:
            row["counted_with"] = pool
        until = tiers.scheme(model, name).effective_until
        source = "; ".join(str(one) for one in tiers.sources(model, name))
        found[name] = {**row, "scheme_until": _day(until), "source": source, "notes": list(tiers.notes(model, name))}
    return found


def _numbers(limits: tuple[Limit, ...], queue: int | None) -> dict[str, Any]:
    row = {limit.name: limit.capacity for limit in limits}
    return row if queue is None else {**row, "batch_queue_tokens": queue}


def _table(documents: list[dict[str, Any]], only_tier: str | None, today: date) -> Iterator[str]:
    """The list for people: a line per model, numbers to the right, "-" where no source says anything."""
    if only_tier:
        head = ["model", *(name for name in (*KNOWN, "batch_queue_tokens") if _any(documents, only_tier, name))]
        rows = [[one["model"], *(one["limits"][only_tier].get(name) for name in head[1:])] for one in documents]
    else:
        head = ["model", "context", "output", "$ in", "$ out"]
        rows = []
        for one in documents:
            rates = one["prices"].get("standard", {}).get("usd_per_mtok", {})
            sizes = (one["context_window"], one["max_output_tokens"])
            minute = one["prices"].get("standard", {}).get("usd_per_minute")
            read = f"{minute}/min" if minute else rates.get("input")
            rows.append([one["model"], *sizes, read, rates.get("output")])
    cells = [[f"{cell:,}" if type(cell) is int else cell or "-" for cell in row] for row in rows]
    ends = [_ends(document, today) for document in documents]
    table = [[*row, end] for row, end in zip([head, *cells], ["shutdown", *ends], strict=True)]
    yield from columns(table, left=frozenset({0, len(head)}))


def _ends(document: dict[str, Any], today: date) -> str:
    """A model's last day; of one that is past it, that it is."""
    day = document["shutdown"] or ""
    return f"{day}, shut down" if day and day <= str(today) else day


def _any(documents: list[dict[str, Any]], tier: str, name: str) -> bool:
    return any(name in one["limits"][tier] for one in documents)


def _image_facts(rule: dict[str, Any]) -> Iterator[str]:
    """What an input image counts, in sentences."""
    if "tiles" in rule:
        yield f"{rule['tiles']['base']:,}, and {rule['tiles']['per_tile']:,} for each tile of 512 pixels"
        return
    if not rule:
        return
    percent = rule["multiplier_percent"]
    yield "1 for each patch of 32 pixels" if percent == 100 else f"{percent / 100:g} for each patch of 32 pixels"
    for detail, bounds in rule["patches"].items():
        most = "any number of patches" if bounds["budget"] is None else f"at most {bounds['budget']:,} patches"
        side = "" if bounds["max_side"] is None else f", the longer side at most {bounds['max_side']:,} pixels"
        yield f"{detail} detail: {most}{side}"
    if rule["auto"]:
        yield f"auto detail is {rule['auto']}"


def _facts(document: dict[str, Any], today: date) -> Iterator[tuple[str, str]]:
    """Every fact as a label and a text for people, in the order of a model page."""
    for key, value in document.items():
        label = key.replace("_", " ")
        if key == "prices":
            if document["fine_tuned_from"] and not value:
                yield label, "a fine-tune's own, not known"
            yield from price_facts(value)
        elif key == "prices_ended":
            for tier, day in value.items():
                yield f"price {tier}", f"not known: the last known ended on {day}"
        elif key == "fees":
            yield from fee_facts(value)
        elif key == "limits":
            for tier, row in value.items():
                if row.get("supported") is False:
                    yield f"limits {tier}", "not supported"
                    continue
                yield (
                    f"limits {tier}",
                    _spelled(row) + (f"  until {row['scheme_until']}" if row["scheme_until"] else ""),
                )
                for pool, numbers in row.get("pools", {}).items():
                    what = f"above {int(pool[6:]):,} input tokens" if pool.startswith("above_") else pool
                    yield "", f"{what}: {_spelled(numbers)}"
                if "counted_with" in row:
                    yield "", f"counted together with {row['counted_with']}"
            for key in ("notes", "source"):
                told = [row[key] for row in value.values() if key in row]
                for text in dict.fromkeys(note for one in told for note in (one if key == "notes" else [one])):
                    yield "", f"({text})"
        elif key == "modalities":
            for name, ways in value.items():
                yield f"modality {name}", " and ".join(way for way, on in ways.items() if on) or "not supported"
        elif key == "ratings":
            for name, text in value.items():
                yield name, text
        elif key == "image_tokens":
            yield from ((label if place == 0 else "", text) for place, text in enumerate(_image_facts(value or {})))
        elif key == "image_output_tokens":
            for quality, sizes in value.items():
                yield label, f"{quality}: " + ", ".join(f"{tokens:,} at {size}" for size, tokens in sizes.items())
                label = ""
        elif key == "shutdown" and value and value <= str(today):
            yield label, f"{value}: it has been shut down"
        elif isinstance(value, dict):
            yes, no = ([name for name, on in value.items() if on is wanted] for wanted in (True, False))
            if value:
                yield label, ", ".join(yes) or "none"
            if no:
                yield f"  not {label}", ", ".join(no)
        elif isinstance(value, list):
            each = key in ("sources", "encoding_evidence", "notes", "conflicts")
            for number, text in enumerate(value if each else [", ".join(value)] if value else []):
                yield label if number == 0 else "", text
        elif value is not None:
            yield label, f"{value:,}" if type(value) is int else {True: "yes", False: "no"}.get(value, str(value))


def _spelled(numbers: dict[str, Any]) -> str:
    return "  ".join(f"{name} {n:,}" for name, n in numbers.items() if type(n) is int)


def _day(day: date | None) -> str | None:
    return None if day is None else str(day)
