"""What a gate's config says: read exactly, and what is wrong is told with line and key."""

from __future__ import annotations

from datetime import date
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.errors import ConfigError, TableError
from pricing.gate.metrics import METRICS, read_amount, shown
from pricing.gate.rules import Config, Override, Source, load_gate, read_rule

GATE = """
gate:
  baseline: .costs/baseline.json
  tier: tier_1
  at: 2026-11-25
  sources:
    - jobs/*.jsonl
    - {path: day.csv, model: o3}
    - {path: costs.db, by: "tag:team"}
  rules:
    - {metric: cost.p95, max: 20 USD}
    - metric: cost.expected
      select: ["jobs/*", "day.csv"]
      ignore: jobs/draft-*
      max_increase: 5%
      max_decrease: 1_000.50
      min_change: "0.01"
      level: warn
      message: ask the platform team
    - {metric: requests, max: 5, level: off}
    - {name: long, metric: duration.p95, max: 2h}
  on_unpriced: warn
  on_missing_baseline: fail
  on_stale_prices: {older_than: 45d, level: fail}
  overrides:
    - {rule: cost.p95, select: "jobs/*", reason: a new judge, until: 2026-12-31}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "ratecard.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_gate_is_read_as_it_is_written(tmp_path: Path) -> None:
    """Every key, exactly: no number passes through a float, and a rule that is off is none."""
    gate = load_gate(write(tmp_path, GATE))
    first, second, third = gate.rules
    assert (first.name, first.largest, first.level, first.line) == ("cost.p95 ≤ $20.00", 20 * 10**12, "fail", 11)
    assert (second.increase, second.decrease, second.least) == (Fraction(1, 20), 1_000_500 * 10**9, 10**10)
    assert (second.select, second.ignore, second.level) == (("jobs/*", "day.csv"), ("jobs/draft-*",), "warn")
    assert (third.name, third.largest) == ("long", 7_200 * 10**6)
    assert gate.sources == (
        Source("jobs/*.jsonl", line=7), Source("day.csv", "o3", line=8), Source("costs.db", by="tag:team", line=9),
    )  # fmt: skip
    assert gate.overrides == (Override("cost.p95", "a new judge", date(2026, 12, 31), ("jobs/*",), 26),)
    assert (gate.unpriced, gate.missing, gate.stale_days, gate.stale) == ("warn", "fail", 45, "fail")
    assert gate.settings == {"tier": "tier_1", "at": "2026-11-25"}
    assert second.is_for("jobs/a.jsonl")
    assert not second.is_for("jobs/draft-a.jsonl")
    assert not second.is_for("other.jsonl")


def test_an_empty_gate_fails_on_what_has_no_price(tmp_path: Path) -> None:
    """What is not said is safe: requests without a price fail, old prices and missing baselines warn."""
    assert load_gate(write(tmp_path, "gate: {}"))._replace(file="") == Config()
    assert (Config().unpriced, Config().missing, Config().stale) == ("fail", "warn", "warn")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("rules: [{metric: cots.p95, max: 1}]", "2: gate.rules[0].metric: unknown metric 'cots.p95'; did you"),
        ("rules: [{metric: cost.p95, max: 2,50}]", "2: gate.rules[0].50: unknown key '50'"),
        ('rules: [{metric: cost.p95, max: "2,50"}]', "2: gate.rules[0].max: not an amount of dollars: '2,50'"),
        ("rules: [{metric: cost.p95, max: -1}]", "2: gate.rules[0].max: '-1' is less than nothing"),
        ("rules: [{metric: duration.p95, max: 2x}]", "2: gate.rules[0].max: '2x' is not a duration such as 90s"),
        ("rules: [{metric: requests, max: 1.5}]", "2: gate.rules[0].max: '1.5' is not a number such as 500"),
        ("rules: [{metric: cost}]", "2: gate.rules[0]: a rule says what is allowed: max, max_increase or max_decrease"),
        ("rules: [{metric: cost, max: 1, min_change: 1}]", "2: gate.rules[0].min_change: is about changes"),
        ("rules: [{metric: cost, max: 1, level: error}]", "2: gate.rules[0].level: expected one of off, warn, fail"),
        ("rules: [{metric: cost, mx: 1}]", "2: gate.rules[0].mx: unknown key 'mx'; did you mean 'max'?"),
        ("rules:\n    - {metric: cost, max: 1}\n    - {metric: cost, max: 1.00}", "4: gate.rules[1]: the rule of line"),
        ("on_unpriced: pass", "2: gate.on_unpriced: expected one of fail, warn, ignore, found 'pass'"),
        ("on_stale_prices: {older_than: 6 weeks}", "2: gate.on_stale_prices.older_than: expected a number of days"),
        ("overrides: [{rule: cost, until: 2026-12-31}]", "2: gate.overrides[0]: missing key 'reason'"),
        ("overrides: [{rule: mine, reason: x, until: 2026-12-31}]", "2: gate.overrides[0].rule: no rule is named"),
        ("overrides: [{rule: cost.p50, reason: x, until: soon}]", "2: gate.overrides[0].until: expected a date"),
        ("sources: [{path: x, kind: job}]", "2: gate.sources[0].kind: unknown key 'kind'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_line_and_key(tmp_path: Path, body: str, words: str) -> None:
    """One message, for whoever has to mend it."""
    path = write(tmp_path, f"gate:\n  {body}\n")
    with pytest.raises(TableError) as error:
        load_gate(path)
    assert str(error.value).startswith(f"{path}:{words}")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cost.p95>20", "cost.p95 ≤ $20.00"),
        ("cost > $1,234.50", "cost.p50 ≤ $1,234.50"),
        ("cost.p50:+5%", "cost.p50 +5% at most"),
        ("cost.p50:-12.5%", "cost.p50 -12.5% at most"),
        ("cost[jobs/*, x]:+0.40", "cost.p50 +$0.40 at most [jobs/*, x]"),
        ("tokens>1.5m", "tokens.p50 ≤ 1,500,000 tokens"),
        ("duration.p95>90s", "duration.p95 ≤ 1:30 min"),
        ("unpriced>0", "unpriced ≤ 0"),
    ],
)
def test_rules_in_short(text: str, name: str) -> None:
    """What the command line takes is the same rule, under a name that can be read."""
    assert read_rule(text).name == name


@pytest.mark.parametrize(
    "text", ["", "cost", "cost>", "cost=5", "cost:5%", "cost>5 apples", "x>1", "cost:+-5%", "cost>-1"]
)
def test_what_is_no_rule_in_short_is_refused(text: str) -> None:
    """A clear message, and no rule that means something else."""
    with pytest.raises(ConfigError):
        read_rule(text)


@given(st.sampled_from(sorted(METRICS)), st.integers(0, 10**15))
def test_amounts_are_exact(name: str, number: int) -> None:
    """A number in the metric's own unit comes back as it is, and printing one never fails."""
    unit = METRICS[name].unit
    text = {"USD": f"{number // 10**12}.{number % 10**12:012d}", "s": f"{number // 10**6}.{number % 10**6:06d}s"}
    assert read_amount(text.get(unit, f"{number:,}"), unit) == number
    assert shown(number, unit)
