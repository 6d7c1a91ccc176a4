"""A V2 service as a process of its own: answers 6.5 as version 3, or what the file named by ``$ANSWER`` says.

Run: ``python fake_service.py PORT``; ``$ANSWER`` holds ``value version`` or ``degraded``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def infer(request: Request) -> JSONResponse:
    await request.json()
    value, _, version = Path(os.environ["ANSWER"]).read_text().partition(" ")
    output = {"name": "arrival_delay", "shape": [1, 1], "datatype": "FP64"}
    if value == "degraded":
        return JSONResponse({"outputs": [output | {"data": [6.9]}]}, headers={"x-ninelives-degraded": "default"})
    body = {"model_name": "arrival-delay", "model_version": version, "outputs": [output | {"data": [float(value)]}]}
    return JSONResponse(body, headers={"x-ninelives-model-version": version, "x-ninelives-site": "paris"})


app = Starlette(routes=[Route("/services/{service}/v2/models/{model}/infer", infer, methods=["POST"])])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
