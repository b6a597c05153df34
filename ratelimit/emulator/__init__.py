"""A local, OpenAI-compatible server that enforces rate limits the way the real one was observed to.

    with Emulator(tier="tier_1", speed=10) as emulator:
        client = OpenAI(base_url=emulator.url, api_key="any")

From a shell: `ratecard emulate --tier tier_1 --port 8000`, or `python -m ratelimit.emulator`. See docs/emulator.md.
"""

from __future__ import annotations

from .batch_queues import Enqueued
from .batch_state import BatchChange
from .faults import Fault, parse_faults
from .latency import Latency
from .server import Emulator, main, serve

__all__ = ["BatchChange", "Emulator", "Enqueued", "Fault", "Latency", "main", "parse_faults", "serve"]
