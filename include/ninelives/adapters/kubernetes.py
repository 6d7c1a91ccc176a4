"""The gateways of an estate on Kubernetes, steered through each site's API server by its official client.

A service's route is one object, the same at every site, and holds what was decided about it and the fencing tokens
beside the weights: a write names the version that was read, so it changes all of that or, where somebody else was
faster, nothing. Sites are written in the order of the estate, so that of two who steer at once one is turned away at
the first. What was written at some sites only is finished by doing it, or anything else, again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ninelives.adapters.gateway_orders import check_move, check_shares
from ninelives.compilers.kubernetes import (
    Document,
    backend,
    beginning,
    compile_route,
    declaration,
    remembered,
)
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.estate import Estate, Mode, Service
from ninelives.ports import Breaker, BreakerReplica, Connections, GatewayState, VersionSplit

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

T = TypeVar("T")

MANAGER = "ninelives"
"""Whose fields the routes are, in Kubernetes' words; another's are taken over, because a failover must not wait."""
ROUTES: dict[str, str] = {"group": "gateway.networking.k8s.io", "version": "v1", "plural": "httproutes"}
TIMEOUT = (2.0, 5.0)
"""Seconds to connect to an API server, and to wait for its answer."""
TURNS = 5
"""How often a write begins anew because somebody else wrote in between."""


class _Overtaken(Exception):
    """Somebody else wrote the object since it was read."""


@dataclass(frozen=True)
class _Route:
    """One site's route as it was read."""

    document: Document
    state: GatewayState

    @property
    def version(self) -> str:
        return str(self.document["metadata"]["resourceVersion"])


_Seen = Mapping[str, Mapping[str, _Route] | Unavailable]
"""Per site, its routes by service, or why it did not answer."""


