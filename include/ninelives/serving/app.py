"""The HTTP face of a model server: Open Inference Protocol V2 with the model repository extension."""

from __future__ import annotations

import hmac
import json
import time
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
from ninelives.releases.golden import answers_match
from ninelives.serving.attempts import AttemptLog
from ninelives.serving.model import OnnxModel
from ninelives.serving.protocol import (
    ARM_HEADER,
    ATTEMPT_HEADER,
    MAX_BODY_BYTES,
    SITE_HEADER,
    STABLE_HEADER,
    VERSION_HEADER,
    WANTED_HEADER,
    decode_response,
)
from ninelives.serving.repository import Repository

AGREEMENT = 0.001
"""Tolerance, as ``answers_match`` means it, within which two versions answer the same."""

INFERENCE_THREADS = 4
"""Inferences at once; more wait. Health answers come from the event loop and never wait for one."""


def make_app(repository: Repository, *, site: str, key: str | None) -> Starlette:
    """The application. Without ``key`` nobody may load or unload."""
    attempts = AttemptLog()
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
        wanted, arm = _wanted(request)
        served = repository.get(name)
        model = (repository.get_version(name, wanted) if wanted else None) or served
        if "version" in request.path_params:
            asked = request.path_params["version"]
            model = repository.get_version(name, asked)
            if model is None and arm == "beside" and wanted == asked:
                # Only for the gateway, which has routes to nothing but what was let in.
                repository.recall(name, asked)
        if model is None:
            return _absent(name)
        if not threads:
            threads.append(CapacityLimiter(INFERENCE_THREADS))

        def answer() -> bytes:
            document = json.loads(body, parse_constant=_no_constant)
            began, agrees = time.perf_counter(), None
            try:
                result = model.infer(document)
            except (ValueError, RecursionError):
                if arm == "stable" or served is None:
                    raise
                served.infer(document)  # raises in its turn where the user is wrong, not the new version
                attempts.add(name, arm, model.version, latency=time.perf_counter() - began, good=False)
                raise ArithmeticError(f"version {model.version} refuses what {served.version} answers") from None
            except Exception:
                attempts.add(name, arm, model.version, latency=time.perf_counter() - began, good=False)
                raise
            latency = time.perf_counter() - began
            if arm == "shadow" and served is not None:
                agrees = _agree(served, document, result)
            attempts.add(name, arm, model.version, latency=latency, good=True, agrees=agrees)
            return json.dumps(result, allow_nan=False).encode()

        try:
            content = await to_thread.run_sync(answer, limiter=threads[0])
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            return _error(400, str(error)[:500])
        except ArithmeticError as error:
            return _error(500, str(error))
        return Response(content, headers={VERSION_HEADER: model.version}, media_type="application/json")

    async def load(request: Request) -> Response:
        name = request.path_params["model"]
        version = _version(await _body(request))
        load_one = repository.load if version is None else lambda name: repository.load_version(name, version)
        model = await to_thread.run_sync(load_one, name)
        return _json(200, {"name": name, "version": model.version})

    async def unload(request: Request) -> Response:
        name = request.path_params["model"]
        version = _version(await _body(request))
        unload_one = repository.unload if version is None else lambda name: repository.unload_version(name, version)
        await to_thread.run_sync(unload_one, name)
        return _json(200, {"name": name})

    async def tries(request: Request) -> Response:
        name = request.path_params["model"]
        return _json(200, attempts.document(name, repository.versions(name)))

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
        Route("/v2/models/{model}/versions/{version}/infer", infer, methods=["POST"]),
        Route("/v2/repository/models/{model}/attempts", _guarded(tries), methods=["POST"]),
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


def _wanted(request: Request) -> tuple[str | None, str]:
    """Version and arm of this try. Whatever a new version could not answer, every other try takes to the old one."""
    headers = request.headers
    arm = headers.get(ARM_HEADER, "stable")
    if headers.get(ATTEMPT_HEADER, "1") != "1" and (stable := headers.get(STABLE_HEADER)):
        return stable, "stable"
    return headers.get(WANTED_HEADER), arm


def _agree(served: OnnxModel, document: Any, result: dict[str, Any]) -> bool:
    """Whether the release that is served answers a copied request the same."""
    try:
        mine, theirs = (decode_response(one, {}, 0.0).outputs for one in (served.infer(document), result))
    except (ValueError, ArithmeticError):
        return False
    return answers_match(mine, theirs, AGREEMENT)


def _version(body: bytes) -> str | None:
    """``parameters.version`` of an order to load or unload; ``None``: of the release that the site serves."""
    try:
        document = json.loads(body or b"{}")
    except ValueError:
        document = None
    parameters = document.get("parameters", {}) if isinstance(document, dict) else None
    version = parameters.get("version") if isinstance(parameters, dict) else ""
    if not isinstance(parameters, dict) or not isinstance(version, str | None):
        raise Refused("model repository", ["the order must be a JSON object, its parameters.version a text"])
    return version


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
