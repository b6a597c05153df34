"""Back-test: what a trace meets was foreseen. The limiter lives through it, before a server that counts alone."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ratelimit import Limiter
from ratelimit.clock import US_PER_S, LoopClock
from ratelimit.forecast.lanes import Account
from ratelimit.forecast.traced import forecast_trace
from ratelimit.forecast.workload import Reading
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import START_US, run_virtual
from tests.sim.meters import Refill

TRACE = Path(__file__).parents[1] / "data" / "azure_code_2023.csv.gz"
MINUTE_US = 60 * US_PER_S
LATENCY_US = 2 * US_PER_S
AT = date(2026, 7, 20)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    with gzip.open(TRACE, "rt") as file:
        return pd.read_csv(file).assign(latency_us=LATENCY_US)


async def live(rows: pd.DataFrame, limits: Mapping[str, Any]) -> tuple[list[int], int]:
    """Send the rows at their times → when each was admitted (µs), and how many the server refused."""
    clock = LoopClock()
    limiter = Limiter(limits=limits, policy="documented", preflight="off", store=MemoryStore(clock))
    meters = [Refill(limits["rpm"], MINUTE_US, MINUTE_US), Refill(limits["tpm"], MINUTE_US, MINUTE_US)]
    admitted, refused = [0] * len(rows), 0

    async def one(place: int, tokens: int) -> None:
        nonlocal refused
        async with await limiter.areserve(model="o3", tokens=tokens) as reservation:
            now_us = clock.now_us()
            admitted[place] = now_us - START_US
            amounts = (1, tokens)
            if all(meter.fits(amount, now_us) for meter, amount in zip(meters, amounts, strict=True)):
                for meter, amount in zip(meters, amounts, strict=True):
                    meter.take(amount, now_us)
            else:
                refused += 1
            await asyncio.sleep(LATENCY_US / US_PER_S)
            reservation.settle(tokens=tokens)

    tasks = []
    for place, (at_s, tokens) in enumerate(zip(rows["t_s"].tolist(), rows["input_tokens"].tolist(), strict=True)):
        await asyncio.sleep(START_US / US_PER_S + at_s - asyncio.get_running_loop().time())
        tasks.append(asyncio.create_task(one(place, tokens)))
    await asyncio.gather(*tasks)
    return admitted, refused


@pytest.mark.parametrize(
    ("limits", "binding"),
    [
        ({"rpm": 500, "tpm": 200_000}, "tpm of o3"),  # tier 1 of a small model
        ({"rpm": 120, "tpm": 2_000_000}, "rpm of o3"),
        ({"rpm": 150, "tpm": 300_000}, "tpm of o3"),  # both, in turn
        ({"rpm": 5_000, "tpm": 2_000_000}, "arrivals"),
    ],
)
def test_a_trace_takes_as_long_as_was_foreseen(rows: pd.DataFrame, limits: Mapping[str, Any], binding: str) -> None:
    """Request by request within the clock's rounding, nobody refused, and the limit that binds is the one foreseen."""
    found = forecast_trace(rows, Reading(at=AT), [Account(limits=limits)], model="o3").main
    admitted, refused = run_virtual(lambda: live(rows, limits))
    foreseen = found.outlook.schedule.act_us.tolist()
    assert refused == 0
    assert found.outlook.binding == binding
    off = sorted(abs(one - other) for one, other in zip(foreseen, admitted, strict=True))
    assert off[-1] < 1_000, f"{off[-1]} µs off, {off[len(off) // 2]} in the middle"
