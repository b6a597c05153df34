"""The emulator as a user's code meets it: the real openai client, its limits, its headers, its refusals."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import openai
import pytest

from ratelimit.emulator import Emulator
from ratelimit.errors import ConfigError
from ratelimit.limit import Limit

Emulate = Callable[..., Emulator]
Connect = Callable[..., openai.OpenAI]

HELLO: Any = [{"role": "user", "content": "Say hello."}]


def test_a_response_is_what_the_client_expects(emulate: Emulate, connect: Connect) -> None:
    """A plain Responses call gives text, the served snapshot, and usage that adds up."""
    emulator = emulate(tier="tier_1")
    reply = connect(emulator).responses.create(model="o3-pro", input="Say hello.")
    assert (reply.status, reply.model, reply.service_tier) == ("completed", "o3-pro-2025-06-10", "default")
    assert reply.output_text
    usage = reply.usage
    assert usage is not None
    assert usage.output_tokens_details.reasoning_tokens > 0
    assert usage.output_tokens > usage.output_tokens_details.reasoning_tokens
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    counted = emulator.counters()["usage"]
    assert counted == {
        "calls": 1,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "reasoning_tokens": usage.output_tokens_details.reasoning_tokens,
    }


def test_usage_agrees_with_the_token_counter(emulate: Emulate, connect: Connect) -> None:
    """Input as pricing.count_tokens counts it, visible output as many tokens as the text has."""
    from pricing.tokens import count_input, count_text, encoding_for

    reply = connect(emulate()).chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert reply.usage is not None
    body = {"model": "gpt-4o-mini", "messages": HELLO}
    assert reply.usage.prompt_tokens == count_input(body, "/v1/chat/completions").tokens
    assert reply.usage.completion_tokens == count_text(
        reply.choices[0].message.content or "", encoding_for("gpt-4o-mini")
    )


def test_several_choices_are_billed_together(emulate: Emulate, connect: Connect) -> None:
    """n=3 gives three choices and one usage for all of them."""
    client = connect(emulate(output_tokens=10))
    reply = client.chat.completions.create(model="gpt-4o", messages=HELLO, n=3)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 30


def test_embeddings_have_the_asked_shape(emulate: Emulate, connect: Connect) -> None:
    """One vector of length 1 per input, in the asked number of dimensions, whichever encoding the client prefers."""
    client = connect(emulate())
    for encoding in (openai.omit, "float"):  # left out, the client asks for base64 and decodes it
        reply = client.embeddings.create(
            model="text-embedding-3-small",
            input=["one", "two", "three"],
            dimensions=256,
            encoding_format=encoding,
        )
        assert [len(row.embedding) for row in reply.data] == [256] * 3
        assert sum(x * x for x in reply.data[2].embedding) == pytest.approx(1, abs=1e-5)
        assert reply.usage.prompt_tokens == reply.usage.total_tokens == 3
    assert len(client.embeddings.create(model="text-embedding-3-large", input="one").data[0].embedding) == 3072
    assert len(client.embeddings.create(model="text-embedding-3-small", input=[1, 2, 3]).data) == 1


def test_the_answer_stops_at_the_callers_maximum(emulate: Emulate, connect: Connect) -> None:
    """Hidden reasoning is spent first; what is cut says so as the real API does."""
    client = connect(emulate(limits={"tpm": 10**9}))
    cut = client.responses.create(model="o3-pro", input="Say hello.", max_output_tokens=16)
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    assert cut.usage is not None
    assert cut.usage.output_tokens == 16
    assert cut.output_text == ""
    chat = client.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=3)
    assert chat.choices[0].finish_reason == "length"
    assert chat.usage is not None
    assert chat.usage.completion_tokens == 3


def test_the_async_client_is_served_in_process(emulate: Emulate) -> None:
    """`.app` is an ordinary ASGI application: no port, no thread, many calls at once."""
    emulator = Emulator(limits={"rpm": 1000, "tpm": 10**9}, latency=0)

    async def run() -> list[openai.types.responses.Response]:
        transport = httpx2.ASGITransport(app=emulator.app)
        async with (
            httpx2.AsyncClient(transport=transport) as inner,
            openai.AsyncOpenAI(base_url="http://emulator/v1", api_key="any", http_client=inner) as client,
        ):
            calls = (client.responses.create(model="o3", input=f"Number {number}") for number in range(40))
            return await asyncio.gather(*calls)

    replies = asyncio.run(run())
    assert len({reply.id for reply in replies}) == 40
    assert emulator.counters()["admitted"] == 40


def test_the_headers_follow_the_buckets(emulate: Emulate, connect: Connect, clock: Any) -> None:
    """Each answer shows the limits right after its own charge; time refills them."""
    emulator = emulate(limits={"rpm": 500, "tpm": 30_000})
    client = connect(emulator)

    def ask() -> dict[str, str]:
        raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HELLO)
        return {name: value for name, value in raw.headers.items() if name.startswith("x-ratelimit")}

    # 10 bytes: 3, one message, one choice
    assert ask() == {
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "499",
        "x-ratelimit-reset-requests": "120ms",
        "x-ratelimit-limit-tokens": "30000",
        "x-ratelimit-remaining-tokens": "29995",
        "x-ratelimit-reset-tokens": "10ms",
    }
    assert ask()["x-ratelimit-remaining-tokens"] == "29990"
    clock.advance(1)
    assert ask()["x-ratelimit-remaining-tokens"] == "29995"


def test_every_answer_has_the_usual_headers(emulate: Emulate, connect: Connect) -> None:
    """Request ids differ, and the client finds the one of each reply."""
    client = connect(emulate())
    first, second = (client.responses.create(model="o3", input="Say hello.") for _ in range(2))
    assert first._request_id != second._request_id
    assert str(first._request_id).startswith("req_")
    raw = client.responses.with_raw_response.create(model="o3", input="Say hello.")
    assert raw.headers["openai-version"] == "2020-10-01"
    assert raw.headers["openai-processing-ms"] == "0"
    assert "server" not in raw.headers


def test_a_full_token_limit_refuses_in_the_servers_words(emulate: Emulate, connect: Connect, clock: Any) -> None:
    """The 429 names limit, use, request and wait; obeying retry-after-ms to the letter is enough."""
    emulator = emulate(limits={"rpm": 500, "tpm": 100})
    client = connect(emulator)
    long: Any = [{"role": "user", "content": "x" * 300}]  # 75 + 1 + 1
    client.chat.completions.create(model="gpt-4o", messages=long)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=long)
    error = caught.value
    assert error.code == "rate_limit_exceeded"
    assert error.type == "tokens"
    assert (
        "Rate limit reached for gpt-4o in organization org-emulator on tokens per min (TPM): Limit 100, Used 77, "
        "Requested 77. Please try again in 32.4s. Visit https://platform.openai.com/account/rate-limits to learn more."
    ) in str(error)
    assert error.response.headers["retry-after-ms"] == "32400"
    assert error.response.headers["retry-after"] == "33"
    assert error.response.headers["x-ratelimit-remaining-tokens"] == "23"
    assert error.response.headers["x-ratelimit-remaining-requests"] == "499"
    clock.advance(32.399)
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="gpt-4o", messages=long)
    clock.advance(0.001)
    client.chat.completions.create(model="gpt-4o", messages=long)
    counters = emulator.counters()
    assert (counters["admitted"], counters["refused"], counters["charged_tokens"]) == (2, {"tpm": 2}, 154)
    assert [row.verdict for row in emulator.admissions()] == ["admitted", "tpm", "tpm", "admitted"]


@pytest.mark.parametrize(
    ("limits", "words", "wait"),
    [({"rpm": 1, "tpm": 10**6}, "requests per min (RPM)", "1m0s"), ({"rpd": 1}, "requests per day (RPD)", "24h0m0s")],
)
def test_request_limits_refuse_too(
    emulate: Emulate, connect: Connect, limits: dict[str, int], words: str, wait: str
) -> None:
    """Requests per minute and per day are limits of their own, with their own words."""
    client = connect(emulate(limits=limits))
    client.responses.create(model="o3", input="Say hello.")
    with pytest.raises(openai.RateLimitError) as caught:
        client.responses.create(model="o3", input="Say hello.")
    assert caught.value.type == "requests"
    assert f"on {words}: Limit 1, Used 1, Requested 1. Please try again in {wait}." in str(caught.value)


def test_a_request_larger_than_the_limit_never_fits(emulate: Emulate, connect: Connect) -> None:
    """Request too large: no wait is named, because none would help."""
    emulator = emulate(limits={"tpm": 50})
    with pytest.raises(openai.RateLimitError) as caught:
        connect(emulator).responses.create(model="o3", input="word " * 100)
    assert "Request too large for o3 in organization org-emulator on tokens per min (TPM): Limit 50" in str(
        caught.value
    )
    assert "must be reduced" in str(caught.value)
    assert "retry-after" not in caught.value.response.headers
    assert emulator.counters()["refused"] == {"too_large": 1}


def test_a_refused_request_may_count_as_a_request(emulate: Emulate, connect: Connect) -> None:
    """count_refused: a call refused for its tokens still uses up requests, as one recorded 429 suggests."""
    emulator = emulate(limits={"rpm": 500, "tpm": 50}, count_refused=True)
    with pytest.raises(openai.RateLimitError) as caught:
        connect(emulator).responses.create(model="o3", input="word " * 100)
    assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "499"


def test_models_have_their_own_limits(emulate: Emulate, connect: Connect) -> None:
    """Limits per model are enforced per model; a snapshot shares its alias's limits."""
    emulator = emulate(limits={"o3": {"rpm": 1}, "o3-pro": {"rpm": 2}})
    client = connect(emulator)
    client.responses.create(model="o3", input="Say hello.")
    client.responses.create(model="o3-pro", input="Say hello.")
    with pytest.raises(openai.RateLimitError):
        client.responses.create(model="o3-2025-04-16", input="Say hello.")
    with pytest.raises(openai.NotFoundError, match="none for 'o3-mini'"):
        client.responses.create(model="o3-mini", input="Say hello.")
    with pytest.raises(openai.NotFoundError, match="`gpt-99` does not exist"):
        client.chat.completions.create(model="gpt-99", messages=HELLO)


