"""How large replies are, learned: what to reserve for output under a policy that counts it.

Per kind of request (model, endpoint, reasoning effort, tags) the sizes of the last replies are kept; once there are
enough, their 95th percentile is reserved instead of the largest reply the request allows, and what the reply then took
settles it. How good that was is kept too, and shown by `Limiter.snapshot`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from pricing.estimate import effort_of
from pricing.learned import ENOUGH, KEPT, MOST_KINDS, quantile

from .forks import reset_in_child


class Kind(NamedTuple):
    """Requests whose replies are taken to be alike."""

    model: str
    endpoint: str
    effort: str
    tags: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, body: Mapping[str, Any], endpoint: str, tags: Mapping[str, str] | None) -> Kind:
        """Tell the kind of a request by its body and the tags of its context."""
        return cls(
            str(body.get("model")),
            endpoint,
            effort_of(body),
            tuple(sorted(tags.items())) if tags else (),
        )

    def __str__(self) -> str:
        parts = [self.model, self.endpoint, self.effort, *(f"{name}={value}" for name, value in self.tags)]
        return " ".join(part for part in parts if part)


class _Sizes:
    """The replies of one kind."""

    __slots__ = ("actual", "count", "covered", "latest", "p95", "reserved")

    def __init__(self) -> None:
        self.latest: deque[int] = deque(maxlen=KEPT)
        self.p95: int | None = None
        self.count = self.covered = self.reserved = self.actual = 0


class Outputs:
    """The output sizes of one limiter's traffic."""

    __slots__ = ("__weakref__", "_kinds", "_lock")

    def __init__(self) -> None:
        self._kinds: OrderedDict[Kind, _Sizes] = OrderedDict()
        self._lock = threading.RLock()  # re-entrant: see MemoryStore
        reset_in_child(self)

    def after_fork(self) -> None:
        """Take a lock that nobody holds."""
        self._lock = threading.RLock()

    def foresee(self, kind: Kind) -> int | None:
        """The 95th percentile (tokens) of such replies; None while there were too few."""
        with self._lock:
            sizes = self._kinds.get(kind)
            if sizes is None or len(sizes.latest) < ENOUGH:
                return None
            if sizes.p95 is None:
                sizes.p95 = quantile(sorted(sizes.latest), 95)
            return sizes.p95

    def learn(self, kind: Kind, reserved: int, actual: int) -> None:
        """Note what a reply took (tokens), and what had been reserved for it."""
        with self._lock:
            sizes = self._kinds.pop(kind, None) or _Sizes()
            self._kinds[kind] = sizes
            while len(self._kinds) > MOST_KINDS:
                self._kinds.popitem(last=False)
            sizes.latest.append(actual)
            sizes.p95 = None
            sizes.count += 1
            sizes.covered += actual <= reserved
            sizes.reserved += reserved
            sizes.actual += actual

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Per kind: replies seen, what is reserved for the next, and how the reservations so far did."""
        with self._lock:
            return {
                str(kind): {
                    "replies": sizes.count,
                    "next": self.foresee(kind),
                    "covered": sizes.covered,
                    "reserved_mean": sizes.reserved // sizes.count,
                    "actual_mean": sizes.actual // sizes.count,
                }
                for kind, sizes in self._kinds.items()
            }
