"""A provider's data is drilled within the provider's windows only, whatever the drill is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from support.processes import ROOT

from ninelives.drills.provider import providers_of
from ninelives.drills.scenario import Drill
from ninelives.drills.scenarios import SCENARIOS
from ninelives.errors import Refused
from ninelives.estate import Estate, load_estate
from ninelives.estate.outside import Day

DEMO = load_estate(ROOT / "include" / "estates" / "demo" / "estate.yaml")
FEED = {"stream": "departures", "prefix": "flights/", "contains": "/hour=", "every": "1h"}


def estate(*, feed: bool = True, ahead: timedelta | None = None) -> Estate:
    """With a provider whose window opens so much later; ``None``: always open."""
    days, begin, end = list(Day), "00:00", "00:00"
    if ahead is not None:
        opens = datetime.now(UTC) + ahead
        days, begin, end = [list(Day)[opens.weekday()]], f"{opens:%H:%M}", f"{opens + timedelta(minutes=30):%H:%M}"
    window = {"days": [str(day) for day in days], "begin": begin, "end": end, "zone": "UTC"}
    provider = {"name": "airports", "contacts": ["ops@example.org"], "test": [window]} | (
        {"feed": FEED} if feed else {}
    )
    return Estate.model_validate(DEMO.model_dump(mode="json") | {"providers": [provider]})


def drill(scenario: str) -> Drill:
    return Drill("drill-1", scenario, "arrival-delay", "")


def reasons(scenario: str, declared: Estate) -> list[str]:
    """Of an estate of which nothing can be contacted."""
    systems: Any = SimpleNamespace(estate=declared)
    state: Any = None
    return SCENARIOS[scenario].reasons(systems, drill(scenario), state)


@pytest.mark.parametrize("scenario", ["provider-silent", "provider-nonsense", "provider-replay"])
def test_outside_of_the_window_every_drill_of_the_provider_is_refused_and_says_when_it_opens(scenario: str) -> None:
    (why,) = reasons(scenario, estate(ahead=timedelta(hours=3)))
    assert "no test window is open; the next one opens" in why


@pytest.mark.parametrize("scenario", ["provider-silent", "provider-nonsense"])
def test_a_window_that_is_always_open_is_no_reason_at_midnight_either(scenario: str) -> None:
    assert reasons(scenario, estate()) == []


def test_a_provider_is_one_of_the_service_whose_dataset_its_stream_becomes() -> None:
    assert [one.name for one in providers_of(estate(), "arrival-delay")] == ["airports"]
    assert providers_of(estate(feed=False), "arrival-delay") == []


def test_without_a_feed_there_is_nothing_to_replay() -> None:
    systems: Any = SimpleNamespace(estate=estate(feed=False))
    with pytest.raises(Refused, match="declare one below providers"):
        SCENARIOS["provider-replay"].plan(systems, drill("provider-replay"))
