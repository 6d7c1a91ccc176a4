"""
# Audit playbooks

Compare each service's kept playbook with what it would say now, and fail where one is stale.

- **Runs** daily, or by hand.
- **Compares** the whole text: made anew from the estate, the release (architecture and dependency hash) and readiness.
- **Changes** nothing. `check_readiness` renews playbooks every five minutes and after each release; this finds that it
  did not.
- **Fails** where one is stale or was never made, with the first difference. See `ninelives playbook check`.
"""

from airflow.sdk import DAG

from ninelives_airflow.defaults import DEFAULT_ARGS, Tag, calendar
from ninelives_airflow.operators.readiness import AuditPlaybooksOperator

with DAG(
    dag_id="audit_playbooks",
    schedule=calendar("45 4 * * *"),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=[Tag.RECOVERY],
    doc_md=__doc__,
):
    compare_playbooks = AuditPlaybooksOperator(task_id="compare_playbooks")
