"""How a server counts what it lets through, in exact integers; written from the documentation, not from the product.

A unit (request, token, image) weighs `period_us` parts, and `capacity` parts are given back every µs, so that nothing
is ever divided. Each meter can also tell when something would fit: the auditor keeps a second set of them, fed with
what was admitted, to find out whether anybody waited for no reason.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

Entry = list[int]
"""[instant, parts]: what was taken, correctable."""


class Meter(Protocol):
    """One limit's books."""

    def fits(self, amount: int, at_us: int) -> bool:
        """Say whether the amount may be taken at this instant."""

    def used(self, at_us: int) -> int:
        """Read how much of the limit is out of reach, in units: the limit less what would be let in now."""

    def reset_us(self, at_us: int) -> int:
        """Say how long it takes until nothing that was taken counts any more."""

    def take(self, amount: int, at_us: int) -> Entry:
        """Take it, whether it fits or not."""

    def correct(self, entry: Entry, amount: int) -> None:
        """Rewrite history: the entry took another amount."""

    def earliest_us(self, amount: int, at_us: int, margin_us: int, leave_ppm: int) -> int:
        """Find the earliest instant (≥ at_us) at which the amount fits, with a margin kept and a share left free."""


class Refill:
    """A bucket that is refilled continuously; at most `span_us` worth of it can be spent at once."""

    def __init__(self, capacity: int, period_us: int, span_us: int) -> None:
        self.capacity, self.period_us, self.span_us = capacity, period_us, span_us
        self.debt = 0  # parts
        self.at_us = 0
        self._log: list[Entry] = []  # since the bucket was last full

    def _now(self, at_us: int) -> None:
        if at_us > self.at_us:
            self.debt = max(0, self.debt - self.capacity * (at_us - self.at_us))
            self.at_us = at_us

    def change(self, capacity: int, at_us: int) -> None:
        """Let another capacity be in force from now on."""
        self._now(at_us)
        self.capacity = capacity

    def used(self, at_us: int) -> int:
        """Read how much of the limit is out of reach, in units: the limit less what would be let in now."""
        self._now(at_us)
        return self.capacity - (self.capacity * self.span_us - self.debt) // self.period_us

    def reset_us(self, at_us: int) -> int:
        self._now(at_us)
        return self.debt // self.capacity

    def fits(self, amount: int, at_us: int) -> bool:
        self._now(at_us)
        return self.debt + amount * self.period_us <= self.capacity * self.span_us

    def take(self, amount: int, at_us: int) -> Entry:
        self._now(at_us)
        if self.debt == 0:
            self._log.clear()
        entry = [at_us, amount * self.period_us]
        self._log.append(entry)
        self.debt += entry[1]
        return entry

    def correct(self, entry: Entry, amount: int) -> None:
        entry[1] = amount * self.period_us
        debt, last_us = 0, 0
        for at_us, parts in self._log:
            debt = max(0, debt - self.capacity * (at_us - last_us)) + parts
            last_us = at_us
        self.debt = max(0, debt - self.capacity * (self.at_us - last_us))

    def earliest_us(self, amount: int, at_us: int, margin_us: int, leave_ppm: int) -> int:
        self._now(at_us)
        wanted = amount * self.period_us
        room = self.capacity * self.span_us
        if leave_ppm:
            room = min(room, max(wanted + self.capacity * margin_us, room - room * leave_ppm // 1_000_000))
        over = self.debt + wanted + self.capacity * margin_us - room
        return at_us + max(0, -(-over // self.capacity))


class Sliding:
    """A limit on what was taken in the last `span_us`."""

    def __init__(self, capacity: int, period_us: int, span_us: int) -> None:
        self.capacity, self.period_us = capacity, period_us
        self.most = capacity * span_us // period_us  # units
        self.span_us = span_us
        self._entries: deque[Entry] = deque()

    def _sum(self, at_us: int, span_us: int) -> int:
        return sum(amount for then_us, amount in self._entries if then_us + span_us > at_us)

    def used(self, at_us: int) -> int:
        """Read how much of the limit is out of reach, in units: the limit less what the window would let in."""
        return self.capacity - self.most + self._sum(at_us, self.span_us)

    def reset_us(self, at_us: int) -> int:
        return max(0, self._entries[-1][0] + self.span_us - at_us) if self._entries else 0

    def fits(self, amount: int, at_us: int) -> bool:
        return self._sum(at_us, self.span_us) + amount <= self.most

    def take(self, amount: int, at_us: int) -> Entry:
        entry = [at_us, amount]
        self._entries.append(entry)
        while self._entries[0][0] + 2 * self.span_us < at_us:
            self._entries.popleft()
        return entry

    def correct(self, entry: Entry, amount: int) -> None:
        entry[1] = amount

    def earliest_us(self, amount: int, at_us: int, margin_us: int, leave_ppm: int) -> int:
        kept_us = self.span_us + margin_us
        room = self.most
        if leave_ppm:
            room = max(amount, room - -(-room * leave_ppm // 1_000_000))
        # Whoever counts small units in µs rounds each charge up by less than one, and loses a few of them.
        unit_us = self.period_us // self.capacity
        small = not unit_us or self.span_us // unit_us != self.most
        rounded = (len(self._entries) + 1) * self.capacity // self.period_us + small
        over = self._sum(at_us, kept_us) + amount + rounded - room
        left_us = at_us
        for then_us, taken in self._entries:
            if over <= 0:
                break
            if then_us + kept_us > at_us:
                over -= taken
                left_us = then_us + kept_us
        return left_us


class Fixed(Sliding):
    """A limit per window of `span_us`, counted from zero at every edge; nobody outside knows where the edges lie."""

    def __init__(self, capacity: int, period_us: int, span_us: int, phase_us: int) -> None:
        super().__init__(capacity, period_us, span_us)
        self._phase_us = phase_us

    def _sum(self, at_us: int, span_us: int) -> int:
        edge_us = at_us - (at_us + self._phase_us) % span_us
        return sum(amount for then_us, amount in self._entries if then_us >= edge_us)

    def reset_us(self, at_us: int) -> int:
        return self.span_us - (at_us + self._phase_us) % self.span_us

    def earliest_us(self, amount: int, at_us: int, margin_us: int, leave_ppm: int) -> int:
        return at_us + self.span_us - (at_us + self._phase_us) % self.span_us


class Slots:
    """A limit on what is in the air at once: an entry is in the air until it is corrected to nothing."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0

    def fits(self, amount: int, at_us: int) -> bool:
        return self.held + amount <= self.capacity

    def used(self, at_us: int) -> int:
        return self.held

    def take(self, amount: int, at_us: int) -> Entry:
        self.held += amount
        return [at_us, amount]

    def correct(self, entry: Entry, amount: int) -> None:
        self.held -= entry[1] - amount
        entry[1] = amount

    def earliest_us(self, amount: int, at_us: int, margin_us: int, leave_ppm: int) -> int:
        room = self.capacity
        if leave_ppm:
            room = max(amount, self.capacity - -(-self.capacity * leave_ppm // 1_000_000))
        return at_us if self.held + amount <= room else NEVER_US


NEVER_US = 1 << 60
"""Nobody knows when."""
