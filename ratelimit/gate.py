"""A gate: one lane of limits, the line in front of it, and the arithmetic both shells share. It never waits."""

from __future__ import annotations

from .clock import US_PER_S, Clock
from .demand import Demand
from .errors import NeverFits, WouldWait
from .limit import Limit
from .line import Line
from .stores.base import Lane, Store


class Gate:
    """Everything the two shells need to wait for one lane.

    full     (n,)  the limits before headroom was taken off
    look_us  µs    when the headers of a reply are worth looking at again
    """

    __slots__ = ("clock", "full", "lane", "line", "look_us", "store", "units")

    def __init__(self, store: Store, clock: Clock, lane: Lane, full: tuple[Limit, ...]) -> None:
        self.store = store
        self.clock = clock
        self.lane = lane
        self.full = full
        self.look_us = 0
        self.line = Line(len(lane.limits))
        self.units = tuple(limit.unit for limit in lane.limits)

    def obey(self, index: int, full: Limit, reduced: Limit) -> None:
        """Put another limit in the place of one; its bucket stays, and who stands in line keeps its charges."""
        self.full = (*self.full[:index], full, *self.full[index + 1 :])
        limits = self.lane.limits
        self.lane = self.lane._replace(limits=(*limits[:index], reduced, *limits[index + 1 :]))

    def charges_us(self, demand: Demand) -> tuple[int, ...]:
        """Turn a demand into bucket time per limit. Raises NeverFits when a limit could never admit it."""
        charges = []
        for limit, unit in zip(self.lane.limits, self.units, strict=True):
            amount = demand.tokens if unit == "tokens" else demand.requests if unit == "requests" else demand.images
            charge_us = -(-amount * limit.period_us // limit.capacity)
            if charge_us > limit.burst_us:
                raise NeverFits(limit=limit.name, demand=amount, capacity=limit.largest, model=self.lane.name)
            charges.append(charge_us)
        return tuple(charges)

    def wait_us(self, charges_us: tuple[int, ...]) -> tuple[int, str]:
        """Foresee how long a newcomer with these charges would wait behind the line, and on which limit."""
        longest, name = 0, self.lane.limits[0].name
        for limit, key, ahead_us, charge_us in zip(
            self.lane.limits, self.lane.keys, self.line.ahead_us(), charges_us, strict=True
        ):
            if charge_us:
                spent_us = self.store.backlog_us(key) + self.store.slack_us(key)
                wait_us = spent_us + ahead_us + charge_us - limit.burst_us
                if wait_us > longest:
                    longest, name = wait_us, limit.name
        return longest, name

    def check_wait(self, charges_us: tuple[int, ...], max_wait_us: int | None) -> None:
        """Refuse at once, before standing in line, what could not be admitted within `max_wait_us`."""
        if max_wait_us is not None:
            wait_us, name = self.wait_us(charges_us)
            if wait_us > max_wait_us:
                raise WouldWait(limit=name, retry_after_s=wait_us / US_PER_S, max_wait_s=max_wait_us / US_PER_S)

    def deadline_us(self, max_wait_us: int | None) -> int | None:
        return None if max_wait_us is None else self.clock.now_us() + max_wait_us

    def patience_us(self, deadline_us: int | None) -> int | None:
        return None if deadline_us is None else max(1, deadline_us - self.clock.now_us() + 1)

    def check_deadline(self, deadline_us: int | None, wait_us: int, max_wait_us: int | None) -> None:
        """Give up when waiting `wait_us` more would pass the deadline: the line moved slower than foreseen."""
        if deadline_us is not None and max_wait_us is not None and self.clock.now_us() + wait_us > deadline_us:
            name = max(zip(self.lane.keys, self.lane.limits, strict=True), key=lambda kl: self.store.backlog_us(kl[0]))[
                1
            ].name
            raise WouldWait(
                limit=name,
                retry_after_s=max(wait_us, 1) / US_PER_S,
                max_wait_s=max_wait_us / US_PER_S,
            )
