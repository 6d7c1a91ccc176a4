"""
# Audit access

Compare who may read and write each dataset and model, and the registry's accounts, with what the estate declares.

- **Runs** daily, or by hand.
- **Finds** permissions that are missing or too many, wildcards and public buckets, in IAM and bucket policies. What it
  cannot judge, like a condition, counts as too much where it allows and as missing where it should.
- **Says** "cannot be checked here" of sites whose store keeps no permissions, and never takes them for sound.
- **Finds** accounts, roles and administrators of the registry that differ, where the estate declares accounts.
- **Removes** what a failover granted and whose time is over. It changes nothing else.
- **Fails** on drift. Read the evidence that `audit_permissions` names; mend the policies or accounts, or declare
  what is right.
"""

from airflow.sdk import DAG

from ninelives_airflow.defaults import DEFAULT_ARGS, Tag, calendar
from ninelives_airflow.operators.access import AuditAccessOperator

with DAG(
    dag_id="audit_access",
    schedule=calendar("15 4 * * *"),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=[Tag.ACCESS],
    doc_md=__doc__,
):
    audit_permissions = AuditAccessOperator(task_id="audit_permissions")
