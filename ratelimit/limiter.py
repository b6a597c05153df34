"""The limiter: one object that sync code, threads and event loops share, so that nothing is sent before the server
will take it.

A model's requests pass the limits of its lane. Asking is one atomic step in the store; waiting is done by two twin
shells (`_admit.py` blocks, `_admit_async.py` awaits). What the server charges is a Demand; a reservation made for it
ends exactly once: settled at the true cost, or released if it was never sent. One that is left alone stays charged:
silence is safe.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Generator, Iterable
from datetime import UTC, date, datetime
from types import TracebackType
from typing import Any, Literal, Self

from ._admit import admit
from ._admit_async import admit as admit_async
from .clock import US_PER_S, Clock
from .demand import Demand
from .errors import ConfigError, RatecardWarning
from .gate import Gate
from .headers import Observation
from .limit import KNOWN, Limit, Limits, OwnLimits, replaced
from .stores.base import Booking, Lane, Store
from .stores.memory import MAX_SLACK_US, MemoryStore
from .tiers import POLICIES, TierTable, load_tiers

PreflightPolicy = Literal["raise", "warn", "off"]


class Reservation:
    """Admission for one request; end it with `settle` or `release`. Works as a context manager in both colours.

    demand     what was charged
    waited_us  how long the caller stood in line
    gate       the gate it came through
    """

    __slots__ = ("_booking", "demand", "gate", "waited_us")

    def __init__(self, gate: Gate, booking: Booking, demand: Demand, waited_us: int) -> None:
        self.gate = gate
        self._booking = booking
        self.demand = demand
        self.waited_us = waited_us

    @property
    def model(self) -> str:
        """The lane that admitted the request: a model, or the pool it shares."""
        return self.gate.lane.name

    @property
    def charges_us(self) -> tuple[int, ...]:
        """The bucket time (µs) that was charged, per limit of the lane."""
        return self._booking.charges_us

    def settle(self, *, tokens: int | None = None, requests: int | None = None, images: int | None = None) -> None:
        """End the reservation at what the server really charged; what is left out stays as reserved.

        Too much is refunded exactly as if history were replayed; too little is added. A second ending is a no-op.
        """
        booking = self._booking
        if not booking.open:
            return
        actual = self.demand._replace(
            tokens=self.demand.tokens if tokens is None else _amount("tokens", tokens),
            requests=self.demand.requests if requests is None else _amount("requests", requests),
            images=self.demand.images if images is None else _amount("images", images),
        )
        if actual == self.demand:
            booking.open = False
            return
        charges_us = []
        for limit, unit in zip(booking.lane.limits, self.gate.units, strict=True):
            amount = actual.tokens if unit == "tokens" else actual.requests if unit == "requests" else actual.images
            charges_us.append(limit.charge_us(amount))
        self.gate.store.settle(booking, tuple(charges_us))
        self.gate.line.nudge()

    def release(self) -> None:
        """End the reservation as never sent: everything still outstanding goes back."""
        if self._booking.open:
            self.gate.store.release(self._booking)
            self.gate.line.nudge()

    def arrived(self, delay_us: int) -> None:
        """Report how long the request took to reach the server, so that the burst leaves room for such delays.

        A late request makes later, quicker ones arrive too close behind it. It only counts by what exceeds the
        backlog it found: behind a busy bucket nothing is lost (tests/laws/test_jitter.py).
        """
        if delay_us <= self._booking.slack_us:
            return  # no limit's margin is exceeded
        lane = self.gate.lane
        for key, charge_us, backlog_us in zip(
            lane.keys, self._booking.charges_us, self._booking.backlogs_us, strict=True
        ):
            if charge_us and delay_us > backlog_us:
                excess_us = delay_us - max(0, backlog_us)
                if excess_us > self.gate.store.slack_us(key):
                    self.gate.store.widen(key, min(excess_us, MAX_SLACK_US))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._booking.open = False  # silence is safe: what was not settled stays charged

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._booking.open = False


class Admission:
    """What `Limiter.areserve` returns: await it, or enter it with `async with`."""

    __slots__ = ("_limiter", "_request", "_reservation")

    def __init__(self, limiter: Limiter, gate: Gate, demand: Demand, max_wait_us: int | None) -> None:
        self._limiter = limiter
        self._request = (gate, demand, max_wait_us)

    def __await__(self) -> Generator[Any, None, Reservation]:
        return self._limiter.aadmit(*self._request).__await__()

    async def __aenter__(self) -> Reservation:
        self._reservation = await self
        return self._reservation

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._reservation.__aexit__(kind, error, trace)


class Limiter:
    """The limits of one account, obeyed. Share one per account, whatever mixes of threads and event loops use it.

    tier       a tier of data/tiers.yaml ("tier_1" … "tier_5", "build", "launch", "grow"); or
    limits     your own: {"rpm": 500, "tpm": 30_000} for every model, or {"o3-pro": {"tpm": 30_000}} per model; values
               are whole numbers per period or Limit objects. Each takes the place of the limit of the same name, be it
               the tier's or the one for every model; the others stay in force.
    policy     what the server charges at admission: observed (default) | documented | conservative
    headroom   share of every limit left unused, 0 ≤ headroom < 1
    max_wait   seconds a request may wait for admission; None waits for as long as it takes
    preflight  what to do about requests the model card says no to: raise (default) | warn | off
    at         day the dated tables are read at; today (UTC) unless told
    store      where the state lives; this process's memory unless told
    clock      the time the limiter lives by; the machine's steady clock unless told

    Raises  ConfigError when a setting is wrong or a tier unknown
    """

    def __init__(
        self,
        tier: str | None = None,
        *,
        limits: Limits | None = None,
        policy: str = "observed",
        headroom: float = 0.0,
        max_wait: float | None = None,
        preflight: PreflightPolicy = "raise",
        at: date | None = None,
        store: Store | None = None,
        clock: Clock | None = None,
        tables: TierTable | None = None,
    ) -> None:
        if tier is None and limits is None:
            raise ConfigError('say which limits to obey: tier="tier_1", or limits={"rpm": 500, "tpm": 30_000}')
        if policy not in POLICIES:
            raise ConfigError(f"unknown admission policy {policy!r}; known: {', '.join(POLICIES)}")
        if not 0 <= headroom < 1:
            raise ConfigError(f"headroom is a share of the limit, 0 ≤ headroom < 1, not {headroom!r}")
        if max_wait is not None and not max_wait >= 0:
            raise ConfigError(f"max_wait is in seconds and not negative, not {max_wait!r}")
        if preflight not in ("raise", "warn", "off"):
            raise ConfigError(f"preflight is raise, warn or off, not {preflight!r}")
        if store is not None and not hasattr(store, "reserve"):
            raise ConfigError(
                f"store must be a Store such as MemoryStore(); {store!r} is not supported in this version"
            )
        self.tier = tier
        self.policy = policy
        self.preflight: PreflightPolicy = preflight
        self.at = at
        self.clock: Clock = clock or getattr(store, "clock", None) or MemoryStore().clock
        self.store: Store = store or MemoryStore(self.clock)
        self._headroom_ppm = round(headroom * 1_000_000)
        self._max_wait_us = None if max_wait is None else round(max_wait * US_PER_S)
        self._own = OwnLimits(limits)
        self._tables = tables
        self._gates: dict[str, Gate] = {}
        self._gates_by_pool: dict[str, Gate] = {}
        self.warned: set[str] = set()
        self._notices: deque[str] = deque()
        if tier is not None:
            scheme = self.tables.scheme_of(tier)  # an unknown tier fails here, not at the first request
            if scheme.effective_until is not None and self.today() > scheme.effective_until and preflight != "off":
                newer = self.tables.schemes[-1]
                warnings.warn(
                    f"{tier} is a tier of the scheme that ended on {scheme.effective_until}; since then there are "
                    f"{', '.join(newer.tiers)}. Its limits are used as they were: compare them with your account's",
                    RatecardWarning,
                    stacklevel=2,
                )

    @property
    def tables(self) -> TierTable:
        """The tier table in use; loaded when first needed."""
        if self._tables is None:
            self._tables = load_tiers()
        return self._tables

    def today(self) -> date:
        """The day the dated tables are read at."""
        return self.at or datetime.now(UTC).date()

    def limits(self, model: str) -> tuple[Limit, ...]:
        """The limits in force for a model, headroom taken off."""
        return self.gate(model).lane.limits

    def reserve(
        self, *, model: str, tokens: int = 0, requests: int = 1, images: int = 0, max_wait: float | None = None
    ) -> Reservation:
        """Wait (blocking) until the account may send this request, and charge it.

        tokens, requests, images  int  what the server will charge (see ratelimit.demand)
        max_wait                  s    overrides the limiter's own

        Raises  WouldWait when admission would take longer than max_wait; NeverFits when no waiting would help;
                ConfigError when no limits are known for the model
        """
        gate = self.gate(model)
        demand = Demand(
            _amount("requests", requests), _amount("tokens", tokens), _amount("images", images), self.policy
        )
        return self.admit(gate, demand, self._wait_us(max_wait))

    def areserve(
        self, *, model: str, tokens: int = 0, requests: int = 1, images: int = 0, max_wait: float | None = None
    ) -> Admission:
        """The same for async code: `async with limiter.areserve(...) as r` or `r = await limiter.areserve(...)`."""
        gate = self.gate(model)
        demand = Demand(
            _amount("requests", requests), _amount("tokens", tokens), _amount("images", images), self.policy
        )
        return Admission(self, gate, demand, self._wait_us(max_wait))

    def admit(self, gate: Gate, demand: Demand, max_wait_us: int | None) -> Reservation:
        """Wait (blocking) for a demand at a gate; `reserve` and the transports come through here."""
        booking, waited_us = admit(gate, gate.charges_us(demand), max_wait_us)
        return Reservation(gate, booking, demand, waited_us)

    async def aadmit(self, gate: Gate, demand: Demand, max_wait_us: int | None) -> Reservation:
        """Wait (awaiting) for a demand at a gate; `areserve` and the transports come through here."""
        booking, waited_us = await admit_async(gate, gate.charges_us(demand), max_wait_us)
        return Reservation(gate, booking, demand, waited_us)

    @property
    def max_wait_us(self) -> int | None:
        """How long a request may wait for admission (µs); None for as long as it takes."""
        return self._max_wait_us

    def gate(self, model: str) -> Gate:
        """The lane a model's requests pass, and its line."""
        gate = self._gates.get(model)
        if gate is None:
            gate = self._gates[model] = self._open(model)
        return gate

    def gates(self) -> tuple[Gate, ...]:
        """Every lane in use."""
        return tuple(self._gates_by_pool.values())

    def observe_refusal(self, model: str, limit_name: str, used: int, limit: int, retry_after_us: int) -> None:
        """Learn from a temporary 429 that the server's bucket is fuller than ours.

        used, limit     units   "Used" and "Limit" of the error message
        retry_after_us  µs      by how much the request came too early

        The observation only tightens: our bucket rises to the server's backlog, and the burst shrinks by the time
        we were early, for that is how far the delay jitter exceeded the margin.
        """
        gate = self.gate(model)
        for key, known in zip(gate.lane.keys, gate.lane.limits, strict=True):
            if known.name == limit_name:
                # Our capacity may be smaller than the server's (headroom): bucket time is what the two have in common.
                gate.store.observe(key, min(used, limit) * known.period_us // max(1, limit))
                gate.store.widen(key, min(gate.store.slack_us(key) + retry_after_us, MAX_SLACK_US))

    def observe_headers(self, gate: Gate, seen: Iterable[Observation], age_us: int) -> None:
        """Learn from the headers of a reply how full the server's buckets are, and how large.

        seen    what the headers say (ratelimit.headers.observations)
        age_us  µs since the request was sent: so much has been refilled at least

        Observations only tighten. A bucket fuller than ours means that somebody else uses the limit, or that requests
        are charged more than we thought. A limit smaller than ours is obeyed from now on; one that is larger is only
        reported, for a table or a setting says what may be used.
        """
        for index, (key, known) in enumerate(zip(gate.lane.keys, gate.full, strict=True)):
            for name, capacity, backlog_us in seen:
                if name != known.name or known.period_us != KNOWN[name][1]:
                    continue
                # Delays alone let the server lag behind our books, by no more than the margin kept for them.
                if backlog_us - age_us - gate.store.backlog_us(key) > gate.store.slack_us(key):
                    gate.store.observe(key, backlog_us - age_us)
                if capacity != known.capacity:
                    self._differs(gate, index, known, capacity)

    def _differs(self, gate: Gate, index: int, known: Limit, capacity: int) -> None:
        """Report, once, a limit that is not what we obey; obey it when it is smaller."""
        own = known in self._own.of(gate.lane.name)
        if own and capacity > known.capacity:
            return  # using less than there is was somebody's decision
        ours = "the setting" if own else f"the table's {self.tier}"
        text = f"{gate.lane.name}: the server's {known.name} is {capacity:,}, {ours} says {known.capacity:,}; "
        if capacity < known.capacity:
            smaller = Limit(known.name, known.unit, capacity, known.period_us, known.burst_us)
            gate.obey(index, smaller, self._reduced((smaller,))[0])
            text += "the server's is obeyed from now on"
        else:
            text += f'to use it: limits={{"{gate.lane.name}": {{"{known.name}": {capacity}, …}}}}'
        if text not in self.warned:
            self.warned.add(text)
            self._notices.append(text)

    def tell(self) -> None:
        """Give the warnings that came up after a reply: there, a warning that is an error would have lost it."""
        while self._notices:
            warnings.warn(self._notices.popleft(), RatecardWarning, stacklevel=2)

    def _wait_us(self, max_wait: float | None) -> int | None:
        return self._max_wait_us if max_wait is None else round(max_wait * US_PER_S)

    def _open(self, model: str) -> Gate:
        pool, full = self._find(model)
        limits = self._reduced(full)
        gate = self._gates_by_pool.get(pool)
        if gate is None:
            if not limits:
                raise ConfigError(f"no limits are known for {pool}")
            lane = Lane(pool, limits, tuple(f"{pool}:{limit.name}" for limit in limits))
            gate = self._gates_by_pool.setdefault(pool, Gate(self.store, self.clock, lane, full))
        return gate

    def _find(self, model: str) -> tuple[str, tuple[Limit, ...]]:
        from pricing.cards import resolve

        card = resolve(model)
        name = card.model if card else model
        own = self._own.of(model, name)
        if self.tier is None:
            if not own:
                raise ConfigError(f"limits are given for {', '.join(self._own.by_model)}, and none for {model!r}")
            return name, own
        table = self.tables
        try:
            return table.pool(name, self.tier), replaced(table.limits(name, self.tier), own)
        except ConfigError:
            if not own:
                raise
            return name, own  # the table has no limits for it, somebody else has

    def _reduced(self, limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
        if not self._headroom_ppm:
            return limits
        share = 1_000_000 - self._headroom_ppm
        return tuple(
            Limit(
                limit.name,
                limit.unit,
                max(1, limit.capacity * share // 1_000_000),
                limit.period_us,
                limit.burst_us,
            )
            for limit in limits
        )


def _amount(name: str, value: int) -> int:
    if type(value) is not int or value < 0:
        raise ConfigError(f"{name} must be a whole number of at least 0, not {value!r}")
    return value
