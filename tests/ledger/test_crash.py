"""Law: whatever a ledger has said is done survives `kill -9`, once and exactly; what it has not said is done or not.

Real processes write one file and are killed in the middle of it. What each reported before its death is the oracle: at
most one operation per killed process, the one it was in, may be in the file beyond that.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pricing import Budget, Cost, Entry, Ledger, Usd
from pricing.errors import OverBudget
from pricing.prices import PriceRow

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")
WRITER = Path(__file__).with_name("crash_writer.py")
START_US, ROUND_US, HOUR_US = 1_790_000_000_000_000, 60_000_000, 3_600_000_000
STEPS = (
    ["pend"],
    ["pend", "attach"],
    ["pend", "post"],
    ["pend", "attach", "respond", "again"],
    ["pend", "void"],
    ["pend", "expire", "respond", "again"],
    ["respond", "again"],
    ["pend", "unpriced"],
)
STATE = {"pend": "pending", "attach": "pending", "post": "posted", "respond": "posted", "again": "posted",
         "void": "voided", "expire": "expired", "unpriced": "posted"}  # fmt: skip
NAMED, PAID = ("attach", "expire", "post", "respond", "again"), ("post", "respond", "again")


class Writer:
    """A process that writes, and what it has reported."""

    def __init__(self, path: Path, number: int) -> None:
        self.number = number
        self.process = subprocess.Popen(
            [sys.executable, WRITER, path, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=4096
        )  # a small pipe, so that no writer runs far ahead of its reader
        self.reports: list[tuple[str, int, int]] = []

    def read(self, count: int = -1, until: str = "") -> None:
        """Read so many reports, or up to one, or all until the process is gone."""
        assert self.process.stdout is not None
        while count and (line := self.process.stdout.readline()):
            step, call, entry_id = line.decode().split()
            self.reports.append((step, int(call), int(entry_id)))
            count -= 1
            if step == until:
                return

    def kill(self) -> None:
        """End it with SIGKILL, and read what it could still say."""
        self.process.kill()
        self.read()
        assert self.process.wait() == -9

    def tell(self, line: bytes) -> None:
        """Write to its stdin, or close that."""
        assert self.process.stdin is not None
        if line:
            self.process.stdin.write(line)
            self.process.stdin.flush()
        else:
            self.process.stdin.close()

    def close(self) -> None:
        """Leave nothing behind, whatever happened."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def amount_of(number: int, call: int) -> int:
    """The pico-dollars that a call cost; known without asking the file."""
    return 1 + number * 1_000_003 + call * 17


def call_of(number: int, entry: Entry) -> int:
    """Which call of a round an entry is: the line's own id tells, or the response's."""
    if entry.custom_id is not None:
        return int(entry.custom_id)
    assert entry.response_id is not None
    assert entry.response_id.startswith(f"resp {number} ")
    return int(entry.response_id.split()[2])


def fits(number: int, call: int, entry: Entry | None, done: int) -> bool:
    """Tell whether an entry is exactly what the first `done` steps of its call make it."""
    if done == 0 or entry is None:
        return done == 0 and entry is None
    steps = STEPS[call % 8]
    last, amount = steps[done - 1], Usd(amount_of(number, call))
    expected: dict[str, Any] = {
        "state": STATE[last],
        "response_id": f"resp {number} {call}" if last in NAMED else None,
        "cost": amount if last in PAID else None,
        "components": {"input": amount} if last in PAID else {},
        "usage": {"input_tokens": call} if last in (*PAID, "unpriced") else {},
        "closed_us": None if last in ("pend", "attach") else START_US + number * ROUND_US,
        "estimate": amount if steps[0] == "pend" else None,
        "worst": amount * 2 if steps[0] == "pend" else None,
        "run": f"run {number % 3}" if steps[0] == "pend" else None,
    }
    found = entry._asdict() | {"usage": {name: count for name, count in entry.usage.items() if count}}
    expected["usage"] = {name: count for name, count in expected["usage"].items() if count}
    return all(found[name] == value for name, value in expected.items())


