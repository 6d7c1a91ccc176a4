"""
# Fail over

Move each active-passive service away from a lost site: close the site, check the data at the standby, warm the model
up, move the traffic, check the answers.

- **Runs** when the site watch declares a site lost, or by hand with a site. A drill, a real loss and an operator start
  the same run.
- **Refuses** when no standby is ready or licensed, when the gate does not vouch for the data there, or when another
  failover of the service holds the lease. Every refusal and every step is evidence.
- **Stops** at safety rules that a run started by hand may pass: automation is frozen (`ninelives automation`), or the
  service was moved too often within the hour. Nobody passes these: the last open site that answers stays open, and no
  failover goes to a site in a drill.
- **Asks** an operator of the estate where a step is refused or fails for good, with what to paste: see *Required
  Actions*, or `ninelives tasks`. It waits without a slot, tries again on an answer, and fails where none comes in time.
- **Normal**: two or three seconds of tasks, four of them in a row.
- **On failure** read `judge_failover`, then the failed task: it names what to do.
"""

import pendulum
from airflow.sdk import DAG, Param, TriggerRule, task_group

from ninelives_airflow.assets import SITE_LOST
from ninelives_airflow.defaults import DEFAULT_ARGS, Tag
from ninelives_airflow.operators.failover import (
    DecideFailoverOperator,
    JudgeFailoverOperator,
    MoveTrafficOperator,
    RecordFailoverOperator,
    VerifyDataOperator,
    WarmUpStandbyOperator,
)

with DAG(
    dag_id="fail_over",
    schedule=[SITE_LOST],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=16,  # one that waits for a person must not hold up the next loss
    default_args={**DEFAULT_ARGS, "priority_weight": 100, "retries": 1, "retry_delay": pendulum.duration(seconds=1)},
    tags=[Tag.RECOVERY],
    doc_md=__doc__,
    params={
        "site": Param("", type="string", description="The lost site, when a person starts the run."),
        "service": Param("", type="string", description="Only this service; empty: all that the site served."),
    },
):
    decide_failover = DecideFailoverOperator(
        task_id="decide_failover", site="{{ params.site }}", service="{{ params.service }}"
    )

    @task_group
    def fail_over_service(plan):
        verify_data = VerifyDataOperator(task_id="verify_data", plan=plan)
        # In parallel: warming up touches no traffic, and the slower of the two sets the pace.
        warm_up_standby = WarmUpStandbyOperator(task_id="warm_up_standby", plan=plan)
        move_traffic = MoveTrafficOperator(task_id="move_traffic", plan=plan)
        record_failover = RecordFailoverOperator(
            task_id="record_failover",
            plan=plan,
            steps={
                "verify_data": verify_data.output,
                "warm_up_standby": warm_up_standby.output,
                "move_traffic": move_traffic.output,
            },
            trigger_rule=TriggerRule.ALL_DONE,
        )
        judge_failover = JudgeFailoverOperator(task_id="judge_failover", recorded=record_failover.output)
        [verify_data, warm_up_standby] >> move_traffic >> record_failover >> judge_failover

    fail_over_service.expand(plan=decide_failover.output)
