"""Law: a setting that cannot be obeyed is one ConfigError that names it, never accepted and ignored."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import pytest

import ratelimit
from ratelimit.limit import Limit
from ratelimit.stores.memory import MemoryStore
from ratelimit.testing import ManualClock

NO_COUNTS = [0, -1, 1.5, True, "5", None, math.inf, math.nan]
NO_SHARES = [-0.1, 1, 1.5, True, "0.1", None, math.inf, math.nan]
NO_SECONDS = [-1, True, "5", math.inf, math.nan, 10**12, [5]]

WRONG: list[tuple[dict[str, Any], str]] = [
    *(({"limits": {"rpm": value}}, "rpm") for value in NO_COUNTS),
    *(({"limits": {"o3": {"tpm": value}}}, "tpm") for value in NO_COUNTS),
    *(({"limits": {"concurrency": value}}, "concurrency") for value in NO_COUNTS),
    *(({"limits": value}, "limits") for value in ({}, [], 5, "rpm", ["rpm"])),
    ({"limits": {"o3": {}}}, "o3"),
    ({"limits": {"rpx": 5}}, "rpx"),
    ({"limits": {5: 5}}, "5"),
    ({"limits": {"rpm": {"tpm": {}}}}, "tpm"),
    ({"limits": {"tpm": 5, "second": Limit("tpm", "tokens", 1)}}, "'second' holds a Limit that is named tpm"),
    ({"limits": {"rpm": Limit("tpm", "tokens", 1)}}, "'rpm' holds a Limit that is named tpm"),
    ({"limits": {"o3": {"rpm": Limit("tpm", "tokens", 1)}}}, "limits of o3: 'rpm' holds a Limit that is named tpm"),
    (
        {"limits": {"o3": {"rpm": 5}, "o3-2025-04-16": {"rpm": 6}}},
        "o3 is the same model .o3. and is given other limits",
    ),
    ({"limits": {"o3-2025-04-16": {"rpm": 5}, "o3": {"tpm": 5}}}, "o3-2025-04-16 is the same model .o3."),
    *(({"limits": {name: {"rpm": 5}}}, "a model has a name") for name in (5, "", None)),
    *(({"pools": {"org": {"tpm": value}}}, "tpm") for value in NO_COUNTS),
    *(({"pools": value}, "pools") for value in ({}, [], 5, "org")),
    *(({"pools": {"org": value}}, "org") for value in ({}, 5, "tpm", None, {"tpx": 5}, {"models": ["o3"]})),
    *(({"pools": {name: {"tpm": 5}}}, "pool") for name in (5, "", None)),
    *(({"pools": {"org": {"tpm": 5, "models": value}}}, "models") for value in ([], "o3", 5, [5], b"o3", {}, True)),
    *(
        ({"pools": {"org": {"tpm": 5, "models": ["o3"], "above": value}}}, "above")
        for value in (-1, 1.5, True, "5", math.inf, math.nan)
    ),
    ({"pools": {"org": {"tpm": 5, "above": 5}}}, "above"),
    ({"pools": {"org": {"tpm": 5, "second": Limit("tpm", "tokens", 1)}}}, "'second' holds a Limit that is named tpm"),
    *(
        (
            {"pools": {name: {"tpm": 9, "models": [model], "above": 7} for name, model in (("a", "o3"), ("b", other))}},
            "pools a and b are both for requests of o3 above 7 input tokens",
        )
        for other in ("o3", "o3-2025-04-16")
    ),
    *(({"priorities": value}, "priorities") for value in ({}, [], 5, "high", {5: 1}, {"": 1})),
    *(({"priorities": {"batch": value}}, "batch") for value in (*NO_COUNTS, {}, [], {"wait": 1}, {"weight": 0})),
    *(({"priorities": {"batch": {"weight": 1, "leave": value}}}, "batch.*leave") for value in NO_SHARES),
    *(({"max_wait": value}, "max_wait") for value in NO_SECONDS),
    *(({"max_queue": value}, "max_queue") for value in (-1, 1.5, True, "5", math.inf, math.nan, [5])),
    *(({"headroom": value}, "headroom") for value in NO_SHARES),
    *(({"at": value}, "at is") for value in ("2026-09-15", 2026, True, datetime(2026, 9, 15))),
    *(({"policy": value}, "policy") for value in ("hopeful", None, [], 5)),
    *(({"preflight": value}, "preflight") for value in ("maybe", None, [], True)),
    *(({"adopt": value}, "adopt") for value in ("yes", None, 1)),
    *(({"tier": value}, "tier") for value in ("tier_9", 5, [], True)),
    ({"store": "redis://localhost"}, "store"),
]


@pytest.mark.parametrize(("wrong", "words"), WRONG, ids=[str(wrong) for wrong, _ in WRONG])
def test_a_wrong_setting_is_named(wrong: dict[str, Any], words: str) -> None:
    """Numbers that are none, empty mappings, unknown words and names given twice all fail when the limiter is made."""
    with pytest.raises(ratelimit.ConfigError, match=words) as caught:
        ratelimit.Limiter(**({"limits": {"rpm": 5}} | wrong))
    assert type(caught.value) is ratelimit.ConfigError


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        *(({"max_wait": value}, "max_wait") for value in NO_SECONDS),
        *(({"tokens": value}, "tokens") for value in (-1, 1.5, True, "5", math.inf)),
        *(({"requests": value}, "requests") for value in (-1, 1.5, True, "5", math.inf)),
        *(({"images": value}, "images") for value in (-1, 1.5, True, "5", math.inf)),
        *(({"priority": value}, "priority") for value in ("urgent", "", 5, ["high"], True)),
    ],
    ids=str,
)
def test_a_wrong_request_is_named_and_charges_nothing(wrong: dict[str, Any], words: str) -> None:
    """What one request may set is looked at before it waits or is charged."""
    limiter = ratelimit.Limiter(limits={"rpm": 5}, store=MemoryStore(ManualClock()))
    with pytest.raises(ratelimit.ConfigError, match=words):
        limiter.reserve(**({"model": "o3", "tokens": 1} | wrong))
    assert not limiter.gate("o3").line
    assert limiter.store.backlog_us("o3:rpm") == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": 5}, "name"),
        ({"name": ""}, "name"),
        ({"unit": "bananas"}, "unit"),
        ({"window": 1}, "window"),
        ({"unit": "concurrent", "window": True}, "window"),
        ({"burst_us": 60_000_001}, "burst_us"),
        *(({"burst_us": value}, "burst_us") for value in (-1, 1.5, True, "5", None)),
        *(({"period_us": value}, "period_us") for value in NO_COUNTS),
    ],
    ids=str,
)
def test_a_limit_that_means_nothing_is_refused(fields: dict[str, Any], words: str) -> None:
    """A Limit made by hand names its wrong field."""
    with pytest.raises(ratelimit.ConfigError, match=words):
        Limit(**({"name": "rpm", "unit": "requests", "capacity": 5} | fields))


def test_lists_of_models_may_come_from_a_generator() -> None:
    """The models of a pool are read once: a generator is not found empty at the second look."""
    limiter = ratelimit.Limiter(
        limits={"rpm": 5}, pools={"family": {"tpm": 7, "models": (name for name in ("m", "n"))}}
    )
    assert [limit.name for limit in limiter.limits("m")] == ["rpm", "family-tpm"]
    assert [limit.name for limit in limiter.limits("x")] == ["rpm"]
