"""Law: whatever a reply says it used, each token is in exactly one count, and the counts add up to the totals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.usage import FIELDS, Usage, tokens_of

CHAT = {
    "prompt_tokens": 12_345,
    "completion_tokens": 6_789,
    "total_tokens": 19_134,
    "prompt_tokens_details": {"cached_tokens": 2_000, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 5_000,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
RESPONSES = {
    "input_tokens": 12_345,
    "input_tokens_details": {"cached_tokens": 2_000, "cache_write_tokens": 345},
    "output_tokens": 6_789,
    "output_tokens_details": {"reasoning_tokens": 5_000},
    "total_tokens": 19_134,
}


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        pytest.param(CHAT, Usage(10_345, 2_000, 0, 1_789, 5_000), id="chat"),
        pytest.param(RESPONSES, Usage(10_000, 2_000, 345, 1_789, 5_000), id="responses"),
        pytest.param({"prompt_tokens": 8, "total_tokens": 8}, Usage(8), id="embeddings"),
        pytest.param({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}, Usage(5, 0, 0, 7), id="legacy"),
        pytest.param(
            {
                "prompt_tokens": 9,
                "completion_tokens": 1,
                "prompt_tokens_details": None,
                "completion_tokens_details": None,
            },
            Usage(9, 0, 0, 1),
            id="null details",
        ),
        pytest.param(
            {"input_tokens": 3, "output_tokens": 0, "input_tokens_details": {"cached_tokens": None}},
            Usage(3),
            id="null cached",
        ),
    ],
)
def test_real_shapes_are_read_exactly(stated: dict[str, Any], expected: Usage) -> None:
    """The usage objects of Responses, Chat, Embeddings and legacy Completions are read to the token, without notes."""
    usage = Usage.from_response(stated)
    assert usage == expected
    assert usage is not None
    assert usage.notes == ()
    assert usage.total_input == stated.get("input_tokens", stated.get("prompt_tokens"))
    assert usage.total_output == stated.get("output_tokens", stated.get("completion_tokens", 0))
    assert Usage(**usage.as_dict()) == usage
    assert hash(Usage(**usage.as_dict())) == hash(usage)


@pytest.mark.parametrize("absent", [None, {}, [], "usage", 7, {"total_tokens": 5}, {"output_tokens": 5}])
def test_no_usage_is_none(absent: Any) -> None:
    """Where there is no usage object, or it does not say what was read, the answer is None and never zero tokens."""
    assert Usage.from_response(absent) is None


@pytest.mark.parametrize("bad", [None, -1, 2.5, 1000.0, "12", True, [], {}, 10**9 + 1, 10**30, 10**5000], ids=type)
@pytest.mark.parametrize("names", [("input_tokens", "output_tokens"), ("prompt_tokens", "completion_tokens")])
@pytest.mark.parametrize("which", [0, 1], ids=["input", "output"])
def test_a_total_that_is_no_count_is_no_usage(bad: Any, names: tuple[str, str], which: int) -> None:
    """A total that is null, text, a fraction, negative or absurd makes the usage unreadable: never $0, never more."""
    assert Usage.from_response({names[0]: 10, names[1]: 10, names[which]: bad}) is None


def test_an_output_left_out_is_none_only_where_the_total_agrees() -> None:
    """Embeddings state no output; a reply whose total is above its input has produced something that is not stated."""
    assert Usage.from_response({"prompt_tokens": 8}) == Usage(8)
    assert Usage.from_response({"prompt_tokens": 8, "total_tokens": 20}) is None


KEYS = (
    "input_tokens", "output_tokens", "prompt_tokens", "completion_tokens",
    "input_tokens_details", "output_tokens_details",
    "prompt_tokens_details", "completion_tokens_details", "cached_tokens", "cache_write_tokens", "reasoning_tokens",
    "input_token_details", "output_token_details", "cached_tokens_details", "cache_write_tokens_details",
    "ttl_30m_tokens", "ttl_12h_tokens", "text_tokens", "audio_tokens", "image_tokens", "smell_tokens",
    "rejected_prediction_tokens", "type", "seconds", "object", "num_model_requests",
)  # fmt: skip
PAIRS = {
    "input_tokens": ("output_tokens", "input_tokens_details", "output_tokens_details"),
    "prompt_tokens": ("completion_tokens", "prompt_tokens_details", "completion_tokens_details"),
}
keys = st.sampled_from(KEYS) | st.text(max_size=5)
scalars = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8)
json_like = st.recursive(
    scalars | st.integers(0, 50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=12,
)
sane = st.integers(0, 10**7)


def stated_totals(usage: dict[str, Any]) -> tuple[Any, Any]:
    """The totals as the reply states them; the names of the Responses API go first."""
    first = "input_tokens" if "input_tokens" in usage else "prompt_tokens"
    return usage.get(first), usage.get(PAIRS[first][0])


def is_sane(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 10**9


@given(st.dictionaries(keys, json_like, max_size=8))
def test_no_reply_breaks_the_reading(stated: dict[str, Any]) -> None:
    """Any JSON at all: nothing is raised, no count is negative, sane totals are kept, others are no usage."""
    usage = Usage.from_response(stated)
    if usage is None:
        if "input_tokens" in stated or "prompt_tokens" in stated:
            total_in, total_out = stated_totals(stated)
            assert not is_sane(total_in) or not is_sane(total_out)
        return
    assert all(isinstance(note, str) and len(note) < 200 for note in usage.notes)
    counts = usage.as_dict()
    assert tuple(counts)[: len(FIELDS)] == FIELDS
    assert all(is_sane(count) for count in counts.values())
    assert Usage(**counts) == usage
    total_in, total_out = stated_totals(stated)
    assert usage.total_input == total_in
    assert usage.total_output == (total_out or 0)


@given(st.sampled_from(list(PAIRS)), sane, sane, sane, sane, sane)
def test_contradictions_are_clamped_and_named(
    name: str, total_in: int, total_out: int, cached: int, written: int, reasoning: int
) -> None:
    """A part larger than its whole is cut to the whole and named; the totals stand. Consistent replies: no notes."""
    out_name, inside, outside = PAIRS[name]
    usage = Usage.from_response(
        {
            name: total_in,
            out_name: total_out,
            inside: {"cached_tokens": cached, "cache_write_tokens": written},
            outside: {"reasoning_tokens": reasoning},
        }
    )
    assert usage is not None
    assert usage.total_input == total_in
    assert usage.total_output == total_out
    assert usage.cached_input_tokens == min(cached, total_in)
    assert usage.cache_write_tokens == min(written, total_in - usage.cached_input_tokens)
    assert usage.reasoning_tokens == min(reasoning, total_out)
    wrong = {
        "cached_tokens": cached > total_in,
        "cache_write_tokens": written > total_in - usage.cached_input_tokens,
        "reasoning_tokens": reasoning > total_out,
    }
    assert [note.split()[0] for note in usage.notes] == [part for part, is_wrong in wrong.items() if is_wrong]


@pytest.mark.parametrize(
    ("bad", "shown"),
    [(-1, "negative"), (10**5000, "absurd"), (2.5, "float"), ("12", "str"), (True, "bool"), ([], "list"), ({}, "dict")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nonsense_parts_are_zero_and_named(bad: Any, shown: str) -> None:
    """A part that is no count is taken as 0, its whole stands; the note shows its name and kind, never its text."""
    usage = Usage.from_response(
        {
            "input_tokens": 10,
            "output_tokens": 5,
            "input_tokens_details": {"cached_tokens": bad},
            "output_tokens_details": {"reasoning_tokens": bad},
        }
    )
    assert usage == Usage(10, 0, 0, 5)
    assert usage is not None
    assert usage.notes == (f"cached_tokens is {shown}: taken as 0", f"reasoning_tokens is {shown}: taken as 0")


REALTIME = {
    "total_tokens": 253,
    "input_tokens": 132,
    "output_tokens": 121,
    "input_token_details": {
        "text_tokens": 110,
        "audio_tokens": 12,
        "image_tokens": 10,
        "cached_tokens": 70,
        "cached_tokens_details": {"text_tokens": 64, "audio_tokens": 6, "image_tokens": 0},
    },
    "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
}
IMAGES = {
    "input_tokens": 1_000,
    "output_tokens": 600,
    "total_tokens": 1_600,
    "input_tokens_details": {"text_tokens": 700, "image_tokens": 300},
}
SUMMED = {
    "object": "organization.usage.completions.result",
    "input_tokens": 1_000,
    "input_cached_tokens": 400,
    "input_cache_write_tokens": 100,
    "input_cache_write_12h_tokens": 40,
    "input_uncached_tokens": 500,
    "output_tokens": 500,
    "input_text_tokens": 400,
    "output_text_tokens": 400,
    "input_cached_text_tokens": 300,
    "input_audio_tokens": 50,
    "input_cached_audio_tokens": 50,
    "output_audio_tokens": 50,
    "input_image_tokens": 50,
    "input_cached_image_tokens": 50,
    "output_image_tokens": 50,
    "num_model_requests": 5,
}


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        pytest.param(
            REALTIME,
            {"input_tokens": 46, "cached_input_tokens": 64, "input_audio_tokens": 6, "cached_input_audio_tokens": 6,
             "input_image_tokens": 10, "output_tokens": 30, "output_audio_tokens": 91},
            id="realtime",
        ),
        pytest.param(IMAGES, {"input_tokens": 700, "input_image_tokens": 300, "output_image_tokens": 600}, id="images"),
        pytest.param(
            {"type": "tokens", "input_tokens": 14, "output_tokens": 45, "total_tokens": 59,
             "input_token_details": {"text_tokens": 0, "audio_tokens": 14}},
            {"input_audio_tokens": 14, "output_tokens": 45},
            id="transcription in tokens",
        ),
        pytest.param({"type": "duration", "seconds": 9.5}, {"audio_us": 9_500_000}, id="transcription in seconds"),
        pytest.param(
            {"input_tokens": 4_020, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 0},
             "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4_000,
                                      "cache_write_tokens_details": {"ttl_30m_tokens": 1_000,
                                                                     "ttl_12h_tokens": 3_000}}},
            {"input_tokens": 12, "cached_input_tokens": 8, "cache_write_tokens": 1_000,
             "cache_write_12h_tokens": 3_000, "output_tokens": 4},
            id="cache writes by time",
        ),
        pytest.param(
            {"prompt_tokens": 9, "completion_tokens": 30,
             "completion_tokens_details": {"reasoning_tokens": 0, "accepted_prediction_tokens": 12,
                                           "rejected_prediction_tokens": 8}},
            {"input_tokens": 9, "output_tokens": 10, "output_accepted_prediction_tokens": 12,
             "output_rejected_prediction_tokens": 8},
            id="predictions",
        ),
        pytest.param(
            {"prompt_tokens": 42, "completion_tokens": 10,
             "prompt_tokens_details": {"cached_tokens": 20, "audio_tokens": 25, "text_tokens": 17, "image_tokens": 0}},
            {"cached_input_tokens": 17, "cached_input_audio_tokens": 3, "input_audio_tokens": 22, "output_tokens": 10},
            id="a cache that does not say what it held: text first",
        ),
        pytest.param(
            {"prompt_tokens": 30, "completion_tokens": 1, "prompt_tokens_details": {"smell_tokens": 7}},
            {"input_tokens": 23, "input_smell_tokens": 7, "output_tokens": 1},
            id="a kind nobody knew",
        ),
        pytest.param(
            SUMMED,
            {"input_tokens": 400, "cached_input_tokens": 300, "cache_write_tokens": 60, "cache_write_12h_tokens": 40,
             "input_audio_tokens": 50, "cached_input_audio_tokens": 50, "output_audio_tokens": 50,
             "input_image_tokens": 50, "cached_input_image_tokens": 50, "output_image_tokens": 50,
             "output_tokens": 400},
            id="a row of the Usage API",
        ),
        pytest.param(
            {"object": "organization.usage.audio_transcriptions.result", "seconds": 60, "num_model_requests": 2},
            {"audio_us": 60_000_000},
            id="seconds of the Usage API",
        ),
        pytest.param(
            {"object": "organization.usage.audio_speeches.result", "characters": 45, "num_model_requests": 1},
            {"characters": 45},
            id="characters of the Usage API",
        ),
        pytest.param(
            {"object": "organization.usage.web_search_calls.result", "num_requests": 3, "num_model_requests": 2},
            {"web_search_calls": 3},
            id="searches of the Usage API",
        ),
    ],
)  # fmt: skip
def test_every_other_shape_is_read_exactly(stated: dict[str, Any], expected: dict[str, int]) -> None:
    """Realtime, Images, Audio, cache writes by time, predictions and the Usage API: each count in its place."""
    usage = Usage.from_response(stated)
    assert usage is not None
    assert {name: count for name, count in usage.as_dict().items() if count} == expected
    assert usage.notes == ()
    if "input_tokens" in stated or "prompt_tokens" in stated:
        assert usage.total_input == stated.get("input_tokens", stated.get("prompt_tokens"))
        assert usage.total_output == stated.get("output_tokens", stated.get("completion_tokens"))
    assert usage.requests == stated.get("num_model_requests", 1)


@pytest.mark.parametrize("seconds", [None, -1, "9", float("nan"), float("inf"), True, 10**12])
def test_a_length_that_is_none_is_no_usage(seconds: Any) -> None:
    """Audio billed by its length, without a length that can be, is no usage."""
    assert Usage.from_response({"type": "duration", "seconds": seconds}) is None


parts = st.integers(0, 60)
kinds = st.sampled_from(["text_tokens", "audio_tokens", "image_tokens", "smell_tokens"])


@given(
    st.sampled_from([("prompt", "completion", "tokens_details"), ("input", "output", "token_details")]),
    st.integers(0, 200),
    st.integers(0, 200),
    st.dictionaries(kinds | st.sampled_from(["cached_tokens", "cache_write_tokens"]), parts),
    st.dictionaries(kinds, parts),
    st.dictionaries(st.sampled_from(["ttl_30m_tokens", "ttl_12h_tokens", "ttl_7d_tokens"]), parts),
    st.dictionaries(kinds | st.sampled_from(["reasoning_tokens", "rejected_prediction_tokens"]), parts),
)
def test_the_parts_add_up_to_the_totals(
    names: tuple[str, str, str],
    total_in: int,
    total_out: int,
    inside: dict[str, int],
    hits: dict[str, int],
    writes: dict[str, int],
    outside: dict[str, int],
) -> None:
    """However a reply divides its totals, consistently or not, the counts are disjoint and add up to the totals."""
    in_name, out_name, details = names
    usage = Usage.from_response(
        {
            f"{in_name}_tokens": total_in,
            f"{out_name}_tokens": total_out,
            f"{in_name}_{details}": {**inside, "cached_tokens_details": hits, "cache_write_tokens_details": writes},
            f"{out_name}_{details}": outside,
        }
    )
    assert usage is not None
    counts = usage.as_dict()
    assert min(counts.values()) >= 0
    assert usage.total_input == total_in
    assert usage.total_output == total_out
    assert sum(counts.values()) == total_in + total_out
    cached = sum(count for name, count in counts.items() if name.startswith("cached_input"))
    written = sum(count for name, count in counts.items() if name.startswith("cache_write"))
    assert cached == min(inside.get("cached_tokens", 0), total_in)
    assert written == min(inside.get("cache_write_tokens", 0), total_in - cached)


@given(st.lists(st.dictionaries(st.sampled_from([*FIELDS, "input_audio_tokens", "images"]), parts), min_size=1))
def test_usages_add_up(several: list[dict[str, int]]) -> None:
    """A sum of usages has the sum of every count, and says how many requests it is of."""
    total = Usage(**several[0])
    for one in several[1:]:
        total = total + Usage(**one)
    assert total.requests == len(several)
    for name in (*FIELDS, "input_audio_tokens", "images"):
        assert total.as_dict().get(name, 0) == sum(one.get(name, 0) for one in several)
    assert total == Usage(**total.as_dict())


def test_names_that_a_ledger_does_not_keep_are_counted_as_text() -> None:
    """A server's own words as names, and more kinds than there can be, are neither kept nor taken off the input."""
    many = {f"kind{number}_tokens": 1 for number in range(30)}
    usage = Usage.from_response({"input_tokens": 100, "input_tokens_details": {"Dear Sir, _tokens": 7, **many}})
    assert usage is not None
    assert usage.total_input == 100
    assert len(usage.extra) == 20
    assert usage.notes == ("11 parts have names that a ledger does not keep: counted as text",)
    assert tokens_of(usage.as_dict()) == (100, 0)


