"""
# Audit placement

Compare where replicas run on Kubernetes, what may take them away and how many may come with what the estate compiles.

- **Runs** hourly where the estate runs on Kubernetes, because affinity acts only when a pod is scheduled; or by hand.
- **Finds** replicas that share a node, zones left empty, changed or missing rules, disruption budgets and autoscalers,
  and sites whose loss the others would not bear. Changes nothing.
- **Fails** on drift, at once; where a cluster cannot be read, after its retries. Read the evidence that
  `audit_clusters` names, then apply `replicas.yaml` again, or declare what is right.
"""

from airflow.sdk import DAG

from ninelives_airflow.defaults import DEFAULT_ARGS, Tag, calendar, on_kubernetes
from ninelives_airflow.operators.placement import AuditPlacementOperator

with DAG(
    dag_id="audit_placement",
    schedule=calendar("35 * * * *") if on_kubernetes() else None,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=[Tag.RECOVERY],
    doc_md=__doc__,
):
    audit_clusters = AuditPlacementOperator(task_id="audit_clusters")
