"""The demo's way from flights to a served model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives_airflow.hooks.estate import EstateHook


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


class TrainModelOperator(EstateOperator):
    """Train one model, register it, and publish it to the primary site's store.

    :param model: as declared in the estate
    :param version: output of the versioning of its data
    """

    template_fields = ("model", "version")

    def __init__(self, *, model: str, version: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.flights.pipeline import train_and_register

        return train_and_register(systems, self.model, self.version["data_version"])
