"""Everything that a failover would need at a standby, looked at beforehand: readiness, item by item.

A failover itself asks only ``find_readiness``, which is quick. This looks longer: the model's bytes are read,
permissions compared, the last drill remembered. What it finds is kept for people; nothing on a failover's way waits
for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from ninelives.accelerators.evidence import MAX_AGE as ACCELERATORS_MAX_AGE
from ninelives.access.audit import AccessReport, check_access
from ninelives.access.compare import Kind
from ninelives.errors import NinelivesError, Unavailable
from ninelives.estate import Mode, Service
from ninelives.estate.accelerators import GIB
from ninelives.estate.model import StandbyKind
from ninelives.estate.residency import residency_breach
from ninelives.estate.units import format_duration
from ninelives.files import write_atomically
from ninelives.gates.evidence import KIND as GATE
from ninelives.gates.evidence import MAX_AGE, has_verdict, opens, subject
from ninelives.injections import open_injections
from ninelives.ports import GatewayState, Record, Systems
from ninelives.recovery.failover import accelerators_of, is_live, is_ready
from ninelives.recovery.licences import seats_answer
from ninelives.recovery.readiness import preference
from ninelives.recovery.safety import current_freeze, too_many_failovers
from ninelives.releases.publish import BUCKET, digest_of, known_golden_versions, newest, read_release
from ninelives.replication.status import copy_status

KIND = "readiness"
EVIDENCE_EVERY = timedelta(days=1)
"""At least so often it is written down, changed or not."""
REREAD_AFTER = timedelta(days=1)
"""How long a model's bytes are believed to be what they were, while size and time of the object stay the same."""
OF_THE_STORE = frozenset({"release", "model", "gate", "data", "golden answers"})
"""Items that nothing can be said about while the store is silent."""
DRILL_WITHIN = timedelta(days=365)
"""A standby that no drill has used for longer is not known to work. Ours, after what most rules ask for."""


class State(StrEnum):
    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Item:
    """One thing that a failover would need."""

    name: str
    state: State
    value: str
    """What was found."""
    limit: str = ""
    """What it is measured by."""
    reason: str = ""
    """Why it does not pass."""
    stops: bool = True
    """Whether a failover would not happen without it; otherwise it would happen, and be worse than promised."""


@dataclass(frozen=True)
class Standby:
    """One site that should be able to take a service over, or to carry it alone."""

    site: str
    items: tuple[Item, ...]
    preference: tuple[bool, int] = preference(warm=False, free_memory=None)
    """Less is better, among standbys that are equal otherwise."""

    @property
    def state(self) -> State:
        """Unknown never passes."""
        stopping = {item.state for item in self.items if item.stops}
        return next((state for state in (State.FAIL, State.UNKNOWN) if state in stopping), State.PASS)

    @property
    def first_reason(self) -> str:
        """The first reason why a failover here would fail; empty where none is known."""
        found = [item for item in self.items if item.stops and item.state is not State.PASS]
        return min(found, key=lambda item: item.state is State.UNKNOWN).reason if found else ""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What would make it worse than promised."""
        return tuple(item.reason for item in self.items if not item.stops and item.state is not State.PASS)


@dataclass(frozen=True)
class ServiceReadiness:
    """Whether a service would outlive the loss of a site that serves it."""

    service: str
    mode: str
    serving: tuple[str, ...]
    standbys: tuple[Standby, ...]
    checked_at: datetime
    models: Mapping[str, Any] = field(default_factory=dict)
    """Which bytes were read when, for the next look."""

    @property
    def state(self) -> State:
        """Of an active-passive service the best standby's; an active-active one needs two sites that can carry it."""
        wanted = 2 if self.mode == Mode.ACTIVE_ACTIVE else 1
        order = (State.PASS, State.UNKNOWN, State.FAIL)
        states = sorted((standby.state for standby in self.standbys), key=order.index)
        return states[wanted - 1] if len(states) >= wanted else State.FAIL

    @property
    def best(self) -> Standby | None:
        """Where a failover would go: the first that passes, those without remarks before the others."""
        able = [one for one in self.standbys if one.state is State.PASS and one.site not in self.serving]
        return min(able, key=lambda one: (len(one.remarks), one.preference), default=None)

    @property
    def reason(self) -> str:
        """The first reason why it could not be moved; empty where it could."""
        if self.state is State.PASS:
            return ""
        return next((one.first_reason for one in self.standbys if one.first_reason), "it has no standby")

    def report(self) -> dict[str, Any]:
        return {
            "service": self.service,
            "mode": self.mode,
            "state": str(self.state),
            "reason": self.reason,
            "serving": list(self.serving),
            "checked_at": self.checked_at.isoformat(),
            "standbys": [
                {
                    "site": one.site,
                    "state": str(one.state),
                    "reason": one.first_reason,
                    "remarks": list(one.remarks),
                    "items": [asdict(item) for item in one.items],
                }
                for one in self.standbys
            ],
        }


