"""The blocking shell: wait for admission. Its twin is _admit_async.py; tests/test_parity.py keeps them one program."""

from __future__ import annotations

from .gate import Gate
from .stores.base import Booking, Claim
from .ticket import ThreadTicket


def admit(gate: Gate, claim: Claim, priority: str, max_wait_us: int | None) -> tuple[Booking, int]:
    """Wait in line until the store books these charges; return the booking and how long it took (µs).

    Raises  as Limiter.reserve does
    """
    line = gate.line
    if not line:
        answer = gate.store.reserve(gate.lane, claim.charges_us, claim.spare_ppm)
        if isinstance(answer, Booking):
            return answer, 0
    gate.check_wait(claim, priority, max_wait_us)
    ticket = ThreadTicket(gate, claim, priority)
    served = False
    line.join(ticket)
    try:
        while True:
            ahead = line.turn(ticket)
            wait_us = 0
            if ahead is not None:
                answer = gate.store.reserve(gate.lane, claim.charges_us, claim.spare_ppm, ahead)
                if isinstance(answer, Booking):
                    served = True
                    return answer, gate.clock.now_us() - ticket.asked_us
                wait_us = answer
                line.sleeps(ticket, wait_us)
            ticket.wait(gate.patience_us(ticket, wait_us, max_wait_us))
    finally:
        line.leave(ticket, served)
