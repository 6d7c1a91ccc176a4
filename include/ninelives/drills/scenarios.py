"""Every scenario. None of them helps the recovery, and none leaves anything that its journal does not name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from ninelives.drills.accelerator import AcceleratorFault
from ninelives.drills.from_vault import ControlPlaneLost, EverythingLost
from ninelives.drills.provider import not_replayable, outside_window, replay, replay_of
from ninelives.drills.scenario import Drill, Promise, Scenario
from ninelives.errors import Refused
from ninelives.estate import Estate, Mode, Service
from ninelives.estate.model import ScenarioName
from ninelives.injections import Experiment, Fault, Flipped, Frozen, Killed, SiteLost, Slowed, Stopped
from ninelives.ports import GatewayState, ObjectStore, Systems

SLOW = (700, 100)
"""Milliseconds stopped and running: a request waits for up to 0.7 s. A store that needs a second counts as ill."""

LONG_ENOUGH = timedelta(seconds=20)
"""How long something is away that users should not miss: longer than every timeout and health check here."""

LARGEST = 64 * 2**20
"""Bytes of an object that is damaged: it is read whole to know how it was."""


class SiteLoss(Scenario):
    name = ScenarioName.SITE_LOSS
    breaks = "every program of a site is killed, storage included; its disk is kept"
    promises = (Promise.RTO, Promise.RPO)

    def survivors(self, estate: Estate, state: GatewayState, drill: Drill) -> tuple[str, ...]:
        # An active-active service keeps its other sites; an active-passive one survives when it is active elsewhere.
        return tuple(
            service.name
            for service in estate.services
            if service.mode is Mode.ACTIVE_ACTIVE or drill.site not in state.active[service.name]
        )

    def reasons(self, systems: Systems, drill: Drill, state: GatewayState) -> list[str]:
        return [
            *_not_served(systems, drill, state),
            *_nobody_left(systems, drill),
            *_no_standby(systems, drill, state),
        ]

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        return (SiteLost(site=drill.site),)


class _ReplicaFault(Scenario):
    promises = (Promise.RTO,)

    def reasons(self, systems: Systems, drill: Drill, state: GatewayState) -> list[str]:
        reasons = _not_served(systems, drill, state)
        healthy = systems.gateway().healthy_sites(drill.service).get(drill.site, 0)
        if not reasons and healthy < 2:
            reasons.append(f"{drill.service} has {healthy} healthy replicas at {drill.site}: none would take over")
        return reasons

    def _replica(self, systems: Systems, drill: Drill) -> str:
        return systems.faults().programs("replica", drill.site)[0]


class ReplicaKilled(_ReplicaFault):
    name = ScenarioName.REPLICA_KILLED
    breaks = "one replica is killed with -9 and kept down"

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        return (Stopped(program=self._replica(systems, drill), site=drill.site),)


class ReplicaWedged(_ReplicaFault):
    name = ScenarioName.REPLICA_WEDGED
    breaks = "one replica hangs (SIGSTOP): its port takes connections and nobody answers"

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        return (Frozen(program=self._replica(systems, drill), site=drill.site),)


class GatewayLost(Scenario):
    name = ScenarioName.GATEWAY_LOST
    breaks = "the gateway is killed with -9; its supervisor may start it again"
    promises = (Promise.RTO,)

    def survivors(self, estate: Estate, state: GatewayState, drill: Drill) -> tuple[str, ...]:
        return ()  # every request goes through it

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        return tuple(Killed(program=name) for name in systems.faults().programs("gateway"))


class RegistryLost(Scenario):
    name = ScenarioName.REGISTRY_LOST
    breaks = "the model registry is stopped and kept down"
    promises = (Promise.USERS, Promise.REGISTRY)
    hold = LONG_ENOUGH

    def reasons(self, systems: Systems, drill: Drill, state: GatewayState) -> list[str]:
        systems.registry().ping()
        return []

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        return tuple(Stopped(program=name) for name in systems.faults().programs("registry"))


class _AtCopy(Scenario):
    """Strikes the site that keeps a copy of the service's dataset."""

    def usual_site(self, estate: Estate, state: GatewayState, service: Service) -> str:
        return estate.dataset_of(service).copies[0]

    def reasons(self, systems: Systems, drill: Drill, state: GatewayState) -> list[str]:
        dataset = systems.estate.dataset_of(systems.estate.service_by_name[drill.service])
        if drill.site not in dataset.copies:
            return [f"{drill.site} keeps no copy of {dataset.name}; its copies are at {', '.join(dataset.copies)}"]
        return _behind(systems, drill)


class SlowStore(_AtCopy):
    name = ScenarioName.SLOW_STORE
    breaks = "the store of a copy is stopped and continued by turns: each request to it waits for up to 0.7 s"
    promises = (Promise.USERS, Promise.COPIES)
    hold = LONG_ENOUGH

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        (store, *_) = systems.faults().programs("store", drill.site)
        return (Slowed(program=store, site=drill.site, injection=drill.id, stopped_ms=SLOW[0], running_ms=SLOW[1]),)


