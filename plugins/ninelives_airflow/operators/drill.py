"""The steps of a drill."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator, SkipMixin
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from ninelives_airflow.failures import airflow_failures
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.operators.approval import FourEyesOperator, approved_by
from ninelives_airflow.operators.base import EstateOperator, PlannedOperator, VerdictOperator
from ninelives_airflow.triggers.drill import RecoveryTrigger, ReturnTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from ninelives.drills.scenario import Drill
    from ninelives.estate import Approval, Estate


class CheckPreflightOperator(EstateOperator, SkipMixin):
    """Refuse the drill with every reason against it, or return it as a plan. A dry run ends here and writes nothing.

    :param scenario: what is broken
    :param service: whose recovery is measured
    :param site: where; ``active`` is the site that serves now, and empty where the scenario usually strikes
    :param dry_run: say what would happen, and stop

    A run that the schedule started takes what the estate's calendar has due instead, and is skipped where nothing is.
    """

    template_fields = ("scenario", "service", "site", "dry_run")

    def __init__(self, *, scenario: str, service: str, site: str, dry_run: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scenario = scenario
        self.service = service
        self.site = site
        self.dry_run = dry_run

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.drills.preflight import check_preflight, resolve_site
        from ninelives.drills.scenario import Drill

        dry_run = as_flag(self.dry_run)
        chosen = self._chosen(systems, context)
        if chosen is None:
            self.log.info("No drill of the estate's calendar is due.")
            self._end_here(context)
            return {}
        scenario, service, wanted = chosen
        site = resolve_site(systems.estate, systems.gateway().state(), service, wanted, scenario)
        drill = Drill(drill_id(context["run_id"]), scenario, service, site)
        preflight = check_preflight(systems, drill)
        if preflight.reasons and not dry_run:
            refuse(systems, drill, preflight.reasons, context)
        plan = {
            "id": drill.id,
            "scenario": drill.scenario,
            "service": drill.service,
            "site": drill.site,
            "survivors": list(preflight.survivors),
            "reasons": list(preflight.reasons),
            "fingerprint": preflight.drill.fingerprint,
        }
        if dry_run:
            self.log.info("Dry run: would start %s; reasons against it: %s", drill, preflight.reasons or "none")
            self._end_here(context)
        return plan

    def _end_here(self, context: Context) -> None:
        self.skip(ti=context["ti"], tasks=context["task"].get_flat_relatives(upstream=False))

    def _chosen(self, systems: EstateHook, context: Context) -> tuple[str, str, str] | None:
        """Scenario, service and site: as the form says, or what is due; ``None`` where nothing is."""
        from ninelives.drills.coverage import next_due

        if context["dag_run"].run_type != "scheduled" or not systems.estate.drills.calendar:
            return self.scenario, self.service, self.site
        due = next_due(systems.estate, systems.ledger().records(kind="drill"), datetime.now(UTC))
        return (due.scenario.value, due.service, due.site or "") if due else None


def refuse(systems: EstateHook, drill: Drill, reasons: Sequence[str], context: Context) -> NoReturn:
    """Leave evidence of a drill that is not started, and end the task."""
    from ninelives.drills.run import record_refusal
    from ninelives.errors import Refused

    record_refusal(systems, drill, reasons, run=context["run_id"])
    raise Refused("drill", reasons)


def as_flag(value: Any) -> bool:
    """A form's boolean, rendered by a template or not; anything unknown is refused rather than guessed."""
    if str(value) not in {"True", "False"}:
        raise AirflowFailException(f"dry_run must be true or false, not {value!r}: a drill is not started on a guess.")
    return str(value) == "True"


def drill_id(run_id: str) -> str:
    """A file name that is the same for every try of the run."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", run_id)[:120]


class ApproveDrillOperator(FourEyesOperator):
    """As the estate's drill policy says."""

    def policy(self, estate: Estate) -> Approval:
        return estate.drills.approval


class DrillStepOperator(PlannedOperator):
    """One step of a drill."""

    @property
    def drill(self) -> Drill:
        from ninelives.drills.scenario import Drill

        plan = self.plan
        return Drill(plan["id"], plan["scenario"], plan["service"], plan["site"], plan.get("fingerprint", ""))


class InjectFaultOperator(DrillStepOperator):
    """Check the approval record itself and the preflight again, then take the drill lease and inject: all or nothing.

    An approval may take hours, in which a site is lost, somebody freezes automation or the error budget is spent.
    """

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.drills.preflight import check_preflight
        from ninelives.drills.run import inject_fault
        from ninelives.injections import find_injection

        by = approved_by(systems, context, systems.estate.drills.approval, "approve_drill", plan=self.plan)
        drill = self.drill
        first_try = find_injection(systems.home, drill.id) is None
        if first_try and (reasons := check_preflight(systems, drill).reasons):
            refuse(systems, drill, reasons, context)
        injection = inject_fault(systems, drill)
        return {
            "lost_at": injection.lost_at.isoformat(),
            "expires_at": injection.expires_at.isoformat(),
            "approved_by": by,
        }


