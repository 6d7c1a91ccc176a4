"""Open and close a service's breaker by hand, on the record."""

from __future__ import annotations

from datetime import timedelta

from ninelives.errors import Refused
from ninelives.estate import Role
from ninelives.ports import Record, Systems

KIND = "breaker"
LEASE_TTL = timedelta(minutes=1)


def open_breaker(systems: Systems, service: str, *, by: str, reason: str, holder: str) -> Record:
    """Ask no replica of ``service`` from now on: its ladder answers, or 503 with ``retry-after``.

    Opening an open one is no error. Killed between the gateway and the ledger it is completed by running it again.

    :param holder: of the lease; the same one repeats a call that was killed
    :raises Refused: ``by`` is no operator, no reason is given, or somebody else holds the breaker
    :raises Unavailable: gateway or ledger do not answer
    """
    if not reason.strip():
        raise Refused("breaker", ["say why: whoever finds the service degraded reads it"])
    return _turn(systems, service, "open", by=by, reason=reason.strip(), holder=holder)


def close_breaker(systems: Systems, service: str, *, by: str, holder: str, reason: str = "") -> Record:
    """Ask the replicas of ``service`` again. Closing a closed one is no error. Raises like ``open_breaker``."""
    return _turn(systems, service, "closed", by=by, reason=reason.strip(), holder=holder)


def last_change(systems: Systems, service: str) -> Record | None:
    """Who opened or closed it last, and why."""
    return next(iter(systems.ledger().records(kind=KIND, subject=service, limit=1)), None)


def _turn(systems: Systems, service: str, state: str, *, by: str, reason: str, holder: str) -> Record:
    operators = systems.estate.people_with(Role.OPERATOR)
    if by not in operators:
        raise Refused("breaker", [f"{by} is no operator of the estate; operators are {', '.join(operators)}"])
    ledger, gateway = systems.ledger(), systems.gateway()
    lease = ledger.take_lease(f"breaker:{service}", holder, LEASE_TTL)
    try:
        if state == "open":
            gateway.open_breaker(service, token=lease.token)
        else:
            gateway.close_breaker(service, token=lease.token)
        return ledger.append(KIND, service, {"state": state, "by": by, "reason": reason, "token": lease.token})
    finally:
        ledger.release_lease(lease)
