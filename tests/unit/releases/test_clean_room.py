"""A clean environment that cannot be built says whose fault it is: the record's, or a registry's that is away."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ninelives.adapters.clean_room import clean_room
from ninelives.adapters.redeploy import describe
from ninelives.errors import Refused, Unavailable
from ninelives.releases.publish import GoldenAnswer, Release, object_key
from ninelives.releases.redeploy import Package

DIGEST = "sha256:" + "a" * 64
RELEASE = Release(
    model="alpha", version="1", digest=DIGEST, object=object_key("alpha", DIGEST), size=1, data_version="none",
    tolerance=0.0, golden=(GoldenAnswer(inputs={"a": 1}, outputs={"b": (1,)}),), created_at=datetime.now(UTC),
)  # fmt: skip
WITHDRAWN = Package(name="numpy", version="0.0.1", hashes=("sha256:" + "0" * 64,))


@contextmanager
def registry(status: int, page: bytes) -> Iterator[str]:
    """One that answers everything alike; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def build(index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index, "PIP_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    record = describe(RELEASE, "0" * 64).model_copy(update={"packages": (WITHDRAWN,)})
    with clean_room(record, b"", {}):
        pytest.fail("it was built of nothing")


@pytest.mark.parametrize(
    ("status", "page"), [(404, b""), (200, b"<html><body><a href='numpy-9.9-py3-none-any.whl'>numpy</a></body></html>")]
)
def test_a_package_that_every_registry_has_withdrawn_is_a_miss_with_its_name(
    status: int, page: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry(status, page) as index, pytest.raises(Refused, match=r"has numpy==0\.0\.1 for this machine any more"):
        build(index, monkeypatch)


def test_a_registry_that_is_away_says_nothing_of_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    with registry(503, b"") as index, pytest.raises(Unavailable, match="cannot be built"):
        build(index, monkeypatch)
    with pytest.raises(Unavailable, match="cannot be built"):
        build(index, monkeypatch)  # nobody listens there any more


def test_without_a_folder_to_build_in_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    with pytest.raises(Unavailable, match="set TMPDIR"):
        build("http://127.0.0.1:9/simple/", monkeypatch)
