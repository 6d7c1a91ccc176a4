"""Versions whose time is over: let go by replicas, deleted by rule, and what is left over or lacking found."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives_airflow.hooks.estate import EstateHook


class RetireOverdueOperator(EstateOperator):
    """Let go the old version of every service whose promotion kept it for as long as declared."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.artefacts.retire import retire_overdue

        done = retire_overdue(systems, datetime.now(UTC))
        done.raise_problems()
        return done.facts()


class PruneArtefactsOperator(EstateOperator):
    """Delete the versions that the estate's retention lets go; each deletion is in the ledger before and after."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.artefacts.prune import prune

        run = context["run_id"]
        done = prune(systems, f"retire_versions {run}", lambda: datetime.now(UTC), by=f"retire_versions {run}")
        return {
            "deleted": [f"{one.model}@{one.version}" for one in done.deleted],
            "bytes": sum(one.bytes for one in done.deleted),
            "spared": list(done.spared),
            "evidence": done.deleted[-1].evidence if done.deleted else None,
        }


class FindOrphansOperator(EstateOperator):
    """Compare stores and registry, leave evidence, and fail where a version's artefact is gone."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.artefacts.orphans import find, record, refuse

        found = find(systems, datetime.now(UTC))
        self.evidence = record(systems, found, run=context["run_id"]).seq  # wanted most where something is wrong
        for orphan in found.orphans[:20]:
            self.log.warning("%s: %s/%s: no version names it", orphan.site, orphan.bucket, orphan.key)
        refuse(found, self.evidence)
        return {"verdict": found.verdict, "orphans": len(found.orphans), "evidence": self.evidence}