def check_round(writer: Writer, entries: list[Entry], killed: bool) -> None:
    """Every reported operation is in the file, once and exactly, and at most the one it died in is there besides."""
    number, done, ids = writer.number, Counter[int](), {}
    for step, call, entry_id in writer.reports:
        if step not in ("ready", "mark"):
            assert STEPS[call % 8][done[call]] == step
            done[call] += 1
            ids[call] = entry_id
    calls = max(done, default=-1) + 1
    unfinished = [call for call in range(calls) if done[call] < len(STEPS[call % 8])]
    assert unfinished in ([], [calls - 1])
    written: dict[int, Entry] = {}
    for entry in entries:
        call = call_of(number, entry)
        assert call not in written, f"call {call} of round {number} is there twice"
        written[call] = entry
        assert ids.get(call, 0) in (0, entry.id)
    in_the_air = unfinished[0] if unfinished else calls
    for call in range(in_the_air):
        assert fits(number, call, written.pop(call, None), done[call]), f"call {call} of round {number}"
    last = written.pop(in_the_air, None)
    further = min(done[in_the_air] + 1, len(STEPS[in_the_air % 8])) if killed else done[in_the_air]
    assert fits(number, in_the_air, last, done[in_the_air]) or fits(number, in_the_air, last, further)
    assert written == {}


