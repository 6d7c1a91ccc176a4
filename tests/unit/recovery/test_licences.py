"""Seats: never more than were bought but for the grace, never one twice, whoever takes them at the same instant."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import estate_of_two_sites
from unit.replication.memory import Fuse, Killed
from unit.versions.estates import MemoryLedger

from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.errors import Refused
from ninelives.estate import Estate
from ninelives.recovery.licences import (
    current_holdings,
    judge_seats,
    licence_status,
    release_seats,
    take_seats,
)

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
LICENCE = {"name": "engine", "product": "Engine", "seats": 2, "models": ["alpha"], "expires": "2027-06-30"}


def estate(*licences: dict[str, Any], services: int = 1, **changes: Any) -> Estate:
    """Services ``s0``, ``s1``, … of model ``alpha``: at paris by declaration, with dublin as their standby."""
    document = estate_of_two_sites().model_dump(mode="json")
    alpha = document["services"][0]
    document["services"] = [alpha | {"name": f"s{number}"} for number in range(services)]
    document["licences"] = list(licences or (LICENCE,))
    return Estate.model_validate(document | changes)


def world(of: Estate, ledger: Any = None) -> Any:
    ledger = ledger or MemoryLedger()
    return SimpleNamespace(estate=of, ledger=lambda: ledger)


def held(systems: Any, number: int = 0) -> list[tuple[str, str]]:
    holdings = current_holdings(systems.estate, systems.ledger(), systems.estate.licences[number])
    return [(one.service, one.site) for one in holdings.held]


def test_a_standby_takes_its_seat_once_and_gives_it_back_when_the_service_is_home() -> None:
    systems = world(estate())
    assert held(systems) == [("s0", "paris")], "by declaration, without a record"
    (taken,) = take_seats(systems, "s0", "dublin", run="run", now=NOW)
    assert taken.facts["in_use"] == 2
    assert take_seats(systems, "s0", "dublin", run="run", now=NOW) == []
    assert take_seats(systems, "s0", "paris", run="run", now=NOW) == [], "at home it has them"
    assert held(systems) == [("s0", "paris"), ("s0", "dublin")]
    assert release_seats(systems, "s0", serving="dublin", run="run") == []
    assert len(release_seats(systems, "s0", serving="paris", run="run")) == 1
    assert release_seats(systems, "s0", serving="paris", run="run") == []
    assert held(systems) == [("s0", "paris")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seats": 1}, "1 of 1 seats in use"),
        ({"sites": ["paris"]}, "not valid at dublin"),
        ({"expires": "2026-11-25"}, "ended after 2026-11-25; renew it"),
        ({"expires": "2026-11-20", "grace": "5d"}, "its grace at 2026-11-26 00:00 UTC"),
    ],
)
def test_a_standby_without_a_licence_is_refused_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    systems = world(estate(LICENCE | changes))
    with pytest.raises(Refused, match=reason):
        take_seats(systems, "s0", "dublin", run="run", now=NOW)
    assert systems.ledger().all == []


def test_the_term_ends_with_its_last_day_and_the_grace_goes_on_from_there() -> None:
    systems = world(estate(LICENCE | {"expires": "2026-11-25", "grace": "5d"}))
    holdings = current_holdings(systems.estate, systems.ledger(), systems.estate.licences[0])
    over = datetime(2026, 11, 26, tzinfo=UTC)
    assert judge_seats(holdings, "s0", "dublin", over - timedelta(microseconds=1)).warning is None
    assert "grace ends 2026-12-01" in str(judge_seats(holdings, "s0", "dublin", over).warning)
    assert judge_seats(holdings, "s0", "dublin", over + timedelta(days=5)).reason


def test_seats_beyond_what_was_bought_start_one_clock_that_stops_when_they_are_given_back() -> None:
    systems = world(estate(LICENCE | {"seats": 2, "grace": "1h"}, services=2))
    first, *_ = take_seats(systems, "s0", "dublin", run="a")
    assert first.facts["beyond"] is True
    licence = systems.estate.licences[0]
    holdings = current_holdings(systems.estate, systems.ledger(), licence)
    assert holdings.beyond_since == first.at
    assert judge_seats(holdings, "s1", "dublin", first.at + timedelta(minutes=59)).reason is None
    assert "its grace for that ended" in str(
        judge_seats(holdings, "s1", "dublin", first.at + timedelta(hours=1)).reason
    )
    (status,) = licence_status(systems.estate, systems.ledger(), first.at + timedelta(minutes=59))
    assert (status.verdict, status.grace_until) == ("met", first.at + timedelta(hours=1))
    (status,) = licence_status(systems.estate, systems.ledger(), first.at + timedelta(hours=1))
    assert (status.verdict, status.reasons) == ("missed", ("3 seats are in use, and 2 were bought",))
    release_seats(systems, "s0", serving="paris", run="b")
    assert current_holdings(systems.estate, systems.ledger(), licence).beyond_since is None


def test_the_clock_of_the_grace_runs_from_the_change_that_began_what_has_not_ended() -> None:
    systems = world(estate(LICENCE | {"seats": 3, "grace": "1h"}, services=2))
    licence = systems.estate.licences[0]

    def since() -> datetime | None:
        return current_holdings(systems.estate, systems.ledger(), licence).beyond_since

    take_seats(systems, "s0", "dublin", run="within what was bought")
    (second,) = take_seats(systems, "s1", "dublin", run="beyond")
    assert since() == second.at
    release_seats(systems, "s0", serving="paris", run="ended")
    assert since() is None
    (third,) = take_seats(systems, "s0", "dublin", run="begun anew, though s1 has kept its seat")
    assert since() == third.at

    fewer = estate(LICENCE | {"seats": 2, "grace": "1h"}, services=2)
    (status,) = licence_status(fewer, systems.ledger(), third.at + timedelta(days=9))
    assert status.verdict == "missed", "a clock that nobody started would never run out"


def test_a_service_that_is_no_longer_declared_there_has_no_seats() -> None:
    systems = world(estate(LICENCE | {"seats": 4}, services=2))
    take_seats(systems, "s1", "dublin", run="run", now=NOW)
    assert ("s1", "dublin") in held(systems)
    assert held(world(estate(LICENCE | {"seats": 4}), systems.ledger())) == [("s0", "paris")]


def test_a_term_that_never_ends_is_one() -> None:
    of = estate(LICENCE | {"expires": "9999-12-31", "grace": "3660d"})
    (status,) = licence_status(of, MemoryLedger(), NOW)
    assert (status.verdict, status.warnings) == ("met", ())
    assert judge_seats(status.holdings, "s0", "dublin", NOW).reason is None


def test_what_ends_before_the_next_planned_drill_is_said() -> None:
    drills = {"max_duration": "5min", "min_good": "90%", "schedule": "0 3 1 * *"}
    for expires, said in (("2026-11-30", "before the drill planned for 2026-12-01 03:00:00 UTC"), ("2026-12-01", "")):
        of = estate(LICENCE | {"expires": expires}, drills=drills)
        (status,) = licence_status(of, MemoryLedger(), NOW)
        assert (status.verdict, said in " ".join(status.warnings)) == ("met", True)
        assert bool(status.warnings) is bool(said)


def test_of_several_licences_all_are_taken_or_none() -> None:
    scarce = LICENCE | {"name": "scarce", "seats": 1}
    systems = world(estate(LICENCE, scarce))
    with pytest.raises(Refused, match="licence scarce"):
        take_seats(systems, "s0", "dublin", run="run", now=NOW)
    assert held(systems, 0) == [("s0", "paris")]
    assert [record.facts["change"] for record in systems.ledger().all] == ["taken", "released"]


def test_killed_between_two_licences_a_further_try_takes_the_rest_and_nothing_twice() -> None:
    class Dying(MemoryLedger):
        fuse = Fuse(1)

        def append(self, *arguments: Any, **named: Any) -> Any:
            self.fuse.burn()
            return super().append(*arguments, **named)

    ledger = Dying()
    systems = world(estate(LICENCE, LICENCE | {"name": "second"}), ledger)
    with pytest.raises(Killed):
        take_seats(systems, "s0", "dublin", run="run", now=NOW)
    ledger.fuse.steps = None
    take_seats(systems, "s0", "dublin", run="run", now=NOW)
    assert [held(systems, number) for number in (0, 1)] == [[("s0", "paris"), ("s0", "dublin")]] * 2
    assert len(ledger.all) == 2


moves = st.lists(st.tuples(st.sampled_from(["s0", "s1", "s2"]), st.sampled_from(["paris", "dublin"])), max_size=25)


@given(moves=moves, seats=st.integers(3, 6))
@settings(max_examples=60, deadline=None)
def test_however_services_move_no_seat_is_had_twice_and_none_beyond_what_was_bought(
    moves: list[tuple[str, str]], seats: int
) -> None:
    systems = world(estate(LICENCE | {"seats": seats}, services=3))
    at = dict.fromkeys(["s0", "s1", "s2"], "paris")
    for service, site in moves:
        try:
            take_seats(systems, service, site, run="run", now=NOW)
        except Refused:
            assert len(held(systems)) == seats, "refused only when all are taken"
            continue
        at[service] = site
        release_seats(systems, service, serving=site, run="run")
        places = held(systems)
        assert len(places) == len(set(places)) <= seats
        assert set(places) == {(name, "paris") for name in at} | set(at.items())


@pytest.mark.parametrize("seats", [9, 11])
def test_taken_by_many_at_the_same_instant_each_seat_goes_to_one(tmp_path: Path, seats: int) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate(url)
    contend(url, seats)


def contend(url: Any, seats: int) -> None:
    """Eight services at home, and as many threads that each activate the standby of one of them."""
    of, outcomes, start = estate(LICENCE | {"seats": seats}, services=8), [], threading.Barrier(8)

    def activate(service: str) -> None:
        systems = world(of, SqlLedger(url))
        start.wait()
        try:
            outcomes.append(len(take_seats(systems, service, "dublin", run=service)))
        except Refused:
            outcomes.append(0)
        systems.ledger().close()

    threads = [threading.Thread(target=activate, args=(f"s{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    systems = world(of, SqlLedger(url))
    assert sorted(outcomes) == [0] * (16 - seats) + [1] * (seats - 8)
    assert len(set(held(systems))) == len(held(systems)) == seats
    changes = systems.ledger().records(kind="licence")
    assert sorted(record.facts["in_use"] for record in changes) == list(range(9, seats + 1))
    systems.ledger().close()
