"""
# Retire versions

Let go what was kept for as long as declared: the way back of finished promotions, then versions that the estate's
retention no longer keeps; and find what is left over or lacking.

- **Runs** daily, or by hand.
- **Retires** a promotion's old version after the service's `keep_for`, unless a promotion or an experiment goes on.
- **Deletes** versions of models that declare a `retention`, in the registry and at every site. Never one that is the
  champion, a release, the way back, held, or named by an incident or a backup that is still in the vault. Nothing is
  deleted while one of those cannot be asked.
- **Records** each deletion in the ledger before and after; one that was cut off is finished by the next run.
- **Fails** where a registered version's artefact is gone; objects that no version names are evidence only.
"""

from airflow.sdk import DAG

from ninelives_airflow.defaults import DEFAULT_ARGS, Tag, calendar
from ninelives_airflow.operators.artefacts import FindOrphansOperator, PruneArtefactsOperator, RetireOverdueOperator

with DAG(
    dag_id="retire_versions",
    schedule=calendar("30 5 * * *"),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=[Tag.RELEASE],
    doc_md=__doc__,
):
    retire_overdue = RetireOverdueOperator(task_id="retire_overdue")
    prune_artefacts = PruneArtefactsOperator(task_id="prune_artefacts")
    # By itself: what is lacking must be found also where something else fails.
    find_orphans = FindOrphansOperator(task_id="find_orphans")

    retire_overdue >> prune_artefacts