def test_a_shorter_burst_can_be_enforced(emulate: Emulate, connect: Connect, clock: Any) -> None:
    """A server that checks each second lets in a second's worth at once, no more."""
    limit = Limit("rpm", "requests", 600, 60_000_000, burst_us=1_000_000)
    client = connect(emulate(limits={"rpm": limit}))
    for _ in range(10):
        client.responses.create(model="o3", input="Say hello.")
    with pytest.raises(openai.RateLimitError, match="try again in 100ms"):
        client.responses.create(model="o3", input="Say hello.")
    clock.advance(0.1)
    client.responses.create(model="o3", input="Say hello.")


def test_the_limits_of_a_tier_come_from_the_table(emulate: Emulate, connect: Connect) -> None:
    """tier_1 gives o3-pro 500 requests and 30,000 tokens per minute."""
    raw = connect(emulate(tier="tier_1")).responses.with_raw_response.create(model="o3-pro", input="Say hello.")
    assert raw.headers["x-ratelimit-limit-requests"] == "500"
    assert raw.headers["x-ratelimit-limit-tokens"] == "30000"


def test_speed_runs_the_limits_faster_and_keeps_their_numbers(emulate: Emulate, connect: Connect, clock: Any) -> None:
    """At speed 10 a minute passes in six seconds; messages stay in the limits' own time, retry-after is wall time."""
    client = connect(emulate(limits={"rpm": 1}, speed=10))
    client.responses.create(model="o3", input="Say hello.")
    with pytest.raises(openai.RateLimitError) as caught:
        client.responses.create(model="o3", input="Say hello.")
    assert "Please try again in 1m0s." in str(caught.value)
    assert caught.value.response.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert caught.value.response.headers["retry-after-ms"] == "6000"
    clock.advance(6)
    client.responses.create(model="o3", input="Say hello.")


