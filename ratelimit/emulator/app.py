"""The HTTP application: OpenAI's URLs wired to the engine, plus /_emulator for whoever tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ratelimit.errors import ConfigError

from . import errors, replies
from .batch_pages import BatchPages
from .batches import Batches
from .engine import Engine
from .faults import parse_faults
from .plan import CHAT, EMBEDDINGS, RESPONSES


class _Pages:
    """The models, the emulator's own pages, and every URL that is not there."""

    def __init__(self, engine: Engine, batches: Batches) -> None:
        self._engine = engine
        self._batches = batches

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models."""
        data = [replies.model_card(name) for name in self._engine.account.known()]
        return self._engine.plain(200, replies.dumps({"object": "list", "data": data}))

    async def get_model(self, request: Request) -> Response:
        """GET /v1/models/{id}."""
        name = request.path_params["id"]
        try:
            known = self._engine.account.find(name) is not None
        except ConfigError as problem:
            return self._engine.reply(errors.no_limits(str(problem)))
        if not known:
            return self._engine.reply(errors.unknown_model(name, CHAT))
        return self._engine.plain(200, replies.dumps(replies.model_card(name)))

    async def tell(self, request: Request) -> Response:
        """GET /_emulator, and GET /_emulator/admissions for the log."""
        if request.url.path.endswith("/admissions"):
            return JSONResponse({"admissions": [admission._asdict() for admission in self._engine.admissions()]})
        return JSONResponse(await self._counters())

    async def reset(self, request: Request) -> Response:
        """POST /_emulator/reset."""
        self._engine.reset()
        await asyncio.to_thread(self._batches.clear)
        return JSONResponse(await self._counters())

    async def _counters(self) -> dict[str, Any]:
        return {**self._engine.counters(), "batches": await asyncio.to_thread(self._batches.counters)}

    async def faults(self, request: Request) -> Response:
        """POST /_emulator/faults: a list of rules, {"faults": [...]}, or {"faults": "500:every=10"}."""
        try:
            given = await request.json()
        except ValueError:
            return self._engine.reply(errors.not_json())
        try:
            rules = parse_faults(given.get("faults") if isinstance(given, dict) else given)
        except ConfigError as problem:
            return self._engine.reply(errors.invalid_value("faults", str(problem)))
        self._engine.set_faults(rules)
        return JSONResponse({"faults": len(rules)})

    async def no_such_url(self, request: Request, problem: Exception) -> Response:
        """Any other URL, and any other method."""
        return self._engine.reply(errors.unknown_url(request.method, request.url.path))


class _Endpoint:
    """A model endpoint as plain ASGI."""

    def __init__(self, serve: Callable[[str, Scope, Receive, Send], Awaitable[None]], endpoint: str) -> None:
        self._serve = serve
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._serve(self._endpoint, scope, receive, send)


class _App(Starlette):
    """Starlette, with the server's own `send` kept in reach: a dropped connection has to get at the socket."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["ratelimit.send"] = send
        await super().__call__(scope, receive, send)


def build(engine: Engine, batches: Batches) -> Starlette:
    """Wire the engine and the batches to their URLs."""
    pages, store = _Pages(engine, batches), BatchPages(engine, batches)
    app = _App(
        routes=[
            Route(CHAT, _Endpoint(engine.serve, CHAT), methods=["POST"]),
            Route(RESPONSES, _Endpoint(engine.serve, RESPONSES), methods=["POST"]),
            Route(EMBEDDINGS, _Endpoint(engine.serve, EMBEDDINGS), methods=["POST"]),
            Route("/v1/responses/{id}", engine.retrieve, methods=["GET"]),
            Route("/v1/responses/{id}/cancel", engine.cancel, methods=["POST"]),
            Route("/v1/models", pages.list_models, methods=["GET"]),
            Route("/v1/models/{id}", pages.get_model, methods=["GET"]),
            Route("/v1/files", store.upload, methods=["POST"]),
            Route("/v1/files", store.list_files, methods=["GET"]),
            Route("/v1/files/{id}", store.get_file, methods=["GET"]),
            Route("/v1/files/{id}", store.delete_file, methods=["DELETE"]),
            Route("/v1/files/{id}/content", store.content, methods=["GET"]),
            Route("/v1/uploads{rest:path}", store.no_uploads, methods=["GET", "POST"]),
            Route("/v1/batches", store.create, methods=["POST"]),
            Route("/v1/batches", store.list_batches, methods=["GET"]),
            Route("/v1/batches/{id}", store.get_batch, methods=["GET"]),
            Route("/v1/batches/{id}/cancel", store.cancel, methods=["POST"]),
            Route("/_emulator/batches", store.tell, methods=["GET"]),
            Route("/_emulator/batches/finish", store.tell, methods=["POST"]),
            Route("/_emulator", pages.tell, methods=["GET"]),
            Route("/_emulator/admissions", pages.tell, methods=["GET"]),
            Route("/_emulator/reset", pages.reset, methods=["POST"]),
            Route("/_emulator/faults", pages.faults, methods=["POST"]),
        ],
        exception_handlers={404: pages.no_such_url, 405: pages.no_such_url},
    )
    app.router.redirect_slashes = False
    return app
