"""The store of one machine: a SQLite file, so that all its processes obey one set of limits, and no server runs.

A reservation is one transaction, whatever the number of limits: the rows of its lane are read, the pure cells decide,
and the rows are written. What was charged stays charged if its process is killed. Slots are given back: whoever holds
some is written down with his process, and the next who finds none free looks whether the holders still live.

Who waits stands in the lines of his own process; the first of each leaves a ticket in the file, with the instant at
which he asked. Nobody goes before an older ticket where that would delay it, so across processes it is first come,
first served. A ticket is good for as long as its owner looks again: one that was killed, or stopped, delays nobody for
more than two seconds.

Nobody is woken across processes. A first one sleeps as long as it was told, and looks again every 0.1 to 1 s on the
way, because somebody may have given room back.

Ends (settle, release, and what replies teach) never raise, for what was sent is sent: one that cannot be written now
is written with the next transaction. Admissions raise StoreUnavailable then, and nothing is sent unpaced.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from ..cells import Slots, Window
from ..clock import Clock, HostClock
from ..errors import StoreUnavailable
from ..gcra import Bucket
from ..limit import Limit
from ._sqlite_file import LimitsFile
from ._sqlite_presence import LOOK_MOST_US, LOOK_US, Asked, Presence, Stranger, bury
from ._sqlite_rows import BRACED_FOR_US, READ, WRITE, Row, fresh, joined
from ._sqlite_turns import END_BUSY_S, Turns
from .base import Booking, Lane
from .decide import INITIAL_SLACK_US, Claim, behind, earliest_us, fit, rooms_us
from .owners import RENEW_S

BUSY_S = 5.0
"""How long an admission waits for a process that holds the file."""


class _Known:
    """What this process knows of a key: the limit it obeys there, and the row as it was last seen."""

    __slots__ = ("limit", "row")

    def __init__(self, row: Row, limit: Limit) -> None:
        self.row = row
        self.limit = limit

    @property
    def slack_wanted_us(self) -> int:
        """µs  what is kept free for the delay jitter, as far as known here."""
        return self.row.cell.slack_wanted_us


class _Held:
    """The slots that a booking holds. Those of a booking that is dropped without an end come back too."""

    __slots__ = ("_owner", "_slots", "_store")

    def __init__(self, store: SqliteStore, owner: int, slots: list[tuple[str, int]]) -> None:
        self._store = store
        self._owner = owner
        self._slots = slots

    def free(self) -> None:
        """Give them back; a second time is a no-op, and so is a child's for those of the process that forked it."""
        slots, self._slots = self._slots, []
        presence, owner = self._store._presence, self._owner
        if slots and owner == presence.owner:
            self._store._end(lambda db: presence.free(db, slots, owner))

    __del__ = free


