"""Who holds something in a store that outlives processes: told so that others can see whether he still lives.

A process is its number and the instant it was started, for numbers come again. That is the truth as far as one can
look: within one PID namespace of Linux. Of anybody else (another container on the same volume, another system) only
his lease tells: he renews it while he lives.
"""

from __future__ import annotations

import os
from typing import NamedTuple

LEASE_US, RENEW_S = 45_000_000, 10.0
"""Whoever cannot be looked at, and has not renewed his lease for so long, is dead."""


class Owner(NamedTuple):
    """A process: its number, when it was started (ticks since boot), and where both are known (0: nowhere)."""

    pid: int
    start: int
    space: int


def this_process() -> Owner:
    """The one that asks."""
    pid = os.getpid()
    start = _start_of(pid)
    try:
        space = 0 if start is None else os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        space = 0
    return Owner(pid, start or 0, space)


def alive(owner: Owner, me: Owner, renewed_us: int, now_us: int) -> bool:
    """Say whether a process still lives, as far as `me` can see; else whether its lease has not run out."""
    if owner == me:
        return True
    if owner.space and owner.space == me.space:
        return _start_of(owner.pid) == owner.start
    return now_us - renewed_us < LEASE_US


def _start_of(pid: int) -> int | None:
    """When a process was started; None when there is none, or it has ended and only waits to be counted."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if len(fields) < 20 or fields[0] in b"ZX" else int(fields[19])
