"""What a clean machine needs is recorded once, with hashes, and a rehearsal believes nothing that differs from it."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.promotion import Memory

from ninelives.adapters.redeploy import (
    SERVING,
    bill_of_materials,
    describe,
    installed,
    lock_file,
    locked_hashes,
    pack_code,
    record_redeployment,
)
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.estate.model import Hardware
from ninelives.releases.publish import BUCKET as MODELS
from ninelives.releases.publish import pointer_key, read_release
from ninelives.releases.redeploy import BUCKET, Redeployment, code_key, read_redeployment, record_key, sbom_key
from ninelives.releases.rehearse import Served, rehearse


@pytest.fixture
def systems(tmp_path: Path) -> Any:
    return Memory(tmp_path, {"shadow": 0})


@pytest.fixture
def recorded(systems: Any) -> tuple[Any, Redeployment, bytes]:
    release = read_release(systems.store("paris"), "alpha")
    assert release is not None
    record_redeployment(systems, release)
    record, code = read_redeployment(systems.stores(), systems.ledger(), "alpha", release.version, release.digest)
    return release, record, code


def test_the_record_has_all_that_serving_needs_by_hash_and_nothing_else(recorded: Any) -> None:
    _, record, code = recorded
    names = {one.name for one in record.packages}
    assert set(SERVING) <= names
    assert names & {"mlflow", "apache-airflow", "scikit-learn", "boto3"} == set()
    assert {need for one in record.packages for need in one.needs} <= names
    assert all(metadata.version(one.name) == one.version for one in record.packages)
    lines = record.requirements().replace("\\\n", "").splitlines()
    assert [line.split()[0] for line in lines] == [f"{one.name}=={one.version}" for one in record.packages]
    assert all("--hash=sha256:" in line for line in lines)
    assert zipfile.ZipFile(io.BytesIO(code)).testzip() is None
    assert "ninelives/serving/alone.py" in zipfile.ZipFile(io.BytesIO(code)).namelist()
    assert (pack_code(), record.code) == (code, hashlib.sha256(code).hexdigest())


def test_it_is_written_once_at_every_site_and_the_ledger_names_its_hash(systems: Any, recorded: Any) -> None:
    release, record, _ = recorded
    assert all(store.get(BUCKET, record_key("alpha", release.version)) for store in systems.stores().values())
    assert record_redeployment(systems, release) == record_redeployment(systems, release)
    store = systems.store("paris")
    store.put(BUCKET, record_key("alpha", release.version), record.model_dump_json().encode())
    again, _ = read_redeployment(systems.stores(), systems.ledger(), "alpha", release.version, release.digest)
    assert again == record, "another site has it unchanged"
    for store in systems.stores().values():
        store.put(BUCKET, code_key(record.code), b"other")
    with pytest.raises(Corrupted, match="is not what was written"):
        read_redeployment(systems.stores(), systems.ledger(), "alpha", release.version, release.digest)


def test_a_lost_site_does_not_hide_what_another_one_has(systems: Any, recorded: Any) -> None:
    release, record, _ = recorded

    class Lost:
        def get(self, bucket: str, key: str) -> bytes:
            raise Unavailable("dublin does not answer")

    def read(stores: Any) -> Redeployment:
        return read_redeployment(stores, systems.ledger(), "alpha", release.version, release.digest)[0]

    stores = {"dublin": Lost(), **{site: store for site, store in systems.stores().items() if site != "dublin"}}
    assert read(stores) == record
    for store in systems.stores().values():
        store.put(BUCKET, sbom_key("alpha", release.version), b"{}")
    with pytest.raises(Unavailable, match=r"dublin does not answer.*paris: redeploy/alpha/1\.cdx\.json is not what"):
        read(stores)
    with pytest.raises(Corrupted, match=r"cdx\.json is not what was written"):
        read(systems.stores())


def test_the_record_follows_the_hardware_that_the_release_says_and_describes_a_release_once(recorded: Any) -> None:
    release, record, _ = recorded
    assert (record.needs, describe(release, record.code)) == ("cpu", record)
    demanding = release.model_copy(update={"hardware": Hardware.ACCELERATOR})
    assert describe(demanding, record.code).needs == "accelerator"


def test_the_sbom_is_cyclonedx_and_names_model_packages_and_who_needs_whom(recorded: Any) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    release, record, _ = recorded
    data = bill_of_materials(record)
    assert data == bill_of_materials(record)
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode())
    assert problem is None, problem
    document = json.loads(data)
    model = document["metadata"]["component"]
    assert (model["type"], model["hashes"][0]["content"]) == (
        "machine-learning-model", release.digest.removeprefix("sha256:"),
    )  # fmt: skip
    needs = {one["ref"]: one.get("dependsOn", []) for one in document["dependencies"]}
    assert any(one.startswith("numpy==") for one in needs[f"onnxruntime=={metadata.version('onnxruntime')}"])
    assert len(needs[f"alpha@{release.version}"]) == len(SERVING) + 1
    listed = {(one["name"], one["version"]) for one in document["components"]}
    ours = ("ninelives", record.ninelives)
    assert listed == {ours, *((one.name, one.version) for one in record.packages)}, "these, and nothing else"
    (own,) = (one for one in document["components"] if one["name"] == "ninelives")
    assert own["hashes"] == [{"alg": "SHA-256", "content": record.code}]


def test_without_hashes_or_a_record_nothing_is_built(systems: Any, recorded: Any) -> None:
    release, record, _ = recorded
    bare = record.model_copy(update={"packages": installed(("numpy",), {})})
    with pytest.raises(Refused, match=r"no hash of numpy .*NINELIVES_LOCK"):
        bare.requirements()
    with pytest.raises(Refused, match="nothing was recorded"):
        read_redeployment(systems.stores(), systems.ledger(), "alpha", "99", release.digest)
    with pytest.raises(Refused, match="not-there is not installed"):
        installed(("not-there",), {})


def test_hashes_come_from_the_lock_file(tmp_path: Path) -> None:
    one, two = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    lock = tmp_path / "lock.txt"
    lock.write_text(f"# made\nNum_py==1.0 ; python_version > '3' \\\n    --hash={one} \\\n    --hash={two}\nb==2\n")
    assert locked_hashes(lock) == {("num-py", "1.0"): (one, two)}
    assert locked_hashes(tmp_path / "none") == {}
    assert locked_hashes(lock_file())[("numpy", metadata.version("numpy"))]


def rehearsed(systems: Any, change: Any = lambda served: served) -> Any:
    """In a room that is no environment at all: what the rehearsal makes of what it finds there."""

    def infer(model: str, rows: Any) -> Any:
        release = read_release(systems.store("paris"), model)
        assert release is not None
        golden = next(one for one in release.golden if one.inputs == rows[0])
        return SimpleNamespace(outputs={name: list(values) for name, values in golden.outputs.items()})

    @contextmanager
    def room(record: Redeployment, code: bytes, files: Any) -> Iterator[Served]:
        packages = {one.name: one.version for one in record.packages}
        yield change(Served(SimpleNamespace(infer=infer), packages, 1.0, 0.5))  # type: ignore[arg-type]

    return rehearse(systems, "alpha", room, run="r").facts


def test_a_rehearsal_is_met_only_where_packages_and_answers_are_the_recorded_ones(systems: Any, recorded: Any) -> None:
    assert rehearsed(systems)["verdict"] == "met"
    more = rehearsed(systems, lambda served: replace(served, packages={**served.packages, "Stowaway": "1"}))
    assert (more["verdict"], more["reasons"]) == ("missed", ["stowaway is 1 there, the record says nothing"])

    def wrong(served: Served) -> Served:
        answer = SimpleNamespace(outputs={"total": [1e9]})
        return replace(served, replica=SimpleNamespace(infer=lambda model, rows: answer))  # type: ignore[arg-type]

    facts = rehearsed(systems, wrong)
    assert facts["verdict"] == "missed"
    assert "golden request 1: it answers" in facts["reasons"][0]


def test_a_release_that_is_nowhere_is_not_one_that_is_away_or_damaged(systems: Any, recorded: Any) -> None:
    release, _, _ = recorded
    sites = systems.estate.service_by_name["alpha"].sites
    for site in sites:
        systems.store(site).put(MODELS, release.object, b"rotten")
    with pytest.raises(Corrupted, match=r"paris: models/alpha/sha256/.* is not what its release says"):
        rehearsed(systems)
    for site in sites:
        systems.store(site).delete(MODELS, pointer_key("alpha"))
    with pytest.raises(Refused, match="no site has a release of it yet; train_model"):
        rehearsed(systems)


def test_a_room_that_refuses_is_a_missed_rehearsal_with_evidence(systems: Any, recorded: Any) -> None:
    @contextmanager
    def closed(record: Redeployment, code: bytes, files: Any) -> Iterator[Served]:
        raise Refused("build the environment", ["a hash differs"])
        yield

    facts = rehearse(systems, "alpha", closed, run="r").facts
    assert (facts["verdict"], facts["reasons"]) == ("missed", ["build the environment: a hash differs"])


@pytest.mark.slow
def test_a_clean_environment_serves_the_release_from_its_record_alone(systems: Any, recorded: Any) -> None:
    from ninelives.adapters.clean_room import clean_room

    facts = rehearse(systems, "alpha", clean_room, run="r").facts
    assert (facts["verdict"], facts["reasons"]) == ("met", [])
    seconds = facts["seconds"]
    assert 0 < seconds["build"] + seconds["start"] + seconds["answers"] <= seconds["total"]
    _, record, code = recorded
    forged = tuple(one.model_copy(update={"hashes": ("sha256:" + "0" * 64,)}) for one in record.packages)
    with (
        pytest.raises(Refused, match="other files than were recorded"),
        clean_room(record.model_copy(update={"packages": forged}), code, {}),
    ):
        pass
