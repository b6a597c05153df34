"""The URLs of files and batches: what came in is read and checked here, and done in a thread: files take time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from . import batch_errors, errors, replies
from .batches import Batches
from .engine import Dropped, Engine
from .errors import ErrorReply
from .faults import BEFORE
from .files import MOST_BATCH_BYTES, MOST_BYTES, PURPOSES
from .multipart import Begins, Multipart

if TYPE_CHECKING:
    from .files import Stored

_MOST_FIELD = 65_536
_PIECE = 65_536

Done = dict[str, Any] | ErrorReply
"""What an endpoint answers: a document, or what was wrong."""


class BatchPages:
    """Files and batches as HTTP has them."""

    def __init__(self, engine: Engine, batches: Batches) -> None:
        self._engine = engine
        self._batches = batches

    async def _do(self, endpoint: str, work: Callable[[str | None], Done]) -> Response:
        """Do something in a thread and answer; or meet a fault before, or after."""
        fault = self._engine.fault(endpoint)
        if fault == "drop_request":
            return Dropped()
        if fault in BEFORE or fault in ("500", "503"):
            return self._engine.reply(errors.fault(fault or ""))
        done = await asyncio.to_thread(work, fault)
        if fault == "drop_connection":
            return Dropped()
        if fault == "late_500":
            return self._engine.reply(errors.server_error())
        if isinstance(done, ErrorReply):
            return self._engine.wrong(done)
        body = replies.dumps(done)
        return self._engine.plain(200, body[: len(body) // 2] if fault == "garbage_json" else body)

    # -- files ---------------------------------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        """POST /v1/files: a form, read as it arrives."""
        drafts = self._batches.files.drafts
        try:
            form = await _receive(request, drafts.open)
        except ValueError as why:
            return self._engine.wrong(batch_errors.no_form(str(why)))
        try:
            return await self._do("files", lambda _: self._keep(form))
        finally:
            if form.path is not None and not form.kept:
                form.path.unlink(missing_ok=True)

    def _keep(self, form: _Form) -> Done:
        if form.path is None:
            return errors.missing("file")
        purpose = form.fields.get("purpose")
        if purpose is None:
            return errors.missing("purpose")
        if purpose not in PURPOSES:
            return batch_errors.unsupported("purpose", purpose, PURPOSES)
        after = {
            key: form.fields[name] for key in ("anchor", "seconds") if (name := f"expires_after[{key}]") in form.fields
        }
        keep_s = batch_errors.expiry("expires_after", after or None)
        if isinstance(keep_s, ErrorReply):
            return keep_s
        most = MOST_BATCH_BYTES if purpose == "batch" else MOST_BYTES
        if form.bytes > most:
            return batch_errors.too_large(form.path, most)
        with self._batches.lock:
            form.kept = True
            return self._batches.files.add(form.path, form.filename, purpose, keep_s).document()

    async def list_files(self, request: Request) -> Response:
        """GET /v1/files."""
        asked = request.query_params

        def work(_: str | None) -> Done:
            limit = batch_errors.page_limit(asked.get("limit"), 10_000, 10_000)
            if isinstance(limit, ErrorReply):
                return limit
            order = asked.get("order", "desc")
            if order not in ("asc", "desc"):
                return batch_errors.unsupported("order", order, ("asc", "desc"))
            with self._batches.lock:
                self._batches.advance()
                found = self._batches.files.listed(asked.get("purpose"), order == "desc")
            after = asked.get("after")
            places = [place for place, stored in enumerate(found, 1) if stored.id == after]
            if after is not None and not places:
                return batch_errors.no_file(after)
            begin = places[0] if places else 0
            page = [stored.document() for stored in found[begin : begin + limit]]
            return _page(page, len(found) > begin + limit)

        return await self._do("files/list", work)

    async def get_file(self, request: Request) -> Response:
        """GET /v1/files/{id}."""
        key = request.path_params["id"]

        def work(_: str | None) -> Done:
            stored = self._find(key)
            return batch_errors.no_file(key) if stored is None else stored.document()

        return await self._do("files/retrieve", work)

    async def delete_file(self, request: Request) -> Response:
        """DELETE /v1/files/{id}."""
        key = request.path_params["id"]

        def work(_: str | None) -> Done:
            with self._batches.lock:
                self._batches.advance()
                if self._batches.files.get(key) is None:
                    return batch_errors.no_file(key)
                self._batches.files.delete(key)
            return {"object": "file", "deleted": True, "id": key}

        return await self._do("files/delete", work)

    async def content(self, request: Request) -> Response:
        """GET /v1/files/{id}/content."""
        key = request.path_params["id"]
        fault = self._engine.fault("files/content", stream=True)
        if fault in ("drop_request", "drop_connection"):
            return Dropped()
        if fault is not None and fault != "cut_stream":
            return self._engine.reply(errors.fault(fault))
        stored = await asyncio.to_thread(self._find, key)
        if stored is None:
            return self._engine.wrong(batch_errors.no_file(key))
        return _Content(self._engine, stored, stored.bytes // 2 if fault == "cut_stream" else stored.bytes)

    async def no_uploads(self, request: Request) -> Response:
        """/v1/uploads and below."""
        return self._engine.wrong(batch_errors.no_uploads())

    def _find(self, key: str) -> Stored | None:
        with self._batches.lock:
            self._batches.advance()
            return self._batches.files.get(key)

    # -- batches -------------------------------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        """POST /v1/batches."""
        raw = await request.body()
        return await self._do("batches", lambda fault: self._create(raw, fault == "expire"))

    def _create(self, raw: bytes, late: bool) -> Done:
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return errors.not_json()
        for name in ("input_file_id", "endpoint", "completion_window"):
            if body.get(name) is None:
                return errors.missing(name)
            if not isinstance(body[name], str):
                return errors.wrong_type(name, "a string", body[name])
        endpoint, window = body["endpoint"], body["completion_window"]
        if endpoint not in batch_errors.ENDPOINTS:
            return batch_errors.unsupported("endpoint", endpoint, batch_errors.ENDPOINTS)
        if endpoint not in batch_errors.SERVED:
            return batch_errors.not_served(endpoint)
        if window != "24h":
            return batch_errors.unsupported("completion_window", window, ("24h",))
        wrong = batch_errors.wrong_metadata(body.get("metadata"))
        if wrong is not None:
            return wrong
        keep_s = batch_errors.expiry("output_expires_after", body.get("output_expires_after"))
        if isinstance(keep_s, ErrorReply):
            return keep_s
        with self._batches.lock:
            self._batches.advance()
            stored = self._batches.files.get(body["input_file_id"])
            if stored is None:
                return batch_errors.no_input(body["input_file_id"])
            if stored.purpose != "batch":
                return batch_errors.wrong_purpose(stored.purpose)
            return self._batches.create(stored, endpoint, body.get("metadata"), keep_s, late)

    async def get_batch(self, request: Request) -> Response:
        """GET /v1/batches/{id}."""
        key = request.path_params["id"]
        return await self._do("batches/retrieve", lambda _: self._batches.get(key) or batch_errors.no_batch(key))

    async def list_batches(self, request: Request) -> Response:
        """GET /v1/batches."""
        asked = request.query_params

        def work(_: str | None) -> Done:
            limit = batch_errors.page_limit(asked.get("limit"), 20, 100)
            if isinstance(limit, ErrorReply):
                return limit
            after = asked.get("after")
            found = self._batches.page(after, limit)
            return batch_errors.no_batch(after or "") if found is None else _page(*found)

        return await self._do("batches/list", work)

    async def cancel(self, request: Request) -> Response:
        """POST /v1/batches/{id}/cancel."""
        key = request.path_params["id"]

        def work(_: str | None) -> Done:
            done = self._batches.cancel(key)
            if done is None:
                return batch_errors.no_batch(key)
            return batch_errors.ended(done) if isinstance(done, str) else done

        return await self._do("batches/cancel", work)

    # -- the emulator's own --------------------------------------------------------------------------------------------

    async def tell(self, request: Request) -> Response:
        """GET /_emulator/batches; POST /_emulator/batches/finish lets them end first."""
        return JSONResponse(await asyncio.to_thread(self._tell, request.method == "POST"))

    def _tell(self, finish: bool) -> dict[str, Any]:
        if finish:
            self._batches.finish()
        return {
            "batches": self._batches.listed(),
            "changes": [change._asdict() for change in self._batches.changes()],
            "enqueued": [change._asdict() for change in self._batches.enqueued()],
        }


def _page(data: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }


class _Form:
    """An upload: its plain fields, and its file as a draft on disk. kept: the draft has become a file."""

    __slots__ = ("bytes", "fields", "filename", "kept", "path")

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.filename = ""
        self.path: Path | None = None
        self.bytes = 0
        self.kept = False


async def _receive(request: Request, open_draft: Callable[[], tuple[Path, Any]]) -> _Form:
    """Read an upload to its end. Nothing beyond the largest size allowed is written. Raises ValueError: no form."""
    reader, form, whole = Multipart(request.headers.get("content-type", "")), _Form(), False
    file, field, text = None, "", b""
    try:
        async for data in request.stream():
            for piece in reader.feed(data):
                if isinstance(piece, Begins):
                    field, text = piece.name, b""
                    if piece.filename is None or field != "file":
                        form.fields[field] = ""
                    elif file is None:
                        form.path, file = open_draft()
                        form.filename = piece.filename
                elif field == "file" and file is not None:
                    form.bytes += len(piece)
                    if form.bytes <= MOST_BYTES:
                        file.write(piece)
                else:
                    text += piece
                    if len(text) > _MOST_FIELD:
                        raise ValueError(f"the field {field} is too long")
                    form.fields[field] = text.decode("utf-8", "replace")
        if not reader.complete:
            raise ValueError("it ends before its last boundary")
        whole = True
        return form
    finally:
        if file is not None:
            file.close()
        if form.path is not None and not whole:
            form.path.unlink(missing_ok=True)


class _Content(Response):
    """A file as it lies on the disk, in pieces. most: bytes after which the connection breaks off."""

    def __init__(self, engine: Engine, stored: Stored, most: int) -> None:
        super().__init__()
        self._engine, self._stored, self._most = engine, stored, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stored.path.open("rb") as file:
            await self._engine.start(
                send,
                200,
                [
                    (b"content-type", b"application/octet-stream"),
                    (b"content-length", b"%d" % self._stored.bytes),
                ],
            )
            left = self._most
            while left > 0 and (piece := file.read(min(left, _PIECE))):
                left -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self._most == self._stored.bytes:  # the server closes a connection whose reply was left unfinished
            await send({"type": "http.response.body", "body": b"", "more_body": False})
