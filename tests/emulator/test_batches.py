"""Batches as a user's code meets them: the real openai client, from the upload of a file to its results."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

from pricing.tokens import count_input
from ratelimit.emulator import Emulator
from ratelimit.errors import ConfigError

Emulate = Callable[..., Emulator]
Connect = Callable[..., openai.OpenAI]
Lines = Callable[..., list[Any]]
Submit = Callable[..., Any]
Records = Callable[..., list[Any]]

CHAT = "/v1/chat/completions"


def test_a_batch_lives_from_validating_to_completed(
    emulate: Emulate, connect: Connect, clock: Any, lines: Lines, submit: Submit, records: Records
) -> None:
    """Each state comes at its own time, with its stamp, and the counts grow as lines are answered."""
    emulator = emulate(batch_seconds=100)
    client = connect(emulator)
    born = clock.now_us // 1_000_000
    batch = submit(client, lines(10), metadata={"run": "7"})
    assert (batch.object, batch.status, batch.completion_window) == ("batch", "validating", "24h")
    assert (batch.created_at, batch.expires_at, batch.in_progress_at) == (born, born + 86_400, None)
    assert batch.metadata == {"run": "7"}
    clock.advance(3)
    batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.in_progress_at, batch.model) == ("in_progress", born + 3, "gpt-4o-mini-2024-07-18")
    assert (batch.request_counts.total, batch.request_counts.completed) == (10, 0)
    clock.advance(50)
    batch = client.batches.retrieve(batch.id)
    assert (batch.request_counts.completed, batch.output_file_id) == (5, None)
    clock.advance(50)
    batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.finalizing_at, batch.output_file_id) == ("finalizing", born + 103, None)
    clock.advance(60)
    batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.completed_at, batch.error_file_id) == ("completed", born + 105, None)
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (10, 10, 0)
    output = client.files.retrieve(batch.output_file_id)
    assert (output.purpose, output.created_at, output.expires_at) == (
        "batch_output",
        born + 105,
        born + 105 + 2_592_000,
    )
    assert sorted(row["custom_id"] for row in records(client, batch.output_file_id)) == [f"a-{n}" for n in range(10)]
    assert [(change.status, change.at_us // 1_000_000 - born) for change in emulator.batch_changes()] == [
        ("validating", 0), ("in_progress", 3), ("finalizing", 103), ("completed", 105),
    ]  # fmt: skip


@pytest.mark.parametrize("url", ["/v1/chat/completions", "/v1/responses", "/v1/embeddings"])
def test_a_line_gets_the_reply_it_would_get_online(
    url: str, emulate: Emulate, connect: Connect, lines: Lines, submit: Submit, records: Records
) -> None:
    """The same seed and body: the same text and usage, and their sum is the batch's; no limit of requests counts it."""
    emulator = emulate(seed=4)
    client = connect(emulator)
    given = lines(3, model="text-embedding-3-small" if "embed" in url else "gpt-4o-mini", url=url)
    batch = client.batches.retrieve(submit(client, given).id)
    assert emulator.counters()["admitted"] == 0
    rows = {row["custom_id"]: row for row in records(client, batch.output_file_id)}
    total = 0
    for line in given:
        body = rows[line["custom_id"]]["response"]["body"]
        reply: Any = client.post(url.removeprefix("/v1"), cast_to=object, body=line["body"])  # type: ignore[type-var]
        assert body["usage"] == reply["usage"]
        if "chat" in url:
            assert body["choices"] == reply["choices"]
        elif "embed" in url:
            assert body["data"] == reply["data"]
        total += body["usage"]["total_tokens"]
    assert batch.usage.total_tokens == total
    counted = emulator.counters()["batches"]
    assert counted["usage"]["calls"] == 3
    assert counted["usage"]["input_tokens"] == sum(count_input(line["body"], url).tokens for line in given)


def test_output_lines_have_the_documented_shape(
    emulate: Emulate, connect: Connect, lines: Lines, submit: Submit, records: Records
) -> None:
    """Ids of their own, a status, the whole body and error null; a line the API refuses is in the error file."""
    client = connect(emulate())
    given = [*lines(2), *lines(1, max_tokens=0)]
    given[2]["custom_id"] = "bad"
    batch = client.batches.retrieve(submit(client, given).id)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == ("completed", 2, 1)
    rows = records(client, batch.output_file_id)
    assert len({row["id"] for row in rows} | {row["response"]["request_id"] for row in rows}) == 4
    for row in rows:
        assert set(row) == {"id", "custom_id", "response", "error"}
        assert row["id"].startswith("batch_req_")
        assert row["error"] is None
        assert set(row["response"]) == {"status_code", "request_id", "body"}
        assert row["response"]["status_code"] == 200
        openai.types.chat.ChatCompletion.model_validate(row["response"]["body"])
    [row] = records(client, batch.error_file_id)
    assert (row["custom_id"], row["response"]["status_code"], row["error"]) == ("bad", 400, None)
    assert row["response"]["body"]["error"]["param"] == "max_tokens"


