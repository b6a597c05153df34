"""The blocking shell: wait for admission. Its twin is _admit_async.py; tests/test_parity.py keeps them one program."""

from __future__ import annotations

from .gate import Gate
from .line import ThreadTicket
from .stores.base import Booking


def admit(gate: Gate, charges_us: tuple[int, ...], max_wait_us: int | None) -> tuple[Booking, int]:
    """Wait in line until the store books these charges; return the booking and how long it took (µs).

    Raises  as Limiter.reserve does
    """
    if not gate.line:
        answer = gate.store.reserve(gate.lane, charges_us)
        if isinstance(answer, Booking):
            return answer, 0
    asked_us = gate.clock.now_us()
    gate.check_wait(charges_us, max_wait_us)
    ticket = ThreadTicket(gate.clock, charges_us)
    deadline_us = gate.deadline_us(max_wait_us)
    gate.line.join(ticket)
    try:
        while True:
            if gate.line.is_first(ticket):
                answer = gate.store.reserve(gate.lane, charges_us)
                if isinstance(answer, Booking):
                    return answer, gate.clock.now_us() - asked_us
                gate.check_deadline(deadline_us, answer, max_wait_us)
                ticket.wait(answer)
            else:
                gate.check_deadline(deadline_us, 0, max_wait_us)
                ticket.wait(gate.patience_us(deadline_us))
    finally:
        gate.line.leave(ticket)
