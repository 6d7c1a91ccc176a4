"""The gate as a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ninelives_airflow.links import DataDocsLink, EvidenceLink
from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives_airflow.hooks.estate import EstateHook


class QualityGateOperator(EstateOperator):
    """Judge what a site really holds of a dataset, leave the verdict in the ledger, and fail unless it may serve.

    A no is final: only a store, a database or a ledger that does not answer is tried again.

    :param dataset: or table, as declared in the estate, which also names its suite
    :param site: whose copy is judged
    :param interval: ``START/END`` in ISO 8601, the end not part of it: judge only its rows. Such a verdict never stands
        for the whole. ``"{{ data_interval_start }}/{{ data_interval_end }}"`` is that of the run
    """

    template_fields = ("dataset", "site", "interval")
    operator_extra_links = (EvidenceLink(), DataDocsLink())

    def __init__(self, *, dataset: str, site: str, interval: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.site = site
        self.interval = interval

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.gates.evidence import refusal, run_gate
        from ninelives.gates.interval import Interval

        interval = Interval.parse(self.interval) if self.interval else None
        result, record = run_gate(systems, self.dataset, self.site, interval=interval)
        self.evidence = record.seq  # the link is wanted most where the answer is no
        self.documented = record.seq if "key" in record.facts.get("docs", {}) else None
        for reason in result.reasons:
            self.log.warning("%s", reason)
        if not result.verdict.opens:
            raise refusal(self.dataset, self.site, result, record)
        return {
            "verdict": result.verdict.value,
            "rows": result.rows,
            "expectations": result.expectations,
            "failures": len(result.failures),
            "suite_sha256": result.suite_sha256,
            "fingerprint": result.fingerprint,
            "evidence": record.seq,
        }
