"""What every operator of ours does the same way."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from ninelives_airflow.failures import airflow_failures
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.links import EvidenceLink

if TYPE_CHECKING:
    from airflow.sdk import Context


class EstateOperator(BaseOperator):
    """Acts on the estate and returns a small dict; ``evidence`` in it is the number of the ledger record it left."""

    operator_extra_links = (EvidenceLink(),)

    @abstractmethod
    def act(self, systems: EstateHook, context: Context) -> dict[str, Any] | list[dict[str, Any]]:
        """The domain's step; its errors are mapped to Airflow's around it."""

    def execute(self, context: Context) -> dict[str, Any] | list[dict[str, Any]]:
        return self.attempt(context)

    def attempt(self, context: Context) -> dict[str, Any] | list[dict[str, Any]]:
        """One try of the step, at the start of the task or after it has waited."""
        with airflow_failures():
            result = self.act(EstateHook(), context)
        if isinstance(result, dict):
            self.evidence = result.get("evidence")
        return result


class PlannedOperator(EstateOperator):
    """Acts on what an earlier task has planned.

    :param plan: that task's output; ``None`` where it planned nothing
    """

    template_fields = ("plan",)

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan


class VerdictOperator(EstateOperator):
    """The last task of a run, which alone decides its state, from what was recorded of it.

    :param recorded: output of the record task; ``None`` where it left none
    """

    template_fields = ("recorded",)

    def __init__(self, *, recorded: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recorded = recorded
