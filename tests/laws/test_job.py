"""A job file is read line by line: good lines whole, bad lines with their number and a reason, nothing lost."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimit import job as module
from ratelimit.errors import ConfigError
from ratelimit.job import BadLine, Line, blocks, parse_line, raw_lines, read_job
from ratelimit.results import Results, result_line

GOOD = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": "o3-pro", "input": "hi"}}


def batch(**changes: object) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


@pytest.mark.parametrize(
    ("raw", "endpoint"),
    [
        (batch(), "/v1/responses"),
        (batch(url="/v1/chat/completions", body={"model": "o3", "messages": []}), "/v1/chat/completions"),
        (b'{"model": "o3", "messages": [{"role": "user", "content": "hi"}]}', "/v1/chat/completions"),
        (b'{"model": "o3-pro", "input": "hi"}', "/v1/responses"),
        (b'{"model": "text-embedding-3-small", "input": ["a", "b"]}', "/v1/embeddings"),
        (b'{"model": "gpt-3.5-turbo-instruct", "prompt": "hi"}', "/v1/completions"),
        (b'\xef\xbb\xbf{"model": "o3-pro", "input": "a byte order mark"}\r\n', "/v1/responses"),
    ],
)
def test_batch_lines_and_bare_bodies(raw: bytes, endpoint: str) -> None:
    """Both forms of a line are understood, whatever the endpoint."""
    line = parse_line(1, raw)
    assert isinstance(line, Line)
    assert line.endpoint == endpoint


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[1, 2]", "expected a JSON object, found a list"),
        (b'{"model": NaN}', "NaN is not JSON"),
        (b'{"model": "o3"}', "neither a Batch line"),
        (b'{"input": "no model"}', "model: expected a text, found nothing"),
        (batch(custom_id=7), "custom_id: expected a text, found a number"),
        (batch(custom_id=""), "custom_id: expected a text, found an empty text"),
        (batch(body="text"), "body: expected a JSON object, found a text"),
        (batch(method="GET"), "method: expected POST"),
        (batch(url="/v1/files"), "url: '/v1/files' is not one of"),
        (batch(url=None), "url: expected a path"),
        (batch(body={"model": "o3", "input": "x", "stream": True}), "stream:"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_line_says_what_is_wrong(raw: bytes, words: str) -> None:
    """Each kind of broken line gives one reason that names the key and what was expected."""
    bad = parse_line(3, raw)
    assert isinstance(bad, BadLine)
    assert bad.number == 3
    assert words in bad.reason


def test_numbers_count_every_line_and_duplicates_are_refused(tmp_path: Path) -> None:
    """Blank lines count but are skipped; a custom_id used twice is reported with both line numbers."""
    job = tmp_path / "job.jsonl"
    job.write_bytes(batch() + b"\n\n{bad\n" + batch(custom_id="b") + b"\n" + batch() + b"\n")
    lines = list(read_job(job))
    assert [(type(line).__name__, line.number) for line in lines] == [
        ("Line", 1),
        ("BadLine", 3),
        ("Line", 4),
        ("BadLine", 5),
    ]
    assert "was used on line 1" in lines[3].reason


def test_a_compressed_job_reads_like_a_plain_one(tmp_path: Path) -> None:
    """job.jsonl.gz gives the lines of job.jsonl; a truncated or damaged one is one clear error."""
    job = tmp_path / "job.jsonl.gz"
    job.write_bytes(gzip.compress(batch() + b"\n" + batch(custom_id="b")))
    assert [line.custom_id for line in read_job(job)] == ["a", "b"]
    whole = job.read_bytes()
    for broken in (whole[:-9], whole[:12] + b"\xff" + whole[13:]):
        job.write_bytes(broken)
        with pytest.raises(ConfigError, match="cannot be read"):
            list(read_job(job))


@given(
    st.lists(st.sampled_from([b"", b" ", b"\r", b"ab", b"abcdefgh", b"abcdefghi", b"abcdefghij" * 3]), max_size=12),
    st.data(),
)
@settings(deadline=None)
def test_blocks_have_the_lines_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, made: list[bytes], data: st.DataObject
) -> None:
    """However a file is cut, its numbered lines are those that a split gives; of one too long there is the start."""
    longest = 8
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    raw = b"\n".join(made)
    path.write_bytes(raw)
    expected = []
    for number, text in enumerate(raw.split(b"\n"), 1):
        ended = text if number == raw.count(b"\n") + 1 else text + b"\n"
        if ended.strip() or len(ended) > longest + 1:
            expected.append((number, ended[: longest + 1]))
    with pytest.MonkeyPatch.context() as patch, path.open("rb") as file:
        patch.setattr(module, "MAX_LINE_BYTES", longest)
        keep = data.draw(st.booleans())
        found = []
        end = 0
        for block in blocks(file, path, data.draw(st.integers(1, 40)), keep=keep):
            assert (block.raw is not None) is keep
            if not keep:
                assert block.start >= end
                end = block.start + block.size
            found += raw_lines(io.BytesIO(block.read(path)), path, block.first)
        assert found == expected
        assert list(raw_lines(io.BytesIO(raw), path)) == expected


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(ConfigError, match=r"absent\.jsonl"):
        list(read_job(tmp_path / "absent.jsonl"))


def test_a_bare_line_is_named_after_its_content() -> None:
    """The same line has the same custom_id in every run; a changed line has another one."""
    one, same, other = (parse_line(4, b'{"model":"o3-pro","input":"%s"}' % text) for text in (b"x", b"x", b"y"))
    assert one == same
    assert one.custom_id != other.custom_id


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_bytes_are_a_line_or_a_reason(raw: bytes) -> None:
    """Reading a line of garbage never raises."""
    assert isinstance(parse_line(1, raw), Line | BadLine)


def test_an_existing_output_is_not_overwritten(tmp_path: Path) -> None:
    """Without --resume an output file that has content is an error, and stays as it is."""
    out = tmp_path / "out.jsonl"
    out.write_text("precious\n")
    with pytest.raises(ConfigError, match="--resume"):
        Results(out)
    assert out.read_text() == "precious\n"


def test_resume_keeps_successes_and_drops_torn_and_failed_lines(tmp_path: Path) -> None:
    """After a crash: one whole line per success is kept, a torn last line and failures are tried again."""
    out = tmp_path / "out.jsonl"
    first = Results(out)
    first.write(result_line("ok", status=200, body={"text": "\ud800 ö"}))
    first.write(result_line("refused", status=429, body={"error": {}}))
    first.write(result_line("unsent", error={"code": "x", "message": "y"}))
    first.close()
    with out.open("ab") as file:
        file.write(b'{"custom_id": "torn", "respon')
    second = Results(out, resume=True)
    assert second.done == {"ok"}
    assert (second.retrying, second.torn) == (2, True)
    second.write(result_line("torn", status=200, body={}))
    second.close()
    assert [json.loads(line)["custom_id"] for line in out.read_bytes().splitlines()] == ["ok", "torn"]


def test_resuming_a_file_that_is_no_output_changes_nothing(tmp_path: Path) -> None:
    """A wrong file named by mistake is refused by line number and left alone."""
    out = tmp_path / "notes.txt"
    out.write_text("dear diary\n")
    with pytest.raises(ConfigError, match=r"notes\.txt:1: not a line of results"):
        Results(out, resume=True)
    assert out.read_text() == "dear diary\n"


def test_a_bare_prompt_for_an_image_model_is_for_images() -> None:
    """A job's bare line goes where its model is offered: pictures are not asked of the endpoint of texts."""
    line = parse_line(1, b'{"model": "gpt-image-2", "prompt": "a parcel"}')
    assert isinstance(line, Line)
    assert line.endpoint == "/v1/images/generations"
