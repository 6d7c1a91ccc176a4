"""The demo's way from flights to a served model."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from ninelives_airflow.failures import airflow_failures
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.operators.base import EstateOperator
from ninelives_airflow.triggers.connectivity import ConnectivityTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives.training.attempt import Wait


SPARE = timedelta(minutes=10)
"""Beyond its deadline a wait is ended by the scheduler, for when no triggerer is left to keep it."""


class WriteHistoryOperator(EstateOperator):
    """Write the flights that lie before the stream as daily partitions, once."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.flights.pipeline import write_history

        return write_history(systems)


class VersionDataOperator(EstateOperator):
    """Keep exactly the data that will be trained on, and name it."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.flights.pipeline import version_data

        return version_data(systems)


class ListModelsOperator(EstateOperator):
    """List the models that are trained on a dataset.

    :param dataset: as declared in the estate
    """

    def __init__(self, *, dataset: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset

    def act(self, systems: EstateHook, context: Context) -> list[str]:  # type: ignore[override]
        return [model.name for model in systems.estate.models if model.trained_on == self.dataset]


class ListTrainingsOperator(EstateOperator):
    """List the trainings to go on with: those that began and never finished, or what a person asks for.

    :param model: train this one, whatever else is unfinished
    :param data_version: on this data; by default what its newest registered version was trained on
    """

    template_fields = ("model", "data_version")

    def __init__(self, *, model: str = "", data_version: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.data_version = data_version

    def act(self, systems: EstateHook, context: Context) -> list[dict[str, Any]]:
        from ninelives.flights.pipeline import newest_data_of, unfinished_trainings

        if self.model:
            version = self.data_version or newest_data_of(systems, self.model)
            return [{"model": self.model, "version": {"data_version": version}}]
        return [
            {"model": one.model, "version": {"data_version": one.data_version}} for one in unfinished_trainings(systems)
        ]


class TrainModelOperator(EstateOperator):
    """Train one model, register it, and publish it to the primary site's store.

    When a source or a store goes away the task defers: no slot is held, no retry is used. It goes on from the last
    whole checkpoint, at whichever site has it, once what it needs has been back for ``steady`` and the gate passes.

    :param model: as declared in the estate
    :param version: output of the versioning of its data
    :param gated: ask the gate before the first attempt too, not only after a wait
    :param patience: how long the task may wait in all, from its first wait on
    :param steady: for how long a source must answer without a break
    """

    template_fields = ("model", "version")

    def __init__(
        self,
        *,
        model: str,
        version: Any,
        gated: bool = False,
        patience: timedelta = timedelta(hours=6),
        steady: timedelta = timedelta(seconds=30),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.gated = gated
        self.patience = patience
        self.steady = steady

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        return self._go_on(systems, context, [], self.gated)

    def resume(self, context: Context, event: dict[str, Any], waits: list[dict[str, Any]]) -> dict[str, Any]:
        """Called by Airflow when the trigger has fired."""
        from ninelives.errors import Refused

        waits[-1]["until"] = datetime.now(UTC).isoformat()
        with airflow_failures():
            if event["state"] != "back":
                raise Refused(f"train {self.model}", [f"it waited until {waits[0]['deadline']}", *event["reasons"]])
            result = self._go_on(EstateHook(), context, waits, gated=True)
        self.evidence = result["evidence"]
        return result

    def _go_on(self, systems: EstateHook, context: Context, waits: list[dict[str, Any]], gated: bool) -> dict[str, Any]:
        from ninelives.flights.pipeline import attempt_training
        from ninelives.training.attempt import Wait

        holder = f"{context['run_id']} {context['ti'].map_index}"  # a retry of this task is the same holder
        done = attempt_training(systems, self.model, self.version["data_version"], holder=holder, gated=gated)
        if isinstance(done, Wait):
            self._wait(done, waits)
        return {**done, "waits": waits}

    def _wait(self, wait: Wait, waits: list[dict[str, Any]]) -> NoReturn:
        from ninelives.training.connectivity import patience_after

        now = datetime.now(UTC)
        deadline = waits[0]["deadline"] if waits else (now + self.patience).isoformat()
        self.log.warning("Waiting until %s at most: %s", deadline, wait.text)
        self.defer(
            trigger=ConnectivityTrigger(
                needs=[list(group) for group in wait.needs],
                steady=patience_after(self.steady.total_seconds(), len(waits)),
                deadline=deadline,
                reasons=list(wait.reasons),
            ),
            method_name="resume",
            timeout=datetime.fromisoformat(deadline) - now + SPARE,
            kwargs={"waits": [*waits, {"since": now.isoformat(), "reasons": list(wait.reasons), "deadline": deadline}]},
        )
