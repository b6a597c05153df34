"""Why a request waits: what it takes of each limit, what stands in its way, how long that lasts, what it may cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pricing.cost import Unpriced
from pricing.estimate import CostRange, estimate, guess_endpoint

from .clock import US_PER_S
from .demand import Demand, normal_endpoint
from .errors import ConfigError
from .reservation import Reservation

if TYPE_CHECKING:
    from .limiter import Limiter


class Part(NamedTuple):
    """One limit's part in it. Amounts are units of the limit; seconds count from now.

    takes   what the request is charged
    spent   what is charged already and not refilled
    ahead   what those of its class who wait already are going to take
    wait_s  how long this limit alone makes it wait
    """

    limit: str
    capacity: int
    takes: int
    spent: int
    ahead: int
    wait_s: float


class Explanation(NamedTuple):
    """What would happen to a request that asked now.

    wait_s  how long it would wait at least; `limit` is the one that makes it wait, "" when nothing does
    parts   every limit of its lane
    cost    what it may cost
    halted  the code with which the server has said that the quota is spent: nothing is sent meanwhile; "" otherwise
    """

    lane: str
    priority: str
    demand: Demand
    wait_s: float
    limit: str
    waiting: int
    parts: tuple[Part, ...]
    cost: CostRange | Unpriced
    halted: str = ""

    def __str__(self) -> str:
        took = f"{self.demand.requests} request, {self.demand.tokens:,} tokens"
        head = f"{self.lane} ({self.priority}): {took}; "
        if self.halted:
            head += f"not sent: the account's quota is spent ({self.halted})"
        elif self.limit and not self.wait_s:
            head += f"waits until one of {self.limit} is free, {self.waiting} ahead in line"
        elif self.limit:
            head += f"waits {self.wait_s:.3f} s for {self.limit}, {self.waiting} ahead in line"
        else:
            head += "goes at once"
        lines, width = [head], max(4, *(len(part.limit) for part in self.parts))
        for part in self.parts:
            behind = f" + {part.ahead:,} ahead" if part.ahead else ""
            wait = f": {part.wait_s:.3f} s" if part.wait_s else ""
            lines.append(
                f"  {part.limit:<{width}}  {part.spent:,} spent{behind} + {part.takes:,} of {part.capacity:,}{wait}"
            )
        if isinstance(self.cost, Unpriced):
            lines.append(f"  {'cost':<{width}}  unpriced: {self.cost.reason}")
        else:
            lines.append(
                f"  {'cost':<{width}}  {self.cost.mean.format()} on average, {self.cost.worst.format()} at most"
            )
        return "\n".join(lines)


def explain(
    body: Mapping[str, Any],
    *,
    limiter: Limiter,
    endpoint: str | None = None,
    priority: str | None = None,
    region: str | None = None,
) -> Explanation:
    """Say what a limiter would do with this request now, and why. Nothing is charged and nobody waits.

    body      the JSON body as it would be sent
    endpoint  "/v1/responses" …; guessed from the body's shape unless given
    region    "eu" …, where the account has chosen one: its cost has the uplift

    Raises  ConfigError as for a request; NeverFits when no waiting would help
    """
    endpoint = endpoint or guess_endpoint(body)
    if endpoint is None:
        raise ConfigError('the body has neither "input" nor "messages" nor "prompt"; give endpoint=')
    guess = estimate(body, endpoint=endpoint, at=limiter.today(), region=region)
    rank = limiter.priorities.named(priority)
    gate, wanted, _ = limiter.wants(body, normal_endpoint(endpoint), guess.model, lambda: guess.input, limiter.today())
    asked = Reservation(gate, wanted, rank.spare_ppm)
    lane = asked.lane
    ahead_us = gate.line.ahead_us(asked, rank.priority)
    waits_us = gate.waits_us(asked, ahead_us)
    parts, full = [], ""
    for place, (limit, charge_us, before_us, wait_us) in enumerate(
        zip(lane.limits, asked.charges_us, ahead_us, waits_us, strict=True)
    ):
        spent_us = gate.store.backlog_us(lane.keys[place])
        takes, spent, before = (lane.units(place, us) for us in (charge_us, spent_us, before_us))
        parts.append(Part(limit.name, limit.capacity, takes, spent, before, wait_us / US_PER_S))
        if limit.unit == "concurrent" and spent + before + takes > limit.capacity:
            full = limit.name
    wait_us, name = gate.wait_us(asked, ahead_us)
    halt = limiter.signals.halt
    return Explanation(
        lane.name,
        rank.priority,
        wanted,
        wait_us / US_PER_S,
        name if wait_us else full,
        gate.line.count,
        tuple(parts),
        guess.cost,
        "" if halt is None else halt[0],
    )
