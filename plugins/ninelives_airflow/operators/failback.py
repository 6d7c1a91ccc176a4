"""The steps of a failback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.operators.approval import FourEyesOperator, approved_by
from ninelives_airflow.operators.base import EstateOperator, PlannedOperator, VerdictOperator
from ninelives_airflow.operators.drill import state_of
from ninelives_airflow.operators.human_task import MendedByPeopleOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives.estate import Approval, Estate
    from ninelives.recovery.failover import FailbackPlan


class PlanFailbackOperator(EstateOperator):
    """Say where the service is and where it goes back to; refuse while the reason for its failover stands.

    :param service: which goes back to its first site
    """

    template_fields = ("service",)

    def __init__(self, *, service: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.service = service

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.failback import plan_failback

        return plan_failback(systems, self.service, holder=context["run_id"]).to_dict()


class FailbackRecordOperator(PlannedOperator):
    """What is about one failback."""

    @property
    def failback(self) -> FailbackPlan:
        from ninelives.recovery.failover import FailbackPlan

        return FailbackPlan.from_dict(self.plan)


class FailbackStepOperator(FailbackRecordOperator, MendedByPeopleOperator):
    """One step of a failback."""

    def concerns(self, systems: EstateHook, context: Context) -> tuple[tuple[str, ...], str | None]:
        plan = self.failback
        mine = set(systems.gateway().state().active[plan.service]) <= {plan.source, plan.target}
        return ((plan.service,) if mine else ()), plan.target


class ReconcileDataOperator(FailbackStepOperator):
    """Bring both sites to the union of their data and releases, while users are where they are."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.failback import reconcile_data

        return reconcile_data(systems, self.failback)


class VerifyTargetOperator(FailbackStepOperator):
    """Ask for the gate's verdict on the data at the first site; without one nobody is sent there."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.failback import verify_target

        return verify_target(systems, self.failback)


class WarmUpTargetOperator(FailbackStepOperator):
    """Load the model at the first site until its latency has settled and its golden answers are right."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.failover import warm_up

        return warm_up(systems, self.failback)


class ApproveFailbackOperator(FourEyesOperator):
    """As the estate's failback policy says."""

    def policy(self, estate: Estate) -> Approval:
        from ninelives.recovery.failback import approval_of

        return approval_of(estate)


class ShiftTrafficOperator(FailbackStepOperator):
    """Check the approval record itself, then send a growing share of the traffic back, and watch each step."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.failback import approval_of, shift_traffic

        by = approved_by(systems, context, approval_of(systems.estate), "approve_failback", plan=self.plan)
        return {**shift_traffic(systems, self.failback), "approved_by": by}


class RecordFailbackOperator(FailbackRecordOperator):
    """Bring all traffic to one place and leave evidence, whatever happened.

    :param steps: each step's output, by its task id
    """

    template_fields = ("plan", "steps")

    def __init__(self, *, steps: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.failback import record_failback

        if self.plan is None:
            raise AirflowSkipException("Nothing was planned: plan_failback says why.")
        shifted = self.steps.get("shift_traffic") or {}
        record = record_failback(systems, self.failback, self.steps, approved_by=shifted.get("approved_by"))
        return {"outcome": record.facts["outcome"], "evidence": record.seq, "failed": record.facts["failed_steps"]}


class JudgeFailbackOperator(VerdictOperator):
    """Fail the run unless the service is where it belongs."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        if (state_of(context, "approve_failback"), state_of(context, "shift_traffic")) == ("success", "skipped"):
            raise AirflowSkipException("The failback was not approved.")
        if self.recorded is None:
            raise AirflowFailException("The failback left no evidence; the tasks before this one say why.")
        if self.recorded["outcome"] != "moved":
            raise AirflowFailException(
                f"The service did not go back; failed: {', '.join(self.recorded['failed'])}. "
                f"Read the failed task, then evidence {self.recorded['evidence']}."
            )
        return dict(self.recorded)
