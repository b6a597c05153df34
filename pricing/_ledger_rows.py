"""Entries and their ends as the values of a row of the ledger file: amounts are pico-dollars, mappings are JSON."""

from __future__ import annotations

import json
from typing import Any

from .entries import Closing, Entry
from .money import Usd


def row_of(entry: Entry) -> tuple[Any, ...]:
    """The values of a new row, but for its id."""
    return (
        entry.state,
        entry.model,
        entry.endpoint,
        entry.response_id,
        entry.custom_id,
        entry.run,
        json_of(entry.tags),
        entry.service_tier,
        int(entry.batch),
        entry.created_us,
        entry.closed_us,
        column_of(entry.estimate),
        column_of(entry.worst),
        column_of(entry.cost),
        amounts_of(entry.components),
        entry.row_id,
        entry.table_version,
        json_of(entry.usage),
        int(entry.exact),
        entry.why,
        entry.request_id,
        entry.asked_model,
        entry.asked_tier,
        entry.effort,
        entry.attempt,
        entry.wait_us,
        entry.latency_us,
        json_of(entry.expected),
    )


def ending_of(closing: Closing, entry_id: int) -> tuple[Any, ...]:
    """The values of the statement that ends an entry."""
    return (
        closing.state,
        closing.closed_us,
        closing.response_id,
        closing.model,
        closing.service_tier,
        column_of(closing.cost),
        amounts_of(closing.components),
        closing.row_id,
        closing.table_version,
        json_of(closing.usage),
        int(closing.exact),
        closing.why,
        closing.request_id,
        closing.latency_us,
        entry_id,
    )


encode = json.JSONEncoder().encode
"""dumps() looks at its options first, every time."""


def json_of(mapping: Any) -> str:
    return encode(mapping) if mapping else "{}"


def amounts_of(components: Any) -> str:
    return encode({name: amount.pico for name, amount in components.items()}) if components else "{}"


def column_of(amount: Usd | None) -> int | None:
    return None if amount is None else amount.pico


def usd_of(pico: int | None) -> Usd | None:
    return None if pico is None else Usd(pico)
