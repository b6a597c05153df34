"""A reservation: what one request asks of its lane, then its admission, ended exactly once."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .demand import Demand
from .errors import ConfigError
from .events import Kind
from .gate import Gate
from .stores.base import Booking
from .stores.decide import MAX_SLACK_US

if TYPE_CHECKING:
    from .limiter import Limiter

QUICKEST_US = 500
"""A delay that no network is worth a thought for."""


class Reservation(Booking):
    """Admission for one request; end it with `settle` or `release`. Works as a context manager in both colours.

    demand      what is charged
    waited_us   how long the caller stood in line
    waited_for  the limit it waited for; "" when it did not wait
    gate        the gate it came through

    Raises  NeverFits when a limit of the gate could never admit the demand
    """

    __slots__ = ("demand", "gate", "waited_for", "waited_us")

    def __init__(self, gate: Gate, demand: Demand, spare_ppm: int = 0) -> None:
        lane = gate.lane  # read once: a reply may put another in force meanwhile
        Booking.__init__(self, lane, gate.charges_us(lane, demand), spare_ppm)
        self.gate = gate
        self.demand = demand
        self.waited_us = 0
        self.waited_for = ""

    @property
    def model(self) -> str:
        """The lane that admitted the request: a model, or the pool it shares."""
        return self.gate.lane.name

    def settle(self, *, tokens: int | None = None, requests: int | None = None, images: int | None = None) -> None:
        """End the reservation at what the server really charged; what is left out stays as reserved.

        Too much is refunded exactly as if history were replayed; too little is added. A second ending is a no-op.
        """
        if self.open:
            booked_requests, booked_tokens, booked_images, slots = self.demand[:4]
            if tokens is None:
                tokens = booked_tokens
            if requests is None:
                requests = booked_requests
            if images is None:
                images = booked_images
            check(requests, tokens, images)
            if tokens == booked_tokens and requests == booked_requests and images == booked_images:
                self.open = False
            else:
                amounts, gate = (requests, tokens, images, slots), self.gate
                gate.store.settle(
                    self, [-(-amounts[kind] * period_us // capacity) for kind, period_us, capacity, _ in self.lane.plan]
                )
                if gate.line.count:
                    gate.line.nudge()
                if gate.signals.listeners:
                    self._tell("settled", requests=requests, tokens=tokens, images=images)
        if self.held is not None:
            self.end()

    def release(self) -> None:
        """End the reservation as never sent: everything still outstanding goes back."""
        if self.open or self.held is not None:
            self.gate.store.release(self)
            self.gate.line.nudge()
            if self.gate.signals.listeners:
                self._tell("released")

    def _tell(self, kind: Kind, **facts: Any) -> None:
        gate = self.gate
        gate.signals.emit(kind, gate.clock.now_us(), gate.lane.name, booked_tokens=self.demand.tokens, **facts)

    def end(self) -> None:
        """End the reservation as it is: the charge stays, and what it held of a concurrency limit is free."""
        self.open = False
        if self.held is not None:
            self.gate.store.finish(self)
            self.gate.line.nudge()

    def arrived(self, delay_us: int, ago_us: int) -> None:
        """Report how long the request took to reach the server, so that the burst leaves room for such delays.

        A late request makes later, quicker ones arrive too close behind it. It only counts by what exceeds the
        backlog it found: behind a busy bucket nothing is lost (tests/laws/test_jitter.py). In a window it takes room
        for as much longer, and no longer: `ago_us` is how long it has been there at least.
        """
        store = self.gate.store
        if self.lane.windowed:
            store.arrived(self, ago_us)
            self.gate.line.nudge()
        if delay_us <= QUICKEST_US:
            return
        for key, charge_us, (cell, _, backlog_us) in zip(self.lane.keys, self.charges_us, self.place, strict=True):
            if charge_us and delay_us > backlog_us:
                excess_us = delay_us - max(0, backlog_us)
                if excess_us > cell.slack_wanted_us:
                    store.widen(key, min(excess_us, MAX_SLACK_US))

    def told(self, edges_us: Mapping[tuple[str, int], int]) -> None:
        """Learn when the server's windows are empty again: µs from now, by name of the limit and the server's capacity.

        A capacity that is not the one in force is another limit's (the day's), or one that changes: then they are left
        when ours say so.
        """
        gate = self.gate
        if not gate.edges or not edges_us:
            return
        servers = {limit.name: limit.capacity for limit in gate.full}
        for place, limit in enumerate(self.lane.limits):
            edge_us = edges_us.get((limit.name, servers[limit.name])) if limit.window else None
            if edge_us is not None and self.charges_us[place]:
                gate.store.clears(self, place, edge_us)
        gate.line.nudge()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()  # silence is safe: what was not settled stays charged

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Admission:
    """What `Limiter.areserve` returns: await it, or enter it with `async with`."""

    __slots__ = ("_limiter", "_request", "_reservation")

    def __init__(self, limiter: Limiter, *request: Any) -> None:
        self._limiter = limiter
        self._request = request

    def __await__(self) -> Generator[Any, None, Reservation]:
        return self._limiter.aadmit(*self._request).__await__()

    async def __aenter__(self) -> Reservation:
        self._reservation = await self
        return self._reservation

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reservation.end()


def check(requests: int, tokens: int, images: int) -> None:
    """Check numbers of units. Raises ConfigError when one is no whole number of at least 0."""
    if not (type(requests) is type(tokens) is type(images) is int and requests >= 0 <= tokens and images >= 0):
        for name, value in (("requests", requests), ("tokens", tokens), ("images", images)):
            if type(value) is not int or value < 0:
                raise ConfigError(f"{name} must be a whole number of at least 0, not {value!r}")
