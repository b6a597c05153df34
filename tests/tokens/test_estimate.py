"""Estimates: the worst case holds every cap, what has no price says so, and no body breaks the counting."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.cards import resolve
from pricing.cost import Unpriced, cost
from pricing.errors import ConfigError
from pricing.estimate import NO_CARD_WORST, CostRange, Estimate, estimate
from pricing.prices import load_prices
from pricing.tokens import Count, count_input, count_tokens
from pricing.usage import Usage
from ratelimit.demand import demand
from ratelimit.tiers import POLICIES

DAY = date(2026, 7, 15)
IMAGE_DAY = date(2026, 11, 24)
ENDPOINTS = ("/v1/responses", "/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/moderations")


def of(body: dict[str, Any], **settings: Any) -> Estimate:
    return estimate({"model": "o3-pro", "input": "Hello!", **body}, at=DAY, **settings)


def dollars(estimated: Estimate) -> CostRange:
    assert isinstance(estimated.cost, CostRange)
    return estimated.cost


def test_the_worst_is_the_largest_reply_of_the_card() -> None:
    """Without a cap of its own, a request may return as much as the model can produce."""
    assert of({}).output_worst == 100_000


@pytest.mark.parametrize("cap", ["max_output_tokens", "max_completion_tokens", "max_tokens"])
def test_a_cap_in_the_body_is_honoured(cap: str) -> None:
    """Whatever the endpoint calls it, the output cap bounds the worst case and the likely ones, and is named."""
    estimated = of({cap: 20})
    assert (estimated.output_p50, estimated.output_p95, estimated.output_worst) == (20, 20, 20)
    assert cap in estimated.output_basis


def test_a_cap_above_the_card_changes_nothing() -> None:
    """A request cannot buy more output than the model can produce."""
    assert of({"max_output_tokens": 500_000}).output_worst == 100_000


@pytest.mark.parametrize("cap", [0, -5, "many", None, 1.5, True, [10]])
def test_a_cap_that_is_none_is_ignored(cap: object) -> None:
    """A cap that is no positive whole number bounds nothing."""
    assert of({"max_output_tokens": cap}).output_worst == 100_000


@pytest.mark.parametrize(("tokens", "worst"), [(0, 100_000), (100_001, 99_999), (199_990, 10), (250_000, 0)])
def test_the_worst_fits_the_context_window(tokens: int, worst: int) -> None:
    """Input and output share the context window: a long input leaves less room for the reply."""
    assert of({}, input_count=Count(tokens, tokens, tokens)).output_worst == worst


def test_choices_multiply_the_output() -> None:
    """With n choices the outputs are n times one choice's, and the input is paid once."""
    body = {"model": "o3", "messages": [{"role": "user", "content": "Hello!"}], "max_completion_tokens": 1_000}
    one, three = estimate(body, at=DAY), estimate({**body, "n": 3}, at=DAY)
    assert (three.output_p50, three.output_p95, three.output_worst) == (
        3 * one.output_p50,
        3 * one.output_p95,
        3 * one.output_worst,
    )
    assert three.input == one.input


def test_costs_are_the_prices_of_the_tokens() -> None:
    """Each cost of the range is the price of the input and that output: nothing is added and nothing rounded."""
    estimated = of({"max_output_tokens": 500})
    outputs = (estimated.output_p50, estimated.output_p95, estimated.output_worst, estimated.output_mean)
    for output, amount in zip(outputs, dollars(estimated), strict=True):
        priced = cost(Usage(estimated.input.tokens, 0, 0, output), model="o3-pro", at=DAY)
        assert priced.total == amount


def test_the_range_is_in_order() -> None:
    """The likely cost is at most the high one, and that and the expected one at most the worst."""
    estimated = of({})
    p50, p95, worst, mean = dollars(estimated)
    assert p50 <= p95 <= worst
    assert mean <= worst
    assert estimated.output_p50 <= estimated.output_p95 <= estimated.output_worst


def test_the_worst_case_pays_for_the_largest_input_too() -> None:
    """When the input is known only within bounds, the worst case is priced at the upper one."""
    near, wide = of({}, input_count=Count(100, 100, 100)), of({}, input_count=Count(100, 50, 9_000, False, "an image"))
    assert dollars(wide).p50 == dollars(near).p50
    assert dollars(wide).worst > dollars(near).worst


def test_embeddings_have_no_output() -> None:
    """Embeddings return no tokens: there is nothing to bound."""
    estimated = estimate({"model": "text-embedding-3-small", "input": ["Hello!", "World"]})
    assert estimated.endpoint == "/v1/embeddings"
    assert (estimated.output_p50, estimated.output_p95, estimated.output_worst) == (0, 0, 0)


def test_a_model_without_a_price_is_unpriced() -> None:
    """An unknown model has token numbers and no price; it is never estimated as $0."""
    estimated = estimate({"model": "gpt-99", "input": "Hello!"})
    assert isinstance(estimated.cost, Unpriced)
    assert "gpt-99" in estimated.cost.reason
    assert estimated.output_worst == NO_CARD_WORST
    assert not estimated.input.exact


