"""The account being played: which models it may call, and the limits of each.

Limits come from a tier of the table or are given outright. Models that share a pool share its buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from typing import TYPE_CHECKING

from ratelimit.demand import Demand
from ratelimit.errors import ConfigError, NotOffered
from ratelimit.limit import Limit, Limits, OwnLimits, replaced

from .buckets import Refusal, admit
from .headers import LimitHeaders
from .windows import WINDOWS, meter

if TYPE_CHECKING:
    from pricing.cards import ModelCard
    from ratelimit.tiers import TierTable


class Pool:
    """The buckets that one model, or several models together, pass."""

    __slots__ = ("buckets", "headers", "name", "refused")

    def __init__(self, name: str, limits: Iterable[Limit], window: str, now_us: int) -> None:
        self.name = name
        self.buckets = tuple(meter(limit, window, now_us) for limit in limits)
        self.headers = LimitHeaders(self.buckets)
        self.refused = dict.fromkeys((bucket.name for bucket in self.buckets), 0)

    def admit(self, demand: Demand, now_us: int, count_refused: bool = False) -> Refusal | None:
        """Charge this demand to every limit of the pool, or to none.

        count_refused  a refused request still takes from the limits on requests, where it fits
        """
        charges = [getattr(demand, bucket.unit) for bucket in self.buckets]
        refusal = admit(self.buckets, charges, now_us)
        if refusal is not None:
            self.refused[refusal.bucket.name] += 1
            if count_refused:
                for bucket, units in zip(self.buckets, charges, strict=True):
                    if bucket.unit == "requests" and bucket.refusal(units) is None:
                        bucket.charge(units)
        return refusal

    def snapshot(self, now_us: int) -> dict[str, dict[str, int]]:
        """Say how full each bucket is."""
        for bucket in self.buckets:
            bucket.drain(now_us)
        return {
            bucket.name: {
                "limit": bucket.capacity,
                "used": bucket.used,
                "remaining": bucket.remaining,
                "reset_us": bucket.reset_us,
                "refused": self.refused[bucket.name],
            }
            for bucket in self.buckets
        }


class Model:
    """A model this account may call.

    name     as the request spells it
    card     what is known of it, or None
    served   the name replies carry: the dated snapshot behind an alias, where the card has one
    parts    the separate pools: requests of more than so many input tokens, or of a service tier
    """

    __slots__ = ("card", "context_window", "max_output", "name", "parts", "pool", "served", "streams")

    def __init__(
        self,
        name: str,
        card: ModelCard | None,
        pool: Pool,
        parts: tuple[tuple[int | None, str | None, Pool], ...] = (),
    ) -> None:
        self.name = name
        self.card = card
        self.pool = pool
        self.parts = parts
        self.served = name
        self.streams = True
        self.context_window: int | None = None
        self.max_output: int | None = None
        if card is not None:
            if name == card.model or name in card.aliases:
                self.served = card.snapshots[0] if card.snapshots else card.model
            self.streams = card.features.get("streaming", True)
            self.context_window = card.context_window
            self.max_output = card.max_output_tokens

    def pool_of(self, input_tokens: int, service_tier: str) -> Pool:
        """The pool that a request passes: that of its service tier, of its length, or the model's own."""
        fits = [
            (tier is not None, above or 0, pool)
            for above, tier, pool in self.parts
            if (tier == service_tier if above is None else input_tokens > above)
        ]
        return max(fits, key=lambda fit: fit[:2])[2] if fits else self.pool

    def offers(self, endpoint: str) -> bool:
        """Say whether the card allows this endpoint ("/v1/responses"); what it does not mention is allowed."""
        return self.card is None or self.card.endpoints.get(endpoint.removeprefix("/"), True)


