"""Law: images and audio are calls like all others: paced, priced from their replies, and refused where no price is."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import ratelimit
from pricing import Usd
from pricing.ledger import Entry, Ledger
from pricing.prices import load_prices

DATA = Path(__file__).resolve().parents[1] / "data"
DAY = date(2026, 11, 20)
LIMITS = {"rpm": 1_000, "ipm": 50, "tpm": 1_000_000}
IMAGE = {"created": 1, "data": [{"b64_json": "AAAA"}]}
DRAWN = {
    "input_tokens": 50,
    "output_tokens": 1_056,
    "total_tokens": 1_106,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
}
PICO = 10**6  # of a dollar per million tokens
COST_2 = Usd((10 * 5 + 40 * 8 + 1_056 * 30) * PICO)  # gpt-image-2: 5 in, 8 per image in, 30 out
WAV = b"RIFF" + bytes(200_000)
Answer = Callable[[Any], Any]


def wrapped(answer: Answer, **settings: Any) -> openai.OpenAI:
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    plain = openai.OpenAI(base_url="http://test/v1", api_key="test", max_retries=0, http_client=http)
    settings.setdefault("limits", None if "limiter" in settings else LIMITS)
    return ratelimit.wrap(plain, at=None if "limiter" in settings else DAY, **settings)


def wrapped_async(answer: Answer, **settings: Any) -> openai.AsyncOpenAI:
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    plain = openai.AsyncOpenAI(base_url="http://test/v1", api_key="test", max_retries=0, http_client=http)
    return ratelimit.wrap(plain, limits=LIMITS, at=DAY, **settings)


def telling(document: Any) -> Answer:
    return lambda _: httpx2.Response(200, json=document)


def streaming(*events: dict[str, Any]) -> Answer:
    raw = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return lambda _: httpx2.Response(200, text=raw, headers={"content-type": "text/event-stream"})


def only(ledger: Ledger) -> Entry:
    (entry,) = ledger.entries()
    return entry


# Images


def test_an_image_is_paced_by_its_number_and_priced_from_its_reply() -> None:
    """n images take n of the images per minute; the usage of the reply is the bill, its components the sum."""
    ledger, limiter = Ledger(), ratelimit.Limiter(limits=LIMITS, at=DAY)
    client = wrapped(telling({**IMAGE, "usage": DRAWN}), limiter=limiter, ledger=ledger)
    client.images.generate(model="gpt-image-2", prompt="a cat", n=5, size="1024x1024", quality="medium")
    entry = only(ledger)
    assert (entry.state, entry.model, entry.endpoint, entry.exact) == (
        "posted", "gpt-image-2", "/v1/images/generations", True,
    )  # fmt: skip
    assert entry.cost == COST_2 == sum(entry.components.values(), Usd.ZERO)
    spent_us = limiter.store.backlog_us("gpt-image-2:ipm")
    assert 5_900_000 < spent_us <= 6_000_000  # five of fifty a minute


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_form_is_read_for_its_fields_and_its_file_is_sent_as_it_is(colour: str) -> None:
    """The edit of an image is a form: n is read off it, the server gets every byte, and the ledger holds no file."""
    seen: list[bytes] = []

    def answer(request: Any) -> Any:
        seen.append(request.content)
        return httpx2.Response(200, json={**IMAGE, "usage": DRAWN})

    ledger, picture = Ledger(), b"\x89PNG" + bytes(range(256)) * 400
    asked: dict[str, Any] = {"model": "gpt-image-2", "prompt": "secret words", "n": 2, "image": ("a.png", picture)}
    if colour == "sync":
        wrapped(answer, ledger=ledger).images.edit(**asked)
    else:
        asyncio.run(wrapped_async(answer, ledger=ledger).images.edit(**asked))
    entry = only(ledger)
    assert (entry.endpoint, entry.cost, entry.exact) == ("/v1/images/edits", COST_2, True)
    assert picture in seen[0]
    assert "secret" not in repr([getattr(entry, name) for name in entry.__slots__])


def test_streamed_images_are_each_billed() -> None:
    """A stream of partial images is priced by its completed events: each tells its own usage."""
    partial = {"type": "image_generation.partial_image", "b64_json": "A" * 5_000, "partial_image_index": 0}
    done = {"type": "image_generation.completed", "b64_json": "B" * 5_000, "usage": DRAWN}
    ledger = Ledger()
    client = wrapped(streaming(partial, done, partial, done), ledger=ledger)
    stream = client.images.generate(model="gpt-image-2", prompt="a cat", n=2, stream=True, partial_images=1)
    assert [event.type.rpartition(".")[2] for event in stream] == ["partial_image", "completed"] * 2
    assert only(ledger).cost == Usd(2 * COST_2.pico)


def test_a_stream_of_images_that_is_cut_counts_its_estimate() -> None:
    """What was drawn is not known when the stream ends early: the entry expires, and is never taken for $0."""
    ledger = Ledger()
    partial = {"type": "image_generation.partial_image", "b64_json": "A", "partial_image_index": 0}
    client = wrapped(streaming(partial), ledger=ledger)
    asked: dict[str, Any] = {"quality": "high", "size": "1024x1024", "partial_images": 2}
    list(client.images.generate(model="gpt-image-2", prompt="a cat", stream=True, **asked))
    entry = only(ledger)
    assert entry.state == "expired"
    assert entry.estimate is not None
    assert entry.estimate >= Usd((7_050 + 200) * 30 * PICO)


def test_a_stream_left_before_its_last_image_counts_its_estimate() -> None:
    """Who leaves after the first of two images has the second to pay all the same."""
    done = {"type": "image_generation.completed", "b64_json": "B" * 5_000, "usage": DRAWN}
    ledger = Ledger()
    client = wrapped(streaming(done, done), ledger=ledger)
    with client.images.generate(model="gpt-image-2", prompt="a cat", n=2, stream=True) as stream:
        next(iter(stream))
    entry = only(ledger)
    assert entry.state == "expired"
    assert entry.estimate is not None
    assert entry.estimate > Usd(2 * COST_2.pico)


def test_conservative_reserves_what_images_may_take_and_gives_the_rest_back() -> None:
    """Tokens of an image are reserved at the most of its kind, and settled at the usage of the reply."""
    asked: dict[str, Any] = {"model": "gpt-image-2", "prompt": "a cat", "size": "1024x1024", "quality": "high"}
    wanted = {
        policy: ratelimit.demand({**asked, "n": 2}, endpoint="/v1/images/generations", policy=policy)
        for policy in ("observed", "documented", "conservative")
    }
    assert [(one.tokens, one.images) for one in wanted.values()] == [(2, 2), (2, 2), (2 + 2 * 7_050, 2)]
    limiter = ratelimit.Limiter(limits={"tpm": 60_000}, policy="conservative", at=DAY)
    wrapped(telling({**IMAGE, "usage": DRAWN}), limiter=limiter).images.generate(**asked)
    assert limiter.store.backlog_us("gpt-image-2:tpm") <= 1_106_000  # µs: a token is one thousandth of a second


def test_the_recorded_image_is_an_entry_that_says_why_it_has_no_price() -> None:
    """The one recorded exchange of the Images API: dall-e-2, whose reply has no usage and the table no price."""
    with gzip.open(DATA / "openai_http.jsonl.gz", "rt", encoding="utf-8") as lines:
        (told,) = [line for line in map(json.loads, lines) if line["path"].startswith("/v1/images/")]
    ledger = Ledger()
    client = wrapped(telling(told["response"]), ledger=ledger)
    reply = client.images.generate(**told["request"])
    assert reply.created == told["response"]["created"]
    entry = only(ledger)
    assert (entry.model, entry.state, entry.cost) == ("dall-e-2", "posted", None)
    assert entry.why == "the reply carried no usage; no price row for 'dall-e-2'"


def test_a_budget_holds_the_most_that_images_take() -> None:
    """Two squares of high quality are at most 2 x 7,050 tokens at $30: a cap below refuses, one above lets pass."""
    asked: dict[str, Any] = {"model": "gpt-image-2", "prompt": "a cat", "n": 2, "size": "1024x1024", "quality": "high"}
    answer = telling({**IMAGE, "usage": DRAWN})
    with pytest.raises(ratelimit.OverBudget):
        wrapped(answer, ledger=Ledger(), budget="0.42 USD/day").images.generate(**asked)
    ledger = Ledger()
    wrapped(answer, ledger=ledger, budget="0.43 USD/day").images.generate(**asked)
    assert only(ledger).cost == COST_2


def test_what_the_server_chooses_is_held_as_the_dearest() -> None:
    """Without quality and size, or with "auto", the dearest image of the model's card is held."""
    for more in ({}, {"size": "auto", "quality": "auto"}):
        ledger = Ledger()
        client = wrapped(telling({**IMAGE, "usage": DRAWN}), ledger=ledger, preflight="off")
        client.images.generate(model="gpt-image-1.5", prompt="a cat", **more)  # type: ignore[call-overload]
        entry = only(ledger)
        assert entry.worst is not None
        assert 6_240 * 32 * PICO < entry.worst.pico < 6_300 * 32 * PICO


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda c: c.images.generate(model="gpt-image-2", prompt="x", size="3840x2160"), "3840x2160"),
        (lambda c: c.images.generate(model="dall-e-2", prompt="x"), "no price row"),
        (lambda c: c.images.generate(prompt="x"), "no price row"),
        (lambda c: c.images.edit(model="gpt-image-2", prompt="x", image=b"\x89PNG"), "sent along"),
        (lambda c: c.audio.transcriptions.create(model="whisper-1", file=("a.wav", WAV)), "how long the audio"),
        (lambda c: c.audio.speech.create(model="tts-1", input="x", voice="alloy"), "no price row"),
    ],
    ids=["size", "model", "default", "edit", "transcription", "speech"],
)
@pytest.mark.filterwarnings("ignore::ratelimit.errors.RatecardWarning")
def test_what_nobody_can_bound_is_refused_under_a_budget(call: Callable[[Any], Any], why: str) -> None:
    """A call whose cost nobody can bound is not sent under a cap, and in no case held as $0."""
    sent: list[Any] = []
    client = wrapped(lambda request: sent.append(request), ledger=Ledger(), budget="1000 USD/day")
    with pytest.raises(ratelimit.OverBudget, match=why):
        call(client)
    assert sent == []
    ledger = Ledger()
    client = wrapped(lambda _: httpx2.Response(200, text="", headers={"content-type": "audio/mpeg"}), ledger=ledger)
    call(client)
    entry = only(ledger)
    assert (entry.state, entry.cost, entry.exact) == ("posted", None, False)
    assert why in entry.why
    assert ledger.totals().unpriced_count == 1


