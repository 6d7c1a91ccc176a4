"""Rehearsals of a redeployment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives_airflow.hooks.estate import EstateHook


class ListServicesOperator(EstateOperator):
    """List the estate's services, or the one that a person asks for.

    :param service: empty for all
    """

    template_fields = ("service",)

    def __init__(self, *, service: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.service = service

    def act(self, systems: EstateHook, context: Context) -> list[str]:  # type: ignore[override]
        known = [service.name for service in systems.estate.services]
        if self.service and self.service not in known:
            raise AirflowFailException(f"The estate has no service {self.service}; it has {', '.join(known)}.")
        return [self.service] if self.service else known


class RehearseRedeployOperator(EstateOperator):
    """Serve a service's release in a clean environment made of its record alone, and fail where it answers wrongly.

    :param service: as declared in the estate
    """

    template_fields = ("service",)

    def __init__(self, *, service: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.service = service

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.adapters.clean_room import clean_room
        from ninelives.releases.rehearse import rehearse

        record = rehearse(systems, self.service, clean_room, run=context["run_id"])
        self.evidence = record.seq  # the link is wanted most where something is wrong
        if record.facts["verdict"] != "met":
            raise AirflowFailException(f"{self.service} cannot be served again: {'; '.join(record.facts['reasons'])}")
        return {"verdict": "met", "seconds": record.facts["seconds"]["total"], "evidence": record.seq}