class Account:
    """Finds models and keeps their buckets.

    tier     of the table; limits of the models it names
    limits   given outright; each takes the place of the tier's limit of the same name
    models   the only ones to serve, with or without a card. None serves what has limits: any name under flat limits
    window   how limits per minute are enforced: one of WINDOWS

    Raises  ConfigError for an unknown tier or window, a malformed limit, neither tier nor limits, a named model without
            limits, limits given outright that such a window could not enforce.
    """

    def __init__(
        self,
        *,
        tier: str | None,
        limits: Limits | None,
        models: Iterable[str] | None,
        window: str,
        at: date,
        now_us: int,
    ) -> None:
        if tier is None and limits is None:
            raise ConfigError('say which limits to enforce: tier="tier_1", or limits={"rpm": 500, "tpm": 30_000}')
        if window not in WINDOWS:
            raise ConfigError(f"unknown window {window!r}; known: {', '.join(WINDOWS)}")
        self.tier = tier
        self.at = at
        self.window = window
        self.table: TierTable | None = None
        if tier is not None:
            from ratelimit.tiers import load_tiers

            self.table = load_tiers()
            self.table.scheme_of(tier)  # unknown tiers are refused here, with the known ones named
        self._own = OwnLimits(limits)
        for given in (self._own.every, *self._own.by_model.values()):
            Pool("", given, window, now_us)  # what cannot be enforced is refused here, not at the first request
        self._only = None if models is None else frozenset(models)
        self._pools: dict[str, Pool] = {}
        self._models: dict[str, Model | None] = {}
        self._now_us = now_us
        for name in sorted(self._only or ()):
            self.find(name)
        if self.table is not None and not self._own.every and not self._own.by_model and not self.known():
            raise ConfigError(
                f'no model has published limits in {tier}; give limits={{"rpm": …, "tpm": …}} (--rpm, --tpm)'
            )

    @property
    def pools(self) -> Mapping[str, Pool]:
        """The pools asked for so far, by name."""
        return self._pools

    def find(self, name: str) -> Model | None:
        """Find a model by the name of a request; None when this account has no such model.

        Raises  ConfigError when the model exists and no limits are known for it.
        """
        try:
            return self._models[name]
        except KeyError:
            model = self._open(name)
            if len(self._models) < 10_000:
                self._models[name] = model
            return model

    def known(self) -> list[str]:
        """List the models, for GET /v1/models."""
        if self._only is not None:
            return sorted(self._only)
        from pricing.cards import load_cards

        names = {card.model for card in load_cards()}
        return sorted(name for name in names if self._callable(name))

    def reset(self, now_us: int) -> None:
        """Empty every bucket."""
        self._now_us = now_us
        self._pools.clear()
        self._models.clear()

    def _callable(self, name: str) -> bool:
        try:
            return self.find(name) is not None
        except ConfigError:
            return False

    def _open(self, name: str) -> Model | None:
        from pricing.cards import resolve

        card = resolve(name)
        if self._only is not None and name not in self._only and (card is None or card.model not in self._only):
            return None
        base = card.model if card else name
        limits = self._own.of(base)
        pool = base
        if self.table is None:
            if not limits and card is None and self._only is None:
                return None
            if not limits:
                raise ConfigError(f"limits are given for {', '.join(self._own.by_model)}, and none for {name!r}")
        else:
            assert self.tier is not None
            given = base in self._own.by_model
            if card is None and self._only is None and not given:
                return None
            try:
                limits = replaced(self.table.limits(base, self.tier), limits)
            except NotOffered:
                return None
            except ConfigError:
                if not given:
                    raise
            pool = self.table.pool(base, self.tier)
        return Model(name, card, self._pool(pool, limits), self._parts(base, pool))

    def _parts(self, base: str, pool: str) -> tuple[tuple[int | None, str | None, Pool], ...]:
        """The separate pools that the table has for a model."""
        if self.table is None or self.tier is None:
            return ()
        try:
            parts = self.table.parts(base, self.tier)
        except ConfigError:
            return ()  # its limits are given outright
        return tuple(
            (part.above, part.service_tier, self._pool(f"{pool}-{part.service_tier or 'long-context'}", part.limits))
            for part in parts
        )

    def _pool(self, name: str, limits: tuple[Limit, ...]) -> Pool:
        found = self._pools.get(name)
        if found is None:
            found = self._pools[name] = Pool(name, limits, self.window, self._now_us)
        return found
