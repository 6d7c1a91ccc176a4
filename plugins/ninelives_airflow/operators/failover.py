"""The steps of a failover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from ninelives_airflow.operators.base import EstateOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from ninelives_airflow.hooks.estate import EstateHook


class DecideFailoverOperator(EstateOperator):
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
        for site, reasons in lost_sites(context, self.site).items():
            plans += decide_failover(
                systems, lost_site=site, reasons=reasons, holder=context["run_id"], only=self.service or None
            )
        return [plan.to_dict() for plan in plans]


def lost_sites(context: Context, by_hand: str) -> dict[str, list[str]]:
    """Which sites this run is about, with why: from its asset events, or from the person who started it."""
    sites: dict[str, list[str]] = {}
    for events in context.get("triggering_asset_events", {}).values():
        for event in events:
            payload = event.extra["payload"]
            sites.setdefault(payload["site"], []).extend(payload["reasons"])
    if not sites and by_hand:
        sites[by_hand] = [f"declared by {context['dag_run'].triggering_user_name or 'an unnamed user'}"]
    if not sites:
        raise AirflowFailException("No site to act on: start the run with a site, or let the site watch start it.")
    return sites


class FailoverStepOperator(EstateOperator):
    """One step of one failover.

    :param plan: what ``decide_failover`` planned
    """

    template_fields = ("plan",)

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan


class VerifyDataOperator(FailoverStepOperator):
    """Ask for the gate's verdict on the data at the target; without one nothing is reactivated."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.failover import FailoverPlan, verify_data

        record = verify_data(systems, FailoverPlan.from_dict(self.plan))
        return {"verdict": record.facts["verdict"], "evidence": record.seq}


class WarmUpStandbyOperator(FailoverStepOperator):
    """Load the model at the target until its latency has settled and its golden answers are right."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.failover import FailoverPlan, warm_up

        return warm_up(systems, FailoverPlan.from_dict(self.plan))


class MoveTrafficOperator(FailoverStepOperator):
    """Point the gateway at the target and check the answers through it."""

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.failover import FailoverPlan, move_traffic

        return move_traffic(systems, FailoverPlan.from_dict(self.plan))


class RecordFailoverOperator(FailoverStepOperator):
    """Leave evidence of what was done and what was not.

    :param steps: each step's output, by its task id
    """

    template_fields = ("plan", "steps")

    def __init__(self, *, steps: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps = steps

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        from ninelives.recovery.failover import FailoverPlan, record_failover

        record = record_failover(systems, FailoverPlan.from_dict(self.plan), self.steps)
        return {"outcome": record.facts["outcome"], "evidence": record.seq, "failed": record.facts["failed_steps"]}


class JudgeFailoverOperator(EstateOperator):
    """Fail the run when the failover did not move the traffic.

    :param recorded: output of the record task
    """

    template_fields = ("recorded",)

    def __init__(self, *, recorded: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recorded = recorded

    def act(self, systems: EstateHook, context: Context) -> dict[str, Any]:
        if self.recorded["outcome"] != "moved":
            raise AirflowFailException(
                f"The failover did not move the traffic; failed: {', '.join(self.recorded['failed'])}. "
                f"Read the failed task, then evidence {self.recorded['evidence']}."
            )
        return dict(self.recorded)
