"""A failover that waited for a person holds nothing meanwhile, and looks again before it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from ninelives.errors import Refused
from ninelives.gates.evidence import usable_verdict
from ninelives.people.task import was_asked
from ninelives.ports import Systems
from ninelives.recovery.failover import LEASE_TTL, FailoverPlan


@contextmanager
def held_again(systems: Systems, plan: FailoverPlan) -> Iterator[FailoverPlan]:
    """The plan with a lease that holds: its own where it still does, else a new one for as long as the body takes.

    Only a run that has asked a person gets a new one, and only while the site is closed and the service is nowhere but
    there or at the target.
    The gate is asked again: an answer may take longer than a verdict is good for, and somebody may have marked the step
    that waited as done.

    :raises Refused: somebody else has moved the service or moves it now, or the gate says no
    """
    ledger = systems.ledger()
    current = ledger.current_lease(plan.lease.name)
    if (current and current.token == plan.token) or not was_asked(ledger, plan.service, plan.holder):
        yield plan  # where it does not hold, what follows refuses it
        return
    usable_verdict(systems, plan.dataset, plan.target)
    lease = ledger.take_lease(plan.lease.name, plan.holder, LEASE_TTL)
    try:
        state = systems.gateway().state()
        elsewhere = set(state.active[plan.service]) - {plan.lost_site, plan.target}
        if elsewhere or plan.lost_site not in state.closed_sites:
            why = f"{plan.service} was moved, or {plan.lost_site} was reopened, while a person was waited for"
            raise Refused("failover", [why])
        yield replace(plan, token=lease.token)
    finally:
        ledger.release_lease(lease)
