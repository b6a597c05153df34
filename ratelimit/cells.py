"""The other kinds of limit state, beside the continuous bucket of `gcra`: a sliding window, and slots.

A cell answers two questions, `earliest_us` (when would this charge conform?) and `charge`; everything is in bucket time
(µs), so that a lane may mix kinds. Pure: integers in, integers out.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import Protocol, Self


class Cell(Protocol):
    """The state of one limit.

    slack_us         µs   what is kept free for the delay jitter between us and the server
    closed_until_us  µs   nothing passes before this instant: a cool-down
    """

    slack_us: int
    slack_wanted_us: int
    closed_until_us: int

    @property
    def tat_us(self) -> int:
        """A bucket's theoretical arrival time (µs): what is spent until then pays for delays. 0 where nothing does."""

    def earliest_us(self, charge_us: int, burst_us: int, now_us: int) -> int:
        """Find the earliest instant at which a charge conforms; `burst_us` is how much may be spent at once."""

    def room_us(self, charge_us: int, burst_us: int, now_us: int, at_us: int) -> int:
        """Say how much may be charged now without delaying a charge that waits until `at_us`; ≤ 0 for nothing."""

    def charge(self, act_us: int, charge_us: int) -> int:
        """Charge it at an instant; return the charge's number, which `refund` asks for."""

    def refund(self, number: int, back_us: int) -> int:
        """Give back up to `back_us` of a charge, as far as it is still outstanding; return what was given."""

    def surcharge(self, more_us: int, now_us: int) -> None:
        """Add what a charge turned out to cost beyond its booking."""

    def raise_to(self, tat_us: int, now_us: int, clear_us: int | None = None) -> None:
        """Take over an observation that more is spent than we thought; never the other way round.

        clear_us  µs   when the server says it will have room, where it counts per window
        """

    def spent_us(self, now_us: int) -> int:
        """Read how much is spent at this instant (µs)."""

    def copy(self) -> Self:
        """Make another cell with the same state, to try things on."""


_UNKNOWN_US = 1 << 62