class Partition(_AtCopy):
    name = ScenarioName.PARTITION
    breaks = "nothing gets through to the store of a copy from outside its site, where it goes on serving its replicas"
    promises = (Promise.USERS, Promise.COPIES)
    hold = LONG_ENOUGH

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        return tuple(Frozen(program=link, site=drill.site) for link in systems.faults().programs("link", drill.site))


class CorruptObject(_AtCopy):
    name = ScenarioName.CORRUPT_OBJECT
    breaks = "one byte of an object of a copy is another on the store's disk, its size and times kept"
    promises = (Promise.USERS, Promise.REPAIRED)

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        from ninelives.replication.manifest import BUCKET, read_manifest

        dataset = systems.estate.dataset_of(systems.estate.service_by_name[drill.service]).name
        manifest = read_manifest(systems.store(drill.site), dataset)
        objects = [one for one in manifest.objects if 0 < one.size <= LARGEST] if manifest else []
        if not objects:
            raise Refused("drill", [f"the copy of {dataset} at {drill.site} has no object to damage"])
        chosen = objects[_number(drill.id) % len(objects)]
        return (_flip(systems.store(drill.site), BUCKET, chosen.key, chosen.sha256, drill.id),)

    def check(self, systems: Systems, drill: Drill) -> Mapping[str, Any]:
        from ninelives.replication.verify import record_verification, verify_dataset

        declared = systems.estate.dataset_of(systems.estate.service_by_name[drill.service])
        result = verify_dataset(systems, declared.name, declared.primary, drill.site)
        record = record_verification(systems.ledger(), result)
        return {
            "by": "verify",
            "evidence": record.seq,
            "found": [[one.site, one.key, one.what, one.outcome] for one in result.findings],
        }


class CorruptArtefact(_AtCopy):
    name = ScenarioName.CORRUPT_ARTEFACT
    breaks = "one byte of the released model is another on a standby's disk, its size and times kept"
    promises = (Promise.USERS, Promise.REPAIRED)

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        from ninelives.releases.publish import BUCKET, read_release

        model = systems.estate.service_by_name[drill.service].model
        release = read_release(systems.store(drill.site), model)
        if release is None:
            raise Refused("drill", [f"{drill.site} has no release of {model} to damage; run replicate_data"])
        sha256 = release.digest.removeprefix("sha256:")
        return (_flip(systems.store(drill.site), BUCKET, release.object, sha256, drill.id),)

    def check(self, systems: Systems, drill: Drill) -> Mapping[str, Any]:
        from ninelives.releases.publish import read_release
        from ninelives.replication.replicate import replicate_releases

        service = systems.estate.service_by_name[drill.service]
        primary = systems.estate.dataset_of(service).primary
        (done,) = replicate_releases(systems, [service.model], primary, drill.site)
        release = read_release(systems.store(drill.site), service.model)
        found = [[drill.site, release.object, "damaged", "repaired"]] if release and done.repaired else []
        return {"by": "replicate_models", "evidence": None, "found": found}


class ProviderSilent(Scenario):
    name = ScenarioName.PROVIDER_SILENT
    breaks = "the provider of new data falls silent: the feeder is stopped and kept down"
    promises = (Promise.USERS, Promise.WRITES)
    hold = LONG_ENOUGH

    def reasons(self, systems: Systems, drill: Drill, state: GatewayState) -> list[str]:
        return outside_window(systems, drill)

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        return tuple(Stopped(program=name) for name in systems.faults().programs("provider"))


class ProviderNonsense(Scenario):
    name = ScenarioName.PROVIDER_NONSENSE
    breaks = "records that break the stream's contract arrive, in a folder of the drill's own at the stream's site"
    promises = (Promise.USERS, Promise.QUARANTINED)

    def reasons(self, systems: Systems, drill: Drill, state: GatewayState) -> list[str]:
        from ninelives.drills.nonsense import stream_for

        stream_for(systems, drill.service)
        return outside_window(systems, drill)

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        from ninelives.drills.nonsense import nonsense

        return (nonsense(systems, drill),)

    def check(self, systems: Systems, drill: Drill) -> Mapping[str, Any]:
        from ninelives.drills.nonsense import land_nonsense

        return land_nonsense(systems, drill)


class ProviderReplay(Scenario):
    name = ScenarioName.PROVIDER_REPLAY
    breaks = "the provider's recorded feed comes again, apart from real data: late, twice, not at all and broken"
    promises = (Promise.USERS, Promise.LANDED)

    def reasons(self, systems: Systems, drill: Drill, state: GatewayState) -> list[str]:
        return not_replayable(systems, drill)

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        return (replay_of(systems, drill),)

    def check(self, systems: Systems, drill: Drill) -> Mapping[str, Any]:
        return replay(systems, drill)