class SqliteStore(Turns):
    """Limits in a SQLite file, for all processes of this machine that name it.

    path   of the file; made where there is none. A ledger's own file will do
    clock  one that all of them share; the machine's unless told
    busy_s how long an admission waits for a process that holds the file

    Raises  StoreUnavailable when the file cannot be used: locked for long, damaged, of a newer version, on a disk that
            is read-only, deleted while it was in use
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Clock | None = None,
        *,
        initial_slack_us: int = INITIAL_SLACK_US,
        busy_s: float = BUSY_S,
    ) -> None:
        self.clock: Clock = clock or HostClock()
        self._read_us = self.clock.now_us
        self._initial_slack_us = initial_slack_us
        boot = self.clock.boot() if isinstance(self.clock, HostClock) else ""
        super().__init__(LimitsFile(os.path.abspath(path), boot, busy_s))
        self._forked()
        self._change(lambda db: None)  # what is wrong with the file is said here

    def _forked(self) -> None:
        self._known: dict[str, _Known] = {}
        self._presence = Presence()
        self._renewing = False
        self._latest_us = self._stepped_us = 0

    def _undone(self) -> None:
        self._known = dict(self._known)  # another one, so that every lane is opened anew
        self._presence.forget()

    def open(self, lane: Lane) -> None:
        with suppress(StoreUnavailable):  # then whoever wants to be admitted is told
            self._change(lambda db: self._rows(db, (lane,)), END_BUSY_S)

    def reserve(self, booking: Booking, ahead: Sequence[Booking] = ()) -> int | None:
        with self._lock:
            asked, before = Asked.by(booking), [Asked.by(one) for one in ahead]
            answer, place, held = self._transact(lambda db: self._reserve(db, asked, before), None)
            if answer is None:
                booking.place = place
                booking.charged = asked.lane, asked.charges_us
                booking.open = True
                if held:
                    booking.held = _Held(self, self._presence.owner, held)
                    self._keep_renewing()
            self._catch_up()
            return answer

    def room_us(self, booking: Booking, wait_us: int) -> Sequence[int]:
        with self._lock:
            now_us = self._now_us()
            asked = Asked.by(booking)
            return rooms_us(_claim(asked, self._seen(asked.lane.keys)), now_us, now_us + wait_us)

    def settle(self, booking: Booking, charges_us: Sequence[int]) -> None:
        with self._lock:
            if not booking.open:
                return
            booking.open = False
            pairs = zip(booking.lane.keys, booking.place, booking.charges_us, charges_us, strict=True)
            changes = [
                (key, number, booked_us - true_us)
                for key, (known, number, _), booked_us, true_us in pairs
                if booked_us != true_us and known is self._known.get(key)  # else it was charged before a fork
            ]
            if changes:
                self._end(lambda db: self._settle(db, changes))

    def release(self, booking: Booking) -> None:
        self.settle(booking, (0,) * len(booking.charges_us))
        self.finish(booking)

    def finish(self, booking: Booking) -> None:
        held, booking.held = booking.held, None
        if held is not None:
            held.free()

    def leave(self, booking: Booking) -> None:
        presence = self._presence
        with self._lock:
            if presence.stands(booking):
                self._end(lambda db: presence.go(db, booking))

    def look_us(self, booking: Booking, wait_us: int) -> int | None:
        with self._lock:
            return max(LOOK_US, min(wait_us // 8, LOOK_MOST_US)) if self._presence.stands(booking) else None

    def arrived(self, booking: Booking, ago_us: int) -> None:
        by_us = self._now_locked_us() - ago_us
        self._on_windows(booking, range(len(booking.place)), lambda cell, number: cell.arrived(number, by_us))

    def clears(self, booking: Booking, place: int, within_us: int) -> None:
        by_us = self._now_locked_us() + within_us
        self._on_windows(booking, (place,), lambda cell, number: cell.clears(number, by_us))

    def observe(self, key: str, backlog_us: int, clear_us: int | None = None) -> None:
        self._on_row(key, lambda row, now_us: row.cell.raise_to(now_us + backlog_us, now_us, clear_us))

    def close(self, key: str, wait_us: int) -> None:
        def close(row: Row, now_us: int) -> None:
            row.cell.closed_until_us = max(row.cell.closed_until_us, now_us + wait_us)

        self._on_row(key, close)

    def widen(self, key: str, slack_us: int) -> None:
        def widen(row: Row, now_us: int) -> None:
            if not isinstance(row.cell, Slots):
                row.cell.slack_wanted_us = max(row.cell.slack_wanted_us, slack_us)

        known = self._known.get(key)
        if known is None or (known.limit.unit != "concurrent" and slack_us > known.slack_wanted_us):
            self._on_row(key, widen)

    def brace(self, key: str, slack_us: int) -> None:
        me = self._presence.me.pid

        def brace(row: Row, now_us: int) -> None:
            mine = row.braced_by == me or row.braced_until_us <= now_us
            if mine or slack_us > row.braced_us:  # nobody takes away another's
                row.braced_us, row.braced_by = slack_us, me
                row.braced_until_us = now_us + BRACED_FOR_US if slack_us else 0

        self._on_row(key, brace)

    def wait_us(self, key: str, ahead_us: int, charge_us: int, burst_us: int) -> int:
        with self._lock:
            row, now_us = self._seen((key,)).get(key), self._now_us()
            if row is None:
                return 0
            cell = row.cell
            if isinstance(cell, Bucket) and ahead_us:
                cell = cell.copy()
                cell.charge(now_us, ahead_us)
                ahead_us = 0
            return cell.earliest_us(ahead_us + charge_us, _burst_us(cell, burst_us), now_us) - now_us

    def backlog_us(self, key: str) -> int:
        with self._lock:
            row = self._seen((key,)).get(key)
            return row.cell.spent_us(self._now_us()) if row is not None else 0

    def slack_us(self, key: str) -> int:
        with self._lock:
            row = self._seen((key,)).get(key)
            return row.cell.slack_us if row is not None else 0

    def disconnect(self) -> None:
        """Let go of the file: what this process holds of it is given up. The next call opens it again."""
        with self._lock:
            owner, self._presence = self._presence.owner, Presence()
            if owner:
                with suppress(StoreUnavailable):
                    self._change(lambda db: bury(db, owner), END_BUSY_S)
            self._file.disconnect()

    def __del__(self) -> None:
        if hasattr(self, "_presence"):
            with suppress(Exception):  # amid the end of the interpreter, anything may be gone
                self.disconnect()

    # -- within a transaction ------------------------------------------------------------------------------------------

    def _reserve(
        self, db: sqlite3.Connection, asked: Asked, ahead: Sequence[Asked]
    ) -> tuple[int | None, list[tuple[_Known, int, int]], list[tuple[str, int]]]:
        """Charge a booking, if it may go: how long it has to wait, its place, and the slots that it holds."""
        presence = self._presence
        while True:
            strangers = presence.strangers(db, asked, self._now_us())
            rows, now_us = self._rows(db, [asked.lane, *(one.lane for one in ahead)], strangers)
            claim = _claim(asked, rows)
            before = [_claim_of(one, rows) for one in strangers] + [_claim(one, rows) for one in ahead]
            wait_us = _wait_us(claim, before, now_us)
            if wait_us is None or not presence.bury_dead(db, claim, strangers, now_us):
                break
        if wait_us is not None:
            if asked.asked_us:
                presence.stand(db, asked, now_us)
            return wait_us, [], []
        place, held, written = [], [], []
        for key, (cell, _), charge_us in zip(claim.keys, claim.cells, claim.charges_us, strict=True):
            backlog_us = cell.tat_us - now_us
            number = cell.charge(now_us, charge_us) if charge_us else 0
            place.append((self._known[key], number, backlog_us))
            if charge_us and isinstance(cell, Slots):
                held.append((key, charge_us))
            elif charge_us:
                written.append(rows[key].written(now_us))
        db.executemany(WRITE, written)
        if held:
            presence.hold(db, held, now_us)
        presence.go(db, asked.booking)
        return None, place, held

    def _rows(
        self, db: sqlite3.Connection, lanes: Sequence[Lane], strangers: Sequence[Stranger] = ()
    ) -> tuple[dict[str, Row], int]:
        """The rows of lanes, made or changed where they are not what the lanes need; and what time it is."""
        bursts_us = {key: burst_us for one in strangers for key, _, burst_us in one.wants}
        for lane in lanes:
            bursts_us.update((key, plan[3]) for key, plan in zip(lane.keys, lane.plan, strict=True))
        rows = self._read(db, tuple(bursts_us))
        now_us = self._now_us(max([row.at_us for row in rows.values()], default=0))
        for lane in lanes:
            if lane.opened is not self._known:
                for key, limit in zip(lane.keys, lane.limits, strict=True):
                    self._open(db, rows, key, limit, now_us)
                lane.opened = self._known
        for row in rows.values():
            self._see(row, bursts_us[row.key], now_us)
        return rows, now_us

    def _open(self, db: sqlite3.Connection, rows: dict[str, Row], key: str, limit: Limit, now_us: int) -> None:
        known, row = self._known.get(key), rows.get(key)
        if row is None:
            row = rows[key] = Row(key, fresh(limit), now_us)
            row.cell.slack_wanted_us = self._initial_slack_us
            db.execute(WRITE, row.written(now_us))
        elif joined(row, limit, known is not None and known.limit.window, now_us):
            db.execute(WRITE, row.written(now_us))
        if known is None:
            self._known[key] = _Known(row, limit)
        else:
            known.limit = limit

    def _read(self, db: sqlite3.Connection, keys: tuple[str, ...]) -> dict[str, Row]:
        statement = READ.replace("{marks}", "?" + ", ?" * (len(keys) - 1))
        return {values[0]: Row.read(values) for values in db.execute(statement, keys)}

    def _see(self, row: Row, burst_us: int, now_us: int) -> None:
        """Put the margin of a row in force, and remember it."""
        known = self._known.get(row.key)
        if known is not None:
            known.row, burst_us = row, known.limit.burst_us
        row.keep_free(burst_us, now_us)

    def _settle(self, db: sqlite3.Connection, changes: list[tuple[str, int, int]]) -> None:
        rows = self._read(db, tuple(key for key, _, _ in changes))
        now_us = self._now_us(max((row.at_us for row in rows.values()), default=0))
        for key, number, back_us in changes:
            row = rows.get(key)
            if row is None or isinstance(row.cell, Slots):
                continue
            if back_us > 0:
                row.cell.refund(number, back_us)
            else:
                row.cell.surcharge(-back_us, now_us)
            db.execute(WRITE, row.written(now_us))

    def _restart(self, db: sqlite3.Connection) -> None:
        """Take over what was written before the machine was started."""
        now_us = self._now_us()
        keys = tuple(key for (key,) in db.execute("SELECT key FROM limits_cells"))
        for at in range(0, len(keys), 500):
            for row in self._read(db, keys[at : at + 500]).values():
                row.restarted(now_us)
                db.execute(WRITE, row.written(now_us))

    def _on_row(self, key: str, act: Callable[[Row, int], object]) -> None:
        """Change one row, if there is one."""

        def change(db: sqlite3.Connection) -> None:
            row = self._read(db, (key,)).get(key)
            if row is not None:
                now_us = self._now_us(row.at_us)
                act(row, now_us)
                db.execute(WRITE, row.written(now_us))
                self._see(row, 0, now_us)

        self._end(change)

    def _on_windows(self, booking: Booking, places: Iterable[int], act: Callable[[Window, int], None]) -> None:
        wanted = [(booking.lane.keys[place], booking.place[place]) for place in places]
        for key, (known, number, _) in wanted:
            if known.limit.window and known is self._known.get(key):

                def change(row: Row, now_us: int, number: int = number) -> None:
                    if isinstance(row.cell, Window):
                        act(row.cell, number)

                self._on_row(key, change)

    def _seen(self, keys: Sequence[str]) -> dict[str, Row]:
        """Rows as they are now; or as they were last seen, where they cannot be read."""
        with suppress(StoreUnavailable, sqlite3.Error):
            rows = self._read(self._file.reading(), tuple(keys))
            now_us = self._now_us()
            for row in rows.values():
                self._see(row, 0, now_us)
            return rows
        return {key: self._known[key].row for key in keys if key in self._known}

    def _now_locked_us(self) -> int:
        with self._lock:
            return self._now_us()

    def _now_us(self, at_least_us: int = 0) -> int:
        """What time it is: not before what was read already, here or in the file."""
        now_us, latest_us = self._read_us() + self._stepped_us, max(self._latest_us, at_least_us)
        if now_us < latest_us:
            self._stepped_us += latest_us - now_us
            now_us = latest_us
        self._latest_us = now_us
        return now_us

    def _renew(self) -> None:
        presence = self._presence
        self._change(lambda db: presence.own(db, self._now_us()) if presence.owner else 0, END_BUSY_S)

    def _keep_renewing(self) -> None:
        if not self._renewing and isinstance(self.clock, HostClock):
            self._renewing = True
            threading.Thread(target=_renew, args=(weakref.ref(self),), name="ratecard-lease", daemon=True).start()


def _renew(store: weakref.ref[SqliteStore]) -> None:
    """Renew the lease of what a store holds, until nobody has the store any more."""
    rest = threading.Event()
    while not rest.wait(RENEW_S):
        one = store()
        if one is None:
            return
        with suppress(StoreUnavailable):
            one._renew()
        del one


def _wait_us(claim: Claim, ahead: Sequence[Claim], now_us: int) -> int | None:
    """How long a claim has to wait: None, if it need not; 0 for as long as nobody knows."""
    act_us = earliest_us(claim, now_us)
    if act_us == now_us:
        if any(isinstance(cell, Slots) for cell, _ in claim.cells) and not fit(claim, ahead):
            return 0
        if ahead:
            act_us = behind(claim, ahead, now_us)
    return act_us - now_us if act_us > now_us else None


def _claim(asked: Asked, rows: dict[str, Row]) -> Claim:
    lane = asked.lane
    cells = tuple(
        (rows[key].cell, _burst_us(rows[key].cell, plan[3])) for key, plan in zip(lane.keys, lane.plan, strict=True)
    )
    return Claim(lane.keys, cells, asked.charges_us, asked.spare_ppm)


def _claim_of(one: Stranger, rows: dict[str, Row]) -> Claim:
    wants = [want for want in one.wants if want[0] in rows]
    cells = tuple((rows[key].cell, _burst_us(rows[key].cell, burst_us)) for key, _, burst_us in wants)
    return Claim([key for key, _, _ in wants], cells, [us for _, us, _ in wants], one.spare_ppm)


def _burst_us(cell: object, burst_us: int) -> int:
    """How much may be spent at once: no more than a window holds, whoever takes it for a bucket."""
    return min(burst_us, cell.window_us) if isinstance(cell, Window) else burst_us
