"""A batch server in virtual time, written from the documentation: it knows nothing of the driver.

It counts what waits in its queue, refuses what is too much, answers lines when a batch's time has come, loses replies
and lines as it is told, and notes every batch it was ever given.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ratelimit.batch.api import Refusal, Remote, Unknown

S = 1_000_000


class World(NamedTuple):
    """How a server behaves.

    queue         input tokens that may wait
    takes_s       (least, most) seconds that a batch takes
    loses         the chance that a reply is lost after (or before) what was asked was done
    hides_s       how long a batch may be created and not listed
    fails         the chance that a line fails in a way that another try mends; and for good
    expires       the chance that a batch expires half done, or that somebody cancels it
    at_create     whether a full queue is refused at creation, not by a failed batch
    """

    queue: int = 1_000
    takes_s: tuple[int, int] = (3_600, 3_600)
    loses: float = 0.0
    hides_s: int = 0
    fails: float = 0.0
    breaks: float = 0.0
    expires: float = 0.0
    at_create: bool = False


class Batch:
    """A batch as the server keeps it."""

    def __init__(self, number: int, file_id: str, endpoint: str, metadata: Mapping[str, str], now_us: int) -> None:
        self.id, self.file_id, self.endpoint, self.metadata = f"batch_{number}", file_id, endpoint, dict(metadata)
        self.created_us, self.status = now_us, "in_progress"
        self.ends_us = now_us
        self.tokens = 0
        self.code = self.message = ""
        self.output: str | None = None
        self.errors: str | None = None


class Server:
    """Answers as an Api does; `rival` puts other tokens into its queue."""

    def __init__(self, world: World, seed: int, tokens_of: Callable[[Mapping[str, Any]], int]) -> None:
        self.world, self.now_us = world, 1_780_000_000 * S
        self._random = random.Random(seed)
        self._tokens_of = tokens_of
        self.files: dict[str, tuple[str, list[dict[str, Any]]]] = {}
        self.batches: list[Batch] = []
        self.rivals: list[tuple[int, int, int]] = []  # (from, until, tokens)
        self.fullest = 0
        self.overfull = 0
        self.born_us = self.now_us

    # Time

    def sleep(self, us: int) -> None:
        self.now_us += us
        assert self.now_us < self.born_us + 1_000 * 86_400 * S, "it waits for ever"

    def rival(self, tokens: int, from_us: int, until_us: int) -> None:
        """Somebody else's batch: in the queue, and in nobody's list."""
        self.rivals.append((from_us, until_us, tokens))

    def waiting(self) -> int:
        """Tokens in the queue now."""
        self._advance()
        ours = sum(one.tokens for one in self.batches if one.status == "in_progress")
        return ours + sum(tokens for start, end, tokens in self.rivals if start <= self.now_us < end)

    def _advance(self) -> None:
        for one in self.batches:
            if one.status == "in_progress" and one.ends_us <= self.now_us:
                self._finish(one)

    def _finish(self, one: Batch, status: str = "completed", share: float = 1.0) -> None:
        """End a batch of which a share is done."""
        lines = list(self.files[one.file_id][1])
        self._random.shuffle(lines)
        if status == "completed" and self._random.random() < self.world.expires:
            status, share = self._random.choice(["expired", "cancelled"]), 0.5
        half = int(len(lines) * share)
        done, wrong = [], []
        for line in lines[:half]:
            luck = self._random.random()
            name = line["custom_id"]
            if luck < self.world.fails:
                wrong.append({"custom_id": name, "response": {"status_code": 500, "body": {}}, "error": None})
            elif luck < self.world.fails + self.world.breaks:
                body = {"error": {"code": "invalid_value", "message": "no"}}
                wrong.append({"custom_id": name, "response": {"status_code": 400, "body": body}, "error": None})
            else:
                usage = {"input_tokens": self._tokens_of(line["body"]), "output_tokens": 7}
                body = {
                    "id": f"resp_{one.id}_{name}",
                    "object": "response",
                    "model": line["body"]["model"],
                    "usage": usage,
                }
                done.append({"custom_id": name, "response": {"status_code": 200, "body": body}, "error": None})
        wrong += [
            {"custom_id": line["custom_id"], "response": None, "error": {"code": f"batch_{status}", "message": "late"}}
            for line in lines[half:]
        ]
        one.status = status
        one.output = self._store("out", done) if done else None
        one.errors = self._store("err", wrong) if wrong else None

    def _store(self, name: str, lines: list[dict[str, Any]]) -> str:
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = (name, lines)
        return file_id

    # The API

    def _lost(self) -> None:
        if self._random.random() < self.world.loses:
            raise Unknown("connection lost")

    def upload(self, name: str, content: Iterable[bytes]) -> str:
        self._lost()
        file_id = self._store(name, [json.loads(raw) for raw in content])
        self._lost()
        return file_id

    def find_file(self, name: str) -> str | None:
        self._lost()
        return next((file_id for file_id, (theirs, _) in reversed(self.files.items()) if theirs == name), None)

    def create(self, file_id: str, endpoint: str, metadata: Mapping[str, str]) -> Remote:
        self._lost()
        waiting = self.waiting()
        one = Batch(len(self.batches), file_id, endpoint, metadata, self.now_us)
        one.tokens = sum(self._tokens_of(line["body"]) for line in self.files[file_id][1])
        if waiting + one.tokens > self.world.queue:
            self.overfull += 1
            message = (
                f"Enqueued token limit reached for o3 in organization org. Limit: {self.world.queue:,} enqueued tokens."
            )
            if self.world.at_create:
                raise Refusal(message, 429, "token_limit_exceeded")
            one.status, one.code, one.message = "failed", "token_limit_exceeded", message
        self.fullest = max(self.fullest, waiting + (one.tokens if one.status == "in_progress" else 0))
        one.ends_us = self.now_us + self._random.randint(*self.world.takes_s) * S
        self.batches.append(one)
        self._lost()
        return self._remote(one)

    def list(self, since_s: int) -> Iterator[Remote]:
        self._lost()
        self._advance()
        for one in reversed(self.batches):
            if one.created_us // S >= since_s and one.created_us + self.world.hides_s * S <= self.now_us:
                yield self._remote(one)

    def get(self, batch_id: str) -> Remote:
        self._lost()
        self._advance()
        return self._remote(next(one for one in self.batches if one.id == batch_id))

    def cancel(self, batch_id: str) -> None:
        self._lost()
        self._advance()
        one = next(one for one in self.batches if one.id == batch_id)
        if one.status == "in_progress":
            self._finish(one, "cancelled", self._random.random())

    def content(self, file_id: str) -> Iterator[bytes]:
        self._lost()
        for line in self.files[file_id][1]:
            yield json.dumps(line).encode()

    def _remote(self, one: Batch) -> Remote:
        done, failed = (0 if name is None else len(self.files[name][1]) for name in (one.output, one.errors))
        return Remote(
            one.id, one.status, one.endpoint, one.created_us // S, one.file_id, one.output, one.errors, one.metadata,
            "o3", len(self.files[one.file_id][1]), done, failed, one.code, one.message, {},
        )  # fmt: skip
