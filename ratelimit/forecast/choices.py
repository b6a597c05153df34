"""What else could be chosen: tiers, modes and models, and the cheapest of them that meets a deadline and a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pricing.budget import FREE, Budget
from pricing.cards import resolve
from pricing.export import needed
from pricing.money import Usd
from pricing.spend import Interval, Spending

from ..clock import US_PER_S
from ..errors import ConfigError, NotOffered
from ..limit import canonical
from ..tiers import load_tiers
from .lanes import Account, batch_queue, gone
from .outlook import Outlook, Span

if TYPE_CHECKING:
    from .workload import Workload

BATCH_US = 24 * 3_600 * US_PER_S
"""Within so long a batch is done, or what is left of it expires. Source: the Batch API guide."""
WINDOWS_US = {"window_2h": 2 * 3_600 * US_PER_S, "window_8h": 8 * 3_600 * US_PER_S}
"""Within so long after its admission a background request of a discounted completion window is done."""
QUEUE = "batch queue"
BATCH = "batch"


class Choice(NamedTuple):
    """One way to have a job done.

    tier        of the account; or its own limits
    mode        online, flex, batch, window_2h, window_8h
    models      model → the one in its place; empty: those of the job
    cost        Interval of pico-dollars, of the requests that it does; None where none of them has a price
    duration    Span; None where it is not known, or only a bound is
    at_most_us  a bound on the duration; None where none is published
    binding     what takes most of the time
    requests    how many it does; missing: how many it does not, because they have no price, or cannot be sent
    notes       what a reader should know
    foreseen    False: what a budget does to it is not known, so it meets none
    """

    tier: str
    mode: str
    models: Mapping[str, str]
    cost: Interval | None
    duration: Span | None
    at_most_us: int | None
    binding: str
    requests: int
    missing: int
    notes: tuple[str, ...]
    foreseen: bool = True

    def slowest_us(self) -> int | None:
        """By when it is done in nineteen of twenty cases, or at the latest; None where nobody knows."""
        return self.at_most_us if self.duration is None else self.duration.p95

    def meets(self, deadline_us: int | None, budget: Usd | None) -> bool:
        """Whether it does the whole job, by the deadline and within the budget in nineteen of twenty cases."""
        if self.missing or self.cost is None or not self.requests or not self.foreseen:
            return False
        slowest_us = self.slowest_us()
        if deadline_us is not None and (slowest_us is None or slowest_us > deadline_us):
            return False
        return budget is None or self.cost.p95 <= budget.pico


def cheapest(choices: Iterable[Choice], deadline_us: int | None, budget: Usd | None, own: str) -> Choice | None:
    """The cheapest choice that meets a deadline and a budget; of equal cost one's own tier, then the fastest."""
    met = [choice for choice in choices if choice.meets(deadline_us, budget)]

    def rank(choice: Choice) -> tuple[int, bool, bool, int]:
        slowest_us = choice.slowest_us()
        assert choice.cost is not None
        return choice.cost.p50, choice.tier != own, slowest_us is None, slowest_us or 0

    return min(met, key=rank, default=None)


def choice_of(
    mode: str, account: Account, models: Mapping[str, str], work: Workload, spending: Spending, online: Outlook
) -> Choice:
    """Say what a mode comes to that goes through the same limits, given what the requests come to there."""
    notes = [*spending.unpriced, *online.refused]
    duration, at_most_us = online.duration, None
    if mode in WINDOWS_US:
        last_us = int(online.schedule.act_us.max(initial=0))
        duration, at_most_us = None, last_us + WINDOWS_US[mode]
    elif mode == "flex":
        duration = None
        notes.append("how much longer flex replies take, nobody says; when resources are short, they are refused (429)")
    done = spending.requests
    return Choice(
        account.name, mode, models, spending.cost, duration, at_most_us, online.binding, done, len(work) - done,
        tuple(notes),
    )  # fmt: skip


