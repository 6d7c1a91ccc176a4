"""Who still needs a data version: retained models, backups, incidents, trainings under way, and the next training.

Fail closed: whoever cannot be asked may need everything, so a source that does not answer raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from ninelives.backups import run as backups
from ninelives.errors import Refused
from ninelives.ports import Record, Systems
from ninelives.releases.publish import read_release
from ninelives.training.records import unfinished

Needs = dict[str, set[str]]
"""Version to who needs it, in words."""

NAMING = (backups.KIND, "incident", "failover", "loss")
"""Kinds of evidence that keep every version that they name: a record may name the version itself, its SHA-256, or a
model with its version. A backup's only while the vault has it. Not drills: there is one every night, and it would keep
whatever was ever served."""


def gather(systems: Systems, hashes: Mapping[str, str]) -> Needs:
    """Who needs which version.

    :param hashes: SHA-256 to version, for the versions whose manifest is known
    :raises Unavailable: the registry, the ledger, the vault or a site's store does not answer
    :raises Corrupted: a release pointer or a record of the ledger cannot be read
    """
    needs: Needs = {}
    trained: dict[tuple[str, str], str] = {}
    for one in systems.registry().versions():
        if one.data_version is None:
            if one.model not in systems.estate.model_by_name:
                continue  # somebody else's model in the same registry
            raise Refused("pruning", [f"the registry does not say which data {one.model}@{one.version} was trained on"])
        trained[one.model, one.version] = one.data_version
        needs.setdefault(one.data_version, set()).add(f"model {one.model}@{one.version}")
    for site in systems.estate.site_names:
        for model in systems.estate.model_by_name:
            release = read_release(systems.store(site), model)
            if release is not None:
                needs.setdefault(release.data_version, set()).add(f"release {model}@{release.version} at {site}")
    ledger = systems.ledger()
    for record in [*ledger.records(kind="release"), *ledger.records(kind="artefact")]:
        # A version that was deleted from the registry still says what an incident about it needs.
        if record.facts.get("data_version") is None:
            continue
        trained.setdefault((record.subject, str(record.facts.get("version"))), str(record.facts["data_version"]))
    for kind in NAMING:
        for record in _standing(systems, ledger.records(kind=kind)):
            for version in named(record.facts, hashes, trained):
                needs.setdefault(version, set()).add(f"{kind} of {record.subject} (evidence {record.seq})")
    for training in unfinished(ledger):
        needs.setdefault(training.data_version, set()).add(f"training of {training.model}")
    return needs


def _standing(systems: Systems, records: Sequence[Record]) -> Sequence[Record]:
    """Without those of backups that have left the vault; where the estate has none (any more) nobody can say so."""
    held = {one.facts["snapshot"] for one in records if one.kind == backups.KIND and "snapshot" in one.facts}
    if not (held and systems.estate.vault):
        return records
    gone = held - {one.id for one in backups.snapshots(systems)}
    return [one for one in records if one.facts.get("snapshot") not in gone]


def named(facts: Mapping[str, Any], hashes: Mapping[str, str], trained: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """The data versions that a record names, anywhere in it, by any of their names."""
    for text in _texts(facts):
        if text.endswith(".dir"):
            yield text
        elif text in hashes:
            yield hashes[text]
        else:
            model, _, version = text.partition("@")
            if (model, version) in trained:
                yield trained[model, version]
    for part in _objects(facts):
        release = str(part.get("model")), str(part.get("version"))
        if release in trained:
            yield trained[release]


def newest_of_each(kept_at: Mapping[str, tuple[str, datetime]]) -> Needs:
    """The version of each dataset that was kept last.

    :param kept_at: version to its dataset and when it was kept
    """
    newest: dict[str, str] = {}
    for version, (dataset, at) in kept_at.items():
        if dataset not in newest or (kept_at[newest[dataset]][1], newest[dataset]) < (at, version):
            newest[dataset] = version
    return {version: {f"newest of {dataset}"} for dataset, version in newest.items()}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _texts(key)
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _objects(part)