def test_sums_that_contradict_themselves_are_fresh_text() -> None:
    """A row of the Usage API whose parts are more than its totals is all taken as text at the full price, and noted."""
    usage = Usage.from_response({**SUMMED, "input_tokens": 10})
    assert usage == Usage(10, output_tokens=500)
    assert usage is not None
    assert usage.notes == ("the parts are more than the totals: all taken as fresh text",)
    assert Usage.from_response({**SUMMED, "output_tokens": "many"}) is None
    assert Usage.from_response({"object": "organization.usage.images.result", "images": None}) is None


def test_a_picture_whose_tokens_cannot_be_read_has_no_price() -> None:
    """Tokens of a tool that cannot be read are not forgotten: they are of a kind that nothing prices."""
    told = {"image_gen": {"total_tokens": 9, "input_tokens": "nine"}}
    usage = Usage.from_reply({"usage": USED, "tool_usage": told})
    assert usage is not None
    assert dict(usage.extra) == {"image_gen/unreadable_tokens": 1}


def test_a_sum_needs_usages() -> None:
    """A usage is added to usages only."""
    with pytest.raises(TypeError):
        Usage() + 1  # type: ignore[operator]
    assert Usage() != 1
    assert repr(Usage(1, output_tokens=2)) == "Usage(input_tokens=1, output_tokens=2)"


