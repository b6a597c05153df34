"""Law: a closed file is not written, and says so; sync() keeps its promise or raises, whoever else uses the file."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

import pricing._ledger_sqlite
from pricing import Budget, Ledger, Usd
from pricing.errors import LedgerError
from ratelimit.errors import RatecardWarning
from ratelimit.transports.httpx2 import CostTransport


def pend(ledger: Ledger, **more: Any) -> int:
    return ledger.pend(model="m", endpoint="e", estimate=Usd(1), worst=Usd(2), **more)


USES: dict[str, Callable[[Ledger], Any]] = {
    "pend": pend,
    "pend under a budget": lambda ledger: pend(ledger, budgets=[Budget(Usd(9))]),
    "attach": lambda ledger: ledger.attach(1, "r"),
    "post": lambda ledger: ledger.post(1, usage=None, cost=None),
    "post_response": lambda ledger: ledger.post_response("r", endpoint="e", usage=None, cost=None, model="m"),
    "void": lambda ledger: ledger.void(1, "late"),
    "expire": lambda ledger: ledger.expire(1, "late"),
    "expire_response": lambda ledger: ledger.expire_response("r", "late"),
    "entries": lambda ledger: list(ledger.entries()),
    "find": lambda ledger: ledger.find("r"),
    "totals": lambda ledger: ledger.totals(),
    "sync": lambda ledger: ledger.sync(),
}


@pytest.mark.parametrize("use", USES)
def test_a_closed_ledger_is_not_opened_again(tmp_path: Path, use: str) -> None:
    """Whatever is asked of a closed file is a LedgerError that names it; nothing is written or held open."""
    path = tmp_path / "costs.db"
    with Ledger(path) as ledger:
        pend(ledger)
    content = path.read_bytes()
    with pytest.raises(LedgerError, match="closed") as caught:
        USES[use](ledger)
    assert str(path) in str(caught.value)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"costs.db": content}
    ledger.close()


def test_what_is_iterated_over_a_close_does_not_go_on(tmp_path: Path) -> None:
    """Reading page by page stops with a LedgerError when the file is closed between two pages."""
    ledger = Ledger(tmp_path / "costs.db")
    for _ in range(1_001):
        pend(ledger)
    pages = ledger.entries()
    next(pages)
    ledger.close()
    with pytest.raises(LedgerError, match="closed"):
        list(pages)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_fork_neither_closes_nor_opens_a_ledger(tmp_path: Path) -> None:
    """A child goes on with an open ledger although its parent closes its own; a closed one stays closed in both."""
    code = """
        import os, sys
        from pricing import Ledger, Usd
        from pricing.errors import LedgerError
        opened, closed = Ledger(sys.argv[1]), Ledger(sys.argv[1])
        closed.close()
        child = os.fork()
        if child:
            opened.close()
            assert os.waitpid(child, 0)[1] == 0
        for ledger in (opened, closed):
            try:
                ledger.pend(model="m", endpoint="e", estimate=Usd(1))
                print("child" if not child else "parent", "wrote", flush=True)
            except LedgerError as error:
                print("child" if not child else "parent", "closed" in str(error), flush=True)
        os._exit(0)
        """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "costs.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stderr, done.stdout.splitlines()) == ("", ["child wrote", "child True", "parent True", "parent True"])


def test_a_reply_that_ends_after_the_ledger_warns(tmp_path: Path) -> None:
    """A stream that outlives its ledger reaches its reader whole, and a warning says that its entry stays pending."""
    ledger = Ledger(tmp_path / "costs.db")
    body = b'data: {"type": "response.output_text.delta", "delta": "Once"}\n\n'

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body)

    with httpx2.Client(transport=CostTransport(httpx2.MockTransport(answer), ledger=ledger)) as client:
        call = client.build_request("POST", "http://x/v1/responses", json={"model": "o3", "input": "x", "stream": True})
        response = client.send(call, stream=True)
        ledger.close()
        with pytest.warns(RatecardWarning, match="stays pending.*closed"):
            assert response.read() == body
        with pytest.raises(LedgerError, match="closed"):
            client.send(call)
    with Ledger(tmp_path / "costs.db") as again:
        assert [entry.state for entry in again.entries()] == ["pending"]


@contextmanager
def using(path: Path, *statements: str) -> Iterator[None]:
    """Another connection to the file, in the middle of a transaction."""
    db = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        db.execute(statement).fetchall()
    yield
    db.close()


def test_sync_says_when_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the file for writing, sync() raises in the end; afterwards it works again."""
    monkeypatch.setattr(pricing._ledger_sqlite, "BUSY_MS", 50)
    with Ledger(tmp_path / "costs.db") as ledger:
        pend(ledger)
        with using(tmp_path / "costs.db", "BEGIN IMMEDIATE"), pytest.raises(LedgerError, match="locked"):
            ledger.sync()
        ledger.sync()


@pytest.mark.skipif(shutil.which("strace") is None, reason="only strace sees what reaches the disk")
def test_sync_forces_the_log_to_disk_beside_a_reader(tmp_path: Path) -> None:
    """A reader that keeps the entries from moving into the file does not keep sync() from forcing their log to disk."""
    code = """
        import sqlite3, sys
        from pricing import Ledger, Usd
        ledger = Ledger(sys.argv[1])
        reader = sqlite3.connect(sys.argv[1], isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM entries").fetchall()
        for number in range(3):
            ledger.pend(model="m", endpoint="e", estimate=Usd(1))
            print(f"sync {number}", file=sys.stderr, flush=True)
            ledger.sync()
            print("done", file=sys.stderr, flush=True)
        """
    path = tmp_path / "costs.db"
    command = ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync,write", sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, timeout=120, check=False)
    if "ptrace" in done.stderr:
        pytest.skip("no process may be traced here")
    assert done.returncode == 0, done.stderr
    for number in range(3):
        between = done.stderr.partition(f'"sync {number}')[2].partition('"done')[0]
        assert f"{path}-wal>)" in between, done.stderr


def test_sync_waits_for_no_reader(tmp_path: Path) -> None:
    """What a reader keeps from moving into the file moves with the next sync() after it has gone."""
    path, copy = tmp_path / "costs.db", tmp_path / "copy.db"
    with Ledger(path) as ledger:
        pend(ledger)
        with using(path, "BEGIN", "SELECT * FROM entries"):
            pend(ledger)
            ledger.sync()
        ledger.sync()
        subprocess.run(["cp", path, copy], check=True)
        with Ledger(copy) as copied:
            assert list(copied.entries()) == list(ledger.entries())
