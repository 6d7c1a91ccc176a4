"""Four eyes: who asked, who may answer, and what Airflow's own record says that was answered."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowFailException

from ninelives_airflow.failures import airflow_failures
from ninelives_airflow.hooks.estate import EstateHook

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.sdk import Context
    from airflow.sdk.execution_time.hitl import HITLUser

    from ninelives.estate import Approval, Estate


class FourEyesOperator(ApprovalOperator):
    """Ask a person who did not start the run; passes at once where the estate's policy asks nobody.

    :param plan: what is to be approved, output of the task that planned it: what they see, and what their answer is for
    """

    template_fields = ("subject", "body", "plan")

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(ignore_downstream_trigger_rules=True, **kwargs)
        self.plan = plan

    def policy(self, estate: Estate) -> Approval:
        """What the estate asks for."""
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        from ninelives.estate import Approval

        systems = EstateHook()
        policy = self.policy(systems.estate)
        if policy is Approval.NONE:
            return None
        with airflow_failures():
            self.assigned_users = assignees(approvers(systems, context, policy))
        self.body = shown(self.plan)
        return super().execute(context)


def approvers(systems: EstateHook, context: Context, policy: Approval) -> tuple[str, ...]:
    """Who may answer; nobody where nobody has to. Also for a task that must not begin what nobody could approve.

    :raises Refused: nobody may but who started the run
    """
    from ninelives.drills.approval import eligible_approvers
    from ninelives.estate import Approval, Role

    if policy is Approval.NONE:
        return ()
    return eligible_approvers(systems.estate.people_with(Role.APPROVER), requester(systems, context))


def shown(plan: Any) -> str:
    """A plan as the approver sees it in Markdown, and as the record of the answer keeps it."""
    return textwrap.indent(json.dumps(plan, indent=2, sort_keys=True), "    ")


def assignees(names: Iterable[str]) -> list[HITLUser]:
    """Whom Airflow lets answer. None, which is anybody who may edit the DAG, where its users are known by number.

    Whoever answers, the record's *name* decides; this only keeps others from using up the question.
    """
    from airflow.sdk.configuration import conf

    if not conf.get("core", "auth_manager").endswith("SimpleAuthManager"):
        return []
    return [{"id": name, "name": name} for name in names]


def approved_by(systems: EstateHook, context: Context, policy: Approval, task_id: str, *, plan: Any) -> str | None:
    """Who approved; ``None`` where nobody has to. A task's state and XCom can be written by others, this record not.

    :param plan: what is about to be done, which must be what was approved: whoever clears the task that planned, or
        writes its XCom, has another plan under an old answer
    """
    from ninelives.adapters.airflow_api import AirflowApi
    from ninelives.drills.approval import check_approval
    from ninelives.errors import Refused
    from ninelives.estate import Approval, Role

    if policy is Approval.NONE:
        return None
    api = AirflowApi.from_connection(systems.connections.get("ninelives_airflow_api"))
    decision = api.human_decision(context["dag"].dag_id, context["run_id"], task_id)
    by = check_approval(
        chosen=decision.chosen if decision else (),
        responded_by=decision.responded_by if decision else None,
        approvers=systems.estate.people_with(Role.APPROVER),
        requested_by=requester(systems, context),
    )
    if decision is None or decision.body != shown(plan):
        raise Refused("approval", [f"{by} has approved another plan than the one that is here now; start a new run"])
    return by


def requester(systems: EstateHook, context: Context) -> str | None:
    """Who started the run; ``None`` only for a run that the calendar started.

    The estate's own account is nobody: whoever used it could approve their own request.
    """
    run = context["dag_run"]
    who = getattr(run, "triggering_user_name", None)
    if who is None and run.run_type != "scheduled":
        raise AirflowFailException(
            "Nobody is named as the one who started this run, so nobody can be the second pair of eyes."
        )
    if who is not None and who == systems.connections.get("ninelives_airflow_api").login:
        raise AirflowFailException(
            f"{who} is the estate's own account, so nobody can be the second pair of eyes: start it in Airflow's UI, "
            "or at the command line with --as USER."
        )
    return who
