"""Price rows as commands show them, and the option that overlays the table they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any, TypeVar

import click

from pricing.money import Usd
from pricing.prices import Fee, PriceRow, PriceTable

Command = TypeVar("Command", bound=Callable[..., Any])

_THINGS = ("usd_per_1k", 1_000)
_UNITS = {"audio_us": ("usd_per_minute", 60_000_000), "storage_byte_days": ("usd_per_gib_day", 2**30)}
"""What is no token and no thing → how its price is shown, and for how many of it."""
_SPELLED = {"usd_per_1k": "1,000", "usd_per_minute": "minute of audio", "usd_per_gib_day": "GiB and day"}


def prices_option(command: Command) -> Command:
    """Give a command --prices."""
    text = "Overlay of negotiated prices and discounts (see docs/tables.md); may be given more than once."
    option = click.option("--prices", multiple=True, type=click.Path(dir_okay=False), metavar="FILE", help=text)
    return option(command)


def describe_prices(table: PriceTable, model: str, day: date) -> dict[str, Any]:
    """Collect the rows that price a model on a day, by service tier."""
    rows = (table.lookup(model, tier, day) for tier in table.tiers(model))
    return {row.service_tier: _describe(row) for row in rows if row is not None}


def describe_ended(table: PriceTable, model: str, day: date) -> dict[str, str]:
    """Collect until when the service tiers had prices that have none on a day: what followed is not known."""
    ended = {}
    for row in table.rows(model):
        if table.lookup(model, row.service_tier, day) is None and row.effective_until and row.effective_until < day:
            ended[row.service_tier] = str(row.effective_until)
    return ended


def _describe(row: PriceRow) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if row.pico_per_token:
        document["usd_per_mtok"] = _tokens(row)
    for kind, (pico, per) in row.per_unit.items():
        key, many = _UNITS.get(kind, _THINGS)
        price = _decimals(-(-pico * many // per))
        document[key] = price if kind in _UNITS else {**document.get(key, {}), kind: price}
    if row.above is not None:
        document["long_context"] = {"above": row.above}
        if row.long is not None:
            document["long_context"]["usd_per_mtok"] = _tokens(row.long)
            document["long_context"]["source"] = str(row.long.source)
    return {
        **document,
        "cached_input_published": "cached_input" in row.pico_per_token,
        "effective_from": str(row.effective_from),
        "effective_until": None if row.effective_until is None else str(row.effective_until),
        "row": row.id,
        "source": str(row.source),
    }


def describe_fees(table: PriceTable, model: str, day: date) -> dict[str, Any]:
    """Collect what hosted tools and storage cost with a model on a day."""
    return {fee.kind: _fee(fee) for fee in table.fees(model, day)}


def _fee(fee: Fee) -> dict[str, Any]:
    key, many = _UNITS.get(fee.kind, _THINGS)
    return {
        key: _decimals(-(-fee.pico * many // fee.per)),
        "effective_from": str(fee.effective_from),
        "row": fee.id,
        "source": str(fee.source),
    }


def fee_facts(fees: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """The fees of a model as labels and texts for people."""
    label = "fees"
    for kind, fee in fees.items():
        unit = next(key for key in fee if key.startswith("usd_per_"))
        yield label, f"{kind} ${fee[unit]}  per {_SPELLED[unit]}, since {fee['effective_from']}"
        label = ""
    for source in dict.fromkeys(fee["source"] for fee in fees.values()):
        yield "", f"({source})"


def price_facts(prices: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """The rows of a model as labels and texts for people."""
    for tier, row in prices.items():
        until = f" until {row['effective_until']}" if row["effective_until"] else ""
        since = f"since {row['effective_from']}{until}"
        label = f"price {tier}"
        if "usd_per_mtok" in row:
            note = "" if row["cached_input_published"] else ", none published for cached input"
            yield label, f"{_spelled(row['usd_per_mtok'])}  per 1M tokens, {since}{note}"
            label = ""
        if "usd_per_minute" in row:
            yield label, f"${row['usd_per_minute']}  per minute of audio, {since}"
            label = ""
        if "usd_per_1k" in row:
            yield label, f"{_spelled(row['usd_per_1k'])}  per 1,000, {since}"
        if "long_context" in row:
            long = row["long_context"]
            rates = _spelled(long["usd_per_mtok"]) if "usd_per_mtok" in long else "no price is known"
            yield "", f"{rates}  for all of a request of more than {long['above']:,} input tokens"
            if long.get("source", row["source"]) != row["source"]:
                yield "", f"(these: {long['source']})"
        yield "", f"({row['source']})"


def _tokens(row: PriceRow) -> dict[str, str]:
    rates = {kind: _decimals(pico * 1_000_000) for kind, pico in row.pico_per_token.items()}
    if row.cached_as_input:
        rates["cached_input"] = rates["input"]
    return rates


def _spelled(rates: Mapping[str, str]) -> str:
    return "  ".join(f"{kind} ${rate}" for kind, rate in rates.items())


def _decimals(pico: int) -> str:
    """A price to its last digit, with two decimals at least."""
    whole, _, part = str(Usd(pico)).partition(".")
    return f"{whole}.{part:0<2}"
