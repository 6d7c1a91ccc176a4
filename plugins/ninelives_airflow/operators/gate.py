"""The gate as a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives_airflow.hooks.estate import EstateHook


class QualityGateOperator(EstateOperator):
    """Judge what a site really holds of a dataset, leave the verdict in the ledger, and fail unless it may serve.

    A no is final: only a store or a ledger that does not answer is tried again.

    :param dataset: as declared in the estate, which also names its suite
    :param site: whose copy is judged
    """

    template_fields = ("dataset", "site")

    def __init__(self, *, dataset: str, site: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.site = site

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.gates.evidence import refusal, run_gate

        result, record = run_gate(systems, self.dataset, self.site)
        self.evidence = record.seq  # the link is wanted most where the answer is no
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
