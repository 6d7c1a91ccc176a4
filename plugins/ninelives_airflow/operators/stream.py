"""The steps of landing streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives_airflow.hooks.estate import EstateHook

HOLDER = "ingest_stream"
"""One name for all runs, so that the next goes on at once from one that was killed; the DAG has one run at a time."""


class PlanIngestionOperator(EstateOperator):
    """List the streams whose site is open."""

    def act(self, systems: EstateHook, context: Context) -> list[str]:  # type: ignore[override]
        if not systems.estate.streams:
            return []
        closed = systems.gateway().state().closed_sites
        return [stream.name for stream in systems.estate.streams if stream.site not in closed]


class StreamOperator(EstateOperator):
    """Acts on one stream.

    :param stream: as declared in the estate
    """

    template_fields = ("stream",)

    def __init__(self, *, stream: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stream = stream


class IngestStreamOperator(StreamOperator):
    """Land what has arrived; what breaks the contract goes into quarantine, and is no failure."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.streams.ingest import ingest

        done = ingest(systems, self.stream, holder=HOLDER)
        for change in done.changes:
            self.log.info("Passed, and proposes the contract's next version: %s", change)
        for reason, records in done.reasons.items():
            self.log.warning("In quarantine: %s records: %s", records, reason)
        return done.facts()


class ReplayQuarantineOperator(StreamOperator):
    """Land, once, what waits in quarantine and keeps the contract that has been declared since."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.streams.ingest import replay

        return replay(systems, self.stream, holder=HOLDER, changed_only=True).facts()