class UndoFaultOperator(DrillStepOperator):
    """Bring back what the drill took away, whatever happened in between."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.drills.run import undo_fault

        undo_fault(systems, self.drill, by="restore_site")
        return {"restored": self.plan["site"] or self.plan["scenario"]}


def state_of(context: Context, task_id: str) -> str | None:
    """State of another task of this run, asked through the Task SDK."""
    ti = context["ti"]
    run_id = context["run_id"]
    found = ti.get_task_states(dag_id=ti.dag_id, task_ids=[task_id], run_ids=[run_id])
    return found.get(run_id, {}).get(task_id)


class AwaitOperator(BaseOperator):
    """Waits for something of a drill without a worker slot.

    :param plan: output of the preflight
    """

    template_fields = ("plan",)

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        return event


class AwaitRecoveryOperator(AwaitOperator):
    """Wait until users get lasting correct answers, or the drill must stop.

    Before that the estate's own check is started where the scenario needs one: damage tells nobody. Users are watched
    meanwhile.
    """

    def execute(self, context: Context) -> None:
        from ninelives.drills.run import run_check, watched
        from ninelives.drills.scenario import Drill
        from ninelives.errors import NinelivesError

        systems = EstateHook()
        drill = Drill(self.plan["id"], self.plan["scenario"], self.plan["service"], self.plan["site"])
        with airflow_failures(), watched(systems, drill, self.plan["survivors"]) as reasons:
            try:
                checked = run_check(systems, drill)
            except NinelivesError as error:
                if not reasons:
                    raise
                self.log.info("The check ended with the drill: %s", error)
        if reasons:
            raise AirflowFailException(f"Drill stopped: {reasons[0]}.")
        self.log.info("The estate's own check: %s", checked or "none is needed")
        injected = context["ti"].xcom_pull(task_ids="lose_site")
        expires_at = datetime.fromisoformat(injected["expires_at"])
        self.defer(
            trigger=RecoveryTrigger(plan=self.plan, lost_at=injected["lost_at"]),
            method_name="resume",
            timeout=max(expires_at - datetime.now(UTC), timedelta(seconds=1)),
        )

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        if event["state"] == "abort":
            raise AirflowFailException(f"Drill stopped: {event['reason']}.")
        self.log.info("%s: %s", event["state"], event["reason"])
        return event


class MeasureDataLossOperator(DrillStepOperator):
    """Count the acknowledged writes that the survivors do not have, while the site is still away."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.drills.run import measure_data_loss

        return measure_data_loss(systems, self.drill) or {}


class AwaitReturnOperator(AwaitOperator):
    """Wait until the estate is as it was: a site that was lost has passed the gate and takes traffic again.

    :param minutes: how long at most
    """

    def __init__(self, *, minutes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.minutes = minutes

    def execute(self, context: Context) -> None:
        self.defer(
            trigger=ReturnTrigger(site=self.plan["site"], plan=self.plan),
            method_name="resume",
            timeout=timedelta(minutes=self.minutes),
        )


class RecordDrillOperator(DrillStepOperator):
    """Measure what users felt and leave evidence, whatever happened.

    :param data_loss: output of the data loss measurement
    """

    template_fields = ("plan", "data_loss")

    def __init__(self, *, data_loss: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_loss = data_loss

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.drills.run import record_drill, undo_fault

        steps = {
            step: state_of(context, step) for step in ("lose_site", "await_recovery", "restore_site", "await_return")
        }
        if self.plan is None or steps["lose_site"] == "skipped":
            raise AirflowSkipException("Nothing was broken, so there is nothing to measure.")
        if steps["restore_site"] != "success":
            # Airflow left it out: somebody marked the run as failed while the site was being taken away.
            undo_fault(systems, self.drill, by="record_drill")
        problems = [f"{step} {state or 'did not run'}" for step, state in steps.items() if state != "success"]
        record = record_drill(
            systems, self.drill, data_loss=self.data_loss, run=context["run_id"], problem="; ".join(problems) or None
        )
        problem = record.facts.get("problem") or "; ".join(record.facts.get("reasons", ()))
        return {"evidence": record.seq, "verdict": record.facts["verdict"], "problem": problem}


class JudgeDrillOperator(VerdictOperator):
    """Fail the run unless the objective was met: a missed one is a finding, an unknown one a measurement that failed.

    A run that somebody marked as failed fails here as well: Airflow skips its other tasks and would call it a success.
    """

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        if self.recorded is None:
            if (state_of(context, "approve_drill"), state_of(context, "lose_site")) == ("success", "skipped"):
                raise AirflowSkipException("The drill was not approved.")
            raise AirflowFailException("The drill left no measurement; the tasks before this one say why.")
        verdict = self.recorded["verdict"]
        if verdict != "met":
            problem = f" ({self.recorded['problem']})" if self.recorded["problem"] else ""
            raise AirflowFailException(
                f"The objective was {verdict}{problem}. Read evidence {self.recorded['evidence']}: "
                f"ninelives evidence show {self.recorded['evidence']}"
            )
        return dict(self.recorded)
