"""Law: however many processes use one account's limits, and whichever are killed, the limits hold and are used.

Real processes, threads and event loops mixed, for six seconds of this machine. The judge is the simulator's meters,
which share no code with the store: they are fed with what the store says it did, in the order of its instants.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from ratelimit.clock import HostClock
from tests.sim.meters import NEVER_US, Entry, Refill, Slots
from tests.stores.hammer import LIMITS, MOST

HAMMER = Path(__file__).with_name("hammer.py")
SECONDS = 6.0
PROCESSES = 6


class Deed(NamedTuple):
    """A line of the log."""

    us: int
    what: str
    pid: int
    number: int
    amounts: tuple[int, ...]


def start(folder: Path, seed: int) -> subprocess.Popen[str]:
    colour = "async" if seed % 2 else "sync"
    command = [sys.executable, HAMMER, folder / "limits.db", folder / "log", str(SECONDS), colour, str(seed)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def read(log: Path) -> list[Deed]:
    """The log, in the order of its instants. A line that a kill has cut short was written by nobody."""
    deeds = []
    for line in log.read_text(encoding="ascii").splitlines():
        what, pid, number, us, *amounts = line.split()
        deeds.append(Deed(int(us), what, int(pid), int(number), tuple(map(int, amounts))))
    return sorted(deeds, key=lambda deed: deed.us)


def test_many_processes_keep_to_one_limit_and_use_it(tmp_path: Path) -> None:
    """Six processes, of which two are killed amid their work and replaced: nothing that was admitted exceeds a limit,
    and at least 97 % of the tightest is used."""
    running = [start(tmp_path, seed) for seed in range(PROCESSES)]
    killed: dict[int, int] = {}
    for victim in running[:2]:
        assert victim.stdout is not None
        for _ in range(40):  # it is amid its work by then
            assert victim.stdout.readline()
        killed[victim.pid] = HostClock().now_us()
        victim.kill()
        victim.communicate()
        running.append(start(tmp_path, 10 + len(running)))
    for process in running[2:]:
        process.communicate(timeout=120)
        assert process.returncode == 0
    deeds = read(tmp_path / "log")
    rpm, tpm = (Refill(limit.capacity, limit.period_us, limit.burst_us) for limit in (LIMITS["rpm"], LIMITS["tpm"]))
    air = Slots(LIMITS["concurrency"].capacity)
    open_: dict[tuple[int, int], tuple[Entry, Entry, Entry]] = {}
    charges: list[tuple[int, Entry]] = []
    for deed in deeds:
        for (pid, _), (_, _, slot) in open_.items():
            if deed.us >= killed.get(pid, NEVER_US):
                air.correct(slot, 0)
        name = (deed.pid, deed.number)
        if deed.what == "+":
            requests, tokens = deed.amounts
            for meter, amount in ((rpm, requests), (tpm, tokens), (air, 1)):
                assert meter.fits(amount, deed.us), deed
            open_[name] = (rpm.take(requests, deed.us), tpm.take(tokens, deed.us), air.take(1, deed.us))
            charges.append((deed.us, open_[name][1]))
        else:
            _, charged, slot = open_.pop(name)
            air.correct(slot, 0)
            if deed.what == "=":
                tpm.correct(charged, deed.amounts[0])
    first_us = deeds[0].us
    last_us = min(first_us + int(SECONDS * 1e6), deeds[-1].us) - 500_000  # while all of them want more than there is
    limit = LIMITS["tpm"]
    used = sum(parts for us, (_, parts) in charges if us <= last_us) // limit.period_us
    best = limit.capacity * (last_us - first_us + limit.burst_us * 19 // 20) // limit.period_us
    assert used >= 0.97 * best - MOST
    assert {deed.pid for deed in deeds} == {process.pid for process in running}