def test_a_batch_whose_lines_all_fail_has_no_output_file(
    emulate: Emulate, connect: Connect, lines: Lines, submit: Submit
) -> None:
    """It is completed all the same, as reported 2026-03."""
    client = connect(emulate(faults="500:endpoint=batches/line"))
    batch = client.batches.retrieve(submit(client, lines(9)).id)
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert batch.error_file_id is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (0, 9)


def test_the_order_is_shuffled_by_the_seed(
    emulate: Emulate, connect: Connect, lines: Lines, submit: Submit, records: Records
) -> None:
    """The same seed gives the same order, another one another, and none that of the input."""

    def order(seed: int) -> list[str]:
        client = connect(emulate(seed=seed))
        batch = client.batches.retrieve(submit(client, lines(50)).id)
        return [row["custom_id"] for row in records(client, batch.output_file_id)]

    first, second, again = order(1), order(2), order(1)
    assert first == again
    assert first != second
    assert [f"a-{number}" for number in range(50)] not in (first, second)


def changed(number: int, **fields: Any) -> Callable[[list[Any]], None]:
    """Put other fields on a line; None takes one away."""

    def change(given: list[Any]) -> None:
        given[number].update(fields)
        given[number] = {key: value for key, value in given[number].items() if value is not None}

    return change


def body(number: int, **fields: Any) -> Callable[[list[Any]], None]:
    def change(given: list[Any]) -> None:
        given[number]["body"] = {key: value for key, value in {**given[number]["body"], **fields}.items() if value}

    return change


def raw(number: int, text: str) -> Callable[[list[Any]], None]:
    def change(given: list[Any]) -> None:
        given[number] = text

    return change


@pytest.mark.parametrize(
    ("change", "code", "param", "line", "words"),
    [
        (raw(1, '{"custom_id": '), "invalid_json_line", None, 2, "not parseable as valid JSON"),
        (raw(1, "[1, 2]"), "invalid_json_line", None, 2, "not parseable as valid JSON"),
        (raw(1, "\xff"), "invalid_json_line", None, 2, "not parseable as valid JSON"),
        (changed(2, custom_id=None), "missing_required_parameter", "custom_id", 3, "'custom_id'"),
        (changed(2, custom_id="a-0"), "duplicate_custom_id", "custom_id", 3, "'a-0'"),
        (changed(2, custom_id=5), "invalid_type", "custom_id", 3, "a string"),
        (changed(0, method=None), "missing_required_parameter", "method", 1, "'method'"),
        (changed(1, method="GET"), "invalid_method", "method", 2, "POST"),
        (changed(1, url=None), "missing_required_parameter", "url", 2, "'url'"),
        (changed(1, url="/v1/responses"), "invalid_url", "url", 2, "does not match the batch endpoint"),
        (changed(1, body=None), "missing_required_parameter", "body", 2, "'body'"),
        (changed(1, body=[]), "invalid_type", "body", 2, "an object"),
        (body(1, model="gpt-4o"), "mismatched_model", "body.model", 2, "requests for a single model"),
        (body(1, model=None), "invalid_request", "body.model", 2, "Model parameter is required."),
        (body(1, model=7), "invalid_type", "body.model", 2, "a string"),
        (body(0, messages=None), "invalid_request", "body.messages", 1, "Messages parameter is required."),
        (body(1, stream=True), "streaming_unsupported", "body.stream", 2, "Streaming is not supported"),
    ],
)
def test_a_wrong_line_fails_the_batch(
    change: Callable[[list[Any]], None], code: str, param: str | None, line: int, words: str,
    emulate: Emulate, connect: Connect, lines: Lines, submit: Submit,
) -> None:  # fmt: skip
    """The batch is created, then failed, and says which line is wrong and how; nothing was enqueued or billed."""
    given = lines(3)
    change(given)
    emulator = emulate()
    client = connect(emulator)
    batch = client.batches.retrieve(submit(client, given, endpoint=CHAT).id)
    assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
    assert batch.failed_at is not None
    assert batch.request_counts.total == 0
    [error] = batch.errors.data
    assert (error.code, error.param, error.line) == (code, param, line)
    assert words in error.message
    assert emulator.enqueued() == []