class Window:
    """A limit that counts what arrived in the last stretch of time: at most `window_us` of bucket time in any stretch
    of `window_us`.

    What conforms to it conforms to a server with fixed windows too, wherever their edges lie. A charge leaves the
    window whole, `window_us` after it acted, and so much later as its request may have been late: the slack, or less
    once its reply shows that it had arrived by then; and earlier, once its reply tells the edge at which all is free.
    """

    __slots__ = (
        "_by_number",
        "_charges",
        "_first",
        "_seq",
        "_sum_us",
        "closed_until_us",
        "slack_us",
        "slack_wanted_us",
        "window_us",
    )

    def __init__(self, window_us: int) -> None:
        self.window_us = window_us
        self.slack_us = self.slack_wanted_us = 0
        # [act_us, charge_us, number, late_us], oldest first; it leaves a window after it acted, and late_us later
        self._charges: deque[list[int]] = deque()
        self._by_number: dict[int, list[int]] = {}
        self._sum_us = 0
        self._seq = 0
        self._first = 0  # no charge before this number can be given back
        self.closed_until_us = 0

    tat_us = 0  # a late request stays in the server's window for as much longer, however full ours was

    def earliest_us(self, charge_us: int, burst_us: int, now_us: int) -> int:
        """Find the earliest instant at which a charge conforms; one larger than the burst is taken in portions, the
        last of which is what is looked for."""
        self._forget(now_us)
        kept_us = self.window_us + self.slack_us
        full, last_us = divmod(charge_us - 1, burst_us)
        over_us = self._sum_us + last_us + 1 - burst_us
        at_us = max(now_us, self.closed_until_us)
        if over_us > 0:
            # A copy: collected garbage may settle an abandoned stream, and so add a charge, in the middle of this.
            for entry in tuple(self._charges):
                at_us = max(at_us, self._leaves_us(entry))
                over_us -= entry[1]
                if over_us <= 0:
                    break
        return at_us + full * kept_us

    def room_us(self, charge_us: int, burst_us: int, now_us: int, at_us: int) -> int:
        if self.closed_until_us > now_us or charge_us > burst_us:
            return 0
        free_us = burst_us - self._sum_us
        needs_us = charge_us  # what has not left by then must not be taken from it
        for entry in self._charges:
            if needs_us <= 0 or self._leaves_us(entry) > at_us:
                break
            needs_us -= entry[1]
        return free_us - max(0, needs_us)

    def charge(self, act_us: int, charge_us: int) -> int:
        self._seq += 1
        if self._charges and self._charges[-1][0] > act_us:
            act_us = self._charges[-1][0]  # in order, so that the oldest leaves first; later is the safe side
        entry = self._by_number[self._seq] = [act_us, charge_us, self._seq, _UNKNOWN_US]
        self._charges.append(entry)
        self._sum_us += charge_us
        return self._seq

    def arrived(self, number: int, by_us: int) -> None:
        """Learn that the request of a charge had reached the server by this instant."""
        entry = self._by_number.get(number)
        if entry is not None:
            entry[3] = min(entry[3], max(0, by_us - entry[0]))

    def clears(self, number: int, by_us: int) -> None:
        """Learn that the server counts a charge no longer at this instant."""
        entry = self._by_number.get(number)
        if entry is not None:
            entry[3] = min(entry[3], by_us - entry[0] - self.window_us)

    def refund(self, number: int, back_us: int) -> int:
        entry = self._by_number.get(number)
        if entry is None or number < self._first:
            return 0
        back_us = min(back_us, entry[1])
        entry[1] -= back_us
        self._sum_us -= back_us
        return back_us

    def surcharge(self, more_us: int, now_us: int) -> None:
        self.charge(now_us, more_us)

    def raise_to(self, tat_us: int, now_us: int, clear_us: int | None = None) -> None:
        """A backlog of b means that b was spent within the window: as late as can be, unless the server says when."""
        self._forget(now_us)
        act_us = now_us if clear_us is None else now_us + min(clear_us, self.window_us) - self.window_us
        # What acted before the server's window began is in our books, and not in what it says.
        known_us = sum(charge_us for at_us, charge_us, *_ in self._charges if clear_us is None or at_us >= act_us)
        missing_us = min(tat_us - now_us, self.window_us) - known_us
        if missing_us > 0:
            # What was charged before is in the observation, whatever becomes of it: as in a bucket.
            self._seq += 1
            self._first = self._seq
            self._charges = deque(sorted([*self._charges, [act_us, missing_us, self._seq, _UNKNOWN_US]]))
            self._sum_us += missing_us

    def spent_us(self, now_us: int) -> int:
        self._forget(now_us)
        return self._sum_us

    def copy(self) -> Window:
        twin = Window(self.window_us)
        twin.slack_us = self.slack_us
        twin._charges = self._charges.copy()  # of the same entries: on a copy nothing is refunded
        twin._sum_us, twin._seq, twin.closed_until_us = self._sum_us, self._seq, self.closed_until_us
        return twin

    def kept(self) -> tuple[int, int, bytes]:
        """What a store on disk keeps beside the instants: as for a bucket, and the charges in the window."""
        flat = array("q", [value for entry in self._charges for value in entry])
        return self._seq, self._first, flat.tobytes()

    @classmethod
    def of(cls, seq: int, first: int, charges: bytes, window_us: int) -> Self:
        """Make the window again of what `kept` has said. Raises ValueError when that cannot be."""
        window = cls(window_us)
        window._seq, window._first = seq, first
        flat = array("q")
        flat.frombytes(charges)
        if len(flat) % 4:
            raise ValueError("half a charge")
        for at in range(0, len(flat), 4):
            entry = flat[at : at + 4].tolist()
            window._charges.append(entry)
            window._by_number[entry[2]] = entry
            window._sum_us += entry[1]
        return window

    def shift(self, by_us: int) -> None:
        """Move everything in it to another clock's time."""
        for entry in self._charges:
            entry[0] += by_us

    def thin(self, most: int) -> None:
        """Keep no more than so many charges apart: those that acted close together become one, which leaves when the
        last of them would, and of which nothing can be given back.

        Law  a thinned window admits nothing that the whole one would not (tests/laws/test_windows.py)
        """
        if len(self._charges) <= most:
            return
        grain_us = max(1, (self._charges[-1][0] - self._charges[0][0]) * 2 // most)
        kept: deque[list[int]] = deque()
        for entry in self._charges:
            last = kept[-1] if kept else None
            if last is not None and last[0] // grain_us == entry[0] // grain_us:
                self._by_number.pop(last[2], None)
                self._by_number.pop(entry[2], None)
                kept[-1] = [
                    entry[0],
                    last[1] + entry[1],
                    entry[2],
                    max(last[0] + last[3], entry[0] + entry[3]) - entry[0],
                ]
            else:
                kept.append(entry)
        self._charges = kept

    def _forget(self, now_us: int) -> None:
        charges = self._charges
        while charges and self._leaves_us(charges[0]) <= now_us:
            entry = charges.popleft()
            self._by_number.pop(entry[2], None)
            self._sum_us -= entry[1]

    def _leaves_us(self, entry: list[int]) -> int:
        return entry[0] + self.window_us + min(entry[3], self.slack_us)


class Slots:
    """A limit on what is in the air at once: a charge is one slot, and only its end gives it back.

    Nobody knows when that will be, so `earliest_us` is only what a cool-down says; `fit` tells of the slots.
    """

    __slots__ = ("_held", "closed_until_us", "slack_us", "slack_wanted_us")

    tat_us = 0

    def __init__(self) -> None:
        self._held = 0
        self.closed_until_us = 0
        self.slack_us = self.slack_wanted_us = 0

    def fit(self, charge_us: int, burst_us: int) -> bool:
        """Say whether so many slots are free; whoever frees one wakes the line."""
        return self._held + charge_us <= burst_us

    def earliest_us(self, charge_us: int, burst_us: int, now_us: int) -> int:
        return max(now_us, self.closed_until_us)

    def room_us(self, charge_us: int, burst_us: int, now_us: int, at_us: int) -> int:
        return burst_us - self._held - charge_us

    def charge(self, act_us: int, charge_us: int) -> int:
        self._held += charge_us
        return 0

    def refund(self, number: int, back_us: int) -> int:
        return 0  # what a request is charged for does not matter: it holds its slot until it ends

    def free(self, charge_us: int) -> None:
        """Give a slot back."""
        self._held -= charge_us

    @classmethod
    def of(cls, held: int) -> Self:
        """Make slots of which so many are held."""
        slots = cls()
        slots._held = held
        return slots

    def surcharge(self, more_us: int, now_us: int) -> None:
        """A request holds one slot, whatever it turned out to cost."""

    def raise_to(self, tat_us: int, now_us: int, clear_us: int | None = None) -> None:
        """No header speaks of slots."""

    def spent_us(self, now_us: int) -> int:
        return self._held

    def copy(self) -> Slots:
        twin = Slots()
        twin._held, twin.closed_until_us = self._held, self.closed_until_us
        return twin


def room_us(charge_us: int, burst_us: int, slack_us: int, spare_ppm: int) -> int:
    """How much of a burst somebody may fill who leaves a share of it free."""
    if not spare_ppm:
        return burst_us
    # A request larger than what the spare leaves is admitted when nothing else is in the way.
    return min(burst_us, max(charge_us + slack_us, burst_us * (1_000_000 - spare_ppm) // 1_000_000))
