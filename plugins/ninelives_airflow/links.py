"""Links from a task to what it left."""

from __future__ import annotations

from airflow.sdk import BaseOperator, BaseOperatorLink


class EvidenceLink(BaseOperatorLink):
    """Opens the ledger record that the task wrote; absent where it wrote none."""

    name = "Evidence"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:
        seq = getattr(operator, "evidence", None)
        return f"/ninelives/evidence/{seq}" if seq else ""


class DataDocsLink(BaseOperatorLink):
    """Opens Great Expectations' page about a verdict; absent where there is none."""

    name = "Data Docs"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:
        seq = getattr(operator, "documented", None)
        return f"/ninelives/gates/{seq}" if seq else ""


class ReportLink(BaseOperatorLink):
    """Opens the page with the picture about an experiment that has ended; absent where nobody was in it."""

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:
        seq = getattr(operator, "reported", None)
        return f"/ninelives/experiments/{seq}" if seq else ""
