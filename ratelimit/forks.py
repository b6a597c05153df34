"""What a fork leaves behind: locks that another thread held, and waits that are the parent's."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """Something that has to be put right in a child."""

    def after_fork(self) -> None:
        """Put it right: in the child there is no other thread, and nothing in the air."""


_ALL: weakref.WeakSet[Forked] = weakref.WeakSet()


def reset_in_child(one: Forked) -> None:
    """Call `after_fork` of this object, for as long as it lives, in every child of a fork."""
    _ALL.add(one)


def _in_child() -> None:
    for one in list(_ALL):
        one.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
