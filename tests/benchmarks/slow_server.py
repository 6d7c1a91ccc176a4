"""A stand-in for a model server whose capacity is known: one request at a time, 20 ms each, so 50 a second.

    python slow_server.py PORT SITE

``POST /slow`` with ``{"ms": 600}`` makes each answer come so much later; ``{"work_ms": 0}`` changes the 20 ms.
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


def make_app(site: str) -> Starlette:
    settings = {"ms": 0.0, "work_ms": 20.0}
    turn = asyncio.Semaphore(1)
    output = {"name": "total", "datatype": "FP32", "shape": [1, 1], "data": [3.5]}
    headers = {"x-ninelives-model-version": "1", "x-ninelives-site": site}

    async def infer(request: Request) -> JSONResponse:
        await request.body()
        async with turn:
            await asyncio.sleep(settings["work_ms"] / 1000)
        await asyncio.sleep(settings["ms"] / 1000)
        return JSONResponse({"model_name": "beta", "model_version": "1", "outputs": [output]}, headers=headers)

    async def ready(request: Request) -> JSONResponse:
        return JSONResponse({"ready": True})

    async def slow(request: Request) -> JSONResponse:
        settings.update(await request.json())
        return JSONResponse(settings)

    return Starlette(
        routes=[
            Route("/v2/models/{model}/infer", infer, methods=["POST"]),
            Route("/v2/models/{model}/ready", ready),
            Route("/slow", slow, methods=["POST"]),
        ]
    )


if __name__ == "__main__":
    uvicorn.run(make_app(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
