"""Law: after a fork both sides go on with the same ledger, and neither end takes anything from the other.

Programs of their own fork, write, close, and are killed; the file must hold every call that each side counted.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pricing import Ledger

FORKER = Path(__file__).with_name("forker.py")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def script(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of its own on a ledger file."""
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_fork_while_a_thread_writes_breaks_neither_side(tmp_path: Path) -> None:
    """Forty forks, each in the middle of another thread's writing: parent and children go on, and no call is lost."""
    path, forks, calls = tmp_path / "costs.db", 40, 5
    done = subprocess.run(
        [sys.executable, FORKER, path, str(forks), str(calls)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    with Ledger(path) as ledger:
        (counted,) = (int(entry.tags["count"]) for entry in ledger.entries() if entry.custom_id == "last")
        parts = {who: part.expired_count for who, part in ledger.totals(by="tag:who").items()}
        children = {f"child {number}": calls for number in range(forks)}
        assert parts == {"thread": counted, "parent": forks, "last": 1, **children}
        assert counted > 0
        assert ledger.totals().pending_count == 0


def test_a_killed_child_after_a_fork_takes_nothing_along(tmp_path: Path) -> None:
    """A child that is killed, or ends without closing, leaves the parent's write-ahead log where it was."""
    path = tmp_path / "costs.db"
    done = script(
        """
        import os, signal, sys
        from pricing import Ledger, Usd
        ledger = Ledger(sys.argv[1])
        for number in range(10):
            entry = ledger.pend(model="m", endpoint="e", estimate=Usd(1))
            child = os.fork()
            if child == 0:
                ledger.pend(model="child", endpoint="e", estimate=Usd(1))
                os.kill(os.getpid(), signal.SIGKILL) if number % 2 else os._exit(0)
            os.waitpid(child, 0)
            assert ledger.expire(entry, "")
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        path,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    with Ledger(path) as ledger:
        totals = ledger.totals(by="model")
        assert (totals["m"].expired_count, totals["child"].pending_count) == (10, 10)


def test_a_parent_that_closes_takes_nothing_from_its_child(tmp_path: Path) -> None:
    """What a child writes after its parent closed the ledger, or ended, is in the file when both are gone."""
    path = tmp_path / "costs.db"
    done = script(
        """
        import os, sys
        from pricing import Ledger, Usd
        ledger = Ledger(sys.argv[1])
        write = lambda who: ledger.pend(model=who, endpoint="e", estimate=Usd(1))
        write("parent")
        closed, close = os.pipe()
        if os.fork() == 0:
            os.close(close)
            write("child")
            os.read(closed, 1)
            for _ in range(20):
                write("child")
            os._exit(0)
        write("parent")
        ledger.close()
        os.close(close)
        assert os.wait()[1] == 0
        print(Ledger(sys.argv[1]).totals(by="model")["child"].pending_count)
        """,
        path,
    )
    assert (done.stdout, done.stderr) == ("21\n", "")
    with Ledger(path) as ledger:
        assert {name: part.pending_count for name, part in ledger.totals(by="model").items()} == {
            "parent": 2, "child": 21
        }  # fmt: skip
