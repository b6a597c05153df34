"""Prices of many requests at once, given their tokens by column: what `cost` says of each, row by row of the table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from .cost import Unpriced, no_uplift, price_row
from .export import needed
from .prices import PriceRow, PriceTable
from .spend import MOST_PICO, TOO_DEAR, Money

if TYPE_CHECKING:
    from .spend import Ints


class Tokens(NamedTuple):
    """Requests by column; (n,) each.

    model, tier  places in the names that go with them; tier: the service tier that is asked for, "" for none
    input        tokens, cached ones included
    cached       tokens of these
    most         tokens of the reply, at most
    """

    model: Ints
    tier: Ints
    input: Ints
    cached: Ints
    most: Ints


def money_of(
    tokens: Tokens,
    models: Sequence[str],
    tiers: Sequence[str],
    *,
    service_tier: str | None = None,
    at: date | None = None,
    prices: PriceTable,
    region: str | None = None,
) -> Money:
    """Price requests: all but their output, a token of it, and the most they can cost.

    service_tier  of all of them, in the place of those they ask for: "flex", "batch"
    """
    np = needed("numpy", extra="pandas")
    count = len(tokens.input)
    fixed, rate, worst = (np.zeros(count, np.int64) for _ in range(3))
    why, reasons = np.full(count, -1, np.int64), dict[str, int]()

    def refuse(which: Any, reason: str) -> None:
        why[which] = reasons.setdefault(reason, len(reasons))

    for place in np.unique(tokens.model * max(1, len(tiers)) + tokens.tier).tolist():
        model, tier = divmod(place, max(1, len(tiers)))
        mine = (tokens.model == model) & (tokens.tier == tier)
        row = price_row(models[model], service_tier or tiers[tier] or None, at, prices)
        if isinstance(row, Unpriced):
            refuse(mine, row.reason)
            continue
        points = 0 if region is None else prices.uplift(row.model)
        if points is None:
            refuse(mine, no_uplift(row.model).reason)
            continue
        long = np.zeros(count, bool) if row.above is None else tokens.input > row.above
        for which, part in ((mine & ~long, row), (mine & long, row.long)):
            if not which.any():
                continue
            if part is None:
                refuse(which, f"{row.id} has no price for a request of more than {row.above:,} input tokens")
                continue
            _price(np, tokens, which, part, points, (fixed, rate, worst), refuse)
    return Money(fixed, rate, worst, why, tuple(reasons))


def _price(
    np: Any, tokens: Tokens, which: Any, row: PriceRow, points: int, out: tuple[Ints, Ints, Ints], refuse: Any
) -> None:
    """Price requests of one row."""
    fresh, cached, written = row.common.input, row.common.cached_input, row.common.output
    for pico, there, what in (
        (fresh, (tokens.input > tokens.cached) & which, "input"),
        (cached, (tokens.cached > 0) & which, "cached input"),
        (written, (tokens.most > 0) & which, "output"),
    ):
        if pico is None and there.any():
            refuse(there, f"{row.id} has no price for {what} tokens")
            which = which & ~there
    each = -(-(written or 0) * (10_000 + points) // 10_000)
    dear = _dear(np, tokens, which, (fresh or 0, cached or 0, each), 1 + points / 10_000)
    if dear is not None:
        refuse(which & dear, TOO_DEAR)
        which = which & ~dear
    fixed, rate, worst = out
    sure = (tokens.input - tokens.cached)[which] * (fresh or 0) + tokens.cached[which] * (cached or 0)
    # sure × (1 + points) rounded up, without a product that 64 bits do not hold.
    fixed[which] = sure // 10_000 * (10_000 + points) - (-(sure % 10_000) * (10_000 + points) // 10_000)
    rate[which] = each
    worst[which] = fixed[which] + each * tokens.most[which]


def _dear(np: Any, tokens: Tokens, which: Any, picos: tuple[int, int, int], factor: float) -> Any:
    """Requests that may cost more than is reckoned with; None where the largest of each column tell that none does."""
    if not which.any():
        return None
    fresh, cached, written = picos
    dearest = max(fresh, cached) * factor
    if dearest * float(tokens.input.max()) + written * float(tokens.most.max()) < MOST_PICO:
        return None
    sure = (tokens.input - tokens.cached).astype(float) * fresh + tokens.cached.astype(float) * cached
    return sure * factor + tokens.most.astype(float) * written > MOST_PICO
