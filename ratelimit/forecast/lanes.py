"""Which limits each request passes in an account, and what it takes of each: the limiter's own lanes, by column."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pricing.cards import resolve
from pricing.export import needed
from pricing.spend import exact_sum

from ..errors import ConfigError, NotOffered
from ..gate import Gate
from ..limit import Limit, Limits, Pools, canonical
from ..limiter import Limiter
from ..preflight import shut_down
from ..stores.base import KINDS
from ..stores.decide import INITIAL_SLACK_US, MAX_SLACK_SHARE
from ..tiers import TierTable, load_tiers
from .schedule import Rule

if TYPE_CHECKING:
    from .workload import Ints, Workload

_FITS = 1 << 62
"""What 64 bits hold, with room to spare."""
_LONGEST_US = 1 << 60
"""36,000 years: nobody asks for a longer schedule, and the arithmetic stays within 64 bits."""


class Account(NamedTuple):
    """The limits of an account, as a Limiter takes them.

    concurrency  most requests in the air at once
    at           the day as of which models are there or shut down; None: today
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
    why      (n,)      place in `refused` of those that cannot; -1: it goes
    limits             of each rule, as it is in force
    """

    rules: tuple[Rule, ...]
    line: Ints
    goes: Any
    refused: dict[str, int]
    why: Any
    limits: tuple[Limit, ...]


def lanes(work: Workload, account: Account) -> Lanes:
    """Say which limits requests pass in an account, and in which lines they stand.

    Raises  ConfigError when the account is none, or the requests would take it longer than can be reckoned with
    """
    np = needed("numpy", extra="pandas")
    limiter, count = account.limiter(), len(work)
    line, goes = np.zeros(count, np.int64), np.ones(count, bool)
    why = np.full(count, -1, np.int32)
    units = {"requests": np.ones(count, np.int64), "tokens": work.charged, "images": work.images}
    charges: dict[str, Any] = {}
    limits: dict[str, Limit] = {}
    names: dict[str, str] = {}
    refused: dict[str, int] = {}
    numbers: dict[int, int] = {}

    def refuse(which: Any, reason: str) -> None:
        goes[which] = False
        refused[reason] = refused.get(reason, 0) + int(which.sum())
        why[which] = list(refused).index(reason)

    for model, tier in _pairs(np, work):
        members = (work.model == model) & (work.tier == tier)
        if (no := gone(work.models[model], account.at)) is not None:
            refuse(members, no)
            continue
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
                kind, period_us, capacity, _ = lane.plan[place]
                taken = units[KINDS[kind]][mine]
                most = int(taken.max(initial=0))
                if most > limit.largest:
                    never = np.zeros(count, bool)
                    never[mine] = taken > limit.largest
                    never &= goes
                    if never.any():
                        what = f"{limit.name} of {lane.name}"
                        more = f"({most:,} > {limit.largest:,})"
                        refuse(never, f"takes more than {what} ever lets through at once {more}")
                    most = limit.largest + 1  # too many are just too many
                    taken = np.minimum(taken, most)
                column[mine] = _charges_us(taken, most, period_us, capacity)
    rules = []
    for key, column in charges.items():
        limit = limits[key]
        column[~goes] = 0
        if limit.unit == "concurrent":
            rules.append(Rule(names[key], column, 0, slots=limit.capacity))
        else:
            window_us = limit.burst_us if limit.window else 0
            rules.append(bounded(Rule(names[key], column, limit.burst_us, window_us, _slack_us(limit))))
    return Lanes(tuple(rules), line, goes, refused, why, tuple(limits.values()))


def gone(model: str, at: date | None) -> str | None:
    """Say since when a model is shut down; None while it is there, or not known."""
    card = resolve(model)
    return None if card is None else shut_down(card, at or datetime.now(UTC).date())


def bounded(rule: Rule) -> Rule:
    """The rule itself. Raises ConfigError where its charges are more time than can be reckoned with."""
    most = int(rule.charges_us.max(initial=0)) * len(rule.charges_us)
    if most > _LONGEST_US and exact_sum(rule.charges_us) > _LONGEST_US:
        raise ConfigError(f"{rule.name}: so many requests would take more than 36,000 years")
    return rule


def _charges_us(units: Ints, most: int, period_us: int, capacity: int) -> Any:
    """What so many units, and `most` of them at most, take of a limit: to the last µs, however large the numbers."""
    if most * period_us < _FITS and capacity < _FITS:
        return -(-units * period_us // capacity)
    return -(-units.astype(object) * period_us // capacity)


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
    if tier is None:
        return None
    try:
        return (tables or load_tiers()).batch_queue_tokens(canonical(model), tier)
    except NotOffered:
        raise
    except ConfigError:
        return None
