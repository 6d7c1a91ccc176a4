"""The tasks of a promotion: a repeated one finds what was done, a no is the way back at once, and so is a lost run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from support.promotion import Memory

from ninelives.errors import Refused
from ninelives.estate import Approval
from ninelives.ports import Connection
from ninelives.releases import promotion
from ninelives.releases.canary import Decision
from ninelives.releases.journal import Entry, read
from ninelives_airflow.operators.release import (
    BeginPromotionOperator,
    JudgePromotionOperator,
    PromotionStepOperator,
    RecordPromotionOperator,
)

pytestmark = pytest.mark.airflow
CHECKS = ("check_interface", "check_hardware", "scan_artefact", "verify_data", "approve", "warm_up")


@pytest.fixture
def systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(promotion, "verify_data", lambda systems, plan: {"evidence": {}})
    return Memory(tmp_path, {"shadow": 0})


def context(**more: Any) -> Any:
    run = SimpleNamespace(triggering_user_name="ada", run_type="manual")
    ti = SimpleNamespace(try_number=1, dag_id="promote_model", get_task_states=lambda **_: {})
    return {"run_id": "run-1", "dag_run": run, "ti": ti, **more}


def begun(systems: Any) -> dict[str, Any]:
    begin = BeginPromotionOperator(task_id="begin_promotion", service="alpha", version="2", again="False")
    return begin.act(systems, context())


def step(systems: Any, plan: dict[str, Any], *names: str) -> dict[str, Any]:
    return PromotionStepOperator(task_id="step", plan=plan, steps=names).act(systems, context())


def recorded(systems: Any, plan: dict[str, Any]) -> dict[str, Any]:
    return RecordPromotionOperator(task_id="record_promotion", plan=plan).act(systems, context())


def test_the_same_request_twice_is_one_promotion_by_whoever_asked_first(systems: Any) -> None:
    plan = begun(systems)
    assert (begun(systems), plan["by"]) == (plan, "ada")
    assert len(read(systems.ledger(), "alpha")) == 1


def test_what_nobody_could_approve_is_not_begun(tmp_path: Path) -> None:
    asking: Any = Memory(tmp_path, {"approval": "four-eyes"})
    asking.connections = SimpleNamespace(get=lambda _: SimpleNamespace(login="ninelives"))
    with pytest.raises(Refused, match="nobody but ada may approve"):
        begun(asking)
    assert read(asking.ledger(), "alpha") == []


def test_a_no_takes_requests_back_before_the_task_fails(systems: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = begun(systems)
    step(systems, plan, *CHECKS)
    worse = (lambda metrics, horizon: (Decision.ROLL_BACK, ["errors are higher"]),)
    monkeypatch.setattr(promotion.try_on_users, "__defaults__", worse)
    monkeypatch.setattr(promotion.steps, "__kwdefaults__", {"judge": worse[0]})
    with pytest.raises(Refused, match="errors are higher"):
        step(systems, plan, "canary")
    assert systems.gateway().state().versions == {}
    assert "errors are higher" in recorded(systems, plan)["why"]


def test_a_run_that_somebody_ended_half_way_leaves_nothing_divided(systems: Any) -> None:
    plan = begun(systems)
    result = recorded(systems, plan)
    assert (result["outcome"], "did not get beyond the beginning" in result["why"]) == ("rolled back", True)
    with pytest.raises(Refused, match="is rolled back"):
        step(systems, plan, "check_interface")
    ends = JudgePromotionOperator(task_id="judge_promotion", recorded=result)
    with pytest.raises(AirflowFailException, match="did not come in"):
        ends.act(systems, context())


def test_a_version_that_was_rejected_goes_back_although_airflow_does_not_say_by_whom(systems: Any) -> None:
    plan = begun(systems)
    closed = Connection("ninelives_airflow_api", "127.0.0.1", 1)  # nothing listens there
    systems.connections = SimpleNamespace(get=lambda _: closed)
    states = {"approve_promotion": "success", "warm_up": "skipped"}
    ti = SimpleNamespace(dag_id="promote_model", get_task_states=lambda **_: {"run-1": states})
    given = context(ti=ti, dag=SimpleNamespace(dag_id="promote_model"))
    result = RecordPromotionOperator(task_id="record_promotion", plan=plan).act(systems, given)
    assert (result["outcome"], result["why"]) == ("rolled back", "an approver rejected it")


def test_a_version_that_took_over_is_recorded_as_promoted_however_often(
    systems: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = begun(systems)
    monkeypatch.setattr(promotion.steps, "__kwdefaults__", {"judge": lambda metrics, horizon: (Decision.PROMOTE, [])})
    step(systems, plan, *CHECKS, "shadow", "canary", "take_over")
    assert recorded(systems, plan) == recorded(systems, plan)
    (journal,) = read(systems.ledger(), "alpha")
    assert journal.find(Entry.ENDED)
    assert systems.registry().alias == "2"


def test_who_must_agree_is_the_services_own_rule_or_that_of_drills(systems: Any, tmp_path: Path) -> None:
    assert promotion.approval_of(systems.estate, "alpha") is Approval.NONE
    (tmp_path / "other").mkdir()
    asking = Memory(tmp_path / "other", {"approval": "four-eyes"})
    assert promotion.approval_of(asking.estate, "alpha") is Approval.FOUR_EYES
