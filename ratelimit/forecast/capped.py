"""A budget in a forecast: of a window it limits the schedule, else a choice; what cannot be foreseen is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pricing.budget import LENGTHS_US, Budget
from pricing.export import needed
from pricing.money import Usd

from ..errors import ConfigError
from .schedule import FIXED, SLIDING, SLOW, Rule

if TYPE_CHECKING:
    from .workload import Ints


def checked(budget: Budget | None) -> None:
    """Refuse a budget of which a job's forecast cannot say what it does.

    Raises  ConfigError naming what it hangs on
    """
    if budget is None:
        return
    if budget.tag or budget.run:
        what = "tags" if budget.tag else "runs"
        raise ConfigError(f"budget {budget}: a forecast knows no {what}; give a budget of everything")
    if budget.window == "call":
        raise ConfigError(
            f"budget {budget}: how large single replies will be, a forecast does not know; "
            "`ratecard estimate --lines` says what each call may cost"
        )


def spending_rule(budget: Budget | None, picos: Ints) -> Rule | None:
    """A budget of an hour, a day, a week or a month as a limit on what requests are expected to cost.

    picos  (n,)  pico-dollars that each is expected to cost

    → charges_us above burst_us where a request is dearer than the whole budget; None where it limits no schedule: it is
      a total, or only warns
    """
    if budget is None or budget.window not in LENGTHS_US or budget.action == "warn":
        return None
    np = needed("numpy", extra="pandas")
    window_us = LENGTHS_US[budget.window]
    kind = SLOW if budget.action == "slow" else SLIDING if budget.rolling else FIXED
    charges = -(-picos.astype(object) * window_us // budget.amount.pico)
    # Of a slow one the last part opens when the window is over: what takes all of it never goes.
    most = window_us - (kind == SLOW)
    charges = np.where(charges > most, window_us + 1, charges).astype(np.int64)
    return Rule(f"budget {budget}", charges, window_us, window_us, kind=kind)


def total_of(budget: Budget | None) -> Usd | None:
    """What a choice may cost in all; None where the budget is of a window, or only warns."""
    if budget is None or budget.window in LENGTHS_US or budget.action == "warn":
        return None
    return budget.amount


def says_of(budget: Budget | None) -> str:
    """What a reader should know of what becomes of the budget; "" where there is nothing to say."""
    if budget is None:
        return ""
    if budget.action == "warn":
        return f"budget {budget}: it only warns, so it limits nothing here"
    if budget.window in LENGTHS_US and not budget.rolling:
        return f"budget {budget}: its first {budget.window} begins with the job, and nothing is spent in it yet"
    return ""