def check_file(path: Path, writers: list[Writer], survivors: tuple[Writer, ...] = ()) -> None:
    """Check the rounds of these writers, and that the file as a whole is sound and its budgets agree with it."""
    first, last = min(each.number for each in writers), max(each.number for each in writers)
    with Ledger(path, now_us=lambda: START_US + last * ROUND_US) as ledger:
        rounds: dict[int, list[Entry]] = {each.number: [] for each in writers}
        for entry in ledger.entries(since_us=START_US + first * ROUND_US):
            rounds[(entry.created_us - START_US) // ROUND_US].append(entry)
        for each in writers:
            check_round(each, rounds[each.number], each not in survivors)
    check_integrity(path)


def check_integrity(path: Path) -> None:
    """SQLite itself finds nothing wrong with the file."""
    db = sqlite3.connect(path)
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        db.close()


def check_budgets(path: Path, number: int) -> None:
    """What budgets say is spent and held, of every run and window, is what the entries say."""
    now_us = START_US + number * ROUND_US
    with Ledger(path, now_us=lambda: now_us, lease_s=10**6) as ledger:
        entries = list(ledger.entries())
        for run in (None, "run 0", "run 1", "run 2"):
            for window, length_us in (("total", now_us), ("hour", HOUR_US), ("day", 24 * HOUR_US)):
                nothing = Budget(Usd(0), window, run)
                with pytest.raises(OverBudget) as refused:
                    ledger.pend(model="m", endpoint="e", estimate=None, worst=Usd(1), run=run, budgets=[nothing])
                mine = [entry for entry in entries if run in (None, entry.run)]
                here = [entry for entry in mine if entry.created_us // length_us == now_us // length_us]
                assert refused.value.spent.pico == sum(map(spent, mine if window == "total" else here))
                held = [entry.worst for entry in mine if entry.state == "pending" and entry.worst is not None]
                assert refused.value.held == sum(held, Usd.ZERO)


def spent(entry: Entry) -> int:
    """What an ended entry of these plans takes of a budget."""
    call = call_of((entry.created_us - START_US) // ROUND_US, entry)
    amount = amount_of((entry.created_us - START_US) // ROUND_US, call)
    if entry.state in ("posted", "expired"):
        return amount if entry.cost is not None else 2 * amount
    return 0


def test_what_was_reported_survives_kill_9(tmp_path: Path) -> None:
    """A hundred times on one file, a writer is killed at some operation: nothing it reported is lost or doubled."""
    path, chance = tmp_path / "costs.db", random.Random(1)
    unchecked: list[Writer] = []
    for number in range(100):
        writer = Writer(path, number)
        try:
            writer.read(1 + chance.choice([0, chance.randrange(20), chance.randrange(300)]))
            writer.kill()
        finally:
            writer.close()
        unchecked.append(writer)
        if (
            number == 0 or chance.randrange(5) == 0 or number == 99
        ):  # else the next writer finds the file as it was left
            if number % 2:
                check_integrity(path)
            check_file(path, unchecked)
            unchecked.clear()
            if number % 3 == 0:
                check_budgets(path, number)
    check_budgets(path, 99)
    check_polls(path)


def check_polls(path: Path) -> None:
    """After a crash whoever polls every response again bills each that had no bill yet, once, and no other."""
    with Ledger(path, now_us=lambda: START_US) as ledger:
        named = [entry for entry in ledger.entries() if entry.response_id is not None]
        before, cost = ledger.totals(), Cost(Usd(5), {"input": Usd(5)}, ROW, "table")
        waiting = [entry for entry in named if entry.state in ("pending", "expired")]
        assert 0 < len(waiting) < len(named)
        for entry in named:
            for expected in (entry in waiting, False):
                answer = ledger.post_response(str(entry.response_id), endpoint="e", usage=None, cost=cost, model="m")
                assert answer is expected
        assert ledger.totals().posted_count == before.posted_count + len(waiting)
        assert ledger.totals().posted == before.posted + cost.total * len(waiting)


def test_a_writer_goes_on_when_another_is_killed(tmp_path: Path) -> None:
    """Of two processes that write one file, one is killed; the other goes on at once, and neither loses a thing."""
    path, chance = tmp_path / "costs.db", random.Random(2)
    for number in range(0, 20, 2):
        victim, survivor = Writer(path, number), Writer(path, number + 1)
        try:
            survivor.read(until="pend")
            for _ in range(1 + chance.randrange(150)):
                victim.read(1)
                survivor.read(1)
            victim.kill()
            survivor.tell(b"are you there?\n")
            survivor.read(until="mark")
            survivor.read(100)
            survivor.tell(b"")
            survivor.read()
            assert survivor.process.wait() == 0
        finally:
            victim.close()
            survivor.close()
        check_file(path, [victim, survivor], survivors=(survivor,))
    check_budgets(path, 19)


LARGE = """
import os, sys
from pricing import Ledger, Usd
ledger = Ledger(sys.argv[1])
os.write(1, b"ready\\n")
for number in range(50):
    entry_id = ledger.pend(model="m", endpoint="e", estimate=Usd(1), tags={"fill": str(number % 10) * 1_000_000})
    os.write(1, b"%d\\n" % entry_id)
"""


def test_an_entry_killed_in_the_middle_of_its_writing_is_whole_or_absent(tmp_path: Path) -> None:
    """A writer that is killed while a large entry is half on the disk leaves that entry out, and the file sound."""
    chance, path = random.Random(3), tmp_path / "costs.db"

    def size() -> int:
        return sum(each.stat().st_size for each in (path, Path(f"{path}-wal")) if each.exists())

    for _ in range(20):
        with Ledger(path) as ledger:
            first = ledger.pend(model="m", endpoint="e", estimate=Usd(1), tags={"fill": ""})
        process = subprocess.Popen([sys.executable, "-c", LARGE, path], stdout=subprocess.PIPE)
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            target = size() + chance.randrange(1, 1_000_000)
            while size() < target and process.poll() is None:
                pass
            process.kill()
            reported = [int(line) for line in process.stdout.read().split()]
        assert process.returncode == -9
        check_integrity(path)
        with Ledger(path) as ledger:
            entries = list(ledger.entries())
            ledger.pend(model="m", endpoint="e", estimate=Usd(1))
        assert [entry.id for entry in entries[: 1 + len(reported)]] == [first, *reported]
        assert len(entries) <= 2 + len(reported)
        assert [entry.tags["fill"] for entry in entries[1:]] == [
            str(n % 10) * 1_000_000 for n in range(len(entries) - 1)
        ]
        for each in tmp_path.iterdir():
            each.unlink()


def test_after_sync_the_file_alone_holds_everything(tmp_path: Path) -> None:
    """What was written before sync() is in the file itself, so that a copy of it, without its log, lacks no entry."""
    path, copy = tmp_path / "costs.db", tmp_path / "copy.db"
    with Ledger(path) as ledger:
        for number in range(50):
            ledger.pend(model="m", endpoint="e", estimate=Usd(number))
            if number % 10 == 9:
                ledger.sync()
                # Another process copies: closing the file here would drop the locks that this one has on it.
                subprocess.run(["cp", path, copy], check=True)
                with Ledger(copy) as copied:
                    assert list(copied.entries()) == list(ledger.entries())
