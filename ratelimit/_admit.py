"""The blocking shell: wait for admission. Its twin is _admit_async.py; tests/test_parity.py keeps them one program."""

from __future__ import annotations

from .gate import Gate
from .line import Rank
from .stores.base import Booking, Claim
from .ticket import ThreadTicket

Admitted = tuple[Booking, int, str]


def admit(gate: Gate, charges_us: tuple[int, ...], rank: Rank, max_wait_us: int | None) -> Admitted:
    """Wait in line until the store books these charges; return the booking, how long it took (µs) and for which limit.

    Raises  as Limiter.reserve does
    """
    line, signals = gate.line, gate.signals
    if signals.halt is not None:
        signals.check(gate.clock.now_us())
    if not line.count:
        answer = gate.store.reserve(gate.lane, charges_us, rank.spare_ppm)
        if isinstance(answer, Booking):
            return answer, 0, ""
    claim = Claim(gate.lane, charges_us, rank.spare_ppm)
    gate.check_wait(claim, rank.priority, max_wait_us)
    ticket = ThreadTicket(gate, claim, rank.priority)
    served = False
    if signals.listeners:
        gate.queued(ticket)
    line.join(ticket)
    try:
        while True:
            ahead = line.turn(ticket)
            wait_us = 0
            if ahead is not None:
                answer = gate.store.reserve(gate.lane, charges_us, rank.spare_ppm, ahead)
                if isinstance(answer, Booking):
                    served = True
                    return answer, gate.clock.now_us() - ticket.asked_us, ticket.limit
                wait_us = answer
                ticket.limit = gate.tightest(claim)
                line.sleeps(ticket, wait_us)
            ticket.wait(gate.patience_us(ticket, wait_us, max_wait_us))
            if signals.halt is not None:
                signals.check(gate.clock.now_us())
    finally:
        line.leave(ticket, served)
        if not served and signals.listeners:
            gate.gave_up(ticket)
