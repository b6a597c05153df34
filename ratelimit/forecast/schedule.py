"""When each of a million requests is admitted: the scheduler's decisions, computed for all of them at once.

Requests are admitted in their order (first come, first served), each at the earliest instant at which every limit that
it passes conforms, as `gcra` and `cells` decide it one by one. With S the running sum of a limit's charges, a bucket
says

    act[i] ≥ max over the m < i that it charged of (act[m] − S[m−1]) + S[i] − burst

and a window: act[i] ≥ act[p] + window, p being the last charge that does not fit together with i. A window that begins
anew at its multiples says the end of that of act[p] instead; one that opens slowly, the instant at which it is open far
enough for all that was charged since it began. Every act instant thus depends on earlier ones only, so repeating this
from below until nothing changes ends at the true instants; how often, depends on how often one limit hands over to
another, and not on the number of requests.

Integers in, integers out, as everywhere; the arrays are numpy's, which only forecasts need.

Law  equal to the scalar core, request by request (tests/forecast/test_schedule.py)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, NamedTuple

from pricing.export import needed

if TYPE_CHECKING:
    import numpy as np

    Ints = np.ndarray[Any, np.dtype[np.int64]]

NOTHING = -1
"""What a request waited for that went as soon as it was there."""
IN_THE_AIR = -2
"""What a request waited for that came when too many others were in the air."""
SLIDING, FIXED, SLOW = "sliding", "fixed", "slow"
_BEHIND = -3  # the one before it: whatever that one waited for
_NEVER = -(1 << 62)
_LEAST_BLOCK, _MOST_BLOCK = 256, 1 << 16


class Rule(NamedTuple):
    """One limit, and what each request takes of it.

    name
    charges_us  (n,) µs   bucket time; 0: the request does not pass it. None above burst_us, else it would never pass
    burst_us    µs        how much may be spent at once
    window_us   µs        counted per window of so long; 0: refilled continuously
    slack_us    µs        of the burst, kept free for delay jitter
    slots                 how many requests that pass it may be in the air at once; 0: it is a bucket or a window
    kind                  of a window: SLIDING; FIXED: it begins anew at its multiples; SLOW: such a one of which half
                          is open at once and the rest opens evenly, so that no charge may take all of it
    """

    name: str
    charges_us: Ints
    burst_us: int
    window_us: int = 0
    slack_us: int = 0
    slots: int = 0
    kind: str = SLIDING


class Schedule(NamedTuple):
    """When requests are admitted.

    act_us  (n,) µs   on the clock of their arrivals
    by      (n,)      what each waited for: the place of a rule, NOTHING or IN_THE_AIR
    """

    act_us: Ints
    by: Ints


def admissions(arrivals_us: Ints, rules: Sequence[Rule]) -> Schedule:
    """Admit requests in their order, each when it has arrived and every rule lets it.

    arrivals_us  (n,) µs   when each is there; those of before it go first all the same
    """
    np = needed("numpy", extra="pandas")
    count = len(arrivals_us)
    act, by = np.empty(count, np.int64), np.empty(count, np.int64)
    tats = [_NEVER] * len(rules)
    sums = [np.cumsum(rule.charges_us) if rule.window_us else None for rule in rules]
    done, block, last_us = 0, 4096, _NEVER
    while done < count:
        end = min(count, done + block)
        turns = _settle(np, slice(done, end), arrivals_us, rules, tats, sums, last_us, act, by)
        last_us, done = int(act[end - 1]), end
        block = min(_MOST_BLOCK, block * 2) if turns <= 4 else max(_LEAST_BLOCK, block // 2) if turns > 8 else block
    return Schedule(act, _inherited(np, by))


def _settle(
    np: Any,
    part: slice,
    arrivals_us: Ints,
    rules: Sequence[Rule],
    tats: list[int],
    sums: Sequence[Ints | None],
    last_us: int,
    act: Ints,
    by: Ints,
) -> int:
    """Find the act instants of a block, and carry the buckets over to the next; → how many turns that took."""
    there = arrivals_us[part]
    first = np.maximum.accumulate(np.maximum(there, last_us))
    plans = [_Plan(np, part, *pair) for pair in zip(rules, tats, sums, strict=True)]
    now, turns = first, 0
    while True:
        act[part] = now
        turns += 1
        after = first
        for plan in plans:
            after = np.maximum(after, plan.earliest_us(now, act))
        after = np.maximum.accumulate(after)
        if np.array_equal(after, now):
            break
        now = after
    cause = np.where(now > there, _BEHIND, NOTHING)
    for place, plan in enumerate(plans):
        cause[(plan.says_us == now) & (now > there)] = place
        tats[place] = plan.tat_us()
    by[part] = cause
    return turns


class _Plan:
    """One rule over one block."""

    def __init__(self, np: Any, part: slice, rule: Rule, tat_us: int, sums: Ints | None) -> None:
        self._np, self._rule, self._tat_us, self._start = np, rule, tat_us, part.start
        charges = rule.charges_us[part]
        self._idle = None if charges.all() else charges == 0
        self.says_us: Ints = charges  # what the rule said last
        if sums is None:
            through = np.cumsum(charges)
            self._before = through - charges
            self._through = through
            self._need = through - rule.burst_us + rule.slack_us
        elif rule.kind == SLOW:
            self._sums, self._part, self._said = sums, part, np.full(len(charges), _NEVER)
        else:
            # The first charge up to which all must have left for this one to fit.
            self._out = np.searchsorted(sums, sums[part] - rule.burst_us, side="left")
            self._free = sums[part] <= rule.burst_us

    def earliest_us(self, now: Ints, act: Ints) -> Ints:
        """What the rule says of each request, if all of them act at `now`."""
        np, rule = self._np, self._rule
        if rule.kind == SLOW:
            began = now - now % rule.window_us
            first = np.searchsorted(act[: self._part.stop], began, side="left")
            taken = self._sums[self._part] - np.where(first > 0, self._sums[first - 1], 0)
            says = np.where(taken > rule.window_us // 2, began + np.minimum(taken, rule.window_us), _NEVER)
            # What it said of the window before holds on: it is why the request stands in this one.
            says = np.maximum(says, self._said)
            self._said = says
        elif rule.kind == FIXED:
            out = act[self._out]
            says = out - out % rule.window_us + rule.window_us
            says[self._free] = _NEVER
        elif rule.window_us:
            says = act[self._out] + (rule.window_us + rule.slack_us)
            says[self._free] = _NEVER
        else:
            base = now - self._before
            if self._idle is not None:
                base[self._idle] = _NEVER
            base = np.maximum.accumulate(np.maximum(base, self._tat_us))
            self._last = int(base[-1])
            says = self._need + np.concatenate(([self._tat_us], base[:-1]))
        if self._idle is not None:
            says[self._idle] = _NEVER
        self.says_us = says
        return self.says_us

    def tat_us(self) -> int:
        """The theoretical arrival time after the block."""
        return 0 if self._rule.window_us else self._last + int(self._through[-1])


def _inherited(np: Any, by: Ints) -> Ints:
    """Whoever stood behind another one waited for what that one waited for."""
    own = np.where(by == _BEHIND, 0, np.arange(len(by)))
    behind: Ints = by[np.maximum.accumulate(own)] if len(by) else by
    return behind


def walk(
    arrivals_us: Ints,
    rules: Sequence[Rule],
    takes_us: Ints,
    *,
    most: int,
    door: int | None = None,
    lines: Ints | None = None,
) -> Schedule:
    """The same where no more than so many may be in the air at once: one by one, for nobody knows before who is there.

    takes_us  (n,) µs   how long each is in the air once it is admitted
    most      int       requests begun and not ended; those that wait for their admission are among them
    door      int       of these, how many may wait for their admission at a time; whoever finds them there waits for
                        what one of them waits for. None: any number
    lines     (n,)      which line each stands in: whoever waits for a limit delays only those of his own line
    """
    np = needed("numpy", extra="pandas")
    count = len(arrivals_us)
    charges = [rule.charges_us.tolist() for rule in rules]
    cells = [
        (place, rule.burst_us - rule.slack_us, _Window(rule) if rule.window_us else None)
        for place, rule in enumerate(rules)
        if not rule.slots and rule.kind != SLOW
    ]
    slow = [(place, _Window(rule)) for place, rule in enumerate(rules) if rule.kind == SLOW]
    counted = [(place, rule.slots, list[int]()) for place, rule in enumerate(rules) if rule.slots]
    charged = [*cells, *((place, 0, window) for place, window in slow)]
    tats = [_NEVER] * len(rules)
    standing = lines.tolist() if lines is not None else [0] * count
    last_us = dict.fromkeys(standing, _NEVER)
    last_by = dict.fromkeys(standing, NOTHING)
    act, by = [0] * count, [NOTHING] * count
    air: list[int] = []
    before_door: list[tuple[int, int]] = []
    begun_us = _NEVER
    for i, (arrival_us, take_us, line) in enumerate(
        zip(arrivals_us.tolist(), takes_us.tolist(), standing, strict=True)
    ):
        at_us, cause = arrival_us, NOTHING
        if begun_us > at_us:
            at_us, cause = begun_us, IN_THE_AIR
        if len(air) >= most and (free_us := heappop(air)) > at_us:
            at_us, cause = free_us, IN_THE_AIR
        if door is not None and len(before_door) >= door:
            free_us, other = heappop(before_door)
            if free_us > at_us:
                at_us, cause = free_us, other
        begun_us = at_us
        if last_us[line] > at_us:
            at_us, cause = last_us[line], last_by[line]
        for place, room_us, window in cells:
            if charge_us := charges[place][i]:
                says_us = tats[place] + charge_us - room_us if window is None else window.earliest_us(charge_us)
                if says_us >= at_us and says_us > arrival_us:
                    at_us, cause = says_us, place
        for place, slots, held in counted:
            if charges[place][i] and len(held) >= slots and (free_us := heappop(held)) > at_us:
                at_us, cause = free_us, place
        for place, window in slow:  # the last, for when it opens hangs on the instant
            if (charge_us := charges[place][i]) and (says_us := window.opens_us(charge_us, at_us)) > at_us:
                at_us, cause = says_us, place
        for place, _, window in charged:
            if charge_us := charges[place][i]:
                if window is not None:
                    window.charge(at_us, charge_us)
                elif tats[place] > at_us:
                    tats[place] += charge_us
                else:
                    tats[place] = at_us + charge_us
        for place, _, held in counted:
            if charges[place][i]:
                heappush(held, at_us + take_us)
        act[i], by[i] = at_us, cause
        last_us[line], last_by[line] = at_us, cause
        heappush(air, at_us + take_us)
        if door is not None:
            heappush(before_door, (at_us, cause))
    return Schedule(np.array(act, np.int64), np.array(by, np.int64))


class _Window:
    """What was admitted, and how much: enough to say when a charge fits."""

    def __init__(self, rule: Rule) -> None:
        self._kept_us, self._burst_us = rule.window_us + rule.slack_us, rule.burst_us
        self._acts: list[int] = []
        self._sums: list[int] = []
        self._out = 0  # everything before this place must have left for the next charge to fit
        self._kind, self._window_us = rule.kind, rule.window_us

    def earliest_us(self, charge_us: int) -> int:
        over_us = (self._sums[-1] if self._sums else 0) + charge_us - self._burst_us
        if over_us <= 0:
            return _NEVER
        while self._sums[self._out] < over_us:
            self._out += 1
        out_us = self._acts[self._out]
        return out_us + self._kept_us if self._kind == SLIDING else out_us - out_us % self._window_us + self._window_us

    def opens_us(self, charge_us: int, at_us: int) -> int:
        """When a window that opens slowly is open far enough, from an instant on."""
        while True:
            began_us = at_us - at_us % self._window_us
            first = bisect_left(self._acts, began_us)
            taken_us = charge_us + (self._sums[-1] if self._sums else 0) - (self._sums[first - 1] if first else 0)
            if taken_us <= self._window_us // 2:
                return at_us
            if taken_us < self._window_us:
                return max(at_us, began_us + taken_us)
            at_us = began_us + self._window_us

    def charge(self, at_us: int, charge_us: int) -> None:
        self._acts.append(at_us)
        self._sums.append((self._sums[-1] if self._sums else 0) + charge_us)
