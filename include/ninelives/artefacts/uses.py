"""Who uses or holds a version of a model. Fail closed: whoever cannot be asked may use all of them, and raises."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ninelives.artefacts.holds import KIND as HOLD
from ninelives.artefacts.holds import standing
from ninelives.backups import run as backups
from ninelives.experiments import journal as experiments
from ninelives.ports import ModelVersion, Systems
from ninelives.releases.journal import Journal, Outcome, read
from ninelives.releases.publish import read_release
from ninelives.releases.stays import declared_stays
from ninelives.versions.needs import named

Key = tuple[str, str]
"""Model and version."""
Uses = dict[Key, set[str]]
"""Version to who uses it, in words."""

INCIDENTS = ("incident", "failover", "loss")
"""Kinds of evidence that keep every version that they name. Not drills: there is one every night."""


def gather(systems: Systems, registered: Sequence[ModelVersion], now: datetime) -> Uses:
    """Who uses which version: champion, releases, the way back, promotions, backups in the vault, incidents, holds.

    :raises Unavailable: the registry, the ledger, the gateway, the vault or a site's store does not answer
    :raises Corrupted: a release pointer or a record of the ledger cannot be read
    """
    uses: Uses = {}

    def note(model: str, version: str, who: str) -> None:
        uses.setdefault((model, version), set()).add(who)

    estate, ledger, registry = systems.estate, systems.ledger(), systems.registry()
    registered_models = {one.model for one in registered}
    for model in estate.model_by_name:
        if model in registered_models and (champion := registry.champion(model)):
            note(model, champion, "champion")
        for site in estate.site_names:
            if release := read_release(systems.store(site), model):
                note(model, release.version, f"release at {site}")
    splits = systems.gateway().state().versions
    for service in estate.services:
        if split := splits.get(service.name):
            shadow, assignment = split.shadow, split.assignment
            other = [*([shadow] if shadow else []), *([assignment.version] if assignment else [])]
            for version in {split.stable, *split.shares, *split.beside, *other}:
                note(service.model, version, f"at the gateway for {service.name}")
        for version in declared_stays(estate, service.name):
            note(service.model, version, f"a consumer of {service.name} stays on it")
        promotions = read(ledger, service.name)
        runs: list[Journal | experiments.Journal] = [*promotions, *experiments.read(ledger, service.name)]
        for run in runs:
            if run.open:
                note(service.model, run.plan.old, f"the way back of {run.plan.run}")
                note(service.model, run.plan.new, f"{run.plan.run} is not over")
        for promotion in promotions:
            if promotion.outcome is Outcome.PROMOTED and not promotion.retired:
                note(service.model, promotion.plan.old, f"the way back of {promotion.plan.run}")
    names = {(one.model, one.version): f"{one.model}@{one.version}" for one in registered}
    keys = {name: key for key, name in names.items()}
    for kind in INCIDENTS:
        for record in ledger.records(kind=kind):
            for name in named(record.facts, {}, names):
                if name in keys:
                    note(*keys[name], f"{kind} of {record.subject} (evidence {record.seq})")
    if estate.vault:
        there = {one.id for one in backups.snapshots(systems)}
        for record in ledger.records(kind=backups.KIND):
            if record.facts["snapshot"] in there:
                for name in record.facts.get("releases", []):
                    if name in keys:
                        note(*keys[name], f"backup {record.facts['snapshot'][:12]}")
    for hold in standing(ledger.records(kind=HOLD), now):
        note(hold.model, hold.version, str(hold))
    return uses
