"""The gateway: Envoy, steered by files that are compiled from ``state.json``.

``state.json`` is written first and is the truth; the files follow from it. An operation that was killed half-way is
completed by running it, or any other, again. What Envoy does not take is put back before the error is raised; only the
fencing tokens stay, because they may never fall.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from ninelives.adapters.gateway_orders import check_move, check_shares
from ninelives.adapters.http_client import http_client
from ninelives.compilers.breaker import counted
from ninelives.compilers.envoy import (
    BOOTSTRAP,
    CLUSTERS,
    LISTENERS,
    ROUTES,
    Document,
    candidate_cluster,
    compile_gateway,
    endpoints_file,
    version_of,
)
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.estate import Estate, Mode, Service
from ninelives.estate.model import StandbyKind
from ninelives.ports import Assignment, Breaker, BreakerReplica, Connections, GatewayState, RequestClass, VersionSplit

if TYPE_CHECKING:
    import httpx

STATE = "state.json"
_FAILURES = ("update_rejected", "update_failure")
_COUNTERS = "|".join(_FAILURES)


class _Replica(NamedTuple):
    """A replica in Envoy's own view."""

    service: str
    site: str
    healthy: bool
    detail: str


@dataclass(frozen=True)
class EnvoyGateway:
    """``ports.Gateway``.

    :param folder: where state and compiled files are
    :param endpoints: per site, ``host:port`` of each replica
    :param listen: ``host:port`` for users
    :param admin: URL of Envoy's administration interface
    :param lock_timeout: seconds to wait for another operation to end
    :param effect_timeout: seconds that Envoy may take to use new files
    :param target_timeout: seconds that the target of a move may take to become healthy in Envoy's view
    """

    folder: Path
    estate: Estate
    endpoints: Mapping[str, Sequence[str]]
    listen: str
    admin: str
    lock_timeout: float = 15.0
    effect_timeout: float = 5.0
    target_timeout: float = 5.0

    @classmethod
    def from_connections(cls, connections: Connections, estate: Estate) -> EnvoyGateway:
        """The gateway that ``ninelives_gateway`` names, before the replicas of ``ninelives_<site>_replicas``."""
        gateway = connections.get("ninelives_gateway").extra
        endpoints = {
            site: [urlsplit(url).netloc for url in connections.get(f"ninelives_{site}_replicas").extra["urls"]]
            for site in estate.site_names
        }
        return cls(Path(gateway["folder"]), estate, endpoints, urlsplit(gateway["url"]).netloc, gateway["admin"])

    # --- state ---------------------------------------------------------------------------------------------------

    def state(self) -> GatewayState:
        """A service that was declared since the last ``compile`` is where it is declared to begin.

        Raises ``Unavailable`` before ``initialise``, ``Corrupted`` for a file that cannot be read.
        """
        path = self.folder / STATE
        try:
            document = json.loads(path.read_text("utf-8"))
            declared = {service.name: _active(service, ()) for service in self.estate.services}
            return GatewayState(
                active=declared | {service: tuple(sites) for service, sites in document["active"].items()},
                closed_sites=frozenset(document["closed_sites"]),
                tokens={scope: int(token) for scope, token in document["tokens"].items()},
                shares={service: dict(shares) for service, shares in document.get("shares", {}).items()},
                versions={service: _split(split) for service, split in document.get("versions", {}).items()},
                open_breakers=frozenset(document.get("open_breakers", ())),
            )
        except FileNotFoundError as error:
            raise Unavailable(f"the gateway has no state in {path}; initialise it (ninelives stack up does)") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupted(f"{path} cannot be read ({error!r}); restore it or initialise the gateway again") from error

    def initialise(self) -> GatewayState:
        """Write the first state, or bring an existing one into line with a changed estate, and compile.

        A service that is new starts as declared; what is known about the others, closed sites and tokens stays.
        """
        with self._locked():
            try:
                known = self.state()
            except Unavailable:
                known = GatewayState(active={}, closed_sites=frozenset(), tokens={})
            active = {service.name: _active(service, known.active.get(service.name, ())) for service in
                      self.estate.services}  # fmt: skip
            closed = known.closed_sites & set(self.estate.site_names)
            versions = {name: split for name, split in known.versions.items() if name in active}
            after = replace(
                known,
                active=active,
                closed_sites=closed,
                shares={},
                versions=versions,
                open_breakers=known.open_breakers & set(active),
            )
            return self._change(known, after, live=False)

    def compile(self) -> GatewayState:
        """Write the files from the state again; a running Envoy must take them."""
        with self._locked():
            state = self.state()
            return self._change(state, state, live=False)

    # --- what the port offers ------------------------------------------------------------------------------------

    def move(self, service: str, site: str, *, token: int) -> None:
        """Returns once Envoy sends new requests to ``site``; requests under way end where they are.

        Moving to where the service already is, is not an error.

        :raises Refused: an older token, an unknown or active-active service, a site that may not serve it or is closed
        :raises Unavailable: Envoy does not answer, sees no healthy replica at ``site``, or did not take the change:
            traffic is where it was
        """
        declared = self._service(service)
        check_move(declared, site)
        with self._locked():
            state = self._fenced("move", f"service:{service}", token)
            if site in state.closed_sites:
                raise Refused("move", [f"{site} is closed; it takes no traffic until its gate opened it"])
            self._await(
                lambda: self.healthy_sites(service).get(site, 0) > 0,
                self.target_timeout,
                f"the gateway sees no healthy replica of {service} at {site}; nothing was moved",
            )
            shares = {name: of for name, of in state.shares.items() if name != service}
            self._change(state, replace(state, active={**state.active, service: (site,)}, shares=shares))

    def share(self, service: str, shares: Mapping[str, int], *, token: int) -> None:
        """Returns once Envoy divides new requests so. Repeating it changes nothing.

        :raises Refused: as ``move``, or shares that are not 100 percent in all
        :raises Unavailable: as ``move``
        """
        declared = self._service(service)
        check_shares(declared, shares)
        with self._locked():
            state = self._fenced("share", f"service:{service}", token)
            if closed := sorted(set(shares) & state.closed_sites):
                raise Refused("share", [f"{', '.join(closed)} is closed; it takes no traffic until its gate opened it"])
            self._await(
                lambda: min(self.healthy_sites(service).get(site, 0) for site in shares) > 0,
                self.target_timeout,
                f"the gateway does not see healthy replicas of {service} at each of {', '.join(shares)}",
            )
            after = {**state.shares, service: dict(shares)}
            self._change(state, replace(state, active={**state.active, service: tuple(shares)}, shares=after))

    def split(self, service: str, split: VersionSplit | None, *, token: int) -> None:
        """Returns once Envoy divides new requests so; one file changes, at once for all of them.

        :raises Refused: an older token, or shares that are not 100 percent in all
        :raises Unavailable: Envoy does not answer or did not take the change: requests go where they went
        """
        self._service(service)
        if split and (sum(split.shares.values()) != 100 or min(split.shares.values()) < 0):
            raise Refused("split", [f"{dict(split.shares)} does not divide 100 percent between versions"])
        with self._locked():
            state = self._fenced("split", f"release:{service}", token)
            versions = {name: one for name, one in state.versions.items() if name != service}
            if split:
                versions[service] = split
            self._change(state, replace(state, versions=versions))

    def open_breaker(self, service: str, *, token: int) -> None:
        """Returns once no new request reaches a replica of ``service``. Opening an open one changes nothing."""
        self._service(service)
        with self._locked():
            state = self._fenced("open", f"breaker:{service}", token)
            self._change(state, replace(state, open_breakers=state.open_breakers | {service}))

    def close_breaker(self, service: str, *, token: int) -> None:
        """Returns once replicas are asked again."""
        self._service(service)
        with self._locked():
            state = self._fenced("close", f"breaker:{service}", token)
            self._change(state, replace(state, open_breakers=state.open_breakers - {service}))

    def breaker(self, service: str) -> Breaker:
        self._service(service)
        is_open = service in self.state().open_breakers
        stats = self._stats(rf"^(cluster\.{service}\.|ninelives\.)")
        clusters = self._ask("/clusters").get("cluster_statuses", ())
        return breaker_of(service, is_open, stats, _hosts(clusters, service))

    def close_site(self, site: str, *, token: int) -> None:
        """Returns once no new request can reach ``site``.

        The active site of an active-passive service may be closed: until the service is moved, its users get the
        fallback. The last open site of a service may be closed only when the gateway sees no healthy replica of the
        service there, so that nothing is taken away.

        :raises Refused: an older token, or healthy replicas of a service that has no other open site
        """
        self._site(site)
        with self._locked():
            state = self._fenced("close", f"site:{site}", token)
            reasons = []
            for service in self.estate.services_at(site):
                others = [other for other in service.sites if other != site and other not in state.closed_sites]
                if not others and site not in state.closed_sites and self.healthy_sites(service.name).get(site, 0):
                    reasons.append(f"{site} is the last open site of {service.name} and answers; open another first")
            if reasons:
                raise Refused("close", reasons)
            self._change(state, replace(state, closed_sites=state.closed_sites | {site}))

    def open_site(self, site: str, *, token: int) -> None:
        """Let ``site`` have traffic again: at once for active-active services, after a move for the others."""
        self._site(site)
        with self._locked():
            state = self._fenced("open", f"site:{site}", token)
            self._change(state, replace(state, closed_sites=state.closed_sites - {site}))

    def healthy_sites(self, service: str) -> Mapping[str, int]:
        """Replicas that pass the gateway's checks, those at sites without traffic included."""
        counts = dict.fromkeys(self._service(service).sites, 0)
        for replica in self._replicas():
            if replica.service == service and replica.site in counts:
                counts[replica.site] += replica.healthy
        return counts

    def unhealthy_sites(self) -> Mapping[str, str]:
        replicas, active = self._replicas(), self.state().active
        seen: dict[str, str] = {}
        for site in self.estate.site_names:
            here = [replica for replica in replicas if replica.site == site]
            if here and all(self._cold(replica, active) for replica in here):
                continue  # a model that nobody has loaded says nothing of the site
            if not any(replica.healthy for replica in here):
                seen[site] = "; ".join(f"{replica.service}: {replica.detail}" for replica in here) or "no replica known"
        return seen

    # --- how -----------------------------------------------------------------------------------------------------

    def _cold(self, replica: _Replica, active: Mapping[str, Sequence[str]]) -> bool:
        """Whether it waits for a failover that has its model loaded."""
        service = self.estate.service_by_name[replica.service]
        cold = service.mode is Mode.ACTIVE_PASSIVE and service.standby is StandbyKind.COLD
        return cold and replica.site not in active[service.name]

    def _service(self, name: str) -> Service:
        if name not in self.estate.service_by_name:
            raise Refused("gateway", [f"the estate has no service {name}"])
        return self.estate.service_by_name[name]

    def _site(self, name: str) -> None:
        if name not in self.estate.site_names:
            raise Refused("gateway", [f"the estate has no site {name}; it has {', '.join(self.estate.site_names)}"])

    def _fenced(self, what: str, scope: str, token: int) -> GatewayState:
        state = self.state()
        if token < (last := state.tokens.get(scope, 0)):
            raise Refused(what, [f"token {token} is older than {last}: somebody else has taken {scope} over"])
        return replace(state, tokens={**state.tokens, scope: token})

    def _change(self, before: GatewayState, after: GatewayState, *, live: bool = True) -> GatewayState:
        """Make ``after`` the truth and have Envoy follow it, or leave everything as it was but for the tokens.

        :param live: Envoy must run; otherwise files are enough, and it reads them when it starts
        """
        try:
            self._stats(_COUNTERS)
            running = True
        except Unavailable:
            if live:
                raise
            running = False
        _write(self.folder / STATE, _dump(after))
        try:
            self._apply(after, running=running)
        except BaseException:
            if before.active:
                back = replace(before, tokens=after.tokens)
                _write(self.folder / STATE, _dump(back))
                self._apply(back, running=False)
            raise
        return after

    def _apply(self, state: GatewayState, *, running: bool) -> None:
        """Write what differs, in an order in which every file is valid when Envoy reads it."""
        files = compile_gateway(
            self.estate,
            state,
            {site: [_address(endpoint) for endpoint in here] for site, here in self.endpoints.items()},
            folder=self.folder.resolve(),
            listen=_address(self.listen),
            admin=_address(urlsplit(self.admin).netloc),
        )
        known = {cluster["name"]: cluster for cluster in (self._read(CLUSTERS) or {}).get("resources", ())}
        staying = {name for service in self.estate.service_by_name for name in (service, candidate_cluster(service))}
        leaving = [cluster for name, cluster in known.items() if name not in staying]
        assignments = {endpoints_file(service): service in known for service in self.estate.service_by_name}
        clusters = files[CLUSTERS]
        if leaving:  # no route may name a cluster that is gone
            resources = [*clusters["resources"], *leaving]
            clusters = {"version_info": f"{clusters['version_info']}+", "resources": resources}

        steps: list[tuple[dict[str, Document], set[str]]] = [
            ({name: files[name] for name in assignments}, {name for name, there in assignments.items() if there}),
            ({CLUSTERS: clusters}, {CLUSTERS}),
            ({name: files[name] for name in assignments}, set(assignments)),
            ({ROUTES: files[ROUTES]}, {ROUTES}),
            ({LISTENERS: files[LISTENERS]}, {LISTENERS}),
            ({CLUSTERS: files[CLUSTERS]}, {CLUSTERS}),
            ({BOOTSTRAP: files[BOOTSTRAP]}, set()),  # Envoy reads it only when it starts
        ]
        for documents, expected in steps:
            self._put(documents, expected if running else set())
        for cluster in leaving:
            (self.folder / endpoints_file(cluster["eds_cluster_config"]["service_name"])).unlink(missing_ok=True)

    def _put(self, files: Mapping[str, Document], expected: Collection[str]) -> None:
        """Write the files that differ, and return once Envoy uses those that are ``expected``."""
        stale = {name for name, document in files.items() if self._read(name) != document}
        before = self._stats(f"version_text|{_COUNTERS}") if expected else {}
        stale |= {name for name in expected if before.get(_version_stat(name)) != version_of(files[name])}
        for name in sorted(stale):
            _write(self.folder / name, json.dumps(files[name], indent=1).encode())
        waiting = stale & set(expected)
        if not waiting:
            return

        def in_use() -> bool:
            stats = self._stats(f"version_text|{_COUNTERS}")
            grown = [name for name in stats if name.endswith(_FAILURES) and stats[name] > before.get(name, 0)]
            if grown:
                raise Unavailable(f"Envoy did not take the new configuration: {', '.join(grown)}; see its log")
            return all(
                stats.get(stat, version_of(files[name])) == version_of(files[name])
                for name in waiting
                for stat in _version_stats(name)
            ) and all(_version_stat(name) in stats for name in waiting)

        self._await(in_use, self.effect_timeout, f"Envoy did not use {', '.join(sorted(waiting))} in time")

    def _await(self, condition: Callable[[], bool], timeout: float, message: str) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise Unavailable(f"{message} (waited {timeout:g} s)")
            time.sleep(0.005)

    def _read(self, name: str) -> Document | None:
        try:
            document: Document = json.loads((self.folder / name).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None  # absent or spoilt: written anew
        return document

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / "state.lock").open("a") as file:
            deadline = time.monotonic() + self.lock_timeout
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise Unavailable("another operation holds the gateway; try again") from error
                    time.sleep(0.02)
            yield  # the kernel gives the lock back when the file is closed, also after kill -9

    # --- Envoy's own view ----------------------------------------------------------------------------------------

    @cached_property
    def _client(self) -> httpx.Client:
        return http_client(self.admin, timeout=2.0)

    def _ask(self, path: str, **query: str) -> Any:
        import httpx

        try:
            answer = self._client.get(path, params={"format": "json", **query})
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"the gateway's administration at {self.admin}{path} did not answer: {error}") from error

    def _stats(self, pattern: str) -> dict[str, Any]:
        rows = self._ask("/stats", filter=pattern)["stats"]
        return {row["name"]: row["value"] for row in rows if "name" in row}

    def _replicas(self) -> list[_Replica]:
        replicas = []
        for cluster in self._ask("/clusters").get("cluster_statuses", ()):
            if cluster["name"] not in self.estate.service_by_name:
                continue
            for host in cluster.get("host_statuses", ()):
                health = host.get("health_status", {})
                bad = sorted(flag for flag in health if flag != "eds_health_status" and health[flag] is True)
                replicas.append(
                    _Replica(
                        service=cluster["name"],
                        site=host.get("locality", {}).get("zone", ""),
                        healthy=not bad,
                        detail=", ".join(bad) or "healthy",
                    )
                )
        return replicas


