"""What a run needs of the API: files and batches; and the openai client as such an API.

Reading is repeated where it fails for a passing reason. Creating is not: whether it happened is then unknown, and the
driver looks for it first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..errors import RatecardError

if TYPE_CHECKING:
    from openai import OpenAI

ACTIVE = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
"""States in which a batch's tokens wait in the queue."""
EXPIRES_S = 30 * 86_400
"""How long an input file stays with the server: its batch is over in a day."""


class Unknown(RatecardError):
    """The reply did not come: whether something was created is not known, and what was asked may be asked again."""


class Refusal(RatecardError):
    """The server said no, for good unless the request changes. status: HTTP; code: the server's name of it."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Remote(NamedTuple):
    """A batch as the server has it.

    model   where the server tells it
    requests, completed, failed   its lines, and of these those that have ended
    code    of its first error, and message; lines: of the input, that errors name
    """

    id: str
    status: str
    endpoint: str
    created_s: int
    input_id: str
    output_id: str | None
    errors_id: str | None
    metadata: Mapping[str, str]
    model: str
    requests: int
    completed: int = 0
    failed: int = 0
    code: str = ""
    message: str = ""
    lines: Mapping[int, str] = {}


class Api(Protocol):
    """Files and batches. Any of them may raise Unknown (the network, or the server, is away) or Refusal."""

    def upload(self, name: str, content: Iterable[bytes]) -> str:
        """Upload a batch's input → the file's id."""

    def find_file(self, name: str) -> str | None:
        """The id of an uploaded file of this name."""

    def create(self, file_id: str, endpoint: str, metadata: Mapping[str, str]) -> Remote:
        """Create a batch."""

    def list(self, since_s: int) -> Iterator[Remote]:
        """Batches created since then, the newest first; and all that are active."""

    def get(self, batch_id: str) -> Remote:
        """A batch."""

    def cancel(self, batch_id: str) -> None:
        """Cancel a batch; one that has ended stays as it is."""

    def content(self, file_id: str) -> Iterator[bytes]:
        """The lines of a file."""


class OpenAIApi:
    """The openai client as an Api.

    client  its own retries are used for reading alone
    """

    def __init__(self, client: OpenAI) -> None:
        self._client = client.with_options(max_retries=3, timeout=120)
        self._once = client.with_options(max_retries=0)

    def upload(self, name: str, content: Iterable[bytes]) -> str:
        import tempfile

        # Written down before it is sent: the client has to know how long it is, and may not hold it in memory.
        with tempfile.TemporaryFile() as file:
            for part in content:
                file.write(part)
            file.seek(0)
            with _told(once=True):
                expires: Any = {"anchor": "created_at", "seconds": EXPIRES_S}
                return self._once.files.create(file=(name, file), purpose="batch", expires_after=expires).id

    def find_file(self, name: str) -> str | None:
        with _told():
            for file in self._client.files.list(purpose="batch", order="desc"):
                if file.filename == name:
                    return file.id
        return None

    def create(self, file_id: str, endpoint: str, metadata: Mapping[str, str]) -> Remote:
        with _told(once=True):
            made = self._once.batches.create(
                input_file_id=file_id, endpoint=endpoint, completion_window="24h", metadata=dict(metadata)  # type: ignore[arg-type]
            )  # fmt: skip
            return remote_of(made)

    def list(self, since_s: int) -> Iterator[Remote]:
        with _told():
            for batch in self._client.batches.list(limit=100):
                found = remote_of(batch)
                # Nothing is active two days after it was created: a batch ends within a day.
                if found.created_s < since_s - 2 * 86_400:
                    return
                if found.created_s >= since_s or found.status in ACTIVE:
                    yield found

    def get(self, batch_id: str) -> Remote:
        with _told():
            return remote_of(self._client.batches.retrieve(batch_id))

    def cancel(self, batch_id: str) -> None:
        import openai

        with _told(), suppress(openai.ConflictError, openai.BadRequestError):  # it has ended meanwhile
            self._client.batches.cancel(batch_id)

    def content(self, file_id: str) -> Iterator[bytes]:
        try:
            with _told(), self._client.files.with_streaming_response.content(file_id) as response:
                open_: list[bytes] = []  # of a line that has not come to its end
                for part in response.iter_bytes(1 << 16):
                    first, *lines = part.split(b"\n")
                    open_.append(first)
                    for line in lines:
                        yield b"".join(open_)
                        open_ = [line]
                if any(open_):
                    yield b"".join(open_)
        except RatecardError:
            raise
        except Exception as error:  # of the HTTP library below, whichever it is: the stream broke off
            raise Unknown(f"file {file_id}: {error}") from error


def remote_of(batch: Any) -> Remote:
    """A batch as the client gives it. Raises Unknown for what is none, such as a page of a proxy."""
    if not isinstance(getattr(batch, "id", None), str) or not isinstance(getattr(batch, "status", None), str):
        raise Unknown("the server's answer is no batch")
    errors = [] if batch.errors is None else list(batch.errors.data or [])
    first = errors[0] if errors else None
    counts = batch.request_counts
    total, completed, failed = (0, 0, 0) if counts is None else (counts.total, counts.completed, counts.failed)
    return Remote(
        batch.id,
        batch.status,
        batch.endpoint or "",
        batch.created_at or 0,
        batch.input_file_id or "",
        batch.output_file_id or None,  # "" has been seen where there is none
        batch.error_file_id or None,
        dict(batch.metadata or {}),
        getattr(batch, "model", None) or "",
        total,
        completed,
        failed,
        "" if first is None else first.code or "",
        "" if first is None else first.message or "",
        {one.line: one.message or "" for one in errors if one.line is not None},
    )


@contextmanager
def _told(*, once: bool = False) -> Iterator[None]:
    """Turn the client's errors into ours.

    once  it is not asked again by itself: that there are too many requests is for the driver to know
    """
    import openai

    try:
        yield
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, Mapping) else {}
        passing = error.status_code >= 500 or error.status_code in (408, 409, 425)
        if passing or (error.status_code == 429 and not once):
            raise Unknown(str(error)) from error
        raise Refusal(str(error), error.status_code, str(body.get("code") or "")) from error
    except openai.APIConnectionError as error:
        raise Unknown(str(error)) from error
