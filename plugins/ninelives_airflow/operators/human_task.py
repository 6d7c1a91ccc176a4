"""A step that stops asks a person and is tried again, in the same task: what follows it waits and notices nothing.

There is no task for this in any DAG. Where nothing stops, nobody is asked and no hop is added; where the step cannot
succeed, it fails as if there had been no question, so that no leaf hides it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskAwaitingInput
from airflow.sdk.execution_time.hitl import upsert_hitl_detail

from ninelives.errors import Corrupted, NinelivesError, Refused, Unavailable
from ninelives_airflow.failures import airflow_failures
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.operators.approval import assignees
from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives.people.task import Stopped


class MendedByPeopleOperator(EstateOperator):
    """Acts on the estate; what stops it for good is a task for a person until the estate's deadline, without a slot."""

    def concerns(self, systems: EstateHook, context: Context) -> tuple[tuple[str, ...], str | None]:
        """The services that wait for this step, none where a person could mend nothing, and the site it looked at."""
        raise NotImplementedError

    def let_go(self, systems: EstateHook) -> None:
        """Give back what others may need while a person is waited for."""

    def attempt(self, context: Context) -> Any:
        try:
            return super().attempt(context)
        except AirflowException as failure:
            error = failure.__cause__
            ti = context["ti"]
            again = isinstance(error, Unavailable) and ti.try_number <= ti.max_tries
            if not again and isinstance(error, NinelivesError):
                self._ask(context, error)
            raise

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """After an answer, or none in time; the answer is read from Airflow's own record, never from ``event``."""
        with airflow_failures():
            self._close(EstateHook(), context)
        return self.attempt(context)

    def _ask(self, context: Context, error: NinelivesError) -> None:
        """Park the task where a person is to be asked; return where not, or where asking is impossible."""
        from ninelives.people.task import GIVE_UP, GO_ON, is_for_people, open_task, render_task, why_stopped

        if not is_for_people(error):
            return
        try:
            systems, now = EstateHook(), datetime.now(UTC)
            stopped = self._stopped(systems, context, why_stopped(error))
            task = stopped and open_task(systems, stopped, now)
            if not (stopped and task):
                return
            self.let_go(systems)
            body = render_task(systems, task)
        except NinelivesError as problem:  # the failure itself matters more than that nobody could be asked about it
            self.log.warning("No person could be asked: %s", problem)
            return
        self.log.warning("%s\n%s", stopped.headline, body)
        upsert_hitl_detail(
            ti_id=context["ti"].id,
            options=[GO_ON, GIVE_UP],
            subject=stopped.headline,
            body=body,
            params={},  # Airflow's server refuses None
            assigned_users=assignees(task.who),
        )
        raise TaskAwaitingInput(method_name="execute_complete", timeout=task.until - now)

    def _close(self, systems: EstateHook, context: Context) -> None:
        from ninelives.adapters.airflow_api import AirflowApi
        from ninelives.estate import Role
        from ninelives.people.task import close_task

        stopped = self._stopped(systems, context, "")
        if stopped is None:  # somebody has moved the service meanwhile: the step itself says so
            return
        api = AirflowApi.from_connection(systems.connections.get("ninelives_airflow_api"))
        answer = api.human_decision(stopped.dag, stopped.run, stopped.task, map_index=stopped.map_index)
        record = close_task(
            systems.ledger(),
            stopped,
            systems.estate.people_with(Role.OPERATOR),
            choice=", ".join(answer.chosen) if answer else None,
            by=answer.responded_by if answer else None,
            at=(answer.responded_at if answer else None) or datetime.now(UTC),
        )
        self.evidence = record.seq
        state, by = record.facts["state"], record.facts["by"]
        if state == "late":
            raise AirflowFailException(f"No person has answered in time (evidence {record.seq}); silence is no answer.")
        if state == "given up":
            raise AirflowFailException(f"{by} gave up (evidence {record.seq}).")
        self.log.info("%s answered %s: %s; trying again", by, record.facts["choice"], state)

    def _stopped(self, systems: EstateHook, context: Context, why: str) -> Stopped | None:
        from ninelives.people.task import Stopped

        services, site = self.concerns(systems, context)
        ti = context["ti"]
        index = -1 if ti.map_index is None else ti.map_index
        if not services:
            return None
        return Stopped(context["dag"].dag_id, context["run_id"], self.task_id, why, services, site, index)


class ToldToPeopleOperator(EstateOperator):
    """Acts on the estate in a run that comes again by itself and must not wait: others need the next one.

    What a person has to mend, a refusal or damage, is told once, and is over when the step gets through again.
    """

    def brings(self) -> tuple[str, str, int]:
        """Which dataset to which site, and the number of the shard."""
        raise NotImplementedError

    def attempt(self, context: Context) -> Any:
        try:
            result = super().attempt(context)
        except AirflowException as failure:
            error = failure.__cause__
            if isinstance(error, Corrupted) or (isinstance(error, Refused) and not error.what.startswith("lease ")):
                self._tell(context, error)
            raise
        self._say_mended(context)
        return result

    def _tell(self, context: Context, error: NinelivesError) -> None:
        from ninelives.people.task import render_task, tell, why_stopped

        try:
            systems = EstateHook()
            stopped = self._stopped(systems, context, why_stopped(error))
            task = stopped and tell(systems, stopped, datetime.now(UTC))
            if stopped and task:
                self.log.warning("%s\n%s", stopped.headline, render_task(systems, task))
        except NinelivesError as problem:  # the failure itself matters more than that nobody could be told of it
            self.log.warning("No person could be told: %s", problem)

    def _say_mended(self, context: Context) -> None:
        from ninelives.people.task import say_mended

        try:
            systems = EstateHook()
            stopped = self._stopped(systems, context, "")
            if stopped and (record := say_mended(systems.ledger(), stopped, datetime.now(UTC))):
                self.log.info("What people were told of this is mended (evidence %s).", record.seq)
        except NinelivesError as problem:  # what was to be done is done; the next run says so again
            self.log.warning("It could not be said that this is mended: %s", problem)

    def _stopped(self, systems: EstateHook, context: Context, why: str) -> Stopped | None:
        from ninelives.people.task import Stopped

        estate, (dataset, site, shard) = systems.estate, self.brings()
        services = tuple(one.name for one in estate.services if estate.dataset_of(one).name == dataset)
        if not services:
            return None
        return Stopped(context["dag"].dag_id, context["run_id"], self.task_id, why, services, site, shard, waits=False)
