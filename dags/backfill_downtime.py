"""
# Backfill downtime

Find the intervals that the DAGs named by the estate have missed, and fill them with Airflow's own backfill.

- **Runs** by hand with a form, when the source of parked intervals has landed, or when a lost site is back. A dry run
  shows the plan and writes nothing.
- **Finds** intervals without a run, with a failed one, or whose data is gone, in the time that the estate looks back.
- **Fills** in order, a few runs side by side, after live runs; one run over the whole gap for DAGs that ask for it. The
  gate judges each interval of the source before, and of the dataset after. An interval is filled only once.
- **Parks** intervals whose source is missing or refused: they are recorded, fail nothing, and come back.
- **On failure** read the evidence that `fill_gap` names, mend what failed, and run it again: it goes on where it was.
"""

import pendulum
from airflow.sdk import DAG, Param

from ninelives_airflow.assets import INCIDENT_OVER, SOURCE_BACK
from ninelives_airflow.defaults import DEFAULT_ARGS, Tag, backfills_declared
from ninelives_airflow.operators.backfill import FillGapOperator, PlanBackfillOperator

with DAG(
    dag_id="backfill_downtime",
    schedule=(SOURCE_BACK | INCIDENT_OVER) if backfills_declared() else None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # a second one would find nothing that the first does not fill
    default_args=DEFAULT_ARGS,
    tags=[Tag.RECOVERY, Tag.DATA],
    doc_md=__doc__,
    params={
        "dag": Param("", type="string", description="One of the DAGs that the estate names; empty: all of them."),
        "start": Param("", type="string", description="From when on, like 2026-01-31T06:00; empty: as declared."),
        "end": Param("", type="string", description="Up to when; empty: now."),
        "dry_run": Param(False, type="boolean", description="Show the plan, and stop."),
    },
):
    plan_backfill = PlanBackfillOperator(
        task_id="plan_backfill",
        dag_to_fill="{{ params.dag }}",
        start="{{ params.start }}",
        end="{{ params.end }}",
        dry_run="{{ params.dry_run }}",
    )
    # Its time is spent on verdicts; while Airflow fills it waits without a slot.
    fill_gap = FillGapOperator.partial(task_id="fill_gap", execution_timeout=pendulum.duration(hours=6)).expand(
        gap=plan_backfill.output
    )
