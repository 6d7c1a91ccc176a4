"""The look at a machine by a pod on its node: Airflow's own operator, trigger and client, against a stand-in for the
API server that runs the pod's command as a process. The device alone is played, and no cluster was used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.airflow_runs import Run, make_database, run_by_hand
from support.kube_api import StandIn, stand_in
from support.nvml_stub import build

from ninelives.accelerators.evidence import KIND
from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.compilers.kubernetes import LOOKING, compile_site
from ninelives.estate import Estate, load_estate
from ninelives.estate.accelerators import Policy
from ninelives_airflow.hooks.estate import EstateHook

pytestmark = pytest.mark.airflow
GOLDEN = Path(__file__).parents[1] / "golden" / "kubernetes" / "estate.yaml"
OPTIONAL = [*Policy().optional, "xid_log"]


class World:
    def __init__(self, folder: Path, server: StandIn) -> None:
        self.server, self.script = server, folder / "faults"
        build(folder)
        document = load_estate(GOLDEN).model_dump(mode="json", exclude_defaults=True)
        document["sites"][0]["accelerators"] = [{"name": "gpu-1", "policy": {"optional": OPTIONAL}}]
        document["models"][0]["need"] = {"parameters": 8_000_000_000}
        document["services"][1]["release"]["hardware"] = "cpu"
        self.estate = Estate.model_validate(document)
        (folder / "estate.yaml").write_text(json.dumps(document))
        roles = [one for one in compile_site(self.estate, "paris")["replicas.yaml"] if one["kind"] == "Role"]
        rules = next(one["rules"] for one in roles if one["metadata"]["name"] == LOOKING)
        self.machine = {"NVML_STUB": str(self.script), "LD_LIBRARY_PATH": str(folder), "PATH": os.environ["PATH"]}
        server.set(roles={"looking": rules}, machines={"gpu-1": self.machine})

    def look(self) -> Run:
        run = run_by_hand("validate_accelerators")
        assert self.server.pods()["left"] == [], "no pod outlives its task"
        return run

    @property
    def found(self) -> Any:
        return EstateHook().ledger().records(kind=KIND)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    make_database()
    with stand_in() as server:
        extra = {"kube_config": server.kube_config("looking"), "namespace": "default"}
        connection = json.dumps({"conn_type": "kubernetes", "extra": extra})
        monkeypatch.setenv("AIRFLOW_CONN_NINELIVES_PARIS_PODS", connection)
        replicas = json.dumps({"conn_type": "generic", "extra": {"urls": []}})
        monkeypatch.setenv("AIRFLOW_CONN_NINELIVES_PARIS_REPLICAS", replicas)
        monkeypatch.setenv("NINELIVES_ESTATE", str(tmp_path / "estate.yaml"))
        url = f"sqlite:///{tmp_path / 'ledger.db'}"
        migrate(url)
        monkeypatch.setattr(EstateHook, "ledger", lambda _: SqlLedger(url))
        yield World(tmp_path, server)


def test_a_pod_on_the_machine_looks_and_the_task_judges_and_leaves_the_evidence(world: World) -> None:
    sound = world.look()
    assert sound.tasks == {"validate_gpu-1": "success", "judge_accelerators": "success"}
    assert sound.outputs["validate_gpu-1"] == {"devices": 1, "evidence": 1}
    world.script.write_text("ecc_volatile=2\n")
    faulty = world.look()
    assert faulty.failed == ["validate_gpu-1"]
    new, old = world.found
    assert (old.facts["allowed"], old.facts["machine"], old.facts["run"]) == (True, "gpu-1", sound.id)
    assert (new.facts["blocked"], new.subject) == (True, "paris/gpu-1")
    assert any("uncorrectable" in one for one in new.facts["reasons"])
    pod, _ = world.server.pods()["made"]
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert spec["nodeSelector"] == {"kubernetes.io/hostname": "gpu-1"}
    assert (spec["runtimeClassName"], spec["automountServiceAccountToken"]) == ("nvidia", False)
    assert container["image"] == world.estate.kubernetes.image  # type: ignore[union-attr]
    assert set(container["resources"]["limits"]) == {"memory"}, "it must not wait for a device that a replica uses"
    assert {one["name"] for one in container["env"]} <= {
        "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "PYTHONDONTWRITEBYTECODE",
    }, "no secret goes there"  # fmt: skip
    assert not spec.get("volumes")


def test_what_a_pod_has_printed_is_a_look_or_no_evidence_at_all(world: World) -> None:
    world.server.set(machines={"gpu-1": world.machine | {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"}})
    broken = world.look()
    assert broken.failed == ["validate_gpu-1"]
    assert world.found == []
    assert len(world.server.pods()["made"]) == 1
