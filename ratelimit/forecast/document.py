"""Forecasts as documents: the keys of docs/json.md. Money and seconds are decimals as texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pricing.spend import Interval, Spending

from ..clock import US_PER_S
from .choices import Choice
from .job import JobForecast
from .outlook import Outlook, Span


def seconds(us: int | None) -> str | None:
    """Microseconds as seconds, to the millisecond."""
    return None if us is None else f"{us // US_PER_S}.{us % US_PER_S:06d}"[:-3]


def span(duration: Span | None) -> dict[str, str | None] | None:
    """A duration in seconds."""
    return None if duration is None else {name: seconds(us) for name, us in duration._asdict().items()}


def money(cost: Interval | None) -> dict[str, str] | None:
    """An interval of pico-dollars in dollars."""
    return None if cost is None else {name: str(usd) for name, usd in cost.usd().items()}


def share(part: float) -> str:
    """A share of the whole, to a thousandth."""
    return f"{part:.3f}"


def reasons(found: Mapping[str, int]) -> list[dict[str, Any]]:
    """Why some requests are left out, and how many."""
    return [{"reason": reason, "requests": number} for reason, number in found.items()]


def of_job(found: JobForecast, seed: int) -> dict[str, Any]:
    """The document of a job's forecast."""
    work, cost = found.job.workload, found.spending
    return {
        "kind": "job",
        "requests": len(work),
        "bad_lines": [{"line": one.number, "reason": one.reason} for one in found.job.bad],
        "inexact": found.job.inexact,
        "tokens": {"input": int(work.input.sum()), "output": cost.output._asdict()},
        "cost": money(cost.cost),
        "unpriced": reasons(cost.unpriced),
        "models": {model: _spent(one) for model, one in found.by_model.items()},
        "output_basis": dict(found.outputs),
        "latency_basis": dict(found.latency),
        "tier": found.account.name,
        "concurrency": found.account.concurrency,
        **of_outlook(found.outlook),
        "choices": [_choice(one) for one in found.choices],
        "cheapest": None if found.cheapest is None else _choice(found.cheapest),
        "facts": list(found.facts),
        "seed": seed,
    }


def of_outlook(found: Outlook) -> dict[str, Any]:
    """How long it takes, and what binds."""
    return {
        "seconds": span(found.duration),
        "not_sent": reasons(found.refused),
        "binding_limit": found.binding or None,
        "binding_shares": {name: share(part) for name, part in found.shares.items()},
        "over_time": [
            {
                "from": seconds(phase.from_us),
                "until": seconds(phase.until_us),
                "limit": phase.limit,
                "share": share(phase.share),
            }
            for phase in found.phases
        ],
        "relief": [{"change": one.change, "seconds": span(one.duration)} for one in found.relief],
    }


def _spent(one: Spending) -> dict[str, Any]:
    return {
        "requests": one.requests + sum(one.unpriced.values()),
        "output": one.output._asdict(),
        "cost": money(one.cost),
        "unpriced": sum(one.unpriced.values()),
    }


def _choice(one: Choice) -> dict[str, Any]:
    models: Mapping[str, str] = one.models
    return {
        "tier": one.tier,
        "mode": one.mode,
        "models": dict(models),
        "cost": money(one.cost),
        "seconds": span(one.duration),
        "seconds_at_most": seconds(one.at_most_us),
        "binding_limit": one.binding or None,
        "requests": one.requests,
        "missing": one.missing,
        "notes": list(one.notes),
    }
