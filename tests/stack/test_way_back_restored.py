"""The models of every site are lost: what a backup gives back is enough for the way back of a promotion too.

On a local estate that declares accounts of its registry, so that its training and its promotion act as those.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.estate import MINUTES, ROOT, Estate, free_base

from ninelives.adapters.mlflow import register
from ninelives.adapters.mlflow_accounts import connection_for
from ninelives.estate.artefacts import RegistryRole
from ninelives.flights import pipeline
from ninelives.releases import promotion
from ninelives.releases.canary import Decision
from ninelives.releases.promotion import begin, promote
from ninelives.releases.publish import digest_of, read_release
from ninelives.releases.staging import stage_file

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(900)]

MODEL = SERVICE = "arrival-delay"
ROLES = {"dashboards": "reader", "training": "trainer", "release-desk": "releaser"}


@pytest.fixture
def estate(tmp_path: Path) -> Iterator[Estate]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "include" / "estates" / "demo" / "estate.yaml").read_bytes())
    document["models"][0]["registry"] = [{"who": who, "role": role} for who, role in ROLES.items()]
    document["services"][0]["release"] = {
        "hardware": "cpu", "shadow": 0, "canary": [{"share": 50, "hold": "1s"}], "patience": "30s", "keep_for": "1h",
    }  # fmt: skip
    file = tmp_path / "estate.yaml"
    file.write_text(yaml.safe_dump(document))
    running = Estate(tmp_path / "home", free_base())
    try:
        parts = ("--without", "airflow,feeder,keeper,prober")
        done = running.run("stack", "up", "--estate", str(file), *parts, timeout=5 * MINUTES)
        assert done.returncode == 0, done.stderr[-3000:]
        yield running
    finally:
        assert running.run("stack", "down").returncode == 0


def promoted(systems: Any) -> str:
    """Trained, then a version with the same answers in other bytes, registered, staged and in service."""
    import onnx
    import pandas as pd
    from sklearn.dummy import DummyRegressor

    pipeline.write_history(systems)
    data = pipeline.version_data(systems)
    first = pipeline.train_and_register(systems, MODEL, data["data_version"])
    assert first["version"] == "1"
    served = read_release(systems.store("paris"), MODEL)
    assert served
    model = onnx.load_from_string(systems.store("paris").get("models", served.object))
    model.metadata_props.add(key="made", value="again")
    file = model.SerializeToString()
    roles = (RegistryRole.TRAINER, RegistryRole.RELEASER)
    trainer, releaser = (connection_for(systems.connections, systems.estate, MODEL, role) for role in roles)
    example = pd.DataFrame({"a": [1.0, 2.0]})
    version = register(
        trainer, releaser=releaser, model=MODEL, native=DummyRegressor().fit(example, [0, 1]), onnx=file,
        digest=digest_of(file), example=example, parameters={}, metrics={}, data_version=data["data_version"],
    )  # fmt: skip
    stage_file(systems, SERVICE, version, file, data_version=data["data_version"])
    plan = begin(systems, SERVICE, version, by="ada")
    record = promote(systems, plan, approve=lambda: None, judge=lambda metrics, horizon: (Decision.PROMOTE, []))
    assert record.facts["outcome"] == "promoted", record.facts
    return version


def models(estate: Estate) -> dict[str, str]:
    """Every object of models at either site, by its SHA-256."""
    folders = [estate.home.site(site) / "store" / "models" for site in ("paris", "dublin")]
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(estate.home.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if not path.name.startswith("_")
    }


def test_models_lost_at_every_site_come_back_with_the_version_that_is_kept_for_a_way_back(
    estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "verify_data", lambda systems, plan: {"evidence": {}})  # the gate has its own tests
    found = estate.json("access", "registry")
    assert found == {"declared": sorted(ROLES), "differences": [], "mended": []}
    version = promoted(estate.systems)
    assert estate.json("access", "check")["registry"] == "3 accounts are as declared"
    assert estate.run("backup", "run").returncode == 0
    assert estate.run("stack", "down").returncode == 0
    before = models(estate)
    assert any(name.endswith(f"{MODEL}/releases/1.json") for name in before)
    for site in ("paris", "dublin"):
        shutil.rmtree(estate.home.site(site) / "store" / "models")

    restored = estate.run("backup", "restore", "latest", "--into", "models", timeout=5 * MINUTES)
    assert restored.returncode == 0, restored.stderr[-3000:]
    assert models(estate) == before, "what is staged, signed and kept beside the releases too"
    assert estate.run("stack", "up", timeout=5 * MINUTES).returncode == 0
    assert estate.json("release", "status", SERVICE)["pointers"]["paris"] == version
    back = estate.run("release", "rollback", SERVICE, "--reason", "complaints")
    assert back.returncode == 0, back.stderr[-3000:]
    status = estate.json("release", "status", SERVICE)
    assert (status["pointers"], status["champion"]) == ({"paris": "1", "dublin": "1"}, "1")
    systems = estate.systems
    golden = read_release(systems.store("dublin"), MODEL)
    assert golden
    answer = systems.client(systems.estate.service_by_name[SERVICE])([dict(golden.golden[0].inputs)])
    assert answer.model_version == "1"
    assert estate.json("artefacts", "orphans")["verdict"] == "met"
