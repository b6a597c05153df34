"""Running the emulator: in a background thread for tests, or as a process of its own.

with Emulator(tier="tier_1", speed=10) as emulator:
    client = OpenAI(base_url=emulator.url, api_key="any")
"""

from __future__ import annotations

import argparse
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pricing.tokens import count_text
from ratelimit.errors import ConfigError, RatecardError
from ratelimit.limit import Limits
from ratelimit.tiers import POLICIES

from .account import Account
from .batch_queues import Enqueued, OwnQueues
from .batch_state import OVER_LIMIT, BatchChange, BatchRules
from .counters import Admission
from .faults import Faults, parse_faults
from .latency import Latencies, parse_latency
from .plan import Planner
from .windows import WINDOWS

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

    from .batches import Batches

_BACKLOG = 4096
_START_TIMEOUT_S = 30


class Emulator:
    """A local server that answers like OpenAI's and enforces limits like it.

    tier           of data/tiers.yaml; its limits for every model it names
    limits         given outright: {"rpm": 500, "tpm": 30_000} for every model, or {"o3-pro": {"tpm": 30_000}} per model
    window         how limits per minute are enforced: continuous | second | ten-seconds | minute | minute-from-first |
                   sliding-minute
    model, models  the only models to serve, with or without a card. Default: all that have limits
    seed           of sizes, latencies and faults; the same seed and body give the same reply
    speed          emulated seconds per wall second: limits refill and replies come that much faster
    latency        None: plausible per model · 0: none · seconds (emulated): the same for all · a Latency
    output_tokens  visible tokens of every answer; None draws them
    policy         what a request is charged at admission: observed | documented | conservative
    faults         rules, see ratelimit.emulator.faults
    at             the day whose admission rules apply; today (UTC) unless told
    now_us         the clock to run on (µs); the wall unless told. Latencies are slept on the event loop all the same
    host, port     where to listen; port 0 takes a free one
    count_refused  a refused request still takes from the request limits (one recorded 429 suggests it)
    log_size       admissions kept for audits
    batch_seconds, batch_expires, batch_queue, batch_over_limit    how batches fare, see BatchRules

    Raises  ConfigError for anything it cannot make sense of, before a port is opened.
    """

    def __init__(
        self,
        *,
        tier: str | None = None,
        limits: Limits | None = None,
        window: str = "continuous",
        model: str | None = None,
        models: Iterable[str] | None = None,
        seed: int = 0,
        speed: float = 1.0,
        latency: Latencies = None,
        output_tokens: int | None = None,
        policy: str = "observed",
        faults: Faults = None,
        at: date | None = None,
        now_us: Callable[[], int] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        organization: str = "org-emulator",
        count_refused: bool = False,
        log_size: int = 100_000,
        batch_seconds: float | None = None,
        batch_expires: float | None = None,
        batch_queue: OwnQueues = None,
        batch_over_limit: str = "failed",
    ) -> None:
        from .app import build
        from .batches import Batches
        from .engine import Engine

        if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0 < speed <= 1_000_000:
            raise ConfigError(f"speed is a number above 0, not {speed!r}")
        if policy not in POLICIES:
            raise ConfigError(f"unknown admission policy {policy!r}; known: {', '.join(POLICIES)}")
        if output_tokens is not None and (type(output_tokens) is not int or output_tokens < 1):
            raise ConfigError(f"output_tokens is a whole number above 0, not {output_tokens!r}")
        if type(seed) is not int:
            raise ConfigError(f"seed is a whole number, not {seed!r}")
        chosen = [*([model] if model else []), *(models or ())]
        clock = now_us or _wall_clock()
        day = at or datetime.now(UTC).date()
        pace = parse_latency(latency)

        def open_account() -> tuple[Account, Planner]:
            account = Account(tier=tier, limits=limits, models=chosen or None, window=window, at=day, now_us=clock())
            return account, Planner(
                account,
                seed=seed,
                latency=pace,
                output_tokens=output_tokens,
                policy=policy,
                at=day,
            )

        account, planner = open_account()  # batches have others: they take nothing from the limits of requests
        self._engine = Engine(
            account=account,
            planner=planner,
            faults=parse_faults(faults),
            seed=seed,
            speed=speed,
            now_us=clock,
            organization=organization,
            count_refused=count_refused,
            log_size=log_size,
        )
        engine, (account, planner) = self._engine, open_account()
        self._batches = Batches(
            account=account,
            planner=planner,
            rules=BatchRules(batch_seconds, batch_expires, batch_queue, batch_over_limit),
            faults=lambda: engine.faults,
            now_us=engine.now_us,
            speed=speed,
            seed=seed,
            instant=pace.zero,
            organization=organization,
            nonce=engine.nonce,
            log_size=log_size,
        )
        self.app: Starlette = build(engine, self._batches)
        self._host = host
        self._port = port
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port it listens on; the one asked for until it is started."""
        return self._port

    @property
    def url(self) -> str:
        """What to give a client as `base_url`. Raises ConfigError as `root` does."""
        return f"{self.root}/v1"

    @property
    def root(self) -> str:
        """The server's own root, where /_emulator is. Raises ConfigError while nobody knows the port."""
        if not self._port:
            raise ConfigError("the emulator takes a free port when it starts: start() it, or use `with Emulator(…)`")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def counters(self) -> dict[str, Any]:
        """Tell what the server has counted, as GET /_emulator does."""
        return {**self._engine.counters(), "batches": self._batches.counters()}

    def admissions(self) -> list[Admission]:
        """List the latest decisions of the limits, oldest first."""
        return self._engine.admissions()

    def set_faults(self, faults: Faults) -> None:
        """Replace the fault rules. Raises ConfigError for a rule that cannot be read."""
        self._engine.set_faults(parse_faults(faults))

    def reset(self) -> None:
        """Fill the limits, forget counts, stored responses, files and batches."""
        self._engine.reset()
        self._batches.clear()

    def batches(self) -> list[dict[str, Any]]:
        """List the batches as the API shows them, oldest first."""
        return self._batches.listed()

    def batch_changes(self) -> list[BatchChange]:
        """List the latest changes of state of all batches, oldest first."""
        return self._batches.changes()

    def enqueued(self) -> list[Enqueued]:
        """List how many input tokens each batch queue held, at each change, oldest first."""
        return self._batches.enqueued()

    def finish_batches(self, batch_id: str | None = None) -> None:
        """Let a batch, or all, come to the end they would come to, at this instant of the emulator's clock."""
        self._batches.finish(batch_id)

    def start(self) -> Emulator:
        """Serve from a background thread; returns when connections are accepted.

        Raises  ConfigError when the address cannot be opened.
        """
        if self._thread is not None:
            return self
        listener = self._listen()
        ready = threading.Event()
        server = self._server = _server(self.app, self._batches, ready.set)
        self._thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="ratecard-emulator", daemon=True
        )
        self._thread.start()
        if not ready.wait(_START_TIMEOUT_S):
            self.stop()
            raise RatecardError(f"the emulator did not start within {_START_TIMEOUT_S} s")
        return self

    def stop(self) -> None:
        """Stop serving and close every connection; calls still being answered are cut, and files are removed.

        Does nothing when stopped.
        """
        thread, server = self._thread, self._server
        if thread is None or server is None:
            return
        server.should_exit = True
        thread.join()
        self._thread = self._server = None

    def run(self, on_ready: Callable[[str], None] | None = None) -> None:
        """Serve in this thread until interrupted; `on_ready` is told the URL.

        Raises  ConfigError when the address cannot be opened.
        """
        listener = self._listen()
        try:
            _server(self.app, self._batches, lambda: on_ready(self.url) if on_ready else None).run(sockets=[listener])
        except KeyboardInterrupt:
            pass
        finally:
            listener.close()

    def _listen(self) -> socket.socket:
        # Loaded now, so that the first request is not charged a quarter of a second late.
        for encoding in ("o200k_base", "cl100k_base"):
            count_text("", encoding)
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # asyncio turns Nagle's algorithm off only where the protocol is named; with it on, every reply takes 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._port))
        except (OSError, OverflowError) as problem:
            listener.close()
            raise ConfigError(f"cannot listen on {self._host}:{self._port}: {problem}") from None
        self._port = listener.getsockname()[1]
        return listener

    def __enter__(self) -> Emulator:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(*, on_ready: Callable[[str], None] | None = None, **options: Any) -> None:
    """Serve in this thread until interrupted. Options are those of Emulator; `on_ready` is told the URL.

    Raises  ConfigError for options it cannot make sense of, or an address that cannot be opened.
    """
    raise_file_limit()
    Emulator(**options).run(on_ready)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m ratelimit.emulator`: serve, and print the URL on one line when ready."""
    parser = argparse.ArgumentParser(
        prog="python -m ratelimit.emulator",
        description="A local server that answers like OpenAI's and enforces limits like it.",
    )
    parser.add_argument("--tier", help="usage tier whose limits to enforce, for example tier_1")
    for name, what in (("rpm", "requests per minute"), ("tpm", "tokens per minute"), ("rpd", "requests per day")):
        parser.add_argument(f"--{name}", type=int, help=f"{what} for every model, instead of a tier's")
    parser.add_argument("--window", choices=WINDOWS, default="continuous", help="how limits per minute are enforced")
    parser.add_argument("--model", action="append", dest="models", help="serve only this model (repeatable)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=float, default=1.0, help="emulated seconds per second")
    parser.add_argument("--latency", type=float, help="seconds per reply, 0 for none; plausible per model if left out")
    parser.add_argument("--output-tokens", type=int, help="visible tokens of every answer")
    parser.add_argument("--policy", choices=POLICIES, default="observed", help="what a request is charged")
    parser.add_argument("--faults", help='for example "500:every=10; 429:rate=0.1,model=o3-pro"')
    parser.add_argument("--batch-seconds", type=float, help="emulated seconds in which a batch is answered")
    parser.add_argument("--batch-expires", type=float, help="emulated seconds after which a batch expires unfinished")
    parser.add_argument("--batch-queue", type=int, help="input tokens that may be enqueued per model")
    parser.add_argument("--batch-over-limit", choices=OVER_LIMIT, default="failed", help="what a full queue does")
    given = vars(parser.parse_args(argv))
    limits = {name: given.pop(name) for name in ("rpm", "tpm", "rpd")}
    limits = {name: value for name, value in limits.items() if value is not None}
    try:
        serve(on_ready=_announce, limits=limits or None, **given)
    except ConfigError as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    return 0


def raise_file_limit() -> None:
    """Let this process keep as many connections open as the system allows; thousands of clients need it."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # some systems name a hard limit they do not grant
            return


def _announce(url: str) -> None:
    sys.stdout.write(url + "\n")
    sys.stdout.flush()


def _wall_clock() -> Callable[[], int]:
    """The wall at this moment, then steady: a clock set back must not refill or freeze a bucket."""
    offset_ns = time.time_ns() - time.monotonic_ns()
    return lambda: (time.monotonic_ns() + offset_ns) // 1000


class _Quiet(logging.Filter):
    """Hushes uvicorn in one thread: faults end replies early on purpose, and each would be reported as an error."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread


def _server(app: Starlette, batches: Batches, on_ready: Callable[[], None]) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        def run(self, sockets: list[socket.socket] | None = None) -> None:
            quiet = _Quiet(threading.get_ident())
            logger = logging.getLogger("uvicorn.error")
            logger.addFilter(quiet)
            try:
                super().run(sockets)
            finally:
                logger.removeFilter(quiet)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            batches.open()
            await super().startup(sockets)
            on_ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            batches.halt()
            # What is still being answered may take an emulated hour, so it is cut; idle connections close politely.
            for connection in list(self.server_state.connections):
                cycle, transport = getattr(connection, "cycle", None), getattr(connection, "transport", None)
                if cycle is not None and transport is not None and not cycle.response_complete:
                    transport.abort()
            await super().shutdown(sockets)
            batches.close()  # not later: the signal that ended the server is raised again, and may end the process

    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            loop="asyncio",
            backlog=_BACKLOG,
            timeout_keep_alive=120,
            timeout_graceful_shutdown=0,
        )
    )