class KubernetesGateway:
    """``ports.Gateway``.

    :param clients: per site, what asks its API server; Airflow's ``KubernetesHook(conn_id).get_conn()`` is one
    :param effect_timeout: seconds that a gateway's controller may take to accept a route
    """

    def __init__(self, estate: Estate, clients: Mapping[str, ApiClient], *, effect_timeout: float = 10.0) -> None:
        self.estate = estate
        self._clients = clients
        self._space = declaration(estate).namespace
        self._effect_timeout = effect_timeout

    @classmethod
    def from_connections(cls, connections: Connections, estate: Estate) -> KubernetesGateway:
        """Each site's API server as ``ninelives_<site>_kubernetes`` names it, in the fields of Airflow's own type."""
        sites = [one.site for one in declaration(estate).sites]
        return cls(estate, {site: _client(connections, f"ninelives_{site}_kubernetes") for site in sites})

    # --- state ---------------------------------------------------------------------------------------------------

    def state(self) -> GatewayState:
        """What the sites that answer agree on; raises ``Unavailable`` where none does."""
        services = self.estate.services
        seen = self._look(services)
        parts = [self._joint(seen, service) for service in services]
        tokens: dict[str, int] = {}
        for part in parts:
            for scope, token in part.tokens.items():
                tokens[scope] = max(token, tokens.get(scope, 0))
        return GatewayState(
            active={name: sites for part in parts for name, sites in part.active.items()},
            closed_sites=frozenset(site for part in parts for site in part.closed_sites),
            tokens=tokens,
            shares={name: shares for part in parts for name, shares in part.shares.items()},
            versions={name: split for part in parts for name, split in part.versions.items()},
            open_breakers=frozenset(name for part in parts for name in part.open_breakers),
        )

    def initialise(self) -> GatewayState:
        """Create the routes that are not there, and bring the others into line with the estate; traffic stays.

        :raises Unavailable: a site does not answer; what was written elsewhere is right, and this can be repeated
        """
        for service in self.estate.services:
            known = {site: self._read(site, service) for site in self._clients}
            there = {site: route for site, route in known.items() if route}
            state = _newest([one.state for one in there.values()]) if there else beginning(self.estate)
            known_sites = tuple(one for one in state.active.get(service.name, ()) if one in service.sites)
            active = service.sites if service.mode is Mode.ACTIVE_ACTIVE else known_sites or service.sites[:1]
            state = replace(state, active={**state.active, service.name: active})
            for site, route in known.items():
                with _told(site, f"the route of {service.name} was written by somebody else just now; try again"):
                    self._write(site, compile_route(self.estate, service, state), route.version if route else None)
        return self.state()

    def drift(self) -> dict[str, list[str]]:
        """Per site, what of the services' routes is not as the estate and the decisions have it."""
        seen, found = self._look(self.estate.services), {}
        for site, routes in seen.items():
            if isinstance(routes, Unavailable):
                found[site] = [str(routes)]
                continue
            wrong = []
            for service in self.estate.services:
                wanted = compile_route(self.estate, service, self._joint(seen, service))
                if service.name not in routes:
                    wrong.append(f"{service.name}: there is no route")
                elif not _holds(routes[service.name].document, wanted):
                    wrong.append(f"{service.name}: the route is another than was decided")
            if wrong:
                found[site] = wrong
        return found

    # --- what the port offers ------------------------------------------------------------------------------------

    def move(self, service: str, site: str, *, token: int) -> None:
        """Returns once the gateways' controllers have accepted the routes to ``site``.

        :raises Refused: an older token, an unknown or active-active service, or a site that may not serve it
        :raises Unavailable: an open site's API server does not answer, or a controller does not accept the route
        """
        declared = self._service(service)
        check_move(declared, site)

        def moved(state: GatewayState) -> GatewayState:
            _open("move", [site], state)
            return replace(state, active={service: (site,)}, shares={})

        self._healthy("move", service, [site])
        self._steer("move", [declared], f"service:{service}", token, moved)

    def share(self, service: str, shares: Mapping[str, int], *, token: int) -> None:
        """As ``move``, between sites; the shares are percent, 100 in all."""
        declared = self._service(service)
        check_shares(declared, shares)

        def shared(state: GatewayState) -> GatewayState:
            _open("share", shares, state)
            return replace(state, active={service: tuple(shares)}, shares={service: dict(shares)})

        self._healthy("share", service, list(shares))
        self._steer("share", [declared], f"service:{service}", token, shared)

    def split(self, service: str, split: VersionSplit | None, *, token: int) -> None:
        """As ``move``, between versions; ``Refused`` for what the Gateway API has no field for."""
        declared = self._service(service)
        if split and (sum(split.shares.values()) != 100 or min(split.shares.values()) < 0):
            raise Refused("split", [f"{dict(split.shares)} does not divide 100 percent between versions"])
        versions = {service: split} if split else {}
        self._steer("split", [declared], f"release:{service}", token, lambda state: replace(state, versions=versions))

    def close_site(self, site: str, *, token: int) -> None:
        """Returns once no gateway that answers sends requests to ``site``; its own API server need not answer.

        :raises Refused: an older token, or healthy replicas of a service that has no other open site
        """
        declared = self._at(site)

        def closed(state: GatewayState) -> GatewayState:
            for name, _ in state.active.items():
                service = self.estate.service_by_name[name]
                others = set(service.sites) - {site} - state.closed_sites
                if not others and site not in state.closed_sites and self.healthy_sites(name).get(site, 0):
                    reason = f"{site} is the last open site of {name} and answers; open another first"
                    raise Refused("close", [reason])
            return replace(state, closed_sites=state.closed_sites | {site})

        self._steer("close", declared, f"site:{site}", token, closed)

    def open_site(self, site: str, *, token: int) -> None:
        """Let ``site`` have traffic again; its own gateway is brought into line in the same step."""
        opened = self._at(site)
        self._steer(
            "open", opened, f"site:{site}", token,
            lambda state: replace(state, closed_sites=state.closed_sites - {site}),
        )  # fmt: skip

    def open_breaker(self, service: str, *, token: int) -> None:
        declared = self._service(service)
        self._steer(
            "open", [declared], f"breaker:{service}", token,
            lambda state: replace(state, open_breakers=frozenset({service})),
        )  # fmt: skip

    def close_breaker(self, service: str, *, token: int) -> None:
        declared = self._service(service)
        self._steer(
            "close", [declared], f"breaker:{service}", token, lambda state: replace(state, open_breakers=frozenset())
        )

    def breaker(self, service: str) -> Breaker:
        """Whether it is open, and the replicas that the gateways see; an API server counts no requests."""
        declared = self._service(service)
        is_open = service in self._joint(self._look([declared]), declared).open_breakers
        ready = self.healthy_sites(service)
        replicas = [
            BreakerReplica(site, backend(declared, site), healthy=True, ejected=False, detail="ready")
            for site in declared.sites
            for _ in range(ready[site])
        ]
        return Breaker(is_open, tuple(replicas), {}, {}, None, None, None, None, {}, {})

    def healthy_sites(self, service: str) -> Mapping[str, int]:
        """Ready replicas per site as the imported EndpointSlices say, by the gateway that sees fewest."""
        declared = self._service(service)
        views = list(self._everywhere(partial(self._ready, service=declared)).values())
        seen = [view for view in views if not isinstance(view, Unavailable)]
        if not seen:
            raise Unavailable(f"no site's API server answers: {views[0]}")
        return {site: min(view[site] for view in seen) for site in declared.sites}

    def unhealthy_sites(self) -> Mapping[str, str]:
        ready = {one.name: self.healthy_sites(one.name) for one in self.estate.services}
        found = {}
        for site in self.estate.site_names:
            here = self.estate.services_at(site)
            if here and not any(ready[one.name][site] for one in here):
                found[site] = "; ".join(f"{one.name}: no ready replica" for one in here)
        return found

    # --- how -----------------------------------------------------------------------------------------------------

    def _service(self, name: str) -> Service:
        if name not in self.estate.service_by_name:
            raise Refused("gateway", [f"the estate has no service {name}"])
        return self.estate.service_by_name[name]

    def _at(self, site: str) -> Sequence[Service]:
        if site not in self.estate.site_names:
            raise Refused("gateway", [f"the estate has no site {site}; it has {', '.join(self.estate.site_names)}"])
        return self.estate.services_at(site)

    def _healthy(self, what: str, service: str, sites: Sequence[str]) -> None:
        ready = self.healthy_sites(service)
        if missing := [site for site in sites if not ready[site]]:
            raise Unavailable(f"{what}: no gateway sees a ready replica of {service} at {', '.join(missing)}")

    def _steer(
        self,
        what: str,
        services: Sequence[Service],
        scope: str,
        token: int,
        change: Callable[[GatewayState], GatewayState],
    ) -> None:
        """Write the changed routes at every site; begin anew where somebody else wrote in between."""
        for _ in range(TURNS):
            with suppress(_Overtaken):
                return self._try(what, services, scope, token, change)
        raise Unavailable(f"{what}: others write the same routes all the time; try again")

    def _try(
        self,
        what: str,
        services: Sequence[Service],
        scope: str,
        token: int,
        change: Callable[[GatewayState], GatewayState],
    ) -> None:
        seen = self._look(services)
        plan: list[tuple[Service, GatewayState, GatewayState]] = []
        for service in services:
            before = self._joint(seen, service)
            if token < (last := before.tokens.get(scope, 0)):
                raise Refused(what, [f"token {token} is older than {last}: somebody else has taken {scope} over"])
            after = change(replace(before, tokens={**before.tokens, scope: token}))
            plan.append((service, before, after))
            silent = {site: view for site, view in seen.items() if isinstance(view, Unavailable)}
            if missing := [view for site, view in silent.items() if site not in after.closed_sites]:
                raise Unavailable(f"{what}: {missing[0]}; nothing was changed. Close the site first if it is lost")
        written: list[tuple[str, Service, GatewayState, Document]] = []
        try:
            for site, routes in seen.items():
                if isinstance(routes, Unavailable):
                    continue  # closed: it is brought into line when it is opened
                for service, before, after in plan:
                    if service.name not in routes:
                        raise Unavailable(
                            f"{site} has no route of {service.name}; create it by `ninelives kubernetes route`"
                        )
                    document = self._write(
                        site, compile_route(self.estate, service, after), routes[service.name].version
                    )
                    back = replace(before, tokens=after.tokens)
                    written.append((site, service, back, document))
                    self._accepted(site, document)
        except Unavailable as error:
            self._put_back(written, error)
            raise

    def _put_back(self, written: Sequence[tuple[str, Service, GatewayState, Document]], error: Unavailable) -> None:
        """Undo what was written, tokens apart; what cannot be undone is added to ``error``.

        Controllers write the status, so the object has another version by now; what was decided must still be ours.
        """
        for site, service, state, document in reversed(written):
            try:
                route = self._read(site, service)
                if route and route.document["metadata"]["annotations"] == document["metadata"]["annotations"]:
                    self._write(site, compile_route(self.estate, service, state), route.version)
            except (Unavailable, Refused, Corrupted, _Overtaken):
                error.add_note(f"{site} has the new route of {service.name} already: do it again")

    def _joint(self, seen: _Seen, service: Service) -> GatewayState:
        routes = [view[service.name] for view in seen.values() if not isinstance(view, Unavailable) and
                  service.name in view]  # fmt: skip
        if not routes:
            silent = [str(view) for view in seen.values() if isinstance(view, Unavailable)]
            raise Unavailable(
                f"no site that answers has a route of {service.name}; create it by `ninelives kubernetes route`"
                + (f" ({silent[0]})" if silent else "")
            )
        return _newest([route.state for route in routes])

    # --- the API servers -----------------------------------------------------------------------------------------

    def _everywhere(self, ask: Callable[[str], T]) -> dict[str, T | Unavailable]:
        """What each site says, asked side by side: a lost one must not keep the others waiting."""

        def one(site: str) -> T | Unavailable:
            try:
                return ask(site)
            except Unavailable as error:
                return error

        with ThreadPoolExecutor(len(self._clients)) as pool:
            return dict(zip(self._clients, pool.map(one, self._clients), strict=True))

    def _look(self, services: Sequence[Service]) -> _Seen:
        def routes(site: str) -> Mapping[str, _Route]:
            found = {service.name: self._read(site, service) for service in services}
            return {name: route for name, route in found.items() if route}

        return self._everywhere(routes)

    def _read(self, site: str, service: Service) -> _Route | None:
        from kubernetes.client import CustomObjectsApi

        api = CustomObjectsApi(self._clients[site])
        with _told(site, "") as told:
            document = api.get_namespaced_custom_object(
                **ROUTES, namespace=self._space, name=service.name, _request_timeout=TIMEOUT
            )
        if told.absent:
            return None
        written = document["metadata"].get("annotations") or {}
        try:
            return _Route(document, remembered(service, written))
        except ValueError as error:
            raise Corrupted(
                f"the route of {service.name} at {site}: {error}; restore its annotations from another site's"
            ) from error

    def _write(self, site: str, route: Document, version: str | None) -> Document:
        """Server-side apply of the whole route, if it is still the one of ``version``; raises ``_Overtaken`` if not."""
        from kubernetes.client import CustomObjectsApi

        metadata = {**route["metadata"], **({"resourceVersion": version} if version else {})}
        with _told(site, ""):
            written: Document = CustomObjectsApi(self._clients[site]).patch_namespaced_custom_object(
                **ROUTES,
                namespace=self._space,
                name=route["metadata"]["name"],
                body={**route, "metadata": metadata},
                field_manager=MANAGER,
                force=True,
                _content_type="application/apply-patch+yaml",
                _request_timeout=TIMEOUT,
            )
            return written
        raise Unavailable(f"{site} has no namespace {self._space}; apply replicas.yaml and gateway.yaml there first")

    def _accepted(self, site: str, document: Document) -> None:
        """Return once the site's controller has taken this generation of the route."""
        from kubernetes.client import CustomObjectsApi
        from kubernetes.watch import Watch

        name, generation = document["metadata"]["name"], document["metadata"]["generation"]
        deadline = time.monotonic() + self._effect_timeout
        while (left := deadline - time.monotonic()) > 0:
            with _told(site, ""):
                stream = Watch().stream(
                    CustomObjectsApi(self._clients[site]).list_namespaced_custom_object,
                    **ROUTES,
                    namespace=self._space,
                    field_selector=f"metadata.name={name}",
                    timeout_seconds=max(1, int(left)),
                    _request_timeout=(TIMEOUT[0], left + 1),
                )
                for event in stream:
                    seen = event["object"]
                    if event["type"] not in ("ADDED", "MODIFIED") or seen["metadata"]["generation"] < generation:
                        continue
                    state = _conditions(seen, generation)
                    if refused := state.get("False"):
                        raise Unavailable(f"{site}: the gateway does not take the route of {name}: {refused}")
                    if {"Accepted", "ResolvedRefs"} <= set(state.get("True", "").split()):
                        return
        raise Unavailable(f"{site}: the route of {name} was not accepted within {self._effect_timeout:g} s")

    def _ready(self, site: str, service: Service) -> dict[str, int]:
        from kubernetes.client import DiscoveryV1Api

        counts = dict.fromkeys(service.sites, 0)
        for other in service.sites:
            label = f"multicluster.kubernetes.io/service-name={backend(service, other)}"
            with _told(site, ""):
                slices = DiscoveryV1Api(self._clients[site]).list_namespaced_endpoint_slice(
                    self._space, label_selector=label, _request_timeout=TIMEOUT
                )
                ready = [one for part in slices.items for one in part.endpoints or () if one.conditions.ready]
                counts[other] = len(ready)
        return counts


