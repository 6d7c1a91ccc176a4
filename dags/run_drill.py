"""
# Run drill

Break something on purpose and measure, as users feel it, how long until it works again. A drill injects and measures;
it never helps: the recovery under test is the one that a real loss would start.

- **Runs** by the estate's calendar, longest overdue first, or by hand with a form. A dry run writes nothing.
- **Refuses** while another drill or failover runs, when survivors are unwell, the error budget is spent or the standby
  is behind its RPO. Asks for approval as the estate's policy says; who started it cannot approve it.
- **Undoes itself**: `restore_site` runs whatever happens in between, and if no task can run any more, the keeper
  restores the site when the drill's longest duration is over.
- **Fails** when the objective was missed or could not be measured. That is a finding: read `judge_drill`, then the
  evidence it names.
"""

import pendulum
from airflow.sdk import DAG, Param, chain

from ninelives_airflow.defaults import DEFAULT_ARGS, Tag, drill_defaults
from ninelives_airflow.operators.drill import (
    ApproveDrillOperator,
    AwaitRecoveryOperator,
    AwaitReturnOperator,
    CheckPreflightOperator,
    InjectFaultOperator,
    JudgeDrillOperator,
    MeasureDataLossOperator,
    RecordDrillOperator,
    UndoFaultOperator,
)

DEFAULTS = drill_defaults()

with DAG(
    dag_id="run_drill",
    schedule=DEFAULTS.schedule,
    catchup=False,
    max_active_runs=4,  # a second drill is refused by its preflight and told why, not queued behind the first
    dagrun_timeout=pendulum.duration(days=1),
    default_args=DEFAULT_ARGS,
    tags=[Tag.RECOVERY, Tag.DRILL],
    doc_md=__doc__,
    params={
        "scenario": Param("site-loss", type="string", enum=list(DEFAULTS.scenarios), description="What is broken."),
        "service": Param(DEFAULTS.service, type="string", description="Whose recovery is measured."),
        "site": Param("", type="string", description="Where; active: the site that serves now; empty: as usual."),
        "dry_run": Param(False, type="boolean", description="Say what would happen, and stop."),
    },
):
    check_preflight = CheckPreflightOperator(
        task_id="check_preflight",
        scenario="{{ params.scenario }}",
        service="{{ params.service }}",
        site="{{ params.site }}",
        dry_run="{{ params.dry_run }}",
    )
    plan = check_preflight.output
    approve_drill = ApproveDrillOperator(
        task_id="approve_drill", subject="{{ params.scenario }} on {{ params.service }}: go?", plan=plan
    )

    lose_site = InjectFaultOperator(task_id="lose_site", plan=plan)
    restore_site = UndoFaultOperator(task_id="restore_site", plan=plan)
    restore_site.as_teardown(setups=lose_site, on_failure_fail_dagrun=True)
    with restore_site:
        await_recovery = AwaitRecoveryOperator(task_id="await_recovery", plan=plan)
        measure_data_loss = MeasureDataLossOperator(task_id="measure_data_loss", plan=plan)
        await_recovery >> measure_data_loss

    await_return = AwaitReturnOperator(task_id="await_return", plan=plan, minutes=10)
    # Teardowns as well, because Airflow leaves out all others when somebody marks the run as failed. The verdict comes
    # last, so that it alone decides the state of the run.
    record_drill = RecordDrillOperator(task_id="record_drill", plan=plan, data_loss=measure_data_loss.output)
    judge_drill = JudgeDrillOperator(task_id="judge_drill", recorded=record_drill.output)
    for step in (record_drill, judge_drill):
        step.as_teardown(on_failure_fail_dagrun=True)

    chain(approve_drill, lose_site)
    chain(restore_site, await_return, record_drill, judge_drill)
