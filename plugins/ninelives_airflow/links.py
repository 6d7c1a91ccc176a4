"""The link from a task to the evidence it left."""

from __future__ import annotations

from airflow.sdk import BaseOperator, BaseOperatorLink


class EvidenceLink(BaseOperatorLink):
    """Opens the ledger record that the task wrote; absent where it wrote none."""

    name = "Evidence"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:
        seq = getattr(operator, "evidence", None)
        return f"/ninelives/evidence/{seq}" if seq else ""
