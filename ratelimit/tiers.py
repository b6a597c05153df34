"""Usage tiers as data/tiers.yaml states them: dated schemes, limits per model and tier, how admission is charged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from os import PathLike
from types import MappingProxyType
from typing import NamedTuple

from pricing._yaml import Node, read_table
from pricing.cards import CardTable, Source, load_cards, read_model, read_source, read_sources, read_version
from pricing.resources import data_path

from .errors import ConfigError, NotOffered
from .limit import KNOWN, Limit, named

POLICIES = ("observed", "documented", "conservative")
BASES = ("utf8_bytes_div_4_ceil", "utf8_bytes_div_4_floor", "chars_div_4_ceil", "input_tokens")
ADMISSION_ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/completions")


class Tier(NamedTuple):
    """How an account gets into a tier, and what it may spend there per month (US dollars)."""

    qualification: str
    usd_per_month: int


@dataclass(frozen=True, slots=True, eq=False)
class Scheme:
    """A set of tiers that was in force from one day to another (inclusive; None: open)."""

    name: str
    effective_from: date | None
    effective_until: date | None
    tiers: Mapping[str, Tier]
    source: Source


class Constant(NamedTuple):
    """What is added to exact input tokens for some model families."""

    families: tuple[str, ...]
    without_tools: int
    with_tools: int
    assumed: bool


@dataclass(frozen=True, slots=True, eq=False)
class AdmissionRule:
    """One dated formula of data/tiers.yaml `admission`; ratelimit.demand applies it. Hashed by identity, as a key."""

    endpoint: str
    effective_from: date
    effective_until: date | None
    base: str
    per_message: int
    per_choice: int
    per_image: int
    max_tokens: str
    default_max_tokens: int
    constants: tuple[Constant, ...]
    refund: bool
    source: Source


class _Row(NamedTuple):
    limits: tuple[Limit, ...]
    batch_queue_tokens: int | None
    source: Source


class TierTable:
    """One loaded table of tiers."""

    def __init__(
        self,
        schemes: tuple[Scheme, ...],
        rows: Mapping[tuple[str, str], _Row | None],
        rules: Mapping[tuple[str, str], tuple[AdmissionRule, ...]],
    ) -> None:
        self.schemes = schemes
        self._rows = rows
        self._rules = rules

    def scheme_of(self, tier: str) -> Scheme:
        """Find the scheme a tier belongs to, the newest first. Raises ConfigError for a tier no scheme has."""
        for scheme in reversed(self.schemes):
            if tier in scheme.tiers:
                return scheme
        known = ", ".join(dict.fromkeys(name for scheme in self.schemes for name in scheme.tiers))
        raise ConfigError(f"unknown tier {tier!r}; known: {known}")

    def models(self) -> tuple[str, ...]:
        """The models the table has limits for, in its order."""
        return tuple(dict.fromkeys(model for model, _ in self._rows))

    def limits(self, model: str, tier: str) -> tuple[Limit, ...]:
        """The limits of a model in a tier.

        Raises  NotOffered when the tier does not include the model; ConfigError when no limits are published for it
        """
        return self._row(model, tier).limits

    def batch_queue_tokens(self, model: str, tier: str) -> int | None:
        """How many input tokens may be enqueued in the Batch API; None when not published. Raises as `limits` does."""
        return self._row(model, tier).batch_queue_tokens

    def source(self, model: str, tier: str) -> Source:
        """Where the limits of a model in a tier were read, and when. Raises as `limits` does."""
        return self._row(model, tier).source

    def pool(self, model: str, tier: str) -> str:
        """The name under which a model's limits are counted: its own, until a table row shares a pool."""
        return model

    def rule(self, policy: str, endpoint: str, at: date) -> AdmissionRule | None:
        """The admission formula of a policy for an endpoint on a day; None when there is none."""
        for rule in self._rules.get((policy, endpoint), ()):
            if rule.effective_from <= at and (rule.effective_until is None or at <= rule.effective_until):
                return rule
        return None

    def _row(self, model: str, tier: str) -> _Row:
        self.scheme_of(tier)
        try:
            row = self._rows[model, tier]
        except KeyError:
            there = ", ".join(name for of, name in self._rows if of == model and self._rows[of, name] is not None)
            where = f"only in {there}" if there else "nor in any other tier"
            raise ConfigError(
                f"no limits are published for {model} in {tier}, {where}; "
                f'give your own: limits={{"{model}": {{"rpm": …, "tpm": …}}}}, or --rpm and --tpm'
            ) from None
        if row is None:
            raise NotOffered(f"{model} is not supported in the {tier} tier")
        return row


def load_tiers(path: str | PathLike[str] | None = None) -> TierTable:
    """Load the shipped tiers (once), or another table.

    Raises  TableError with file, line and key when the table is wrong
    """
    return _shipped() if path is None else _load(path)


@lru_cache(maxsize=1)
def _shipped() -> TierTable:
    return _load(data_path("tiers.yaml"))


