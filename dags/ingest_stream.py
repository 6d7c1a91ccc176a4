"""
# Ingest streams

Land what has arrived of every stream: records that keep the stream's contract flow, what breaks it waits in quarantine
with its reason, and is replayed once after the contract was mended.

- **Runs** as often as the stream that is declared to be landed most often.
- **Passes** new nullable fields and wider types, as evidence: `ninelives stream propose` prints the contract's next
  version for the estate.
- **Puts into quarantine**, without failing, what was dropped, renamed, narrowed or retyped, other units and values, and
  what cannot be read: `ninelives stream quarantine` says how much and why.
- **On failure** nothing is lost and nothing is landed twice: the manifest says how far the stream has come, and offsets
  are committed to the broker only behind it.
"""

import pendulum
from airflow.sdk import DAG, DeltaTriggerTimetable

from ninelives_airflow.defaults import DEFAULT_ARGS, Tag, ingestion_interval
from ninelives_airflow.operators.stream import IngestStreamOperator, PlanIngestionOperator, ReplayQuarantineOperator

with DAG(
    dag_id="ingest_stream",
    schedule=DeltaTriggerTimetable(ingestion_interval()),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=[Tag.DATA],
    doc_md=__doc__,
):
    plan_ingestion = PlanIngestionOperator(task_id="plan_ingestion")
    stream = plan_ingestion.output
    ingest_stream = IngestStreamOperator.partial(task_id="ingest_stream").expand(stream=stream)
    replay_quarantine = ReplayQuarantineOperator.partial(task_id="replay_quarantine").expand(stream=stream)
    ingest_stream >> replay_quarantine