def _conditions(route: Document, generation: int) -> dict[str, str]:
    """Types of conditions by status, of this generation; a refused one with its reason."""
    found: dict[str, list[str]] = {}
    for parent in route.get("status", {}).get("parents", ()):
        for one in parent.get("conditions", ()):
            if one["type"] in ("Accepted", "ResolvedRefs") and one.get("observedGeneration", 0) >= generation:
                text = (
                    one["type"] if one["status"] == "True" else f"{one['type']}: {one.get('message') or one['reason']}"
                )
                found.setdefault(one["status"], []).append(text)
    return {status: " ".join(texts) for status, texts in found.items()}


def _open(what: str, sites: Sequence[str] | Mapping[str, int], state: GatewayState) -> None:
    if closed := sorted(set(sites) & state.closed_sites):
        raise Refused(what, [f"{', '.join(closed)} is closed; it takes no traffic until its gate opened it"])


def _newest(states: Sequence[GatewayState]) -> GatewayState:
    """One service's state, where its sites differ because a write was cut off: the one with the newest tokens.

    Leases' tokens only grow, and each write has all scopes of its service, so that the sum tells which came later; the
    first site is written first, so it is the newer one of two with the same.
    """
    newest = max(states, key=lambda state: sum(state.tokens.values()))
    tokens: dict[str, int] = {}
    for state in states:
        for scope, token in state.tokens.items():
            tokens[scope] = max(token, tokens.get(scope, 0))
    return replace(newest, tokens=tokens)


