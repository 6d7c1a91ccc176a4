"""Which drill a run does: what its form says, or what the estate's calendar has due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ninelives.estate import load_estate
from ninelives.estate.model import ScenarioName
from ninelives.ports import Record
from ninelives_airflow.defaults import drill_defaults
from ninelives_airflow.operators.drill import CheckPreflightOperator
from ninelives_airflow.triggers.drill import ReturnTrigger

pytestmark = pytest.mark.airflow

ESTATE = load_estate(Path(__file__).parents[2] / "include" / "estates" / "demo" / "estate.yaml")


def chosen(run_type: str, records: list[Record], estate: Any = ESTATE) -> Any:
    operator = CheckPreflightOperator(
        task_id="check_preflight", scenario="slow-store", service="late-arrival", site="dublin", dry_run=False
    )
    systems: Any = SimpleNamespace(estate=estate, ledger=lambda: SimpleNamespace(records=lambda kind: records))
    return operator._chosen(systems, {"dag_run": SimpleNamespace(run_type=run_type)})  # type: ignore[arg-type]


def ran(subject: str, days_ago: float) -> Record:
    at = datetime.now(UTC) - timedelta(days=days_ago)
    return Record(1, "drill", subject, {"outcome": "measured", "verdict": "met"}, at, "", "")


def test_a_person_gets_what_the_form_says() -> None:
    assert chosen("manual", []) == ("slow-store", "late-arrival", "dublin")


def test_the_schedule_takes_what_is_due_and_nothing_where_nothing_is() -> None:
    assert chosen("scheduled", []) == ("site-loss", "arrival-delay", "")
    all_but_one = [ran(f"{one.scenario}/{one.service}/x", 1) for one in ESTATE.drills.calendar[:-1]]
    assert chosen("scheduled", all_but_one) == ("provider-replay", "arrival-delay", "")
    everything = [ran(f"{one.scenario}/{one.service}/x", 1) for one in ESTATE.drills.calendar]
    assert chosen("scheduled", everything) is None


def test_without_a_calendar_the_schedule_does_what_the_form_would() -> None:
    bare = ESTATE.model_copy(update={"drills": ESTATE.drills.model_copy(update={"calendar": ()})})
    assert chosen("scheduled", [], bare) == ("slow-store", "late-arrival", "dublin")


def test_the_form_offers_every_scenario_whatever_the_estate_says() -> None:
    assert set(drill_defaults().scenarios) == {name.value for name in ScenarioName}


def test_a_trigger_of_an_older_version_can_still_be_read() -> None:
    assert ReturnTrigger(site="paris").serialize()[1] == {"site": "paris", "plan": None}