def _load(path: str | PathLike[str]) -> TierTable:
    root = read_table(path).mapping(required=("version", "sources", "schemes", "limits", "admission"))
    read_version(root["version"])
    sources = read_sources(root["sources"])
    schemes = _schemes(root["schemes"], sources)
    rows: dict[tuple[str, str], _Row | None] = {}
    cards = load_cards()
    for node in root["limits"].items():
        _limits(node, sources, schemes, cards, rows)
    rules: dict[tuple[str, str], tuple[AdmissionRule, ...]] = {}
    for policy, node in root["admission"].mapping(required=POLICIES).items():
        for item in node.items():
            rule = _rule(item, sources)
            key = (policy, rule.endpoint)
            for other in rules.get(key, ()):
                if _overlap(rule, other):
                    item.fail(f"overlaps the rule for {rule.endpoint} from {other.effective_from}")
            rules[key] = (*rules.get(key, ()), rule)
    return TierTable(schemes, MappingProxyType(rows), MappingProxyType(rules))


def _overlap(one: AdmissionRule, other: AdmissionRule) -> bool:
    first, second = sorted((one, other), key=lambda rule: rule.effective_from)
    return first.effective_until is None or first.effective_until >= second.effective_from


def _schemes(node: Node, sources: Mapping[str, Source]) -> tuple[Scheme, ...]:
    schemes: list[Scheme] = []
    for item in node.items():
        fields = item.mapping(required=("name", "source", "tiers"), optional=("effective_from", "effective_until"))
        start = fields["effective_from"].date() if "effective_from" in fields else None
        until = fields["effective_until"].date() if "effective_until" in fields else None
        name = fields["name"].text()
        if any(scheme.name == name for scheme in schemes):
            fields["name"].fail(f"duplicate scheme {name!r}")
        if start is not None and until is not None and until < start:
            fields["effective_until"].fail(f"expected a day from {start} on, found {until}")
        if schemes:
            before = schemes[-1].effective_until
            if before is None or start is None or start <= before:
                item.fail(f"schemes go from old to new: expected effective_from after {before}, found {start}")
        tiers = {}
        for tier, row in fields["tiers"].entries().items():
            facts = row.mapping(required=("qualification", "usd_per_month"))
            tiers[tier] = Tier(facts["qualification"].text(), facts["usd_per_month"].integer())
        schemes.append(Scheme(name, start, until, MappingProxyType(tiers), read_source(fields["source"], sources)))
    if not schemes:
        node.fail("expected at least one scheme")
    return tuple(schemes)


def _limits(
    node: Node,
    sources: Mapping[str, Source],
    schemes: tuple[Scheme, ...],
    cards: CardTable,
    rows: dict[tuple[str, str], _Row | None],
) -> None:
    fields = node.mapping(required=("model", "scheme", "source", "tiers"))
    model = read_model(fields["model"], cards)
    names = [scheme.name for scheme in schemes]
    scheme = schemes[names.index(fields["scheme"].text(names))]
    source = read_source(fields["source"], sources)
    for tier, row in fields["tiers"].entries().items():
        if tier not in scheme.tiers:
            other = next((f"; {tier} is in {each.name}" for each in schemes if tier in each.tiers), "")
            known = ", ".join(scheme.tiers)
            row.fail(f"unknown tier {tier!r} in scheme {scheme.name}; its tiers are {known}{other}")
        if (model, tier) in rows:
            row.fail(f"{model} has limits in {tier} already")
        facts = row.mapping(optional=("supported", "batch_queue_tokens", *KNOWN))
        if "supported" in facts:
            if facts["supported"].boolean() or len(facts) > 1:
                row.fail("supported: false stands alone; a supported model has limits instead")
            rows[model, tier] = None
            continue
        limits = tuple(named(name, facts[name].integer(1)) for name in KNOWN if name in facts)
        if not limits:
            row.fail(f"expected at least one of {', '.join(KNOWN)}")
        queue = facts["batch_queue_tokens"].integer(1) if "batch_queue_tokens" in facts else None
        rows[model, tier] = _Row(limits, queue, source)


def _rule(node: Node, sources: Mapping[str, Source]) -> AdmissionRule:
    fields = node.mapping(
        required=("endpoint", "effective_from", "base", "max_tokens", "source"),
        optional=(
            "effective_until",
            "per_message",
            "per_choice",
            "per_image",
            "default_max_tokens",
            "constants",
            "refund",
        ),
    )
    start = fields["effective_from"].date()
    until = fields["effective_until"].date() if "effective_until" in fields else None
    if until is not None and until < start:
        fields["effective_until"].fail(f"expected a day from {start} on, found {until}")
    numbers = {
        key: fields[key].integer() if key in fields else 0
        for key in ("per_message", "per_choice", "per_image", "default_max_tokens")
    }
    base = fields["base"].text(BASES)
    constants: list[Constant] = []
    for item in fields["constants"].items() if "constants" in fields else ():
        facts = item.mapping(required=("families", "without_tools", "with_tools"), optional=("assumed",))
        constants.append(
            Constant(
                facts["families"].texts(),
                facts["without_tools"].integer(),
                facts["with_tools"].integer(),
                "assumed" in facts and facts["assumed"].boolean(),
            )
        )
    if constants and base != "input_tokens":
        fields["constants"].fail("constants belong to base: input_tokens")
    return AdmissionRule(
        fields["endpoint"].text(ADMISSION_ENDPOINTS),
        start,
        until,
        base,
        numbers["per_message"],
        numbers["per_choice"],
        numbers["per_image"],
        fields["max_tokens"].text(("ignore", "add", "max")),
        numbers["default_max_tokens"],
        tuple(constants),
        "refund" in fields and fields["refund"].boolean(),
        read_source(fields["source"], sources),
    )
