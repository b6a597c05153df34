"""A reservation: admission for one request, ended exactly once."""

from __future__ import annotations

from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from .demand import Demand
from .errors import ConfigError
from .gate import Gate
from .stores.base import Booking
from .stores.memory import MAX_SLACK_US

if TYPE_CHECKING:
    from .limiter import Limiter


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
        if booking.open:
            old = self.demand
            if (
                (tokens is None or amount("tokens", tokens) == old.tokens)
                and (requests is None or amount("requests", requests) == old.requests)
                and (images is None or amount("images", images) == old.images)
            ):
                booking.open = False
            else:
                self._adjust(
                    old.tokens if tokens is None else tokens,
                    old.requests if requests is None else requests,
                    old.images if images is None else images,
                )
        if booking.holds:
            self.end()

    def _adjust(self, tokens: int, requests: int, images: int) -> None:
        booking, gate = self._booking, self.gate
        charges_us = []
        for limit, unit, booked_us in zip(booking.lane.limits, gate.units, booking.charges_us, strict=True):
            if unit == "tokens":
                charges_us.append(-(-tokens * limit.period_us // limit.capacity))
            elif unit == "requests":
                charges_us.append(-(-requests * limit.period_us // limit.capacity))
            elif unit == "images":
                charges_us.append(-(-images * limit.period_us // limit.capacity))
            else:
                charges_us.append(booked_us)
        gate.store.settle(booking, tuple(charges_us))
        gate.line.nudge()

    def release(self) -> None:
        """End the reservation as never sent: everything still outstanding goes back."""
        if self._booking.open or self._booking.holds:
            self.gate.store.release(self._booking)
            self.gate.line.nudge()

    def end(self) -> None:
        """End the reservation as it is: the charge stays, and what it held of a concurrency limit is free."""
        booking = self._booking
        booking.open = False
        if booking.holds:
            self.gate.store.finish(booking)
            self.gate.line.nudge()

    def arrived(self, delay_us: int) -> None:
        """Report how long the request took to reach the server, so that the burst leaves room for such delays.

        A late request makes later, quicker ones arrive too close behind it. It only counts by what exceeds the
        backlog it found: behind a busy bucket nothing is lost (tests/laws/test_jitter.py).
        """
        if delay_us <= self._booking.slack_us:
            return  # no limit's margin is exceeded
        lane = self._booking.lane
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


def amount(name: str, value: int) -> int:
    """Check a number of units. Raises ConfigError when it is no whole number of at least 0."""
    if type(value) is not int or value < 0:
        raise ConfigError(f"{name} must be a whole number of at least 0, not {value!r}")
    return value
