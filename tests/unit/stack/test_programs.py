"""From an estate to processes: pure."""

from __future__ import annotations

from pathlib import Path

import pytest

from ninelives.errors import Refused
from ninelives.estate import Estate, load_estate
from ninelives.stack.ports import REPLICAS
from ninelives.stack.programs import Part, models_at_start, parts, primary_site, programs

DEMO = Path(__file__).parents[3] / "include" / "estates" / "demo" / "estate.yaml"


@pytest.fixture(scope="module")
def estate() -> Estate:
    return load_estate(DEMO)


def test_each_site_is_one_group_with_a_store_and_its_replicas(estate: Estate) -> None:
    for site in estate.site_names:
        members = [program for program in programs(estate) if program.site == site]
        assert {program.group for program in members} == {f"site-{site}"}
        assert [program.kind for program in members] == ["store", "link"] + ["replica"] * REPLICAS


def test_a_site_is_killed_and_everything_else_is_asked_first(estate: Estate) -> None:
    for program in programs(estate):
        assert (program.stop_signal == "KILL") == (program.site is not None), program.name


def test_program_names_are_unique_even_when_a_site_is_called_like_a_program(estate: Estate) -> None:
    named = estate.model_copy(
        update={
            "sites": tuple(
                site.model_copy(update={"name": name})
                for site, name in zip(estate.sites, ("airflow", "postgres"), strict=True)
            )
        }
    )
    every = programs(named)
    assert len({program.name for program in every}) == len(every)
    assert len({program.group for program in every if program.site}) == 2
    assert not {program.group for program in every if program.site} & {p.group for p in every if not p.site}


@pytest.mark.parametrize("part", list(Part))
def test_a_part_that_is_left_out_leaves_the_rest_alone(estate: Estate, part: Part) -> None:
    left = programs(estate, frozenset({part}))
    assert set(programs(estate)) - set(left) == {program for program in programs(estate) if program.part is part}
    assert {"postgres", "paris-store", "dublin-replica-2"} <= {program.name for program in left}


def test_an_unknown_part_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="'mlfow' is not one of gateway, mlflow"):
        parts(["mlfow"])


def test_a_standby_starts_cold_and_active_active_starts_everywhere(estate: Estate) -> None:
    assert models_at_start(estate, "paris", {}) == ("arrival-delay", "late-arrival")
    assert models_at_start(estate, "dublin", {}) == ("late-arrival",)


def test_a_warm_standby_loads_what_it_stands_by_for(estate: Estate) -> None:
    document = estate.model_dump(mode="json")
    document["services"][0]["standby"] = "warm"
    assert models_at_start(Estate.model_validate(document), "dublin", {}) == ("arrival-delay", "late-arrival")


def test_after_a_failover_the_other_site_starts_warm(estate: Estate) -> None:
    moved = {"arrival-delay": ["dublin"], "late-arrival": ["paris", "dublin"]}
    assert models_at_start(estate, "paris", moved) == ("late-arrival",)
    assert models_at_start(estate, "dublin", moved) == ("arrival-delay", "late-arrival")


def test_the_registry_keeps_its_artefacts_where_data_lands(estate: Estate) -> None:
    assert primary_site(estate) == "paris"