@dataclass(frozen=True)
class _Site:
    """What is asked of a site once, for all services: a hung one costs its timeouts only once."""

    access: AccessReport
    silent: str
    """Why its store does not answer; empty where it does."""
    live: int
    replicas: int


def _look_at_site(systems: Systems, site: str, now: datetime) -> _Site:
    silent = ""
    try:
        systems.store(site).ping()
    except Unavailable as error:
        silent = f"the store of {site} does not answer: {error}"
    replicas = systems.replicas(site)
    live = sum(is_live(replica) for replica in replicas)
    return _Site(check_access(systems, only=site, now=now), silent, live, len(replicas))


def check_readiness(
    systems: Systems, *, only: str | None = None, kept: Mapping[str, Any] | None = None, now: datetime | None = None
) -> list[ServiceReadiness]:
    """Look at every standby of every service, or of ``only`` one. Changes nothing.

    :param kept: what ``kept_readiness`` gave: model bytes read lately are then not read again
    :raises Unavailable: the gateway's state cannot be read: nobody knows what a standby is
    """
    at, state = now or datetime.now(UTC), systems.gateway().state()
    services = [service for service in systems.estate.services if only in (None, service.name)]
    sites = sorted({site for service in services for site in service.sites})
    with ThreadPoolExecutor(max(1, len(sites))) as pool:
        seen = dict(zip(sites, pool.map(lambda site: _look_at_site(systems, site, at), sites), strict=True))
    known = (kept or {}).get("models", {})
    return [_check_service(systems, service, state, seen, known, at) for service in services]


def _check_service(
    systems: Systems,
    service: Service,
    state: GatewayState,
    seen: Mapping[str, _Site],
    known: Mapping[str, Any],
    now: datetime,
) -> ServiceReadiness:
    serving = state.active[service.name]
    standbys, models = [], {}
    for site in service.sites:
        if service.mode is Mode.ACTIVE_PASSIVE and serving == (site,):
            continue
        look = _Look(systems, service, site, state, seen[site], known, now)
        standbys.append(Standby(site, tuple(look.items()), look.preference))
        models.update(look.read)
    return ServiceReadiness(service.name, str(service.mode), serving, tuple(standbys), now, models)