def test_latency_passes_at_the_emulators_speed(emulate: Emulate, connect: Connect) -> None:
    """An o3-pro call of tens of seconds is told as such, and takes microseconds a million times faster."""
    client = connect(emulate(latency=None, speed=1_000_000))
    raw = client.responses.with_raw_response.create(model="o3-pro", input="Say hello.")
    assert int(raw.headers["openai-processing-ms"]) > 5_000
    body = json.loads(raw.content)
    assert body["completed_at"] - body["created_at"] >= 5


def test_the_same_seed_gives_the_same_replies(emulate: Emulate, connect: Connect) -> None:
    """Text and usage repeat with the seed, in another server and in another order; another seed differs."""

    def ask(seed: int, numbers: range) -> dict[int, tuple[str, Any]]:
        client = connect(emulate(seed=seed, limits={"tpm": 10**9}))
        replies = {number: client.responses.create(model="o3", input=f"Number {number}") for number in numbers}
        return {number: (reply.output_text, reply.usage) for number, reply in replies.items()}

    forward, backward, other = ask(1, range(5)), ask(1, range(4, -1, -1)), ask(2, range(5))
    assert forward == backward
    assert all(forward[number] != other[number] for number in range(5))


def test_models_are_listed_and_restricted(emulate: Emulate, connect: Connect) -> None:
    """`models` restricts the server, and lets names without a card in."""
    client = connect(emulate(models=["o3-pro", "my-own-model"]))
    assert [model.id for model in client.models.list()] == ["my-own-model", "o3-pro"]
    assert client.models.retrieve("o3-pro-2025-06-10").id == "o3-pro-2025-06-10"
    assert client.responses.create(model="my-own-model", input="Say hello.").model == "my-own-model"
    with pytest.raises(openai.NotFoundError, match="`gpt-4o` does not exist"):
        client.models.retrieve("gpt-4o")
    everything = connect(emulate(tier="tier_1"))
    assert {"o3-pro", "o3"} <= {model.id for model in everything.models.list()}


