"""The cost of a call: a usage times a dated price row, exactly; or the reason why it has no price.

What was served is priced (the reply's model and tier), not what was asked for. `Unpriced` is a value with a reason:
it is falsy, it has no total, and it can never be added up as $0.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import ConfigError, UnpricedError
from .money import Usd
from .usage import FIELDS, Usage

if TYPE_CHECKING:
    from .prices import Fee, PriceRow, PriceTable


class Cost:
    """What a call cost.

    total          Usd, the sum of the components
    components     "input" | "cached_input" | "output" | "web_search_calls" … → Usd
    row_id         the price row ("o3-pro/standard/2025-06-10"); table_version names the tables' content
    priced_by      component → file and row, or fee, that priced it: "prices.yaml:o3-pro/standard/2025-06-10"
    notes          what a reader should know: cached tokens at the full price, contradictions in the usage
    """

    __slots__ = ("_others", "_row", "components", "notes", "table_version", "total")

    priced = True

    def __init__(
        self,
        total: Usd,
        components: dict[str, Usd],
        row: PriceRow,
        table_version: str,
        notes: tuple[str, ...] = (),
        others: Mapping[str, PriceRow | Fee] | None = None,
    ) -> None:
        self.total = total
        self.components = components
        self._row = row
        self.table_version = table_version
        self.notes = notes
        self._others = others

    @property
    def row_id(self) -> str:
        return self._row.id

    @property
    def model(self) -> str:
        return self._row.model

    @property
    def service_tier(self) -> str:
        return self._row.service_tier

    @property
    def priced_by(self) -> dict[str, str]:
        others = self._others or {}
        return {name: _place(others.get(name, self._row)) for name in self.components}

    def __repr__(self) -> str:
        return f"Cost({self.total} USD, {self.row_id})"


def _place(row: PriceRow | Fee) -> str:
    return row.id if row.id.startswith(f"{row.file}:") else f"{row.file}:{row.id}"


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
    completion_window: str | None = None,
    region: str | None = None,
    at: date | None = None,
    prices: PriceTable | None = None,
    strict: bool = False,
) -> Cost | Unpriced:
    """Price one call.

    usage         a Usage, or the usage object of a reply: as it came, or as the SDK gives it
    model         as served: a model, alias or snapshot
    service_tier  as served: None, "default" and "auto" are standard; "fast" is priority
    batch         the call came out of the Batch API (its replies do not say so themselves)
    completion_window  "2h" or "8h": what the call's background_options asked for; replies do not say so
    region        the region that processes it, where the account has chosen one: "eu", "us" …
    at            the day, or the instant, of the call: prices are those of that day; now unless told
    prices        the table; the shipped one unless told (load_prices(overlay=…) makes others)
    strict        raise UnpricedError instead of returning Unpriced
    →  Cost, or Unpriced with the reason
    """
    if batch:
        service_tier = "batch"
    elif completion_window is not None and completion_window != "soonest":
        service_tier = f"window_{completion_window}"
    if region is not None:
        (prices or shipped_prices()).check_region(region)
    answer = _cost(usage, model, service_tier, region, at, prices)
    if strict and isinstance(answer, Unpriced):
        raise UnpricedError(answer.reason)
    return answer


def _cost(
    usage: Usage | Mapping[str, Any] | None,
    model: str,
    service_tier: str | None,
    region: str | None,
    at: date | None,
    prices: PriceTable | None,
) -> Cost | Unpriced:
    if type(usage) is not Usage:
        found = _read(usage, model)
        if isinstance(found, Unpriced):
            return found
        usage = found
    if prices is None:
        prices = shipped_prices()
    day = day_of(at)
    row = prices.lookup(model, service_tier, day) or Unpriced(_why(model, service_tier, day, prices), model)
    if isinstance(row, Unpriced):
        return row
    notes = usage.notes
    if row.above is not None:
        long = _at_length(row, usage)
        if isinstance(long, Unpriced):
            return long
        if usage.requests > 1 and usage.total_input > row.above:
            notes = (*notes, f"{usage.requests} requests, priced as if none had more than {row.above:,} input tokens")
        row = long
    components: dict[str, Usd] = {}
    total = 0
    # Every call comes by here, so the five counts that nearly all have are written out.
    rate_input, rate_cached, rate_write, rate_output, rate_reasoning = row.common
    count = usage.cached_input_tokens
    if count:
        if rate_cached is None:
            return _no_price(row, "cached input tokens")
        if row.cached_as_input:
            notes = (*notes, f"{count} cached tokens at the full input price: none is published")
        total = pico = count * rate_cached
        components["cached_input"] = Usd(pico)
    count = usage.cache_write_tokens
    if count:
        if rate_write is None:
            return _no_price(row, "cache writes")
        pico = count * rate_write
        total += pico
        components["cache_write"] = Usd(pico)
    count = usage.input_tokens
    if rate_input is not None:
        pico = count * rate_input
        total += pico
        components["input"] = Usd(pico)
    elif count:
        return _no_price(row, "input tokens")
    pico = 0
    count = usage.output_tokens
    if count:
        if rate_output is None:
            return _no_price(row, "output tokens")
        pico = count * rate_output
    count = usage.reasoning_tokens
    if count:
        if rate_reasoning is None:
            return _no_price(row, "reasoning tokens")
        pico += count * rate_reasoning
    if pico:
        total += pico
        components["output"] = Usd(pico)
    if not usage.extra and region is None:
        return Cost(Usd(total), components, row, prices.version, notes)
    return _add_the_rest(usage, row, components, notes, region, day, prices)


def _add_the_rest(
    usage: Usage,
    row: PriceRow,
    components: dict[str, Usd],
    notes: tuple[str, ...],
    region: str | None,
    day: date,
    prices: PriceTable,
) -> Cost | Unpriced:
    """Price what few calls have: other kinds of tokens, tools, other models' work, and a region's uplift."""
    others: dict[str, PriceRow | Fee] = {}
    tokens = sum(part.pico for part in components.values())
    for name, count in usage.extra.items():
        model, _, kind = name.rpartition("/")
        by: PriceRow | Fee | None = prices.lookup(model, None, day) if model else row
        if by is None:
            return Unpriced(_why(model, None, day, prices), row.model)
        assert not isinstance(by, tuple)
        if kind.endswith("_tokens"):
            kind = kind.removesuffix("_tokens")
            billed = kind if kind in by.pico_per_token else prices.billed_as.get(kind, kind)
            rate, per = by.pico_per_token.get(billed), 1
            if rate is None and billed == "cached_input" and by.cached_as_input:
                rate = by.pico_per_token["input"]
        elif kind in by.per_unit:
            billed, (rate, per) = kind, by.per_unit[kind]
        else:
            fee = prices.fee(kind, by.model, day)
            if fee is None:
                return Unpriced(f"no price is known for {kind} of {by.model!r} on {day}", row.model)
            billed, rate, per, by = kind, fee.pico, fee.per, fee
        if rate is None:
            return _no_price(by, f"{kind.replace('_', ' ')} tokens")
        pico = -(-count * rate // per)  # a fraction of a pico-dollar counts as one
        component = f"{model}/{billed}" if model else billed
        if by is not row:
            others[component] = by
        elif per == 1 and name.endswith("_tokens"):
            tokens += pico
        components[component] = components.get(component, Usd.ZERO) + Usd(pico)
    if region is not None:
        points = prices.uplift(row.model)
        if points is None:
            return no_uplift(row.model)
        if points:
            components["regional_uplift"] = Usd(-(-tokens * points // 10_000))
    total = sum(components.values(), Usd.ZERO)
    return Cost(total, components, row, prices.version, notes, others)


def _at_length(row: PriceRow, usage: Usage) -> PriceRow | Unpriced:
    """The row for the length of a request. A sum of several requests does not say how long each was."""
    if usage.requests > 1:
        return row
    length = usage.total_input
    found = row.at_length(length)
    if found is None:
        return Unpriced(f"{row.id} has no price for a request of more than {row.above:,} input tokens", row.model)
    return found


def _no_price(row: PriceRow | Fee, kind: str) -> Unpriced:
    return Unpriced(f"{row.id} has no price for {kind}", getattr(row, "model", ""))


def _read(usage: Any, model: str) -> Usage | Unpriced:
    """Take a usage in whatever form it comes."""
    if usage is None:
        return Unpriced("the reply carried no usage", model)
    if type(usage) is not dict and hasattr(usage, "model_dump"):  # the SDK's own object
        usage = usage.model_dump()
    if type(usage) is not dict and not isinstance(usage, Mapping):
        raise ConfigError(f"usage is a Usage or a reply's usage object, not {type(usage).__name__}")
    if "cached_input_tokens" in usage and (record := _record(usage)) is not None:
        return record
    return Usage.from_response(usage) or Unpriced("the usage object states no token counts that can be read", model)


def _record(usage: Mapping[str, Any]) -> Usage | None:
    """Read a Usage's own dictionary: all of our names, whole numbers. None for a reply's usage object."""
    if all(name in usage for name in FIELDS) and all(type(n) is int and n >= 0 for n in usage.values()):
        return Usage(**usage)
    return None


@lru_cache(maxsize=1)
def shipped_prices() -> PriceTable:
    """The prices that come with the package, loaded when they are first asked for: counting needs none."""
    from .prices import load_prices

    return load_prices()


def no_uplift(model: str) -> Unpriced:
    """The answer where nobody knows what a region costs."""
    return Unpriced(f"nobody says whether {model} costs more when a region is chosen", model)


def day_of(at: date | None) -> date:
    """The day (UTC) whose prices apply: today unless told."""
    if at is None:
        return datetime.now(UTC).date()
    if isinstance(at, datetime):
        return (at.astimezone(UTC) if at.tzinfo else at).date()
    return at


def price_row(model: str, service_tier: str | None, at: date | None, prices: PriceTable) -> PriceRow | Unpriced:
    """Find the row that prices a call of this day (now unless told), or say why there is none."""
    day = day_of(at)
    return prices.lookup(model, service_tier, day) or Unpriced(_why(model, service_tier, day, prices), model)


def _why(model: str, service_tier: str | None, at: date, prices: PriceTable) -> str:
    rows = prices.rows(model)
    if not rows:
        return f"no price row for {model!r}"
    tier = prices.tier(service_tier)
    if tier not in prices.tiers(model):
        return f"no {tier} price row for {model!r}; it has {', '.join(prices.tiers(model))}"
    ended = [row.effective_until for row in rows if row.service_tier == tier and row.effective_until is not None]
    last = max((day for day in ended if day < at), default=None)
    known = f": the last known ends on {last}" if last else ""
    return f"no {tier} price row for {model!r} on {at}{known}"
