"""A process that forks again and again while a thread of it writes a ledger; every side goes on writing.

    forker.py PATH FORKS CALLS

Prints nothing and ends with 0 when every child could write its calls, the parent's thread never failed, and the parent
still reads and writes at the end. The ledger's totals tell how many calls there must be: CALLS per child, and those
that the thread counted, which it adds to the ledger as the tag "count" of one last call.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings

from pricing import Ledger, Usd


def call(ledger: Ledger, who: str, count: str = "") -> None:
    """Write one call and end it."""
    entry_id = ledger.pend(
        model="m", endpoint="e", estimate=Usd(1), run="fork", tags={"who": who, "count": count}, custom_id=who
    )
    if not ledger.expire(entry_id, "end"):
        raise SystemExit(f"{who} cannot end entry {entry_id}")


def main(path: str, forks: int, calls: int) -> None:
    """Fork."""
    warnings.simplefilter("ignore", DeprecationWarning)  # "fork in a multi-threaded process": that is the point
    ledger, other = Ledger(path), Ledger(path)
    stop, failures, counted = threading.Event(), [], [0]

    def write() -> None:
        try:
            while not stop.is_set():
                call(ledger, "thread")
                counted[0] += 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    for number in range(forks):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for _ in range(calls):
                    call(other if number % 2 else ledger, f"child {number}")
                ledger.close()
                status = 0
            finally:
                os._exit(status)
        call(other, "parent")
        if os.waitpid(child, 0)[1] != 0:
            failures.append(RuntimeError(f"child {number} failed"))
    stop.set()
    thread.join()
    if failures:
        raise SystemExit(f"failed: {failures}")
    call(other, "last", str(counted[0]))
    other.close()
    ledger.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
