"""A process that writes a ledger file as fast as it can, until it is killed, or until its stdin ends.

    crash_writer.py PATH ROUND

Each call follows the plan of its number. One line on stdout, after the operation returned, says that it was done:
"pend 12 345" is call 12, written as entry 345. A line on stdin is answered with "mark". All entries of a round are of
one instant of its own, so that whoever reads the file knows them by it.
"""

from __future__ import annotations

import os
import select
import sys
from datetime import date

from pricing import Budget, Cost, Ledger, Unpriced, Usage, Usd
from pricing.prices import PriceRow

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")
PLANS = ("pend", "pend attach", "pend post", "pend attach respond again", "pend void", "pend expire respond again",
         "respond again", "pend unpriced")  # fmt: skip


def main(path: str, number: int) -> None:
    """Write."""
    run = f"run {number % 3}"
    budgets = [Budget(Usd(10**18), "hour"), Budget(Usd(10**18), "day", run)]
    os.write(1, b"ready 0 0\n")
    ledger = Ledger(path, now_us=lambda: 1_790_000_000_000_000 + number * 60_000_000, lease_s=10**6)
    n = -1
    while True:
        n += 1
        entry_id, name, amount = 0, f"resp {number} {n}", Usd(1 + number * 1_000_003 + n * 17)
        cost, usage = Cost(amount, {"input": amount}, ROW, "table"), Usage(input_tokens=n)
        for step in PLANS[n % 8].split():
            done = True
            if step == "pend":
                limits = budgets if n % 2 else []
                entry_id = ledger.pend(model="m", endpoint="e", estimate=amount, worst=amount * 2, run=run,
                                       custom_id=str(n), budgets=limits)  # fmt: skip
            elif step == "attach":
                done = ledger.attach(entry_id, name)
            elif step == "post":
                done = ledger.post(entry_id, usage=usage, cost=cost, response_id=name)
            elif step == "unpriced":
                done = ledger.post(entry_id, usage=usage, cost=Unpriced("no row"))
            elif step == "void":
                done = ledger.void(entry_id, "not billed")
            elif step == "expire":
                done = ledger.expire(entry_id, "nobody knows", name)
            else:
                done = ledger.post_response(name, endpoint="e", usage=usage, cost=cost, model="m") is (step != "again")
            if not done:
                raise SystemExit(f"{step} of call {n} was refused")
            os.write(1, b"%s %d %d\n" % (step.encode(), n, entry_id))
        if n % 40 == 39:
            ledger.sync()
        if select.select([0], [], [], 0)[0]:
            if not os.read(0, 100):
                ledger.close()
                return
            os.write(1, b"mark 0 0\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
