"""Costs over time, as github-action-benchmark takes them (customSmallerIsBetter): a median and its interval.

A group without any price has no number, and is left out; one with some says how many are missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from ..judge import Verdict
from ..report import Group
from ._text import dollars, visible


def render(verdict: Verdict) -> str:
    """Write the whole and the groups as a JSON list; the numbers are exact decimals."""
    report = verdict.report
    items = [item for group in (report.total, *report.groups) for item in _item(group)]
    return "[\n" + ",\n".join(items) + "\n]\n" if items else "[]\n"


def _item(group: Group) -> Iterator[str]:
    cost = group.cost
    if cost is None:
        return
    missing = f", {group.without_price:,} of them without a price and in no sum" if group.without_price else ""
    count = f"{group.requests + group.bad:,} requests{missing}"
    extra = f"expected {dollars(cost.expected)}, at worst {dollars(cost.worst)}; {count}"
    texts = {
        "name": f"cost of {_plain(group.name)}",
        "unit": "USD",
        "value": dollars(cost.p50),
        "range": f"{dollars(cost.p5)}–{dollars(cost.p95)}",
        "extra": extra,
    }
    # By hand, because json would make a float of the number.
    pairs = (f'"{key}": {text if key == "value" else json.dumps(text)}' for key, text in texts.items())
    yield f"  {{{', '.join(pairs)}}}"


def _plain(name: str) -> str:
    """The action's alerts put names into code spans of tables."""
    return visible(name).replace("`", "\\x60").replace("|", "\\x7c")
