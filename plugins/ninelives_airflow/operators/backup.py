"""Backups: made, proven, judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from ninelives_airflow.hooks.estate import EstateHook


class BackUpEstateOperator(EstateOperator):
    """Back everything up that the estate cannot lose. Damaged sources do not stop it: they are told by the judge."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.backups.run import back_up

        record = back_up(systems, run=context["run_id"])
        for finding in record.facts["findings"]:
            self.log.warning("%s", finding)
        return {"evidence": record.seq, "snapshot": record.facts["snapshot"], "verdict": record.facts["verdict"]}


class JudgeBackupOperator(EstateOperator):
    """Fail where something was wrong with the sources: nothing was new, one shrank, one was damaged.

    :param made: what ``BackUpEstateOperator`` returned
    """

    template_fields = ("made",)

    def __init__(self, *, made: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.made = made

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.backups.run import KIND, refuse_suspect

        self.evidence = self.made["evidence"]
        refuse_suspect(_record(systems, KIND, self.made["evidence"]))
        return dict(self.made)


class ExamineVaultOperator(EstateOperator):
    """Check the vault's structure, and read every byte of the groups that are due."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.backups.proof import examine

        record = examine(systems, run=context["run_id"])
        return {"evidence": record.seq, "verdict": record.facts["verdict"], "read": list(record.facts["read"])}


class ChooseBackupsOperator(EstateOperator):
    """The newest backup and a random older one, to be restored; a repeated task of a run chooses the same."""

    def act(self, systems: EstateHook, context: Context) -> list[dict[str, Any]]:
        from ninelives.backups.proof import choose

        return [{"backup": name} for name in choose(systems, context["run_id"])]


class ProveRestoreOperator(EstateOperator):
    """Restore a backup into an empty folder, load and ask its models, and bring its databases up.

    :param backup: a snapshot's id
    """

    template_fields = ("backup",)

    def __init__(self, *, backup: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backup = backup

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.backups.proof import prove_restore

        record = prove_restore(systems, self.backup, run=context["run_id"])
        return {"evidence": record.seq, "verdict": record.facts["verdict"], "seconds": record.facts["seconds"]}


class JudgeProofOperator(EstateOperator):
    """Fail where anything was damaged, stale, unread for too long, or restored too slowly."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.backups.proof import CHECK, RESTORE, refuse_unproven

        records = [
            record
            for kind in (CHECK, RESTORE)
            for record in systems.ledger().records(kind=kind, subject=systems.estate.name, limit=10)
            if record.facts["run"] == context["run_id"]
        ]
        self.evidence = max(record.seq for record in records) if records else None
        refuse_unproven(records)
        return {"evidence": self.evidence, "proven": sum(record.kind == RESTORE for record in records)}


def _record(systems: EstateHook, kind: str, seq: int) -> Any:
    found: Sequence[Any] = systems.ledger().records(kind=kind, subject=systems.estate.name, limit=50)
    return next(record for record in found if record.seq == seq)
