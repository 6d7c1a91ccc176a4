"""
# Back up estate

Put an encrypted copy of everything that the loss of every site must not take into the vault, a place apart.

- **Runs** by the estate's `backups.schedule`, or by hand.
- **Holds** weights and pointers of every release, the registry (database and artefacts as of one instant), the ledger,
  Airflow's metadata, the estate and what was compiled from it, the gate's suites, DVC's lists of files, and what models
  that go on learning have learnt. Not the data: sites keep verified copies of it.
- **Checks** each source while reading it. What is damaged at one site is taken from another; what is damaged everywhere
  is left out. Older backups still have it.
- **Can only add**: what retention no longer wants, the vault's keeper removes with a key of its own.
- **Fails** in `judge_backup` when a source was damaged or shrank, when nothing at all was new, or when the backup
  before was older than the RPO. The backup is made all the same, and marked as suspect. Read its evidence.
"""

from airflow.sdk import DAG

from ninelives_airflow.defaults import DEFAULT_ARGS, Tag, backup_schedule
from ninelives_airflow.operators.backup import BackUpEstateOperator, JudgeBackupOperator

with DAG(
    dag_id="back_up_estate",
    schedule=backup_schedule(),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=[Tag.RECOVERY],
    doc_md=__doc__,
):
    back_up = BackUpEstateOperator(task_id="back_up")
    judge_backup = JudgeBackupOperator(task_id="judge_backup", made=back_up.output)
