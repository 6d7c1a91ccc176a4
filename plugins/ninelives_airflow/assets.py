"""What starts runs by itself."""

from __future__ import annotations

from airflow.sdk import Asset, AssetAlias, AssetWatcher

from ninelives_airflow.triggers.backfill import SourceBackTrigger
from ninelives_airflow.triggers.site_watch import SiteChangeTrigger

SITE_LOST = Asset(
    "ninelives_site_lost", watchers=[AssetWatcher(name="site_lost_watch", trigger=SiteChangeTrigger(change="lost"))]
)
SITE_BACK = Asset(
    "ninelives_site_back", watchers=[AssetWatcher(name="site_back_watch", trigger=SiteChangeTrigger(change="back"))]
)
RELEASE = Asset("ninelives_release")
"""A release was published at the primary site."""

SERVICE_STRANDED = AssetAlias("ninelives_service_stranded")
"""Adds to SITE_LOST when a site came back while a service is still sent to another, closed one."""

SOURCE_BACK = Asset(
    "ninelives_source_back", watchers=[AssetWatcher(name="source_back_watch", trigger=SourceBackTrigger())]
)
"""The source of parked intervals has landed. A DAG of your own may say so too, with ``outlets=[SOURCE_BACK]``."""
INCIDENT_OVER = Asset("ninelives_incident_over")
"""A lost site takes traffic again."""
