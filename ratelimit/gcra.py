"""The core: a continuous token bucket held as one integer, over several limits at once.

A bucket that refills continuously is fully described by its theoretical arrival time (TAT): the instant at which it
will be full again. `TAT − now` is its backlog: the part of the period already spent. A request with charge `c` conforms
when the backlog it finds plus `c` fits into the burst. Everything here is pure: integers in, integers out; no clock,
no floats, no I/O.

A refund is not `tat -= x`: the bucket may have been empty (full of room) since, and room that was never used cannot be
given back. `Bucket` therefore remembers the lowest backlog any later charge has seen: what is still outstanding of an
old charge is capped by it. Settling a charge lowers the backlogs that later charges saw, exactly as if history had been
replayed with the true cost.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Self

REFUND_MEMORY = 256
"""How many distinct low-water marks a bucket keeps. Beyond it the oldest is merged, so that refunds only shrink."""
MOST_MARK_US = 1 << 62
"""A mark holds no more, and no backlog of anybody's needs more: 146,000 years. Beyond it refunds only shrink."""


def reserve(
    tats_us: Sequence[int],
    charges_us: Sequence[int],
    bursts_us: Sequence[int],
    now_us: int,
) -> tuple[int, tuple[int, ...]]:
    """Book the earliest instant at which every limit conforms, charging every limit at that instant.

    tats_us     (n,) µs   theoretical arrival times; 0 for a bucket never used
    charges_us  (n,) µs   bucket time of the demand; 0 means "not this limit"
    bursts_us   (n,) µs   how much bucket time may be spent at once; charge ≤ burst, else it would wait for ever
    now_us           µs   the clock of the tats
    →  act_at_us, tats_us   act_at_us ≥ now_us

    Law     a server running the same limits refuses nothing on the act instants (tests/laws/test_admission.py)
    Source  ITU-T I.371 Annex A, virtual scheduling; several limits at one act instant: ours, see the law
    """
    act_us = act_at(tats_us, charges_us, bursts_us, now_us)
    return act_us, tuple(
        max(tat_us, act_us) + charge_us if charge_us else tat_us
        for tat_us, charge_us in zip(tats_us, charges_us, strict=True)
    )


def act_at(tats_us: Sequence[int], charges_us: Sequence[int], bursts_us: Sequence[int], now_us: int) -> int:
    """Find the earliest instant (µs, ≥ now_us) at which a demand conforms to every limit it touches."""
    act_us = now_us
    for tat_us, charge_us, burst_us in zip(tats_us, charges_us, bursts_us, strict=True):
        if charge_us:
            act_us = max(act_us, tat_us + charge_us - burst_us)
    return act_us


class Bucket:
    """One limit's state: the TAT, and what is needed to refund exactly.

    tat_us    µs   theoretical arrival time; 0 for a bucket never used
    slack_us  µs   the part of the burst kept free for delay jitter
    closed_until_us  µs   nothing passes before this instant: a cool-down
    """

    __slots__ = ("_first", "_lows", "_seq", "_seqs", "closed_until_us", "slack_us", "slack_wanted_us", "tat_us")

    def __init__(self) -> None:
        self.tat_us = 0
        self.slack_us = self.slack_wanted_us = self.closed_until_us = 0
        self._seq = 0
        self._first = 0  # no charge before this number can be given back
        # Low-water marks, seq and backlog_us, both strictly increasing: for any older charge, the first mark after it
        # is the lowest backlog seen since. Arrays, so that a store on disk reads and writes them as they are.
        self._seqs, self._lows = array("q"), array("q")

    def earliest_us(self, charge_us: int, burst_us: int, now_us: int) -> int:
        """Find the earliest instant (µs, ≥ now_us) at which a charge conforms."""
        return max(now_us, self.closed_until_us, self.tat_us + charge_us - burst_us + self.slack_us)

    def room_us(self, charge_us: int, burst_us: int, now_us: int, at_us: int) -> int:
        """Say how much may be charged now without delaying a charge that waits until `at_us`; ≤ 0 for nothing."""
        if self.closed_until_us > now_us:
            return 0
        then_us = max(0, self.tat_us - at_us) + charge_us
        return burst_us - self.slack_us - max(self.tat_us - now_us, 0, then_us)

    def charge(self, act_us: int, charge_us: int) -> int:
        """Charge the bucket at an instant; return the charge's number, which `refund` asks for."""
        number = self._seq = self._seq + 1
        backlog_us = self.tat_us - act_us
        if backlog_us <= 0:
            # An empty backlog caps every older refund at nothing: no earlier mark can matter any more.
            self.tat_us = act_us + charge_us
            self._first = number
            if self._seqs:
                self._seqs, self._lows = array("q"), array("q")
            return number
        self.tat_us += charge_us
        if backlog_us > MOST_MARK_US:
            backlog_us = MOST_MARK_US
        seqs, lows = self._seqs, self._lows
        while lows and lows[-1] >= backlog_us:
            lows.pop()
            seqs.pop()
        seqs.append(number)
        lows.append(backlog_us)
        if len(lows) > REFUND_MEMORY:
            # Forget the second-oldest: charges before it now see the oldest (lower) mark, so refunds only shrink.
            del seqs[0], lows[1]
        return number

    def refund(self, number: int, back_us: int) -> int:
        """Give back up to `back_us` of charge `number`, as far as it is still outstanding; return what was given.

        Law  equal to replaying history with the smaller charge (tests/laws/test_refunds.py)
        """
        if number < self._first:
            return 0
        seqs = self._seqs
        if seqs and seqs[-1] > number:  # somebody has charged since; else all of it is outstanding
            lows, at = self._lows, bisect_right(seqs, number)
            back_us = min(back_us, lows[at])
            lows[at:] = array("q", [low_us - back_us for low_us in lows[at:]])
            while at and lows[at - 1] >= lows[at]:
                at -= 1
                del seqs[at], lows[at]
        self.tat_us -= back_us
        return back_us

    def surcharge(self, more_us: int, now_us: int) -> None:
        """Add what a charge turned out to cost beyond its booking."""
        self.charge(now_us, more_us)

    def raise_to(self, tat_us: int, now_us: int, clear_us: int | None = None) -> None:
        """Take over an observation that the bucket is emptier than we thought; never the other way round."""
        if tat_us > self.tat_us:
            self.tat_us = tat_us
            # What was charged before is in the observation, whatever becomes of it: none of it can be given back.
            self._seq += 1
            self._first = self._seq
            self._seqs, self._lows = array("q"), array("q")

    def spent_us(self, now_us: int) -> int:
        """Read the backlog at this instant (µs)."""
        return max(0, self.tat_us - now_us)

    def copy(self) -> Bucket:
        """Make another bucket with the same TAT, to try charges on."""
        twin = Bucket()
        twin.tat_us, twin.slack_us, twin.closed_until_us = self.tat_us, self.slack_us, self.closed_until_us
        return twin

    def kept(self) -> tuple[int, int, bytes]:
        """What a store on disk keeps beside the instants: the last charge's number, the first that can be given back,
        and the marks."""
        return self._seq, self._first, (self._seqs + self._lows).tobytes()

    @classmethod
    def of(cls, seq: int, first: int, marks: bytes) -> Self:
        """Make the bucket again of what `kept` has said. Raises ValueError when that cannot be."""
        bucket = cls()
        bucket._seq, bucket._first = seq, first
        both = array("q")
        both.frombytes(marks)
        count, rest = divmod(len(both), 2)
        if rest:
            raise ValueError("half a mark")
        if count:
            bucket._seqs, bucket._lows = both[:count], both[count:]
        return bucket
