"""What every store decides alike: when a request may go, and whether it would delay those who asked before it.

Pure: cells in, instants out. A store brings the cells of a booking (a dictionary's, or a file's) and swaps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..cells import Cell, Slots, room_us

INITIAL_SLACK_US = 100_000
"""Burst left unused before anything is known of the network: a first connection is slower than a warm one."""
MAX_SLACK_SHARE = 20
"""At most 1/20 of a burst is ever given to jitter: past that the cause is not the network."""
MAX_SLACK_US = 2_000_000
"""At most so much is ever learned at once, however late a request was."""

Cells = tuple[tuple[Cell, int], ...]
"""The cell of each limit of a lane, and how much of it may be spent at once (µs)."""


class Claim(NamedTuple):
    """What somebody asks for, as it was at one instant.

    keys   (n,)     of its limits
    cells  (n,)     theirs
    charges_us (n,) µs
    spare_ppm  ppm  the share of every burst that must stay free afterwards
    """

    keys: Sequence[str]
    cells: Cells
    charges_us: Sequence[int]
    spare_ppm: int


def earliest_us(claim: Claim, now_us: int) -> int:
    """The earliest instant at which every charge of a claim conforms.

    A conforming instant of one window may be found only after another limit has pushed the first on: a window looks at
    what is in it at that instant, and less is in it later, so one pass is enough.
    """
    act_us = now_us
    for (cell, burst_us), charge_us in zip(claim.cells, claim.charges_us, strict=True):
        if charge_us:
            free_us = room_us(charge_us, burst_us, cell.slack_us, claim.spare_ppm)
            act_us = max(act_us, cell.earliest_us(charge_us, free_us, now_us))
        act_us = max(act_us, cell.closed_until_us)  # a cool-down holds everybody back, whatever he takes
    return act_us


def fit(claim: Claim, ahead: Sequence[Claim]) -> bool:
    """Say whether every slot that somebody asks for is free, beside those that others wait for.

    Their slot is kept: nobody knows when another one would be free.
    """
    for key, (cell, burst_us), charge_us in zip(claim.keys, claim.cells, claim.charges_us, strict=True):
        if isinstance(cell, Slots):
            kept = sum(one.charges_us[one.keys.index(key)] for one in ahead if key in one.keys)
            if not cell.fit(kept + charge_us, room_us(charge_us, burst_us, 0, claim.spare_ppm)):
                return False
    return True


def behind(claim: Claim, ahead: Sequence[Claim], now_us: int) -> int:
    """When a request that could act now may, not to delay those who asked earlier: now, or after all of them.

    Those who wait for a slot could have one at any time: what else they want is kept for them from now on.
    """
    trial: dict[int, Cell] = {}
    undelayed = [_try(one, trial, now_us) for one in ahead]
    after_us = earliest_us(_on_twins(claim, trial), max(now_us, *undelayed))
    trial = {}
    for (cell, _), charge_us in zip(_on_twins(claim, trial).cells, claim.charges_us, strict=True):
        if charge_us:
            cell.charge(now_us, charge_us)
    delayed = [_try(one, trial, now_us) for one in ahead]
    return now_us if all(now <= then for now, then in zip(delayed, undelayed, strict=True)) else after_us


def rooms_us(claim: Claim, now_us: int, at_us: int) -> list[int]:
    """Say, per limit, how much others may be charged now without delaying a claim that waits until `at_us`."""
    return [
        cell.room_us(charge_us, room_us(charge_us, burst_us, cell.slack_us, claim.spare_ppm), now_us, at_us)
        for (cell, burst_us), charge_us in zip(claim.cells, claim.charges_us, strict=True)
    ]


def slack_us(wanted_us: int, burst_us: int) -> int:
    """How much of a burst is kept unused, where so much is wanted."""
    return min(wanted_us, burst_us // MAX_SLACK_SHARE)


def _try(claim: Claim, trial: dict[int, Cell], now_us: int) -> int:
    """Charge a claim to copies of its cells at its earliest instant, and say when that is."""
    claim = _on_twins(claim, trial)
    act_us = earliest_us(claim, now_us)
    for (cell, _), charge_us in zip(claim.cells, claim.charges_us, strict=True):
        if charge_us:
            cell.charge(act_us, charge_us)
    return act_us


def _on_twins(claim: Claim, trial: dict[int, Cell]) -> Claim:
    """The same claim on copies of its cells to try charges on, the same copy for the same cell."""
    for cell, _ in claim.cells:
        if id(cell) not in trial:
            trial[id(cell)] = cell.copy()
    return claim._replace(cells=tuple((trial[id(cell)], burst_us) for cell, burst_us in claim.cells))
