"""What Ninelives adds to Airflow itself."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from ninelives_airflow.links import DataDocsLink, EvidenceLink, ReportLink
from ninelives_airflow.ui.app import app


class NinelivesPlugin(AirflowPlugin):
    """The pages of readiness, evidence, Data Docs and reports, and the links to them."""

    name = "ninelives"
    fastapi_apps = [{"app": app, "url_prefix": "/ninelives", "name": "ninelives"}]  # noqa: RUF012
    external_views = [{"name": "Readiness", "href": "/ninelives/readiness", "destination": "nav"}]  # noqa: RUF012
    operator_extra_links = [EvidenceLink(), DataDocsLink(), ReportLink()]  # noqa: RUF012
