"""The data behind a model: found whoever is away, written all or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.versions.estates import TwoSites

from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.versions.objects import BUCKET, object_key
from ninelives.versions.restore import data_of, restore

FILES = {"flights.parquet": b"rows " * 50, "sub/manifest.json": b"{}"}


@pytest.fixture
def systems(tmp_path: Path) -> TwoSites:
    systems = TwoSites(tmp_path / "home")
    systems.register("arrival-delay", "3", systems.keep(FILES))
    return systems


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_data_come_back_bit_for_bit_with_the_primary_gone_and_a_second_call_changes_nothing(
    systems: TwoSites, tmp_path: Path
) -> None:
    systems.paris.down = True
    for _ in range(2):
        done = restore(systems, "arrival-delay", "3", "dublin", tmp_path / "out")
        assert contents(done.folder) == FILES
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_data_come_back_bit_for_bit_from_a_rotten_copy(systems: TwoSites, tmp_path: Path) -> None:
    for key in sorted(systems.names("dublin")):
        systems.dublin.flip(key, BUCKET)
    done = restore(systems, "arrival-delay", "3", "dublin", tmp_path / "out")
    assert contents(done.folder) == FILES
    assert set(done.healed.copied.values()) == {"paris"}


def test_rotten_everywhere_writes_nothing(systems: TwoSites, tmp_path: Path) -> None:
    for site in systems.sites.values():
        site.flip(sorted(systems.names("paris"))[0], BUCKET)
    with pytest.raises(Corrupted):
        restore(systems, "arrival-delay", "3", "dublin", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(systems: TwoSites, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(Refused, match="holds something else"):
        restore(systems, "arrival-delay", "3", "dublin", tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"


def test_other_data_than_the_registry_recorded_are_not_given_out(systems: TwoSites, tmp_path: Path) -> None:
    version = systems.the_registry.registered[0].data_version
    systems.register("late-arrival", "1", version, data_hash="0" * 64)
    with pytest.raises(Corrupted, match="the registry says"):
        restore(systems, "late-arrival", "1", "dublin", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_the_registry_the_ledger_and_then_a_release_pointer_say_which_data(systems: TwoSites) -> None:
    systems.the_registry.down = True
    with pytest.raises(Unavailable, match="registry"):
        data_of(systems, "arrival-delay", "3")
    systems.the_ledger.append("release", "arrival-delay", {"version": "3", "data_version": "v"})
    assert data_of(systems, "arrival-delay", "3").told_by == "evidence 1"


@pytest.mark.parametrize(("model", "version"), [("nobody", "3"), ("arrival-delay", "4")])
def test_an_unknown_model_or_version_is_refused(systems: TwoSites, model: str, version: str) -> None:
    with pytest.raises(Refused, match=f"{model}@{version}"):
        data_of(systems, model, version)


def test_an_unknown_site_is_refused(systems: TwoSites, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="it has paris, dublin"):
        restore(systems, "arrival-delay", "3", "mars", tmp_path / "out")
    systems.dublin.down = True
    with pytest.raises(Unavailable):
        restore(systems, "arrival-delay", "3", "dublin", tmp_path / "out")
    assert systems.names("paris")
    assert object_key("ab" * 16) == f"files/md5/ab/{'ab' * 15}"
