"""What Ninelives adds to Airflow itself."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from ninelives_airflow.links import EvidenceLink
from ninelives_airflow.ui.app import app


class NinelivesPlugin(AirflowPlugin):
    """The evidence page and the link to it."""

    name = "ninelives"
    fastapi_apps = [{"app": app, "url_prefix": "/ninelives", "name": "ninelives"}]  # noqa: RUF012
    operator_extra_links = [EvidenceLink()]  # noqa: RUF012
