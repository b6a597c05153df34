"""Law: a form is read alike from its bytes and from the HTTP library's fields, whatever its files contain."""

from __future__ import annotations

import io
from email.parser import BytesParser
from typing import Any

import httpx
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.call import read_call
from ratelimit.transports._common import sent_body

FIELDS = ("model", "n", "size", "quality", "prompt", "response_format", "stream", "partial_images", "user", "language")
READ = frozenset(FIELDS) - {"user", "language"}
FORMS = st.fixed_dictionaries(
    {"model": st.sampled_from(["gpt-image-2", "whisper-1"])},
    optional={
        **{name: st.text(max_size=40) for name in FIELDS if name not in ("model", "n", "stream")},
        "n": st.integers(1, 99).map(str),
        "stream": st.sampled_from(["true", "false"]),
    },
)
FILES = st.lists(st.binary(max_size=300) | st.just(b'\r\n\r\n--\r\nname="n"\r\n\r\n7'), min_size=1, max_size=3)


def oracle(raw: bytes, content_type: str) -> dict[str, str]:
    """The fields of a form, by the standard library's parser of mail."""
    document = BytesParser().parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + raw)
    found = {}
    for part in document.get_payload():
        name = part.get_param("name", header="content-disposition")  # type: ignore[union-attr]
        if part.get_filename() is None and name in READ:  # type: ignore[union-attr]
            found[str(name)] = part.get_payload(decode=True).decode()  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize("lib", [httpx, httpx2], ids=["httpx", "httpx2"])
@given(form=FORMS, files=FILES)
def test_bytes_and_fields_of_a_form_say_the_same(lib: Any, form: dict[str, str], files: list[bytes]) -> None:
    """The body that read_call sees has the fields that matter, with the values that were sent, and no file."""
    sent = [("image[]", ("a.png", data if k % 2 else io.BytesIO(data))) for k, data in enumerate(files)]
    request = lib.Request("POST", "https://x/v1/images/edits", data=form, files=sent)
    by_fields = read_call("POST", "/v1/images/edits", lambda: sent_body(request, lib.ByteStream))
    raw = request.read()
    by_bytes = read_call("POST", "/v1/images/edits", lambda: raw)
    assert by_fields is not None
    assert by_bytes is not None
    expected: dict[str, Any] = {name: value for name, value in form.items() if name in READ}
    simple = all(value.isascii() and value.isprintable() and value.strip() == value for value in form.values())
    if simple:  # the parser of mail folds what a form does not
        assert oracle(raw, request.headers["content-type"]) == expected
    for name in ("n", "partial_images"):
        if name in expected and expected[name].isdecimal() and len(expected[name]) < 10:
            expected[name] = int(expected[name])
    if "stream" in expected:
        expected["stream"] = expected["stream"] == "true"
    assert by_fields.body == by_bytes.body == expected
