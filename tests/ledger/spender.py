"""A process that spends from a budget on a shared ledger file until its calls are done; told about on its own stdout.

    spender.py PATH SEED BUDGET_PICO CALLS

Writes "ready", waits for a line on stdin, spends, and writes what it knows as one line of JSON: how many calls were
admitted and refused, and the pico-dollars that it posted. A refusal that had room for the call is an error.
"""

from __future__ import annotations

import json
import os
import random
import sys
from datetime import date

from pricing import Budget, Cost, Ledger, Unpriced, Usd
from pricing.errors import OverBudget
from pricing.prices import PriceRow

ROW = PriceRow("m/standard/2026-01-01", "m", "standard", date(2026, 1, 1), None, {"input": 1}, False, "")


def main(path: str, seed: int, amount: int, calls: int) -> None:
    """Spend."""
    chance, budget = random.Random(seed), Budget(Usd(amount))
    told = {"admitted": 0, "refused": 0, "posted": 0}
    with Ledger(path) as ledger:
        os.write(1, b"ready\n")
        sys.stdin.readline()
        for _ in range(calls):
            worst = chance.randint(1, 1_000)
            estimate = chance.randint(0, worst)
            try:
                entry_id = ledger.pend(
                    model="m", endpoint="e", estimate=Usd(estimate), worst=Usd(worst), budgets=[budget]
                )
            except OverBudget as refused:
                if refused.spent.pico + refused.held.pico + worst <= amount:
                    raise SystemExit("refused a call that fits") from refused
                told["refused"] += 1
                continue
            told["admitted"] += 1
            way = chance.randrange(8)
            if way == 0:
                assert ledger.void(entry_id, "not billed")
            elif way == 1:
                assert ledger.expire(entry_id, "nobody knows")
            elif way == 2:
                assert ledger.post(entry_id, usage=None, cost=Unpriced("no row"))
            elif way < 7:
                cost = Usd(chance.randint(0, worst))
                assert ledger.post(entry_id, usage=None, cost=Cost(cost, {"input": cost}, ROW, "table"))
                told["posted"] += cost.pico
    os.write(1, json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
