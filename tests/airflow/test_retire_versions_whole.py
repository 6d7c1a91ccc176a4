"""``retire_versions`` run whole by Airflow: a real registry, two real stores, replicas and a gateway, and kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.airflow_runs import environment, make_database, run_by_calendar, run_by_hand
from support.models import sum_model
from support.processes import ROOT, stopping
from support.registry import Server, train
from support.two_sites import Systems, World, two_sites

from ninelives.access.registry import apply
from ninelives.artefacts.holds import LEASE, place, release
from ninelives.artefacts.prune import KIND, unfinished
from ninelives.releases import journal
from ninelives.releases.canary import Decision
from ninelives.releases.promotion import begin, promote
from ninelives.releases.publish import digest_of, object_key
from ninelives.releases.staging import stage_file
from ninelives_airflow.hooks.estate import EstateHook

pytestmark = [
    pytest.mark.airflow, pytest.mark.stack, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(600),
]  # fmt: skip

MODEL = "alpha"
ROLES = {"tom": "trainer", "rita": "releaser"}
STEPS = [{"share": 5, "hold": "100ms"}, {"share": 50, "hold": "100ms"}]

PRUNE = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from support.two_sites import Systems
from ninelives.adapters.connections import FileConnections
from ninelives.adapters.mlflow import MlflowRegistry
from ninelives.adapters.s3 import S3ObjectStore
from ninelives.artefacts.prune import prune
from ninelives.estate import load_estate
from ninelives.home import Home

left = int(sys.argv[1])

def killed_before(call):
    def counted(*arguments):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return call(*arguments)
    return counted

MlflowRegistry.delete_version = killed_before(MlflowRegistry.delete_version)
S3ObjectStore.delete = killed_before(S3ObjectStore.delete)
home = Home.from_environment()
systems = Systems(load_estate(home.estate_file), FileConnections(home.connections_file), home)
prune(systems, "the same run, tried again", lambda: datetime.now(UTC), by="test")
"""


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Server]]:
    with two_sites(tmp_path_factory.mktemp("sites")) as world:
        server = Server(tmp_path_factory.mktemp("registry"), world.sites)
        with stopping(server.process):
            server.start()
            found = json.loads(world.home.connections_file.read_text()) | server.connections(*ROLES)
            world.home.connections_file.write_text(json.dumps(found))
            yield world, server


def declared(world: World) -> dict[str, Any]:
    document = world.estate().model_dump(mode="json")
    document["models"][0]["registry"] = [{"who": who, "role": role} for who, role in ROLES.items()]
    document["models"][0]["retention"] = {"keep": 1, "keep_for": "1s"}
    policy = {"hardware": "cpu", "shadow": 0, "canary": STEPS, "patience": "5s", "keep_for": "1ms"}
    document["services"][0]["release"] = policy
    return document


def whole(systems: Systems, number: int) -> bool:
    key = object_key(MODEL, digest_of(sum_model(float(number))))
    there = {systems.store(site).head("models", key) is not None for site in systems.estate.site_names}
    assert len(there) == 1, "both sites or none"
    return there.pop()


def test_versions_go_on_the_record_whatever_is_killed_and_what_is_held_stays_until_it_is_released(
    sites: tuple[World, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, server = sites
    make_database()
    document = declared(world)
    (world.home.root / "estate.yaml").write_text(yaml.safe_dump(document))
    environment(world.home.root, json.loads(world.home.connections_file.read_text()), monkeypatch.setenv)
    monkeypatch.setattr(EstateHook, "ledger", lambda hook: Systems.ledger(hook))
    systems: Any = world.systems(models=document["models"], services=document["services"])
    apply(systems)
    for number in range(1, 6):
        assert train(server, systems, "tom", number, tmp_path) == str(number)
    systems.registry().set_champion(MODEL, "1")  # what serves
    stage_file(systems, MODEL, "2", sum_model(2.0), data_version="d.dir")
    plan = begin(systems, MODEL, "2", by="ada")
    promote(systems, plan, approve=lambda: None, judge=lambda metrics, horizon: (Decision.PROMOTE, []))
    hold = place(systems, MODEL, "3", by="counsel", why="claim 7")
    assert systems.registry().champion(MODEL) == "2"

    # One by one, each killed at its next change: version 4 is due, 1 is a way back, 2 serves, 3 is held, 5 the newest.
    killed = 0
    command = [sys.executable, "-c", PRUNE]
    search = {"PYTHONPATH": os.pathsep.join([str(ROOT / "include"), str(ROOT / "tests")])}
    for changes in (0, 1, 3, 99):
        done = subprocess.run([*command, str(changes)], env={**os.environ, **search}, timeout=120, check=False)
        killed += done.returncode == -signal.SIGKILL
        assert all(whole(systems, number) for number in (1, 2, 3, 5))
    assert (killed, done.returncode) == (3, 0)
    assert not whole(systems, 4)
    assert unfinished(systems.ledger()) == []
    entries = [(one.facts["entry"], one.facts["version"]) for one in systems.ledger().records(kind=KIND)]
    assert entries == [("deleted", "4"), ("deleting", "4")], "begun once and ended once, however often it was killed"
    assert systems.ledger().current_lease(LEASE) is None

    first = run_by_calendar("retire_versions")
    assert (first.state, first.failed) == ("success", [])
    assert first.outputs["retire_overdue"]["retired"] == [f"{MODEL}@1"]
    assert first.outputs["prune_artefacts"]["deleted"] == [f"{MODEL}@1"]
    assert first.outputs["find_orphans"]["verdict"] == "met"
    assert all(one.retired for one in journal.read(systems.ledger(), MODEL))
    assert {one.version for one in systems.registry().versions()} == {"2", "3", "5"}
    assert [whole(systems, number) for number in (1, 2, 3, 5)] == [False, True, True, True]
    by = systems.ledger().records(kind=KIND)[0].facts["by"]
    assert by == f"retire_versions {first.id}"

    release(systems.ledger(), hold.seq, by="counsel", why="settled")
    second = run_by_hand("retire_versions")
    assert second.outputs["prune_artefacts"]["deleted"] == [f"{MODEL}@3"]
    for site in systems.estate.site_names:
        systems.store(site).delete("models", object_key(MODEL, digest_of(sum_model(5.0))))
    third = run_by_hand("retire_versions")
    assert (third.state, third.failed) == ("failed", ["find_orphans"]), (
        "what is gone is found, and held up nothing else"
    )
    assert third.tasks["prune_artefacts"] == "success"
