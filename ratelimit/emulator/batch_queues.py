"""The enqueued-token limits: how many input tokens of a model may wait in batches, and how many do."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ratelimit.errors import ConfigError, NotOffered
from ratelimit.limit import canonical

if TYPE_CHECKING:
    from .account import Account, Model

OwnQueues = int | Mapping[str, int] | None
"""Tokens that may be enqueued, of every model or by model; None: what the tier's table says."""


class Enqueued(NamedTuple):
    """What a queue held from an instant on.

    at_us   µs      emulated clock
    queue   str     the model, or the pool of models, whose queue it is
    tokens  tokens  of input, over all its batches
    """

    at_us: int
    queue: str
    tokens: int


class Queue:
    """One model's queue. limit: None where nobody publishes one."""

    __slots__ = ("limit", "name", "peak", "tokens")

    def __init__(self, name: str, limit: int | None) -> None:
        self.name = name
        self.limit = limit
        self.tokens = 0
        self.peak = 0

    def fits(self, tokens: int) -> bool:
        """Say whether so many more may be enqueued now."""
        return self.limit is None or self.tokens + tokens <= self.limit


class Queues:
    """All queues of an account.

    own       limits given by hand, in the place of the table's
    log_size  changes kept

    Raises  ConfigError for a limit that is no positive whole number
    """

    def __init__(self, account: Account, own: OwnQueues, log_size: int) -> None:
        given = own if isinstance(own, Mapping) else {} if own is None else {"": own}
        for name, limit in given.items():
            if type(limit) is not int or limit < 1:
                raise ConfigError(f"batch_queue is a whole number of tokens above 0, or one by model, not {limit!r}")
            if not isinstance(name, str):
                raise ConfigError(f"batch_queue: a model has a name such as o3-pro, not {name!r}")
        self._account = account
        self._own = {canonical(name) if name else "": limit for name, limit in given.items()}
        self._queues: dict[str, Queue] = {}
        self.log: deque[Enqueued] = deque(maxlen=log_size)

    def of(self, model: Model, tokens: int) -> Queue:
        """Find the queue of a request with so many input tokens: that of its model's pool, or of long contexts."""
        base = model.card.model if model.card else model.name
        table, tier = self._account.table, self._account.tier
        pool, limit = base, self._own.get(base, self._own.get(""))
        if table is not None and tier is not None:
            pool = table.pool(base, tier)
            if limit is None:
                limit = self._own.get(pool)
            if limit is None:
                try:
                    limit = table.batch_queue_tokens(base, tier)
                    for part in table.parts(base, tier):
                        if part.above is not None and tokens > part.above and part.batch_queue_tokens is not None:
                            pool, limit = f"{pool}-long-context", part.batch_queue_tokens
                except (ConfigError, NotOffered):
                    pass  # the model's limits are given by hand, and none for its queue
        found = self._queues.get(pool)
        if found is None:
            found = self._queues[pool] = Queue(pool, limit)
        return found

    def full(self, wanted: Mapping[str, int]) -> Queue | None:
        """Find a queue without room for so many tokens, by queue; None when all have it."""
        return next(
            (self._queues[name] for name, tokens in wanted.items() if not self._queues[name].fits(tokens)), None
        )

    def hold(self, wanted: Mapping[str, int], at_us: int) -> None:
        """Enqueue these tokens."""
        for name, tokens in wanted.items():
            queue = self._queues[name]
            queue.tokens += tokens
            queue.peak = max(queue.peak, queue.tokens)
            self.log.append(Enqueued(at_us, name, queue.tokens))

    def release(self, held: Mapping[str, int], at_us: int) -> None:
        """Give their room back."""
        self.hold({name: -tokens for name, tokens in held.items()}, at_us)

    def snapshot(self) -> dict[str, dict[str, int | None]]:
        """Say how full each is, and how full it has ever been."""
        return {
            name: {"limit": queue.limit, "enqueued": queue.tokens, "peak": queue.peak}
            for name, queue in sorted(self._queues.items())
        }

    def clear(self) -> None:
        """Empty them all."""
        self._queues.clear()
        self.log.clear()
