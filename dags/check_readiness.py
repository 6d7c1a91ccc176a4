"""
# Check readiness

Look at everything that a failover would need at each standby, keep what was found, and renew the playbooks.

- **Runs** every five minutes, and when a release was published.
- **Looks** at the gateway, drills, the store, regions, licences, permissions, the release and every byte of the model
  (once a day where it has not changed), replicas and capacity, the gate's verdict, the data's lag against the RPO, the
  golden answers, and the last drill.
- **Keeps** the answer for `ninelives status` and the page *Readiness*. Evidence is left when an item has changed, and
  daily. No failover waits for it.
- **Renews** each service's playbook when the estate, the release or readiness has changed it.
- **Fails** in `judge_readiness` while a service could not be moved, with the first reason for each. That is a finding:
  its playbook says how to mend it.
"""

from airflow.sdk import DAG, AssetOrTimeSchedule

from ninelives_airflow.assets import RELEASE
from ninelives_airflow.defaults import DEFAULT_ARGS, Tag, calendar
from ninelives_airflow.operators.readiness import CheckReadinessOperator, JudgeReadinessOperator

with DAG(
    dag_id="check_readiness",
    schedule=AssetOrTimeSchedule(timetable=calendar("*/5 * * * *"), assets=[RELEASE]),
    catchup=False,
    max_active_runs=1,
    default_args={**DEFAULT_ARGS, "retries": 0},
    tags=[Tag.RECOVERY],
    doc_md=__doc__,
):
    check_standbys = CheckReadinessOperator(task_id="check_standbys")
    judge_readiness = JudgeReadinessOperator(task_id="judge_readiness", found=check_standbys.output)