@dataclass
class _Look:
    """One look at one standby."""

    systems: Systems
    service: Service
    site: str
    state: GatewayState
    seen: _Site
    known: Mapping[str, Any]
    now: datetime
    read: dict[str, Any] = field(default_factory=dict)
    preference: tuple[bool, int] = preference(warm=False, free_memory=None)

    def items(self) -> list[Item]:
        """In the order in which a failover would come upon them."""
        looks: list[tuple[str, bool, Callable[[], Item]]] = [
            ("automation", True, self._automation),
            ("gateway", True, self._gateway),
            ("drill", True, self._drill),
            ("store", True, self._store),
            ("residency", True, self._residency),
            ("licence", True, self._licence),
            ("permissions", True, self._permissions),
            ("release", True, self._release),
            ("model", True, self._model),
            ("replicas", True, self._replicas),
            ("accelerators", False, self._accelerators),
            ("gate", True, self._gate),
            ("capacity", False, self._capacity),
            ("data", False, self._data),
            ("golden answers", False, self._golden),
            ("last drill", False, self._last_drill),
        ]
        if self.service.mode is Mode.ACTIVE_ACTIVE:  # it is not moved: no run of ours decides, and no gate is asked
            looks = [look for look in looks if look[0] not in ("automation", "gate")]
        return [self._safely(*look) for look in looks]

    def _safely(self, name: str, stops: bool, look: Callable[[], Item]) -> Item:
        if self.seen.silent and name in OF_THE_STORE:
            return Item(name, State.UNKNOWN, "", "", self.seen.silent, stops)
        try:
            return look()
        except NinelivesError as error:
            return Item(name, State.UNKNOWN, "", "", f"{self.site}: {name}: {type(error).__name__}: {error}", stops)

    def _automation(self) -> Item:
        ledger, estate = self.systems.ledger(), self.systems.estate
        limit = f"{estate.recovery.failovers_per_hour} failovers an hour"
        if frozen := current_freeze(ledger, estate, self.now):
            return Item("automation", State.FAIL, "frozen", limit, frozen.sentence)
        if why := too_many_failovers(ledger, estate, self.service.name, self.now):
            return Item("automation", State.FAIL, "at its limit", limit, why)
        return Item("automation", State.PASS, "acts", limit)

    def _gateway(self) -> Item:
        if self.site in self.state.closed_sites:
            why = f"{self.site} is closed at the gateway until it passes the gate again"
            return Item("gateway", State.FAIL, "closed", "open", why)
        healthy = self.systems.gateway().healthy_sites(self.service.name).get(self.site, 0)
        if not healthy and self.service.mode is Mode.ACTIVE_PASSIVE and self.seen.live and not self._loaded():
            return self._not_loaded()
        if not healthy:
            why = f"the gateway sees no healthy replica of {self.service.name} at {self.site}"
            return Item("gateway", State.FAIL, "0 healthy replicas", "open, 1", why)
        return Item("gateway", State.PASS, f"open, {healthy} healthy replicas", "open, 1")

    def _loaded(self) -> bool:
        return any(is_ready(replica, self.service.model) for replica in self.systems.replicas(self.site))

    def _not_loaded(self) -> Item:
        """Of replicas that run: nothing there can be healthy to the gateway before a failover has the model loaded."""
        if self.service.standby is StandbyKind.COLD:
            return Item("gateway", State.PASS, "open, cold", "open")
        why = f"{self.site} is no warm standby now: no replica there has {self.service.model} loaded"
        return Item("gateway", State.FAIL, "open, cold", "open, 1 with the model loaded", why, stops=False)

    def _drill(self) -> Item:
        for one in open_injections(self.systems.home):
            if one.site == self.site:
                return Item("drill", State.FAIL, one.scenario, "none", f"{self.site} is in a drill ({one.id})")
        return Item("drill", State.PASS, "none", "none")

    def _store(self) -> Item:
        if self.seen.silent:
            return Item("store", State.FAIL, "silent", "answers", self.seen.silent)
        return Item("store", State.PASS, "answers", "answers")

    def _residency(self) -> Item:
        dataset = self.systems.estate.dataset_of(self.service)
        regions = ", ".join(dataset.residency) or "anywhere"
        if breach := residency_breach(self.systems.estate, dataset.name, self.site):
            return Item("residency", State.FAIL, self.site, regions, breach)
        return Item("residency", State.PASS, self.site, regions)

    def _licence(self) -> Item:
        estate = self.systems.estate
        needed = estate.licences_of(self.service)
        if not needed:
            return Item("licence", State.PASS, "none needed")
        names = ", ".join(f"{one.name}: {one.seats} seats" for one in needed)
        answer = seats_answer(estate, self.systems.ledger(), self.service, self.site, self.now)
        if answer.reason:
            return Item("licence", State.FAIL, "none", names, answer.reason)
        return Item("licence", State.PASS, "in its grace" if answer.warning else "free", names, answer.warning or "")

    def _permissions(self) -> Item:
        """Rights that are missing; too many of them stop no failover, and ``ninelives access check`` finds them."""
        subjects = {f"model {self.service.model}", f"dataset {self.systems.estate.dataset_of(self.service).name}"}
        missing = [one for one in self.seen.access.findings if one.kind is Kind.MISSING and one.subject in subjects]
        if missing:
            return Item("permissions", State.FAIL, f"{len(missing)} missing", "as declared", str(missing[0]))
        if self.site in self.seen.access.silent:
            return Item("permissions", State.UNKNOWN, "", "as declared", str(self.seen.access.findings[0]))
        if self.site not in self.seen.access.checked:
            return Item("permissions", State.PASS, "the site's store keeps none", "as declared")
        return Item("permissions", State.PASS, "nothing missing", "as declared")

    def _release(self) -> Item:
        model = self.service.model
        release = read_release(self.systems.store(self.site), model)
        newest_known = newest(known_golden_versions(self.systems.home, model))
        limit = f"version {newest_known or 'unknown'}"
        if release is None:
            why = f"{self.site} has no release of model {model}; run replicate_data"
            return Item("release", State.FAIL, "none", limit, why)
        if release.version != newest_known:
            why = f"{self.site} has release {release.version} of {model}, the newest is {newest_known or 'unknown'}"
            return Item("release", State.FAIL, f"version {release.version}", limit, why, stops=False)
        return Item("release", State.PASS, f"version {release.version}", limit)

    def _model(self) -> Item:
        store, model = self.systems.store(self.site), self.service.model
        release = read_release(store, model)
        if release is None:
            return Item("model", State.FAIL, "none", "", f"{self.site} has no release of model {model}")
        info = store.head(BUCKET, release.object)
        if info is None:
            why = f"{self.site} lacks {BUCKET}/{release.object}, which its release names; run replicate_data"
            return Item("model", State.FAIL, "missing", release.digest, why)
        mark = {"digest": release.digest, "size": info.size, "modified": info.modified.isoformat()}
        before = self.known.get(f"{self.site}/{model}")
        if before and self._lately(before["read_at"]) and {key: before[key] for key in mark} == mark:
            self.read[f"{self.site}/{model}"] = before
            return Item("model", State.PASS, f"as it was at {before['read_at']}", release.digest)
        found = digest_of(store.get(BUCKET, release.object) or b"")
        if found != release.digest:
            why = f"{BUCKET}/{release.object} at {self.site} hashes to {found}; run replicate_data, which repairs it"
            return Item("model", State.FAIL, found, release.digest, why)
        self.read[f"{self.site}/{model}"] = {**mark, "read_at": self.now.isoformat()}
        return Item("model", State.PASS, "every byte read", release.digest)

    def _lately(self, read_at: str) -> bool:
        return self.now - datetime.fromisoformat(read_at) < REREAD_AFTER

    def _replicas(self) -> Item:
        live, known = self.seen.live, self.seen.replicas
        if not live:
            return Item("replicas", State.FAIL, f"0 of {known} live", "1", f"no replica is live at {self.site}")
        return Item("replicas", State.PASS, f"{live} of {known} live", "1")

    def _accelerators(self) -> Item:
        """As a failover would ask: a fault stops it, a look that is missing or too old does not."""
        limit = f"looked at within {format_duration(ACCELERATORS_MAX_AGE)}"
        found = accelerators_of(self.systems, self.service, self.site)
        if not found:
            return Item("accelerators", State.PASS, "none needed or declared", limit, stops=False)
        self.preference = preference(found["warm"], found["free_memory"])
        if faults := found["accelerator_faults"]:
            return Item("accelerators", State.FAIL, "faulty", limit, faults[0])
        if doubts := found["accelerator_doubts"]:
            return Item("accelerators", State.UNKNOWN, "unknown", limit, doubts[0], stops=False)
        free = (
            f"{found['free_memory'] / GIB:.1f} GiB free" if found["free_memory"] is not None else "free memory unknown"
        )
        return Item("accelerators", State.PASS, f"{'warm' if found['warm'] else 'cold'}, {free}", limit, stops=False)

    def _capacity(self) -> Item:
        live, known = self.seen.live, self.seen.replicas
        wanted = max((len(self.systems.replicas(site)) for site in self.state.active[self.service.name]), default=1)
        if live >= wanted:
            return Item("capacity", State.PASS, f"{live} replicas", f"{wanted}", stops=False)
        why = f"{live} of {known} replicas are live at {self.site}, and where it is served now there are {wanted}"
        return Item("capacity", State.FAIL, f"{live} replicas", f"{wanted}", why, stops=False)

    def _gate(self) -> Item:
        dataset, limit = self.systems.estate.dataset_of(self.service).name, f"within {format_duration(MAX_AGE)}"
        newest_one = self.systems.ledger().records(kind=GATE, subject=subject(dataset, self.site), limit=1)
        said = "never asked"
        if newest_one:
            record = newest_one[0]
            age = format_duration(timedelta(seconds=round((self.now - record.at).total_seconds())))
            said = f"{record.facts.get('verdict')} {age} ago, evidence {record.seq}"
        if has_verdict(self.systems, dataset, self.site):
            return Item("gate", State.PASS, said, limit)
        if newest_one and not opens(newest_one[0]):
            why = f"the gate said no to {dataset} at {self.site}; see evidence {newest_one[0].seq}"
            return Item("gate", State.FAIL, said, limit, why)
        why = f"no fresh verdict on {dataset} at {self.site}: a failover would have to wait for the gate"
        return Item("gate", State.UNKNOWN, said, limit, why, stops=False)

    def _data(self) -> Item:
        dataset = self.systems.estate.dataset_of(self.service)
        limit = f"RPO {format_duration(dataset.rpo)}"
        if self.site == dataset.primary:
            return Item("data", State.PASS, "new data lands here", limit, stops=False)
        copy = copy_status(self.systems, dataset, self.site, self.now)
        if copy.lag_seconds is None or copy.problem:
            why = f"how far {dataset.name} at {self.site} lags is unknown: {copy.problem or 'no write is known'}"
            return Item("data", State.UNKNOWN, "", limit, why, stops=False)
        value = f"{copy.lag_seconds:.0f} s behind"
        if copy.lag_seconds > copy.rpo_seconds:
            why = f"{dataset.name} at {self.site} lags {copy.lag_seconds:.0f} s, the RPO is {copy.rpo_seconds:.0f} s"
            return Item("data", State.FAIL, value, limit, why, stops=False)
        return Item("data", State.PASS, value, limit, stops=False)

    def _golden(self) -> Item:
        release = read_release(self.systems.store(self.site), self.service.model)
        known = known_golden_versions(self.systems.home, self.service.model)
        if release is None or release.version not in known:
            which = f"release {release.version}" if release else "a release that is not there"
            why = f"nobody knows the golden answers of {which} at {self.site}: its answers would not count as correct"
            return Item("golden answers", State.FAIL, "unknown", "known", why, stops=False)
        return Item("golden answers", State.PASS, f"{len(release.golden)} known", "known", stops=False)

    def _last_drill(self) -> Item:
        limit = f"met within {DRILL_WITHIN.days} days"
        for record in self.systems.ledger().records(kind="drill", since=self.now - DRILL_WITHIN):
            scenario, service, site = [*record.subject.split("/"), "", ""][:3]
            if service != self.service.name or site == self.site or record.facts.get("outcome") != "measured":
                continue
            verdict = record.facts.get("verdict")
            value = f"{scenario} of {site} {verdict} at {record.at:%Y-%m-%d %H:%M} UTC, evidence {record.seq}"
            if verdict == "met":
                return Item("last drill", State.PASS, value, limit, stops=False)
            why = f"the last drill of {service} did not meet its objective: {value}"
            state = State.FAIL if verdict == "missed" else State.UNKNOWN
            return Item("last drill", state, value, limit, why, stops=False)
        why = f"no drill has measured the way of {self.service.name} to {self.site}"
        return Item("last drill", State.UNKNOWN, "never", limit, why, stops=False)


