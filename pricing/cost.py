"""The cost of a call: a usage times a dated price row, exactly; or the reason why it has no price.

What was served is priced (the reply's model and tier), not what was asked for. `Unpriced` is a value with a reason:
it is falsy, it has no total, and it can never be added up as $0.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import ConfigError, UnpricedError
from .money import Usd
from .usage import FIELDS, Usage

if TYPE_CHECKING:
    from .prices import PriceRow, PriceTable


class Cost:
    """What a call cost.

    total          Usd, the sum of the components
    components     "input" | "cached_input" | "output" → Usd
    row_id         the price row ("o3-pro/standard/2025-06-10"); table_version names the table's content
    notes          what a reader should know: cached tokens at the full price, contradictions in the usage
    """

    __slots__ = ("components", "model", "notes", "row_id", "service_tier", "table_version", "total")

    priced = True

    def __init__(
        self,
        total: Usd,
        components: dict[str, Usd],
        row: PriceRow,
        table_version: str,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.total = total
        self.components = components
        self.row_id = row.id
        self.model = row.model
        self.service_tier = row.service_tier
        self.table_version = table_version
        self.notes = notes

    def __repr__(self) -> str:
        return f"Cost({self.total} USD, {self.row_id})"


class Unpriced:
    """No price is known for a call, and why. Falsy; asking for its total raises UnpricedError."""

    __slots__ = ("model", "reason")

    priced = False

    def __init__(self, reason: str, model: str = "") -> None:
        self.reason = reason
        self.model = model

    @property
    def total(self) -> NoReturn:
        raise UnpricedError(self.reason)

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"Unpriced({self.reason!r})"


def cost(
    usage: Usage | Mapping[str, Any] | None,
    *,
    model: str,
    service_tier: str | None = None,
    batch: bool = False,
    at: date | None = None,
    prices: PriceTable | None = None,
    strict: bool = False,
) -> Cost | Unpriced:
    """Price one call.

    usage         a Usage, or the usage object of a reply: as it came, or as the SDK gives it
    model         as served: a model, alias or snapshot
    service_tier  as served: None, "default" and "auto" are standard; "fast" is priority
    batch         the call came out of the Batch API (its replies do not say so themselves)
    at            the day, or the instant, of the call: prices are those of that day; now unless told
    strict        raise UnpricedError instead of returning Unpriced
    →  Cost, or Unpriced with the reason
    """
    answer = _cost(usage, model, "batch" if batch else service_tier, at, prices)
    if strict and isinstance(answer, Unpriced):
        raise UnpricedError(answer.reason)
    return answer


def _cost(
    usage: Usage | Mapping[str, Any] | None,
    model: str,
    service_tier: str | None,
    at: date | None,
    prices: PriceTable | None,
) -> Cost | Unpriced:
    if usage is None:
        return Unpriced("the reply carried no usage", model)
    if hasattr(usage, "model_dump"):  # the SDK's own object
        usage = usage.model_dump()
    if not isinstance(usage, Usage):
        if not isinstance(usage, Mapping):
            raise ConfigError(f"usage is a Usage or a reply's usage object, not {type(usage).__name__}")
        read = Usage(**{key: usage[key] for key in FIELDS}) if _is_record(usage) else Usage.from_response(usage)
        if read is None:
            return Unpriced("the usage object states no token counts that can be read", model)
        usage = read
    if prices is None:
        from .prices import load_prices

        prices = load_prices()
    row = price_row(model, service_tier, at, prices)
    if isinstance(row, Unpriced):
        return row
    rates = row.pico_per_token
    notes = usage.notes
    components: dict[str, Usd] = {}
    fresh = usage.input_tokens
    if usage.cached_input_tokens:
        rate = rates.get("cached_input")
        if rate is None:
            if not row.cached_as_input:
                return Unpriced(f"{row.id} has no price for cached input tokens", model)
            rate = rates["input"]
            notes = (*notes, f"{usage.cached_input_tokens} cached tokens at the full input price: none is published")
        components["cached_input"] = Usd(usage.cached_input_tokens * rate)
    if usage.cache_write_tokens:
        return Unpriced(f"{row.id} has no price for cache writes", model)
    components["input"] = Usd(fresh * rates["input"])
    produced = usage.output_tokens + usage.reasoning_tokens
    if produced:
        rate = rates.get("output")
        if rate is None:
            return Unpriced(f"{row.id} has no price for output tokens", model)
        components["output"] = Usd(produced * rate)
    return Cost(Usd(sum(part.pico for part in components.values())), components, row, prices.version, notes)


def price_row(model: str, service_tier: str | None, at: date | None, prices: PriceTable) -> PriceRow | Unpriced:
    """Find the row that prices a call of this day (now unless told), or say why there is none."""
    if at is None:
        at = datetime.now(UTC)
    if isinstance(at, datetime):
        at = (at.astimezone(UTC) if at.tzinfo else at).date()
    row = prices.lookup(model, service_tier, at)
    return row if row is not None else Unpriced(_why(model, service_tier, at, prices), model)


def _is_record(usage: Mapping[str, Any]) -> bool:
    """Tell a Usage's own dictionary (all of our names, whole numbers) from a reply's usage object."""
    return all(type(usage.get(key)) is int and usage[key] >= 0 for key in FIELDS)


def _why(model: str, service_tier: str | None, at: date, prices: PriceTable) -> str:
    from .prices import _SAME_PRICE

    rows = prices.rows(model)
    if not rows:
        return f"no price row for {model!r}"
    tier = _SAME_PRICE.get(service_tier or "", service_tier or "")
    if tier in prices.tiers(model):
        return f"no {tier} price row for {model!r} on {at}"
    return f"no {tier} price row for {model!r}; it has {', '.join(prices.tiers(model))}"
