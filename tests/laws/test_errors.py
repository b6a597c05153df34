"""Law: an error of ours is the same error in another process: kind, message and numbers."""

from __future__ import annotations

import copy
import pickle

import pytest

import pricing.errors
import ratelimit.errors
from pricing.errors import LedgerError, OverBudget, RatecardError, TableError, UnpricedError
from pricing.money import Usd
from ratelimit.errors import ConfigError, DeadlineExceeded, NeverFits, NotOffered, QueueFull, QuotaSpent, WouldWait

ERRORS: list[RatecardError] = [
    RatecardError("root"),
    ConfigError("headroom is wrong"),
    TableError("expected a number", file="prices.yaml", line=7, key="usd_per_mtok"),
    TableError("empty"),
    UnpricedError("no row"),
    LedgerError("costs.db cannot be read"),
    OverBudget("over", budget="25 USD/day", spent=Usd(1), held=Usd(2), estimate=Usd(3)),
    WouldWait(limit="tpm", retry_after_s=12.4, max_wait_s=5),
    WouldWait(limit="concurrency", retry_after_s=None, max_wait_s=5),
    DeadlineExceeded(limit="tpm", retry_after_s=12.4, left_s=5),
    NeverFits(limit="tpm", demand=30_001, capacity=30_000, model="o3"),
    NotOffered("o3 does not stream"),
    QueueFull(waiting=3, most=3),
    QuotaSpent(code="insufficient_quota", message="pay", retry_after_s=60),
]


def kinds(root: type[RatecardError]) -> set[type[RatecardError]]:
    return {root}.union(*(kinds(kind) for kind in root.__subclasses__()))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_and_copying(error: RatecardError) -> None:
    """Type, message, args and every number come back, from every pickle protocol and from copy."""
    error.add_note("met in a worker")
    twins = [pickle.loads(pickle.dumps(error, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for twin in (*twins, copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert (str(twin), twin.args, vars(twin)) == (str(error), error.args, vars(error))


def test_every_kind_with_numbers_is_tried() -> None:
    """An error class that takes more than a message cannot be added without a round trip above."""
    ours = {pricing.errors.__name__, ratelimit.errors.__name__}
    with_numbers = {kind for kind in kinds(RatecardError) if kind.__module__ in ours and "__init__" in vars(kind)}
    assert with_numbers <= {type(error) for error in ERRORS}
