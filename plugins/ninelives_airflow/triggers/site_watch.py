"""Watches every site and declares it lost, or back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from ninelives.errors import NinelivesError


class SiteChangeTrigger(BaseEventTrigger):
    """Fires each time the observers agree that a site is lost (``change="lost"``) or back (``change="back"``).

    :param change: which of the two this trigger reports
    :param every: seconds between two rounds of observations
    """

    def __init__(self, *, change: str, every: float = 1.0) -> None:
        super().__init__()
        self.change = change
        self.every = every

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.SiteChangeTrigger", {"change": self.change, "every": self.every}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from ninelives.recovery.detection import SiteWatch, observe

        with ThreadPoolExecutor(16, thread_name_prefix="site-watch") as pool:
            systems, lost = await self._connect()
            sites = systems.estate.site_names
            stores, gateway = systems.stores(), systems.gateway()
            replicas = {site: systems.replicas(site) for site in sites}
            watch = SiteWatch(sites, lost)
            while True:
                started = time.monotonic()
                seen = await asyncio.to_thread(observe, sites, stores, replicas, gateway, pool)
                for change in watch.round(time.monotonic(), seen):
                    self.log.info("Site %s is %s: %s", change.site, change.change, "; ".join(change.reasons))
                    if change.change == self.change:
                        yield TriggerEvent(self._payload(change))
                await asyncio.sleep(max(0.0, self.every - (time.monotonic() - started)))

    async def _connect(self) -> tuple[Any, set[str]]:
        """Wait until estate and gateway can be read; sites that are closed already count as lost."""
        from ninelives_airflow.hooks.estate import EstateHook

        def connect() -> tuple[Any, set[str]]:
            systems = EstateHook()
            return systems, set(systems.gateway().state().closed_sites)

        while True:
            try:
                return await asyncio.to_thread(connect)
            except NinelivesError as error:
                self.log.warning("Cannot watch the sites yet: %s", error)
                await asyncio.sleep(5)

    @staticmethod
    def _payload(change: Any) -> dict[str, Any]:
        now, monotonic = datetime.now(UTC), time.monotonic()
        return {
            "site": change.site,
            "reasons": list(change.reasons),
            "first_seen": (now - timedelta(seconds=monotonic - change.first_seen)).isoformat(),
            "declared_at": (now - timedelta(seconds=monotonic - change.at)).isoformat(),
        }
