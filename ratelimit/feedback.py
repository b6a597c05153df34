"""What the server's answers teach a limiter: how full its buckets are, how large its limits, and when to stop.

Observations tighten at once. They loosen only towards the table (or the setting), and only when two replies agree; a
limit larger than that is reported, and taken over only with `adopt`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from .errors import warn
from .gate import Gate
from .headers import Observation, Refusal
from .limit import KNOWN, MINUTE_US, US_PER_S, Limit, named
from .stores.decide import MAX_SLACK_US

if TYPE_CHECKING:
    from .limiter import Limiter

RAMP_STEP, RAMP_EVERY_US = (3, 2), 15 * 60_000_000
"""After "slow down": at most half as much again every 15 minutes. Source: the error-codes guide (Aug–Oct 2026)."""
SLOW_DOWN_ONCE_US = 10_000_000
"""One "slow down" counts for this long: the replies of a burst say it all at once."""
WINDOWS_US = (1_000_000, 10_000_000)
"""Windows that servers are known to enforce, beside the whole period: a second (OpenAI's help text), ten (Azure)."""
EXACT_US = 50_000
"""How far the time that a bucket tells may be off: clocks, rounding, and what else arrived in between."""
LONGEST_COOL_DOWN_US = 3_600 * US_PER_S
"""No 429 holds everybody back for longer, whatever it says: then one is sent to see."""
COOL_DOWN_US = 1_000_000
"""How long to hold back after a 429 that says neither which limit was reached nor for how long."""
JITTER = 0.1
"""A cool-down lasts up to a tenth longer than told, so that many processes do not come back at once."""


class Feedback:
    """The learning side of one limiter.

    adopt  take over limits that the server shows even where they are larger than the table's
    """

    __slots__ = ("_adopt", "_limiter", "_notices")

    def __init__(self, limiter: Limiter, adopt: bool) -> None:
        self._limiter = limiter
        self._adopt = adopt
        self._notices: deque[str] = deque()

    def refused(self, gate: Gate, refusal: Refusal, retry_after_us: int | None) -> None:
        """Learn from a temporary 429 that the server's buckets are fuller than ours.

        refusal         its body, read
        retry_after_us  µs, from its headers; None where they do not say

        Where the message names the limit and what is used of it, our bucket rises to the server's, and its burst
        shrinks by the time we were early: that is how far the delay jitter exceeded the margin. Else everybody holds
        back for as long as the server says, and the burst is taken to be spent.
        """
        early_us = refusal.retry_after_us if refusal.retry_after_us is not None else retry_after_us
        now_us = gate.clock.now_us()
        if self._limiter.signals.listeners:
            self._limiter.signals.emit(
                "refused", now_us, gate.lane.name, refusal.limit_name, why=refusal.kind, wait_us=early_us
            )
        if refusal.kind == "quota":
            self._limiter.signals.stop(refusal.code, refusal.message, now_us)
            for one in self._limiter.gates():
                one.line.wake_all()
        elif refusal.kind == "slow_down":
            self._slow_down(gate, now_us)
            self.cool_down(gate, early_us)
        elif refusal.kind != "too_large":
            gate.edges = False  # somebody's resets may mean something else; then windows are left when ours say so
            if not self._known(gate, refusal, early_us):
                self.cool_down(gate, early_us)
        gate.line.nudge()

    def _known(self, gate: Gate, refusal: Refusal, early_us: int | None) -> bool:
        """Take in what the message says of a limit; False when it says nothing of one of ours."""
        store, spoken_of = gate.store, _spoken_of(gate, refusal)
        if spoken_of is None or not refusal.limit or refusal.used is None:
            return False
        key, known = spoken_of
        if refusal.limit != known.capacity:
            self._differs(gate, known, refusal.limit, gate.clock.now_us())
            known = _of(gate.full, known.name)
        window_us = self._learn_window(gate, known, refusal, early_us)
        # Our capacity may be smaller than the server's (headroom): bucket time is what they have in common.
        used = refusal.used
        if used > refusal.limit and (window_us or not _agrees(refusal, known, early_us)):
            used = refusal.limit
        spent_us = -(-used * (window_us or known.period_us) // refusal.limit)
        store.observe(key, spent_us - (0 if window_us else _beyond_us(known)), early_us)
        store.widen(key, min(store.slack_us(key) + (early_us or 0), MAX_SLACK_US))
        return True

    def _learn_window(self, gate: Gate, known: Limit, refusal: Refusal, early_us: int | None) -> int:
        """Find out from a refusal that no bucket would have made that the server counts per window, and of what length.

        A continuous bucket says "try again in (used + requested − limit) / limit × period", to the millisecond. What
        is told a much longer time meets the edge of a window; what is refused although its numbers fit meets a shorter
        one. The time until its edge is the least that the window can be, and it is large enough for the request. Two
        such refusals in a row make it so: one may be a server that rounds, or somebody else's doing.

        → µs; 0 for a bucket
        """
        in_force_us = known.burst_us if known.window else 0
        if early_us is None or refusal.requested is None or refusal.used is None or not refusal.limit:
            return in_force_us
        over = refusal.used + refusal.requested - refusal.limit
        exact_us = over * known.period_us // refusal.limit
        if early_us % US_PER_S == 0:
            exact_us = -(-exact_us // US_PER_S) * US_PER_S  # told in whole seconds
        if over > 0 and early_us <= exact_us + EXACT_US:
            # A bucket's own words; or those of a window just before its edge, so only a time that is not short tells
            # them apart, and once is not enough to unlearn a window.
            if exact_us <= 2 * EXACT_US or early_us < exact_us - EXACT_US:
                return in_force_us
            gate.odd[known.name] = min(gate.odd.get(known.name, 0), 0) - 1
            table = _of(gate.table, known.name)
            if known.window and not table.window and gate.odd[known.name] <= -3:
                self._limiter.adopt(gate, replace(known, burst_us=table.burst_us, window=False))
                return 0
            return in_force_us
        needs_us = refusal.requested * known.period_us // refusal.limit
        window_us = next((one for one in WINDOWS_US if early_us <= one and needs_us <= one), known.period_us)
        if known.window and window_us <= known.burst_us:
            gate.odd[known.name] = 0
            return in_force_us  # known already, and the time it says is within it
        if window_us > known.period_us:
            return in_force_us
        gate.odd[known.name] = max(gate.odd.get(known.name, 0), 0) + 1
        if gate.odd[known.name] < 2:
            return in_force_us
        self._limiter.adopt(gate, replace(known, burst_us=window_us, window=True))
        self._tell(
            f"{gate.lane.name}: the server counts {known.name} per {window_us // US_PER_S} s instead of refilling "
            f"continuously; that is obeyed. To declare it: Limit({known.name!r}, {known.unit!r}, {known.capacity}, "
            f"{known.period_us}, burst_us={window_us}, window=True)"
        )
        return window_us

    def cool_down(self, gate: Gate, wait_us: int | None) -> None:
        """Hold everybody at this gate back for so long; after that the limit is used at its rate, without a burst."""
        wait_us = COOL_DOWN_US if wait_us is None else min(wait_us, LONGEST_COOL_DOWN_US)
        wait_us += int(wait_us * JITTER * random.random())
        lane = gate.lane
        key, known = min(zip(lane.keys, lane.limits, strict=True), key=_holds_back)
        gate.store.close(key, wait_us)
        if known.period_us <= MINUTE_US and not known.window and known.unit != "concurrent":
            gate.store.observe(key, known.burst_us + wait_us - known.charge_us(1))

    def _slow_down(self, gate: Gate, now_us: int) -> None:
        """Use less of the largest limit; every quarter of an hour it may be half as much again, up to the table's."""
        known = next((limit for limit in gate.full if limit.unit == "tokens"), gate.full[0])
        if now_us < gate.slowed_us + SLOW_DOWN_ONCE_US:
            return  # what was in the air when it came tells nothing new
        gate.slowed_us, gate.ramp_us, gate.ramp_name = now_us, now_us + RAMP_EVERY_US, known.name
        slower = max(1, known.capacity * RAMP_STEP[1] // RAMP_STEP[0])
        self._limiter.adopt(gate, replace(known, capacity=slower))
        self._tell(f"{gate.lane.name}: the server asks to slow down; {known.name} is {slower:,} and rises again slowly")

    def ramp(self, gate: Gate) -> None:
        """Raise a limit that was slowed down, by one step for every quarter of an hour that has passed."""
        while gate.ramp_us and gate.clock.now_us() >= gate.ramp_us:
            known, table = _of(gate.full, gate.ramp_name), _of(gate.table, gate.ramp_name)
            faster = min(table.capacity, known.capacity * RAMP_STEP[0] // RAMP_STEP[1] + 1)
            gate.ramp_us = gate.ramp_us + RAMP_EVERY_US if faster < table.capacity else 0
            self._limiter.adopt(gate, replace(known, capacity=faster))

    def headers(self, gate: Gate, seen: Iterable[Observation], age_us: int) -> None:
        """Learn from the headers of a reply how full the server's buckets are, and how large.

        seen    what the headers say (ratelimit.headers.observations)
        age_us  µs since the request was sent: so much has been refilled at least

        A bucket fuller than ours means that somebody else uses the limit, or that requests are charged more than we
        thought.
        """
        store = gate.store
        for name, capacity, backlog_us in seen:
            if name.startswith("project-") and all(known.name != name for known in gate.full):
                self._found(gate, name, capacity)
            if gate.lane.windowed and _of_a_window(gate, name, capacity):
                continue
            for key, known in zip(gate.lane.keys, gate.full, strict=False):
                if name != known.name:
                    continue
                if _alike(known):
                    if capacity != known.capacity:
                        self._differs(gate, known, capacity, gate.clock.now_us() - age_us)
                    else:
                        gate.seen.pop(name, None)
                        gate.told_us = gate.clock.now_us()
                    # Delays alone let the server lag behind our books, by no more than the margin kept for them.
                    # Of a window they tell a share, and nothing that could be added to what is in the air.
                    spent_us = backlog_us - age_us - _beyond_us(known)
                    if not known.window and spent_us - store.backlog_us(key) > store.slack_us(key):
                        store.observe(key, spent_us)
                break

    def _found(self, gate: Gate, name: str, capacity: int) -> None:
        """Obey a project's limit that the account's table cannot know."""
        limit = replace(named(name.removeprefix("project-"), capacity), name=name)
        self._limiter.adopt(gate, limit)
        self._tell(f"{gate.lane.name}: the project has a limit of its own, {name} {capacity:,}; it is obeyed")

    def _differs(self, gate: Gate, known: Limit, capacity: int, sent_us: int) -> None:
        """Take in that the server's limit is not what we obey: a smaller one at once, a larger one with care.

        sent_us  µs  when the request was sent whose reply says so: a slow one may tell what was true before
        """
        limiter, name = self._limiter, known.name
        table = _of(gate.table, name)
        own = table in limiter.own(gate)
        ours = "the setting" if own else "the server" if name.startswith("project-") else f"the table's {limiter.tier}"
        if own and capacity > table.capacity:
            capacity = table.capacity  # using less than there is was somebody's decision
        head = f"{gate.lane.name}: the server's {name} is {capacity:,}, {ours} says {table.capacity:,}; "
        aim = capacity if self._adopt else min(capacity, table.capacity)
        if aim > known.capacity and gate.ramp_us:
            return  # it was slowed down for another reason
        if aim > known.capacity and sent_us < gate.lowered_us.get(name, 0):
            return
        if aim > known.capacity:
            agreed, gate.seen[name] = gate.seen.get(name) == aim, aim
            if not agreed:
                aim = known.capacity
        else:
            gate.seen.pop(name, None)  # two replies agree only if none between them said otherwise
        if capacity <= known.capacity:
            gate.told_us = gate.clock.now_us()
        if aim < known.capacity:
            gate.lowered_us[name] = gate.clock.now_us()
        if aim != known.capacity:
            limiter.adopt(gate, replace(known, capacity=aim))
            if aim != table.capacity:
                self._tell(head + "the server's is obeyed from now on")
        elif capacity > table.capacity and not self._adopt:
            self._tell(head + f'to use it: limits={{"{gate.lane.name}": {{"{name}": {capacity}, …}}}}, or adopt=True')

    def _tell(self, text: str) -> None:
        limiter = self._limiter
        if limiter.signals.listeners:
            limiter.signals.emit("corrected", limiter.clock.now_us(), text.partition(": ")[0], why=text)
        if text not in self._limiter.warned:
            self._limiter.warned.add(text)
            self._notices.append(text)

    def tell(self) -> None:
        """Give the warnings that came up after a reply: there, a warning that is an error would have lost it."""
        while self._notices:
            try:
                text = self._notices.popleft()
            except IndexError:
                return  # another thread has told it
            warn(text)


def _of(limits: Iterable[Limit], name: str) -> Limit:
    """The limit of this name."""
    return next(limit for limit in limits if limit.name == name)


def _spoken_of(gate: Gate, refusal: Refusal) -> tuple[str, Limit] | None:
    """Which of our limits a 429 speaks of, and its key; None for none.

    It says "tokens per min", be it the model's own limit or a pool's: the number tells them apart, and else the model's
    own goes first.
    """
    found = [
        (known.capacity != refusal.limit, known.name != refusal.limit_name, place, key, known)
        for place, (key, known) in enumerate(zip(gate.lane.keys, gate.full, strict=False))  # one may just be added
        if known.name.rpartition("-")[2] == refusal.limit_name and _alike(known)
    ]
    return min(found)[3:] if found else None


def _agrees(refusal: Refusal, known: Limit, early_us: int | None) -> bool:
    """Say whether the time that a 429 tells is as long as its numbers make it: what was lowered may be overdrawn."""
    if early_us is None or not refusal.limit or refusal.used is None or refusal.requested is None:
        return False
    over = refusal.used + refusal.requested - refusal.limit
    return early_us >= (over - 1) * known.period_us // refusal.limit - EXACT_US  # used is rounded up to a whole unit


def _alike(known: Limit) -> bool:
    """Say whether the server's words about the limit of this name are about this limit: they mean the usual period."""
    usual = KNOWN.get(known.name.rpartition("-")[2])
    return usual is not None and usual == (known.unit, known.period_us)


def _beyond_us(known: Limit) -> int:
    """What the server may have spent of a period before it touches a burst that is shorter."""
    return known.period_us - known.burst_us


def _of_a_window(gate: Gate, name: str, capacity: int) -> bool:
    """Say whether what seems to be about one limit is about a window: its reset is in no proportion to what it took."""
    return any(known.window and known.capacity == capacity and known.name != name for known in gate.full)


def _holds_back(pair: tuple[str, Limit]) -> tuple[bool, int]:
    """Order limits by how well they hold everybody back: a minute's, that every request is charged for."""
    return pair[1].period_us > MINUTE_US, ("requests", "tokens", "concurrent", "images").index(pair[1].unit)
