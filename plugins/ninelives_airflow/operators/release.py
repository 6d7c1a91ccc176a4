"""The steps of a promotion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.operators.approval import FourEyesOperator, approved_by, approvers
from ninelives_airflow.operators.base import EstateOperator, PlannedOperator, VerdictOperator
from ninelives_airflow.operators.drill import state_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives.estate import Approval, Estate
    from ninelives.releases.journal import Plan


class BeginPromotionOperator(EstateOperator):
    """Find or begin the promotion of this version; the same request again finds the same one.

    :param service: whose model
    :param version: staged before
    :param again: although it was rolled back before
    """

    template_fields = ("service", "version", "again")

    def __init__(self, *, service: str, version: str, again: Any = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.service = service
        self.version = version
        self.again = again

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.releases.promotion import approval_of, begin, service_of

        approvers(systems, context, approval_of(systems.estate, service_of(systems, self.service).name))
        by = getattr(context["dag_run"], "triggering_user_name", None) or "airflow"
        again = str(self.again).lower() == "true" and context["ti"].try_number == 1
        return begin(systems, self.service, str(self.version), by=by, again=again).to_dict()


class PromotionOperator(PlannedOperator):
    """Acts on one promotion."""

    @property
    def promotion(self) -> Plan:
        from ninelives.releases.journal import Plan

        return Plan.from_dict(self.plan)


class PromotionStepOperator(PromotionOperator):
    """One or more steps, each unless the journal says that it is done.

    :param steps: their names; ``canary`` stands for every share of the estate's policy
    """

    def __init__(self, *, steps: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.errors import Refused
        from ninelives.releases.promotion import approval_of, canary_steps, roll_back, run_step, steps

        plan = self.promotion

        def approve() -> str | None:
            return approved_by(
                systems, context, approval_of(systems.estate, plan.service), "approve_promotion", plan=self.plan
            )

        known = steps(systems, plan, approve=approve)
        names = [one for name in self.steps for one in (canary_steps(systems, plan) if name == "canary" else [name])]
        try:
            return {name: run_step(systems, plan, name, known[name]) for name in names}
        except Refused as refusal:  # users do not wait until Airflow comes to the teardown
            roll_back(systems, plan, by=plan.by, reasons=refusal.reasons)
            raise


class ApprovePromotionOperator(FourEyesOperator):
    """As the service's release policy says."""

    def policy(self, estate: Estate) -> Approval:
        from ninelives.releases.promotion import approval_of

        return approval_of(estate, self.plan["service"])


def rejected(context: Context, asked: str) -> bool:
    """Whether the run ended by an approver's no, on which Airflow leaves out what follows the question.

    :param asked: the task that asked
    """
    return (state_of(context, asked), state_of(context, "warm_up")) == ("success", "skipped")


def rejected_by(systems: EstateHook, context: Context, asked: str) -> str | None:
    """Who said no, as Airflow's record of the answer has it; ``None`` where the run did not end by that."""
    from ninelives.adapters.airflow_api import AirflowApi
    from ninelives.errors import Unavailable

    if not rejected(context, asked):
        return None
    api = AirflowApi.from_connection(systems.connections.get("ninelives_airflow_api"))
    try:
        decision = api.human_decision(context["dag"].dag_id, context["run_id"], asked)
    except Unavailable:  # what must be put back does not wait for a name
        decision = None
    return (decision and decision.responded_by) or "an approver"


class RecordPromotionOperator(PromotionOperator):
    """Say that the version is in, or bring all requests back to the old one, whatever happened."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.releases.journal import Entry, of_run
        from ninelives.releases.promotion import conclude, roll_back

        if self.plan is None:
            raise AirflowSkipException("Nothing was begun: begin_promotion says why.")
        plan = self.promotion
        journal = of_run(systems.ledger(), plan)
        if journal.find(Entry.STEP, "take_over") and not journal.find(Entry.ROLL_BACK):
            record = conclude(systems, plan)
        else:
            last = journal.done[-1] if journal.done else "the beginning"
            who = rejected_by(systems, context, "approve_promotion")
            why = f"{who} rejected it" if who else f"the run {context['run_id']} did not get beyond {last}"
            record = roll_back(systems, plan, by=who or plan.by, reasons=[why])
        return {"outcome": record.facts["outcome"], "why": record.facts["why"], "evidence": record.seq}


class JudgePromotionOperator(VerdictOperator):
    """Fail the run unless the new version is in service."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        if rejected(context, "approve_promotion"):
            raise AirflowSkipException("The promotion was not approved.")
        if self.recorded is None:
            raise AirflowFailException("The promotion left no evidence; the tasks before this one say why.")
        if self.recorded["outcome"] != "promoted":
            raise AirflowFailException(
                f"The version did not come in: {self.recorded['why']}. Read the failed task, then evidence "
                f"{self.recorded['evidence']}."
            )
        return dict(self.recorded)
