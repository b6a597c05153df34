"""Forecasts as documents: the keys of docs/json.md. Money and seconds are decimals as texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pricing.money import Usd
from pricing.projection import Ahead, Projection
from pricing.spend import Interval, Spending

from ..clock import US_PER_S
from ..job import MOST_SHOWN
from .booked import LedgerForecast
from .choices import Choice
from .job import JobForecast
from .outlook import Outlook, Span
from .traced import TraceForecast, View


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
    work, go, cost = found.job.workload, found.go, found.spending
    asked = Counter(work.model.tolist())
    return {
        "kind": "job",
        "requests": len(work),
        "bad_lines": [{"line": one.number, "reason": one.reason} for one in found.job.bad],
        "inexact": found.job.inexact,
        "tokens": {"input": int(go.input.sum()), "output": cost.output._asdict()},
        "cost": money(cost.cost),
        "unpriced": reasons(cost.unpriced),
        "models": {model: _spent(found.by_model[model], asked[place]) for place, model in enumerate(work.models)},
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
        "relief": [
            {"change": one.change, "seconds": span(one.duration), "binding_limit": one.binding or None}
            for one in found.relief
        ],
    }


def _spent(one: Spending, requests: int) -> dict[str, Any]:
    return {
        "requests": requests,
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


def of_trace(found: TraceForecast, seed: int) -> dict[str, Any]:
    """The document of a trace's forecast."""
    trace, work, go, cost = found.trace, found.work, found.go, found.spending
    return {
        "kind": "trace",
        "requests": len(work),
        "start": None if trace.start is None else trace.start.isoformat(),
        "seconds": seconds(int(work.arrival_us[-1])),
        "bad_rows": {
            "count": trace.bad_rows,
            "first": [{"row": one.number, "reason": one.reason} for one in trace.bad[:MOST_SHOWN]],
        },
        "tokens": {"input": int(go.input.sum()), "cached": int(go.cached.sum()), "output": cost.output._asdict()},
        "cost": money(cost.cost),
        "cost_by_mode": {mode: money(one.cost) for mode, one in found.by_mode.items()},
        "unpriced": reasons(cost.unpriced),
        "unpriced_by_mode": {mode: reasons(one.unpriced) for mode, one in found.by_mode.items()},
        "tiers": [_view(one) for one in found.views],
        "detail": {"tier": found.main.account.name, **of_outlook(found.main.outlook)},
        "facts": list(found.facts),
        "notes": list(trace.notes),
        "seed": seed,
    }


def _view(one: View) -> dict[str, Any]:
    p50, p95, p99, longest = map(seconds, one.waits)
    return {
        "tier": one.account.name,
        "wait": {"p50": p50, "p95": p95, "p99": p99, "longest": longest},
        "delayed": [{"over": seconds(us), "share": share(part)} for us, part in one.delayed],
        "backlog": one.backlog,
        "in_the_air": one.in_the_air,
        "filled": [
            {"limit": each.limit, "sustained": share(each.sustained), "peak": share(each.peak)} for each in one.filled
        ],
        "binding_limit": one.outlook.binding or None,
        "not_sent": reasons(one.outlook.refused),
    }


def of_ledger(found: LedgerForecast, seed: int) -> dict[str, Any]:
    """The document of a ledger's forecast."""
    return {
        "kind": "ledger",
        "since": str(found.since),
        "until": str(found.until),
        "now": found.now.isoformat(timespec="seconds"),
        "total": _projection(found.total),
        "parts": [{"name": list(one.name), **_projection(one)} for one in found.parts],
        "days": [{"day": str(one.day), "cost": _amounts(one.cost)} for one in found.total.series],
        "reached": [
            {
                "name": one.name,
                "amount": str(Usd(one.amount)),
                "spent": str(Usd(one.spent)),
                **{name: None if day is None else str(day) for name, day in zip(_DATES, one[3:6], strict=True)},
                "horizon": str(one.horizon),
            }
            for one in found.reached
        ],
        "effects": [
            {"what": one.what, "from": str(one.when), "usd": None if one.pico is None else str(Usd(one.pico))}
            for one in found.effects
        ],
        "facts": list(found.facts),
        "seed": seed,
    }


_DATES = ("p5", "p50", "p95")


def _projection(one: Projection) -> dict[str, Any]:
    return {
        "days_of_history": one.days,
        "requests": one.requests,
        "unpriced": one.unpriced,
        "spent": str(Usd(one.spent)) if one.priced else None,
        "cost": None if one.total is None else _amounts(one.total),
        "notes": list(one.notes),
    }


def _amounts(one: Ahead) -> dict[str, str]:
    return {name: str(Usd(pico)) for name, pico in one._asdict().items()}
