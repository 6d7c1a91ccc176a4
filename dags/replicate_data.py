"""
# Replicate data

Keep a verified copy of every dataset, release, checkpoint, data version and registry artefact at the standby, and a
fresh verdict of the gate on each copy, so that a failover need not wait for one.

- **Runs** three times within the shortest RPO, and whenever a release was published.
- **Shares** a large dataset among as many tasks as it declares `shards`; the last to finish writes the manifest.
- **Proves** each new object by reading it back at the target; the manifest is written last; old objects are read again
  in turn, every byte within `verify_within`. What is damaged at one site is repaired from the other, and recorded.
- **Refuses** a source that suddenly shrank. Deletes nothing: what was deleted at the source is brought back, or moves
  to a dated trash where the dataset says `deletions: follow`.
- **Fails** in `judge_lag` when a copy is further behind than its RPO, or when nobody has known for as long as its RPO
  how far behind it is.
- **On failure** the copy stays as it was and the lag grows: `ninelives replicate status` compares it with the RPO. What
  a person must mend is in `ninelives tasks` until a run gets through.
"""

import pendulum
from airflow.sdk import DAG, AssetOrTimeSchedule, DeltaTriggerTimetable

from ninelives_airflow.assets import RELEASE
from ninelives_airflow.defaults import DEFAULT_ARGS, Tag, replication_interval
from ninelives_airflow.operators.gate import QualityGateOperator
from ninelives_airflow.operators.replication import (
    JudgeLagOperator,
    ListCopiesOperator,
    PlanReplicationOperator,
    ReplicateDatasetOperator,
    ReplicateModelsOperator,
)

with DAG(
    dag_id="replicate_data",
    schedule=AssetOrTimeSchedule(timetable=DeltaTriggerTimetable(replication_interval()), assets=[RELEASE]),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=[Tag.DATA],
    doc_md=__doc__,
):
    plan_replication = PlanReplicationOperator(task_id="plan_replication")
    link = plan_replication.output
    replicate_models = ReplicateModelsOperator.partial(task_id="replicate_models").expand(link=link)
    replicate_dataset = ReplicateDatasetOperator.partial(task_id="replicate_dataset").expand(link=link)
    judge_lag = JudgeLagOperator(task_id="judge_lag")
    list_copies = ListCopiesOperator(task_id="list_copies")
    check_quality = QualityGateOperator.partial(task_id="check_quality").expand_kwargs(list_copies.output)
    replicate_dataset >> [judge_lag, list_copies]
