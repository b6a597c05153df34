"""The blocking shell: wait for admission. Its twin is _admit_async.py; tests/test_parity.py keeps them one program."""

from __future__ import annotations

from .reservation import Reservation
from .ticket import ThreadTicket


def admit(reservation: Reservation, priority: str, max_wait_us: int | None) -> None:
    """Wait in line until the store has charged a reservation; note how long that took, and for which limit.

    Raises  as Limiter.reserve does
    """
    gate = reservation.gate
    line, signals = gate.line, gate.signals
    gate.check_wait(reservation, priority, max_wait_us)
    ticket = ThreadTicket(reservation, priority)
    served = False
    if signals.listeners:
        gate.queued(ticket)
    try:
        line.join(ticket)
        while True:
            ahead = line.turn(ticket)
            wait_us = 0
            if ahead is not None:
                answer = gate.store.reserve(reservation, ahead)
                if answer is None:
                    served = True
                    reservation.waited_us = gate.clock.now_us() - ticket.asked_us
                    return
                wait_us = answer
                gate.stands(ticket, wait_us)
            pause_us = gate.patience_us(ticket, wait_us, not ahead, max_wait_us)
            line.sleeps(ticket, pause_us)
            ticket.wait(pause_us)
            if signals.halt is not None:
                signals.check(gate.clock.now_us())
    finally:
        line.leave(ticket, served)
        if not served:
            gate.gave_up(ticket)
