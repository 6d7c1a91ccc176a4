"""The steps of a backfill after downtime."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import SkipMixin
from airflow.sdk.exceptions import AirflowFailException

from ninelives_airflow.failures import airflow_failures
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.operators.base import EstateOperator
from ninelives_airflow.operators.drill import as_flag
from ninelives_airflow.triggers.backfill import BackfillTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives.backfill.fill import Filling


class PlanBackfillOperator(EstateOperator, SkipMixin):
    """Find what was missed and say what would be done about it. A dry run ends here and writes nothing.

    :param dag_to_fill: one of the DAGs that the estate names; empty: all of them
    :param start: look for intervals from here on (ISO 8601); empty: as far back as the estate says
    :param end: look for intervals up to here; empty: now
    :param dry_run: say what would happen, and stop
    """

    template_fields = ("dag_to_fill", "start", "end", "dry_run")

    def __init__(self, *, dag_to_fill: str, start: str, end: str, dry_run: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dag_to_fill = dag_to_fill
        self.start = start
        self.end = end
        self.dry_run = dry_run

    def act(self, systems: EstateHook, context: Context) -> list[dict[str, Any]]:
        from ninelives.backfill.report import plan_all

        dry_run = as_flag(self.dry_run)
        found = plan_all(systems, now=datetime.now(UTC), dag=self.dag_to_fill, start=self.start, end=self.end)
        for one in found:
            self.log.info("%s", one)
        if dry_run:
            self.log.info("Dry run: nothing was written and nothing was started.")
            self.skip(ti=context["ti"], tasks=context["task"].get_flat_relatives(upstream=False))
        return [one.gap for one in found if one.gap["gap"] or one.problem]


class FillGapOperator(EstateOperator):
    """Fill the missed intervals of one DAG with Airflow's own backfill, stretch by stretch, and leave evidence.

    Waits without a worker slot. Killed at any instant it is simply started again: what is still missing is asked of
    Airflow, and a backfill that is open already is waited for.

    :param gap: output of the plan for one DAG
    """

    template_fields = ("gap",)

    def __init__(self, *, gap: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gap = gap

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.backfill.fill import Filling
        from ninelives.errors import Refused

        if self.gap["problem"]:
            raise Refused(f"backfill of {self.gap['dag']}", self.gap["problem"])
        return self._go_on(systems, context, Filling.of_json(self.gap))

    def resume(self, context: Context, event: dict[str, Any], filling: dict[str, Any]) -> dict[str, Any]:
        """Go on after a native backfill."""
        from ninelives.backfill.fill import Filling

        self.log.info("%s", event["told"])
        with airflow_failures():
            return self._go_on(EstateHook(), context, Filling.of_json(filling), late=event["late"])

    def _go_on(self, systems: EstateHook, context: Context, filling: Filling, *, late: bool = False) -> dict[str, Any]:
        from ninelives.backfill.fill import declared_backfill, finish, take_step

        declared = declared_backfill(systems.estate, filling.dag)
        run = context["dag_run"]
        begun = run.start_date or run.run_after
        if not late:
            step = take_step(systems, declared, filling, self.log.info)
            filling = step.filling
            if step.backfill is not None:
                self.defer(
                    trigger=BackfillTrigger(
                        dag=filling.dag,
                        backfill=step.backfill,
                        last=step.last,
                        until=(begun + declared.max_duration).isoformat(),
                    ),
                    method_name="resume",
                    kwargs={"filling": filling.as_json()},
                )
        record = finish(
            systems, declared, filling, run=context["run_id"], begun=begun, now=datetime.now(UTC), late=late,
            tell=self.log.info,
        )  # fmt: skip
        self.evidence = record.seq
        return self._told(record.facts, record.seq)

    def _told(self, facts: Any, evidence: int) -> dict[str, Any]:
        """Parked intervals are no failure: the next run finds them again."""
        for parked in facts["parked"]:
            self.log.warning("Parked: %s: %s", ", ".join(parked["intervals"]), parked["reason"])
        if facts["outcome"] in {"failed", "late"}:
            raise AirflowFailException(
                f"{self.gap['dag']}: {facts['outcome']}; failed {facts['failed']}, running {facts['running']}, "
                f"refused by the gate {facts['gate']}. Read evidence {evidence}: ninelives evidence show {evidence}"
            )
        return {"outcome": facts["outcome"], "intervals": facts["intervals"], "evidence": evidence}
