"""The awaiting shell: wait for admission. Its twin is _admit.py; tests/test_parity.py keeps them one program."""

from __future__ import annotations

from .demand import Demand
from .gate import Gate
from .stores.base import Booking, Claim
from .ticket import TaskTicket


async def admit(
    gate: Gate, demand: Demand, claim: Claim, priority: str, max_wait_us: int | None
) -> tuple[Booking, int]:
    """Wait in line until the store books these charges; return the booking and how long it took (µs).

    Raises  as Limiter.reserve does
    """
    line = gate.line
    if not line:
        answer = gate.store.reserve(claim.lane, claim.charges_us, claim.spare_ppm)
        if isinstance(answer, Booking):
            return answer, 0
    gate.check_wait(claim, priority, max_wait_us)
    ticket = TaskTicket(gate, demand, claim, priority)
    served = False
    try:
        line.join(ticket)
        while True:
            ahead = line.turn(ticket)
            wait_us = 0
            if ahead is not None:
                answer = gate.store.reserve(*ticket.claim, ahead)
                if isinstance(answer, Booking):
                    served = True
                    return answer, gate.clock.now_us() - ticket.asked_us
                wait_us = answer
            pause_us = gate.patience_us(ticket, wait_us, not ahead, max_wait_us)
            line.sleeps(ticket, pause_us)
            await ticket.wait(pause_us)
    finally:
        line.leave(ticket, served)