class UserExperiment(Scenario):
    name = ScenarioName.EXPERIMENT
    breaks = "what an experiment of one's own says, in Chaos Toolkit's JSON below experiments/"
    promises = (Promise.HYPOTHESIS,)

    def plan(self, systems: Systems, drill: Drill) -> tuple[Fault, ...]:
        data = self._read(systems, drill)
        if drill.fingerprint not in ("", hashlib.sha256(data).hexdigest()):
            raise Refused("drill", [f"experiment {drill.site} was changed since it was planned; start a new run"])
        try:
            return (Experiment(name=drill.site, injection=drill.id, document=data.decode()),)
        except UnicodeDecodeError as error:
            raise Refused("drill", [f"experiment {drill.site} is not UTF-8: {error}"]) from error

    def fingerprint(self, systems: Systems, drill: Drill) -> str:
        return hashlib.sha256(self._read(systems, drill)).hexdigest()

    def _read(self, systems: Systems, drill: Drill) -> bytes:
        folder = systems.home.experiments
        known = {path.stem: path for path in sorted(folder.glob("*.json"))}
        if drill.site not in known:
            there = ", ".join(known) or "none"
            raise Refused("drill", [f"there is no experiment {drill.site!r} in {folder}; there is {there}"])
        try:
            return known[drill.site].read_bytes()
        except OSError as error:
            raise Refused("drill", [f"experiment {drill.site} cannot be read: {error}"]) from error


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name.value: scenario
    for scenario in (
        SiteLoss(),
        ReplicaKilled(),
        ReplicaWedged(),
        GatewayLost(),
        RegistryLost(),
        SlowStore(),
        Partition(),
        CorruptObject(),
        CorruptArtefact(),
        AcceleratorFault(),
        ProviderSilent(),
        ProviderNonsense(),
        ProviderReplay(),
        ControlPlaneLost(),
        EverythingLost(),
        UserExperiment(),
    )
}


def find_scenario(name: str) -> Scenario:
    """:raises Refused: there is no such scenario"""
    if name not in SCENARIOS:
        raise Refused("drill", [f"there is no scenario {name!r}; there are {', '.join(SCENARIOS)}"])
    return SCENARIOS[name]


# --- what scenarios look at beforehand -----------------------------------------------------------------------------


def _not_served(systems: Systems, drill: Drill, state: GatewayState) -> list[str]:
    service = systems.estate.service_by_name[drill.service]
    if service.mode is Mode.ACTIVE_PASSIVE and drill.site not in state.active[service.name]:
        return [f"{service.name} is served from {', '.join(state.active[service.name])}, not from {drill.site}"]
    return []


def _nobody_left(systems: Systems, drill: Drill) -> list[str]:
    """Active-active services of which nobody would answer."""
    reasons, gateway = [], systems.gateway()
    for other in systems.estate.services_at(drill.site):
        if other.mode is Mode.ACTIVE_ACTIVE:
            healthy = {site: n for site, n in gateway.healthy_sites(other.name).items() if site != drill.site and n}
            if not healthy:
                reasons.append(f"{other.name} has no healthy replica outside {drill.site}")
    return reasons


def _no_standby(systems: Systems, drill: Drill, state: GatewayState) -> list[str]:
    """No standby could take over, or its data is behind the RPO."""
    from ninelives.recovery.failover import find_readiness

    reasons = []
    for one in systems.estate.services_at(drill.site):
        if one.mode is not Mode.ACTIVE_PASSIVE or drill.site not in state.active[one.name]:
            continue
        standbys = [find_readiness(systems, one, site) for site in one.sites if site != drill.site]
        if not any(standby.eligible and not standby.warnings for standby in standbys):
            reasons += [why for standby in standbys for why in (*standby.reasons, *standby.warnings)]
    return reasons


def _behind(systems: Systems, drill: Drill) -> list[str]:
    """The copy is not within its RPO even now."""
    from datetime import UTC, datetime

    from ninelives.replication.status import copy_status

    dataset = systems.estate.dataset_of(systems.estate.service_by_name[drill.service])
    status = copy_status(systems, dataset, drill.site, datetime.now(UTC))
    if status.verdict == "met":
        return []
    return [status.breach() or f"how far {dataset.name} at {drill.site} is behind is unknown: {status.problem}"]


def _number(text: str) -> int:
    """The same for the same drill, and for two drills as good as never."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _flip(store: ObjectStore, bucket: str, key: str, sha256: str, seed: str) -> Flipped:
    """Another byte somewhere in an object that is right now; the same for the same ``seed``."""
    data = store.get(bucket, key)
    if data is None or hashlib.sha256(data).hexdigest() != sha256:
        raise Refused("drill", [f"{bucket}/{key} at {store.site} is damaged already; run ninelives replicate verify"])
    number = _number(f"{seed}/{key}")
    offset = number % len(data)
    became = (data[offset] + 1 + number // len(data) % 255) % 256
    return Flipped(
        site=store.site,
        bucket=bucket,
        key=key,
        offset=offset,
        was=data[offset],
        became=became,
        size=len(data),
        sha256=sha256,
    )