# Audio


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_whisper_is_billed_by_the_seconds_of_its_reply(colour: str) -> None:
    """Nine seconds at $0.006 a minute, exactly."""
    ledger, reply = Ledger(), telling({"text": "hello", "usage": {"type": "duration", "seconds": 9}})
    asked: dict[str, Any] = {"model": "whisper-1", "file": ("a.wav", WAV)}
    if colour == "sync":
        wrapped(reply, ledger=ledger).audio.transcriptions.create(**asked)
    else:
        asyncio.run(wrapped_async(reply, ledger=ledger).audio.transcriptions.create(**asked))
    entry = only(ledger)
    assert (entry.cost, entry.exact, entry.endpoint) == (Usd.parse("0.0009"), True, "/v1/audio/transcriptions")


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_a_duration_is_counted_where_no_usage_is_told() -> None:
    """A translation tells its duration in verbose_json: 8.47 s are billed as nine, and marked as counted."""
    ledger = Ledger()
    client = wrapped(telling({"text": "hello", "language": "english", "duration": 8.47}), ledger=ledger)
    client.audio.translations.create(model="whisper-1", file=("a.wav", WAV), response_format="verbose_json")
    entry = only(ledger)
    assert (entry.cost, entry.exact) == (Usd.parse("0.0009"), False)
    assert "duration" in entry.why


