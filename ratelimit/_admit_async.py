"""The awaiting shell: wait for admission. Its twin is _admit.py; tests/test_parity.py keeps them one program."""

from __future__ import annotations

from .demand import Demand
from .gate import Gate
from .line import Rank
from .stores.base import Booking
from .ticket import TaskTicket

Admitted = tuple[Booking, int, str]


async def admit(gate: Gate, demand: Demand, rank: Rank, max_wait_us: int | None) -> Admitted:
    """Wait in line until the store books a demand; return the booking, how long it took (µs) and for which limit.

    Raises  as Limiter.reserve does
    """
    line, signals = gate.line, gate.signals
    if signals.halt is not None:
        signals.check(gate.clock.now_us())
    claim = gate.claim(demand, rank.spare_ppm)
    if not line.count:
        answer = gate.store.reserve(*claim)
        if isinstance(answer, Booking):
            return answer, 0, ""
    gate.check_wait(claim, rank.priority, max_wait_us)
    ticket = TaskTicket(gate, demand, claim, rank.priority)
    served = False
    if signals.listeners:
        gate.queued(ticket)
    try:
        line.join(ticket)
        while True:
            ahead = line.turn(ticket)
            wait_us = 0
            if ahead is not None:
                answer = gate.store.reserve(*ticket.claim, ahead)
                if isinstance(answer, Booking):
                    served = True
                    return answer, gate.clock.now_us() - ticket.asked_us, ticket.limit
                wait_us = answer
                ticket.limit = gate.tightest(ticket.claim)
            pause_us = gate.patience_us(ticket, wait_us, not ahead, max_wait_us)
            line.sleeps(ticket, pause_us)
            await ticket.wait(pause_us)
            if signals.halt is not None:
                signals.check(gate.clock.now_us())
    finally:
        line.leave(ticket, served)
        if not served and signals.listeners:
            gate.gave_up(ticket)