def test_all_wrong_lines_are_told_at_once(emulate: Emulate, connect: Connect, lines: Lines, submit: Submit) -> None:
    """One error for each line, in their order."""
    given = lines(5)
    raw(1, "no")(given)
    changed(3, url="/v1/embeddings")(given)
    client = connect(emulate())
    batch = client.batches.retrieve(submit(client, given).id)
    assert [(error.code, error.line) for error in batch.errors.data] == [("invalid_json_line", 2), ("invalid_url", 4)]


def test_an_empty_file_fails(emulate: Emulate, connect: Connect, submit: Submit) -> None:
    """Without a line there is no request, whatever the blanks."""
    client = connect(emulate())
    for given in ([], ["", "  "]):
        batch = client.batches.retrieve(submit(client, given).id)
        assert [error.code for error in batch.errors.data] == ["empty_file"]


def test_an_unknown_model_fails(emulate: Emulate, connect: Connect, lines: Lines, submit: Submit) -> None:
    """A tier names its models, and batches know no others."""
    client = connect(emulate(tier="tier_1"))
    batch = client.batches.retrieve(submit(client, lines(1, model="gpt-0")).id)
    [error] = batch.errors.data
    assert (error.code, error.param) == ("model_not_found", "body.model")
    assert error.message == "The provided model 'gpt-0' is not supported by the Batch API."


def test_too_many_requests_fail(emulate: Emulate, connect: Connect, lines: Lines, submit: Submit) -> None:
    """50,000 requests are the most, and 50,001 are not counted further."""
    client = connect(emulate())
    [line] = lines(1)
    text = json.dumps(line)
    given = [line, *(text.replace('"a-0"', f'"b-{number}"') for number in range(50_000))]
    batch = client.batches.retrieve(submit(client, given).id)
    assert [error.code for error in batch.errors.data] == ["too_many_requests"]


def test_too_many_embedding_inputs_fail(emulate: Emulate, connect: Connect, lines: Lines, submit: Submit) -> None:
    """50,000 texts over all lines are the most."""
    client = connect(emulate())
    for inputs, status in ((25_000, "completed"), (25_001, "failed")):
        given = lines(2, model="text-embedding-3-small", url="/v1/embeddings", dimensions=1)
        given[0]["body"]["input"] = ["x"] * 25_000
        given[1]["body"]["input"] = ["x"] * inputs
        assert client.batches.retrieve(submit(client, given).id).status == status


def test_what_create_itself_refuses(emulate: Emulate, connect: Connect, lines: Lines) -> None:
    """A wrong window, endpoint, file or metadata is a 400 at once, and no batch is made."""
    emulator = emulate()
    client = connect(emulator)
    good = client.files.create(file=("in.jsonl", json.dumps(lines(1)[0]).encode()), purpose="batch").id
    other = client.files.create(file=("in.jsonl", b"{}"), purpose="user_data").id
    right: dict[str, Any] = {"input_file_id": good, "endpoint": CHAT, "completion_window": "24h"}
    for wrong, param in [
        ({"completion_window": "1h"}, "completion_window"),
        ({"endpoint": "/v1/audio/speech"}, "endpoint"),
        ({"endpoint": "/v1/videos"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"input_file_id": other}, "input_file_id"),
        ({"input_file_id": 7}, "input_file_id"),
        ({"metadata": {f"k{number}": "v" for number in range(17)}}, "metadata"),
        ({"metadata": {"tags": ["a"]}}, "metadata.tags"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"metadata": {"k" * 65: "v"}}, "metadata." + "k" * 65),
        ({"metadata": "k"}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
        ({"output_expires_after": "3600"}, "output_expires_after"),
    ]:
        with pytest.raises(openai.BadRequestError) as caught:
            client.batches.create(**{**right, **wrong})
        assert caught.value.param == param
    assert emulator.batches() == []
    batch = client.batches.create(**right, metadata={f"k{number}": "v" for number in range(16)})
    assert batch.id in [one.id for one in client.batches.list()]


def test_results_expire_as_asked(emulate: Emulate, connect: Connect, clock: Any, lines: Lines, submit: Submit) -> None:
    """output_expires_after counts from the making of the results, and then they are gone."""
    client = connect(emulate())
    asked = {"anchor": "created_at", "seconds": 3_600}
    batch = client.batches.retrieve(submit(client, lines(1), output_expires_after=asked).id)
    assert client.files.retrieve(batch.output_file_id).expires_at == batch.completed_at + 3_600
    clock.advance(3_601)
    with pytest.raises(openai.NotFoundError, match="No such File object"):
        client.files.content(batch.output_file_id)


