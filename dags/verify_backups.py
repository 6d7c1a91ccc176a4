"""
# Verify backups

A backup that was never restored is a hope. Read the vault, restore two backups, and use what came out.

- **Runs** by the estate's `backups.verify`, or by hand.
- **Reads** the vault's structure each time, and its bytes in turn: every one within `backups.verify_within`.
- **Restores** the newest backup and a random older one into an empty folder, compares every byte with the signed
  manifest, loads each model in a fresh process and compares its golden answers, and brings registry and ledger up in an
  empty PostgreSQL, where the ledger is verified against its anchors.
- **Measures** how long that takes: the RTO of the day on which everything is lost.
- **Changes** nothing: neither the vault nor the estate.
- **Fails** in `judge_proof` when anything is damaged or gone, when the newest backup is older than its RPO, or when a
  restore took longer than its RTO. On damage keep the vault for a look, and begin another: `docs/backups.md`.
"""

from airflow.sdk import DAG

from ninelives_airflow.defaults import DEFAULT_ARGS, Tag, verification_schedule
from ninelives_airflow.operators.backup import (
    ChooseBackupsOperator,
    ExamineVaultOperator,
    JudgeProofOperator,
    ProveRestoreOperator,
)

with DAG(
    dag_id="verify_backups",
    schedule=verification_schedule(),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=[Tag.RECOVERY],
    doc_md=__doc__,
):
    examine_vault = ExamineVaultOperator(task_id="examine_vault")
    choose_backups = ChooseBackupsOperator(task_id="choose_backups")
    prove_restore = ProveRestoreOperator.partial(task_id="prove_restore", max_active_tis_per_dagrun=1).expand_kwargs(
        choose_backups.output
    )
    judge_proof = JudgeProofOperator(task_id="judge_proof")
    examine_vault >> choose_backups
    [examine_vault, prove_restore] >> judge_proof
