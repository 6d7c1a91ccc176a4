"""The prober as its own process, against a service that is really killed at recorded instants."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ninelives.probing.measure import Verdict, measure_loss, steady_state
from ninelives.probing.records import Outcome, probe_files, read_file, read_heartbeat, read_probes, wait_until_complete

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]

INTERVAL = 0.05
LASTING = timedelta(seconds=1)
ESTATE = Path(__file__).parents[2] / "include/estates/demo/estate.yaml"
FEATURES = {"carrier": "UA", "hour": 5, "distance": 1400}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(true: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


class World:
    """One service behind one address, one prober, both real processes in groups of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.probes = root / "probes"
        self.answer = root / "answer"
        self.answer.write_text("6.5 3")
        self._running: list[subprocess.Popen[bytes]] = []
        (root / "golden").mkdir()
        self.publish({"3": 6.5})
        estate = YAML(typ="safe").load(ESTATE.read_text("utf-8"))
        estate["services"] = [service for service in estate["services"] if service["name"] == "arrival-delay"]
        del estate["drills"]["calendar"]  # it names the other service too
        estate["models"] = [model for model in estate["models"] if model["name"] == "arrival-delay"]
        with (root / "estate.yaml").open("w") as file:
            YAML(typ="safe").dump(estate, file)
        (root / "secrets").mkdir()
        gateway = {"conn_type": "generic", "extra": {"url": f"http://127.0.0.1:{self.port}"}}
        (root / "secrets/connections.json").write_text(json.dumps({"ninelives_gateway": gateway}))

    def publish(self, releases: dict[str, float]) -> None:
        golden = {
            "model": "arrival-delay",
            "releases": {
                version: {"tolerance": 0.001, "golden": [{"inputs": FEATURES, "outputs": {"arrival_delay": [value]}}]}
                for version, value in releases.items()
            },
        }
        fresh = self.root / "golden/fresh"
        fresh.write_text(json.dumps(golden))
        fresh.replace(self.root / "golden/arrival-delay.json")

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(str(ESTATE.parents[3] / folder) for folder in ("include", "plugins"))
        environment = os.environ | {"NINELIVES_HOME": str(self.root), "NINELIVES_ESTATE": "", "PYTHONPATH": path}
        environment["ANSWER"] = str(self.answer)
        with (self.root / "processes.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self._running.append(process)
        return process

    def start_service(self) -> subprocess.Popen[bytes]:
        service = self.start(sys.executable, str(Path(__file__).with_name("fake_service.py")), str(self.port))

        def listens() -> bool:
            assert service.poll() is None
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        until(listens)
        return service

    def start_prober(self, rate: float = 1 / INTERVAL) -> subprocess.Popen[bytes]:
        script = "from ninelives.cli import main; main()"
        before = read_heartbeat(self.probes)
        prober = self.start(sys.executable, "-c", script, "prober", "run", "--rate", str(rate))

        def beats() -> bool:
            assert prober.poll() is None, (self.root / "processes.log").read_text()
            beat = read_heartbeat(self.probes)
            return beat is not None and (before is None or beat.run != before.run)

        until(beats)
        return prober

    def newest(self, outcome: Outcome) -> bool:
        now = datetime.now(UTC)
        rows = read_probes(self.probes, now - timedelta(seconds=20), now)
        return rows.num_rows > 0 and rows.column("outcome")[-1].as_py() == outcome

    def end(self) -> None:
        for process in self._running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    try:
        yield world
    finally:
        world.end()


def kill(process: subprocess.Popen[bytes]) -> datetime:
    at = datetime.now(UTC)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return at


def wait_until(instant: datetime) -> None:
    time.sleep(max(0.0, (instant - datetime.now(UTC)).total_seconds()))


def test_the_rto_of_a_killed_and_restarted_service_agrees_with_the_clock_on_the_wall(world: World) -> None:
    service = world.start_service()
    world.start_prober()
    until(lambda: world.newest(Outcome.GOOD))
    loss_at = kill(service)
    until(lambda: world.newest(Outcome.FAILED))
    before_start = datetime.now(UTC)
    world.start_service()
    serving = datetime.now(UTC)
    end = serving + LASTING + timedelta(seconds=1)
    wait_until_complete(world.probes, end)

    impact = measure_loss(
        read_probes(world.probes, loss_at - timedelta(seconds=2), end), loss_at=loss_at, until=end, lasting=LASTING
    )
    assert impact.failed > 5
    assert impact.wrong == impact.degraded == 0
    # It began to serve between the two instants; the machine's own slowness is in what the prober says of its error.
    slack = (impact.rto_error_seconds or 0) + 0.3
    assert (before_start - loss_at).total_seconds() <= impact.rto_high
    assert impact.rto_low <= (serving - loss_at).total_seconds() + 1e-3
    assert impact.rto_high <= (serving - loss_at).total_seconds() + slack
    assert impact.verdict(timedelta(seconds=60)) is Verdict.MET
    assert impact.verdict(timedelta(seconds=0.001)) is Verdict.MISSED


def test_wrong_degraded_and_newly_released_answers_are_told_apart(world: World) -> None:
    world.start_service()
    world.start_prober()
    until(lambda: world.newest(Outcome.GOOD))
    world.answer.write_text("9.9 3")
    until(lambda: world.newest(Outcome.WRONG))
    world.answer.write_text("degraded")
    until(lambda: world.newest(Outcome.DEGRADED))
    world.answer.write_text("8.0 4")
    until(lambda: world.newest(Outcome.WRONG))
    world.publish({"3": 6.5, "4": 8.0})
    until(lambda: world.newest(Outcome.GOOD))


def test_a_stopped_prober_leaves_unknown_time_and_no_good_answer_in_it(world: World) -> None:
    world.start_service()
    prober = world.start_prober()
    until(lambda: world.newest(Outcome.GOOD))
    stopped = datetime.now(UTC)
    os.kill(prober.pid, signal.SIGSTOP)
    wait_until(stopped + timedelta(seconds=2))
    resumed = datetime.now(UTC)
    os.kill(prober.pid, signal.SIGCONT)
    end = resumed + LASTING + timedelta(seconds=1)
    wait_until_complete(world.probes, end)

    rows = read_probes(world.probes, stopped, end)
    sent = [at for at in rows.column("sent_at").to_pylist() if at is not None]
    tick = timedelta(seconds=0.02)
    assert not [at for at in sent if stopped + tick < at < resumed]
    impact = measure_loss(rows, loss_at=stopped, until=end, lasting=LASTING, interval=INTERVAL)
    assert impact.unknown_seconds == pytest.approx(2.0, abs=0.3)
    assert impact.failed == 0
    assert impact.interrupted is None
    assert impact.verdict(timedelta(seconds=1)) is Verdict.UNKNOWN  # two seconds in which nobody looked
    assert impact.verdict(timedelta(seconds=60)) is Verdict.MET


def test_a_prober_killed_in_an_outage_leaves_whole_files_and_a_gap_that_is_unknown(world: World) -> None:
    service = world.start_service()
    prober = world.start_prober()
    until(lambda: world.newest(Outcome.GOOD))
    loss_at = kill(service)
    until(lambda: world.newest(Outcome.FAILED))
    died = kill(prober)
    for path in probe_files(world.probes):
        assert read_file(path).num_rows > 0
    world.start_service()
    serving = datetime.now(UTC)
    world.start_prober()
    back = datetime.now(UTC)
    end = back + LASTING + timedelta(seconds=1)
    wait_until_complete(world.probes, end)

    rows = read_probes(world.probes, loss_at - timedelta(seconds=2), end)
    assert len(rows.column("run").unique()) == 2
    impact = measure_loss(rows, loss_at=loss_at, until=end, lasting=LASTING)
    truth = (serving - loss_at).total_seconds()
    assert impact.rto_seconds is None
    assert impact.rto_low <= truth + 1e-3
    assert truth <= impact.rto_high + 0.3
    assert impact.unknown_seconds > 0.5
    assert impact.verdict(timedelta(seconds=impact.rto_low + 0.1)) is Verdict.UNKNOWN
    gap = steady_state(rows, since=died, until=serving, interval=INTERVAL)
    assert gap.good == 0


def test_sigterm_loses_nothing(world: World) -> None:
    world.start_service()
    prober = world.start_prober()
    until(lambda: world.newest(Outcome.GOOD))
    prober.terminate()
    assert prober.wait(10) == 0
    ended = datetime.now(UTC)
    rows = read_probes(world.probes, ended - timedelta(minutes=1), ended)
    assert sorted(rows.column("seq").to_pylist()) == list(range(rows.num_rows))
    beat = read_heartbeat(world.probes)
    assert beat is not None
    assert beat.complete_until >= rows.column("scheduled_at")[-1].as_py()


def test_a_new_service_in_the_estate_is_probed_without_a_restart(world: World) -> None:
    world.start_service()
    prober = world.start_prober()
    shutil.copy(ESTATE, world.root / "fresh.yaml")
    (world.root / "fresh.yaml").replace(world.root / "estate.yaml")

    def both() -> bool:
        beat = read_heartbeat(world.probes)
        return beat is not None and beat.services == ("arrival-delay", "late-arrival")

    until(both)
    assert prober.poll() is None
    now = datetime.now(UTC)
    until(lambda: read_probes(world.probes, now, datetime.now(UTC), "late-arrival").num_rows)
    report = subprocess.run(
        [sys.executable, "-c", "from ninelives.cli import main; main()", "prober", "report", "--since", "5s", "--json"],
        env={**os.environ, "NINELIVES_HOME": str(world.root), "NINELIVES_ESTATE": ""}, capture_output=True, check=True,
    )  # fmt: skip
    found = {line["service"]: line for line in json.loads(report.stdout)["services"]}
    assert found["arrival-delay"]["good"] > 0
    assert found["late-arrival"]["good"] == 0  # no golden answers of its model yet
    assert found["late-arrival"]["unknown"] > 0
