"""Law: one contract for every store: memory, a file, and a file through two handles, as two processes have them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import settings

from ratelimit.clock import Clock
from ratelimit.stores.base import Store
from ratelimit.stores.memory import MemoryStore
from ratelimit.stores.sqlite import SqliteStore
from ratelimit.testing import StoreContract


class OnMemory(StoreContract):
    """One process."""

    def stores(self, clock: Clock) -> Sequence[Store]:
        return [MemoryStore(clock, initial_slack_us=0)]


class OnSqlite(StoreContract):
    """A file, through so many handles."""

    handles_made = 1

    def stores(self, clock: Clock) -> Sequence[Store]:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name, "limits.db")
        self.made = [SqliteStore(path, clock, initial_slack_us=0) for _ in range(self.handles_made)]
        return self.made

    def teardown(self) -> None:
        for store in getattr(self, "made", ()):
            store.disconnect()
        if hasattr(self, "folder"):
            self.folder.cleanup()


class OnTwoHandles(OnSqlite):
    """Two processes, as far as the file can tell."""

    handles_made = 2


TestOnMemory = OnMemory.TestCase
TestOnSqlite = OnSqlite.TestCase
TestOnTwoHandles = OnTwoHandles.TestCase
for one in (TestOnMemory, TestOnSqlite, TestOnTwoHandles):
    one.settings = settings(deadline=None, max_examples=100, stateful_step_count=40)