def batch_choice(
    account: Account, models: Mapping[str, str], work: Workload, cost: Callable[[str, Any], Spending],
    budget: Budget | None,
) -> Choice:  # fmt: skip
    """Say what the Batch API comes to.

    cost    (mode, which requests go) → Spending
    budget  of a window, where there is one: whether batches wait for it, and for how long, nobody knows
    """
    at_most_us, binding, goes, said = _batch(work, account)
    spending = cost(BATCH, goes)
    notes, foreseen = [*spending.unpriced, *said], True
    if budget is not None and spending.cost is not None:
        open_ = budget.amount.pico // (FREE if budget.action == "slow" else 1)
        if spending.cost.p95 > open_:
            at_most_us, foreseen = None, False
            notes.append(f"what a budget of {budget} does to batches that cost more is not foreseen")
    done = spending.requests
    return Choice(
        account.name, BATCH, models, spending.cost, None, at_most_us, binding, done, len(work) - done, tuple(notes),
        foreseen,
    )  # fmt: skip


def _batch(work: Workload, account: Account) -> tuple[int | None, str, Any, list[str]]:
    """How long batches take at most: so many rounds of a full queue, one day each.

    → µs (None: the queue is not published), what binds, (n,) which requests can be enqueued, notes
    """
    np = needed("numpy", extra="pandas")
    rounds, notes, unknown = 0, list[str](), False
    goes = np.ones(len(work), bool)
    for place, model in enumerate(work.models):
        mine = work.model == place
        if not mine.any():
            continue
        no = gone(model, account.at)
        try:
            queue = batch_queue(model, account.tier)
        except NotOffered as error:
            no = no or str(error)
        if no is not None:
            goes[mine] = False
            notes.append(no)
            continue
        if queue is None:
            unknown = True
            notes.append(f"no batch queue is published for {canonical(model)} in {account.name}")
            continue
        over = mine & (work.input > queue)
        if over.any():
            goes &= ~over
            notes.append(f"{int(over.sum()):,} of more input tokens than the whole batch queue of {queue:,}")
        sums, done, turns = np.cumsum(work.input[mine & goes]), 0, 0
        while done < len(sums):
            before = int(sums[done - 1]) if done else 0
            done = int(np.searchsorted(sums, before + queue, side="right"))
            turns += 1
        rounds = max(rounds, turns)
    if unknown or not goes.any():
        return None, QUEUE if unknown else "", goes, notes
    if rounds > 1:
        notes.append(f"{rounds:,} rounds of a full batch queue")
    return rounds * BATCH_US, QUEUE if rounds > 1 else "the batch window of 24 h", goes, notes


def tiers_for(models: Sequence[str]) -> list[str]:
    """The tiers, of every scheme, that have limits for one of these models at least."""
    tables = load_tiers()
    found = []
    for tier in dict.fromkeys(name for scheme in tables.schemes for name in scheme.tiers):
        for model in models:
            try:
                tables.limits(canonical(model), tier)
            except (ConfigError, NotOffered):
                continue
            found.append(tier)
            break
    return found


def replacements(models: Iterable[str], at: date | None) -> tuple[dict[str, str], list[str]]:
    """What the tables name in the place of models that are retired, or will be.

    → model → replacement, and facts in words
    """
    today = at or datetime.now(UTC).date()
    instead, facts = dict[str, str](), []
    for model in models:
        card = resolve(model)
        if card is None or card.shutdown is None:
            continue
        gone = card.shutdown <= today
        days = (card.shutdown - today).days
        when = f"was shut down on {card.shutdown}" if gone else f"shuts down on {card.shutdown}, in {days:,} days"
        if card.replacement is None:
            facts.append(f"{model} {when}")
        else:
            instead[model] = card.replacement
            facts.append(f"{model} {when}; {card.replacement} takes its place")
    return instead, facts


def read_swap(text: str) -> tuple[str, str]:
    """Read "o3-pro=gpt-6.1-sol". Raises ConfigError when it is no pair of models."""
    model, sign, other = (part.strip() for part in text.partition("="))
    if not sign or not model or not other or model == other:
        raise ConfigError(f"--swap takes a model and the one in its place, such as o3-pro=gpt-6.1-sol, not {text!r}")
    return model, other
