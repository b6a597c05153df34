"""When will each request go: a DataFrame of requests in, the same rows with their times out. Nothing is sent."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

    from .limit import Limits, Pools


def plan(
    requests: pandas.DataFrame,
    *,
    tier: str | None = None,
    limits: Limits | None = None,
    pools: Pools | None = None,
    headroom: float = 0.0,
    concurrency: int = 1000,
    model: str | None = None,
    at: date | None = None,
    seed: int = 0,
) -> pandas.DataFrame:
    """Say when each request is admitted under the limits of an account, and what it waits for.

    requests     one row each: input_tokens (what is charged at admission), and if known model, a time (t_s,
                 timestamp, …: see docs/forecast.md), output_tokens, latency_ms, service_tier. Without a time all are
                 there at the start
    tier, limits, pools, headroom   as a Limiter takes them
    concurrency  most requests in the air at once
    model        of every row, where there is no such column
    at           the day as of which models are there or shut down; today unless told
    seed         of the replies' durations: the same seed, the same plan

    → the rows, in the order of their times, with arrival_s, admitted_s, wait_s and done_s (seconds after the first
      request), and waits_for: the limit that made it wait, "" when none did. A row that can never be sent has no times
      (NaN), and waits_for says why. attrs["notes"] says what was taken for granted of the columns.

    Raises  ConfigError when the frame or an option cannot be used, or a row is no request
    """
    from pricing.export import needed

    from .errors import ConfigError
    from .forecast.lanes import Account
    from .forecast.outlook import AIR, Setting, outlook
    from .forecast.schedule import IN_THE_AIR, NOTHING
    from .forecast.trace import SYNONYMS, read_trace
    from .forecast.traced import workload_of
    from .forecast.workload import Reading

    if not isinstance(requests, needed("pandas").DataFrame):
        raise ConfigError(f"a plan is of a pandas DataFrame, not of {type(requests).__name__}")
    for what, number, least in (("concurrency", concurrency, 1), ("seed", seed, 0)):
        if type(number) is not int or number < least:
            raise ConfigError(f"{what} is a whole number from {least} on, not {number!r}")
    timed = {str(name).strip().lower() for name in requests.columns} & set(SYNONYMS["time"])
    trace = read_trace(requests if timed or not requests.columns.is_unique else requests.assign(t_s=0), model=model)
    if trace.bad_rows:
        first = trace.bad[0]
        raise ConfigError(f"row {first.number}: {first.reason} ({trace.bad_rows:,} such rows in all)")
    work = workload_of(trace, Reading(at=at))
    account = Account(tier, limits, pools, headroom, concurrency, at)
    found = outlook(work, account, Setting({}, trace=bool(timed), seed=seed), relief=False)
    import numpy as np

    names: dict[int, str] = {NOTHING: "", IN_THE_AIR: AIR} | {
        place: rule.name for place, rule in enumerate(found.lanes.rules)
    }
    count, goes = len(work), found.goes
    seconds = {name: np.full(count, np.nan) for name in ("admitted_s", "wait_s", "done_s")}
    act = found.schedule.act_us
    seconds["admitted_s"][goes] = act / 1e6
    seconds["wait_s"][goes] = (act - work.arrival_us[goes]) / 1e6
    seconds["done_s"][goes] = (act + found.takes_us) / 1e6
    causes: Any = np.empty(count, object)
    causes[goes] = [names[place] for place in found.schedule.by.tolist()]
    reasons = list(found.refused)
    causes[~goes] = [reasons[place] for place in found.why[~goes].tolist()]
    rows = requests.iloc[trace.row - 1].copy()
    rows.attrs["notes"] = list(trace.notes)
    return rows.assign(arrival_s=work.arrival_us / 1e6, **seconds, waits_for=causes)
