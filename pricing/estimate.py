"""What a request will cost, before it is sent: exact where the input is, an interval where the output is not known yet.

Output sizes are priors until a ledger has something better to say: the median and the 95th percentile of recorded
replies, and the largest reply the request allows. They are marked as what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from .cards import resolve
from .cost import Unpriced, cost
from .errors import ConfigError
from .money import Usd
from .tokens import Count, count_input
from .usage import Usage

if TYPE_CHECKING:
    from .prices import PriceTable

# Median and 95th percentile of output tokens (reasoning included) in recorded replies of public test suites, 2024-02
# … 2026-08, tests/data/openai_http.jsonl.gz: 327 of reasoning models, 566 of others. They are small talk: real jobs
# differ.
PRIOR_REASONING = (22, 1_159)
PRIOR_PLAIN = (23, 185)
NO_CARD_WORST = 128_000
"""Largest reply assumed for a model without a card: the largest any card has seen."""
_REASONING = ("o1", "o3", "o4", "gpt-5", "gpt-6")
_CAPS = ("max_output_tokens", "max_completion_tokens", "max_tokens")


class CostRange(NamedTuple):
    """The likely, the high and the largest possible cost of a request."""

    p50: Usd
    p95: Usd
    worst: Usd


class Estimate(NamedTuple):
    """What is known of a request before it is sent.

    input          Count of input tokens
    output_…       tokens, all choices together
    output_basis   where the output numbers come from, in words
    cost           CostRange, or Unpriced with the reason
    """

    model: str
    endpoint: str
    input: Count
    output_p50: int
    output_p95: int
    output_worst: int
    output_basis: str
    cost: CostRange | Unpriced


def estimate(
    body: Mapping[str, Any],
    *,
    endpoint: str | None = None,
    model: str | None = None,
    batch: bool = False,
    service_tier: str | None = None,
    at: date | None = None,
    prices: PriceTable | None = None,
    input_count: Count | None = None,
) -> Estimate:
    """Estimate tokens and cost of one request body. Nothing is sent.

    body         as it would be sent; `model` is read from it unless given
    endpoint     "/v1/responses" …; guessed from the body's shape unless given
    batch        price as the Batch API does
    service_tier the tier to price; the body's own unless given
    at           the day whose prices apply; today unless told
    input_count  a count made earlier

    Raises  ConfigError when the body is no JSON object, names no model, or fits no endpoint
    """
    if not isinstance(body, Mapping):
        raise ConfigError(f"a request body is a JSON object, not {type(body).__name__}")
    name = model or body.get("model")
    if not isinstance(name, str) or not name:
        raise ConfigError("the body names no model; give model=")
    if endpoint is None:
        endpoint = guess_endpoint(body)
        if endpoint is None:
            raise ConfigError('the body has neither "input" nor "messages" nor "prompt"; give endpoint=')
    count = input_count
    if count is None:
        count = count_input(body if body.get("model") == name else {**body, "model": name}, endpoint)
    p50, p95, worst, basis = _output(body, endpoint, name, count)
    tier = service_tier if service_tier is not None else _text(body.get("service_tier"))
    amounts = []
    for tokens, output in ((count.tokens, p50), (count.tokens, p95), (count.high, worst)):
        priced = cost(Usage(tokens, 0, 0, output), model=name, service_tier=tier, batch=batch, at=at, prices=prices)
        if isinstance(priced, Unpriced):
            return Estimate(name, endpoint, count, p50, p95, worst, basis, priced)
        amounts.append(priced.total)
    return Estimate(name, endpoint, count, p50, p95, worst, basis, CostRange(*amounts))


def guess_endpoint(body: Mapping[str, Any]) -> str | None:
    """Tell which endpoint a bare body is for by its shape; None when it fits none."""
    if "messages" in body:
        return "/v1/chat/completions"
    if "input" in body:
        model = body.get("model")
        return "/v1/embeddings" if isinstance(model, str) and "embedding" in model else "/v1/responses"
    return "/v1/completions" if "prompt" in body else None


def _output(body: Mapping[str, Any], endpoint: str, model: str, count: Count) -> tuple[int, int, int, str]:
    if endpoint.endswith(("embeddings", "moderations")):
        return 0, 0, 0, "none: this endpoint produces no output tokens"
    card = resolve(model)
    worst = NO_CARD_WORST
    if card is not None and card.max_output_tokens is not None:
        worst = card.max_output_tokens
    basis = "prior of recorded replies"
    for key in _CAPS:
        wanted = body.get(key)
        if type(wanted) is int and wanted > 0:
            worst = min(worst, wanted)
            basis = f"{basis}, capped by {key}"
            break
    if card is not None and card.context_window is not None:
        worst = max(0, min(worst, card.context_window - count.low))
    reasoning = card.reasoning_tokens if card is not None else None
    if reasoning is None:
        reasoning = model.startswith(_REASONING)
    p50, p95 = PRIOR_REASONING if reasoning else PRIOR_PLAIN
    choices = body.get("n")
    choices = choices if type(choices) is int and choices > 0 else 1
    return min(p50, worst) * choices, min(p95, worst) * choices, worst * choices, basis


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
