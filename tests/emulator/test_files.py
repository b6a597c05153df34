"""Files as the openai client sends, lists, reads and deletes them; and the form they come in, byte by byte."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.emulator import Emulator
from ratelimit.emulator.multipart import Begins, Multipart

Emulate = Callable[..., Emulator]
Connect = Callable[..., openai.OpenAI]

CHAT = "/v1/chat/completions"


def test_a_file_comes_back_as_it_was_sent(emulate: Emulate, connect: Connect, clock: Any) -> None:
    """Name, size, purpose, dates and every byte, line ends and bytes that are no text included."""
    client = connect(emulate())
    data = bytes(range(256)) * 3_000 + b"\r\n--\r\n\r\n"
    made = client.files.create(file=('a "b".jsonl', data), purpose="batch")
    assert (made.object, made.bytes, made.filename, made.purpose) == ("file", len(data), 'a "b".jsonl', "batch")
    assert made.created_at == clock.now_us // 1_000_000
    assert made.expires_at == made.created_at + 30 * 86_400
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).content == data
    with client.files.with_streaming_response.content(made.id) as reply:
        assert b"".join(reply.iter_bytes(1_000)) == data
    assert client.files.create(file=b"", purpose="user_data").expires_at is None


def test_files_expire(emulate: Emulate, connect: Connect, clock: Any) -> None:
    """expires_after is obeyed by the emulator's clock."""
    client = connect(emulate())
    made = client.files.create(file=b"{}", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3_600})
    clock.advance(3_599)
    assert client.files.retrieve(made.id).expires_at == made.created_at + 3_600
    clock.advance(1)
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)
    assert list(client.files.list()) == []


def test_pages_of_files(emulate: Emulate, connect: Connect, clock: Any) -> None:
    """Newest first or oldest first, of a purpose or of all, in pages that the client turns by itself."""
    client = connect(emulate())
    made = []
    for number in range(7):
        made.append(client.files.create(file=b"{}", purpose="batch" if number % 2 else "evals").id)
        clock.advance(1)
    assert [one.id for one in client.files.list()] == made[::-1]
    assert [one.id for one in client.files.list(limit=2, order="asc")] == made
    assert [one.id for one in client.files.list(limit=2, purpose="batch")] == [made[5], made[3], made[1]]
    assert [one.id for one in client.files.list(after=made[2])] == [made[1], made[0]]
    page = client.files.list(limit=3)
    assert [len(page.data), page.has_more] == [3, True]
    for wrong in ({"limit": 0}, {"limit": 10_001}, {"order": "up"}):
        with pytest.raises(openai.BadRequestError):
            client.files.list(**wrong)  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError):
        client.files.list(after="file-none")


def test_deleting(emulate: Emulate, connect: Connect) -> None:
    """What is deleted is gone from everywhere; a second time there is nothing to delete."""
    client = connect(emulate())
    made = client.files.create(file=b"{}", purpose="batch")
    assert client.files.delete(made.id).deleted is True
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            call(made.id)


def test_a_batch_reads_its_file_even_when_that_is_deleted(
    emulate: Emulate, connect: Connect, clock: Any, lines: Any, submit: Any
) -> None:
    """The bytes stay until the batch has ended, then they leave the disk."""
    emulator = emulate(batch_seconds=10)
    client = connect(emulator)
    batch = submit(client, lines(3))
    root = emulator._batches.files.drafts.root
    assert root is not None
    client.files.delete(batch.input_file_id)
    assert len(list(root.iterdir())) == 1
    clock.advance(60)
    batch = client.batches.retrieve(batch.id)
    assert batch.request_counts.completed == 3
    assert len(list(root.iterdir())) == 1
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"


def test_files_leave_the_disk_with_the_emulator(connect: Connect) -> None:
    """Stopping it removes them; so does forgetting one that never was started."""
    with Emulator(limits={"rpm": 1}, latency=0) as emulator:
        client = connect(emulator)
        client.files.create(file=b"{}", purpose="batch")
        root = emulator._batches.files.drafts.root
        assert root is not None
        assert root.exists()
    assert not root.exists()
    assert emulator.counters()["batches"]["files"] == 0
    with emulator:
        assert connect(emulator).files.create(file=b"{}", purpose="batch").bytes == 2
    loose = Emulator(limits={"rpm": 1})
    path, file = loose._batches.files.drafts.open()
    file.close()
    del loose
    gc.collect()
    assert not path.parent.exists()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_files_leave_the_disk_with_the_process(ending: signal.Signals, tmp_path: Path) -> None:
    """A signal that ends it leaves nothing behind."""
    command = [sys.executable, "-m", "ratelimit.emulator", "--rpm", "5", "--port", "0", "--batch-queue", "9"]
    place = {**os.environ, "TMPDIR": str(tmp_path), "TEMP": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=place) as child:
        assert child.stdout is not None
        with openai.OpenAI(base_url=child.stdout.readline().strip(), api_key="any") as client:
            client.files.create(file=b"{}", purpose="batch")
        assert len(list(tmp_path.iterdir())) == 1
        child.send_signal(ending)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "batch"}, "file"),
        ({"file": ("a", b"{}")}, "purpose"),
        ({"file": ("a", b"{}"), "purpose": "batches"}, "purpose"),
        ({"file": ("a", b"{}"), "purpose": "batch", "expires_after[anchor]": "now"}, "expires_after.anchor"),
        ({"file": ("a", b"{}"), "purpose": "batch", "expires_after[anchor]": "created_at"}, "expires_after.seconds"),
    ],
)
def test_forms_that_lack_something(fields: dict[str, Any], param: str, emulate: Emulate, http: httpx.Client) -> None:
    """Each is a 400 that names the field, and leaves nothing on the disk."""
    emulator = emulate()
    parts = {name: value if isinstance(value, tuple) else (None, value) for name, value in fields.items()}
    reply = http.post(f"{emulator.url}/files", files=parts)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    root = emulator._batches.files.drafts.root
    assert root is None or list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--x--"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x'),
        ("multipart/form-data; boundary=x", b"--x?\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"a" * 20_000),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"1" * 70_000 + b"\r\n--x--",
        ),
    ],
)
def test_what_is_no_form(kind: str, body: bytes, emulate: Emulate, http: httpx.Client) -> None:
    """Anything but a whole multipart form is a 400 that says so."""
    reply = http.post(f"{emulate().url}/files", content=body, headers={"content-type": kind})
    assert reply.status_code == 400
    assert "multipart" in reply.json()["error"]["message"]


