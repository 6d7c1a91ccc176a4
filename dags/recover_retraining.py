"""
# Recover retraining

Finish the trainings that began and never finished: each goes on from its last whole checkpoint, at whichever site has
it, and ends with exactly the model that a training without a break gives.

- **Runs** when the site watch sees a lost site back for good, or by hand with a model, to train it again.
- **Waits** deferred, without a slot or a retry, while a store, the registry or the ledger is away; the trigger says
  why, for what and until when. A source that comes and goes is waited for longer each time.
- **Refuses** to go on before the gate has passed the site's data; meanwhile it waits.
- **On failure** the deadline has passed, or the data version is right at no site: see the task, put that right, and
  start it again. No round is trained twice that a whole checkpoint has.
"""

import pendulum
from airflow.sdk import DAG, Param

from ninelives_airflow.assets import RELEASE, SITE_BACK
from ninelives_airflow.defaults import DEFAULT_ARGS, Tag
from ninelives_airflow.operators.training import ListTrainingsOperator, TrainModelOperator

with DAG(
    dag_id="recover_retraining",
    schedule=[SITE_BACK],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=[Tag.RECOVERY, Tag.RELEASE],
    doc_md=__doc__,
    params={
        "model": Param("", type="string", description="Train this one again; by default whatever is unfinished."),
        "data_version": Param("", type="string", description="On this data; by default its newest version's."),
    },
):
    list_trainings = ListTrainingsOperator(
        task_id="list_trainings", model="{{ params.model }}", data_version="{{ params.data_version }}"
    )
    resume_training = TrainModelOperator.partial(
        task_id="resume_training",
        gated=True,
        patience=pendulum.duration(hours=6),
        outlets=[RELEASE],
        max_active_tis_per_dagrun=1,
    ).expand_kwargs(list_trainings.output)
