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
