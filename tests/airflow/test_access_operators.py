"""The audit, the grant and its teardown as tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from support.access import FLIGHTS, MODELS, World, aws

from ninelives.recovery.failover import FailoverPlan
from ninelives_airflow.hooks.estate import EstateHook
from ninelives_airflow.operators import failover
from ninelives_airflow.operators.access import AuditAccessOperator, GrantAccessOperator, RevokeAccessOperator

pytestmark = [pytest.mark.airflow, pytest.mark.stack]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with aws(tmp_path) as url:
        world = World(tmp_path / "home", url)
        monkeypatch.setenv("NINELIVES_HOME", str(world.home.root))
        monkeypatch.setenv("NINELIVES_ESTATE", str(world.home.root / "estate.yaml"))
        monkeypatch.setenv("AIRFLOW_CONN_NINELIVES_DUBLIN_ACCESS", json.dumps(world.access))
        monkeypatch.setenv("AIRFLOW_CONN_NINELIVES_DUBLIN_STORE", json.dumps(world.store))
        monkeypatch.setattr(EstateHook, "ledger", lambda _: world.systems.ledger())
        yield world


def run(operator: Any) -> Any:
    return operator.execute({"run_id": "run-1"})


def test_an_audit_fails_on_drift_and_a_grant_comes_and_goes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = AuditAccessOperator(task_id="audit_permissions")
    assert run(audit) == {"verdict": "unknown", "checked": ["dublin"], "evidence": 1}
    world.allow("copier", "copies", ["s3:GetObject"], [FLIGHTS, *MODELS])
    with pytest.raises(AirflowFailException, match=r"dataset flights: missing: copier should have write.*evidence 2"):
        run(audit)
    assert audit.evidence == 2

    where = {"service": "arrival-delay", "lost_site": "paris", "standby": "dublin", "incident": "run-1"}
    granted = run(GrantAccessOperator(task_id="grant_access", **where))
    assert list(granted["granted"]) == ["serving"]
    assert world.granted() == ["ninelives-arrival-delay-run-1"]
    withdrawn = run(RevokeAccessOperator(task_id="revoke_access", incident="run-1"))
    assert withdrawn["withdrawn"] == ["ninelives-arrival-delay-run-1"]
    assert world.granted() == []

    # Within a failover: granted before the warm-up, and withdrawn where nothing moved.
    plan = FailoverPlan("arrival-delay", "flights", "paris", "dublin", 1, "run-2", (), "", "", 0.0)
    seen: list[list[str]] = []
    monkeypatch.setattr("ninelives.recovery.failover.warm_up", lambda *_: seen.append(world.granted()) or {})
    run(failover.WarmUpStandbyOperator(task_id="warm_up_standby", plan=plan.to_dict()))
    assert seen == [["ninelives-arrival-delay-run-2"]]
    for outcome, left in (("moved", ["ninelives-arrival-delay-run-2"]), ("failed", [])):
        record = SimpleNamespace(seq=9, facts={"outcome": outcome, "failed_steps": []})
        monkeypatch.setattr("ninelives.recovery.failover.record_failover", lambda *_, record=record: record)
        run(failover.RecordFailoverOperator(task_id="record_failover", plan=plan.to_dict(), steps={}))
        assert world.granted() == left
