"""A gate: one lane of limits, the line in front of it, and the arithmetic both shells share. It never waits."""

from __future__ import annotations

from collections.abc import Sequence

from .clock import US_PER_S, Clock
from .demand import Demand
from .errors import NeverFits, WouldWait
from .events import Signals
from .limit import Limit
from .line import Line
from .stores.base import Claim, Lane, Store
from .ticket import Ticket


class Gate:
    """Everything the two shells need to wait for one lane.

    full      (n,)  the limits before headroom was taken off
    table     (n,)  the same as they were before the server said otherwise
    look_us   µs    when the headers of a reply are worth looking at again
    slowed_us µs    when the server last asked to slow down; ramp_us when the next step up is due, 0 for none
    longer    (…)   (input tokens, gate): what passes a pool of its own above so many input tokens, largest first
    seen            capacity by limit name that the last reply showed where it is not the one in force
    """

    __slots__ = (
        "clock",
        "full",
        "lane",
        "line",
        "longer",
        "look_us",
        "ramp_us",
        "seen",
        "signals",
        "slowed_us",
        "store",
        "table",
    )

    def __init__(
        self, store: Store, clock: Clock, lane: Lane, full: tuple[Limit, ...], line: Line, signals: Signals
    ) -> None:
        self.store = store
        self.signals = signals
        self.clock = clock
        self.full = self.table = full
        self.look_us = self.ramp_us = self.slowed_us = 0
        self.line = line
        self.longer: tuple[tuple[int, Gate], ...] = ()
        self.seen: dict[str, int] = {}
        self.lane = lane
        store.open(lane)

    def obey(self, index: int, full: Limit, reduced: Limit) -> None:
        """Put another limit in the place of one; its cell stays, and who stands in line keeps its charges."""
        self.full = (*self.full[:index], full, *self.full[index + 1 :])
        lane = self.lane
        limits = (*lane.limits[:index], reduced, *lane.limits[index + 1 :])
        self.lane = Lane(lane.name, limits, lane.keys)
        self.store.open(self.lane)
        self.line.nudge()

    def charges_us(self, demand: Demand) -> tuple[int, ...]:
        """Turn a demand into bucket time per limit. Raises NeverFits when a limit could never admit it."""
        amounts = (*demand[:3], 1)
        charges_us: list[int] = []
        for kind, period_us, capacity, burst_us in self.lane.plan:
            charge_us = -(-amounts[kind] * period_us // capacity)
            if charge_us > burst_us:
                charge_us = self._whole(amounts, charge_us, len(charges_us))
            charges_us.append(charge_us)
        return tuple(charges_us)

    def _whole(self, amounts: Sequence[int], charge_us: int, place: int) -> int:
        """What to charge for more than can be spent at once: a whole window that was only learned, else NeverFits.

        Nobody has promised that a learned window is the server's last word, so it is left to judge.
        """
        limit, declared = self.lane.limits[place], self.table[place]
        if limit.window and not declared.window and charge_us <= declared.burst_us:
            return limit.burst_us
        raise NeverFits(
            limit=limit.name, demand=amounts[self.lane.plan[place][0]], capacity=limit.largest, model=self.lane.name
        )

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

    def queued(self, ticket: Ticket) -> None:
        """Tell listeners that a request is about to join the line."""
        wait_us, limit = self.wait_us(ticket.claim, ticket.priority)
        self.signals.emit(
            "queued",
            ticket.asked_us,
            self.lane.name,
            limit,
            priority=ticket.priority,
            wait_us=wait_us,
            ahead=self.line.count,
        )

    def gave_up(self, ticket: Ticket) -> None:
        """Tell listeners that a request has left the line without being admitted."""
        now_us = self.clock.now_us()
        self.signals.emit(
            "gave_up",
            now_us,
            self.lane.name,
            ticket.limit,
            priority=ticket.priority,
            waited_us=now_us - ticket.asked_us,
        )

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