_LIMITS = {"rq_open": "requests", "rq_pending_open": "pending", "cx_open": "connections", "rq_retry_open": "retries"}
_PRIORITIES = {RequestClass.INFERENCE: "high", RequestClass.BATCH: "default"}
_OVER_THE_LIMIT = "UO"
"""Envoy's flag of a request that a circuit breaker refused."""


def breaker_of(service: str, is_open: bool, stats: Mapping[str, Any], replicas: Sequence[BreakerReplica]) -> Breaker:
    """What Envoy's statistics say of a service."""
    here = f"cluster.{service}."
    answers, shed = Counter[str](), Counter[str]()
    for name, value in stats.items():
        tags = counted(name)
        if not tags or tags.get("service") != service or not tags.get("class"):
            continue
        failed = not tags.get("status", "").startswith("2")
        answers["error" if failed else tags.get("rung") or "model"] += int(value)
        if _OVER_THE_LIMIT in tags.get("flags", "").split(","):
            shed[tags["class"]] += int(value)

    def circuit(of: RequestClass, what: str) -> int:
        return int(stats.get(f"{here}circuit_breakers.{_PRIORITIES[of]}.{what}", 0))

    return Breaker(
        open=is_open,
        replicas=tuple(replicas),
        full={of.value: tuple(word for stat, word in _LIMITS.items() if circuit(of, stat)) for of in RequestClass},
        remaining={of.value: circuit(of, "remaining_rq") for of in RequestClass},
        retries=int(stats.get(f"{here}upstream_rq_retry", 0)),
        retries_refused=int(stats.get(f"{here}upstream_rq_retry_overflow", 0)),
        timeouts=int(stats.get(f"{here}upstream_rq_per_try_timeout", 0)),
        ejections=int(stats.get(f"{here}outlier_detection.ejections_enforced_total", 0)),
        answers=dict(answers),
        shed={of.value: shed[of.value] for of in RequestClass},
    )


