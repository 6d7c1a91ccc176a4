"""A model server with nothing but a folder: ``python -m ninelives.serving.alone FOLDER MODEL``, on loopback.

For rehearsals of a redeployment: no store, no connections, no secrets. The folder is laid out as a site's bucket. It
prints one line of JSON, its port and the packages that are installed, and serves until its standard input ends.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import cast

import uvicorn

from ninelives.errors import NinelivesError
from ninelives.ports import ObjectStore
from ninelives.serving.app import make_app
from ninelives.serving.repository import Repository


class Folder:
    """As much of ``ports.ObjectStore`` as a repository reads."""

    site = "rehearsal"

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, bucket: str, key: str) -> bytes | None:
        path = self.root / bucket / key
        return path.read_bytes() if path.is_file() else None


def main(arguments: list[str]) -> int:
    folder, model = arguments
    repository = Repository(cast(ObjectStore, Folder(Path(folder))), None, [model])
    try:
        repository.load(model)
    except NinelivesError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    packages = {str(one.metadata["Name"]): one.version for one in metadata.distributions()}
    print(json.dumps({"port": listening.getsockname()[1], "packages": packages}), flush=True)
    app = make_app(repository, site=Folder.site, key=None)
    # The parser of the real server: what is missing from a record must be missed here.
    server = uvicorn.Server(
        uvicorn.Config(app, http="httptools", access_log=False, log_level="warning", lifespan="off")
    )

    def stop_with_parent() -> None:
        # Whoever started us may be killed: its end of the pipe closes whatever happens to it.
        os.read(0, 1)
        server.should_exit = True

    threading.Thread(target=stop_with_parent, daemon=True).start()
    server.run(sockets=[listening])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
