"""Shared by the tests of the tables: the reader of each kind, and the choice of YAML scanner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pricing.cards import load_cards
from pricing.prices import load_prices
from ratelimit.tiers import load_tiers

LOADERS: dict[str, Callable[[Path], Any]] = {"models": load_cards, "prices": load_prices, "tiers": load_tiers}


@pytest.fixture(scope="session")
def load() -> Callable[[Path], Any]:
    """Read a file with the loader its name begins with: prices-….yaml, models-….yaml, tiers-….yaml."""
    return lambda path: LOADERS[path.name.removesuffix(".yaml").split("-")[0]](path)


@pytest.fixture(params=["C scanner", "Python scanner"])
def scanner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with libyaml's scanner, and as on a machine whose PyYAML was built without it."""
    if request.param == "Python scanner":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("this PyYAML has no libyaml")
    return request.param