def test_an_input_file_above_200_mb_is_refused(emulate: Emulate, http: httpx.Client) -> None:
    """209,715,200 bytes are taken, one more is a 413 in the words that were reported."""
    emulator = emulate()
    head = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\n'
    head += b'Content-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
    line = b'{"body": {"model": "gpt-4.1-nano"}}\n'

    def form(size: int) -> Iterator[bytes]:
        yield head + line
        left = size - len(line)
        while left:
            yield b" " * min(left, 1 << 20)
            left -= min(left, 1 << 20)
        yield b"\r\n--x--\r\n"

    asked = {"content-type": "multipart/form-data; boundary=x"}
    reply = http.post(f"{emulator.url}/files", content=form(209_715_200), headers=asked, timeout=60)
    assert reply.json()["bytes"] == 209_715_200
    reply = http.post(f"{emulator.url}/files", content=form(209_715_201), headers=asked, timeout=60)
    assert reply.status_code == 413
    told = "The batch input file is larger than the 209715200 maximum for the gpt-4.1-nano model."
    assert reply.json()["error"]["message"] == told
    assert emulator.counters()["batches"]["files"] == 1


def test_uploads_in_parts_are_not_there(emulate: Emulate, connect: Connect) -> None:
    """The client is told what to use instead."""
    client = connect(emulate())
    with pytest.raises(openai.NotFoundError, match="POST /v1/files"):
        client.uploads.create(bytes=2, filename="a", mime_type="text/plain", purpose="batch")
    with pytest.raises(openai.NotFoundError, match="POST /v1/files"):
        client.uploads.cancel("upload_1")


def test_many_uploads_at_once(emulate: Emulate, connect: Connect) -> None:
    """None gets another's bytes."""
    client = connect(emulate())
    found: dict[int, bytes] = {}

    def send(number: int) -> None:
        made = client.files.create(file=b"%d" % number * 100_000, purpose="batch")
        found[number] = client.files.content(made.id).content

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: b"%d" % number * 100_000 for number in range(8)}


PARTS = st.lists(
    st.tuples(st.text("abc[]", min_size=1), st.none() | st.text("xy. ü"), st.binary() | st.just(b"\r\n--edg\r\n--")),
    max_size=4,
)


@given(PARTS, st.lists(st.integers(0, 400)), st.sampled_from([b"", b"preamble\r\n"]))
def test_a_form_is_read_the_same_however_it_arrives(
    parts: list[tuple[str, str | None, bytes]], cuts: list[int], preamble: bytes
) -> None:
    """Cut anywhere into pieces, it has the same parts with the same bytes, and ends where it ends."""
    form = preamble
    for name, filename, data in parts:
        named = f'; filename="{filename}"' if filename is not None else ""
        form += (
            f'--edge\r\nContent-Disposition: form-data; name="{name}"{named}\r\nX: y\r\n\r\n'.encode() + data + b"\r\n"
        )
    form += b"--edge--\r\nepilogue"
    reader = Multipart('multipart/form-data; boundary="edge"')
    found: list[tuple[str, str | None, bytes]] = []
    edges = [0, *sorted(min(cut, len(form)) for cut in cuts), len(form)]
    for begin, end in pairwise(edges):
        for piece in reader.feed(form[begin:end]):
            if isinstance(piece, Begins):
                found.append((piece.name, piece.filename, b""))
            else:
                found[-1] = (*found[-1][:2], found[-1][2] + piece)
    assert reader.complete
    assert found == parts


def test_a_name_in_another_spelling() -> None:
    """Names beyond ASCII may come encoded."""
    reader = Multipart("multipart/form-data; boundary=x")
    line = b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename*=UTF-8''%C3%BC.jsonl\r\n\r\n"
    assert list(reader.feed(line)) == [Begins("file", "ü.jsonl")]
