"""
# Run experiment

Show some users a new version for a while: assigned by a hash of who they are, watched by guard-rails that stop it at
once, decided by a test that may be looked at at any time; then give everybody back, with a report.

- **Runs** by hand, for an experiment that the estate declares; the same name is one run.
- **Refuses** what would take room that the loss of a site needs, or risk more than a tenth of the error budget; and
  all that a promotion refuses: interface, artefact, data.
- **Asks** for approval as the service's `release` policy says.
- **Stops** when errors or latencies of the new version are worse, when a site is lost, and when nobody could watch.
- **Ends** when the target is decided, and after its last day. Nobody is promoted by it: that is `promote_model`'s.
- **On failure** it was stopped: read `judge_experiment`, then the report, a link of `return_users`.
"""

from airflow.sdk import DAG, Param, chain

from ninelives_airflow.defaults import DEFAULT_ARGS, Tag
from ninelives_airflow.operators.experiment import (
    ApproveExperimentOperator,
    BeginExperimentOperator,
    ExperimentStepOperator,
    JudgeExperimentOperator,
    RecordExperimentOperator,
    WatchExperimentOperator,
)

with DAG(
    dag_id="run_experiment",
    schedule=None,
    max_active_runs=16,
    default_args=DEFAULT_ARGS,  # no time limit for the run: Airflow would leave out what returns the users
    tags=[Tag.RELEASE],
    doc_md=__doc__,
    # Without a default: Airflow asks for it, and refuses a request without it before there is a run.
    params={"experiment": Param(type="string", minLength=1, description="Its name in the estate.")},
):
    begin_experiment = BeginExperimentOperator(task_id="begin_experiment", experiment="{{ params.experiment }}")
    plan = begin_experiment.output
    check_version = ExperimentStepOperator(
        task_id="check_version",
        plan=plan,
        steps=("check_room", "check_interface", "check_hardware", "scan_artefact", "verify_data"),
    )
    approve_experiment = ApproveExperimentOperator(
        task_id="approve_experiment", subject="Show the new version of {{ params.experiment }} to users?", plan=plan
    )
    # It reads the approval record itself: a task marked as done is no approval.
    warm_up = ExperimentStepOperator(task_id="warm_up", plan=plan, steps=("approve", "warm_up"))
    watch_experiment = WatchExperimentOperator(task_id="watch_experiment", plan=plan, execution_timeout=None)
    # Teardowns, because Airflow leaves out all other tasks when somebody marks the run as failed, and users must not
    # stay divided. The verdict comes last, so that it alone decides the state of the run.
    return_users = RecordExperimentOperator(task_id="return_users", plan=plan)
    judge_experiment = JudgeExperimentOperator(task_id="judge_experiment", recorded=return_users.output)
    for step in (return_users, judge_experiment):
        step.as_teardown(on_failure_fail_dagrun=True)

    chain(check_version, approve_experiment, warm_up, watch_experiment, return_users, judge_experiment)
