"""A gate: one lane of limits, the line in front of it, and the arithmetic both shells share. It never waits."""

from __future__ import annotations

from .clock import US_PER_S, Clock
from .demand import Demand
from .errors import NeverFits, WouldWait
from .limit import Limit
from .line import Line
from .stores.base import Claim, Lane, Store
from .ticket import Ticket


class Gate:
    """Everything the two shells need to wait for one lane.

    full      (n,)  the limits before headroom was taken off
    table     (n,)  the same as they were before the server said otherwise
    look_us   µs    when the headers of a reply are worth looking at again
    longer    (…)   (input tokens, gate): what passes a pool of its own above so many input tokens, largest first
    seen            capacity by limit name that the last reply showed where it is not the one in force
    """

    __slots__ = ("clock", "full", "lane", "line", "longer", "look_us", "seen", "store", "table", "units")

    def __init__(self, store: Store, clock: Clock, lane: Lane, full: tuple[Limit, ...], line: Line) -> None:
        self.store = store
        self.clock = clock
        self.lane = lane
        self.full = self.table = full
        self.look_us = 0
        self.line = line
        self.longer: tuple[tuple[int, Gate], ...] = ()
        self.seen: dict[str, int] = {}
        self.units = tuple(limit.unit for limit in lane.limits)
        store.open(lane)

    def obey(self, index: int, full: Limit, reduced: Limit) -> None:
        """Put another limit in the place of one; its cell stays, and who stands in line keeps its charges."""
        self.full = (*self.full[:index], full, *self.full[index + 1 :])
        lane = self.lane
        limits = (*lane.limits[:index], reduced, *lane.limits[index + 1 :])
        self.lane = Lane(lane.name, limits, lane.keys)
        self.store.open(self.lane)
        self.line.nudge()

    def claim(self, demand: Demand, spare_ppm: int = 0) -> Claim:
        """Turn a demand into bucket time per limit. Raises NeverFits when a limit could never admit it."""
        lane = self.lane
        charges = []
        for limit, unit in zip(lane.limits, self.units, strict=True):
            if unit == "tokens":
                amount = demand.tokens
            elif unit == "requests":
                amount = demand.requests
            else:
                amount = 1 if unit == "concurrent" else demand.images
            charge_us = -(-amount * limit.period_us // limit.capacity)
            if charge_us > limit.burst_us:
                raise NeverFits(limit=limit.name, demand=amount, capacity=limit.largest, model=lane.name)
            charges.append(charge_us)
        return Claim(lane, tuple(charges), spare_ppm)

    def wait_us(self, claim: Claim, priority: str) -> tuple[int, str]:
        """Foresee how long a newcomer would wait at least behind those of its own class, and on which limit."""
        lane = claim.lane
        longest, name = 0, lane.limits[0].name
        for limit, key, ahead_us, charge_us in zip(
            lane.limits, lane.keys, self.line.ahead_us(lane, priority), claim.charges_us, strict=True
        ):
            if charge_us and limit.unit != "concurrent":
                spent_us = self.store.backlog_us(key) + self.store.slack_us(key) * (not limit.window)
                wait_us = spent_us + ahead_us + charge_us - limit.burst_us
                if wait_us > longest:
                    longest, name = wait_us, limit.name
        return longest, name

    def check_wait(self, claim: Claim, priority: str, max_wait_us: int | None) -> None:
        """Refuse at once, before standing in line, what could not be admitted within `max_wait_us`."""
        if max_wait_us is not None:
            wait_us, name = self.wait_us(claim, priority)
            if wait_us > max_wait_us:
                raise WouldWait(limit=name, retry_after_s=wait_us / US_PER_S, max_wait_s=max_wait_us / US_PER_S)

    def patience_us(self, ticket: Ticket, wait_us: int, max_wait_us: int | None) -> int:
        """How long to sleep now: what the store said, or until it is worth looking who is first.

        Raises WouldWait when that would be past max_wait: the line moved slower than foreseen
        """
        if max_wait_us is None:
            return wait_us or self.line.patience_us()
        left_us = ticket.asked_us + max_wait_us - self.clock.now_us()
        if wait_us > left_us or left_us < 0:
            raise WouldWait(
                limit=self.tightest(ticket.claim),
                retry_after_s=max(wait_us, 1) / US_PER_S,
                max_wait_s=max_wait_us / US_PER_S,
            )
        return wait_us or min(self.line.patience_us(), left_us + 1)

    def tightest(self, claim: Claim) -> str:
        """The name of the limit that makes this claim wait."""
        lane = claim.lane

        def over_us(place: int) -> int:
            spent_us = self.store.backlog_us(lane.keys[place])
            return (
                spent_us + claim.charges_us[place] - lane.limits[place].burst_us
                if claim.charges_us[place]
                else -(1 << 62)
            )

        return lane.limits[max(range(len(lane.limits)), key=over_us)].name