# --- kept --------------------------------------------------------------------------------------------------------


def keep_readiness(systems: Systems, found: Sequence[ServiceReadiness], *, run: str) -> list[Record]:
    """Keep what was found, and leave evidence of each service whose items have changed, and daily.

    :return: the records that were written
    """
    ledger, written = systems.ledger(), []
    for one in found:
        facts = {
            "state": str(one.state),
            "reason": one.reason,
            "serving": list(one.serving),
            "standbys": {s.site: {item.name: str(item.state) for item in s.items} for s in one.standbys},
        }
        last = ledger.records(kind=KIND, subject=one.service, limit=1)
        same = bool(last) and all(last[0].facts.get(key) == facts[key] for key in ("state", "serving", "standbys"))
        if same and one.checked_at - last[0].at < EVIDENCE_EVERY:
            continue
        key = f"{KIND}/{one.service}/{run}"
        written.append(ledger.written(key) or ledger.append(KIND, one.service, {**facts, "run": run}, once=key))
    document = {
        "checked_at": max((one.checked_at for one in found), default=datetime.now(UTC)).isoformat(),
        "services": {one.service: one.report() for one in found},
        "models": {place: mark for one in found for place, mark in one.models.items()},
    }
    write_atomically(systems.home.readiness, json.dumps(document, indent=1).encode())
    return written


def kept_readiness(systems: Systems) -> dict[str, Any]:
    """What the last look found; empty where there was none, or where its file cannot be read: it will be made anew."""
    try:
        document: dict[str, Any] = json.loads(systems.home.readiness.read_bytes())
        return document if isinstance(document.get("services"), dict) else {}
    except (FileNotFoundError, ValueError, AttributeError):
        return {}