def test_2000_batches_an_hour(emulate: Emulate, connect: Connect, clock: Any, lines: Lines, submit: Submit) -> None:
    """The 2,001st is a 429 that says when to come back, and an hour after the first there is room again."""
    emulator = emulate()
    client = connect(emulator)
    first = submit(client, lines(1))
    for _ in range(1_999):
        client.batches.create(input_file_id=first.input_file_id, endpoint=CHAT, completion_window="24h")
    clock.advance(600)
    with pytest.raises(openai.RateLimitError) as caught:
        submit(client, lines(1))
    assert caught.value.response.headers["retry-after"] == "3000"
    clock.advance(3_000)
    assert submit(client, lines(1)).status == "validating"
    assert emulator.counters()["batches"]["created"] == 2_001


def test_pages_of_batches(emulate: Emulate, connect: Connect, lines: Lines, submit: Submit) -> None:
    """Newest first, 20 unless asked, and the client finds its way through the pages."""
    client = connect(emulate())
    made = [submit(client, lines(1)).id for _ in range(25)]
    page = client.batches.list()
    assert [len(page.data), page.has_more] == [20, True]
    assert [batch.id for batch in page] == made[::-1]
    assert [batch.id for batch in client.batches.list(limit=7)] == made[::-1]
    assert [batch.id for batch in client.batches.list(after=made[2])] == made[1::-1]
    for limit in (0, 101):
        with pytest.raises(openai.BadRequestError):
            client.batches.list(limit=limit)
    with pytest.raises(openai.NotFoundError):
        client.batches.list(after="batch_none")
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")


def test_the_async_client_in_process(lines: Lines) -> None:
    """Everything works over `.app`, without a port, and many batches at once."""
    emulator = Emulator(limits={"rpm": 1000}, latency=0)
    text = "\n".join(json.dumps(line) for line in lines(4)).encode()

    async def one(client: openai.AsyncOpenAI) -> list[str]:
        uploaded = await client.files.create(file=("in.jsonl", text), purpose="batch")
        batch = await client.batches.create(input_file_id=uploaded.id, endpoint=CHAT, completion_window="24h")
        batch = await client.batches.retrieve(batch.id)
        assert batch.output_file_id is not None
        content = await client.files.content(batch.output_file_id)
        await client.files.delete(uploaded.id)
        with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'completed'"):
            await client.batches.cancel(batch.id)
        return sorted(json.loads(row)["custom_id"] for row in content.text.splitlines())

    async def run() -> list[list[str]]:
        async with (
            httpx2.AsyncClient(transport=httpx2.ASGITransport(app=emulator.app)) as inner,
            openai.AsyncOpenAI(base_url="http://emulator/v1", api_key="any", http_client=inner) as client,
        ):
            found = await asyncio.gather(*(one(client) for _ in range(20)))
            assert len([batch.id async for batch in client.batches.list(limit=3)]) == 20
            return found

    assert asyncio.run(run()) == [["a-0", "a-1", "a-2", "a-3"]] * 20
    emulator.reset()
    assert emulator.batches() == []


def test_the_replies_of_a_batch_are_never_in_memory_together(
    emulate: Emulate, connect: Connect, lines: Lines, submit: Submit
) -> None:
    """Eighteen megabytes of results are written and read with less than three."""
    client = connect(emulate())
    given = lines(600, model="text-embedding-3-small", url="/v1/embeddings", encoding_format="float")
    batch = submit(client, given)
    tracemalloc.start()
    try:
        batch = client.batches.retrieve(batch.id)
        with client.files.with_streaming_response.content(batch.output_file_id) as reply:
            size = sum(len(piece) for piece in reply.iter_bytes())
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    assert batch.request_counts.completed == 600
    assert size > 15_000_000


def test_without_given_seconds_a_batch_takes_minutes(
    emulate: Emulate, connect: Connect, clock: Any, lines: Lines, submit: Submit
) -> None:
    """Where replies take time, batches do: drawn by the seed, about ten minutes; finish_batches() waits for none."""
    emulator = emulate(latency=None)
    client = connect(emulator)
    batch = submit(client, lines(2))
    clock.advance(30)
    assert client.batches.retrieve(batch.id).status == "in_progress"
    emulator.finish_batches(batch.id)
    ended = client.batches.retrieve(batch.id)
    assert (ended.status, ended.completed_at) == ("completed", clock.now_us // 1_000_000)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_seconds": -1}, "batch_seconds"),
        ({"batch_seconds": "1"}, "batch_seconds"),
        ({"batch_expires": 0}, "batch_expires"),
        ({"batch_queue": 0}, "batch_queue"),
        ({"batch_queue": {"o3": 1.5}}, "batch_queue"),
        ({"batch_queue": {3: 5}}, "batch_queue"),
        ({"batch_over_limit": "400"}, "batch_over_limit"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    """They are refused before a port is opened, and named."""
    with pytest.raises(ConfigError, match=words):
        Emulator(limits={"rpm": 1}, **options)
