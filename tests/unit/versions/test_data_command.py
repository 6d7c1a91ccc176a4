"""``ninelives data``: what people and scripts see of it, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result
from unit.replication.memory import LONG_AGO
from unit.versions.estates import TwoSites

from ninelives.cli import app, data
from ninelives.errors import Refused
from ninelives.estate import Estate
from ninelives.versions.objects import BUCKET

FILES = {"flights.parquet": b"rows " * 50, "manifest.json": b"{}"}


@pytest.fixture
def systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoSites:
    systems = TwoSites(tmp_path / "home")
    systems.register("arrival-delay", "3", systems.keep(FILES))
    monkeypatch.setattr(data, "_connected", lambda: systems)
    return systems


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", *arguments])


def test_versions_are_listed_and_a_needed_one_that_is_whole_nowhere_misses(systems: TwoSites) -> None:
    done = run("versions", "--json")
    (one,) = json.loads(done.stdout)["versions"]
    assert (done.exit_code, one["models"], one["whole_at"]) == (0, ["arrival-delay@3"], ["paris", "dublin"])
    for site in systems.sites.values():
        site.flip(sorted(systems.names("paris"))[0], BUCKET)
    assert run("versions").exit_code == 3
    systems.the_registry.down = True
    assert run("versions").exit_code == 3


def test_restore_writes_the_files_below_home_unless_told_where(systems: TwoSites) -> None:
    done = run("restore", "--model", "arrival-delay@3", "--site", "dublin", "--json")
    found = json.loads(done.stdout)
    folder = systems.home.root / "restored" / "arrival-delay@3"
    assert (done.exit_code, found["folder"]) == (0, str(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert "whole at dublin" in run("restore", "--model", "arrival-delay@3", "--site", "dublin").stdout


@pytest.mark.parametrize("model", ["arrival-delay", "@3", "arrival-delay@"])
def test_a_model_without_its_version_is_wrong_usage(systems: TwoSites, model: str) -> None:
    assert run("restore", "--model", model, "--site", "dublin").exit_code == 2


def test_a_model_of_other_data_is_not_retrained_with_the_demos_code(systems: TwoSites) -> None:
    document = systems.estate.model_dump(mode="json")
    document["datasets"].append({**document["datasets"][0], "name": "rows"})
    document["models"][0]["trained_on"] = "rows"
    systems.estate = Estate.model_validate(document)
    done = run("restore", "--model", "arrival-delay@3", "--site", "dublin", "--retrain")
    assert isinstance(done.exception, Refused)
    assert "your own code" in str(done.exception)
    assert not (systems.home.root / "restored").exists(), "before anything was written"


def test_prune_says_what_goes_and_who_keeps_the_rest(systems: TwoSites) -> None:
    systems.keep({"flights.parquet": b"nobody's"})
    systems.keep({"flights.parquet": b"newest"}, at=LONG_AGO.replace(year=2014))
    planned = json.loads(run("prune", "--dry-run", "--json").stdout)
    assert len(planned["removed"]) == 1
    assert sorted(planned["kept"].values()) == [["model arrival-delay@3"], ["newest of flights"]]
    done = run("prune")
    assert "removed 1 versions" in done.stdout
    assert "model arrival-delay@3" in done.stdout
    assert json.loads(run("prune", "--json").stdout)["removed"] == []
