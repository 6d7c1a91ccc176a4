"""
# Return site

Take a site back after a loss: bring its data and the survivors' to their union, run the gate on it, load the models,
and only then let the gateway send traffic again.

- **Runs** when the site watch sees a lost site back for good, or by hand with a site.
- **Loses nothing**: what only one side has is copied to the other; the same key with different bytes is kept twice and
  reported as a conflict.
- **Fails over** to the returned site what is still sent to another, closed one: after the loss of every site of a
  service the failover had found no target.
- **Then** `reconcile_sites` merges what came meanwhile and has every copy judged: the next failover need not wait.
- **Refuses** to open a site whose data does not pass the gate, or whose replicas answer wrongly; while automation is
  frozen it opens one only by hand.
- **On failure** the site stays closed and the survivors go on; repair what the task names and clear it.
"""

import pendulum
from airflow.sdk import DAG, Param

from ninelives_airflow.assets import INCIDENT_OVER, SERVICE_STRANDED, SITE_BACK
from ninelives_airflow.defaults import DEFAULT_ARGS, Tag
from ninelives_airflow.operators.site import ReconcileSiteOperator, ReopenSiteOperator

with DAG(
    dag_id="return_site",
    schedule=[SITE_BACK],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=2,
    default_args=DEFAULT_ARGS,
    tags=[Tag.RECOVERY, Tag.DATA],
    doc_md=__doc__,
    params={"site": Param("", type="string", description="The returning site, when a person starts the run.")},
):
    reconcile_site = ReconcileSiteOperator(task_id="reconcile_site", site="{{ params.site }}")
    reopen_site = ReopenSiteOperator.partial(task_id="reopen_site", outlets=[SERVICE_STRANDED, INCIDENT_OVER]).expand(
        reconciled=reconcile_site.output
    )