def _hosts(clusters: Sequence[Mapping[str, Any]], service: str) -> list[BreakerReplica]:
    found = []
    for host in (host for one in clusters if one["name"] == service for host in one.get("host_statuses", ())):
        health = host.get("health_status", {})
        bad = sorted(flag for flag in health if flag != "eds_health_status" and health[flag] is True)
        address = host["address"]["socket_address"]
        found.append(
            BreakerReplica(
                site=host.get("locality", {}).get("zone", ""),
                address=f"{address['address']}:{address['port_value']}",
                healthy=not bad,
                ejected="failed_outlier_check" in bad,
                detail=", ".join(bad) or "healthy",
            )
        )
    return found


def _active(service: Service, known: Sequence[str]) -> tuple[str, ...]:
    if service.mode is Mode.ACTIVE_ACTIVE:
        return service.sites
    return tuple(site for site in known if site in service.sites)[:1] or service.sites[:1]


def _version_stat(file: str) -> str:
    """The statistic in which Envoy tells which version of a file it uses."""
    fixed = {CLUSTERS: "cluster_manager.cds", LISTENERS: "listener_manager.lds", ROUTES: "http.gateway.rds.services"}
    return f"{fixed.get(file) or 'cluster.' + file.removeprefix('eds-').removesuffix('.yaml')}.version_text"


