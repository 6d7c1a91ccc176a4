"""
# Rehearse redeploy

Build a clean environment from what was recorded when a release was registered, serve it there, compare its answers.

- **Runs** weekly, or by hand for one service.
- **Builds** a virtual environment with the recorded packages, each file by its hash, and nothing else, installs the
  recorded code, and serves the release on loopback as a process of its own. Packages come from where pip is told to.
- **Compares** what is installed with the record, and every golden answer with the release's.
- **Changes** nothing: no site, no replica, no request.
- **Fails** where a clean machine could not serve the release. Read the evidence that `rehearse_release` names, with the
  seconds that each part took. A registry that does not answer is tried again, and says nothing of the release.
"""

from airflow.sdk import DAG, Param

from ninelives_airflow.defaults import DEFAULT_ARGS, Tag, calendar
from ninelives_airflow.operators.redeploy import ListServicesOperator, RehearseRedeployOperator

with DAG(
    dag_id="rehearse_redeploy",
    schedule=calendar("30 5 * * 0"),
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=[Tag.RELEASE],
    doc_md=__doc__,
    params={"service": Param("", type="string", description="Only this service; empty for all.")},
):
    list_services = ListServicesOperator(task_id="list_services", service="{{ params.service }}")
    rehearse_release = RehearseRedeployOperator.partial(task_id="rehearse_release", max_active_tis_per_dagrun=1).expand(
        service=list_services.output
    )
