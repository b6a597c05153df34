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
from pricing.cards import Source, load_cards, read_source, read_sources, read_version
from pricing.resources import data_path

from .errors import ConfigError, NotOffered
from .limit import Limit
from .tier_rows import Part, Row, Rows, Scheme, read_limits, read_schemes

POLICIES = ("observed", "documented", "conservative")
BASES = ("utf8_bytes_div_4_ceil", "utf8_bytes_div_4_floor", "chars_div_4_ceil", "input_tokens")
ADMISSION_ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/completions")


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


class TierTable:
    """One loaded table of tiers."""

    def __init__(
        self,
        schemes: tuple[Scheme, ...],
        rows: Mapping[tuple[str, str], Row],
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

        Where two schemes have a tier of this name, the newer one that speaks of the model counts.

        Raises  NotOffered when the tier does not include the model; ConfigError when no limits are published for it
        """
        return self._row(model, tier).limits

    def parts(self, model: str, tier: str) -> tuple[Part, ...]:
        """The separate pools of a model in a tier: long context, service tiers. Raises as `limits` does."""
        return self._row(model, tier).parts

    def batch_queue_tokens(self, model: str, tier: str) -> int | None:
        """How many input tokens may be enqueued in the Batch API; None when not published. Raises as `limits` does."""
        return self._row(model, tier).batch_queue_tokens

    def sources(self, model: str, tier: str) -> tuple[Source, ...]:
        """Where the limits of a model in a tier were read, and when. Raises as `limits` does."""
        return self._row(model, tier).sources

    def notes(self, model: str, tier: str) -> tuple[str, ...]:
        """What a reader should know about these limits. Raises as `limits` does."""
        return self._row(model, tier).notes

    def scheme(self, model: str, tier: str) -> Scheme:
        """The scheme that these limits belong to. Raises as `limits` does."""
        return self._row(model, tier).scheme

    def pool(self, model: str, tier: str) -> str:
        """The model under whose name a model's limits are counted: its own, unless a row says that it shares."""
        row = self._rows.get((model, tier))
        return row.shares if row is not None and row.shares else model

    def rule(self, policy: str, endpoint: str, at: date) -> AdmissionRule | None:
        """The admission formula of a policy for an endpoint on a day; None when there is none."""
        for rule in self._rules.get((policy, endpoint), ()):
            if rule.effective_from <= at and (rule.effective_until is None or at <= rule.effective_until):
                return rule
        return None

    def _row(self, model: str, tier: str) -> Row:
        self.scheme_of(tier)
        row = self._rows.get((model, tier))
        if row is None:
            there = ", ".join(name for (of, name), known in self._rows.items() if of == model and known.offered)
            where = f"only in {there}" if there else "nor in any other tier"
            raise ConfigError(
                f"no limits are published for {model} in {tier}, {where}; "
                f'give your own: limits={{"{model}": {{"rpm": …, "tpm": …}}}}, or --rpm and --tpm'
            )
        if not row.offered:
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
    schemes = read_schemes(root["schemes"], sources)
    rows: Rows = {}
    cards = load_cards()
    for node in root["limits"].items():
        read_limits(node, sources, schemes, cards, rows)
    newest: dict[tuple[str, str], Row] = {}
    for scheme in schemes:
        newest.update({(model, tier): row for (model, of, tier), row in rows.items() if of == scheme.name})
    rules: dict[tuple[str, str], tuple[AdmissionRule, ...]] = {}
    for policy, node in root["admission"].mapping(required=POLICIES).items():
        for item in node.items():
            rule = _rule(item, sources)
            key = (policy, rule.endpoint)
            for other in rules.get(key, ()):
                if _overlap(rule, other):
                    item.fail(f"overlaps the rule for {rule.endpoint} from {other.effective_from}")
            rules[key] = (*rules.get(key, ()), rule)
    return TierTable(schemes, MappingProxyType(newest), MappingProxyType(rules))


def _overlap(one: AdmissionRule, other: AdmissionRule) -> bool:
    first, second = sorted((one, other), key=lambda rule: rule.effective_from)
    return first.effective_until is None or first.effective_until >= second.effective_from


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