def _version_stats(file: str) -> list[str]:
    """Every reader of the file; the candidate's cluster, which an Envoy may not have yet, reads its service's."""
    stat = _version_stat(file)
    if not file.startswith("eds-"):
        return [stat]
    service = file.removeprefix("eds-").removesuffix(".yaml")
    return [stat, f"cluster.{candidate_cluster(service)}.version_text"]


def _split(document: Mapping[str, Any]) -> VersionSplit:
    assignment = document.get("assignment")
    parts = {
        "shares": dict(document["shares"]),
        "beside": tuple(document["beside"]),
        "assignment": Assignment(**assignment) if assignment else None,
    }
    return VersionSplit(**{**document, **parts})


def _address(endpoint: str) -> tuple[str, int]:
    """IP address and port of ``host:port``; Envoy's endpoint files hold addresses only."""
    parts = urlsplit(f"//{endpoint}")
    host, port = parts.hostname, parts.port
    if not host or not port:
        raise Unavailable(f"{endpoint!r} is not host:port; check the connections of the gateway and the replicas")
    try:
        return str(ipaddress.ip_address(host)), port
    except ValueError:
        try:
            return str(socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]), port
        except OSError as error:
            raise Unavailable(f"{host} has no address: {error}") from error


def _dump(state: GatewayState) -> bytes:
    return json.dumps(
        {
            "active": {service: list(sites) for service, sites in state.active.items()},
            "closed_sites": sorted(state.closed_sites),
            "tokens": dict(state.tokens),
            "shares": {service: dict(shares) for service, shares in state.shares.items()},
            "versions": {service: asdict(split) for service, split in state.versions.items()},
            "open_breakers": sorted(state.open_breakers),
        },
        indent=1,
    ).encode()


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, also after a power cut. Envoy watches for the rename; it misses a write in place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