def _holds(live: Any, wanted: Any) -> bool:
    """Whether ``live`` has everything of ``wanted``; an API server adds defaults of its own."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(key in live and _holds(live[key], one) for key, one in wanted.items())
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(_holds, live, wanted))
    return bool(live == wanted)


class _told:
    """Turns what the client raises into our errors; an absent object is told by ``absent``."""

    def __init__(self, site: str, overtaken: str) -> None:
        self._site = site
        self._overtaken = overtaken
        self.absent = False

    def __enter__(self) -> _told:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        import urllib3
        from kubernetes.client import ApiException

        if isinstance(error, _Overtaken) and self._overtaken:
            raise Unavailable(f"{self._site}: {self._overtaken}") from error
        if isinstance(error, urllib3.exceptions.HTTPError):
            raise Unavailable(f"the API server of {self._site} did not answer: {error}") from error
        if not isinstance(error, ApiException):
            return False
        says = _message(error)
        if error.status == 404:
            self.absent = True
            return True
        if error.status == 409:
            raise _Overtaken from error
        if error.status in (401, 403):
            raise Refused(
                "kubernetes",
                [f"{self._site} does not let us: {says}; bind the connection's account to the Role of replicas.yaml"],
            ) from error
        if error.status in (400, 422):
            raise Refused("kubernetes", [f"{self._site} does not take the route: {says}"]) from error
        raise Unavailable(f"the API server of {self._site} answers {error.status}: {says}") from error


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, TypeError, KeyError):
        return str(error.reason)


def _client(connections: Connections, conn_id: str) -> ApiClient:
    """By the fields of Airflow's own connection: ``kube_config`` as JSON, ``kube_config_path`` or ``in_cluster``."""
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise Refused(
            "kubernetes", ["the client of Kubernetes is not installed: pip install 'ninelives[kubernetes]'"]
        ) from error
    extra = connections.get(conn_id).extra
    settings = client.Configuration()
    settings.retries = 0  # a lost site must not be asked three times: who steers decides
    context = extra.get("cluster_context") or None
    try:
        if extra.get("in_cluster"):
            config.load_incluster_config(client_configuration=settings)
        elif kube_config := extra.get("kube_config"):
            document = json.loads(kube_config) if isinstance(kube_config, str) else kube_config
            config.load_kube_config_from_dict(document, context, settings, persist_config=False)
        else:
            path = extra["kube_config_path"]
            config.load_kube_config(path, context, settings, persist_config=False)
    except KeyError:
        raise Refused(
            "kubernetes", [f"{conn_id} says nothing of kube_config, kube_config_path or in_cluster"]
        ) from None
    except (config.ConfigException, ValueError) as error:
        raise Refused("kubernetes", [f"{conn_id} has no usable kube_config: {error}"]) from error
    return client.ApiClient(settings)
