"""The steps of an experiment on users."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.links import EvidenceLink, ReportLink
from ninelives_airflow.operators.approval import FourEyesOperator, approved_by, approvers
from ninelives_airflow.operators.base import EstateOperator, PlannedOperator, VerdictOperator
from ninelives_airflow.operators.release import rejected, rejected_by
from ninelives_airflow.triggers.experiment import ExperimentTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives.estate import Approval, Estate
    from ninelives.experiments.journal import ExperimentPlan


class BeginExperimentOperator(EstateOperator):
    """Find or begin the run of a declared experiment; the same name again finds the same one while it is open.

    :param experiment: its name
    """

    template_fields = ("experiment",)

    def __init__(self, *, experiment: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.experiment = experiment

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.experiments.run import begin, declared
        from ninelives.releases.promotion import approval_of

        approvers(systems, context, approval_of(systems.estate, declared(systems, self.experiment).service))
        by = getattr(context["dag_run"], "triggering_user_name", None) or "airflow"
        return begin(systems, self.experiment, by=by).to_dict()


class ExperimentOperator(PlannedOperator):
    """Acts on one experiment."""

    @property
    def experiment(self) -> ExperimentPlan:
        from ninelives.experiments.journal import ExperimentPlan

        return ExperimentPlan.from_dict(self.plan)

    @contextmanager
    def ending(self, systems: EstateHook) -> Iterator[None]:
        """What is refused inside ends the experiment, with the reasons in its evidence."""
        from ninelives.errors import Refused
        from ninelives.experiments.judge import Verdict
        from ninelives.experiments.run import Ending, end

        try:
            yield
        except Refused as refused:
            end(systems, self.experiment, Ending(Verdict.STOP, refused.reasons), by=self.experiment.by)
            raise


class ExperimentStepOperator(ExperimentOperator):
    """One or more steps before any user, each unless the journal says that it is done.

    :param steps: their names
    """

    def __init__(self, *, steps: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.experiments.run import run_step, steps
        from ninelives.releases.promotion import approval_of

        plan = self.experiment

        def approve() -> str | None:
            return approved_by(
                systems, context, approval_of(systems.estate, plan.service), "approve_experiment", plan=self.plan
            )

        known = steps(systems, plan, approve=approve)
        with self.ending(systems):
            return {name: run_step(systems, plan, name, known[name]) for name in self.steps}


class ApproveExperimentOperator(FourEyesOperator):
    """As the service's release policy says: what is new reaches users, if only some."""

    def policy(self, estate: Estate) -> Approval:
        from ninelives.releases.promotion import approval_of

        return approval_of(estate, self.plan["service"])


class WatchExperimentOperator(ExperimentOperator):
    """Have the gateway divide the users, then wait without a worker slot until the experiment has ended."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.experiments.journal import Entry, of_run
        from ninelives.experiments.run import divide

        plan = self.experiment
        if not of_run(systems.ledger(), plan).find(Entry.ENDING):  # a repeated try finds what a trigger has ended
            with self.ending(systems):
                divide(systems, plan)
            self.defer(trigger=ExperimentTrigger(plan=self.plan), method_name="resume")
        return {}

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        self.log.info("%s: %s", event["verdict"], "; ".join(event["reasons"]))
        return event


class RecordExperimentOperator(ExperimentOperator):
    """Everybody back to the control, if they are not yet, and the report, whatever happened."""

    operator_extra_links = (EvidenceLink(), ReportLink())

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.experiments.judge import Verdict
        from ninelives.experiments.run import Ending, end

        if self.plan is None:
            raise AirflowSkipException("Nothing was begun: begin_experiment says why.")
        plan = self.experiment
        who = rejected_by(systems, context, "approve_experiment")
        why = f"{who} rejected it" if who else f"the run {context['run_id']} ended before the experiment did"
        record = end(systems, plan, Ending(Verdict.STOP, (why,)), by=who or plan.by)
        facts = record.facts
        self.reported = record.seq if "key" in facts.get("report", {}) else None
        return {"verdict": facts["verdict"], "reasons": facts["reasons"], "evidence": record.seq}


class JudgeExperimentOperator(VerdictOperator):
    """Fail the run where the experiment was stopped; whatever the target said is an answer."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        if rejected(context, "approve_experiment"):
            raise AirflowSkipException("The experiment was not approved.")
        if self.recorded is None:
            raise AirflowFailException("The experiment left no evidence; the tasks before this one say why.")
        if self.recorded["verdict"] == "stop":
            raise AirflowFailException(
                f"The experiment was stopped: {'; '.join(self.recorded['reasons'])}. Read evidence "
                f"{self.recorded['evidence']}."
            )
        return dict(self.recorded)
