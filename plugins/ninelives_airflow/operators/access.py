"""Permissions: audited, granted for a while, withdrawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives_airflow.hooks.estate import EstateHook


class AuditAccessOperator(EstateOperator):
    """Remove grants that have expired, compare all permissions with the estate, leave evidence, and fail on drift."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.access.audit import audit_access, refuse_drift

        report, record = audit_access(systems, run=context["run_id"])
        self.evidence = record.seq  # the link is wanted most where something is wrong
        for finding in report.findings:
            self.log.warning("%s", finding)
        refuse_drift(report, record)
        return {"verdict": report.verdict, "checked": list(report.checked), "evidence": record.seq}


class GrantAccessOperator(EstateOperator):
    """Give what the estate declares ``in_failover`` at a standby, for the estate's ``access_for``.

    What a killed try has given is in the ledger, and ends by itself.

    :param service: which moves
    :param lost_site: from where
    :param standby: to where
    :param incident: whose id the grant bears; by default the run's
    """

    template_fields = ("service", "lost_site", "standby", "incident")

    def __init__(
        self, *, service: str, lost_site: str, standby: str, incident: str = "{{ run_id }}", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.service = service
        self.lost_site = lost_site
        self.standby = standby
        self.incident = incident

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.access.grants import grant_access

        records = grant_access(
            systems,
            service=self.service,
            lost_site=self.lost_site,
            standby=self.standby,
            incident=self.incident,
        )
        granted = {record.facts["who"]: record.facts["until"] for record in records}
        return {"granted": granted, "evidence": records[-1].seq if records else None}


class RevokeAccessOperator(EstateOperator):
    """Withdraw what was granted under an incident's id: the teardown of ``GrantAccessOperator``.

    :param incident: by default the run's
    """

    template_fields = ("incident",)

    def __init__(self, *, incident: str = "{{ run_id }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.incident = incident

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.access.grants import revoke_access

        records = revoke_access(systems, incident=self.incident)
        withdrawn = [record.facts["policy"] for record in records]
        return {"withdrawn": withdrawn, "evidence": records[-1].seq if records else None}
