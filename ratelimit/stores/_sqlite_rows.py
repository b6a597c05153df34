"""One limit's state as a row of the file: the cell of the core, and what is kept beside it. No SQL runs here."""

from __future__ import annotations

import sqlite3
from typing import Any

from ..cells import Cell, Slots, Window
from ..gcra import Bucket
from ..limit import Limit
from .decide import slack_us

BUCKET, WINDOW, SLOTS = 0, 1, 2
MOST_CHARGES = 512
"""How many charges of a window are kept apart; beyond it neighbours become one."""
FORGOTTEN_US = 600_000_000
"""A window that was learned, and that nobody has used for so long, is a bucket again for whoever takes it for one."""
BRACED_FOR_US = 60_000_000
"""How long a margin for cold connections lasts at most: whoever asked for it may be gone."""

COLUMNS = (
    "key, kind, at_us, tat_us, wanted_us, closed_us, braced_us, braced_by, braced_until_us, window_us, seq, first, "
    "state"
)
READ = (
    f"SELECT {COLUMNS}, CASE WHEN kind = {SLOTS} THEN (SELECT COALESCE(SUM(held), 0) FROM limits_held AS h "
    "WHERE h.key = c.key) END FROM limits_cells AS c WHERE key IN ({marks})"
)
WRITE = ("INSERT INTO limits_cells ({columns}) VALUES (?{marks}) ON CONFLICT (key) DO UPDATE SET {updates}").format(
    columns=COLUMNS,
    marks=", ?" * COLUMNS.count(","),
    updates=", ".join(f"{name} = excluded.{name}" for name in COLUMNS.split(", ")[1:]),
)


class Row:
    """One limit's row, read.

    cell       its state, with the margin that is in force for `burst_us`
    at_us      µs  when it was last written
    braced_us, braced_by, braced_until_us  the margin while little is known of the way: how much, who asked, how long
    """

    __slots__ = ("at_us", "braced_by", "braced_until_us", "braced_us", "cell", "key")

    def __init__(self, key: str, cell: Cell, at_us: int) -> None:
        self.key = key
        self.cell = cell
        self.at_us = at_us
        self.braced_us = self.braced_by = self.braced_until_us = 0

    @classmethod
    def read(cls, values: tuple[Any, ...]) -> Row:
        """Make it of READ's columns. Raises sqlite3.DatabaseError when they are damaged."""
        try:
            return cls._read(values)
        except (ValueError, TypeError, OverflowError) as error:
            raise sqlite3.DatabaseError(f"a malformed row ({error})") from error

    @classmethod
    def _read(cls, values: tuple[Any, ...]) -> Row:
        key, kind, at_us, tat_us, wanted_us, closed_us, braced_us, by, until_us, window_us, seq, first, state, held = (
            values
        )
        cell: Cell
        if kind == BUCKET:
            cell = Bucket.of(seq, first, state)
            cell.tat_us = tat_us
        elif kind == WINDOW:
            cell = Window.of(seq, first, state, window_us)
        elif kind == SLOTS:
            cell = Slots.of(held)
        else:
            raise ValueError(f"{key} is of kind {kind}")
        cell.slack_wanted_us, cell.closed_until_us = wanted_us, closed_us
        row = cls(key, cell, at_us)
        row.braced_us, row.braced_by, row.braced_until_us = braced_us, by, until_us
        return row

    def written(self, now_us: int) -> tuple[Any, ...]:
        """WRITE's columns."""
        cell, window_us = self.cell, 0
        kind, seq, first, state = SLOTS, 0, 0, b""
        if isinstance(cell, Bucket):
            kind, (seq, first, state) = BUCKET, cell.kept()
        elif isinstance(cell, Window):
            cell.thin(MOST_CHARGES)
            kind, window_us, (seq, first, state) = WINDOW, cell.window_us, cell.kept()
        self.at_us = now_us
        return (
            self.key, kind, now_us, cell.tat_us, cell.slack_wanted_us, cell.closed_until_us, self.braced_us,
            self.braced_by, self.braced_until_us, window_us, seq, first, state,
        )  # fmt: skip

    def keep_free(self, burst_us: int, now_us: int) -> None:
        """Put the margin in force that this much of a burst affords."""
        if not isinstance(self.cell, Slots):
            braced_us = self.braced_us if self.braced_until_us > now_us else 0
            self.cell.slack_us = slack_us(max(self.cell.slack_wanted_us, braced_us), burst_us)

    def restarted(self, now_us: int) -> None:
        """Take over what was written before the machine was started: nobody knows how long ago, so no time ago."""
        cell, by_us = self.cell, now_us - self.at_us
        if isinstance(cell, Bucket):
            cell.tat_us += by_us
        elif isinstance(cell, Window):
            cell.shift(by_us)
        cell.closed_until_us = max(0, cell.closed_until_us + by_us) if cell.closed_until_us else 0
        self.braced_until_us = 0


def fresh(limit: Limit, seq: int = 0) -> Cell:
    """A cell for a limit, of which nothing up to this number can be given back."""
    if limit.unit == "concurrent":
        return Slots()
    if limit.window:
        return Window.of(seq, seq, b"", limit.burst_us)
    return Bucket.of(seq, seq, b"")


def joined(row: Row, limit: Limit, was_window: bool, now_us: int) -> bool:
    """Let a limit be obeyed by the cell that stands under its key; say whether it was replaced or changed.

    was_window  who opens it has obeyed it as a window until now: so it is not any more
    """
    cell = row.cell
    if isinstance(cell, Slots) != (limit.unit == "concurrent"):
        suits = False
    elif isinstance(cell, Window) and not limit.window:
        # Somebody has learned, or declared, that the server counts per window: that is not undone by joining.
        unused = now_us - row.at_us > FORGOTTEN_US and not cell.spent_us(now_us)
        suits = not (was_window or unused)
    else:
        suits = isinstance(cell, Window) == limit.window
    if suits:
        if isinstance(cell, Window) and limit.window and cell.window_us != limit.burst_us:
            cell.window_us = limit.burst_us
            return True
        return False
    seq = cell.kept()[0] + 1 if isinstance(cell, Bucket | Window) else 0
    other = fresh(limit, seq)
    other.slack_wanted_us, other.closed_until_us = cell.slack_wanted_us, cell.closed_until_us
    spent_us = cell.spent_us(now_us)
    if limit.window:
        spent_us = min(spent_us, limit.burst_us)  # a bucket's minute closes no window of a second
    if not isinstance(cell, Slots):
        other.raise_to(now_us + spent_us, now_us)  # what was booked in the old cell stays charged in the new one
    row.cell = other
    return True
