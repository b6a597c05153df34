"""What will it cost: a DataFrame, or a ledger, in; a DataFrame out. Nothing is sent, and nothing is written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from .errors import ConfigError
from .money import Usd

if TYPE_CHECKING:
    import pandas

    from .ledger import Ledger
    from .projection import Projection
    from .spend import Interval

_ENTRIES = ("created", "state", "cost")
_REQUESTS = ("model", "input_tokens")


def forecast(
    source: pandas.DataFrame | Ledger | str | os.PathLike[str],
    *,
    by: str | Sequence[str] = ("model",),
    since: date | str | None = None,
    until: date | str | None = None,
    now: datetime | None = None,
    at: date | str | None = None,
    service_tier: str | None = None,
    prices: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
    seed: int = 0,
) -> pandas.DataFrame:
    """Say what a ledger will come to by the end of the month, or what requests will cost.

    source        a Ledger on a file, its path, or its entries as a DataFrame (`Ledger.to_pandas`): a projection; or
                  requests as a DataFrame with the columns model and input_tokens, and if known cached_tokens,
                  output_tokens and service_tier: their cost
    by            of a ledger: what is projected apart: "model", "tag:team", "run" …; none of them for the whole alone
    since, until  of a ledger: the period; this month unless told
    now           of a ledger: the day that is not over; this instant unless told
    at            of requests: the day whose prices apply; today unless told
    service_tier  of requests: of all of them, such as "flex" or "batch"
    prices        of requests: overlays of the price table
    seed          of everything drawn: the same seed, the same numbers; 0 or more
    Days are dates, or such text as "2026-11-25"; of an instant its day, UTC.

    → of a ledger: a row per part and one of the whole, with `by`, days, requests, unpriced, spent_usd, mean_usd,
      p5_usd, p50_usd, p95_usd, notes
      of requests: a row per model and one of the whole, with model, requests, unpriced, input_tokens, output_tokens,
      mean_usd, p5_usd, p50_usd, p95_usd, worst_usd, notes
      Amounts are decimal.Decimal; None where nothing is known. Nine in ten totals lie between p5 and p95.

    Raises  ConfigError when it is neither, a column is missing, wrong or there twice, or a day or a seed is none
    """
    from .export import needed

    pandas = needed("pandas")
    since, until, at = _day("since", since), _day("until", until), _day("at", at)
    if now is not None and not (isinstance(now, datetime) and now == now):
        raise ConfigError(f"now is a datetime, not {now!r}")
    if seed < 0:
        raise ConfigError(f"seed is 0 or more, not {seed}")
    split = (by,) if isinstance(by, str) else tuple(by)
    if not isinstance(source, pandas.DataFrame):
        from .daily import daily_of_ledger

        path = getattr(source, "path", source)
        if path is None or not isinstance(path, str | os.PathLike):
            raise ConfigError(f"a forecast is of a DataFrame, a ledger file or its path, not {source!r}")
        return _of_days(pandas, daily_of_ledger(path, split), split, since, until, now, seed)
    if set(_ENTRIES) <= set(source.columns):
        from .daily import daily

        return _of_days(pandas, daily(source, split), split, since, until, now, seed)
    if set(_REQUESTS) <= set(source.columns):
        return _of_requests(pandas, source, at, service_tier, prices, seed)
    raise ConfigError(
        f"a frame of entries has the columns {', '.join(_ENTRIES)}, one of requests {', '.join(_REQUESTS)}; "
        f"this one has {', '.join(map(str, source.columns)) or 'none'}"
    )


def _day(name: str, value: date | str | None) -> date | None:
    """A day, however it is given. Raises ConfigError when it is none."""
    try:
        if isinstance(value, datetime) and value == value:  # pandas' NaT is a datetime that equals nothing
            return (value if value.tzinfo is None else value.astimezone(UTC)).date()
        if value is None or (isinstance(value, date) and not isinstance(value, datetime)):
            return value
        return date.fromisoformat(value)  # type: ignore[arg-type]  # what is no text raises
    except (TypeError, ValueError):
        raise ConfigError(f"{name} is a day, such as 2026-11-25, not {value!r}") from None


def _of_days(
    pandas: Any,
    sums: pandas.DataFrame,
    by: tuple[str, ...],
    since: date | None,
    until: date | None,
    now: datetime | None,
    seed: int,
) -> pandas.DataFrame:
    from .projection import project

    at = now or datetime.now(UTC)
    whole = project(sums, now=at, since=since, until=until, seed=seed)
    parts = project(sums, by, now=at, since=since, until=until, seed=seed) if by else []
    rows = [_row(one, by) for one in (*parts, *whole)]
    columns = [*by, "days", "requests", "unpriced", "spent_usd", "mean_usd", "p5_usd", "p50_usd", "p95_usd", "notes"]
    return pandas.DataFrame(rows, columns=columns)


def _row(one: Projection, by: tuple[str, ...]) -> dict[str, Any]:
    names = dict(zip(by, one.name, strict=True)) if one.name else dict.fromkeys(by, "total")
    amounts = one.total._asdict() if one.total is not None else dict.fromkeys(("mean", "p5", "p50", "p95"))
    return {
        **names,
        "days": one.days,
        "requests": one.requests,
        "unpriced": one.unpriced,
        "spent_usd": _decimal(one.spent if one.priced else None),
        **{f"{name}_usd": _decimal(pico) for name, pico in amounts.items()},
        "notes": "; ".join(one.notes),
    }


def _decimal(pico: int | None) -> Decimal | None:
    return None if pico is None else Usd(pico).decimal()


def _of_requests(
    pandas: Any, frame: pandas.DataFrame, at: date | None, service_tier: str | None, overlays: Any, seed: int
) -> pandas.DataFrame:
    import numpy as np

    from .columns import Tokens, money_of
    from .daily import check_columns
    from .estimate import replies
    from .prices import load_prices
    from .spend import spending
    from .tokens import Count

    check_columns(frame, (*_REQUESTS, "cached_tokens", "output_tokens", "service_tier"))
    models, names = pandas.factorize(frame["model"].astype("string"))
    if (models < 0).any():
        raise ConfigError(f"model is empty in row {int((models < 0).argmax())}")
    tiers = frame["service_tier"] if "service_tier" in frame.columns else pandas.Series("", frame.index)
    tier, tier_names = pandas.factorize(tiers.astype("string").fillna(""))
    given = _whole(pandas, frame, "input_tokens", None)
    cached = _whole(pandas, frame, "cached_tokens", 0)
    output = _whole(pandas, frame, "output_tokens", -1)
    if (cached > given).any():
        raise ConfigError(f"cached_tokens: more than input_tokens in row {int((cached > given).argmax())}")
    kinds = tuple(
        replies({}, "/v1/embeddings" if "embedding" in name else "/v1/responses", name, Count(0, 0, 0))
        for name in map(str, names)
    )
    most = np.where(output < 0, np.array([kind.most for kind in kinds] or [0])[models], output)
    money = money_of(
        Tokens(models, tier, given, cached, most),
        list(map(str, names)),
        list(map(str, tier_names)),
        service_tier=service_tier,
        at=at,
        prices=load_prices(overlay=overlays),
    )
    rows = []
    for name, mine in [*((str(name), models == place) for place, name in enumerate(names)), ("total", models >= 0)]:
        part = money._replace(
            fixed=money.fixed[mine], rate=money.rate[mine], worst=money.worst[mine], why=money.why[mine]
        )
        found = spending(part, kinds, models[mine], output[mine], seed=seed)
        rows.append(
            {
                "model": name,
                "requests": int(mine.sum()),
                "unpriced": sum(found.unpriced.values()),
                "input_tokens": int(given[mine].sum()),
                "output_tokens": found.output.p50,
                **_amounts(found.cost),
                "notes": "; ".join(found.unpriced),
            }
        )
    return pandas.DataFrame(rows)


def _amounts(cost: Interval | None) -> dict[str, Decimal | None]:
    names = ("mean", "p5", "p50", "p95", "worst")
    return {f"{name}_usd": None if cost is None else _decimal(getattr(cost, name)) for name in names}


def _whole(pandas: Any, frame: pandas.DataFrame, name: str, missing: int | None) -> Any:
    """A column of whole numbers of tokens. Raises ConfigError with the row of one that is none."""
    import numpy as np

    if name not in frame.columns:
        return np.full(len(frame), missing, np.int64)
    numbers = pandas.to_numeric(frame[name].astype(object), errors="coerce").to_numpy(float, na_value=np.nan)
    empty = frame[name].isna().to_numpy() & (missing is not None)
    with np.errstate(invalid="ignore"):
        wrong = ~empty & ~((numbers >= 0) & (numbers % 1 == 0) & (numbers < 2**40))
    if wrong.any():
        place = int(wrong.argmax())
        raise ConfigError(f"{name}: {frame[name].iloc[place]!r} in row {place} is no number of tokens")
    return np.where(empty, missing if missing is not None else 0, numbers).astype(np.int64)
