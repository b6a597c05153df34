"""What whoever reads a job piece by piece needs for each piece, read once in each process: prices, and past replies.

A price table is too large to be sent along with every piece, so its overlays are read where the piece is.
"""

from __future__ import annotations

from functools import lru_cache

from pricing.learned import KEPT, RECALLED, Learned
from pricing.ledger import Ledger
from pricing.prices import PriceTable, load_prices

from .errors import ConfigError


def begin(overlays: tuple[str, ...], region: str | None) -> str:
    """Read the prices before a job is read, so that what is wrong with them is told; → the version for `table_of`.

    What a ledger has learned since the last job is read anew.

    Raises  TableError when an overlay is wrong; ConfigError for an unknown region
    """
    prices = load_prices(overlay=overlays)
    if region is not None:
        prices.check_region(region)
    learned_from.cache_clear()
    return prices.version


@lru_cache(maxsize=1)
def table_of(overlays: tuple[str, ...], version: str) -> PriceTable:
    """The prices of a job. Raises ConfigError when they are not those that it began with."""
    table = load_prices(overlay=overlays)
    if table.version != version:
        raise ConfigError(f"{', '.join(overlays)}: changed while the job was read; run it again")
    return table


@lru_cache(maxsize=1)
def learned_from(ledger: str | None, kept: int = KEPT) -> Learned:
    """The sizes of replies that a ledger tells.

    kept  of each kind, at most
    """
    if ledger is None:
        return Learned()
    with Ledger(ledger, create=False) as book:
        return Learned(reversed(book.latest(RECALLED)), kept=kept)
