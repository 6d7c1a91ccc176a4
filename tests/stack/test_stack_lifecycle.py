"""The local estate's real processes: started, lost, restored, killed in every way, and gone afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from support.estate import free_base

from ninelives.adapters.connections import FileConnections
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.errors import Refused, Unavailable
from ninelives.home import Home
from ninelives.injections import Injection, find_injection, open_injection
from ninelives.stack import lifecycle, processes
from ninelives.stack.local import LocalEstate
from ninelives.stack.programs import Part

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

DEMO = Path(__file__).parents[2] / "include" / "estates" / "demo" / "estate.yaml"
LIGHT = frozenset(Part) - {Part.GATEWAY, Part.KEEPER}


def _until(condition: Callable[[], bool], what: str, patience: float = 90.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def _state(home: Home, program: str) -> tuple[str, int | None]:
    row = next(row for row in lifecycle.status(home)["programs"] if row["program"] == program)
    return row["state"], row["pid"]


def _pids(home: Home, site: str) -> list[int]:
    return [row["pid"] for row in lifecycle.status(home)["programs"] if row["site"] == site]


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _store(home: Home, site: str) -> S3ObjectStore:
    return S3ObjectStore.from_connection(FileConnections(home.connections_file).get(f"ninelives_{site}_store"), site)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A light estate: PostgreSQL, both sites, gateway, keeper."""
    made = Home(tmp_path_factory.mktemp("estate"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NINELIVES_PORT_BASE", str(free_base()))
        try:
            lifecycle.up(made, DEMO, LIGHT)
            yield made
        finally:
            lifecycle.down(made)
    assert processes.remaining(made) == []


def test_everything_runs_and_a_second_start_is_quick(home: Home) -> None:
    assert lifecycle.status(home)["up"]
    began = time.monotonic()
    assert lifecycle.up(home).started == ()
    assert time.monotonic() - began < 5


def test_no_secret_is_in_the_arguments_of_any_process_and_every_file_with_one_is_private(home: Home) -> None:
    secrets = json.loads((home.root / "secrets" / "secrets.json").read_text())
    words = [" ".join(process.cmdline()) for process in processes.remaining(home)]
    assert len(words) > 8
    assert not [name for name, value in secrets.items() if any(value in line for line in words)]
    for path in home.root.rglob("*"):
        if path.is_file() and path.stat().st_size < 1_000_000 and path.stat().st_mode & 0o077:
            text = path.read_bytes()
            assert not [name for name, value in secrets.items() if value.encode() in text], path


def test_every_port_is_on_loopback(home: Home) -> None:
    ours = {process.pid for process in processes.remaining(home)}
    listening = [one for one in psutil.net_connections("inet") if one.pid in ours and one.status == psutil.CONN_LISTEN]
    assert len(listening) >= 9
    assert {one.laddr.ip for one in listening} == {"127.0.0.1"}


def test_a_store_answers_only_to_its_keys(home: Home) -> None:
    connection = FileConnections(home.connections_file).get("ninelives_paris_store")
    assert httpx.get(connection.extra["endpoint_url"] + "/data").status_code in {400, 403}
    other = FileConnections(home.connections_file).get("ninelives_dublin_store")
    stranger = S3ObjectStore.from_connection(
        type(connection)("x", login=other.login, password=other.password, extra=connection.extra), "paris"
    )
    with pytest.raises(Exception, match=r"(?i)access|denied|key"):
        stranger.get("data", "any")


def test_a_lost_site_is_gone_at_once_stays_gone_keeps_its_disk_and_comes_back(home: Home) -> None:
    _store(home, "paris").put("data", "kept", b"bytes")
    pids, others = _pids(home, "paris"), _pids(home, "dublin")
    before = datetime.now(UTC)
    lost_at = lifecycle.lose(home, "paris")
    assert before <= lost_at <= datetime.now(UTC)
    assert all(_gone(pid) for pid in pids)
    with pytest.raises(Unavailable):
        _store(home, "paris").ping()
    lifecycle.lose(home, "paris")  # losing it again is not an error
    assert not lifecycle.status(home)["up"]
    assert _pids(home, "dublin") == others
    time.sleep(2.5)  # supervisord restarts what it restarts within a second: nothing must have come back
    assert _pids(home, "paris") == [None] * 4
    lifecycle.restore(home, "paris")
    lifecycle.restore(home, "paris")
    assert _store(home, "paris").get("data", "kept") == b"bytes"
    assert lifecycle.status(home)["up"]


def test_a_replica_that_crashes_by_itself_is_started_again(home: Home) -> None:
    _, pid = _state(home, "paris-replica-1")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    _until(lambda: _state(home, "paris-replica-1") not in {("RUNNING", pid), ("EXITED", pid)}
           and _state(home, "paris-replica-1")[0] == "RUNNING", "the replica did not come back")  # fmt: skip


def test_a_replica_that_crashes_as_the_site_is_lost_does_not_survive_it(home: Home) -> None:
    for _ in range(2):
        for pid in _pids(home, "dublin"):
            os.kill(pid, signal.SIGKILL)
        lifecycle.lose(home, "dublin")
        assert [_state(home, f"dublin-{name}")[0] for name in ("store", "replica-1", "replica-2")] == ["STOPPED"] * 3
        lifecycle.restore(home, "dublin")


def test_the_keeper_restores_a_site_whose_drill_died(home: Home) -> None:
    now = datetime.now(UTC)
    open_injection(home, Injection(id="dead", scenario="site-loss", site="dublin", service="arrival-delay",
                                   started_at=now, expires_at=now + timedelta(seconds=4)))  # fmt: skip
    lifecycle.lose(home, "dublin")
    started = lifecycle.up(home)  # somebody who starts the stack in mid-drill does not help the drill
    assert started.left_lost == ("dublin",) or datetime.now(UTC) > now + timedelta(seconds=4)
    _until(lambda: bool((found := find_injection(home, "dead")) and found.undone_at), "the keeper did nothing")
    found = find_injection(home, "dead")
    assert found is not None
    assert found.undone_by == "keeper"
    assert lifecycle.status(home)["up"]


@pytest.mark.soak
def test_a_second_estate_is_refused_on_the_same_ports_and_runs_on_others(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Home(tmp_path / "second")
    holder = _state(home, "gateway")[1]
    try:
        with pytest.raises(Refused, match=rf"\(gateway\) is held by envoy \(pid {holder}\)"):
            lifecycle.up(second, DEMO, LIGHT)
        assert processes.remaining(second) == []
        monkeypatch.setenv("NINELIVES_PORT_BASE", str(free_base()))
        lifecycle.up(second, DEMO, LIGHT)
        assert lifecycle.status(second)["up"]
    finally:
        lifecycle.down(second)
    assert processes.remaining(second) == []
    assert lifecycle.status(home)["up"]


def test_a_start_that_fails_half_way_names_the_log_and_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Home(tmp_path)
    monkeypatch.setenv("NINELIVES_PORT_BASE", str(free_base()))
    data = tmp_path / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9.6\n")
    (tmp_path / "postgres" / "created").touch()
    with pytest.raises(Unavailable, match=r"(?s)postgres .*last lines of .*postgres\.log:\n.+"):
        lifecycle.up(broken, DEMO, LIGHT)
    assert processes.remaining(broken) == []


def test_a_start_that_is_told_to_end_leaves_nothing_running(tmp_path: Path) -> None:
    cut = Home(tmp_path)
    environment = {**os.environ, "NINELIVES_HOME": str(tmp_path), "NINELIVES_PORT_BASE": str(free_base())}
    starting = subprocess.Popen(
        [sys.executable, "-m", "ninelives", "stack", "up", "--estate", str(DEMO), "--only", ""], env=environment
    )
    try:
        _until(lambda: len(processes.remaining(cut)) >= 3, "nothing was started")
        starting.send_signal(signal.SIGTERM)
        assert starting.wait(120) == 128 + signal.SIGTERM
    finally:
        starting.kill()
        starting.wait()
    assert processes.remaining(cut) == []


def test_a_nearly_full_disk_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "MIN_FREE", 10**18)
    monkeypatch.setenv("NINELIVES_PORT_BASE", str(free_base()))
    with pytest.raises(Refused, match=r"disk is nearly full.*GB free"):
        lifecycle.up(Home(tmp_path), DEMO, LIGHT)
    assert processes.remaining(Home(tmp_path)) == []


def test_the_command_line_says_the_same_with_its_exit_codes(home: Home) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "ninelives", "stack", *words], capture_output=True, text=True,
                              env={**os.environ, "NINELIVES_HOME": str(home.root)}, check=False)  # fmt: skip

    ran = run("status", "--json")
    assert (ran.returncode, json.loads(ran.stdout)["up"]) == (0, True)
    lost = run("lose", "paris", "--json")
    assert lost.returncode == 0, lost.stderr
    assert datetime.fromisoformat(json.loads(lost.stdout)["lost_at"]).tzinfo
    assert run("status").returncode == 1
    assert run("restore", "paris").returncode == 0
    unknown = run("lose", "rome")
    assert (unknown.returncode, "paris, dublin" in unknown.stderr) == (1, True)
    assert run("status").returncode == 0


def test_down_leaves_nothing_even_after_the_supervisor_was_killed_and_up_recovers(home: Home) -> None:
    pid = int((home.root / "run" / "supervisord.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    _until(lambda: _gone(pid), "supervisord is still there")
    assert len(processes.remaining(home)) > 5
    assert not lifecycle.status(home)["up"]
    lifecycle.up(home)  # ends the orphans, which hold the ports, and starts anew
    assert lifecycle.status(home)["up"]
    os.kill(int((home.root / "run" / "supervisord.pid").read_text()), signal.SIGKILL)
    lifecycle.down(home)
    assert processes.remaining(home) == []
    assert (LocalEstate.recorded(home).store_folder("paris") / "data" / "kept").exists()
