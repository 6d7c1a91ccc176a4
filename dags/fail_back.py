"""
# Fail back

Bring an active-passive service back to its first site, once the reason for its failover is over: reconcile, ask the
gate, warm up, have it approved, send a growing share of the traffic there, and check the answers.

- **Runs** by hand, with a service. Nothing is in a hurry: users are served where they are.
- **Refuses** while the reason for the failover stands: the site is closed, was lost again, is back for a shorter time
  than the estate says, is in a drill, or is not ready.
- **Asks** for approval as the estate's policy says; who started it cannot approve it.
- **Shifts** by the estate's steps, `recovery.failback.shares`, and watches each with golden requests. Too many bad
  answers, or a run marked as failed, and all traffic is back where it was.
- **Asks** an operator of the estate, too, where a step is refused or fails for good: see `ninelives tasks`.
- **Yields** to a failover at any moment: it holds the service's lease only while shares change.
- **On failure** read `judge_failback`, then the failed task; nothing is left divided.
"""

import pendulum
from airflow.sdk import DAG, Param, chain

from ninelives_airflow.defaults import DEFAULT_ARGS, Tag
from ninelives_airflow.operators.failback import (
    ApproveFailbackOperator,
    JudgeFailbackOperator,
    PlanFailbackOperator,
    ReconcileDataOperator,
    RecordFailbackOperator,
    ShiftTrafficOperator,
    VerifyTargetOperator,
    WarmUpTargetOperator,
)

with DAG(
    dag_id="fail_back",
    schedule=None,
    max_active_runs=1,
    dagrun_timeout=pendulum.duration(days=1),
    default_args=DEFAULT_ARGS,
    tags=[Tag.RECOVERY],
    doc_md=__doc__,
    params={"service": Param("", type="string", description="Which service goes back to its first site.")},
):
    plan_failback = PlanFailbackOperator(task_id="plan_failback", service="{{ params.service }}")
    plan = plan_failback.output
    reconcile_data = ReconcileDataOperator(task_id="reconcile_data", plan=plan)
    verify_data = VerifyTargetOperator(task_id="verify_data", plan=plan)
    warm_up_target = WarmUpTargetOperator(task_id="warm_up_target", plan=plan)
    approve_failback = ApproveFailbackOperator(
        task_id="approve_failback", subject="Send {{ params.service }} back to its first site?", plan=plan
    )
    shift_traffic = ShiftTrafficOperator(
        task_id="shift_traffic", plan=plan, execution_timeout=pendulum.duration(hours=2)
    )
    # Teardowns, because Airflow leaves out all other tasks when somebody marks the run as failed, and the traffic must
    # not stay divided. The verdict comes last, so that it alone decides the state of the run.
    record_failback = RecordFailbackOperator(
        task_id="record_failback",
        plan=plan,
        steps={
            "reconcile_data": reconcile_data.output,
            "verify_data": verify_data.output,
            "warm_up_target": warm_up_target.output,
            "shift_traffic": shift_traffic.output,
        },
    )
    judge_failback = JudgeFailbackOperator(task_id="judge_failback", recorded=record_failback.output)
    for step in (record_failback, judge_failback):
        step.as_teardown(on_failure_fail_dagrun=True)

    chain(reconcile_data, verify_data, warm_up_target, approve_failback, shift_traffic)
    chain(shift_traffic, record_failback, judge_failback)
