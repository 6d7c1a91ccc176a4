"""What the estate is like, so that a drill can show that it left it as it found it.

It is written down before the fault and compared after the return. Whatever differs must be explained by evidence of
the estate's own doing, such as a failover; a drill that leaves anything else behind has failed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ninelives.accelerators.drain import drained
from ninelives.accelerators.evidence import judged, reasons_in, seen, subject
from ninelives.drills.scenario import Drill
from ninelives.errors import NinelivesError
from ninelives.files import write_atomically
from ninelives.home import Home
from ninelives.injections import Flipped, Injection, Planted, Played, Replayed, open_injections
from ninelives.ports import ObjectStore, Systems
from ninelives.replication.manifest import read_manifest

UNKNOWN = "unknown"
"""What could not be looked at: never the same as anything, itself included."""

State = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """Something that is not as it was; ``explained`` says by what, ``None`` by nothing."""

    what: str
    before: Any
    after: Any
    explained: str | None = None

    @property
    def certain(self) -> bool:
        return UNKNOWN not in (self.before, self.after)


# --- looking -------------------------------------------------------------------------------------------------------


def capture(systems: Systems, injection: Injection, *, stores: bool = True) -> State:
    """Where traffic may go and how many replicas answer there, what runs, and what every store holds.

    :param injection: the drill's own, which is left out of the open ones, and whose objects are looked at
    :param stores: look at the stores too, which costs more than all else
    """
    state: State = {
        "injections": sorted(one.id for one in open_injections(systems.home) if one.id != injection.id),
        "gateway": _or_unknown(lambda: _gateway(systems)),
        "programs": _or_unknown(lambda: systems.faults().running(systems.estate.site_names)),
    }
    if not stores:
        return state
    for site in systems.estate.site_names:
        state[f"releases at {site}"] = _or_unknown(lambda site=site: _releases(systems, systems.store(site)))  # type: ignore[misc]
        state[f"data at {site}"] = _or_unknown(lambda site=site: _data(systems, systems.store(site)))  # type: ignore[misc]
    state["objects"] = {
        f"{fault.bucket}/{key} at {fault.site}": _or_unknown(
            lambda fault=fault, key=key: _sha256(systems.store(fault.site).get(fault.bucket, key))  # type: ignore[misc]
        )
        for fault in injection.faults
        if isinstance(fault, Flipped | Planted)
        for key in [fault.key if isinstance(fault, Flipped) else fault.folder + fault.name]
    }
    for fault in injection.faults:
        if isinstance(fault, Replayed):
            state["objects"][f"{fault.bucket}/{fault.folder} at {fault.site}"] = _or_unknown(
                lambda fault=fault: _keys(systems, fault)  # type: ignore[misc]
            )
        if isinstance(fault, Played):
            state[f"accelerators at {fault.site}"] = {
                fault.machine: _or_unknown(lambda fault=fault: _accelerator(systems, fault))  # type: ignore[misc]
            }
    return state


def _accelerator(systems: Systems, fault: Played) -> list[str]:
    """What speaks against the machine, and which models are taken out there."""
    found = judged(systems.estate, fault.site, fault.machine, seen(systems, fault.site, fault.machine))
    return [*reasons_in(found), *drained(systems, subject(fault.site, fault.machine))]


def _keys(systems: Systems, fault: Replayed) -> list[str]:
    return [info.key for info in systems.store(fault.site).list(fault.bucket, fault.folder)]


def digest(state: State) -> str:
    """SHA-256 (hex) of the canonical JSON of a state."""
    return hashlib.sha256(json.dumps(state, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _or_unknown(look: Callable[[], Any]) -> Any:
    try:
        return look()
    except NinelivesError:
        return UNKNOWN


def _gateway(systems: Systems) -> State:
    gateway = systems.gateway()
    state = gateway.state()
    healthy = {
        f"{service} at {site}": gateway.healthy_sites(service).get(site, 0)
        for service in systems.estate.service_by_name
        for site in state.active[service]
    }
    return {
        "active": {service: list(sites) for service, sites in state.active.items()},
        "closed": sorted(state.closed_sites),
        "healthy": healthy,
    }


def _releases(systems: Systems, store: ObjectStore) -> State:
    from ninelives.releases.publish import BUCKET, pointer_key

    return {model.name: _sha256(store.get(BUCKET, pointer_key(model.name))) for model in systems.estate.models}


def _data(systems: Systems, store: ObjectStore) -> State:
    found: State = {}
    for dataset in systems.estate.datasets:
        if store.site in (dataset.primary, *dataset.copies) and (manifest := read_manifest(store, dataset.name)):
            found[dataset.name] = {one.key: one.sha256 for one in manifest.objects}
    return found


def _sha256(data: bytes | None) -> str | None:
    return None if data is None else hashlib.sha256(data).hexdigest()


# --- keeping -------------------------------------------------------------------------------------------------------


def state_file(home: Home, drill_id: str) -> Path:
    return home.injections / "before" / f"{drill_id}.json"


def keep_before(systems: Systems, injection: Injection) -> None:
    """Write down what the estate is like before the fault; what an earlier try wrote stands."""
    path = state_file(systems.home, injection.id)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(capture(systems, injection)).encode())


def read_before(home: Home, drill_id: str) -> State | None:
    """``None`` where nothing was written down."""
    try:
        found: State = json.loads(state_file(home, drill_id).read_bytes())
    except FileNotFoundError:
        return None
    return found


# --- comparing -----------------------------------------------------------------------------------------------------


def compare(before: State, after: State) -> list[Difference]:
    """What is not as it was, as far as both were looked at.

    Data may have been added: writes go on during a drill. A site may have more healthy replicas, and a program may run
    that did not. Anything that is gone, changed or fewer is a difference. Pure.
    """
    found = [Difference("open injections", before["injections"], after["injections"])] * (
        before["injections"] != after["injections"]
    )
    found += _gateway_differences(before["gateway"], after["gateway"])
    found += _mappings("program ", before["programs"], after["programs"], lambda was, now: was and not now)
    for what in sorted((before.keys() & after.keys()) - {"injections", "gateway", "programs"}):
        if what.startswith("data at "):
            found += _data_differences(what, before[what], after[what])
        else:
            found += _mappings(f"{what}: ", before[what], after[what], lambda was, now: was != now)
    return found


def _gateway_differences(before: Any, after: Any) -> list[Difference]:
    if UNKNOWN in (before, after):
        return [Difference("the gateway's state", _known(before), _known(after))]
    found = _mappings("where traffic goes: ", before["active"], after["active"], lambda was, now: was != now)
    if before["closed"] != after["closed"]:
        found.append(Difference("closed sites", before["closed"], after["closed"]))
    where = before["healthy"].keys() & after["healthy"].keys()
    was_healthy, is_healthy = ({key: one["healthy"][key] for key in where} for one in (before, after))
    return [*found, *_mappings("healthy replicas: ", was_healthy, is_healthy, lambda was, now: now < was)]


def _mappings(what: str, before: Any, after: Any, differs: Callable[[Any, Any], bool]) -> list[Difference]:
    if UNKNOWN in (before, after):
        return [Difference(f"{what.strip(' :')}", _known(before), _known(after))]
    return [
        Difference(f"{what}{key}", was, after.get(key))
        for key, was in before.items()
        if UNKNOWN in (was, after.get(key)) or differs(was, after.get(key))
    ]


def _data_differences(what: str, before: Any, after: Any) -> list[Difference]:
    if UNKNOWN in (before, after):
        return [Difference(what, _known(before), _known(after))]
    found = []
    for dataset, objects in before.items():
        now = after.get(dataset, {})
        wrong = sorted(key for key, sha256 in objects.items() if now.get(key) != sha256)
        if wrong:
            named = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            found.append(
                Difference(f"{what}: {dataset}", f"{len(objects)} objects", f"gone or changed: {named}")
            )  # fmt: skip
    return found


def _known(value: Any) -> Any:
    return UNKNOWN if value == UNKNOWN else "known"


def explain(systems: Systems, differences: Iterable[Difference], since: datetime) -> list[Difference]:
    """The same, each with the estate's own doing since ``since`` that accounts for it."""
    return [
        Difference(one.what, one.before, one.after, _explanation(systems, one, since) if one.certain else None)
        for one in differences
    ]


