"""What is reserved for output is learned per kind of request, starts cold, and keeps count of its own error."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
from hypothesis import given
from hypothesis import strategies as st

import ratelimit
from ratelimit.outputs import ENOUGH, KEPT, MOST_KINDS, Kind, Outputs
from ratelimit.testing import ManualClock

KIND = Kind("o3", "/v1/responses", "high", ())


@given(st.lists(st.integers(0, 200_000), min_size=1, max_size=3 * KEPT))
def test_the_quantile_is_that_of_the_last_replies(sizes: list[int]) -> None:
    """At least 95 % of the last replies are no larger, and no smaller size of theirs would do; few say nothing."""
    outputs = Outputs()
    for size in sizes:
        outputs.learn(KIND, 100, size)
    latest = sizes[-KEPT:]
    foreseen = outputs.foresee(KIND)
    if len(latest) < ENOUGH:
        assert foreseen is None
        return
    assert foreseen in latest
    assert sum(size <= foreseen for size in latest) * 100 >= 95 * len(latest)
    assert all(sum(size <= less for size in latest) * 100 < 95 * len(latest) for less in latest if less < foreseen)


def test_kinds_are_apart_and_the_oldest_is_forgotten() -> None:
    """Effort, tags, endpoint and model each make a kind; their number is bounded."""
    body = {"model": "o3", "reasoning": {"effort": "low"}}
    assert Kind.of(body, "/v1/responses", {"job": "a"}) == Kind("o3", "/v1/responses", "low", (("job", "a"),))
    assert Kind.of({"model": "o3", "reasoning_effort": "low"}, "/v1/chat/completions", None).effort == "low"
    assert str(Kind.of(body, "/v1/responses", {"job": "a"})) == "o3 /v1/responses low job=a"
    outputs = Outputs()
    for number in range(MOST_KINDS + 5):
        outputs.learn(Kind(f"m{number}", "", "", ()), 10, 20 if number % 2 else 5)
    seen = outputs.as_dict()
    assert len(seen) == MOST_KINDS
    assert "m4" not in seen
    assert seen["m6"] == {"replies": 1, "next": None, "covered": 1, "reserved_mean": 10, "actual_mean": 5}
    assert seen["m7"]["covered"] == 0


def test_a_client_reserves_what_such_replies_take() -> None:
    """Cold: 4,096 tokens. After twenty replies of 50: the input and 50; settled at what each really took."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        usage = {"input_tokens": 7, "output_tokens": 50}
        return httpx2.Response(200, json={"id": "r", "model": "o3", "object": "response", "usage": usage})

    limiter = ratelimit.Limiter(
        limits={"rpm": 500, "tpm": 30_000}, policy="conservative", preflight="off", clock=ManualClock()
    )
    events: list[Any] = []
    limiter.listen(events.append)
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    plain = openai.OpenAI(api_key="x", base_url="http://server.invalid/v1", http_client=http)
    client = ratelimit.wrap(plain, limiter=limiter)
    for _ in range(ENOUGH + 1):
        client.responses.create(model="o3", input="x")
    charged = [event.facts["tokens"] for event in events if event.kind == "admitted"]
    settled = [event.facts["tokens"] for event in events if event.kind == "settled"]
    assert charged[0] > 4_096
    assert charged[0] - charged[-1] == 4_096 - 50
    assert settled == [57] * (ENOUGH + 1)
    (kind,) = limiter.snapshot()["outputs"].values()
    assert (kind["replies"], kind["next"], kind["covered"]) == (ENOUGH + 1, 50, ENOUGH + 1)
    with ratelimit.tagged(job="other"):
        client.responses.create(model="o3", input="x")
    assert [event.facts["tokens"] for event in events if event.kind == "admitted"][-1] == charged[0]
