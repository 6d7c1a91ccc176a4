"""An experiment on real replicas and Envoy: who sees what, what stops it, and that nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
from support.models import ROW
from support.processes import ROOT, Process, wait_until
from support.promotion import release_of
from support.releases import flaky_model
from support.users import HEADER, ExperimentWorld, Users, declared, experiment_world

from ninelives.experiments.assign import Arm, Experiment, assign
from ninelives.experiments.journal import Entry, Journal
from ninelives.experiments.report import read_report
from ninelives.experiments.run import begin, journal_of, run
from ninelives.ports import Assignment, VersionSplit
from ninelives.releases.publish import stage
from ninelives.serving.protocol import ARM_HEADER, EXPERIMENT_HEADER, VERSION_HEADER, encode_request

pytestmark = pytest.mark.stack
NAME = "warmer-sums"
KEYS = [*(f"user-{number}" for number in range(150)), "x", "with space", "a" * 70, "Zoë"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExperimentWorld]:
    with experiment_world(tmp_path_factory.mktemp("sites")) as started:
        yield started


def arms(world: ExperimentWorld, keys: list[str]) -> dict[str, tuple[str, str]]:
    """Per key the arm that its answer is marked with, and the version that answered."""
    found = {}
    with httpx.Client(base_url=world.envoy.url, trust_env=False) as client:
        for key in keys:
            headers = {HEADER: key.encode()} if key else {}
            answer = client.post("/services/alpha/v2/models/alpha/infer", json=encode_request([ROW]), headers=headers)
            assert answer.status_code == 200, answer.text
            assert (EXPERIMENT_HEADER in answer.headers) == (ARM_HEADER in answer.headers)
            found[key] = (answer.headers.get(ARM_HEADER, "outside"), answer.headers[VERSION_HEADER])
    return found


def test_a_user_has_the_arm_that_the_library_says_at_both_sites_and_after_the_gateway_was_killed(
    world: ExperimentWorld,
) -> None:
    systems = world.systems()
    for site in world.sites:
        stage(systems.store(site), *release_of("2", 1.0))
        for replica in systems.replicas(site):
            replica.load_version("alpha", "2")
    experiment = Experiment(NAME, 0.2)
    split = VersionSplit("1", {"1": 100}, assignment=Assignment(NAME, "2", experiment.parts, HEADER))
    lease = systems.ledger().take_lease("release:alpha", "this test", timedelta(minutes=5))
    systems.gateway().split("alpha", split, token=lease.token)
    version = {Arm.EXPERIMENT: "2", Arm.CONTROL: "1", Arm.OUTSIDE: "1"}
    expected = {key: (arm.value, version[arm]) for key in KEYS for arm in [assign(experiment, key)]}
    assert arms(world, KEYS) == expected
    assert {arms(world, [""])[""] for _ in range(20)} == {("outside", "1")}, "nobody knows who that is"
    world.envoy.kill()
    world.envoy.start()
    world.envoy.await_healthy("alpha", paris=1, dublin=1)
    assert arms(world, KEYS) == expected
    systems.gateway().move("alpha", "dublin", token=1)
    assert arms(world, KEYS) == expected
    systems.gateway().move("alpha", "paris", token=2)
    systems.gateway().split("alpha", None, token=lease.token)
    systems.ledger().release_lease(lease)
    assert set(arms(world, KEYS).values()) == {("outside", "1")}
    for site in world.sites:
        for replica in systems.replicas(site):
            replica.unload_version("alpha", "2")


def put(world: ExperimentWorld, name: str, version: str, onnx: bytes | None = None) -> None:
    """Staged and declared."""
    stage(world.sites["paris"].store, *release_of(version, float(int(version) - 1), onnx))
    world.experiments = (declared(name, version),)
    world.estate()


def given_back(world: ExperimentWorld) -> None:
    systems = world.systems()
    assert systems.gateway().state().versions == {}
    assert set(arms(world, KEYS[:50]).values()) == {("outside", "1")}
    for site in world.sites:
        assert [one.attempts("alpha").loaded for one in systems.replicas(site)] == [("1",)]


def test_a_version_that_fails_is_stopped_by_its_guard_rail_and_no_request_is_lost(world: ExperimentWorld) -> None:
    put(world, "failing", "3", flaky_model(2.0))
    systems = world.systems()
    with Users(world.envoy.url, rate=150) as users:
        record = run(systems, begin(systems, "failing", by="ada"), approve=lambda: None)
        users.await_more(40)
    assert record.facts["verdict"] == "stop"
    assert record.facts["reasons"][0].startswith("errors: "), record.facts
    assert set(users.counts()) == {"good"}, users.counts()
    expected = {unit: {assign(Experiment("failing", 0.2), unit).value} for unit in users.arms}
    assert users.arms == expected, "nobody changed their arm"
    journal = journal_of(systems, "failing")
    assert journal
    divided, ended = journal.find(Entry.DIVIDED), journal.find(Entry.ENDED)
    assert divided
    assert ended
    print(f"{(ended.at - divided.at).total_seconds():.1f} s from the first user to the control only; ", end="")
    print(record.facts["attempts"], len(users.outcomes))
    assert "<svg" in read_report(systems, record)
    given_back(world)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_killed_again_and_again_it_goes_on_and_at_last_goes_back_and_no_request_is_lost(world: ExperimentWorld) -> None:
    put(world, "killed", "4", flaky_model(3.0))
    systems = world.systems()
    command = [sys.executable, "-m", "support.users", str(world.home.root), "killed"]
    environment = {"PYTHONPATH": f"{ROOT / 'include'}:{ROOT / 'tests'}"}

    def journal() -> Journal | None:
        return journal_of(systems, "killed")

    def progress() -> int:
        looks = world.home.looks / "experiment-killed.jsonl"
        found = journal()
        return len(found.records if found else ()) + (looks.read_bytes().count(b"\n") if looks.exists() else 0)

    killed = 0
    with Users(world.envoy.url, rate=60) as users:
        for _ in range(25):
            child = Process(command, world.home.root / "experiment.log", environment)
            before = progress()
            child.start()
            wait_until(lambda before=before: progress() > before, "a step or a look", timeout=60, every=0.002)
            child.kill()
            killed += 1
            found, split = journal(), systems.gateway().state().versions.get("alpha")
            assert found
            assert split is None or found.find(Entry.INTENT), "users are divided only after it was written down"
            if found.find(Entry.ENDED):
                break
        ended = subprocess.run(
            command, env={**child.environment}, capture_output=True, text=True, timeout=120, check=False
        )
        users.await_more(40)
    print(f"killed {killed} times; {users.counts()}; {ended.stdout}{ended.stderr[-200:]}")
    found = journal()
    assert found
    assert found.state == "stop"
    assert set(users.counts()) == {"good"}, users.counts()
    given_back(world)


def test_a_version_that_somebody_stays_on_answers_by_its_address_again_after_every_replica_was_killed(
    world: ExperimentWorld,
) -> None:
    systems = world.systems()
    for site in world.sites:
        stage(systems.store(site), *release_of("5", 4.0))
        for replica in systems.replicas(site):
            replica.load_version("alpha", "5")
    consumer = {
        "name": "billing", "service": "alpha", "contact": "them", "sends": {"a": "FP32"}, "reads": {"total": "FP32"},
        "stays_on": {"version": "5", "until": "2099-12-31"},
    }  # fmt: skip
    staying = world.systems(consumers=[consumer])
    staying.gateway().compile()
    path = f"{world.envoy.url}/services/alpha/v2/models/alpha/versions"

    def answer(version: str) -> httpx.Response:
        return httpx.post(f"{path}/{version}/infer", json=encode_request([ROW]))

    try:
        assert answer("5").json()["outputs"][0]["data"] == [7.5]
        assert answer("6").status_code == 404, "no other version has an address"
        for site in world.sites.values():
            for process in site.replica_processes:
                process.kill()
                process.start()
        world.envoy.await_healthy("alpha", paris=1, dublin=1)
        wait_until(lambda: answer("5").json()["outputs"][0]["data"] == [7.5], "version 5 answers again", timeout=15)
    finally:
        world.systems().gateway().compile()
        for site in world.sites:
            for replica in systems.replicas(site):
                replica.unload_version("alpha", "5")
    assert answer("5").status_code == 404
