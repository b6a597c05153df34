"""Which limits each request passes in an account, and what it takes of each: the limiter's own lanes, by column."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from pricing.export import needed

from ..errors import ConfigError, NotOffered
from ..gate import Gate
from ..limit import Limit, Limits, Pools
from ..limiter import Limiter
from ..stores.base import KINDS
from ..stores.decide import INITIAL_SLACK_US, MAX_SLACK_SHARE
from ..tiers import TierTable, load_tiers
from .schedule import Rule

if TYPE_CHECKING:
    from .workload import Ints, Workload


class Account(NamedTuple):
    """The limits of an account, as a Limiter takes them.

    concurrency  most requests in the air at once
    """

    tier: str | None = None
    limits: Limits | None = None
    pools: Pools | None = None
    headroom: float = 0.0
    concurrency: int = 1000
    at: date | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        own = "own limits" if self.limits or self.pools else ""
        return " with ".join(part for part in (self.tier, own) if part)

    def limiter(self) -> Limiter:
        """A limiter of these limits that nothing has passed yet. Raises ConfigError as Limiter does."""
        return Limiter(
            self.tier,
            limits=self.limits,
            pools=self.pools,
            headroom=self.headroom,
            preflight="off",
            at=self.at,
        )


class Lanes(NamedTuple):
    """Limits as they meet requests.

    rules              each limit, and what each request takes of it; all that `goes` takes
    line     (n,)      the line each stands in: lanes that share a limit stand in one
    goes     (n,)      whether it can be sent at all
    refused            reason → how many cannot
    limits             of each rule, as it is in force
    """

    rules: tuple[Rule, ...]
    line: Ints
    goes: Any
    refused: dict[str, int]
    limits: tuple[Limit, ...]


def lanes(work: Workload, account: Account) -> Lanes:
    """Say which limits requests pass in an account, and in which lines they stand.

    Raises  ConfigError when the account is none
    """
    np = needed("numpy", extra="pandas")
    limiter, count = account.limiter(), len(work)
    line, goes = np.zeros(count, np.int64), np.ones(count, bool)
    units = {"requests": np.ones(count, np.int64), "tokens": work.charged, "images": work.images}
    charges: dict[str, Any] = {}
    limits: dict[str, Limit] = {}
    names: dict[str, str] = {}
    refused: dict[str, int] = {}
    numbers: dict[int, int] = {}

    def refuse(which: Any, reason: str) -> None:
        goes[which] = False
        refused[reason] = refused.get(reason, 0) + int(which.sum())

    for model, tier in _pairs(np, work):
        members = (work.model == model) & (work.tier == tier)
        try:
            gates = _gates(limiter, work.models[model], work.tiers[tier])
        except (NotOffered, ConfigError) as error:
            refuse(members, str(error))
            continue
        # The longest first, as the limiter asks; the last one takes the rest.
        for above, gate in gates:
            mine = members & (work.input > above)
            members = members & ~mine
            if not mine.any():
                continue
            line[mine] = numbers.setdefault(id(gate.line), len(numbers))
            lane = gate.lane
            for place, (limit, key) in enumerate(zip(lane.limits, lane.keys, strict=True)):
                column = charges.setdefault(key, np.zeros(count, np.int64))
                limits[key] = limit
                names.setdefault(key, f"{limit.name} of {lane.name}" if ":" in key else limit.name)
                if limit.unit == "concurrent":
                    column[mine] = 1
                    continue
                kind, period_us, capacity, burst_us = lane.plan[place]
                column[mine] = -(-units[KINDS[kind]][mine] * period_us // capacity)
                never = mine & (column > burst_us) & goes
                if never.any():
                    most = int(units[KINDS[kind]][never].max())
                    what = f"{limit.name} of {lane.name}"
                    refuse(never, f"takes more than {what} ever lets through at once ({most:,} > {limit.largest:,})")
    rules = []
    for key, column in charges.items():
        limit = limits[key]
        column[~goes] = 0
        if limit.unit == "concurrent":
            rules.append(Rule(names[key], column, 0, slots=limit.capacity))
        else:
            window_us = limit.burst_us if limit.window else 0
            rules.append(Rule(names[key], column, limit.burst_us, window_us, _slack_us(limit)))
    return Lanes(tuple(rules), line, goes, {reason: n for reason, n in refused.items() if n}, tuple(limits.values()))


def _slack_us(limit: Limit) -> int:
    """What the limiter keeps of a burst for delay jitter while nothing is known of the way."""
    return min(INITIAL_SLACK_US, limit.burst_us // MAX_SLACK_SHARE)


def _pairs(np: Any, work: Workload) -> list[tuple[int, int]]:
    """The models and service tiers that requests ask for together."""
    keys = np.unique(work.model * max(1, len(work.tiers)) + work.tier)
    return [divmod(key, max(1, len(work.tiers))) for key in keys.tolist()]


def _gates(limiter: Limiter, model: str, tier: str) -> list[tuple[int, Gate]]:
    """The gates of a model's requests: (above so many input tokens, gate), largest first."""
    gate = limiter.gate(model)
    if tier in gate.served:
        return [(-1, gate.served[tier])]
    return [*gate.longer, (-1, gate)]


def batch_queue(model: str, tier: str | None, tables: TierTable | None = None) -> int | None:
    """How many input tokens of a model may wait in the Batch API; None where nothing is published.

    Raises  NotOffered when the tier does not have the model
    """
    from ..limit import canonical

    if tier is None:
        return None
    try:
        return (tables or load_tiers()).batch_queue_tokens(canonical(model), tier)
    except NotOffered:
        raise
    except ConfigError:
        return None
