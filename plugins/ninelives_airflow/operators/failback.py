"""The steps of a failback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from ninelives_airflow.failures import airflow_failures
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.operators.base import EstateOperator
from ninelives_airflow.operators.drill import requester, state_of

if TYPE_CHECKING:
    from airflow.sdk import Context

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


class FailbackStepOperator(EstateOperator):
    """One step of a failback.

    :param plan: output of ``plan_failback``
    """

    template_fields = ("plan",)

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    @property
    def failback(self) -> FailbackPlan:
        from ninelives.recovery.failover import FailbackPlan

        return FailbackPlan.from_dict(self.plan)


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


def person(systems: EstateHook, context: Context) -> str | None:
    """Who asked for it. The estate's own account is nobody: whoever used it could approve their own request."""
    who = requester(context)
    if who is not None and who == systems.connections.get("ninelives_airflow_api").login:
        raise AirflowFailException(
            f"{who} is the estate's own account, so nobody can be the second pair of eyes: start it in Airflow's UI, "
            "or with `ninelives recover fail-back SERVICE --as USER`."
        )
    return who


class ApproveFailbackOperator(ApprovalOperator):
    """Ask a person who did not start the run; passes at once where the estate's policy asks nobody.

    :param plan: output of ``plan_failback``
    """

    template_fields = ("subject", "body", "plan")

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(ignore_downstream_trigger_rules=True, **kwargs)
        self.plan = plan

    def execute(self, context: Context) -> Any:
        from ninelives.drills.approval import eligible_approvers
        from ninelives.estate import Approval, Role
        from ninelives.recovery.failback import approval_of

        systems = EstateHook()
        if approval_of(systems.estate) is Approval.NONE:
            return None
        with airflow_failures():
            approvers = eligible_approvers(systems.estate.people_with(Role.APPROVER), person(systems, context))
        self.assigned_users = [{"id": name, "name": name} for name in approvers]
        return super().execute(context)


class ShiftTrafficOperator(FailbackStepOperator):
    """Check the approval record itself, then send a growing share of the traffic back, and watch each step."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.failback import shift_traffic

        approved_by = self._approval(systems, context)
        return {**shift_traffic(systems, self.failback), "approved_by": approved_by}

    def _approval(self, systems: EstateHook, context: Context) -> str | None:
        """A task's state and its XCom can be written by others; the record of the answer cannot."""
        from ninelives.adapters.airflow_api import AirflowApi
        from ninelives.drills.approval import check_approval
        from ninelives.estate import Approval, Role
        from ninelives.recovery.failback import approval_of

        if approval_of(systems.estate) is Approval.NONE:
            return None
        api = AirflowApi.from_connection(systems.connections.get("ninelives_airflow_api"))
        decision = api.human_decision(context["dag"].dag_id, context["run_id"], "approve_failback")
        return check_approval(
            chosen=decision.chosen if decision else (),
            responded_by=decision.responded_by if decision else None,
            approvers=systems.estate.people_with(Role.APPROVER),
            requested_by=person(systems, context),
        )


class RecordFailbackOperator(FailbackStepOperator):
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


class JudgeFailbackOperator(EstateOperator):
    """Fail the run unless the service is where it belongs.

    :param recorded: output of the record task
    """

    template_fields = ("recorded",)

    def __init__(self, *, recorded: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recorded = recorded

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