def test_a_batch_costs_half() -> None:
    """The Batch API is estimated at half the standard price, whatever tier the body asks for."""
    standard, batch = dollars(of({})), dollars(of({"service_tier": "flex"}, batch=True))
    assert [amount.pico for amount in standard] == [2 * amount.pico for amount in batch]


def test_the_model_may_be_given_beside_the_body() -> None:
    """A body without a model is counted and priced as the model it is given: the same as if the body named it."""
    body = {"input": "お誕生日おめでとう"}
    assert estimate(body, model="gpt-4", at=DAY).input == count_input({**body, "model": "gpt-4"}, "/v1/responses")
    assert estimate(body, model="o3-pro", at=DAY) == estimate({**body, "model": "o3-pro"}, at=DAY)
    assert estimate({**body, "model": "gpt-4"}, model="o3-pro", at=DAY).input.tokens == of(body).input.tokens


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (["o3-pro"], "JSON object, not list"),
        (None, "JSON object, not NoneType"),
        ("{}", "JSON object, not str"),
        ({}, "names no model"),
        ({"model": 5, "input": "x"}, "names no model"),
        ({"model": "", "input": "x"}, "names no model"),
        ({"model": "o3-pro"}, "give endpoint="),
    ],
)
def test_a_body_that_cannot_be_estimated_is_a_config_error(body: Any, words: str) -> None:
    """What is no request body raises ConfigError with what to do about it."""
    with pytest.raises(ConfigError, match=words):
        estimate(body)


@pytest.mark.parametrize(
    ("body", "endpoint", "words"),
    [
        ({"messages": None}, "/v1/chat/completions", "not a list"),
        ({"messages": "Hello!"}, "/v1/chat/completions", "not a list"),
        ({"messages": [5]}, "/v1/chat/completions", "a message is int"),
        ({"messages": [{"role": "user", "content": 5}]}, "/v1/chat/completions", "content is int"),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "/v1/chat/completions", "'x'"),
        ({"messages": [{"role": "user", "content": [{"type": [[]]}]}]}, "/v1/chat/completions", "a list"),
        ({"input": 5}, "/v1/responses", "neither a text nor a list"),
        ({"input": [5]}, "/v1/responses", "an input item is int"),
        ({"input": [{"type": "x" * 10_000}]}, "/v1/responses", "x' items"),
        ({"input": "Hello!", "previous_response_id": "resp_1"}, "/v1/responses", "previous_response_id"),
        ({"input": 1.5}, "/v1/embeddings", "input is float"),
    ],
)
def test_a_malformed_part_makes_the_count_inexact(body: dict[str, Any], endpoint: str, words: str) -> None:
    """What cannot be read is named in a short reason, and the count no longer claims to be exact."""
    counted = count_input({"model": "o3-pro", **body}, endpoint)
    assert not counted.exact
    assert words in counted.why
    assert len(counted.why) < 200
    assert counted.low <= counted.tokens <= counted.high


def test_no_input_is_larger_than_the_context_window() -> None:
    """What the server adds from its store is bounded by the window; in pro mode several runs are billed together."""
    body = {"model": "gpt-5.5", "input": "Hello! " * 1_000, "previous_response_id": "resp_1"}
    card = resolve("gpt-5.5")
    assert card is not None
    assert card.context_window is not None
    assert count_input(body, "/v1/responses").high == card.context_window
    assert count_input({**body, "reasoning": {"mode": "pro"}}, "/v1/responses").high > card.context_window


@pytest.mark.parametrize("value", [5, None, {"role": "user", "content": "Hello!"}])
def test_count_tokens_takes_a_text_or_messages(value: Any) -> None:
    """Anything else is a ConfigError; one message without its list is not taken for a list."""
    with pytest.raises(ConfigError, match="a text or a list of messages"):
        count_tokens(value, "o3-pro")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_deep_nesting_is_counted(endpoint: str) -> None:
    """A body nested deeper than Python's stack is counted like any other, wherever the depth is."""
    deep: Any = "Hello!"
    for _ in range(20_000):
        deep = [deep]
    for key in ("model", "input", "prompt", "messages", "instructions", "tools", "n", "text", "max_tokens"):
        body = {"model": "o3-pro", "input": "x", key: deep}
        counted = count_input(body, endpoint)
        assert counted.low <= counted.tokens <= counted.high
        for policy in POLICIES:
            assert demand(body, endpoint=endpoint, policy=policy).requests == 1
    in_schema = {"model": "o3-pro", "tools": [{"type": "function", "name": "f", "parameters": {"properties": deep}}]}
    assert not count_input(in_schema, "/v1/responses").exact


NAMES = (
    "model input prompt messages instructions tools n role content name type text image_url tool_calls function "
    "function_call parameters properties required enum items description schema format json_schema response_format "
    "max_tokens max_output_tokens previous_response_id output arguments refusal"
)
VALUES = (
    "o3-pro gpt-4 gpt-5-mini ft:: ft:gpt-4o:a user assistant tool text input_text message function function_call "
    "function_call_output image_url input_file refusal json_schema object array string"
)
KEYS = st.sampled_from(NAMES.split())
WORDS = st.sampled_from(VALUES.split())
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=20)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=5),
    max_leaves=30,
)
BODIES = st.dictionaries(KEYS, JSON, max_size=8)


