"""The whole estate and its vault: what only that survives is drilled by Airflow with users, and parts are put back.

Everything here is ``make soak``: one estate with Airflow for the file, because its start costs minutes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.estate import MINUTES, Estate, await_, free_base

from ninelives.drills.preflight import check_preflight
from ninelives.drills.scenario import Drill

pytestmark = [pytest.mark.stack, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    running = Estate(tmp_path_factory.mktemp("vault"), free_base())
    try:
        for arguments in (["demo"], ["backup", "run"]):
            done = running.run(*arguments, timeout=14 * MINUTES)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        yield running
    finally:
        assert running.run("stack", "down").returncode == 0


@pytest.mark.parametrize("scenario", ["control-plane-lost", "everything-lost", "provider-replay"])
def test_what_is_drilled_beside_the_estate_is_measured_with_users_who_feel_nothing(
    estate: Estate, scenario: str
) -> None:
    def ready() -> bool:
        return not check_preflight(estate.systems, Drill("preflight", scenario, "arrival-delay", "")).reasons

    await_(ready, 5 * MINUTES, "nothing against a drill")
    found = estate.json("drill", "run", scenario, "--service", "arrival-delay", timeout=12 * MINUTES)
    facts = found.get("facts", found)
    print(scenario, facts["verdicts"], facts["check"]["seconds"], {k: v["sent"] for k, v in facts["felt"].items()})
    assert facts["verdict"] == "met", facts
    assert facts["state"]["verdict"] == "met", facts["state"]
    for felt in facts["felt"].values():
        assert felt["sent"] > 20
        assert (felt["failed"], felt["wrong"], felt["degraded"]) == (0, 0, 0), felt


def files(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


def test_models_and_registry_are_put_back_to_the_last_byte_and_the_estate_serves(estate: Estate) -> None:
    """Lost: everything that a standby knows of models, and the artefacts of the registry at the primary."""
    models, artefacts = (estate.home.site(site) / "store" / bucket for site, bucket in (("dublin", "models"),
                                                                                    ("paris", "mlflow")))  # fmt: skip
    refused = estate.run("backup", "restore", "latest", "--into", "registry", "--into", "models")
    assert refused.returncode == 1
    assert "stop the estate first" in refused.stderr + refused.stdout
    assert estate.run("stack", "down").returncode == 0
    before = files(models), {key: data for key, data in files(artefacts).items() if not key.startswith("_")}
    assert all(before)
    for folder in (models, artefacts):
        for one in folder.iterdir():
            shutil.rmtree(one)
    done: dict[str, Any] = estate.json("backup", "restore", "latest", "--into", "registry", "--into", "models")
    assert done["objects"] == len(before[0]) + len(before[1])
    assert set(done["kept"]) == {"mlflow", "mlflow_auth"}, "nothing is thrown away"
    assert (files(models), files(artefacts)) == before

    up = estate.run("stack", "up", timeout=10 * MINUTES)
    assert up.returncode == 0, up.stderr[-3000:]
    estate.systems.registry().ping()
    assert estate.run("backup", "verify", "--no-restore").returncode == 0
    await_(lambda: not estate.systems.gateway().state().closed_sites, 2 * MINUTES, "open sites")
    assert estate.json("evidence", "verify")["verdict"] == "whole"
