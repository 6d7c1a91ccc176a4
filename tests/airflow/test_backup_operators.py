"""The tasks of ``back_up_estate`` and ``verify_backups`` on a real vault: what they hand on, and when they fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.backups import BackedUp, backed_up
from support.postgres import postgres, run_sql
from support.vault import flip

from ninelives.errors import Corrupted, Refused
from ninelives_airflow.operators.backup import (
    BackUpEstateOperator,
    ChooseBackupsOperator,
    ExamineVaultOperator,
    JudgeBackupOperator,
    JudgeProofOperator,
    ProveRestoreOperator,
)

pytestmark = [pytest.mark.airflow, pytest.mark.stack]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[BackedUp]:
    with postgres() as server, backed_up(tmp_path, server, tmp_path / "empty") as one:
        yield one


def act(operator: Any, world: BackedUp, run: str) -> Any:
    return operator.act(world.systems, {"run_id": run})


@pytest.mark.soak  # a night of its own; whole runs of both DAGs are there too
def test_a_night_of_backup_and_proof_passes_and_a_damaged_one_fails(world: BackedUp) -> None:
    made = act(BackUpEstateOperator(task_id="back_up"), world, "first")
    judge = JudgeBackupOperator(task_id="judge_backup", made=made)
    assert act(judge, world, "first") == made
    run_sql(world.url("registry"), "INSERT INTO model_versions VALUES ('beta', 7, 'x', 'mlflow-artifacts:/0/gone')")
    suspect = act(BackUpEstateOperator(task_id="back_up"), world, "second")
    with pytest.raises(Refused, match="has no artefact"):
        act(JudgeBackupOperator(task_id="judge_backup", made=suspect), world, "second")

    assert act(ExamineVaultOperator(task_id="examine_vault"), world, "night")["verdict"] == "met"
    chosen = act(ChooseBackupsOperator(task_id="choose_backups"), world, "night")
    assert chosen == [{"backup": suspect["snapshot"]}, {"backup": made["snapshot"]}]
    with pytest.raises(Refused, match="no evidence of kind backup-restore"):
        act(JudgeProofOperator(task_id="judge_proof"), world, "night")

    flip(max(world.vault.files("data"), key=lambda path: path.stat().st_size), 800)
    for one in chosen:
        act(ProveRestoreOperator(task_id="prove_restore", **one), world, "night")
    with pytest.raises(Corrupted, match="begin another"):
        act(JudgeProofOperator(task_id="judge_proof"), world, "night")