def _explanation(systems: Systems, one: Difference, since: datetime) -> str | None:
    part, _, name = one.what.partition(": ")
    if part == "where traffic goes":
        for record in systems.ledger().records(kind="failover", subject=name, since=since):
            if record.facts.get("outcome") == "moved" and [record.facts.get("to")] == one.after:
                return f"failover, evidence {record.seq}"
    if part.startswith("releases at ") and one.after is not None:
        from ninelives.replication.pointers import descends, read_moves

        moves = read_moves(systems.store(part.removeprefix("releases at ")), name)
        if one.before is None or descends(one.after, one.before, moves):
            return "a newer release was published"
    return None


# --- judging -------------------------------------------------------------------------------------------------------


def left_behind(systems: Systems, injection: Injection, *, stores: bool = True) -> list[Difference]:
    """What a drill has left unlike it was and nothing explains, as far as it was known before."""
    before = read_before(systems.home, injection.id)
    if before is None:
        return []
    since = injection.lost_at or injection.started_at
    found = compare(before, capture(systems, injection, stores=stores))
    known = [one for one in found if one.before != UNKNOWN]  # what nobody could look at before cannot come back
    return [one for one in explain(systems, known, since) if one.explained is None]


def state_facts(systems: Systems, injection: Injection) -> Mapping[str, Any]:
    """For the evidence: both digests, every difference with its explanation, and the verdict on them."""
    before = read_before(systems.home, injection.id)
    if before is None:
        return {"verdict": UNKNOWN, "before": None, "after": None, "differences": []}
    after = capture(systems, injection)
    found = explain(systems, compare(before, after), injection.lost_at or injection.started_at)
    open_ones = [one for one in found if one.explained is None]
    verdict = "met" if not open_ones else "missed" if any(one.certain for one in open_ones) else UNKNOWN
    return {
        "verdict": verdict,
        "before": digest(before),
        "after": digest(after),
        "differences": [asdict(one) for one in found],
    }


def has_returned(systems: Systems, drill: Drill, injection: Injection | None) -> bool:
    """Whether everything is as it was, as far as the estate has not changed it for good reason."""
    if injection is None or read_before(systems.home, drill.id) is None:
        return drill.site not in systems.gateway().state().closed_sites
    return not left_behind(systems, injection, stores=False) and not left_behind(systems, injection)