USED = {"input_tokens": 10, "output_tokens": 5}
SEARCH = {"type": "web_search_call", "action": {"type": "search"}}
OPENED = {"type": "web_search_call", "action": {"type": "open_page"}}


@pytest.mark.parametrize(
    ("reply", "tools"),
    [
        pytest.param({"tool_usage": {"web_search": {"num_requests": 2}}}, {"web_search_calls": 2}, id="searches told"),
        pytest.param(
            {"tool_usage": {"web_search": {"num_requests": 0}}, "output": [SEARCH]}, {}, id="a discounted search"
        ),
        pytest.param(
            {"output": [SEARCH, OPENED, SEARCH], "tools": [{"type": "web_search"}]},
            {"web_search_calls": 2},
            id="searches counted",
        ),
        pytest.param(
            {"output": [SEARCH], "tools": [{"type": "web_search_preview_2025_03_11"}]},
            {"web_search_preview_calls": 1},
            id="the preview has its own price",
        ),
        pytest.param(
            {"output": [{"type": "file_search_call"}, {"type": "message"}]}, {"file_search_calls": 1}, id="file search"
        ),
        pytest.param(
            {"output": [{"type": "code_interpreter_call", "container_id": "c"}] * 3},
            {"code_interpreter_sessions": 1},
            id="one container, three calls",
        ),
        pytest.param(
            {
                "output": [{"type": "code_interpreter_call", "container_id": "c"}],
                "tools": [{"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "4g"}}],
            },
            {"code_interpreter_sessions_4g": 1},
            id="a larger container",
        ),
        pytest.param(
            {
                "tool_usage": {"image_gen": {**IMAGES, "cached_tokens": 200,
                                             "cached_tokens_details": {"cached_text_tokens": 150,
                                                                       "cached_image_tokens": 50}}},
                "tools": [{"type": "image_generation", "model": "gpt-image-2"}],
            },
            {"gpt-image-2/input_tokens": 550, "gpt-image-2/cached_input_tokens": 150,
             "gpt-image-2/input_image_tokens": 250, "gpt-image-2/cached_input_image_tokens": 50,
             "gpt-image-2/output_image_tokens": 600},
            id="a picture of another model",
        ),
        pytest.param(
            {"svg_usage": {"model": "gpt-6-sol", "input_tokens": 3, "output_tokens": 9, "reasoning_tokens": 4}},
            {"gpt-6-sol/input_tokens": 3, "gpt-6-sol/output_tokens": 9},
            id="an SVG of another model",
        ),
        pytest.param({"output": "x", "tools": 7, "tool_usage": []}, {}, id="nonsense"),
    ],
)  # fmt: skip
def test_tools_are_counted_beside_the_tokens(reply: dict[str, Any], tools: dict[str, int]) -> None:
    """What hosted tools are billed for is read from tool_usage, else from the output, and is no token of the model."""
    usage = Usage.from_reply({"usage": USED, **reply})
    assert usage is not None
    assert dict(usage.extra) == tools
    assert (usage.total_input, usage.total_output) == (10, 5)


@pytest.mark.parametrize(
    "reply",
    [
        {"usage": USED},
        {"type": "response.completed", "response": {"usage": USED}},
        {"custom_id": "a", "response": {"status_code": 200, "body": {"usage": USED}}, "error": None},
        {"object": "batch", "usage": USED, "request_counts": {"completed": 3, "failed": 1}},
        {"object": "batch", "usage": USED},
    ],
    ids=["body", "event", "line of a batch", "batch", "batch of nobody knows how many"],
)
def test_a_reply_is_read_wherever_it_is(reply: dict[str, Any]) -> None:
    """The body of a reply, the event that ends a stream, a line of a batch's output, and a batch as a whole."""
    usage = Usage.from_reply(reply)
    assert usage == Usage(10, output_tokens=5)
    assert usage is not None
    assert usage.requests == (1 if reply.get("object") != "batch" else 3 if "request_counts" in reply else 2)


@pytest.mark.parametrize("reply", [None, [], {}, {"response": None, "error": {"code": "batch_expired"}}, {"usage": 1}])
def test_a_reply_without_usage_is_none(reply: Any) -> None:
    """An expired line of a batch, an error, or nothing at all: no usage, and never zero tokens."""
    assert Usage.from_reply(reply) is None
