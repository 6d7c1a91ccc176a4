"""
# Train model

The demo's two models of arrival delay, on 336,776 real flights: write the history, name the exact data, train and
compare with a baseline on later days, register, and publish by digest to the primary site's store.

- **Runs** by hand; the demo starts it once.
- **Repeats** safely: the same data and code give the same bytes, which find their version in the registry.
- **Waits** deferred while a store, the registry or the ledger is away, and goes on from its last whole checkpoint.
- **Refuses** a model that is no better on later days than a constant.
- **Then** `replicate_data` starts by itself and takes the releases to the standby.
"""

import pendulum
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

from ninelives_airflow.assets import RELEASE
from ninelives_airflow.defaults import DEFAULT_ARGS, Tag
from ninelives_airflow.operators.training import (
    ListModelsOperator,
    TrainModelOperator,
    VersionDataOperator,
    WriteHistoryOperator,
)

with DAG(
    dag_id="train_model",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=[Tag.RELEASE],
    doc_md=__doc__,
):
    write_history = WriteHistoryOperator(task_id="write_history")
    version_data = VersionDataOperator(task_id="version_data")
    list_models = ListModelsOperator(task_id="list_models", dataset="flights")
    train_model = TrainModelOperator.partial(
        task_id="train_model", version=version_data.output, max_active_tis_per_dagrun=1
    ).expand(model=list_models.output)
    # Once for all models: each one's own outlet would start a replication, and a gate on every copy, of its own.
    announce_releases = EmptyOperator(task_id="announce_releases", outlets=[RELEASE])
    write_history >> version_data
    train_model >> announce_releases
