"""What a request will cost, before it is sent: exact where the input is, an interval where the output is not known yet.

Output sizes are priors until a ledger has something better to say: mean, median and 95th percentile of published
production traffic, and the largest reply the request allows. They are marked as what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from .cards import resolve
from .cost import Unpriced, day_of, no_uplift, price_row, shipped_prices
from .errors import ConfigError
from .media import IMAGES, SPEECH, characters_of, draws, is_media, most_image_tokens, why_unknown
from .money import Usd
from .tokens import Count, count_input
from .tools import most_fees

if TYPE_CHECKING:
    from .cards import ModelCard
    from .prices import PriceRow, PriceTable


class Prior(NamedTuple):
    """Output tokens per reply, reasoning included; of other people's traffic a real job differs.

    sizes  those replies themselves, in order, where they were learned
    """

    mean: int
    p50: int
    p95: int
    source: str
    sizes: tuple[int, ...] = ()


class Replies(NamedTuple):
    """What is known of the reply to a request before it is there.

    prior    what such replies took; None where there is no text to come
    most     tokens of one choice, at most
    choices  how many are asked for
    basis    where the numbers come from, in words
    """

    prior: Prior | None
    most: int
    choices: int
    basis: str


PRIOR_REASONING = Prior(1_527, 792, 5_701, "a day of a public reasoning service")
"""alibaba/ServeGen @f891d11 data/reason/deepseek-r1 (2025-06-09): 73 clients over 24 h, weighted by their rates."""
PRIOR_PLAIN = Prior(211, 129, 451, "an hour of a public chat service")
"""Azure/AzurePublicDataset AzureLLMInferenceTrace_conv.csv (2023): 19,366 requests."""
NO_CARD_WORST = 128_000
"""Largest reply assumed for a model without a card: the largest any card has seen."""
_REASONING = ("o1", "o3", "o4", "gpt-5", "gpt-6")
_CAPS = ("max_output_tokens", "max_completion_tokens", "max_tokens")


class CostRange(NamedTuple):
    """What a request may cost. Of these only `mean` and `worst` may be added up over requests.

    p50, p95  half of such requests cost no more; 95 % of them cost no more
    worst     the largest possible cost, which budgets hold
    mean      the expected cost: what many such requests cost on average
    """

    p50: Usd
    p95: Usd
    worst: Usd
    mean: Usd


class Estimate(NamedTuple):
    """What is known of a request before it is sent.

    input          Count of input tokens
    output_…       tokens, all choices together
    output_basis   where the output numbers come from, in words
    cost           CostRange, or Unpriced with the reason
    fixed          pico-dollars of all but the output; 0 where there is no price
    per_output     pico-dollars per output token
    """

    model: str
    endpoint: str
    input: Count
    output_p50: int
    output_p95: int
    output_worst: int
    output_mean: int
    output_basis: str
    cost: CostRange | Unpriced
    fixed: int = 0
    per_output: int = 0


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
    region: str | None = None,
    prior: Prior | None = None,
) -> Estimate:
    """Estimate tokens and cost of one request body. Nothing is sent.

    body         as it would be sent; `model` is read from it unless given
    endpoint     "/v1/responses" …; guessed from the body's shape unless given
    batch        price as the Batch API does
    service_tier the tier to price; the body's own unless given
    at           the day whose prices apply; today unless told
    input_count  a count made earlier
    region       the region that processes it, where the account has chosen one: "eu", "us" …
    prior        what such replies took before (learned.Learned); other people's traffic unless told

    Raises  ConfigError when the body is no JSON object, names no model, or fits no endpoint
    """
    if not isinstance(body, Mapping):
        raise ConfigError(f"a request body is a JSON object, not {type(body).__name__}")
    name = model or body.get("model")
    if not isinstance(name, str) or not name:
        raise ConfigError("the body names no model; give model=")
    if endpoint is None:
        endpoint = guess_endpoint(body, name)
        if endpoint is None:
            raise ConfigError('the body has neither "input" nor "messages" nor "prompt"; give endpoint=')
    count = input_count
    if count is None:
        count = count_input(body if body.get("model") == name else {**body, "model": name}, endpoint)
    table, day = prices or shipped_prices(), day_of(at)
    if region is not None:
        table.check_region(region)
    tier = service_tier if service_tier is not None else asked_tier(body)
    row = price_row(name, "batch" if batch else tier, day, table)
    if is_media(endpoint):
        return _of_media(row, body, endpoint, name, count, day, table, region)
    if draws(name):
        row = Unpriced(f"{name} makes images of a prompt ({IMAGES}), and {endpoint} is for text", name)
    p50, p95, worst, mean, basis = _output(body, endpoint, name, count, prior)
    priced, *rates = _range(row, body, count, (p50, p95, worst, mean), day, table, region)
    return Estimate(name, endpoint, count, p50, p95, worst, mean, basis, priced, *rates)


def _of_media(
    row: PriceRow | Unpriced,
    body: Mapping[str, Any],
    endpoint: str,
    model: str,
    count: Count,
    day: date,
    prices: PriceTable,
    region: str | None,
) -> Estimate:
    """Estimate a call that draws, listens or speaks: its price, where something bounds it."""
    written = most_image_tokens(body, model) if endpoint == IMAGES else None
    why = why_unknown(endpoint, body, model)
    basis = f"unknown: {why}"
    answer: CostRange | Unpriced = Unpriced(why, model)
    if isinstance(row, Unpriced):
        answer = row
    elif written is not None and "output_image" not in row.pico_per_token:
        answer = Unpriced(f"{row.id} has no price for image output tokens", model)
    elif written is not None:
        basis = "the most that such images take, by the image generation guide"
        answer, *_ = _range(row, body, count, (written,) * 4, day, prices, region, "output_image")
    elif endpoint == SPEECH and (characters := characters_of(body, row)) is not None:
        pico, per = row.per_unit["characters"]
        spoken = Usd(-(-characters * pico // per))
        basis, answer = "none: a speech of this model is billed by its characters", CostRange(*(spoken,) * 4)
    tokens = written or 0
    certain = 0 if isinstance(answer, Unpriced) else answer.worst.pico
    return Estimate(model, endpoint, count, tokens, tokens, tokens, tokens, basis, answer, certain)


def guess_endpoint(body: Mapping[str, Any], model: str | None = None) -> str | None:
    """Tell which endpoint a bare body is for by its shape and its model; None when it fits none."""
    if "messages" in body:
        return "/v1/chat/completions"
    name = model or body.get("model")
    if "input" in body:
        return "/v1/embeddings" if isinstance(name, str) and "embedding" in name else "/v1/responses"
    if "prompt" not in body:
        return None
    return IMAGES if isinstance(name, str) and draws(name) else "/v1/completions"


def reasons(model: str) -> bool:
    """Say whether a model bills hidden reasoning: as its card states, else by its name."""
    return _reasons(model, resolve(model))


def _reasons(model: str, card: ModelCard | None) -> bool:
    if card is not None and card.reasoning_tokens is not None:
        return card.reasoning_tokens
    return model.startswith(_REASONING)


def replies(body: Mapping[str, Any], endpoint: str, model: str, count: Count, learned: Prior | None = None) -> Replies:
    """Say what is known of the reply to a request.

    learned  what such replies took before; other people's traffic speaks unless told
    """
    if endpoint.endswith(("embeddings", "moderations")):
        return Replies(None, 0, 1, "none: this endpoint produces no output tokens")
    card = resolve(model)
    worst = NO_CARD_WORST
    if card is not None and card.max_output_tokens is not None:
        worst = card.max_output_tokens
    cap = ""
    for key in _CAPS:
        wanted = body.get(key)
        if type(wanted) is int and wanted > 0:
            worst = min(worst, wanted)
            cap = f", capped by {key}"
            break
    if card is not None and card.context_window is not None and body.get("truncation") != "auto":
        worst = max(0, min(worst, card.context_window - count.low))
    thinks = _reasons(model, card) and effort_of(body) != "none"
    prior = learned or (PRIOR_REASONING if thinks else PRIOR_PLAIN)
    choices = max([1, *(n for key in ("n", "best_of") if type(n := body.get(key)) is int)])
    prompts = body.get("prompt")
    if isinstance(prompts, list) and prompts and not isinstance(prompts[0], int):
        choices *= len(prompts)  # the legacy Completions answer each of them
    return Replies(prior, worst, choices, f"{'prior' if learned is None else 'learned'}: {prior.source}{cap}")


def effort_of(body: Mapping[str, Any]) -> str:
    """The reasoning effort a request asks for; "" when it names none."""
    reasoning = body.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, Mapping) else body.get("reasoning_effort")
    return effort if isinstance(effort, str) else ""


def _output(
    body: Mapping[str, Any], endpoint: str, model: str, count: Count, learned: Prior | None
) -> tuple[int, int, int, int, str]:
    prior, worst, choices, basis = replies(body, endpoint, model, count, learned)
    if prior is None:
        return 0, 0, 0, 0, basis
    p50, p95, mean = (min(tokens, worst) * choices for tokens in (prior.p50, prior.p95, prior.mean))
    return p50, p95, worst * choices, mean, basis


def asked_tier(body: Mapping[str, Any]) -> str | None:
    """The service tier a request asks for, as prices name it; a discounted completion window is one ("window_2h")."""
    options = body.get("background_options")
    window = options.get("completion_window") if isinstance(options, Mapping) else None
    if isinstance(window, str) and window and window != "soonest":
        return f"window_{window}"
    tier = body.get("service_tier")
    return tier if isinstance(tier, str) else None


def most(
    row: PriceRow,
    body: Mapping[str, Any],
    count: Count,
    output: int,
    *,
    at: date,
    prices: PriceTable,
    region: str | None = None,
) -> Usd | Unpriced:
    """The most that a request can cost at a row, with so much output: what a budget holds.

    Every token is taken for the dearest kind it may turn out to be: written to a cache, or of audio. Of hosted tools
    it has the calls that `most_fees` counts.
    """
    pico = 0
    lengths = {count.high}
    if row.above is not None and count.low <= row.above < count.high:
        lengths.add(row.above)  # the shorter may be the dearer: priority is billed as standard above its threshold
    for length in lengths:
        long = row.at_length(length)
        if long is None:
            return Unpriced(f"{row.id} has no price for a request of more than {row.above:,} input tokens", row.model)
        read, written = long.dearest
        options = body.get("prompt_cache_options")
        if read is not None and isinstance(options, Mapping):
            read = max(read, long.pico_per_token.get(f"cache_write_{options.get('ttl')}", 0))
        if read is None or (written is None and output):
            return Unpriced(f"{row.id} has no price for {'input' if read is None else 'output'} tokens", row.model)
        pico = max(pico, length * read + output * (written or 0))
    if region is not None:
        points = prices.uplift(row.model)
        if points is None:
            return no_uplift(row.model)
        pico = _lifted(pico, points)
    if not body.get("tools"):
        return Usd(pico)
    fees = most_fees(body, row.model, at, prices)
    return fees if isinstance(fees, Unpriced) else Usd(pico + fees.pico)


def _lifted(pico: int, points: int) -> int:
    """An amount with what a region adds, in basis points: a fraction of a pico-dollar counts as one."""
    return -(-pico * (10_000 + points) // 10_000)


def dearest_input(row: PriceRow, body: Mapping[str, Any]) -> str:
    """The kind of token that input of this request costs most as: what `most` takes all of it for."""
    options = body.get("prompt_cache_options")
    kept = f"cache_write_{options.get('ttl') if isinstance(options, Mapping) else None}"
    kinds = [
        kind
        for kind in row.pico_per_token
        if not kind.startswith("output") and kind != "reasoning" and (kind[:12] != "cache_write_" or kind == kept)
    ]
    return max(kinds, key=row.pico_per_token.__getitem__, default="input")


def _range(
    row: PriceRow | Unpriced,
    body: Mapping[str, Any],
    count: Count,
    outputs: tuple[int, int, int, int],
    at: date,
    prices: PriceTable,
    region: str | None,
    kind: str = "output",
) -> tuple[CostRange | Unpriced, int, int]:
    """Price the outputs (p50, p95, worst, mean) at one row: what `cost` says of fresh input and that output.

    kind  what the output is, as the row names it

    → the costs, and pico-dollars: of all but the output, and of a token of output
    """
    if isinstance(row, Unpriced):
        return row, 0, 0
    p50, p95, worst, mean = outputs
    dearest = most(row, body, count, worst, at=at, prices=prices, region=region)
    if isinstance(dearest, Unpriced):
        return dearest, 0, 0
    likely_row = row.at_length(count.tokens) or row
    rate_in = likely_row.common.input or 0
    rate_out = likely_row.common.output if kind == "output" else likely_row.pico_per_token.get(kind)
    if rate_out is None:
        if worst:  # what has a price for images or sound alone is not free for text
            return Unpriced(f"{row.id} has no price for {kind.replace('_', ' ')} tokens", row.model), 0, 0
        rate_out = 0
    likely = count.tokens * rate_in
    low, high, middle = likely + p50 * rate_out, likely + p95 * rate_out, likely + mean * rate_out
    points = 0 if region is None else prices.uplift(row.model)
    if points:
        low, high, middle = (_lifted(pico, points) for pico in (low, high, middle))
        likely, rate_out = _lifted(likely, points), _lifted(rate_out, points)
    return CostRange(Usd(low), Usd(high), dearest, Usd(middle)), likely, rate_out
