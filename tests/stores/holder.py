"""A process that holds a slot, or waits for one with a ticket, until it is killed: `holder.py PATH slot|ticket`."""

from __future__ import annotations

import sys
import threading

import ratelimit
from ratelimit.stores.base import Booking

MODEL = "a-model-with-limits-of-its-own"

limiter = ratelimit.Limiter(limits={"concurrency": 1, "tpm": 600}, store=f"sqlite:///{sys.argv[1]}")
if sys.argv[2] == "slot":
    held = limiter.reserve(model=MODEL, tokens=300)
else:
    limiter.reserve(model=MODEL, tokens=300).end()
    waits = Booking(limiter.gate(MODEL).lane, [1, 60_000_000])
    waits.asked_us = limiter.clock.now_us()
    if limiter.store.reserve(waits) is None:
        sys.exit("it need not wait")
sys.stdout.write("holds\n")
sys.stdout.flush()
threading.Event().wait()
