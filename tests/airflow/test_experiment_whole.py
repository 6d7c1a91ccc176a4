"""The DAG of experiments, run whole by Airflow on real stores, replicas and gateway, with users."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support.airflow_runs import environment, make_database, run_by_hand
from support.promotion import release_of
from support.releases import Systems, flaky_model
from support.users import ExperimentWorld, Users, declared, experiment_world

from ninelives.releases.publish import stage
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.ui import app as pages

pytestmark = [
    pytest.mark.airflow, pytest.mark.stack, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(300),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def database() -> None:
    make_database()


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExperimentWorld]:
    with experiment_world(tmp_path_factory.mktemp("sites")) as world:
        yield world


@pytest.fixture
def world(sites: ExperimentWorld, monkeypatch: pytest.MonkeyPatch) -> ExperimentWorld:
    environment(sites.home.root, json.loads(sites.home.connections_file.read_text()), monkeypatch.setenv)
    for port in ("ledger", "registry"):
        monkeypatch.setattr(EstateHook, port, getattr(Systems, port))
    return sites


def put(world: ExperimentWorld, name: str, version: str, onnx: bytes | None = None, **changes: Any) -> None:
    stage(world.sites["paris"].store, *release_of(version, float(int(version) - 1), onnx))
    world.experiments = ({**declared(name, version), **changes},)
    (world.home.root / "estate.yaml").write_text(yaml.safe_dump(world.estate().model_dump(mode="json")))


def test_a_worse_version_is_stopped_the_run_fails_and_its_report_can_be_read(
    world: ExperimentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(world, "failing", "2", flaky_model(1.0))
    with Users(world.envoy.url, rate=100) as users:
        run = run_by_hand("run_experiment", {"experiment": "failing"})
        users.await_more(40)
    assert (run.state, run.failed) == ("failed", ["judge_experiment"]), run.tasks
    assert run.tasks["watch_experiment"] == "success"
    returned = run.outputs["return_users"]
    assert returned["verdict"] == "stop"
    assert returned["reasons"][0].startswith("errors: "), returned
    assert set(users.counts()) == {"good"}, users.counts()
    systems = world.systems()
    assert systems.gateway().state().versions == {}
    monkeypatch.setattr(pages, "_ledger", systems.ledger)
    page = pages.show_report(returned["evidence"])
    assert b"<svg" in page.body
    assert page.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_what_has_no_room_is_refused_before_a_replica_is_touched(world: ExperimentWorld) -> None:
    put(world, "too-large", "3", peak=401)
    run = run_by_hand("run_experiment", {"experiment": "too-large"})
    assert run.failed == ["check_version", "judge_experiment"], run.tasks
    assert run.tasks["warm_up"] == "upstream_failed"
    returned = run.outputs["return_users"]
    assert (returned["verdict"], "401 are needed" in returned["reasons"][0]) == ("stop", True)
    assert [one.attempts("alpha").loaded for one in world.systems().replicas("paris")] == [("1",)]
