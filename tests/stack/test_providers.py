"""A recorded feed through a real HTTP server into a real store, with everything that can go wrong with it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.processes import SiteProcesses, stopping, wait_until
from support.providers import NOW, Stand, connect, record

from ninelives.errors import Refused, Unavailable
from ninelives.injections import Replayed, find_injection, open_injections
from ninelives.providers.disturb import Kind
from ninelives.providers.replay import ALIVE, KIND, replay_feed
from ninelives.replication.manifest import BUCKET
from ninelives.stack.keeper import undo_expired

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("providers")


@pytest.fixture(scope="module")
def paris(folder: Path) -> Iterator[SiteProcesses]:
    processes = SiteProcesses("paris", folder / "paris", models="", replicas=0)
    with stopping(processes):
        processes.start_store()
        record(folder, processes)
        yield processes


@pytest.fixture
def site(folder: Path, paris: SiteProcesses) -> Stand:
    return Stand(folder)


def test_of_a_disturbed_feed_each_sound_record_lands_once_and_nothing_of_the_drill_is_left(site: Stand) -> None:
    before = site.keys
    found, record = replay_feed(site.systems, "airports", holder="test", seed=7, speed=36_000, now=NOW)
    assert found.met, found.facts()
    assert found.landed == found.unique == found.expected > 100
    kinds = found.kinds
    assert {kind: (one.batches, one.sent) for kind, one in kinds.items()} == {
        Kind.SOUND: (8, 8), Kind.LATE: (1, 1), Kind.DUPLICATE: (1, 2), Kind.MISSING: (1, 0), Kind.MALFORMED: (1, 1),
    }  # fmt: skip
    assert kinds[Kind.LATE].landed > 0
    assert kinds[Kind.DUPLICATE].dropped == 1
    assert (kinds[Kind.MALFORMED].landed, kinds[Kind.MALFORMED].quarantined) == (0, 1)
    assert found.stalest >= timedelta(hours=2), "an hour that is missing is two between its neighbours"
    assert (record.kind, record.subject, record.facts["verdict"]) == (KIND, "airports", "met")
    assert site.keys == before
    assert open_injections(site.home) == []
    assert site.ledger.current_lease("provider:airports") is None


def test_what_a_killed_replay_left_is_removed_by_the_keeper_and_its_lease_was_renewed(
    site: Stand, folder: Path
) -> None:
    before = site.keys
    with replaying_elsewhere(folder) as process:
        wait_until(lambda: [key for key in site.keys if key.startswith("_drills/")], "something arrives", timeout=60)
        lease = site.ledger.current_lease("provider:airports")
        assert lease
        assert lease.expires_at <= datetime.now(UTC) + ALIVE, "it does not outlive a killed one by the whole replay"

        def renewed() -> bool:
            now = site.ledger.current_lease("provider:airports")
            return bool(now and now.expires_at > lease.expires_at)

        wait_until(renewed, "the lease is renewed")
        process.kill()
    assert site.keys != before
    (left,) = open_injections(site.home)
    assert left.to_undo == (
        Replayed(provider="airports", site="paris", bucket=BUCKET, folder="_drills/provider=airports/"),
    )
    assert undo_expired(site.home, datetime.now(UTC), site.faults) == [], "one that may be alive is left alone"
    assert undo_expired(site.home, left.expires_at, site.faults) == [left]
    assert site.keys == before
    undone = find_injection(site.home, left.id)
    assert undone
    assert undone.undone_by == "keeper"
    held = site.ledger.current_lease("provider:airports")
    assert held
    for lease in (held, site.ledger.current_lease("stream:_drills/provider=airports")):
        if lease:  # the latter only where it was killed while it landed a batch
            site.ledger.release_lease(lease)  # as time would, five minutes later


@contextmanager
def replaying_elsewhere(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "support.providers", str(folder), "7200"]  # a batch in half a second
    process = subprocess.Popen(command, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_without_a_keeper_the_next_replay_removes_what_a_killed_one_left(site: Stand) -> None:
    before = site.keys
    site.store.put(BUCKET, "_drills/provider=airports/arrived/1.parquet", b"left")
    site.store.put(BUCKET, "_manifests/_drills/provider=airports.json", b"left")
    replay_feed(site.systems, "airports", holder="test", seed=1, speed=360_000, batches=5, now=NOW)
    assert site.keys == before


def test_outside_of_the_window_nothing_is_touched_and_the_next_is_named(site: Stand) -> None:
    before = site.keys
    late = NOW + timedelta(hours=1, minutes=58)
    with pytest.raises(Refused, match="the next one opens 2026-12-06 09:00 UTC"):
        replay_feed(site.systems, "airports", holder="test", seed=7, speed=36_000, now=late)
    assert site.keys == before
    assert site.ledger.current_lease("provider:airports") is None


def test_a_sandbox_gives_the_batches_to_who_has_its_key_and_without_it_nothing_starts(
    site: Stand, folder: Path, paris: SiteProcesses
) -> None:
    recorded = [site.store.get(BUCKET, key) or b"" for key in site.keys if "/hour=" in key]

    class Sandbox(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            right = self.headers["authorization"] == "Bearer for these tests only"
            body = recorded[int(self.path.removeprefix("/feed/"))] if right else b""
            self.send_response(200 if right else 401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Sandbox)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    at = {"conn_type": "http", "host": "127.0.0.1", "port": server.server_port, "schema": "feed"}
    before = site.keys

    def replay(password: str) -> dict[str, object]:
        connect(folder, paris, at | {"password": password})
        stand = Stand(folder, sandbox=True)
        return replay_feed(stand.systems, "airports", holder="test", seed=7, speed=360_000, now=NOW)[0].facts()

    try:
        with pytest.raises(Unavailable, match="the sandbox of airports did not give"):
            replay("wrong")
        found = replay("for these tests only")
    finally:
        server.shutdown()
        server.server_close()
        connect(folder, paris)
    assert (found["source"], found["verdict"]) == ("sandbox", "met")
    assert site.keys == before
    assert open_injections(site.home) == []