def test_counters_and_log_are_served(emulate: Emulate, connect: Connect, http: httpx.Client, clock: Any) -> None:
    """GET /_emulator tells what the server saw, /_emulator/admissions each decision, and reset starts anew."""
    emulator = emulate(limits={"rpm": 2, "tpm": 30_000})
    client = connect(emulator)
    start_us = clock.now_us
    client.responses.create(model="o3", input="Say hello.")
    clock.advance(1)
    client.responses.create(model="o3", input="Say hello.")
    with pytest.raises(openai.RateLimitError):
        client.responses.create(model="o3", input="Say hello.")
    told = http.get(f"{emulator.root}/_emulator").json()
    assert told == json.loads(json.dumps(emulator.counters()))
    assert (told["requests"], told["admitted"], told["refused_total"]) == (3, 2, 1)
    assert (told["first_admission_us"], told["last_admission_us"]) == (start_us, start_us + 1_000_000)
    assert told["limits"]["o3"]["rpm"] == {
        "limit": 2,
        "used": 2,
        "remaining": 0,
        "reset_us": 59_000_000,
        "refused": 1,
    }
    assert told["usage_by_model"]["o3-2025-04-16"] == told["usage"] == told["usage_by_service_tier"]["default"]
    log = http.get(f"{emulator.root}/_emulator/admissions").json()["admissions"]
    assert [(row["at_us"], row["verdict"]) for row in log] == [
        (start_us, "admitted"),
        (start_us + 1_000_000, "admitted"),
        (start_us + 1_000_000, "rpm"),
    ]
    assert http.post(f"{emulator.root}/_emulator/reset").json()["requests"] == 0
    client.responses.create(model="o3", input="Say hello.")


def test_many_requests_at_once_are_all_counted(emulate: Emulate) -> None:
    """Two hundred concurrent calls are each admitted or refused once, and the limit is not overrun by one."""
    emulator = emulate(limits={"rpm": 150}, latency=5, speed=50)

    async def run() -> list[int]:
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), trust_env=False, timeout=60) as client:
            body = {"model": "o3", "input": "Say hello."}
            calls = [client.post(f"{emulator.url}/responses", json=body) for _ in range(200)]
            return [reply.status_code for reply in await asyncio.gather(*calls)]

    statuses = asyncio.run(run())
    counters = emulator.counters()
    assert (statuses.count(200), statuses.count(429)) == (150, 50)
    assert (counters["admitted"], counters["refused"], counters["in_flight"]) == (150, {"rpm": 50}, 0)
    assert counters["peak_in_flight"] > 1


