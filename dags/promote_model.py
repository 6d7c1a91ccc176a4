"""
# Promote model

Bring a staged version of a service's model into service: checked, approved, warmed up beside the old one, then on
copies of requests, then on a growing share of real ones, judged attempt by attempt, then on all. Or back, with nothing
lost.

- **Runs** by hand or by deployment tooling through Airflow's API; the same service and version is one run.
- **Refuses** a model that callers could not use, that could run code when it is loaded, that is not signed where the
  estate has a key, or whose data the gate refuses.
- **Asks** for approval as the service's `release` policy says; who started it cannot approve it.
- **Rolls back** at once when the new version is worse, and when it stays undecided longer than the policy's patience.
- **Keeps** the old version loaded for `keep_for`; until then `ninelives release rollback` is one change of the
  gateway.
- **On failure** read `judge_promotion`, then the failed task; `ninelives release history` says what answered when.
"""

import pendulum
from airflow.sdk import DAG, Param, chain

from ninelives_airflow.defaults import DEFAULT_ARGS, Tag
from ninelives_airflow.operators.release import (
    ApprovePromotionOperator,
    BeginPromotionOperator,
    JudgePromotionOperator,
    PromotionStepOperator,
    RecordPromotionOperator,
)

with DAG(
    dag_id="promote_model",
    schedule=None,
    max_active_runs=4,
    dagrun_timeout=pendulum.duration(days=2),
    default_args=DEFAULT_ARGS,
    tags=[Tag.RELEASE],
    doc_md=__doc__,
    params={
        # Without defaults: Airflow asks for both, and refuses a request without them before there is a run.
        "service": Param(type="string", minLength=1, description="Whose model."),
        "version": Param(type="string", pattern=r"^[1-9][0-9]{0,17}$", description="The version, as it was staged."),
        "again": Param(False, type="boolean", description="Although this version was rolled back before."),
    },
):
    begin_promotion = BeginPromotionOperator(
        task_id="begin_promotion",
        service="{{ params.service }}",
        version="{{ params.version }}",
        again="{{ params.again }}",
    )
    plan = begin_promotion.output
    check_version = PromotionStepOperator(
        task_id="check_version", plan=plan, steps=("check_interface", "check_hardware", "scan_artefact")
    )
    verify_data = PromotionStepOperator(task_id="verify_data", plan=plan, steps=("verify_data",))
    approve_promotion = ApprovePromotionOperator(
        task_id="approve_promotion",
        subject="Promote {{ params.service }} to version {{ params.version }}?",
        plan=plan,
    )
    # It reads the approval record itself: a task marked as done is no approval.
    warm_up = PromotionStepOperator(task_id="warm_up", plan=plan, steps=("approve", "warm_up"))
    copy_requests = PromotionStepOperator(task_id="copy_requests", plan=plan, steps=("shadow",))
    try_on_users = PromotionStepOperator(task_id="try_on_users", plan=plan, steps=("canary",))
    take_over = PromotionStepOperator(task_id="take_over", plan=plan, steps=("take_over",))
    # Teardowns, because Airflow leaves out all other tasks when somebody marks the run as failed, and requests must not
    # stay divided. The verdict comes last, so that it alone decides the state of the run.
    record_promotion = RecordPromotionOperator(task_id="record_promotion", plan=plan)
    judge_promotion = JudgePromotionOperator(task_id="judge_promotion", recorded=record_promotion.output)
    for step in (record_promotion, judge_promotion):
        step.as_teardown(on_failure_fail_dagrun=True)

    chain(check_version, verify_data, approve_promotion, warm_up, copy_requests, try_on_users, take_over)
    chain(take_over, record_promotion, judge_promotion)