@given(BODIES, st.sampled_from(ENDPOINTS), st.sampled_from(POLICIES))
@settings(max_examples=150)
def test_no_body_breaks_the_counting(body: dict[str, Any], endpoint: str, policy: str) -> None:
    """For any JSON object the count has ordered bounds and the demand whole numbers; neither raises."""
    counted = count_input(body, endpoint)
    assert 0 <= counted.low <= counted.tokens <= counted.high
    charged = demand(body, endpoint=endpoint, policy=policy, at=DAY)
    assert charged.requests == 1
    assert charged.tokens >= 0
    assert charged == demand(body, endpoint=endpoint, policy=policy, at=DAY, count=counted)


@given(BODIES)
@settings(max_examples=60)
def test_an_estimate_is_made_or_refused_with_a_reason(body: dict[str, Any]) -> None:
    """For any JSON object there is an estimate, or a ConfigError; the same after a trip through JSON text."""
    model = body.get("model")
    if not isinstance(model, str) or not model or not {"input", "messages", "prompt"} & set(body):
        with pytest.raises(ConfigError, match=r"give model=|give endpoint="):
            estimate(body, at=DAY)
        return
    estimated = estimate(body, at=DAY)
    assert estimated.output_p50 <= estimated.output_p95 <= estimated.output_worst
    assert estimated.input == estimate(json.loads(json.dumps(body)), at=DAY).input


def test_every_reply_to_the_legacy_completions_is_in_the_worst_case() -> None:
    """A list of prompts has an answer each, and `best_of` makes more of them than are returned."""
    body = {"model": "gpt-3.5-turbo", "prompt": ["a", "b", "c", "d"], "best_of": 5, "n": 2, "max_tokens": 100}
    assert estimate(body, at=DAY).output_worst == 4 * 5 * 100
    assert estimate({**body, "prompt": [1, 2, 3]}, at=DAY).output_worst == 5 * 100


def test_an_input_that_the_server_may_shorten_leaves_room_for_a_reply() -> None:
    """With truncation="auto" an input above the window is answered all the same."""
    assert of({"truncation": "auto"}, input_count=Count(250_000, 250_000, 250_000, True)).output_worst == 100_000


def test_the_worst_case_is_the_dearer_of_both_lengths_that_an_input_may_have() -> None:
    """Priority of gpt-5.4 is billed as standard above 272,000 tokens: output costs less there than below."""
    body = {"model": "gpt-5.4", "input": "Hello!", "service_tier": "priority", "max_output_tokens": 100_000}
    about = Count(272_000, 271_000, 273_000, False)
    used = cost(Usage(272_000, output_tokens=100_000), model="gpt-5.4", service_tier="priority", at=DAY)
    assert dollars(estimate(body, at=DAY, input_count=about)).worst == used.total


@pytest.mark.parametrize("model", ["gpt-image-2", "gpt-image-1.5"])
@pytest.mark.parametrize("where", ["body", "argument"])
def test_a_bare_request_of_an_image_model_is_read_as_images(model: str, where: str) -> None:
    """A prompt for a model that draws costs what its images take, and never nothing for its output."""
    body = {"prompt": "a parcel", "size": "1024x1024", "quality": "high"}
    guess = (
        estimate({**body, "model": model}, at=IMAGE_DAY)
        if where == "body"
        else estimate(body, model=model, at=IMAGE_DAY)
    )
    assert guess.endpoint == "/v1/images/generations"
    rates = {"gpt-image-2": (7_050, 30), "gpt-image-1.5": (4_160, 32)}[model]
    assert dollars(guess).mean.pico >= rates[0] * rates[1] * 10**6


@pytest.mark.parametrize("body", [{"input": "a parcel"}, {"messages": [{"role": "user", "content": "a parcel"}]}])
def test_an_image_model_has_no_price_where_only_text_is_written(body: dict[str, Any]) -> None:
    """An image model asked for text is unpriced by name, whatever its row prices."""
    for model in ("gpt-image-2", "gpt-image-1.5"):
        guess = estimate({"model": model, **body}, at=IMAGE_DAY)
        assert isinstance(guess.cost, Unpriced)
        assert model in guess.cost.reason


def test_output_without_a_price_is_never_free(tmp_path: Any) -> None:
    """A row that prices no text output leaves a request for text unpriced, at its mean as at its worst."""
    path = tmp_path / "prices.yaml"
    path.write_text(
        'version: 1\ncurrency: USD\nsources: {acme: {url: "https://acme.example", read: "2026-07-01"}}\nrows:\n'
        '  - {model: o3, service_tier: standard, effective_from: "2026-07-01", source: acme,\n'
        '     usd_per_mtok: {input: "1", output_image: "30"}}\n',
        encoding="utf-8",
    )
    guess = estimate({"model": "o3", "input": "Hello!"}, at=DAY, prices=load_prices(overlay=path))
    assert isinstance(guess.cost, Unpriced)
    assert "no price for output tokens" in guess.cost.reason
