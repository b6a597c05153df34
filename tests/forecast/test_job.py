"""The forecast of a job file: it adds up, it is the same for the same seed, and what it cannot price it lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing import Usd, estimate
from pricing.budget import Budget
from pricing.spend import Interval
from ratelimit.errors import ConfigError
from ratelimit.forecast.choices import Choice, cheapest
from ratelimit.forecast.document import of_job
from ratelimit.forecast.job import JobForecast, Wish, forecast_job
from ratelimit.forecast.lanes import Account
from ratelimit.forecast.outlook import Span
from ratelimit.forecast.workload import MODES, Reading

AT = date(2026, 7, 20)
TIER_1 = Wish(Account("tier_1"))


def body(model: str = "o3-pro", words: int = 20, **more: Any) -> dict[str, Any]:
    return {"model": model, "input": "word " * words, **more}


def foresee(path: Path, wish: Wish = TIER_1, **reading: Any) -> JobForecast:
    return forecast_job(str(path), Reading(at=AT, **reading), wish)


def test_the_expected_and_the_largest_cost_are_those_of_estimate(write_job: Callable[..., Path]) -> None:
    """Line by line the forecast prices what `pricing.estimate` does, in every mode."""
    bodies = [body(words=n, max_output_tokens=n * 40) for n in range(1, 30)] + [body("o3", 9, service_tier="flex")]
    found = foresee(write_job(bodies))
    assert found.spending.cost is not None
    singles = [estimate(one, endpoint="/v1/responses", at=AT).cost for one in bodies]
    assert found.spending.cost.worst == sum(one.worst.pico for one in singles)  # type: ignore[union-attr]
    batch = next(one for one in found.choices if one.mode == "batch")
    assert batch.cost is not None
    halved = [estimate(one, endpoint="/v1/responses", at=AT, batch=True).cost for one in bodies]
    assert batch.cost.worst == sum(one.worst.pico for one in halved)  # type: ignore[union-attr]


def test_a_split_job_adds_up(write_job: Callable[..., Path]) -> None:
    """Expected and largest cost, and tokens, of two halves are those of the whole, to the last pico-dollar."""
    bodies = [body(words=n, model=("o3", "o3-pro", "gpt-4.1")[n % 3]) for n in range(60)]
    whole, *halves = (foresee(write_job(part)) for part in (bodies, bodies[:23], bodies[23:]))
    for part in ("cost", "output"):
        of_whole, *of_halves = (getattr(one.spending, part) for one in (whole, *halves))
        assert of_whole.mean == sum(one.mean for one in of_halves)
        assert of_whole.worst == sum(one.worst for one in of_halves)
        assert of_whole.p5 >= sum(one.p5 for one in of_halves), "together they vary less"
    assert int(whole.job.workload.input.sum()) == sum(int(one.job.workload.input.sum()) for one in halves)


def test_cost_is_the_same_in_every_tier_and_a_batch_is_never_dearer(write_job: Callable[..., Path]) -> None:
    """Tiers change how fast, not how dear; the Batch API costs no more, in any quantile."""
    found = foresee(write_job([body(words=n) for n in range(40)]), Wish(Account()))
    online = {one.cost for one in found.choices if one.mode == "online"}
    assert len(online) == 1
    (dear,) = online
    for one in found.choices:
        if one.mode == "batch":
            assert one.cost is not None
            assert dear is not None
            assert all(cheap <= full for cheap, full in zip(one.cost, dear, strict=True))
    assert {one.tier for one in found.choices} == {f"tier_{n}" for n in range(1, 6)}


def test_the_same_seed_is_the_same_forecast(write_job: Callable[..., Path]) -> None:
    """Byte by byte, in one process or in several; another seed draws anew."""
    path = write_job([body(words=n) for n in range(30)])
    first, again, other = (
        json.dumps(of_job(forecast_job(str(path), Reading(at=AT), TIER_1._replace(seed=seed), jobs=jobs), seed))
        for seed, jobs in ((1, 1), (1, 2), (2, 1))
    )
    assert first == again
    assert first != other


def test_what_has_no_price_is_listed_and_never_free(write_job: Callable[..., Path]) -> None:
    """Unknown models are named with their requests; a job of nothing else has no cost at all."""
    mixed = foresee(write_job([body(), body("nobody-priced-this"), body("nobody-priced-this")]))
    assert list(mixed.spending.unpriced.values()) == [2]
    assert "nobody-priced-this" in next(iter(mixed.spending.unpriced))
    assert mixed.by_model["nobody-priced-this"].cost is None
    assert all(one.missing for one in mixed.choices)
    assert mixed.cheapest is None
    alone = foresee(write_job([body("nobody-priced-this")]))
    assert alone.spending.cost is None
    assert of_job(alone, 0)["cost"] is None


def test_bad_lines_are_listed_and_do_not_hide_the_others(write_job: Callable[..., Path]) -> None:
    """A line that is no request, and a name used again: numbers and reasons."""
    path = write_job([body(), body()])
    path.write_text(path.read_text() + "nonsense\n" + path.read_text().splitlines()[0] + "\n")
    found = foresee(path)
    assert len(found.job.workload) == 2
    assert [one.number for one in found.job.bad] == [3, 4]
    assert "used on line 1" in found.job.bad[1].reason


def test_a_retiring_model_is_named_and_can_be_swapped(write_job: Callable[..., Path]) -> None:
    """The shutdown is a fact ahead; a swap prices and paces another model, and a wrong one is refused."""
    path = write_job([body(words=200)] * 3)
    late = Reading(at=date(2026, 11, 25))
    found = forecast_job(str(path), late, Wish(Account("tier_1"), swaps=(("o3-pro", "gpt-6.1-sol"),)))
    assert found.facts == ("o3-pro shuts down on 2026-12-11, in 16 days",)
    other = next(one for one in found.choices if one.models and one.tier == "build" and one.mode == "online")
    same = next(one for one in found.choices if not one.models and one.mode == "online")
    assert dict(other.models) == {"o3-pro": "gpt-6.1-sol"}
    assert other.cost is not None
    assert same.cost is not None
    assert other.cost.mean < same.cost.mean
    with pytest.raises(ConfigError, match=r"no request of the job asks for o3; it has o3-pro"):
        foresee(path, TIER_1._replace(swaps=(("o3", "o3-pro"),)))


def test_more_tokens_than_the_batch_queue_take_rounds(write_job: Callable[..., Path]) -> None:
    """o3-pro in tier_1 lets 90,000 tokens wait: each full queue may take a day, and the tier's queue is told."""
    path = write_job([body(words=30_000)] * 7)  # three fit into a queue, barely
    found = foresee(path, Wish(Account("tier_1", limits={"tpm": 10**6}), tiers=("tier_1", "tier_5")))
    batches = {one.tier: one for one in found.choices if one.mode == "batch"}
    rounds = -(-7 // (90_000 // int(found.job.workload.input[0])))
    assert batches["tier_1"].at_most_us == rounds * 86_400 * 10**6
    assert batches["tier_1"].binding == "batch queue"
    assert batches["tier_5"].at_most_us == 86_400 * 10**6


def test_a_budget_per_day_binds_and_a_total_one_chooses(write_job: Callable[..., Path]) -> None:
    """With a window a budget is a limit over time; without one it is what a choice has to meet."""
    path = write_job([body(words=100)] * 50)
    total = foresee(path, TIER_1).spending.cost
    assert total is not None
    daily = Budget.parse(f"{Usd(total.mean // 5)!s} USD/day")
    found = foresee(path, TIER_1._replace(budget=daily))
    assert found.outlook.binding.startswith("budget")
    assert found.outlook.duration is not None
    assert 3 <= found.outlook.duration.p50 / 86_400e6 <= 6
    assert foresee(path, TIER_1._replace(budget=Budget.parse("0.01 USD"))).cheapest is None


@given(st.data())
def test_the_cheapest_meets_what_was_asked(data: st.DataObject) -> None:
    """Against a plain search: no choice that meets both is cheaper, and one that does not is never it."""
    amount = st.integers(1, 5)

    def choice(number: int) -> Choice:
        cost = data.draw(st.one_of(st.none(), amount))
        time = data.draw(st.one_of(st.none(), amount))
        money = None if cost is None else Interval(cost, cost, cost, cost + data.draw(amount), cost + 9)
        span = None if time is None else Span(time, time, time + data.draw(amount))
        missing = data.draw(st.sampled_from([0, 0, 0, 1]))
        return Choice(f"t{number}", "online", {}, money, span, None, "", 1, missing, ())

    choices = [choice(number) for number in range(data.draw(st.integers(0, 6)))]
    deadline, budget = data.draw(st.one_of(st.none(), amount)), data.draw(st.one_of(st.none(), amount))
    found = cheapest(choices, deadline, None if budget is None else Usd(budget), "t0")
    met = [
        one for one in choices
        if one.cost and not one.missing
        and (deadline is None or (one.duration is not None and one.duration.p95 <= deadline))
        and (budget is None or one.cost.p95 <= budget)
    ]  # fmt: skip
    if found is None:
        assert met == []
    else:
        assert found in met
        assert found.cost is not None
        assert found.cost.p50 == min(one.cost.p50 for one in met if one.cost)


def test_an_empty_job_is_said_to_be_one(tmp_path: Path) -> None:
    """No requests: no duration, no cost, and a message where a tier would have to be chosen."""
    path = tmp_path / "empty.jsonl"
    path.write_text("\n\n")
    found = foresee(path)
    assert len(found.job.workload) == 0
    assert found.outlook.duration is None
    assert found.spending.cost is None
    with pytest.raises(ConfigError, match="no tier has limits for a job without requests"):
        foresee(path, Wish(Account()))


def test_every_mode_is_a_mode_that_prices_know(write_job: Callable[..., Path]) -> None:
    """Modes in which nothing has a price are not offered; those that are offered have one."""
    found = foresee(write_job([body("o3", 20)]))
    offered = {one.mode for one in found.choices}
    assert offered <= set(MODES)
    assert {"online", "flex", "batch"} <= offered
    assert "window_2h" not in offered
