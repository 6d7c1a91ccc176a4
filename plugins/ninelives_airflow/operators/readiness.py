"""Readiness of every standby, and the playbooks that follow it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives_airflow.hooks.estate import EstateHook


class CheckReadinessOperator(EstateOperator):
    """Look at every standby of every service, keep what was found, and renew each playbook that is stale by it."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.playbook import keep_playbook, make_playbook
        from ninelives.recovery.standby import check_readiness, keep_readiness, kept_readiness

        found = check_readiness(systems, kept=kept_readiness(systems))
        run = context["run_id"]
        records = keep_readiness(systems, found, run=run)
        renewed = [one.service for one in found if keep_playbook(systems, make_playbook(systems, one), run=run)]
        for service in renewed:
            self.log.info("The playbook of %s was stale and has been made anew", service)
        return {
            "states": {one.service: str(one.state) for one in found},
            "reasons": {one.service: one.reason for one in found if one.reason},
            "playbooks": renewed,
            "evidence": records[-1].seq if records else None,
        }


class JudgeReadinessOperator(EstateOperator):
    """Fail the run while a service could not be moved.

    :param found: output of the check
    """

    template_fields = ("found",)

    def __init__(self, *, found: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.found = found

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        if reasons := self.found["reasons"]:
            said = "; ".join(f"{service}: {reason}" for service, reason in sorted(reasons.items()))
            raise AirflowFailException(f"Not ready for a loss. {said}. `ninelives readiness` shows every item.")
        return dict(self.found["states"])


class AuditPlaybooksOperator(EstateOperator):
    """Compare every kept playbook with the estate, the release and readiness as they are, leave evidence, and fail
    where one is stale.
    """

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.errors import Refused
        from ninelives.recovery.playbook import audit_playbooks
        from ninelives.recovery.standby import check_readiness, kept_readiness

        found = check_readiness(systems, kept=kept_readiness(systems))
        stale, record = audit_playbooks(systems, found, run=context["run_id"])
        self.evidence = record.seq  # the link is wanted most where something is wrong
        if stale:
            how = "see `ninelives playbook check`; check_readiness renews them where it runs"
            raise Refused("playbooks", [*(f"{name} is stale: {line}" for name, line in sorted(stale.items())), how])
        return {"verdict": "met", "evidence": record.seq}
