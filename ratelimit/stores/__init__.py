"""Where the state of the limits lives. `base.Store` is the contract; `memory.MemoryStore` serves one process,
`sqlite.SqliteStore` all processes of one machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..clock import Clock
    from .base import Store


def open_store(url: str, clock: Clock | None = None) -> Store:
    """Open the store that a URL names: sqlite:///limits.db, sqlite:////var/lib/limits.db.

    Raises  ConfigError when it names none, StoreUnavailable when it cannot be used
    """
    path = path_of(url)
    from .sqlite import SqliteStore  # sqlite3 is loaded by whoever uses it

    return SqliteStore(path, clock)


def read_store(url: str) -> str:
    """Check a store's URL without opening anything. Raises ConfigError when it names none."""
    path_of(url)
    return url


def path_of(url: str) -> str:
    """The path of the file that a store's URL names. Raises ConfigError when it names none."""
    scheme, mark, rest = url.partition("://")
    if not mark or scheme != "sqlite":
        raise ConfigError(f"store is a URL such as sqlite:///limits.db, not {url!r}")
    path = unquote(rest[1:])
    if not rest.startswith("/") or not path or path == ":memory:" or "?" in rest or "\0" in path:
        raise ConfigError(
            f"store {url!r}: three slashes and the path of a file: sqlite:///limits.db; four for one that begins with "
            "a slash: sqlite:////var/lib/limits.db"
        )
    return path
