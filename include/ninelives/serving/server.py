"""A model server: ``python -m ninelives.serving.server``, configured by its environment.

| variable | meaning |
|---|---|
| ``NINELIVES_SITE`` | the site this replica belongs to |
| ``NINELIVES_PORT`` | port to listen on; ``NINELIVES_HOST`` is 127.0.0.1 unless set |
| ``NINELIVES_CONNECTIONS`` | file with the connections ``ninelives_<site>_store`` and ``ninelives_<site>_replicas`` |
| ``NINELIVES_STORE`` | URL of the store within the site, where the connection's is the way from outside |
| ``NINELIVES_MODELS`` | models to load at the start, separated by commas |
| ``NINELIVES_CACHE`` | folder for verified copies of models; without it a restart needs the store |
| ``NINELIVES_PROVIDER`` | what ONNX Runtime calls the accelerator; CUDAExecutionProvider unless set |
| ``NINELIVES_DRAIN`` | seconds between "not ready" and the end after SIGTERM, 1.5 unless set |

It is live at once, and ready when every model is loaded, warm and answers its golden requests correctly.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ninelives.adapters.connections import FileConnections
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.errors import NinelivesError
from ninelives.serving.app import make_app
from ninelives.serving.repository import PROVIDER, Repository

log = logging.getLogger("ninelives.serving")

KEEP_ALIVE = 75
"""Seconds; longer than the gateway keeps an idle connection, so that the server never closes one under a request."""


class WholeAnswers(HttpToolsProtocol):
    """Head and body of an answer leave in one piece.

    uvicorn sends them one after the other. A process that is killed in between leaves a head with which the gateway has
    begun to answer, so that it cannot ask another replica any more.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Joined(transport, self.loop))  # type: ignore[arg-type]


class _Joined:
    """A transport that sends what was written in one turn of the event loop at once, at its end."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop, self._held = transport, loop, list[bytes]()

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)

    def _send(self) -> None:
        held, self._held = self._held, []
        if held:
            self._transport.write(b"".join(held))

    def close(self) -> None:
        self._send()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class DrainingServer(uvicorn.Server):
    """On SIGTERM first says that it is not ready, goes on answering for ``drain`` seconds, then ends with code 0."""

    def __init__(self, config: uvicorn.Config, repository: Repository, drain: float) -> None:
        super().__init__(config)
        self._repository = repository
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._repository.draining:  # asked twice: do not wait
            self.should_exit = True
            return
        self._repository.draining = True
        timer = threading.Timer(self._drain, self._stop)
        timer.daemon = True
        timer.start()

    def _stop(self) -> None:
        self.should_exit = True


def main(environment: Mapping[str, str]) -> int:
    """Serve until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        site, port = environment["NINELIVES_SITE"], int(environment["NINELIVES_PORT"])
        connections = FileConnections(Path(environment["NINELIVES_CONNECTIONS"]))
        drain = float(environment.get("NINELIVES_DRAIN") or 1.5)
    except (KeyError, ValueError) as error:
        log.error("the environment lacks or spoils a setting: %s", error)
        return 2
    try:
        connection = connections.get(f"ninelives_{site}_store")
        if near := environment.get("NINELIVES_STORE"):
            connection = replace(connection, extra={**connection.extra, "endpoint_url": near})
        store = S3ObjectStore.from_connection(connection, site)
        key = connections.get(f"ninelives_{site}_replicas").password
        cache = environment.get("NINELIVES_CACHE")
        models = [name.strip() for name in environment.get("NINELIVES_MODELS", "").split(",") if name.strip()]
        repository = Repository(
            store, Path(cache) if cache else None, models, environment.get("NINELIVES_PROVIDER") or PROVIDER
        )
    except NinelivesError as error:
        log.error("%s", error)
        return 1
    if not key:
        log.warning("ninelives_%s_replicas has no password: nobody can load or unload models", site)

    stop = threading.Event()
    # A daemon: a store that hangs must not keep the process from ending.
    threading.Thread(target=repository.keep_loading, args=(stop,), name="loader", daemon=True).start()
    config = uvicorn.Config(
        make_app(repository, site=site, key=key),
        host=environment.get("NINELIVES_HOST") or "127.0.0.1",
        port=port,
        access_log=False,
        log_level="warning",
        lifespan="off",
        http=WholeAnswers,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=5,
    )
    DrainingServer(config, repository, drain).run()
    stop.set()
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
