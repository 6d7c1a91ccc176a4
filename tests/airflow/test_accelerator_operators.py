"""The look at a machine's accelerators as a task of its own queue, and the whole DAG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from support.airflow_runs import make_database, run_by_hand
from support.models import estate_of_two_sites
from support.nvml_stub import StubbedMachine, build, with_accelerators

from ninelives.accelerators.evidence import KIND
from ninelives.adapters import nvml
from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.operators.accelerator import JudgeAcceleratorsOperator, ValidateAcceleratorOperator

pytestmark = pytest.mark.airflow
ONE = [{"name": "paris", "accelerators": [{"name": "gpu-paris"}]}, {"name": "dublin"}]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StubbedMachine:
    """This one; the estate says that it is at Paris."""
    machine = StubbedMachine(build(tmp_path), tmp_path, monkeypatch)
    monkeypatch.setattr(nvml.Nvml.__init__, "__defaults__", (machine.log,))
    declare(tmp_path, monkeypatch)
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate(url)
    monkeypatch.setattr(EstateHook, "ledger", lambda _: SqlLedger(url))
    return machine


def declare(folder: Path, monkeypatch: pytest.MonkeyPatch, sites: Any = ONE) -> None:
    estate = with_accelerators(estate_of_two_sites(), sites=sites)
    file = folder / "estate.yaml"
    document = estate.model_dump(mode="json", exclude_defaults=True)
    document["drills"]["approval"] = "none"
    file.write_text(json.dumps(document))
    monkeypatch.setenv("NINELIVES_ESTATE", str(file))


def look() -> ValidateAcceleratorOperator:
    return ValidateAcceleratorOperator(task_id="validate_gpu", site="paris", host="gpu-paris")


def test_a_look_goes_to_the_machines_own_queue_and_leaves_evidence_also_of_a_fault(machine: StubbedMachine) -> None:
    task = look()
    assert task.queue == "gpu-paris"
    assert task.execute({"run_id": "run-1"}) == {"devices": 1, "evidence": 1}  # type: ignore[typeddict-item]
    machine.play("ecc_volatile=2")
    with pytest.raises(AirflowFailException, match=r"paris/gpu-paris.*uncorrectable.*see evidence 2"):
        task.execute({"run_id": "run-2"})  # type: ignore[typeddict-item]
    assert task.evidence == 2
    record = EstateHook().ledger().records(kind=KIND)[0]
    assert (record.facts["run"], record.facts["allowed"], record.facts["blocked"]) == ("run-2", False, True)


def test_site_and_machine_may_come_from_a_form() -> None:
    task = ValidateAcceleratorOperator(task_id="look", site="{{ params.site }}", host="{{ params.host }}", queue="gpus")
    task.render_template_fields({"params": {"site": "paris", "host": "gpu-paris"}})  # type: ignore[typeddict-item]
    assert (task.site, task.host, task.queue) == ("paris", "gpu-paris", "gpus")


def test_the_dag_has_a_task_for_each_machine_and_judges_what_they_left(machine: StubbedMachine) -> None:
    make_database()
    run = run_by_hand("validate_accelerators")
    assert (run.state, run.tasks) == ("success", {"validate_gpu-paris": "success", "judge_accelerators": "success"})
    assert run.outputs["judge_accelerators"] == {"models": ["alpha@paris"]}


def test_an_estate_without_such_machines_has_nothing_to_look_at(
    machine: StubbedMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(tmp_path, monkeypatch, [{"name": "paris"}, {"name": "dublin"}])
    with pytest.raises(AirflowSkipException):
        JudgeAcceleratorsOperator(task_id="judge_accelerators").execute({"run_id": "run-1"})  # type: ignore[typeddict-item]
