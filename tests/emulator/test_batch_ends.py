"""How batches end: full queues, expiry, cancelling, faults. And the laws: no line is lost, no queue is overfull."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing.tokens import count_input
from ratelimit.emulator import Emulator

Emulate = Callable[..., Emulator]
Connect = Callable[..., openai.OpenAI]
Lines = Callable[..., list[Any]]
Submit = Callable[..., Any]
Records = Callable[..., list[Any]]

CHAT = "/v1/chat/completions"


def tokens_of(rows: list[Any]) -> int:
    """The input tokens of a job, as the product counts them."""
    return sum(count_input(row["body"], row["url"]).tokens for row in rows)


# -- the queue ---------------------------------------------------------------------------------------------------------


def test_a_batch_over_the_enqueued_tokens_fails(
    emulate: Emulate, connect: Connect, clock: Any, lines: Lines, submit: Submit
) -> None:
    """It fails in the reported words while another is in the queue; when that one ends there is room."""
    rows = lines(10)
    emulator = emulate(batch_queue=tokens_of(rows), batch_seconds=100)
    client = connect(emulator)
    first, second = submit(client, rows), submit(client, rows[:1])
    clock.advance(10)
    assert client.batches.retrieve(first.id).status == "in_progress"
    second = client.batches.retrieve(second.id)
    assert (second.status, second.request_counts.total) == ("failed", 0)
    [error] = second.errors.data
    assert error.code == "token_limit_exceeded"
    assert error.message == (
        f"Enqueued token limit reached for gpt-4o-mini in organization org-emulator. Limit: {tokens_of(rows):,} "
        "enqueued tokens. Please try again once some in_progress batches have been completed."
    )
    clock.advance(200)
    third = submit(client, rows)
    clock.advance(10)
    assert client.batches.retrieve(third.id).status == "in_progress"
    assert [change.tokens for change in emulator.enqueued()] == [tokens_of(rows), 0, tokens_of(rows)]
    [queue] = emulator.counters()["batches"]["queues"].values()
    assert queue == {"limit": tokens_of(rows), "enqueued": tokens_of(rows), "peak": tokens_of(rows)}


def test_the_limit_is_the_tier_s(emulate: Emulate, connect: Connect, lines: Lines, submit: Submit) -> None:
    """o3-pro in tier_1 lets 90,000 tokens wait; a snapshot waits in the same queue, and long contexts in another."""
    emulator = emulate(tier="tier_1", batch_seconds=100)
    client = connect(emulator)
    for model in ("o3-pro", "o3-pro-2025-06-10"):
        submit(client, lines(1, model=model, url="/v1/responses"))
    emulator.finish_batches()
    queues = emulator.counters()["batches"]["queues"]
    assert list(queues) == ["o3-pro"]
    assert queues["o3-pro"]["limit"] == 90_000
    long = lines(1, model="gpt-4.1", url="/v1/responses")
    long[0]["body"]["input"] = "word " * 130_000
    submit(client, long)
    emulator.finish_batches()
    queue = emulator.counters()["batches"]["queues"]["gpt-4.1-long-context"]
    assert queue["limit"] == 2_000_000
    assert queue["peak"] > 130_000


def test_a_model_without_a_published_queue_has_none(
    emulate: Emulate, connect: Connect, lines: Lines, submit: Submit
) -> None:
    """The tiers since 2026-10-06 name no queue, and then nothing is refused; one may be given by hand, by model."""
    client = connect(emulate(tier="build"))
    assert client.batches.retrieve(submit(client, lines(500, model="gpt-4.1")).id).status == "completed"
    client = connect(emulate(tier="build", batch_queue={"gpt-4.1-2025-04-14": 50, "gpt-4.1-mini": 10**9}))
    assert client.batches.retrieve(submit(client, lines(500, model="gpt-4.1")).id).status == "failed"
    assert client.batches.retrieve(submit(client, lines(500, model="gpt-4.1-mini")).id).status == "completed"


def test_a_full_queue_may_refuse_at_once(
    emulate: Emulate, connect: Connect, clock: Any, lines: Lines, submit: Submit
) -> None:
    """With batch_over_limit="429" no batch is made, and tokens are held from the creation on."""
    rows = lines(10)
    emulator = emulate(batch_queue=tokens_of(rows), batch_seconds=100, batch_over_limit="429")
    client = connect(emulator)
    first = submit(client, rows)
    with pytest.raises(openai.RateLimitError, match="Enqueued token limit reached for gpt-4o-mini") as caught:
        submit(client, rows[:1])
    assert caught.value.code == "token_limit_exceeded"
    broken = submit(client, ["no"])
    client.batches.cancel(first.id)
    clock.advance(60)
    assert [batch.status for batch in client.batches.list()] == ["failed", "cancelled"]
    assert client.batches.retrieve(broken.id).errors.data[0].code == "invalid_json_line"
    assert submit(client, rows).status == "validating"
    assert emulator.counters()["batches"]["refused"] == 1


# -- expiry and cancelling ---------------------------------------------------------------------------------------------


def test_an_expired_batch_has_a_part_of_its_results(
    emulate: Emulate, connect: Connect, clock: Any, lines: Lines, submit: Submit, records: Records
) -> None:
    """What was answered is in the output file, the rest in the error file as documented; only the former is billed."""
    emulator = emulate(batch_expires=600)
    client = connect(emulator)
    batch = submit(client, lines(20))
    assert batch.expires_at == batch.created_at + 600
    clock.advance(601)
    batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.expired_at) == ("expired", batch.created_at + 600)
    done, rest = records(client, batch.output_file_id), records(client, batch.error_file_id)
    assert len(done) == 9  # of twenty, after 597 of 1,200 seconds
    assert sorted(row["custom_id"] for row in [*done, *rest]) == sorted(row["custom_id"] for row in lines(20))
    assert all(
        row["response"] is None
        and row["error"]
        == {
            "code": "batch_expired",
            "message": "This request could not be executed before the completion window expired.",
        }
        for row in rest
    )
    assert batch.usage.output_tokens == sum(row["response"]["body"]["usage"]["completion_tokens"] for row in done)
    assert emulator.counters()["batches"]["usage"]["calls"] == 9


def test_a_single_batch_can_expire(emulate: Emulate, connect: Connect, lines: Lines, submit: Submit) -> None:
    """The fault `expire` meets some batches, so that what is sent again is done."""
    client = connect(emulate(faults="expire:first=1"))
    first, second = submit(client, lines(20)), submit(client, lines(20))
    first, second = client.batches.retrieve(first.id), client.batches.retrieve(second.id)
    assert (first.status, second.status) == ("expired", "completed")
    assert 0 < first.request_counts.completed < 20


def test_cancelling_leaves_partial_results(
    emulate: Emulate, connect: Connect, clock: Any, lines: Lines, submit: Submit, records: Records
) -> None:
    """Cancelling takes a while and is said once more without harm; what had been answered is there, and room again."""
    emulator = emulate(batch_seconds=1_000)
    client = connect(emulator)
    batch = submit(client, lines(10))
    clock.advance(3 + 300)
    for _ in range(2):
        batch = client.batches.cancel(batch.id)
        assert (batch.status, batch.request_counts.completed) == ("cancelling", 3)
    clock.advance(10)
    batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.cancelled_at) == ("cancelled", batch.cancelling_at + 10)
    assert len(records(client, batch.output_file_id)) == 3
    rest = records(client, batch.error_file_id)
    assert {row["error"]["code"] for row in rest} == {"batch_cancelled"}
    assert len(rest) == 7
    assert emulator.enqueued()[-1].tokens == 0
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'cancelled'"):
        client.batches.cancel(batch.id)
    with pytest.raises(openai.NotFoundError):
        client.batches.cancel("batch_none")


def test_cancelling_before_validation(
    emulate: Emulate, connect: Connect, clock: Any, lines: Lines, submit: Submit
) -> None:
    """Nothing was counted or answered yet: there are no files."""
    client = connect(emulate(batch_seconds=1_000))
    batch = submit(client, lines(10))
    assert client.batches.cancel(batch.id).status == "cancelling"
    clock.advance(10)
    batch = client.batches.retrieve(batch.id)
    assert (batch.status, batch.in_progress_at, batch.output_file_id) == ("cancelled", None, None)


# -- faults ------------------------------------------------------------------------------------------------------------


def test_lines_fail_as_the_rules_say(
    emulate: Emulate, connect: Connect, lines: Lines, submit: Submit, records: Records
) -> None:
    """A share by the seed, or single lines by custom_id; and where the rule ends, a line sent again is answered."""

    def failed(**options: Any) -> dict[str, int | None]:
        client = connect(emulate(**options))
        batch = client.batches.retrieve(submit(client, lines(200)).id)
        rows = records(client, batch.error_file_id)
        return {row["custom_id"]: row["response"] and row["response"]["status_code"] for row in rows}

    shared = failed(faults="500:rate=0.1,endpoint=batches/line")
    assert 5 < len(shared) < 40
    assert set(shared.values()) == {500}
    assert failed(faults="500:rate=0.1,endpoint=batches/line") == shared
    assert failed(faults="500:rate=0.1,endpoint=batches/line", seed=1) != shared
    several = "; ".join(
        f"{kind}:endpoint=batches/line,custom_id=a-{number}"
        for number, kind in enumerate(
            ("429", "401", "403", "slow_down", "insufficient_quota", "503", "drop_connection")
        )
    )
    told = {"a-0": 429, "a-1": 401, "a-2": 403, "a-3": 429, "a-4": 429, "a-5": 503, "a-6": None}
    assert failed(faults=several) == told
    client = connect(emulate(faults="503:endpoint=batches/line,custom_id=a-1,count=1"))
    for left in (1, 0):
        batch = client.batches.retrieve(submit(client, lines(3)).id)
        assert batch.request_counts.failed == left


@pytest.mark.parametrize(
    ("fault", "error", "made"),
    [
        ("drop_connection", openai.APIConnectionError, 1),
        ("late_500", openai.InternalServerError, 1),
        ("drop_request", openai.APIConnectionError, 0),
        ("500", openai.InternalServerError, 0),
        ("503", openai.InternalServerError, 0),
        ("429", openai.RateLimitError, 0),
        ("insufficient_quota", openai.RateLimitError, 0),
        ("401", openai.AuthenticationError, 0),
    ],
)
@pytest.mark.parametrize("endpoint", ["files", "batches"])
def test_the_window_in_which_a_crash_leaves_a_batch_behind(
    endpoint: str, fault: str, error: Any, made: int,
    emulate: Emulate, connect: Connect, lines: Lines, submit: Submit,
) -> None:  # fmt: skip
    """A client that got no answer finds in the list what was made all the same, and nothing where nothing was."""
    emulator = emulate(faults=f"{fault}:endpoint={endpoint},first=1")
    client = connect(emulator)
    with pytest.raises(error):
        submit(client, lines(1), metadata={"run": "7"})
    found = list(client.files.list() if endpoint == "files" else client.batches.list())
    assert len(found) == made
    if endpoint == "batches" and made:
        assert found[0].metadata == {"run": "7"}
    assert emulator.counters()["faults"] == {fault: 1}


def test_faults_of_every_other_call(
    emulate: Emulate, connect: Connect, http: httpx.Client, lines: Lines, submit: Submit
) -> None:
    """Reading, listing, deleting and cancelling meet only their own rules; a spoiled answer has changed nothing."""
    emulator = emulate(batch_seconds=100)
    client = connect(emulator)
    batch = submit(client, lines(1))
    calls: dict[str, Callable[[], Any]] = {
        "files/retrieve": lambda: client.files.retrieve(batch.input_file_id),
        "files/list": lambda: client.files.list(),
        "files/content": lambda: client.files.content(batch.input_file_id),
        "batches/retrieve": lambda: client.batches.retrieve(batch.id),
        "batches/list": lambda: client.batches.list(),
        "batches/cancel": lambda: client.batches.cancel(batch.id),
        "files/delete": lambda: client.files.delete(batch.input_file_id),
    }
    emulator.set_faults("500; 429:every=2; drop_connection")  # what models answer, and nothing here
    calls["batches/list"]()
    for endpoint, call in calls.items():
        emulator.set_faults(
            [{"kind": "503", "endpoint": endpoint, "first": 1}, {"kind": "drop_request", "endpoint": endpoint}]
        )
        with pytest.raises(openai.InternalServerError):
            call()
        with pytest.raises(openai.APIConnectionError):
            call()
    emulator.set_faults("garbage_json:endpoint=batches/retrieve")
    with pytest.raises(json.JSONDecodeError):
        http.get(f"{emulator.url}/batches/{batch.id}").json()
    emulator.set_faults(None)
    assert client.batches.retrieve(batch.id).status == "validating"


def test_a_content_that_breaks_off(
    emulate: Emulate, connect: Connect, http: httpx.Client, lines: Lines, submit: Submit
) -> None:
    """Half of the bytes come, then the connection ends; the next time they come whole."""
    emulator = emulate(faults="cut_stream:endpoint=files/content,first=1")
    client = connect(emulator)
    key = submit(client, lines(2_000)).input_file_id
    got: list[int] = []
    with http.stream("GET", f"{emulator.url}/files/{key}/content") as reply:
        size = int(reply.headers["content-length"])
        with pytest.raises(httpx.RemoteProtocolError):
            got.extend(map(len, reply.iter_raw()))
    assert sum(got) == size // 2
    assert len(client.files.content(key).content) == size


def test_what_the_emulator_tells_over_http(
    emulate: Emulate, connect: Connect, http: httpx.Client, lines: Lines, submit: Submit
) -> None:
    """Another process finds the batches, their changes and the queues, and may let them end."""
    emulator = emulate(batch_seconds=100)
    client = connect(emulator)
    batch = submit(client, lines(2))
    assert [one["status"] for one in http.get(f"{emulator.root}/_emulator/batches").json()["batches"]] == ["validating"]
    told = http.post(f"{emulator.root}/_emulator/batches/finish").json()
    assert [one["status"] for one in told["changes"]] == ["validating", "in_progress", "finalizing", "completed"]
    assert [one["tokens"] for one in told["enqueued"]] == [tokens_of(lines(2)), 0]
    assert http.get(f"{emulator.root}/_emulator").json()["batches"]["by_status"] == {"completed": 1}
    http.post(f"{emulator.root}/_emulator/reset")
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve(batch.id)


# -- laws --------------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(1, 12)),
        st.tuples(st.just("wait"), st.integers(0, 150)),
        st.tuples(st.just("cancel"), st.integers(0, 20)),
        st.tuples(st.just("finish"), st.integers(0, 20)),
    ),
    min_size=1,
    max_size=12,
)
FAULTS = st.sampled_from(
    [
        None,
        "500:rate=0.3,endpoint=batches/line; drop_connection:rate=0.2,endpoint=batches/line",
        "expire:rate=0.5; 429:every=3,endpoint=batches/line",
        "late_500:rate=0.3; drop_connection:rate=0.2,endpoint=batches",
    ]
)


@pytest.mark.parametrize("over_limit", ["failed", "429"])
@settings(max_examples=40)
@given(STEPS, FAULTS, st.sampled_from([None, 40]), st.sampled_from([0, 100]), st.integers(0, 3))
def test_every_line_ends_once_and_no_queue_is_overfull(
    over_limit: str, steps: list[tuple[str, int]], faults: str | None, expires: int | None, seconds: int, seed: int
) -> None:
    """Whatever expires, is cancelled or fails: each line of a batch that was begun is in one file, once.

    What the queue holds is summed up anew from the log of states, each batch with the tokens of its lines, and is never
    more than the limit.
    """
    now_us = 1_790_000_000_000_000
    limit = 150
    with (
        Emulator(
            limits={"rpm": 1}, latency=0, now_us=lambda: now_us, seed=seed, batch_expires=expires,
            batch_seconds=seconds, batch_queue=limit, batch_over_limit=over_limit, faults=faults,
        ) as emulator,
        openai.OpenAI(base_url=emulator.url, api_key="any", max_retries=0) as client,
    ):  # fmt: skip
        wanted: list[list[Any]] = []  # of each batch, in the order of their making
        for act, number in steps:
            known = emulator.batches()
            if act == "wait":
                now_us += number * 1_000_000
            elif act == "submit":
                rows = [
                    {"custom_id": f"{number}", "method": "POST", "url": CHAT, "body": {"model": "m", "messages": [
                        {"role": "user", "content": f"{number}"}]}} for number in range(number)
                ]  # fmt: skip
                with suppress(openai.APIError):  # made or not: the emulator knows
                    uploaded = client.files.create(file="\n".join(map(json.dumps, rows)).encode(), purpose="batch")
                    client.batches.create(input_file_id=uploaded.id, endpoint=CHAT, completion_window="24h")
                if len(emulator.batches()) > len(known):
                    wanted.append(rows)
            elif known and act == "cancel":
                batch = known[number % len(known)]
                with suppress(openai.APIError):  # it has ended, or it is cancelled and the answer got lost
                    client.batches.cancel(batch["id"])
            elif known:
                emulator.finish_batches(known[number % len(known)]["id"])
        emulator.set_faults(None)
        emulator.finish_batches()
        batches = emulator.batches()
        assert len(batches) == len(wanted)
        for batch, rows in zip(batches, wanted, strict=True):
            files = [
                Counter(json.loads(row)["custom_id"] for row in client.files.content(key).text.splitlines())
                for key in (batch["output_file_id"], batch["error_file_id"])
                if key is not None
            ]
            begun = batch["in_progress_at"] is not None
            assert sum(files, Counter()) == (Counter(row["custom_id"] for row in rows) if begun else Counter())
            counts = batch["request_counts"]
            assert counts["total"] == counts["completed"] + counts["failed"] == (len(rows) if begun else 0)
        size = {batch["id"]: tokens_of(rows) for batch, rows in zip(batches, wanted, strict=True)}
        begins = "validating" if over_limit == "429" else "in_progress"
        held: set[str] = set()
        for change in emulator.batch_changes():
            if change.status == begins:
                held.add(change.batch_id)
            elif change.status in ("failed", "completed", "expired", "cancelled"):
                held.discard(change.batch_id)
            assert sum(size[key] for key in held) <= limit
        assert held == set()
        assert all(0 <= change.tokens <= limit for change in emulator.enqueued())
        assert not emulator.enqueued() or emulator.enqueued()[-1].tokens == 0