@pytest.mark.parametrize("form", ["text", "srt"])
def test_a_bare_transcript_is_posted_without_a_price(form: Any) -> None:
    """Plain text has neither usage nor duration: the entry says so, and is in no sum."""
    ledger = Ledger()
    client = wrapped(lambda _: httpx2.Response(200, text="1\n00:00 --> 00:09\nhello"), ledger=ledger)
    client.audio.transcriptions.create(model="whisper-1", file=("a.wav", WAV), response_format=form)
    entry = only(ledger)
    assert (entry.state, entry.cost, entry.exact) == ("posted", None, False)
    assert "no usage" in entry.why


def test_a_transcription_of_tokens_is_priced_by_kind_streamed_or_not() -> None:
    """4 tokens of audio at 6, 10 of text at 2.50 and 101 of output at 10 dollars per million."""
    told = {
        "type": "tokens", "input_tokens": 14, "output_tokens": 101, "total_tokens": 115,
        "input_token_details": {"text_tokens": 10, "audio_tokens": 4},
    }  # fmt: skip
    paid = Usd((4 * 60 + 10 * 25 + 101 * 100) * 10**5)
    ledger = Ledger()
    client = wrapped(telling({"text": "hello", "usage": told}), ledger=ledger)
    client.audio.transcriptions.create(model="gpt-4o-transcribe", file=io.BytesIO(WAV))
    delta = {"type": "transcript.text.delta", "delta": "hel"}
    done = {"type": "transcript.text.done", "text": "hello", "usage": told}
    client = wrapped(streaming(delta, done), ledger=ledger)
    list(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", WAV), stream=True))
    assert [(entry.cost, entry.exact) for entry in ledger.entries()] == [(paid, True)] * 2


TTS = """
version: 1
currency: USD
sources: {contract: {url: "https://example.com/1", read: "2026-01-15"}}
rows:
  - {model: whisper-1, service_tier: standard, effective_from: "2026-01-01", source: contract, usd_per_1k: {characters: "0.015"}}
  - {model: gpt-audio, service_tier: standard, effective_from: "2026-01-01", source: contract, usd_per_mtok: {input: "0.60", output_audio: "12.00"}}
"""  # noqa: E501


def test_a_speech_is_billed_by_its_characters_where_that_is_its_price(tmp_path: Any) -> None:
    """A binary reply tells nothing; where a table prices characters, those of the request are counted, and held."""
    (tmp_path / "tts.yaml").write_text(TTS, encoding="utf-8")
    prices, ledger = load_prices(overlay=tmp_path / "tts.yaml"), Ledger()
    audio = httpx2.Response(200, content=bytes(300_000), headers={"content-type": "audio/mpeg"})
    client = wrapped(lambda _: audio, ledger=ledger, prices=prices, budget="1 USD/day")
    client.audio.speech.create(model="whisper-1", input="häuser" * 100, voice="alloy").read()
    entry = only(ledger)
    assert (entry.cost, entry.worst, entry.exact) == (Usd.parse("0.009"), Usd.parse("0.009"), False)


def test_a_streamed_speech_is_priced_as_sound(tmp_path: Any) -> None:
    """speech.audio.done counts its output without a kind: it is audio, at the price of audio."""
    (tmp_path / "tts.yaml").write_text(TTS, encoding="utf-8")
    prices, ledger = load_prices(overlay=tmp_path / "tts.yaml"), Ledger()
    done = {"type": "speech.audio.done", "usage": {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}}
    client = wrapped(streaming({"type": "speech.audio.delta", "audio": "AAAA"}, done), ledger=ledger, prices=prices)
    client.audio.speech.create(model="gpt-audio", input="hello", voice="alloy", stream_format="sse").read()
    entry = only(ledger)
    assert (entry.cost, entry.exact) == (Usd((14 * 6 + 101 * 120) * 10**5), True)


# Bodies that cannot be read twice


class Pipe(io.RawIOBase):
    """A file that can be read once."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._data.read(size)


def test_a_file_that_cannot_be_read_twice_passes_with_a_warning() -> None:
    """It is sent once, whole and unpaced; a warning and an entry without a price say what nobody knows."""
    seen: list[bytes] = []

    def answer(request: Any) -> Any:
        seen.append(request.content)
        return httpx2.Response(200, json={"text": "hello", "usage": {"type": "duration", "seconds": 9}})

    ledger, limiter = Ledger(), ratelimit.Limiter(limits=LIMITS, at=DAY)
    client = wrapped(answer, ledger=ledger, limiter=limiter)
    with pytest.warns(ratelimit.RatecardWarning, match="unpaced and unpriced"):
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", Pipe(WAV)))  # type: ignore[arg-type]
    assert WAV in seen[0]
    assert only(ledger).cost is None
    assert limiter.gates() == ()


def test_a_budget_refuses_what_it_cannot_read() -> None:
    """Under a cap nothing is sent of which nobody knows what it is."""
    client = wrapped(telling({}), ledger=Ledger(), budget="25 USD/day")
    with pytest.warns(ratelimit.RatecardWarning), pytest.raises(ratelimit.OverBudget):
        client.audio.transcriptions.create(model="whisper-1", file=("a.wav", Pipe(WAV)))  # type: ignore[arg-type]


def test_a_form_sent_as_bytes_is_read_too() -> None:
    """A form that another program has put together is read at its boundary; a field inside a file is none."""
    trap = b'\r\nContent-Disposition: form-data; name="n"\r\n\r\n9\r\n'
    parts = [
        b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + trap,
        b'Content-Disposition: form-data; name="model"\r\n\r\ngpt-image-2',
        b'content-disposition: form-data; name="n"\r\n\r\n4',
    ]
    raw = b"".join(b"--b0und\r\n" + part + b"\r\n" for part in parts) + b"--b0und--\r\n"
    ledger, limiter = Ledger(), ratelimit.Limiter(limits=LIMITS, at=DAY)
    inner = httpx2.MockTransport(telling({**IMAGE, "usage": DRAWN}))
    transports = ratelimit.transports.httpx2
    pacing = transports.RateLimitTransport(transports.CostTransport(inner, ledger=ledger, at=DAY), limiter=limiter)
    with httpx2.Client(transport=pacing) as client:
        client.post("https://api.openai.com/v1/images/edits", content=raw)
    assert only(ledger).cost == COST_2
    assert 4_700_000 < limiter.store.backlog_us("gpt-image-2:ipm") <= 4_800_000  # four of fifty a minute


def test_a_refused_form_is_sent_again_whole() -> None:
    """A 429 of a form with an open file waits and goes out again, with every byte of the file."""
    seen: list[bytes] = []

    def answer(request: Any) -> Any:
        seen.append(request.content)
        if len(seen) == 1:
            error = {"message": "Rate limit reached. Please try again in 1ms.", "code": "rate_limit_exceeded"}
            return httpx2.Response(429, json={"error": {**error, "type": "requests"}}, headers={"retry-after-ms": "1"})
        return httpx2.Response(200, json={"text": "x", "usage": {"type": "duration", "seconds": 9}})

    ledger = Ledger()
    client = wrapped(answer, ledger=ledger)
    client.audio.transcriptions.create(model="whisper-1", file=io.BytesIO(WAV))
    assert [WAV in body for body in seen] == [True, True]
    assert [entry.state for entry in ledger.entries()] == ["voided", "posted"]


def wild_forms() -> Iterator[bytes]:
    yield from (b"--", b"--\r\n", b"--b\r\n", b"--b\r\n\r\n\r\n", b"--b\r\nx\r\n\r\n\r\n--b", b"--" + b"-" * 100_000)


def test_no_form_breaks_the_reading() -> None:
    """Whatever follows two hyphens is read to an end, and the server is the judge of it."""
    inner = httpx2.MockTransport(lambda _: httpx2.Response(400, json={"error": {"message": "bad"}}))
    cost = ratelimit.transports.httpx2.CostTransport(inner, ledger=Ledger(), at=DAY)
    with httpx2.Client(transport=cost) as client, warnings.catch_warnings():
        for raw in wild_forms():
            assert client.post("https://x/v1/images/edits", content=raw).status_code == 400
