"""Where replicas run on Kubernetes, against the estate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives_airflow.hooks.estate import EstateHook


class AuditPlacementOperator(EstateOperator):
    """Compare what every site's cluster has with what the estate compiles, leave evidence, and fail on drift."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.adapters.kubernetes_cluster import read_clusters
        from ninelives.errors import Refused, Unavailable
        from ninelives.placement.audit import audit, record_audit

        if systems.estate.kubernetes is None:
            raise AirflowSkipException("The estate does not run on Kubernetes, so there is nothing to audit.")
        findings = audit(systems.estate, read_clusters(systems.connections, systems.estate))
        record = record_audit(systems.ledger(), systems.estate, findings, run=context["run_id"])
        self.evidence = record.seq  # the link is wanted most where something is wrong
        wrong = [*record.facts["drift"], f"see evidence {record.seq}"]
        if record.facts["verdict"] == "missed":
            raise Refused("placement", wrong)
        if record.facts["verdict"] != "met":
            raise Unavailable("; ".join(wrong))
        return {"verdict": record.facts["verdict"], "evidence": record.seq}