@pytest.mark.parametrize(
    "body", [b'{"model": "o3", "input": "Say hello."}', b'{"model": "o3", "input": "Say hello.", "stream": true}']
)
def test_a_client_that_hangs_up_is_noticed(emulate: Emulate, body: bytes) -> None:
    """A call abandoned while the model thinks ends at once, and its tokens count as billed but untold."""
    emulator = emulate(latency=3600)
    with socket.create_connection(("127.0.0.1", emulator.port)) as line:
        line.sendall(b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        wait_for(lambda: emulator.counters()["in_flight"] == 1)
    wait_for(lambda: emulator.counters()["in_flight"] == 0)
    assert emulator.counters()["usage_untold"]["calls"] == 1


def test_stopping_does_not_wait_for_calls_in_flight(emulate: Emulate, connect: Connect) -> None:
    """stop() cuts what is being answered: a test that failed must not hang for an emulated hour."""
    emulator = emulate(latency=3600)
    client = connect(emulator)
    failed: list[Exception] = []

    def ask() -> None:
        try:
            client.responses.create(model="o3", input="Say hello.")
        except openai.APIConnectionError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(lambda: emulator.counters()["in_flight"] == 1)
    emulator.stop()
    emulator.stop()
    thread.join(30)
    assert len(failed) == 1


def wait_for(condition: Callable[[], bool]) -> None:
    """Ask again until it is so; the asking itself gives the server its turns."""
    for _ in range(200_000):
        if condition():
            return
    raise AssertionError("it never came about")


def test_an_emulator_can_be_started_again(connect: Connect) -> None:
    """The port stays the same over a restart, so that a client may outlive a server."""
    emulator = Emulator(limits={"rpm": 10}, latency=0)
    with emulator:
        url = emulator.url
        connect(emulator).responses.create(model="o3", input="Say hello.")
    with emulator:
        assert emulator.url == url
        connect(emulator).responses.create(model="o3", input="Say hello.")


def test_the_url_of_an_emulator_that_has_no_port_yet_is_a_clear_error() -> None:
    """Before the start nobody knows which port will be free: no URL that leads nowhere; a port asked for is known."""
    with pytest.raises(ConfigError, match="with Emulator"):
        _ = Emulator(limits={"rpm": 1}).url
    assert Emulator(limits={"rpm": 1}, port=8123).url == "http://127.0.0.1:8123/v1"


def test_a_port_in_use_is_a_clear_error(emulate: Emulate) -> None:
    """Two servers on one port: the second says so instead of serving nothing."""
    emulator = emulate()
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{emulator.port}"):
        Emulator(limits={"rpm": 1}, port=emulator.port).start()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "say which limits"),
        ({"tier": "tier_9"}, "tier_9"),
        ({"limits": {}}, "limits is a mapping"),
        ({"limits": {"rpx": 5}}, "unknown limit"),
        ({"limits": {"rpm": 0}}, "rpm"),
        ({"limits": {"o3": {"rpm": 5}}, "model": "gpt-4o"}, "none for 'gpt-4o'"),
        ({"limits": {"rpm": 5}, "speed": 0}, "speed"),
        ({"limits": {"rpm": 5}, "policy": "strict"}, "policy"),
        ({"limits": {"rpm": 5}, "latency": -1}, "latency"),
        ({"limits": {"rpm": 5}, "output_tokens": 0}, "output_tokens"),
        ({"limits": {"rpm": 5}, "seed": "x"}, "seed"),
        ({"limits": {"rpm": 5}, "faults": "boom"}, "boom"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    """A wrong setting is an error at construction that names it."""
    with pytest.raises(ConfigError, match=words):
        Emulator(**options)


def test_it_runs_as_a_process_of_its_own(http: httpx.Client) -> None:
    """`python -m ratelimit.emulator` prints its URL on one line when it is ready to answer."""
    command = [
        sys.executable,
        "-m",
        "ratelimit.emulator",
        "--rpm",
        "7",
        "--tpm",
        "900",
        "--port",
        "0",
        "--latency",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            reply = http.post(f"{url}/responses", json={"model": "o3", "input": "Say hello."})
            assert reply.headers["x-ratelimit-limit-requests"] == "7"
            assert reply.headers["x-ratelimit-limit-tokens"] == "900"
        finally:
            process.terminate()


def test_the_command_line_says_what_is_missing() -> None:
    """Without a tier or limits the process ends with status 2 and a sentence, not a traceback."""
    ended = subprocess.run(
        [sys.executable, "-m", "ratelimit.emulator"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("say which limits to enforce")
