"""What a process leaves in the file of itself: its name as an owner, the slots it holds, and a ticket where it waits.

The first of each line that waits leaves a ticket, with the instant at which it asked and what it wants. A ticket is
good until its owner must have looked again; so one who was killed, or stopped, is soon passed over, and one who was
only late stands in his old place again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..cells import Slots
from .base import Booking, Lane
from .decide import Claim
from .owners import RENEW_S, Owner, alive, this_process

LOOK_US, LOOK_MOST_US = 100_000, 1_000_000
"""How soon and how late whoever is first looks again, whatever he was told."""
STALL_US = 1_000_000
"""A ticket whose owner is so late to look is passed over."""
_NEVER_US = 1 << 62

_OTHERS = "SELECT owner, asked_us, spare_ppm, wants FROM limits_waiting WHERE owner <> ? AND until_us > ?"
_STAND = "INSERT OR REPLACE INTO limits_waiting VALUES (?, ?, ?, ?, ?, ?)"
_GO = "DELETE FROM limits_waiting WHERE owner = ? AND file = ?"
_HOLD = "INSERT INTO limits_held VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET held = held + excluded.held"
_FREE = "UPDATE limits_held SET held = held - ? WHERE key = ? AND owner = ?"
_WHO = "SELECT pid, start, space, renewed_us FROM limits_owners WHERE id = ?"
_RENEW = "UPDATE limits_owners SET renewed_us = ? WHERE id = ?"


class Asked(NamedTuple):
    """What a booking asks for, read once: another thread may put a limit in force meanwhile."""

    booking: Booking
    lane: Lane
    charges_us: Sequence[int]
    spare_ppm: int
    asked_us: int

    @classmethod
    def by(cls, booking: Booking) -> Asked:
        """Read it."""
        return cls(booking, booking.lane, booking.charges_us, booking.spare_ppm, booking.asked_us)


class Stranger(NamedTuple):
    """Somebody of another process who waits, and asked before.

    wants  (n,)  key, charge (µs), burst (µs) of each limit
    """

    owner: int
    spare_ppm: int
    wants: list[tuple[str, int, int]]


class Presence:
    """One process, through one store."""

    def __init__(self) -> None:
        self.me: Owner = this_process()
        self.owner = 0
        self._renewed_us = 0
        self._standing: dict[str, Booking] = {}

    def forget(self) -> None:
        """Trust nothing of this any more: a transaction was taken back."""
        self._renewed_us = 0
        self._standing.clear()

    def own(self, db: sqlite3.Connection, now_us: int) -> int:
        """This process as an owner, written down, its lease renewed now and then."""
        if self.owner and self._renewed_us and now_us - self._renewed_us < RENEW_S * 500_000:
            return self.owner
        if not self.owner or not db.execute(_RENEW, (now_us, self.owner)).rowcount:
            values = (*self.me, now_us)
            self.owner = db.execute("INSERT INTO limits_owners VALUES (NULL, ?, ?, ?, ?)", values).lastrowid or 0
        self._renewed_us = now_us
        return self.owner

    def hold(self, db: sqlite3.Connection, slots: Iterable[tuple[str, int]], now_us: int) -> None:
        """Take slots: key and how many."""
        owner = self.own(db, now_us)
        db.executemany(_HOLD, [(key, owner, charge_us) for key, charge_us in slots])

    def free(self, db: sqlite3.Connection, slots: Iterable[tuple[str, int]], owner: int) -> None:
        """Give slots back that this process holds as this owner; as an earlier one, it holds none any more."""
        db.executemany(_FREE, [(charge_us, key, owner) for key, charge_us in slots])

    def strangers(self, db: sqlite3.Connection, asked: Asked, now_us: int) -> list[Stranger]:
        """Who of other processes waits for any of the same, asked before, and may object; in the order of asking."""
        found = db.execute(_OTHERS, (self.owner, now_us)).fetchall()
        if not found:
            return []
        keys = {key for key, us in zip(asked.lane.keys, asked.charges_us, strict=True) if us}
        place = (asked.asked_us or _NEVER_US, self.owner)
        strangers = []
        for owner, asked_us, spare_ppm, wants in sorted(found, key=lambda row: (row[1], row[0])):
            if (asked_us, owner) < place and spare_ppm <= asked.spare_ppm:
                wanted = _read(wants)
                if any(key in keys for key, _, _ in wanted):
                    strangers.append(Stranger(owner, spare_ppm, wanted))
        return strangers

    def bury_dead(self, db: sqlite3.Connection, claim: Claim, strangers: Sequence[Stranger], now_us: int) -> bool:
        """Clear away those who stand in the way of a claim and live no more; say whether there were any."""
        owners = {one.owner for one in strangers}
        for key, (cell, _) in zip(claim.keys, claim.cells, strict=True):
            if isinstance(cell, Slots):
                holders = db.execute("SELECT owner FROM limits_held WHERE held > 0 AND key = ?", (key,))
                owners.update(owner for (owner,) in holders)
        owners.discard(self.owner)
        dead = [owner for owner in owners if not self._alive(db.execute(_WHO, (owner,)).fetchone(), now_us)]
        for owner in dead:
            bury(db, owner)
        return bool(dead)

    def _alive(self, row: tuple[Any, ...] | None, now_us: int) -> bool:
        return row is not None and alive(Owner(*row[:3]), self.me, row[3], now_us)

    def stand(self, db: sqlite3.Connection, asked: Asked, now_us: int) -> None:
        """Leave a ticket, or renew it."""
        owner, file = self.own(db, now_us), _file_of(asked)
        plans = zip(asked.lane.keys, asked.charges_us, asked.lane.plan, strict=True)
        wants = json.dumps([(key, us, plan[3]) for key, us, plan in plans if us])
        until_us = now_us + LOOK_MOST_US + STALL_US
        db.execute(_STAND, (owner, file, asked.asked_us, until_us, asked.spare_ppm, wants))
        self._standing[file] = asked.booking

    def go(self, db: sqlite3.Connection, booking: Booking) -> None:
        """Take the ticket back, if it is this booking's."""
        for file in [file for file, one in self._standing.items() if one is booking]:
            db.execute(_GO, (self.owner, file))
            del self._standing[file]

    def stands(self, booking: Booking) -> bool:
        """Say whether it has left a ticket that nobody has taken over since."""
        return any(one is booking for one in self._standing.values())


def bury(db: sqlite3.Connection, owner: int) -> None:
    """Clear away all that an owner has left."""
    for table, column in (("owners", "id"), ("held", "owner"), ("waiting", "owner")):
        db.execute(f"DELETE FROM limits_{table} WHERE {column} = ?", (owner,))


def _file_of(asked: Asked) -> str:
    """What those of one process who wait for the same have in common."""
    pairs = zip(asked.lane.keys, asked.charges_us, strict=True)
    return "\n".join([str(asked.spare_ppm), *(key for key, us in pairs if us)])


def _read(wants: str) -> list[tuple[str, int, int]]:
    try:
        return [(str(key), int(us), int(burst_us)) for key, us, burst_us in json.loads(wants)]
    except (ValueError, TypeError) as error:
        raise sqlite3.DatabaseError(f"a malformed ticket ({error})") from error
