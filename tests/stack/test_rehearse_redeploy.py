"""``rehearse_redeploy`` whole, by Airflow: clean environments from the records at real stores, and what spoils them.

All of it is ``make soak``: each rehearsal installs what serves a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.airflow_runs import environment, make_database, run_by_calendar, run_by_hand
from support.scenarios import World, light_estate

from ninelives.adapters.redeploy import record_redeployment
from ninelives.releases.publish import read_release
from ninelives.releases.redeploy import BUCKET, record_key
from ninelives.releases.rehearse import KIND

pytestmark = [pytest.mark.airflow, pytest.mark.stack, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    make_database()
    with light_estate(tmp_path_factory.mktemp("redeploy")) as started:
        for model in ("alpha", "beta"):
            release = read_release(started.systems.store("paris"), model)
            assert release is not None
            record_redeployment(started.systems, release)
        yield started


@pytest.fixture(autouse=True)
def airflow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(world.home.root, json.loads(world.home.connections_file.read_text()), monkeypatch.setenv)


def rehearsals(world: World) -> list[tuple[str, str]]:
    """Service and verdict, oldest first."""
    return [(one.subject, one.facts["verdict"]) for one in world.systems.ledger().records(kind=KIND)][::-1]


def test_by_the_calendar_each_service_is_served_again_from_its_record_alone(world: World) -> None:
    run = run_by_calendar("rehearse_redeploy")
    assert run.state == "success", run.tasks
    assert rehearsals(world) == [("alpha", "met"), ("beta", "met")]
    for record in world.systems.ledger().records(kind=KIND):
        print(record.subject, record.facts["seconds"])


def test_by_hand_with_a_site_lost_the_record_of_another_one_is_enough(world: World) -> None:
    world.systems.control("paris").lose()
    try:
        before = len(rehearsals(world))
        run = run_by_hand("rehearse_redeploy", {"service": "beta"})
        assert run.state == "success", run.tasks
        assert rehearsals(world)[before:] == [("beta", "met")]
    finally:
        world.systems.control("paris").restore()


def test_a_record_that_was_tampered_with_everywhere_is_believed_nowhere(world: World) -> None:
    before = len(rehearsals(world))
    for site in ("paris", "dublin"):
        store, key = world.systems.store(site), record_key("beta", "1")
        data = store.get(BUCKET, key)
        assert data is not None
        store.put(BUCKET, key, data.replace(b'"needs": "cpu"', b'"needs": "none"'))
    run = run_by_hand("rehearse_redeploy", {"service": "beta"})
    assert (run.state, run.failed) == ("failed", ["rehearse_release[0]"])
    assert len(rehearsals(world)) == before
