"""What tests of gates share: reports and verdicts in a line or two, and names that nobody should trust."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from hypothesis import strategies as st

from pricing.gate.judge import Verdict, judge
from pricing.gate.report import TOTAL, Cell, Group, Header, Part, Report, Span
from pricing.gate.rules import FAIL, WARN, Config, Override, read_rule
from pricing.money import Usd

from . import builders
from .builders import header, ranged

HEADER = header("2026-12-01", "sha256:0123456789abcdef", seed="1")


def cell(
    dollars: str | int = 1, *, model: str = "o3", tier: str = "standard", requests: int = 10,
    tokens: tuple[int, int] = (1_000, 500), read: str = "2026-11-20",
) -> Cell:  # fmt: skip
    """Requests of a model that cost so much together, a quarter of it for their input."""
    pico = Usd.parse(dollars).pico
    parts = {"input": Part(tokens[0], pico // 4), "output": Part(tokens[1], pico - pico // 4)}
    return Cell(model, tier, False, requests, parts, read)


def group(name: str, *some: Cell, known: bool = False, **more: Any) -> Group:
    """A group of these cells; its cost is known, or nine tenths to eleven tenths of what is expected."""
    expected = sum(one.pico for one in some)
    cost = ranged(expected, 0 if known else expected // 10) if some else None
    return builders.group(name, tuple(sorted(some, key=lambda one: one.key)), **{"cost": cost, **more})


def report(*groups: Group, header: Header = HEADER) -> Report:
    """A report of these groups."""
    found = builders.report(*sorted(groups, key=lambda one: one.name), head=header)
    whole = group(TOTAL, *found.total.cells)
    return found._replace(total=found.total._replace(cost=whole.cost))


def verdict(
    now: Report, before: Report | None = None, fail: Sequence[str] = (), warn: Sequence[str] = (),
    message: str = "", **settings: Any,
) -> Verdict:  # fmt: skip
    """Judge a report by rules in short, which stand on the lines 3, 4, … of ratecard.yaml."""
    rules = [read_rule(text, level) for level, texts in ((FAIL, fail), (WARN, warn)) for text in texts]
    lined = tuple(rule._replace(line=line, message=message) for line, rule in enumerate(rules, 3))
    return judge(now, before, Config(rules=lined, **{"file": "ratecard.yaml", **settings}))


def example() -> Verdict:
    """A verdict with something of everything."""
    old = report(
        group("jobs/nightly.jsonl", cell("6.1", model="o3-mini"), cell("4.1", model="o3", requests=20)),
        group("jobs/gone.jsonl", cell("0.5")),
        group("jobs/same.jsonl", cell("0.25"), known=True),
        header=HEADER._replace(prices="sha256:00ff00ff00ff00ff", at="2026-11-01", settings={"seed": "2"}),
    )
    new = report(
        group(
            "jobs/nightly.jsonl", cell("8.02", model="o3-pro"),
            cell("4.39", model="o3", requests=20, tokens=(1_310, 500)),
            duration=Span(60 * 10**6, 90 * 10**6, 3_600 * 10**6),
        ),
        group("jobs/new.jsonl", cell("1.5"), unpriced={"no price of gpt-x": 3}, bad=1),
        group("jobs/same.jsonl", cell("0.25"), known=True),
        group("jobs/unknown.jsonl", unpriced={"no price of gpt-x": 2}),
    )  # fmt: skip
    return verdict(
        new, old,
        fail=["cost.p95>2", "cost.expected:+5%", "cost[jobs/same*]:+10%", "duration.p95>2h", "requests>100"],
        warn=["tokens.input[jobs/*]:+10%", "cost.worst>1"],
        message="ask #costs before raising this",
        overrides=(
            Override("cost.p95", "the new judge", date(2026, 12, 31), line=20),
            Override("cost.worst", "long ago", date(2026, 1, 31), line=21),
            Override("requests", "in case", date(2027, 1, 31), ("jobs/*",), 22),
        ),
    )  # fmt: skip


HOSTILE = (
    "plain.jsonl", "jobs/a b.jsonl", "`a`", "``", "a|b", "a\\|b", "\\", "|", "||a", " `x ", "<script>alert(1)</script>",
    "](http://evil.example)", "![x](http://evil.example/x.png)", "[x]: http://evil.example", "http://evil.example",
    "www.evil.example", "evil.example", "mail@evil.example", "@team", "@org/team", "#123", "org/repo#1", "GH-1",
    "0123456789abcdef0123456789abcdef01234567", ":tada:", "$x$", "**b**", "_e_", "~~s~~", "&lt;b&gt;", "&#64;team",
    "<!-- x", "-->", "</details>", "a\nb", "a\r\n::error::x", "::error::x", "::set-output name=a::b", "##[error]x",
    "##vso[task.setvariable variable=a]b", "\x1b[31mred", "\x00", "\x07", "‮evil", "⁦x", "\ud800", "\uffff", "a%0Ab",
    "a,b:c", "a;b]c", "a\u2028b", "\u200bx", "", " ", "'", '"', '"}', "]]>", "&", "=1+1", "é", "漢字", "٣", "total",
    "- [ ] x", "# h", "> q", "1. x", "    x", "---", "===", "/close", "a" * 500, "|" * 300, "`" * 300, "<" * 300,
)  # fmt: skip
"""Names that a file, a tag or a model may have, and that mean something somewhere."""


@st.composite
def words(draw: st.DrawFn) -> str:
    """A name made of hostile pieces, or of any characters."""
    pieces = st.sampled_from(HOSTILE) | st.text(max_size=8) | st.sampled_from(list("`|\\<>[]()!@#*_~&:;,.\n\r %$/-"))
    return draw(st.sampled_from(["", " "])).join(draw(st.lists(pieces, min_size=1, max_size=6)))


@st.composite
def verdicts(draw: st.DrawFn) -> Verdict:
    """A verdict in which every word that may come from elsewhere is hostile."""
    names = draw(st.lists(words(), min_size=1, max_size=4, unique=True).filter(lambda found: TOTAL not in found))
    sizes = st.integers(0, 9)

    def one(name: str) -> Group:
        missing = {draw(words()): draw(st.integers(1, 3))} if draw(st.booleans()) else {}
        cells = [cell(draw(sizes), model=draw(words()))] if draw(st.booleans()) else []
        return group(name, *cells, unpriced=missing, bad=draw(st.integers(0, 1)))

    header = HEADER._replace(account=draw(words()), prices=draw(words()), settings={"region": draw(words())})
    now = report(*(one(name) for name in names), header=header)
    before = report(*(one(name) for name in names[1:])) if draw(st.booleans()) else None
    overrides = [Override("cost.p50", draw(words()), date(2027, 1, 1), (draw(words()),))] if draw(st.booleans()) else []
    found = verdict(
        now, before, fail=["cost>2", "cost[*]:+5%"], warn=["tokens.input[*]>10"],
        message=draw(words()), overrides=tuple(overrides), file=draw(words()),
    )  # fmt: skip
    renamed = tuple(check._replace(rule=check.rule._replace(name=draw(words()))) for check in found.checks)
    return found._replace(checks=renamed)
