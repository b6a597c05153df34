"""One of many processes that use one account's limits at once: `hammer.py PATH LOG SECONDS sync|async SEED`.

Everything that is charged or given back is written to the log (appended, a line each) with the instant at which the
store did it: "+ pid number us requests tokens", "= pid number us tokens", "- pid number us" when its slot is free.
The number is the store's own, of the first limit's charges.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import sys
import threading
from collections.abc import Sequence
from typing import Any

import ratelimit
from ratelimit.limit import Limit
from ratelimit.stores.base import Booking
from ratelimit.stores.sqlite import SqliteStore

MODEL = "a-model-with-limits-of-its-own"
LIMITS = {
    "rpm": Limit("rpm", "requests", 600, 2_000_000),
    "tpm": Limit("tpm", "tokens", 60_000, 2_000_000),
    "concurrency": Limit("concurrency", "concurrent", 40),
}
MOST = 400
"""The largest request, in tokens."""


class Logged(SqliteStore):
    """The store, which writes down what it has done once that is committed."""

    log = -1
    acted_us = 0

    def reserve(self, booking: Booking, ahead: Sequence[Booking] = ()) -> int | None:
        with self._lock:
            answer = super().reserve(booking, ahead)
            if answer is None:
                requests, tokens = booking.demand[:2]  # type: ignore[attr-defined]  # a Reservation's
                self.write(f"+ {os.getpid()} {booking.place[0][1]} {self.acted_us} {requests} {tokens}")
            return answer

    def _reserve(self, db: sqlite3.Connection, *asked: Any) -> Any:
        answer = super()._reserve(db, *asked)
        self.acted_us = self._latest_us
        return answer

    def _settle(self, db: sqlite3.Connection, changes: list[tuple[str, int, int]]) -> None:
        super()._settle(db, changes)
        self.acted_us = self._latest_us

    def write(self, line: str) -> None:
        os.write(self.log, (line + "\n").encode())


def main(path: str, log: str, seconds: str, colour: str, seed: str) -> None:
    """Send as much as may be, for so long."""
    store = Logged(path)
    Logged.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    limiter = ratelimit.Limiter(limits=LIMITS, store=store)
    until_us = limiter.clock.now_us() + int(float(seconds) * 1_000_000)
    draw, rest = random.Random(int(seed)), threading.Event()

    def size() -> int:
        return draw.randint(20, MOST)

    def end(reservation: Any, tokens: int) -> None:
        number = reservation.place[0][1]
        with store._lock:
            if draw.random() < 0.2:  # what a reply took of it
                true = draw.randint(0, tokens)
                reservation.settle(tokens=true)
                store.write(f"= {os.getpid()} {number} {store.acted_us} {true}")
            else:
                free_us = store.clock.now_us()
                reservation.end()
                store.write(f"- {os.getpid()} {number} {free_us}")
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()

    def work() -> None:
        while limiter.clock.now_us() < until_us:
            tokens = size()
            reservation = limiter.reserve(model=MODEL, tokens=tokens)
            rest.wait(0.01)
            end(reservation, tokens)

    async def awork() -> None:
        while limiter.clock.now_us() < until_us:
            tokens = size()
            reservation = await limiter.areserve(model=MODEL, tokens=tokens)
            done = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(0.01, done.set_result, None)
            await done
            end(reservation, tokens)

    async def crowd() -> None:
        await asyncio.gather(*(awork() for _ in range(8)))

    if colour == "async":
        asyncio.run(crowd())
        return
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
