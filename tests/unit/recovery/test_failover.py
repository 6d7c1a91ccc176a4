"""What a failover says about its time, and who is left behind when every site was lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.estate import load_estate
from ninelives.ports import GatewayState
from ninelives.recovery.failover import FailoverPlan, phases
from ninelives.recovery.return_site import stranded_sites

DECLARED = datetime(2026, 11, 25, 12, tzinfo=UTC)
ESTATE = load_estate(Path(__file__).parents[3] / "include" / "estates" / "demo" / "estate.yaml")
seconds = st.floats(0, 100)


def plan(decision: float, own: float) -> FailoverPlan:
    return FailoverPlan(
        service="arrival-delay",
        dataset="flights",
        lost_site="paris",
        target="dublin",
        token=1,
        holder="run",
        warnings=(),
        declared_at=DECLARED.isoformat(),
        decided_at=(DECLARED + timedelta(seconds=decision)).isoformat(),
        decided_in=own,
    )


@given(decision=seconds, activation=seconds, shift=seconds, own=seconds, verify=seconds, warm=seconds)
def test_the_phases_follow_each_other_and_airflows_share_is_what_no_step_worked_for(
    decision: float, activation: float, shift: float, own: float, verify: float, warm: float
) -> None:
    moved_at = DECLARED + timedelta(seconds=decision) + timedelta(seconds=activation)
    found = phases(
        plan(decision, own),
        {
            "verify_data": {"seconds": verify},
            "warm_up_standby": {"seconds": warm},
            "move_traffic": {"moved_at": moved_at.isoformat(), "seconds": shift},
        },
    )
    assert found["decision"] == pytest.approx(decision, abs=1e-5)
    assert found["activation"] == pytest.approx(activation, abs=1e-5)
    assert found["shift"] == shift
    assert found["airflow"] == pytest.approx(max(0.0, decision + activation - own - max(verify, warm)), abs=1e-5)


def test_a_failover_that_moved_nothing_has_no_phases() -> None:
    assert phases(plan(1, 1), {"verify_data": None, "warm_up_standby": {"seconds": 1}, "move_traffic": None}) == {}


def test_a_plan_survives_the_way_from_task_to_task() -> None:
    assert FailoverPlan.from_dict(plan(1, 0.5).to_dict()) == plan(1, 0.5)


def state(active: str, *closed: str) -> GatewayState:
    return GatewayState(
        active={"arrival-delay": (active,), "late-arrival": ("paris", "dublin")},
        closed_sites=frozenset(closed),
        tokens={},
    )


def test_a_service_that_is_sent_to_a_closed_site_is_stranded_once_another_of_its_sites_is_open() -> None:
    found = stranded_sites(ESTATE, state("dublin", "dublin"), "paris")
    assert list(found) == ["dublin"]
    assert "arrival-delay" in found["dublin"][0]


def test_nobody_is_stranded_where_the_returned_site_itself_serves_or_the_serving_one_is_open() -> None:
    assert stranded_sites(ESTATE, state("paris", "dublin"), "paris") == {}
    assert stranded_sites(ESTATE, state("dublin"), "paris") == {}
