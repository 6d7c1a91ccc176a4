"""Which drill is due: from the calendar and the ledger alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ninelives.drills.coverage import NEVER, coverage, next_due
from ninelives.drills.scenarios import SCENARIOS
from ninelives.estate import Estate, load_estate
from ninelives.estate.check import check_references
from ninelives.estate.model import PlannedDrill, ScenarioName
from ninelives.ports import Record

ESTATE = load_estate(Path(__file__).parents[3] / "include" / "estates" / "demo" / "estate.yaml")
NOW = datetime(2026, 11, 25, 3, tzinfo=UTC)
LOSS = PlannedDrill(scenario=ScenarioName.SITE_LOSS, service="arrival-delay", every=timedelta(days=7))
WEDGED = PlannedDrill(scenario=ScenarioName.REPLICA_WEDGED, service="late-arrival", every=timedelta(days=30))


def planned(*calendar: PlannedDrill, **policy: Any) -> Estate:
    drills = ESTATE.drills.model_copy(update={"calendar": calendar, **policy})
    return ESTATE.model_copy(update={"drills": drills})


def ran(subject: str, days_ago: float, outcome: str = "measured", verdict: str = "met") -> Record:
    facts = {"outcome": outcome, "verdict": verdict}
    return Record(1, "drill", subject, facts, NOW - timedelta(days=days_ago), "", "")


def newest_first(*records: Record) -> list[Record]:
    return sorted(records, key=lambda record: record.at, reverse=True)


def test_every_scenario_that_an_estate_can_name_can_be_run_and_the_other_way_round() -> None:
    assert set(SCENARIOS) == {name.value for name in ScenarioName}
    for name, scenario in SCENARIOS.items():
        assert scenario.name == name
        assert scenario.breaks, name
        assert scenario.promises, name


def test_what_never_ran_is_due_at_once_and_what_ran_lately_is_not() -> None:
    first, second, *rest = coverage(planned(LOSS, WEDGED), [ran("site-loss/arrival-delay/paris", 2)], NOW)
    assert (first.result, first.overdue) == ("met", None)
    assert first.due == NOW + timedelta(days=5)
    assert (second.result, second.overdue) == (NEVER, timedelta(0))
    assert all(one.due is None for one in rest)
    assert len(rest) == len(ScenarioName) * 2 - 2, "and every other scenario on every service"


def test_a_missed_drill_counts_as_run_and_a_refused_one_does_not() -> None:
    missed = ran("site-loss/arrival-delay/paris", 1, verdict="missed")
    refused = ran("replica-wedged/late-arrival/dublin", 1, "refused")
    first, second, *_ = coverage(planned(LOSS, WEDGED), [missed, refused], NOW)
    assert (first.result, first.overdue) == ("missed", None)
    assert second.result == NEVER


def test_a_drill_that_is_not_about_a_site_is_found_by_scenario_and_service() -> None:
    gateway = PlannedDrill(scenario=ScenarioName.GATEWAY_LOST, service="late-arrival", every=timedelta(days=7))
    first, *_ = coverage(planned(gateway), [ran("gateway-lost/late-arrival", 1)], NOW)
    assert first.result == "met"


def test_a_plan_for_one_site_is_not_met_by_a_drill_at_another() -> None:
    at_paris = LOSS.model_copy(update={"site": "paris"})
    first, *_ = coverage(planned(at_paris), [ran("site-loss/arrival-delay/dublin", 1)], NOW)
    assert first.result == NEVER


def test_the_longest_overdue_comes_first_and_nothing_is_chosen_where_nothing_is_due() -> None:
    both = newest_first(ran("site-loss/arrival-delay/paris", 9), ran("replica-wedged/late-arrival/paris", 40))
    assert next_due(planned(LOSS, WEDGED), both, NOW) == WEDGED
    assert next_due(planned(LOSS, WEDGED), [ran("replica-wedged/late-arrival/paris", 1)], NOW) == LOSS
    fresh = [ran("replica-wedged/late-arrival/paris", 1), ran("site-loss/arrival-delay/paris", 1)]
    assert next_due(planned(LOSS, WEDGED), fresh, NOW) is None


def test_one_that_is_refused_every_night_does_not_keep_the_others_away() -> None:
    refused = ran("site-loss/arrival-delay/paris", 1, "refused")
    assert next_due(planned(LOSS, WEDGED), [refused], NOW) == WEDGED


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.floats(0, 90), st.sampled_from(["measured", "refused"]))))
def test_night_after_night_everything_that_can_run_gets_its_turn(history: list[tuple[int, float, str]]) -> None:
    """Whatever has happened, two nights without a refusal leave nothing of two plans overdue."""
    subjects = ("site-loss/arrival-delay/paris", "replica-wedged/late-arrival/paris")
    records = newest_first(*(ran(subjects[which], days, outcome) for which, days, outcome in history))
    for night in range(2):
        due = next_due(planned(LOSS, WEDGED), records, NOW)
        if due is None:
            break
        done = ran(f"{due.scenario.value}/{due.service}/paris", -0.1 * night)
        records = newest_first(done, *records)
    assert next_due(planned(LOSS, WEDGED), records, NOW) is None


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        ({"service": "arrival-delai"}, "drills.calendar[0].service", "did you mean arrival-delay?"),
        ({"site": "rome"}, "drills.calendar[0].site", "is not at rome"),
        ({"scenario": ScenarioName.GATEWAY_LOST, "site": "paris"}, "drills.calendar[0].site", "leave site out"),
        ({"scenario": ScenarioName.EXPERIMENT}, "drills.calendar[0]", "does not say which experiment"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_found_when_the_estate_is_checked(
    change: dict[str, Any], path: str, says: str
) -> None:
    ((where, message),) = check_references(planned(LOSS.model_copy(update=change)))
    assert where == path
    assert says in message


def test_a_plan_named_twice_is_found() -> None:
    ((where, message),) = check_references(planned(LOSS, WEDGED, LOSS))
    assert where == "drills.calendar[2]"
    assert "calendar[0] already" in message
