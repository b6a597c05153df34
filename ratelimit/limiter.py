"""The limiter: one object that sync code, threads and event loops share, so that nothing is sent before the server
will take it.

A model's requests pass the limits of its lane. Asking is one atomic step in the store; waiting is done by two twin
shells (`_admit.py` blocks, `_admit_async.py` awaits). What the server charges is a Demand; a reservation made for it
ends exactly once: settled at the true cost, or released if it was never sent. One that is left alone stays charged:
silence is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Literal

from ._admit import admit
from ._admit_async import admit as admit_async
from .clock import US_PER_S, Clock, is_number, read_wait_us
from .context import CURRENT
from .demand import Demand, demand, fixed, plainly_short
from .errors import ConfigError, NotOffered, warn
from .events import Listener, Signals
from .feedback import Feedback
from .gate import Gate
from .limit import Limit, Limits, OwnLimits, Pools, canonical, read_pools, replaced
from .line import Line
from .order import Classes, Priorities, Rank
from .outputs import Kind, Outputs
from .reservation import Admission, Reservation, check
from .stores import open_store
from .stores.base import Lane, Store
from .stores.memory import MemoryStore
from .tiers import POLICIES, TierTable, load_tiers

if TYPE_CHECKING:
    from pricing.tokens import Count

    from .tier_rows import Part

PreflightPolicy = Literal["raise", "warn", "off"]


class Limiter:
    """The limits of one account, obeyed. Share one per account, whatever mixes of threads and event loops use it.

    tier       a tier of data/tiers.yaml ("tier_1" … "tier_5", "build", "launch", "grow"), with its separate pools; or
    limits     your own: {"rpm": 500, "tpm": 30_000} for every model, or {"o3-pro": {"tpm": 30_000}} per model; values
               are whole numbers per period or Limit objects. Each takes the place of the limit of the same name, be it
               the tier's or the one for every model; the others stay in force.
    pools      limits that several models pass together, on top of their own: {"organisation": {"tpm": 2_000_000}}; with
               "models" for some only, with "above" for the long-context pool of those models
    priorities classes of requests and their weights: {"interactive": 8, "batch": {"weight": 1, "leave": 0.1}}, where
               leave is the share of every burst left free for the others; high 9, normal 3, low 1 unless told
    max_queue  how many requests may wait for admission at one model, or at all that share a pool; None for any number
    policy     what the server charges at admission: observed (default) | documented | conservative
    headroom   share of every limit left unused, 0 ≤ headroom < 1
    max_wait   seconds a request may wait for admission; None waits for as long as it takes
    preflight  what to do about requests the model card says no to: raise (default) | warn | off
    at         day the dated tables are read at; today (UTC) unless told
    store      where the state lives: this process's memory unless told; "sqlite:///limits.db" is a file that all
               processes of this machine share; or a Store
    clock      the time the limiter lives by; the machine's steady clock unless told

    Raises  ConfigError when a setting is wrong or a tier unknown; StoreUnavailable when the store cannot be used
    """

    def __init__(
        self,
        tier: str | None = None,
        *,
        limits: Limits | None = None,
        pools: Pools | None = None,
        policy: str = "observed",
        headroom: float = 0.0,
        priorities: Classes | None = None,
        max_wait: float | None = None,
        max_queue: int | None = None,
        adopt: bool = False,
        preflight: PreflightPolicy = "raise",
        at: date | None = None,
        store: Store | str | None = None,
        clock: Clock | None = None,
        tables: TierTable | None = None,
    ) -> None:
        if tier is None and limits is None and not pools:
            raise ConfigError('say which limits to obey: tier="build", or limits={"rpm": 500, "tpm": 30_000}')
        if tier is not None and not isinstance(tier, str):
            raise ConfigError(f"tier is the name of a tier such as tier_1, not {tier!r}")
        if not isinstance(policy, str) or policy not in POLICIES:
            raise ConfigError(f"unknown admission policy {policy!r}; known: {', '.join(POLICIES)}")
        if not is_number(headroom) or not 0 <= headroom < 1:
            raise ConfigError(f"headroom is a share of the limit, 0 ≤ headroom < 1, not {headroom!r}")
        if max_queue is not None and (type(max_queue) is not int or max_queue < 0):
            raise ConfigError(f"max_queue is a whole number of waiting requests, not {max_queue!r}")
        if not isinstance(adopt, bool):
            raise ConfigError(f"adopt is True or False, not {adopt!r}")
        if at is not None and (not isinstance(at, date) or isinstance(at, datetime)):
            raise ConfigError(f"at is a datetime.date, not {at!r}")
        if preflight not in ("raise", "warn", "off"):
            raise ConfigError(f"preflight is raise, warn or off, not {preflight!r}")
        if store is not None and not isinstance(store, str) and not hasattr(store, "reserve"):
            raise ConfigError(f"store is a URL such as sqlite:///limits.db or a Store, not {store!r}")
        self.tier = tier
        self.policy = policy
        self.preflight: PreflightPolicy = preflight
        self.at = at
        if isinstance(store, str):
            store = open_store(store, clock)
        self.clock: Clock = clock or getattr(store, "clock", None) or MemoryStore().clock
        self.store: Store = store or MemoryStore(self.clock)
        self._headroom_ppm = round(headroom * 1_000_000)
        self.max_wait_us = None if max_wait is None else wait_us(max_wait)
        self.priorities = Priorities(priorities)
        self._max_queue = max_queue
        self._own = OwnLimits(limits)
        self._pools = read_pools(pools)
        self._tables = tables
        self._shared_line = Line(self.priorities, self._max_queue)
        self._gates: dict[str, Gate] = {}
        self._gates_by_pool: dict[str, Gate] = {}
        self.warned: set[str] = set()
        self.signals = Signals()
        self.feedback = Feedback(self, adopt)
        self.outputs = Outputs()
        if tier is not None:
            scheme = self.tables.scheme_of(tier)  # an unknown tier fails here, not at the first request
            if scheme.effective_until is not None and self.today() > scheme.effective_until and preflight != "off":
                newer = self.tables.schemes[-1]
                warn(
                    f"{tier} is a tier of the scheme that ended on {scheme.effective_until}; since then there are "
                    f"{', '.join(newer.tiers)}. Its limits are used as they were: compare them with your account's",
                )
        for pool in self._pools:
            lost = [model for model in sorted(pool.models or ()) if not self._knows(model)]
            if lost and preflight != "off":
                warn(
                    f"pool {pool.name}: no limits are known for {', '.join(lost)}, so no request for it can pass; "
                    "is it the model's name?",
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
        self,
        *,
        model: str,
        tokens: int = 0,
        requests: int = 1,
        images: int = 0,
        max_wait: float | None = None,
        priority: str | None = None,
    ) -> Reservation:
        """Wait (blocking) until the account may send this request, and charge it.

        tokens, requests, images  int  what the server will charge (see ratelimit.demand)
        max_wait                  s    overrides the limiter's own
        priority                       the class it waits in

        Raises  WouldWait when admission would take longer than max_wait, DeadlineExceeded (a WouldWait) when it would
                come after the deadline of the block (ratelimit.context.deadline); NeverFits when no waiting would help;
                QueueFull when too many wait; QuotaSpent while the account's quota is spent;
                ConfigError when no limits are known for the model
        """
        check(requests, tokens, images)
        demand = fixed(requests, tokens, images, self.policy)
        bound_us = self.max_wait_us if max_wait is None else wait_us(max_wait)
        return self.admit(self.gate(model, tokens), demand, bound_us, priority)

    def areserve(
        self,
        *,
        model: str,
        tokens: int = 0,
        requests: int = 1,
        images: int = 0,
        max_wait: float | None = None,
        priority: str | None = None,
    ) -> Admission:
        """The same for async code: `async with limiter.areserve(...) as r` or `r = await limiter.areserve(...)`."""
        check(requests, tokens, images)
        demand = fixed(requests, tokens, images, self.policy)
        bound_us = self.max_wait_us if max_wait is None else wait_us(max_wait)
        return Admission(self, self.gate(model, tokens), demand, bound_us, priority)

    def admit(self, gate: Gate, demand: Demand, max_wait_us: int | None, priority: str | None = None) -> Reservation:
        """Wait (blocking) for a demand at a gate; `reserve` and the transports come through here."""
        rank = self.priorities.named(priority)
        if (deadline := CURRENT.get().deadline) is not None:
            max_wait_us = gate.patient_us(deadline, rank.priority, max_wait_us)
        reservation = Reservation(gate, demand, rank.spare_ppm)
        if not gate.passes(reservation):
            admit(reservation, rank.priority, max_wait_us)
        if self.signals.listeners:
            self._admitted(reservation, rank)
        return reservation

    async def aadmit(
        self, gate: Gate, demand: Demand, max_wait_us: int | None, priority: str | None = None
    ) -> Reservation:
        """Wait (awaiting) for a demand at a gate; `areserve` and the transports come through here."""
        rank = self.priorities.named(priority)
        if (deadline := CURRENT.get().deadline) is not None:
            max_wait_us = gate.patient_us(deadline, rank.priority, max_wait_us)
        reservation = Reservation(gate, demand, rank.spare_ppm)
        if not gate.passes(reservation):
            await admit_async(reservation, rank.priority, max_wait_us)
        if self.signals.listeners:
            self._admitted(reservation, rank)
        return reservation

    def _admitted(self, reservation: Reservation, rank: Rank) -> None:
        requests, tokens, images = reservation.demand[:3]
        self.signals.emit(
            "admitted",
            self.clock.now_us(),
            reservation.model,
            reservation.waited_for,
            priority=rank.priority,
            waited_us=reservation.waited_us,
            requests=requests,
            tokens=tokens,
            images=images,
        )

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener(event)` for everything that happens (ratelimit.events.Event); returns what ends that.

        Raises  ConfigError when it cannot be called
        """
        if not callable(listener):
            raise ConfigError(f"a listener is called with an Event; {listener!r} cannot be")
        signals = self.signals
        signals.listeners = (*signals.listeners, listener)

        def stop() -> None:
            places = [place for place, one in enumerate(signals.listeners) if one is listener]
            signals.listeners = tuple(one for place, one in enumerate(signals.listeners) if place not in places[:1])

        return stop

    def snapshot(self) -> dict[str, Any]:
        """What stands now, ready for JSON: each lane's limits (units, seconds), what is spent of them, who waits."""
        store, lanes = self.store, {}
        for gate in self.gates():
            limits = {}
            lane = gate.lane
            for place, (limit, key) in enumerate(zip(lane.limits, lane.keys, strict=True)):
                spent_us = store.backlog_us(key)
                limits[limit.name] = {
                    "capacity": limit.capacity,
                    "period_s": None if limit.unit == "concurrent" else limit.period_us / US_PER_S,
                    "spent": lane.units(place, spent_us),
                    "free": lane.units(place, max(0, limit.burst_us - spent_us)),
                    "full_in_s": None if limit.unit == "concurrent" else spent_us / US_PER_S,
                    "margin_s": store.slack_us(key) / US_PER_S,
                }
            lanes[lane.name] = {"limits": limits, "waiting": gate.line.waiting()}
        halt = self.signals.halt
        return {
            "tier": self.tier,
            "lanes": lanes,
            "outputs": self.outputs.as_dict(),
            "halted": None if halt is None else halt[0],
        }

    def wants(
        self, body: Mapping[str, Any], endpoint: str, model: str, count: Callable[[], Count], today: date
    ) -> tuple[Gate, Demand, Kind | None]:
        """Say at which gate a request waits and for what; and of which kind it is, where output is reserved as learned.

        Raises  ConfigError when no limits are known for the model
        """
        gate = self.gate(model)
        served = body.get("service_tier") if gate.served else None
        if isinstance(served, str) and served in gate.served:
            gate = self._ramped(gate.served[served])
        elif gate.longer and not plainly_short(body, endpoint, gate.longer[-1][0]):
            gate = self.gate(model, count().tokens)  # only then, and for Responses, does the number of tokens matter
        known = count() if endpoint == "/v1/responses" else None
        if self.policy != "conservative":
            return gate, demand(body, endpoint=endpoint, policy=self.policy, at=today, count=known), None
        kind = Kind.of(body, endpoint, CURRENT.get().tags)
        output = self.outputs.foresee(kind)
        wanted = demand(body, endpoint=endpoint, policy=self.policy, at=today, count=known, output=output)
        if output is not None:
            # Replies larger than a whole limit do not mean that the server would refuse: it has let them pass.
            most = min((one.largest for one in gate.lane.limits if one.unit == "tokens"), default=wanted.tokens)
            wanted = wanted._replace(tokens=min(wanted.tokens, max(most, count().tokens)))
        return gate, wanted, kind

    def gate(self, model: str, tokens: int = 0) -> Gate:
        """The lane that a model's requests of so many input tokens pass, and its line."""
        gate = self._gates.get(model)
        if gate is None:
            gate = self._gates[model] = self._open(model)
        for above, separate in gate.longer:
            if tokens > above:
                return self._ramped(separate)
        return self._ramped(gate)

    def _ramped(self, gate: Gate) -> Gate:
        """A gate whose limit has risen again as far as it may after "slow down"."""
        if gate.ramp_us:
            self.feedback.ramp(gate)
        return gate

    def gates(self) -> tuple[Gate, ...]:
        """Every lane in use."""
        return tuple(self._gates_by_pool.values())

    def adopt(self, gate: Gate, limit: Limit) -> None:
        """Put a limit in force at a gate: in the place of the one of its name, or as a new one. Its cell is kept.

        Where other gates share the cell, it is in force at those too.
        """
        reduced = self._reduced((limit,))[0]
        lane = gate.lane
        index = next((index for index, known in enumerate(lane.limits) if known.name == limit.name), None)
        if index is None:
            gate.obey(f"{lane.name}:{limit.name}", limit, reduced)
            return
        key, old = lane.keys[index], lane.limits[index]
        spent_us = self.store.backlog_us(key)
        for one in self.gates():
            if key in one.lane.keys:
                one.obey(key, limit, reduced)
        if reduced.capacity < old.capacity and reduced.unit != "concurrent":
            # What was spent is a larger part of a smaller limit.
            self.store.observe(key, min(-(-spent_us * old.capacity // reduced.capacity), reduced.burst_us))

    def own(self, gate: Gate) -> tuple[Limit, ...]:
        """The limits that were given by hand for a gate's model."""
        return self._own.of(gate.lane.name)

    def _open(self, model: str) -> Gate:
        name, full, parts = self._find(model)
        pools = [pool for pool in self._pools if pool.models is None or name in pool.models]
        shared = [(limit.name, limit) for pool in pools if pool.above is None for limit in pool.limits]
        if not full and not shared:
            raise ConfigError(f"no limits are known for {name}")
        gate = self._gate(name, name, [(f"{name}:{limit.name}", limit) for limit in full] + shared)
        # A separate pool takes the place of the model's own limits only: what all pass together counts its requests.
        # So do the slots: how many may be in the air at once is nothing that a pool of the server's says.
        shared = [(f"{name}:{limit.name}", limit) for limit in full if limit.unit == "concurrent"] + shared
        own = [
            (pool.above, self._separate(f"{pool.name}>{pool.above}", pool.name, pool.limits, shared, gate.line))
            for pool in pools
            if pool.above is not None
        ]
        longer = own or [
            (
                part.above,
                self._separate(f"{name}>{part.above}", f"{name} above {part.above:,}", part.limits, shared, gate.line),
            )
            for part in parts
            if part.above is not None
        ]
        gate.longer = tuple(sorted(longer, key=lambda entry: -entry[0]))
        for tier, limits in ((part.service_tier, part.limits) for part in parts if part.service_tier is not None):
            gate.served[tier] = self._separate(f"{name}@{tier}", f"{name} {tier}", limits, shared, gate.line)
        return gate

    def _separate(
        self, key: str, name: str, limits: tuple[Limit, ...], shared: list[tuple[str, Limit]], line: Line
    ) -> Gate:
        """The gate of requests that pass limits of their own in the place of the model's, in its line if they share."""
        shared = [(one, limit) for one, limit in shared if limit.name not in {each.name for each in limits}]
        kind = "+".join([key, *(one for one, _ in shared)])
        return self._gate(
            kind, name, [(f"{key}:{limit.name}", limit) for limit in limits] + shared, line if shared else None
        )

    def _gate(self, kind: str, name: str, limits: list[tuple[str, Limit]], line: Line | None = None) -> Gate:
        gate = self._gates_by_pool.get(kind)
        if gate is None:
            keys, full = tuple(key for key, _ in limits), tuple(limit for _, limit in limits)
            # Lanes that share a limit stand in one line, and any two may come to share one with a third.
            if line is None:
                line = self._shared_line if self._pools else Line(self.priorities, self._max_queue)
            fresh = Gate(self.store, self.clock, Lane(name, self._reduced(full), keys), full, line, self.signals)
            fresh.ramp = self.feedback.ramp
            gate = self._gates_by_pool.setdefault(kind, fresh)  # another thread may have been quicker
        return gate

    def _find(self, model: str) -> tuple[str, tuple[Limit, ...], tuple[Part, ...]]:
        name = canonical(model)
        own = self._own.of(name)
        if self.tier is None:
            if not own and self._own.by_model:
                raise ConfigError(f"limits are given for {', '.join(self._own.by_model)}, and none for {model!r}")
            return name, own, ()
        table = self.tables
        try:
            full, parts = replaced(table.limits(name, self.tier), own), table.parts(name, self.tier)
            return table.pool(name, self.tier), full, parts
        except ConfigError:
            if not own:
                raise
            return name, own, ()  # the table has no limits for it, somebody else has

    def _knows(self, model: str) -> bool:
        try:
            self._find(model)
        except (ConfigError, NotOffered):
            return False
        return True

    def _reduced(self, limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
        if not self._headroom_ppm:
            return limits
        share = 1_000_000 - self._headroom_ppm
        return tuple(replace(limit, capacity=max(1, limit.capacity * share // 1_000_000)) for limit in limits)


def wait_us(max_wait: float) -> int:
    """Read max_wait (s) as µs. Raises ConfigError when it is no number of seconds."""
    return read_wait_us("max_wait", max_wait)
