"""The HTTP face of a model server: Open Inference Protocol V2 with the model repository extension."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ninelives import __version__
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.serving.protocol import MAX_BODY_BYTES, SITE_HEADER, VERSION_HEADER
from ninelives.serving.repository import Repository

INFERENCE_THREADS = 4
"""Inferences at once; more wait. Health answers come from the event loop and never wait for one."""


def make_app(repository: Repository, *, site: str, key: str | None) -> Starlette:
    """The application. Without ``key`` nobody may load or unload."""
    threads: list[CapacityLimiter] = []  # a limiter needs the running event loop

    async def server(request: Request) -> Response:
        return _json(200, {"name": "ninelives", "version": __version__, "extensions": ["model_repository"]})

    async def live(request: Request) -> Response:
        return _json(200, {"live": True})

    async def ready(request: Request) -> Response:
        good = repository.all_ready()
        return _json(200 if good else 503, {"ready": good})

    async def model_ready(request: Request) -> Response:
        name = request.path_params["model"]
        good = repository.ready(name)
        return _json(200 if good else 503, {"name": name, "ready": good})

    async def metadata(request: Request) -> Response:
        name = request.path_params["model"]
        model = repository.get(name)
        return _absent(name) if model is None else _json(200, model.metadata())

    async def infer(request: Request) -> Response:
        name = request.path_params["model"]
        body = await _body(request)
        model = repository.get(name)
        if model is None:
            return _absent(name)
        if not threads:
            threads.append(CapacityLimiter(INFERENCE_THREADS))

        def answer() -> bytes:
            return json.dumps(model.infer(json.loads(body, parse_constant=_no_constant)), allow_nan=False).encode()

        try:
            content = await to_thread.run_sync(answer, limiter=threads[0])
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            return _error(400, str(error)[:500])
        except ArithmeticError as error:
            return _error(500, str(error))
        return Response(content, headers={VERSION_HEADER: model.version}, media_type="application/json")

    async def load(request: Request) -> Response:
        name = request.path_params["model"]
        model = await to_thread.run_sync(repository.load, name)
        return _json(200, {"name": name, "version": model.version})

    async def unload(request: Request) -> Response:
        name = request.path_params["model"]
        await to_thread.run_sync(repository.unload, name)
        return _json(200, {"name": name})

    async def index(request: Request) -> Response:
        return _json(200, repository.index())

    def _absent(name: str) -> Response:
        # 503 lets the gateway try another replica; 404 says that no replica will ever know it.
        if repository.knows(name):
            return _error(503, f"model {name} is not loaded")
        return _error(404, f"model {name} is unknown here")

    def _guarded(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            sent = request.headers.get("authorization", "").encode("latin-1")
            if not key or not hmac.compare_digest(sent, f"Bearer {key}".encode()):
                return _error(401, "the model repository needs its key as a bearer token")
            try:
                return await endpoint(request)
            except Unavailable as error:
                return _error(503, str(error))
            except Corrupted as error:
                return _error(422, str(error))
            except Refused as error:
                return _error(400, str(error))

        return guarded

    async def failed(request: Request, error: Exception) -> Response:
        code = error.status_code if isinstance(error, HTTPException) else 500
        return _error(code, error.detail if isinstance(error, HTTPException) else "internal error")

    routes = [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/models/{model}", metadata),
        Route("/v2/models/{model}/ready", model_ready),
        Route("/v2/models/{model}/infer", infer, methods=["POST"]),
        Route("/v2/repository/index", _guarded(index), methods=["POST"]),
        Route("/v2/repository/models/{model}/load", _guarded(load), methods=["POST"]),
        Route("/v2/repository/models/{model}/unload", _guarded(unload), methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: failed, Exception: failed})

    async def with_site(scope: Any, receive: Any, send: Any) -> None:
        async def send_with_site(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (SITE_HEADER.encode(), site.encode())]
            await send(message)

        await app(scope, receive, send_with_site if scope["type"] == "http" else send)

    return with_site  # type: ignore[return-value]


async def _body(request: Request) -> bytes:
    """At most ``MAX_BODY_BYTES``, however long the sender says or does not say it is."""
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise HTTPException(413, f"a request may have at most {MAX_BODY_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _json(status: int, document: Any) -> Response:
    return Response(json.dumps(document), status_code=status, media_type="application/json")


def _error(status: int, message: str) -> Response:
    return _json(status, {"error": message})
