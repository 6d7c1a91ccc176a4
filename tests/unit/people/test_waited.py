"""A failover that waited for a person: it goes on with a lease of its own, or not at all."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from unit.versions.estates import MemoryLedger

from ninelives.errors import Refused
from ninelives.people.task import KIND
from ninelives.people.waited import held_again
from ninelives.ports import GatewayState, Lease
from ninelives.recovery.failover import FailoverPlan

PLAN = FailoverPlan("alpha", "rows", "paris", "dublin", 7, "run-1", (), "2026", "2026", 0.0)


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the gate was asked about."""
    found: list[str] = []
    monkeypatch.setattr("ninelives.people.waited.usable_verdict", lambda _, dataset, site: found.append(site))
    return found


class Leases(MemoryLedger):
    def current_lease(self, name: str) -> Lease | None:
        return self.leases.get(name)


def world(*, active: str = "paris", closed: bool = True, waited: bool = True) -> Any:
    ledger = Leases()
    if waited:
        ledger.append(KIND, "alpha", {"run": "run-1"})
    state = GatewayState({"alpha": (active,)}, frozenset({"paris"} if closed else ()), {})
    return SimpleNamespace(ledger=lambda: ledger, gateway=lambda: SimpleNamespace(state=lambda: state))


def test_a_lease_that_holds_is_kept_and_nothing_more_is_asked(asked: list[str]) -> None:
    of = world()
    of.ledger().leases["service:alpha"] = Lease("service:alpha", "run-1", 7, datetime.max.replace(tzinfo=UTC))
    with held_again(of, PLAN) as plan:
        assert plan is PLAN
    assert asked == []
    assert of.ledger().current_lease("service:alpha"), "what records the failover gives it back"


@pytest.mark.parametrize("active", ["paris", "dublin"])  # at the target already: a try that was killed in between
def test_after_waiting_it_takes_a_new_lease_asks_the_gate_again_and_gives_the_lease_back(
    active: str, asked: list[str]
) -> None:
    of = world(active=active)
    with held_again(of, PLAN) as plan:
        held = of.ledger().current_lease("service:alpha")
        assert plan == replace(PLAN, token=held.token)
    assert asked == ["dublin"]
    assert of.ledger().current_lease("service:alpha") is None


@pytest.mark.parametrize("changed", [{"active": "lyon"}, {"closed": False}])
def test_what_others_did_meanwhile_stands(changed: dict[str, Any]) -> None:
    of = world(**changed)
    with pytest.raises(Refused, match="while a person was waited for"), held_again(of, PLAN):
        pytest.fail("it went on")
    assert of.ledger().current_lease("service:alpha") is None


def test_another_failover_that_holds_the_service_is_not_disturbed() -> None:
    of = world()
    other = of.ledger().take_lease("service:alpha", "run-2", timedelta(minutes=1))
    with pytest.raises(Refused, match="run-2 holds it"), held_again(of, PLAN):
        pytest.fail("it went on")
    assert of.ledger().current_lease("service:alpha") == other


def test_a_gate_that_says_no_by_now_stops_it_also_where_somebody_marked_the_step_as_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no(*_: Any) -> None:
        raise Refused("gate", ["no"])

    monkeypatch.setattr("ninelives.people.waited.usable_verdict", no)
    with pytest.raises(Refused, match="gate: no"), held_again(world(), PLAN):
        pytest.fail("it went on")


def test_a_step_that_only_outlived_its_lease_gets_no_new_one() -> None:
    of = world(waited=False)
    with held_again(of, PLAN) as plan:
        assert plan is PLAN  # move_traffic refuses it
    assert of.ledger().leases == {}
