"""What the runner's tests stand on: a server that remembers what it was sent, and a desk to run jobs from."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pricing.ledger import Entry, Ledger
from ratelimit.cli import main
from ratelimit.cli.run import run_job
from ratelimit.clock import ScaledClock
from ratelimit.emulator import Emulator
from ratelimit.limiter import Limiter
from ratelimit.progress import Report
from ratelimit.results import Results
from ratelimit.stores.decide import INITIAL_SLACK_US
from ratelimit.stores.memory import MemoryStore

DAY = date(2026, 8, 1)
"""The day these tests live on: no model is about to be shut down, and tier_1 is a tier of that day."""
GENEROUS = {"rpm": 100_000, "tpm": 100_000_000}
PATIENCE_S = 20
"""After so long a child process is killed and its test fails: no test waits for this."""


class Witness:
    """Stands before a server and keeps every body it is sent; may act at the instant of a request or an answer."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.bodies: list[dict[str, Any]] = []
        self.answers = 0
        self.on_request: Callable[[int], Any] = lambda number: None  # what it returns is awaited where it can be
        self.on_answer: Callable[[int], object] = lambda number: None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        parts: list[bytes] = []

        async def heard() -> Any:
            message = await receive()
            if message["type"] == "http.request":
                parts.append(message.get("body", b""))
                if not message.get("more_body"):
                    self.bodies.append(json.loads(b"".join(parts)))
                    doing = self.on_request(len(self.bodies))
                    if inspect.isawaitable(doing):
                        await doing
            return message

        await self._app(scope, heard, send)
        self.answers += 1
        self.on_answer(self.answers)


class Server(Emulator):
    """The emulator, at once and without tight limits unless told, behind a Witness."""

    def __init__(self, **options: Any) -> None:
        if "tier" not in options:
            options.setdefault("limits", GENEROUS)
        super().__init__(**{"latency": 0, "at": DAY, **options})
        self.witness = Witness(self.app)
        self.app = self.witness  # type: ignore[assignment]  # all that uvicorn needs is that it can be called

    def sent(self) -> list[str]:
        """The marks of the bodies it was sent, in order (see `request`)."""
        return [body["user"] for body in self.witness.bodies]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> Any:
        """What --json printed."""
        return json.loads(self.out)


class Desk:
    """A job, its output and its ledger in a folder, and the command line to run it with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = folder / "job.jsonl"
        self.output = folder / "out.jsonl"
        self.costs = folder / "out.jsonl.costs.db"
        self.children: list[subprocess.Popen[str]] = []

    def write(self, lines: Iterable[Mapping[str, Any] | str]) -> None:
        """Write the job; a text stands as it is."""
        texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
        self.job.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")

    def arguments(self, server: Emulator, *options: str) -> list[str]:
        """The `run` command; of an option given twice the last one counts."""
        limits = [f"--rpm={GENEROUS['rpm']}", f"--tpm={GENEROUS['tpm']}"]
        where = [str(self.job), "-o", str(self.output), "--base-url", server.url, "--at", str(DAY)]
        return ["run", *where, *limits, *options]

    def run(self, server: Emulator, *options: str) -> Ended:
        """Run the command in this process."""
        return call(self.arguments(server, *options))

    @staticmethod
    def call(arguments: list[str]) -> Ended:
        """Run any command in this process."""
        return call(arguments)

    def spawn(self, server: Emulator, *options: str) -> subprocess.Popen[str]:
        """Run the command in a process of its own; it is killed when the test ends."""
        child = subprocess.Popen(
            [sys.executable, "-m", "ratelimit", *self.arguments(server, *options)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            cwd=self.folder,
        )
        self.children.append(child)
        return child

    def wait(self, child: subprocess.Popen[str]) -> Ended:
        """Wait for a process; one that hangs is an error."""
        out, err = child.communicate(timeout=PATIENCE_S)
        return Ended(child.returncode, out, err)

    def run_scaled(self, server: Emulator, speed: float, limits: Any = None, **options: Any) -> Report:
        """Run the job in this process on a clock that is as fast as the server's, as `ratecard demo` does."""
        slack_us = round(INITIAL_SLACK_US * speed)
        store = MemoryStore(ScaledClock(speed), initial_slack_us=slack_us)
        results = Results(self.output)
        try:
            with Ledger(self.costs) as ledger:
                return asyncio.run(
                    run_job(
                        str(self.job),
                        results,
                        limiter=Limiter(limits=limits or GENEROUS, store=store, at=DAY),
                        ledger=ledger,
                        run="run:out.jsonl",
                        base_url=server.url,
                        at=DAY,
                        quiet=True,
                        **options,
                    )
                )
        finally:
            results.close()

    def results(self) -> list[Any]:
        """The whole lines of the output."""
        raw = self.output.read_bytes() if self.output.exists() else b""
        return [json.loads(line) for line in raw.splitlines(keepends=True) if line.endswith(b"\n")]

    def ids(self) -> list[str]:
        """The custom_ids of the output, in its order."""
        return [line["custom_id"] for line in self.results()]

    def entries(self, state: Any = None) -> list[Entry]:
        """The ledger, read afresh."""
        with Ledger(self.costs) as ledger:
            return list(ledger.entries(state))

    def states(self) -> dict[str, int]:
        """How many ledger entries are in which state."""
        found: dict[str, int] = {}
        for entry in self.entries():
            found[entry.state] = found.get(entry.state, 0) + 1
        return found


def call(arguments: list[str]) -> Ended:
    """Run the command line in this process, as the console script does."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    return Ended(code or 0, out.getvalue(), err.getvalue())


def batch_line(number: int, *, words: int = 20, cap: int = 2_000, model: str = "o3-pro", **body: Any) -> Any:
    """A Batch-format line; `user` marks the body, so that a server can tell which line it serves."""
    mark = f"line-{number}"
    asked = {"model": model, "input": "word" + " word" * (words - 1), "max_output_tokens": cap, "user": mark}
    return {"custom_id": mark, "method": "POST", "url": "/v1/responses", "body": {**asked, **body}}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine's owner has in the environment, nothing here goes to OpenAI."""
    for name in list(os.environ):
        if name.startswith("OPENAI_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path)
    yield found
    for child in found.children:
        if child.poll() is None:
            child.kill()
            child.communicate()


@pytest.fixture(scope="session")
def _stopping() -> Iterator[ThreadPoolExecutor]:
    """Where servers are stopped: each takes a fifth of a second of doing nothing, and the next test can begin."""
    with ThreadPoolExecutor() as pool:
        yield pool


@pytest.fixture
def serve(_stopping: ThreadPoolExecutor) -> Iterator[Callable[..., Server]]:
    """Start servers; every one is stopped when the test has ended."""
    running: list[Server] = []

    def start(**options: Any) -> Server:
        server = Server(**options)
        running.append(server)
        server.start()
        return server

    yield start
    for server in running:
        _stopping.submit(server.stop)


@pytest.fixture(scope="module")
def idle() -> Iterator[Server]:
    """One server for all the tests of a module in which nothing may reach it."""
    with Server() as server:
        yield server


@pytest.fixture
def request_line() -> Callable[..., Any]:
    return batch_line
