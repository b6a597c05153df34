"""Reports for tests: drawn by Hypothesis, or made of a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from pricing.gate.report import TOTAL, Cell, Group, Header, Part, Range, Report, Span, cells_of

names = st.sampled_from(["a.jsonl", "b/c.jsonl", "costs.db: search", "ü | `x`"])
parts = st.dictionaries(
    st.sampled_from(["input", "cached_input", "output", "web_search_calls"]),
    st.builds(Part, st.integers(1, 10**7), st.integers(0, 10**14)),
    max_size=4,
)
cells = st.lists(
    st.builds(
        Cell, st.sampled_from(["o3", "o3-pro"]), st.sampled_from(["standard", "batch"]), st.booleans(),
        st.integers(1, 10**4), parts, st.sampled_from(["", "2026", "2026-07", "2026-11-22"]),
    ),
    max_size=4, unique_by=lambda cell: cell.key,
).map(tuple)  # fmt: skip
unpriced = st.dictionaries(st.sampled_from(["no price is known", "retired"]), st.integers(1, 99), max_size=2)
spans = st.none() | st.lists(st.integers(0, 10**11), min_size=3, max_size=3).map(lambda three: Span(*sorted(three)))


def header(at: str = "2026-11-25", prices: str = "aaa", **more: str) -> Header:
    return Header("0.1.0", at, prices, "ttt", "tier_1", more)


def ranged(expected: int, spread: int = 0) -> Range:
    return Range(expected, max(0, expected - spread), expected, expected + spread, expected + 3 * spread)


def group(name: str = "a.jsonl", some: tuple[Cell, ...] = (), **more: Any) -> Group:
    """A group of these cells; its other numbers follow from them unless they are told."""
    requests = sum(cell.requests for cell in some)
    gaps: Mapping[str, int] = more.pop("unpriced", {})
    input_ = sum(cell.parts["input"].quantity for cell in some if "input" in cell.parts)
    output = sum(cell.parts["output"].quantity for cell in some if "output" in cell.parts)
    facts: dict[str, Any] = {
        "kind": "job", "requests": requests + sum(gaps.values()), "unpriced": gaps, "bad": 0, "input": input_,
        "output": ranged(output), "cost": ranged(sum(cell.pico for cell in some)) if some else None,
        "duration": None, "why_unknown": "no tier is given",
    }  # fmt: skip
    return Group(name, **{**facts, **more}, cells=some)


def report(*groups: Group, head: Header | None = None) -> Report:
    """A report of these groups."""
    gaps: dict[str, int] = {}
    for one in groups:
        for reason, count in one.unpriced.items():
            gaps[reason] = gaps.get(reason, 0) + count
    durations = {one.duration for one in groups}
    total = group(
        TOTAL, cells_of(groups), unpriced=gaps, bad=sum(one.bad for one in groups),
        input=sum(one.input for one in groups), duration=durations.pop() if len(durations) == 1 else None,
    )  # fmt: skip
    return Report(head or header(), groups, total)


groups = st.builds(lambda name, some, gaps, span: group(name, some, unpriced=gaps, duration=span, why_unknown=""),
                   names, cells, unpriced, spans)  # fmt: skip
reports = st.builds(
    lambda some, at, prices: report(*some, head=header(at, prices)),
    st.lists(groups, max_size=4, unique_by=lambda one: one.name),
    st.sampled_from(["2026-11-25", "2027-03-01"]),
    st.sampled_from(["aaa", "bbb"]),
)
