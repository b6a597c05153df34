"""Names of lines: short, of visible characters, and no two alike."""

from __future__ import annotations

MOST = 80
"""Characters of a part of a name."""


def clean(text: str) -> str:
    """Make a text fit for a name: one line, nothing invisible, not too long."""
    visible = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return visible if len(visible) <= MOST else visible[:MOST].rstrip() + "…"


class Names:
    """Gives each name once: what is taken gets a number."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def new(self, name: str) -> str:
        """Take a name; "name-2" where it is taken."""
        wanted, number = name, self._next.get(name, 1)
        while wanted in self._taken:
            number += 1
            wanted = f"{name}-{number}"
        self._next[name] = number
        self._taken.add(wanted)
        return wanted
