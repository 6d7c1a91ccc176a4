"""The steps of a failover."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from ninelives_airflow.operators.base import PlannedOperator, VerdictOperator
from ninelives_airflow.operators.human_task import MendedByPeopleOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives.recovery.failover import FailoverPlan
    from ninelives_airflow.hooks.estate import EstateHook


class DecideFailoverOperator(MendedByPeopleOperator):
    """Close the lost site and plan the failover of each service that it served.

    :param site: the lost site when a person starts the run; an asset event names it otherwise
    :param service: restrict the failover to this service
    """

    template_fields = ("site", "service")

    def __init__(self, *, site: str, service: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.site = site
        self.service = service

    def act(self, systems: EstateHook, context: Context) -> list[dict[str, Any]]:
        from ninelives.recovery.failover import decide_failover

        plans = []
        for declaration in declarations(context, self.site):
            plans += decide_failover(
                systems,
                lost_site=declaration.site,
                reasons=declaration.reasons,
                holder=context["run_id"],
                declared_at=declaration.at,
                only=self.service or None,
                by=declaration.by,
            )
        return [plan.to_dict() for plan in plans]

    def concerns(self, systems: EstateHook, context: Context) -> tuple[tuple[str, ...], str | None]:
        from ninelives.recovery.failover import left_at

        lost = [declaration.site for declaration in declarations(context, self.site)]
        return tuple(dict.fromkeys(one for site in lost for one in left_at(systems, site, self.service or None))), None


@dataclass
class Declaration:
    """A site that this run is about, why, and since when that is known."""

    site: str
    reasons: list[str]
    at: datetime
    by: str | None = None
    """The person who started the run; ``None`` where a declaration did, whom a freeze stops."""


def declarations(context: Context, by_hand: str) -> list[Declaration]:
    """From the run's asset events, one per site, or from the person who started it."""
    sites: dict[str, Declaration] = {}
    for events in context.get("triggering_asset_events", {}).values():
        for event in events:
            payload = event.extra["payload"]
            at = datetime.fromisoformat(payload["declared_at"])
            sites.setdefault(payload["site"], Declaration(payload["site"], [], at)).reasons.extend(payload["reasons"])
    if not sites and by_hand:
        run = context["dag_run"]
        who = run.triggering_user_name or "an unnamed user"
        sites[by_hand] = Declaration(by_hand, [f"declared by {who}"], run.run_after, who)
    if not sites:
        raise AirflowFailException("No site to act on: start the run with a site, or let the site watch start it.")
    return list(sites.values())


class FailoverStepOperator(PlannedOperator, MendedByPeopleOperator):
    """One step of one failover."""

    def concerns(self, systems: EstateHook, context: Context) -> tuple[tuple[str, ...], str | None]:
        plan = self.plan
        active = systems.gateway().state().active[plan["service"]]
        mine = set(active) <= {plan["lost_site"], plan["target"]}
        return ((plan["service"],) if mine else ()), plan["target"]

    def let_go(self, systems: EstateHook) -> None:
        from ninelives.recovery.failover import FailoverPlan

        systems.ledger().release_lease(FailoverPlan.from_dict(self.plan).lease)


class VerifyDataOperator(FailoverStepOperator):
    """Ask for the gate's verdict on the data at the target; without one nothing is reactivated."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.failover import FailoverPlan, verify_data

        return verify_data(systems, FailoverPlan.from_dict(self.plan))


class WarmUpStandbyOperator(FailoverStepOperator):
    """Load the model at the target until its latency has settled and its golden answers are right.

    Before that grant what the estate declares for failovers there; where it declares none, nobody is asked.
    """

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.failover import FailoverPlan, warm_up

        plan = FailoverPlan.from_dict(self.plan)
        if systems.estate.grants_in_failover:
            from ninelives.access.grants import grant_access

            where = {"lost_site": plan.lost_site, "standby": plan.target}
            grant_access(systems, service=plan.service, incident=plan.holder, **where)
        return warm_up(systems, plan)


class MoveTrafficOperator(FailoverStepOperator):
    """Point the gateway at the target and check the answers through it."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.people.waited import held_again
        from ninelives.recovery.failover import FailoverPlan, move_traffic

        with held_again(systems, FailoverPlan.from_dict(self.plan)) as plan:
            return move_traffic(systems, plan)


class RecordFailoverOperator(PlannedOperator):
    """Leave evidence of what was done and what was not.

    :param steps: each step's output, by its task id
    """

    template_fields = ("plan", "steps")

    def __init__(self, *, steps: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.failover import FailoverPlan, record_failover

        plan = FailoverPlan.from_dict(self.plan)
        record = record_failover(systems, plan, self.steps)
        if systems.estate.grants_in_failover:
            self._withdraw(systems, plan, moved=record.facts["outcome"] == "moved")
        return {"outcome": record.facts["outcome"], "evidence": record.seq, "failed": record.facts["failed_steps"]}

    def _withdraw(self, systems: EstateHook, plan: FailoverPlan, *, moved: bool) -> None:
        from ninelives.access.grants import withdraw_after_failover
        from ninelives.errors import Unavailable

        try:
            withdraw_after_failover(
                systems, service=plan.service, lost_site=plan.lost_site, incident=plan.holder, moved=moved
            )
        except Unavailable as error:  # the lost site, most likely: no reason to call a failover that moved a failure
            self.log.warning("Grants are left to end by themselves: %s", error)


class JudgeFailoverOperator(VerdictOperator):
    """Fail the run when the failover did not move the traffic."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        if self.recorded["outcome"] != "moved":
            raise AirflowFailException(
                f"The failover did not move the traffic; failed: {', '.join(self.recorded['failed'])}. "
                f"Read the failed task, then evidence {self.recorded['evidence']}."
            )
        return dict(self.recorded)
