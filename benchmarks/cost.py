"""What the price of a call costs to work out: an o3-pro usage with cached tokens, by us and by the libraries at hand.

12,345 tokens in, of which 2,000 cached, 6,789 out: $0.79002, for no cached price is published and cached tokens cost as
much as others. Each library gets the usage in its own form, made beforehand; "reply" is the usage object of a reply as
it came. Blocks of each kind take turns, so that what disturbs the machine disturbs all alike; ratios compare blocks of
the same round. CPU time, one thread.

    python benchmarks/cost.py [--rounds 30] [--calls 2000] [--json]

Floor in the same run: the three multiplications in whole numbers. tokencost multiplies and no more: two calls, for
input and output, and no cached tokens. Of the others only genai-prices prices a call by its day, none says which row
priced it, and litellm counts in floats. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from decimal import Decimal

from _common import environment

import pricing

PEERS = ("genai-prices", "litellm", "tokencost")
TOTAL, CACHED, OUTPUT = 12_345, 2_000, 6_789
REPLY = {
    "input_tokens": TOTAL,
    "input_tokens_details": {"cached_tokens": CACHED},
    "output_tokens": OUTPUT,
    "output_tokens_details": {"reasoning_tokens": 5_000},
    "total_tokens": TOTAL + OUTPUT,
}
RIGHT = Decimal("0.79002")
Call = Callable[[], object]


def floor() -> Call:
    """Three multiplications of whole pico-dollars."""
    full, cached, produced = TOTAL - CACHED, CACHED, OUTPUT

    def call() -> Decimal | int:
        return full * 20_000_000 + cached * 20_000_000 + produced * 80_000_000

    return call


def ours_of_a_reply() -> Call:
    """pricing.cost of the reply's usage object, at today's price."""
    return lambda: pricing.cost(REPLY, model="o3-pro")


def ours_of_a_usage() -> Call:
    """pricing.cost of a Usage that was read before."""
    usage = pricing.Usage.from_response(REPLY)
    return lambda: pricing.cost(usage, model="o3-pro")


def genai_prices() -> Call:
    """genai-prices, of its own Usage."""
    import genai_prices as peer

    usage = peer.Usage(input_tokens=TOTAL, cache_read_tokens=CACHED, output_tokens=OUTPUT)
    return lambda: peer.calc_price(usage, model_ref="o3-pro", provider_id="openai")


def genai_prices_of_a_reply() -> Call:
    """genai-prices, of a reply: it needs the model and the usage in one document."""
    import genai_prices as peer

    reply = {"model": "o3-pro", "usage": REPLY}

    def call() -> object:
        return peer.extract_usage(reply, provider_id="openai", api_flavor="responses").calc_price()

    return call


def litellm() -> Call:
    """litellm, of its own Usage."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # its own list, and no network
    import litellm as peer
    from litellm.types.utils import PromptTokensDetailsWrapper, Usage

    details = PromptTokensDetailsWrapper(cached_tokens=CACHED)
    usage = Usage(
        prompt_tokens=TOTAL, completion_tokens=OUTPUT, total_tokens=TOTAL + OUTPUT, prompt_tokens_details=details
    )
    return lambda: sum(peer.cost_per_token(model="o3-pro", usage_object=usage, custom_llm_provider="openai"))


def tokencost() -> Call:
    """tokencost: a multiplication for the input, another for the output."""
    from tokencost import calculate_cost_by_tokens as multiply

    return lambda: multiply(TOTAL, "o3-pro", "input") + multiply(OUTPUT, "o3-pro", "output")


KINDS: dict[str, tuple[str, Callable[[], Call]]] = {
    "floor": ("", floor),
    "ratecard, of a reply": ("", ours_of_a_reply),
    "ratecard, of a Usage": ("", ours_of_a_usage),
    "genai-prices": ("genai_prices", genai_prices),
    "genai-prices, of a reply": ("genai_prices", genai_prices_of_a_reply),
    "litellm": ("litellm", litellm),
    "tokencost": ("tokencost", tokencost),
}
"""Name → the module it needs, and what makes its call."""


def answer(result: object) -> Decimal:
    """The dollars that a call came to, to eleven decimals, in whatever form it gives them."""
    if isinstance(result, pricing.Cost):
        return result.total.decimal()
    if isinstance(result, int):
        return Decimal(result) / 10**12
    return round(Decimal(str(getattr(result, "total_price", result))), 11)


def block(call: Call, calls: int) -> float:
    """CPU µs per call of a block of calls."""
    start = time.process_time_ns()
    for _ in range(calls):
        call()
    return (time.process_time_ns() - start) / calls / 1000


def measure(rounds: int, calls: int) -> tuple[dict[str, str], list[dict[str, float]]]:
    """The answer of each kind, and µs per call by round and kind."""
    made: dict[str, Call] = {}
    for name, (module, make) in KINDS.items():
        try:
            if module:
                importlib.import_module(module)
            made[name] = make()
        except ImportError:
            print(f"{name} is not installed: left out", file=sys.stderr)
    answers = {name: f"{answer(call()).normalize():f}" for name, call in made.items()}
    for call in made.values():
        block(call, 200)
    table = []
    for turn in range(rounds):
        gc.collect()
        order = random.Random(turn).sample(list(made), len(made))
        table.append({name: block(made[name], calls) for name in order})
    return answers, table


def spread(values: list[float]) -> str:
    """Median (quartiles)."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:8.2f} ({low:.2f} – {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    answers, table = measure(given.rounds, given.calls)
    if given.json:
        json.dump({"environment": environment(*PEERS), "answers": answers, "rounds": table}, sys.stdout, indent=2)
        return
    print(environment(*PEERS))
    print(
        f"{given.rounds} rounds of {given.calls}: median (quartiles) µs per call, and × what ratecard takes for a reply"
    )
    for name, dollars in answers.items():
        micros = spread([one[name] for one in table])
        ratio = spread([one[name] / one["ratecard, of a reply"] for one in table])
        verdict = "" if Decimal(dollars) == RIGHT else f"  WRONG: it is ${RIGHT}"
        print(f"{name:<26} {micros} µs  {ratio} ×  ${dollars}{verdict}")


if __name__ == "__main__":
    main()
