"""The steps of taking a site back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ninelives_airflow.assets import SERVICE_STRANDED, SITE_LOST
from ninelives_airflow.operators.base import EstateOperator
from ninelives_airflow.operators.failover import declarations

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives_airflow.hooks.estate import EstateHook


class ReconcileSiteOperator(EstateOperator):
    """Bring a returning site and the open ones to the union of their data; conflicts are kept and reported.

    :param site: the returning site when a person starts the run; an asset event names it otherwise
    """

    template_fields = ("site",)

    def __init__(self, *, site: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.site = site

    def act(self, systems: EstateHook, context: Context) -> list[dict[str, Any]]:
        from ninelives.recovery.return_site import reconcile_site

        return [
            {"site": one.site, "reconciled": reconcile_site(systems, one.site, by=one.by)}
            for one in declarations(context, self.site)
        ]


class ReopenSiteOperator(EstateOperator):
    """Open a site to traffic once its data passes the gate and its replicas answer correctly.

    A service whose every site was lost is stranded at a closed one: for it a failover to this site is started.

    :param reconciled: one result of ``reconcile_site``
    """

    template_fields = ("reconciled",)

    def __init__(self, *, reconciled: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reconciled = reconciled

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.return_site import reopen_site, stranded_sites

        site = self.reconciled["site"]
        record = reopen_site(systems, site, holder=context["run_id"])
        for lost, reasons in stranded_sites(systems.estate, systems.gateway().state(), site).items():
            declaration = {"site": lost, "reasons": reasons, "declared_at": datetime.now(UTC).isoformat()}
            context["outlet_events"][SERVICE_STRANDED].add(SITE_LOST, extra={"payload": declaration})
        return {"site": site, "verdicts": record.facts["verdicts"], "evidence": record.seq}
