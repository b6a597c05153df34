"""What tests of forecasts share: job files, and requests without a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pricing.estimate import Replies
from pricing.spend import Money
from ratelimit.forecast.workload import Workload

ONE = Replies(None, 0, 1, "none")


def workload(tokens: Sequence[int], *, models: Sequence[str] = ("o3",), arrivals: Sequence[int] | None = None,
             output: int = 100, latency_us: Sequence[int] | None = None) -> Workload:  # fmt: skip
    """Requests of so many tokens each, of models in turn, whose replies are known; a token costs a pico-dollar."""
    count = len(tokens)
    column = np.array(tokens, np.int64)
    zeros = np.zeros(count, np.int64)
    model = np.arange(count) % len(models)
    there = zeros if arrivals is None else np.array(arrivals, np.int64)
    took = np.full(count, -1, np.int64) if latency_us is None else np.array(latency_us, np.int64)
    outputs = np.full(count, output, np.int64)
    money = Money(column, zeros + 1, column + outputs, zeros - 1, ())
    return Workload(
        tuple(models), ("",), (ONE,), np.arange(1, count + 1), model, zeros, zeros, column, zeros, column, zeros,
        outputs, there, took, {"online": money},
    )  # fmt: skip


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[..., Path]:
    """Write bodies as a job file."""

    def write(bodies: Sequence[Mapping[str, Any]], name: str = "job.jsonl") -> Path:
        lines = [
            {"custom_id": f"r{number}", "method": "POST", "url": "/v1/responses", "body": body}
            for number, body in enumerate(bodies)
        ]
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    return write
