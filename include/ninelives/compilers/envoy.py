"""The gateway's configuration: from the estate and the gateway's state to Envoy's files. Pure.

Every replica of a service is in the service's cluster and is health-checked there, but only those of sites that may
take its traffic can get any: the others are marked unhealthy, which no health check and no retry overrules. So a move
or a closing changes one small file per service, and the target is known to be healthy before it is sent a request.

Documents are JSON, which every reader of YAML reads too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ninelives.compilers import breaker
from ninelives.estate import Estate, Mode, Service
from ninelives.experiments.assign import PARTS, Arm, salt
from ninelives.ports import Assignment, GatewayState, VersionSplit
from ninelives.serving.protocol import (
    ARM_HEADER,
    DEGRADED_HEADER,
    EXPERIMENT_HEADER,
    MAX_BODY_BYTES,
    SITE_HEADER,
    STABLE_HEADER,
    TRAFFIC_HEADER,
    VERSION_HEADER,
    WANTED_HEADER,
    encode_answer,
)

BOOTSTRAP, LISTENERS, CLUSTERS, ROUTES = "bootstrap.yaml", "lds.yaml", "cds.yaml", "rds.yaml"
HEALTH_INTERVAL = 1.0
"""Seconds between two health checks of a replica."""

HEALTH_TIMEOUT = 1.0
"""Seconds; a hung replica is out after two of them, its requests are retried elsewhere long before."""

CONNECT_TIMEOUT = 0.25
MIN_TRY = 0.05
"""Seconds that one try may take at least, however short the promised latency."""

_TYPE = "type.googleapis.com/envoy"
_RETRIABLE = (500, 502, 503, 504)

Document = dict[str, Any]


def serving_sites(service: Service, state: GatewayState) -> tuple[str, ...]:
    """Sites that may get the service's traffic now, in declared order; empty while the active one is closed."""
    active = state.active.get(service.name, ())
    return tuple(site for site in service.sites if site in active and site not in state.closed_sites)


def endpoints_file(service: str) -> str:
    """Name of the file with the service's replicas."""
    return f"eds-{service}.yaml"


def compile_gateway(
    estate: Estate,
    state: GatewayState,
    endpoints: Mapping[str, Sequence[tuple[str, int]]],
    *,
    folder: Path,
    listen: tuple[str, int],
    admin: tuple[str, int],
) -> dict[str, Document]:
    """All files by name.

    :param endpoints: per site, IP address and port of every replica
    :param folder: absolute; where the files will be
    :param listen: IP address and port for users
    :param admin: IP address and port for the administration interface; keep it on loopback
    """
    files = {
        BOOTSTRAP: _bootstrap(estate, folder, admin),
        LISTENERS: _discovery("config.listener.v3.Listener", [_listener(estate, listen, folder)]),
        ROUTES: _discovery("config.route.v3.RouteConfiguration", [_routes(estate, state, endpoints)]),
        CLUSTERS: _discovery(
            "config.cluster.v3.Cluster",
            [
                kind(service, folder, {site: len(here) for site, here in endpoints.items()})
                for service in estate.services
                for kind in (_cluster, _candidate_cluster)
            ],
        ),
    }
    for service in estate.services:
        shares = state.shares.get(service.name, {})
        assignment = _assignment(service, serving_sites(service, state), endpoints, shares)
        files[endpoints_file(service.name)] = _discovery("config.endpoint.v3.ClusterLoadAssignment", [assignment])
    return files


def version_of(document: Document) -> str:
    """The version that Envoy reports once it uses ``document``."""
    return str(document.get("version_info", ""))


def _discovery(kind: str, resources: Sequence[Document]) -> Document:
    typed = [{"@type": f"{_TYPE}.{kind}", **resource} for resource in resources]
    digest = hashlib.sha256(json.dumps(typed, sort_keys=True).encode()).hexdigest()
    return {"version_info": digest[:16], "resources": typed}


def _source(folder: Path, file: str) -> Document:
    return {"path_config_source": {"path": str(folder / file)}, "resource_api_version": "V3"}


def _address(address: tuple[str, int]) -> Document:
    return {"socket_address": {"address": address[0], "port_value": address[1]}}


def _seconds(value: float) -> str:
    return f"{value:.3f}s"


def _bootstrap(estate: Estate, folder: Path, admin: tuple[str, int]) -> Document:
    readable = [{"exact": "/ready"}, *({"prefix": path} for path in ("/clusters", "/stats", "/config_dump"))]
    return {
        "node": {"id": "gateway", "cluster": f"ninelives-{estate.name}"},
        # Read-only: nothing on this machine, a web page in a browser included, may stop or drain the gateway.
        "admin": {"address": _address(admin), "allow_paths": readable},
        "dynamic_resources": {"lds_config": _source(folder, LISTENERS), "cds_config": _source(folder, CLUSTERS)},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPE}.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",  # noqa: E501
                        "max_active_downstream_connections": 10000,
                    },
                }
            ]
        },
    }


def _listener(estate: Estate, listen: tuple[str, int], folder: Path) -> Document:
    mutations = [{"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in ("x-ninelives-", "x-envoy-")]
    site = {
        "header": {"key": SITE_HEADER, "value": "%UPSTREAM_METADATA(ninelives:site)%"},
        "append_action": "ADD_IF_ABSENT",
    }
    http = "extensions.filters.http"
    manager = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "rds": {"route_config_name": "services", "config_source": _source(folder, ROUTES)},
        "use_remote_address": True,
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "request_headers_timeout": "5s",
        "request_timeout": "10s",
        "stream_idle_timeout": "60s",
        "common_http_protocol_options": {"idle_timeout": "300s", "headers_with_underscores_action": "REJECT_REQUEST"},
        "http_filters": [
            # What users may not tell: which site or rung answered, and how the gateway should retry.
            {
                "name": "envoy.filters.http.header_mutation",
                "typed_config": {
                    "@type": f"{_TYPE}.{http}.header_mutation.v3.HeaderMutation",
                    "mutations": {"request_mutations": mutations},
                },
            },
            {
                "name": "envoy.filters.http.custom_response",
                "typed_config": {"@type": f"{_TYPE}.{http}.custom_response.v3.CustomResponse"},
            },
            *([breaker.ladder_filter()] if breaker.has_ladder(estate) else []),
            # Servers that do not say where they are; below the fallback, which no site gives.
            {
                "name": "ninelives.site",
                "typed_config": {
                    "@type": f"{_TYPE}.{http}.header_mutation.v3.HeaderMutation",
                    "mutations": {"response_mutations": [{"append": site}]},
                },
            },
            # The whole request first: it can be sent again, and a slow user does not hold a replica.
            {
                "name": "envoy.filters.http.buffer",
                "typed_config": {"@type": f"{_TYPE}.{http}.buffer.v3.Buffer", "max_request_bytes": MAX_BODY_BYTES},
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.{http}.router.v3.Router", "suppress_envoy_headers": True},
            },
        ],
        "local_reply_config": {"mappers": [breaker.shed_as_json(), _error_as_json()]},
        "access_log": [_access_log(), breaker.count_answers()],
    }
    return {
        "name": "services",
        "address": _address(listen),
        "per_connection_buffer_limit_bytes": 2 * MAX_BODY_BYTES,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }


def _error_as_json() -> Document:
    """The gateway's own errors in V2's form; a fallback is a reply of the gateway too, but no error."""
    errors = {"comparison": {"op": "GE", "value": {"default_value": 400, "runtime_key": "gateway.errors_from"}}}
    return {
        "filter": {"status_code_filter": errors},
        "body_format_override": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
    }


def _access_log() -> Document:
    # To standard output: whoever supervises Envoy rotates it, as it does every other log.
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {
                "json_format": {
                    "at": "%START_TIME%",
                    "service": "%ROUTE_NAME%",
                    "site": "%UPSTREAM_METADATA(ninelives:site)%",
                    "replica": "%UPSTREAM_HOST%",
                    "model_version": f"%RESP({VERSION_HEADER})%",
                    "degraded": f"%RESP({DEGRADED_HEADER})%",
                    "experiment": f"%RESP({EXPERIMENT_HEADER})%",
                    "arm": f"%RESP({ARM_HEADER})%",
                    "method": "%REQ(:METHOD)%",
                    "path": "%REQ(:PATH)%",
                    "status": "%RESPONSE_CODE%",
                    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
                    "flags": "%RESPONSE_FLAGS%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "duration_ms": "%DURATION%",
                    "request_id": "%REQ(X-REQUEST-ID)%",
                    "traffic": f"%REQ({TRAFFIC_HEADER})%",
                }
            },
        },
    }


def _routes(estate: Estate, state: GatewayState, endpoints: Mapping[str, Sequence[tuple[str, int]]]) -> Document:
    routes = []
    for service in estate.services:
        infer, *others = _service_routes(service, endpoints)
        split = state.versions.get(service.name)
        if rungs := breaker.rungs(estate, service, state):
            infer = {**infer, "typed_per_filter_config": {**infer["typed_per_filter_config"], **rungs}}
        here = [*breaker.routes_by_class(_divided(infer, service, split) if split else infer), *others]
        if split and split.assignment:
            batch, user, *rest = here
            here = [batch, _assigned(user, service, split, split.assignment), user, *rest]
        stays = [one.stays_on.version for one in estate.consumers if one.service == service.name and one.stays_on]
        asked = dict.fromkeys([*_addressable(split), *stays])
        here += [_by_version(infer, service, version) for version in asked]
        is_open = service.name in state.open_breakers
        routes += [breaker.taken_out(route) for route in here] if is_open else here
    return {
        "name": "services",
        # Without it a route to a missing cluster is accepted and answers 503.
        "validate_clusters": True,
        # Replicas are told which try it is: only the first is the new version's.
        "virtual_hosts": [
            {"name": "services", "domains": ["*"], "include_request_attempt_count": True, "routes": routes}
        ],
    }


def _service_routes(service: Service, endpoints: Mapping[str, Sequence[tuple[str, int]]]) -> list[Document]:
    model = f"/v2/models/{service.model}"
    largest = max((len(endpoints.get(site, ())) for site in service.sites), default=0)
    latency = max(service.objective.latency.total_seconds(), MIN_TRY)
    tries = largest + 2  # one more than a whole site that just died, and one for bad luck
    infer = {
        "name": service.name,
        "match": _match(f"/services/{service.name}{model}/infer", "POST"),
        "route": {
            "cluster": service.name,
            "prefix_rewrite": f"{model}/infer",
            "timeout": _seconds(latency * tries + 0.5),
            "retry_policy": _retry_policy(latency, tries),
            # A try that takes longer than promised is not given up: whichever answers first wins.
            "hedge_policy": {"hedge_on_per_try_timeout": True},
        },
    }
    if service.fallback is not None:
        infer["typed_per_filter_config"] = {"envoy.filters.http.custom_response": _fallback(service)}
    ready = {
        "name": service.name,
        "match": _match(f"/services/{service.name}{model}/ready", "GET"),
        "route": {
            "cluster": service.name,
            "prefix_rewrite": f"{model}/ready",
            "timeout": "2s",
            "retry_policy": _retry_policy(0.5, tries),
        },
    }
    return [infer, ready]


def _divided(infer: Document, service: Service, split: VersionSplit) -> Document:
    """The route with its requests divided between versions; retries, time limits and fallback stay what they are."""
    route = {key: value for key, value in infer["route"].items() if key != "cluster"}
    weighted = [
        {
            "name": service.name if version == split.stable else candidate_cluster(service.name),
            "weight": share,
            "request_headers_to_add": _told(version, "stable" if version == split.stable else "canary", split.stable),
        }
        for version, share in split.shares.items()
        if share
    ]
    route["weighted_clusters"] = {"clusters": weighted}
    if split.shadow and split.shadow_percent:
        route["request_mirror_policies"] = [
            {
                "cluster": candidate_cluster(service.name),
                "runtime_fraction": {"default_value": {"numerator": split.shadow_percent, "denominator": "HUNDRED"}},
                "request_headers_mutations": [{"append": one} for one in _told(split.shadow, "shadow", split.shadow)],
            }
        ]
    return {**infer, "route": route}


def _assigned(user: Document, service: Service, split: VersionSplit, assignment: Assignment) -> Document:
    """The users' route for those who say who they are: which version answers follows from a hash of that alone.

    Envoy takes the hash modulo the sum of the weights and goes through the clusters in their order, as
    ``experiments.assign`` does. Its hash has no salt of its own, so the key is rewritten for it.
    """
    outside = PARTS - 2 * assignment.parts
    stable = _told(split.stable, "stable", split.stable)
    clusters = [
        _arm(candidate_cluster(service.name), assignment, Arm.EXPERIMENT, assignment.version, split.stable),
        *([{"name": service.name, "weight": outside, "request_headers_to_add": stable}] if outside else []),
        _arm(service.name, assignment, Arm.CONTROL, split.stable, split.stable),
    ]
    key = {
        "header_name": assignment.header,
        "regex_rewrite": {"pattern": {"regex": "^"}, "substitution": salt(assignment.experiment)},
    }
    named = {"name": assignment.header, "string_match": {"safe_regex": {"regex": ".+"}}}
    return {
        **user,
        "match": {**user["match"], "headers": [*user["match"]["headers"], named]},
        "route": {
            **user["route"],
            "weighted_clusters": {"clusters": clusters, "use_hash_policy": True},
            "hash_policy": [{"header": key}],
        },
    }


def _arm(cluster: str, assignment: Assignment, arm: Arm, version: str, stable: str) -> Document:
    return {
        "name": cluster,
        "weight": assignment.parts,
        "request_headers_to_add": _told(version, arm.value, stable),
        "response_headers_to_add": _set({EXPERIMENT_HEADER: assignment.experiment, ARM_HEADER: arm.value}),
    }


def _by_version(infer: Document, service: Service, version: str) -> Document:
    """One version by its own path, and never another's answer: no fallback either."""
    model = f"/v2/models/{service.model}"
    path = f"{model}/versions/{version}/infer"
    kept = {key: value for key, value in infer.items() if key != "typed_per_filter_config"}
    return {
        **kept,
        "match": _match(f"/services/{service.name}{path}", "POST"),
        "route": {**infer["route"], "cluster": candidate_cluster(service.name), "prefix_rewrite": path},
        "request_headers_to_add": _told(version, "beside", version),
    }


def _addressable(split: VersionSplit | None) -> list[str]:
    if split is None:
        return []
    tried = [split.assignment.version] if split.assignment else []
    return list(dict.fromkeys([split.stable, *split.shares, *split.beside, *tried]))


def _told(version: str, arm: str, stable: str) -> list[Document]:
    return _set({WANTED_HEADER: version, STABLE_HEADER: stable, ARM_HEADER: arm})


def _set(headers: Mapping[str, str]) -> list[Document]:
    return [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in headers.items()
    ]


def _match(path: str, method: str) -> Document:
    return {"path": path, "headers": [{"name": ":method", "string_match": {"exact": method}}]}


def _retry_policy(per_try: float, tries: int) -> Document:
    return {
        "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
        "retriable_status_codes": list(_RETRIABLE),
        "num_retries": tries - 1,
        "per_try_timeout": _seconds(per_try),
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.050s"},
        "host_selection_retry_max_attempts": 10,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": f"{_TYPE}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
    }


def _fallback(service: Service) -> Document:
    """Answer 200 with the declared default, marked, wherever a user would get a 5xx; errors of the user's stay."""
    assert service.fallback is not None  # noqa: S101  narrows the type
    body = json.dumps(encode_answer(service.model, service.fallback.answer))
    headers = {DEGRADED_HEADER: "default", "content-type": "application/json"}
    return {
        "@type": f"{_TYPE}.extensions.filters.http.custom_response.v3.CustomResponse",
        "custom_response_matcher": {
            "matcher_list": {
                "matchers": [
                    {
                        "predicate": {
                            "single_predicate": {
                                "input": {
                                    "name": "status",
                                    "typed_config": {
                                        "@type": f"{_TYPE}.type.matcher.v3.HttpResponseStatusCodeClassMatchInput"
                                    },
                                },
                                "value_match": {"exact": "5xx"},
                            }
                        },
                        "on_match": {
                            "action": {
                                "name": "fallback",
                                "typed_config": {
                                    "@type": f"{_TYPE}.extensions.http.custom_response.local_response_policy.v3.LocalResponsePolicy",  # noqa: E501
                                    "status_code": 200,
                                    "body": {"inline_string": body},
                                    "response_headers_to_add": [
                                        {
                                            "header": {"key": key, "value": value},
                                            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                                        }
                                        for key, value in headers.items()
                                    ],
                                },
                            }
                        },
                    }
                ]
            }
        },
    }


def _cluster(service: Service, folder: Path, replicas: Mapping[str, int]) -> Document:
    interval, unhealthy_interval = _seconds(HEALTH_INTERVAL), _seconds(HEALTH_INTERVAL / 4)
    return {
        "name": service.name,
        "type": "EDS",
        "eds_cluster_config": {
            "service_name": service.name,
            "eds_config": _source(folder, endpoints_file(service.name)),
        },
        "connect_timeout": _seconds(CONNECT_TIMEOUT),
        "lb_policy": "LEAST_REQUEST" if service.mode is Mode.ACTIVE_ACTIVE else "ROUND_ROBIN",
        "health_checks": [
            {
                "timeout": _seconds(HEALTH_TIMEOUT),
                "interval": interval,
                "no_traffic_interval": interval,
                "unhealthy_interval": unhealthy_interval,
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": f"/v2/models/{service.model}/ready"},
            }
        ],
        "outlier_detection": {
            "consecutive_gateway_failure": 3,
            "enforcing_consecutive_gateway_failure": 100,
            "consecutive_5xx": 5,
            "interval": "1s",
            "base_ejection_time": "5s",
            "max_ejection_time": "10s",
            "max_ejection_percent": 100,
            "enforcing_success_rate": 0,
        },
        "circuit_breakers": {"thresholds": breaker.thresholds(service, replicas)},
        # Panic would send traffic to sites that are closed or lost.
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},
            "ignore_new_hosts_until_first_hc": True,
            # By default a change of health within a second of another one waits for the rest of that second, although
            # Envoy says that it uses the new configuration: a move of traffic would not have taken effect yet.
            "update_merge_window": "0s",
        },
        "ignore_health_on_host_removal": True,
        "track_cluster_stats": {"per_endpoint_stats": True},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPE}.extensions.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": "30s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def candidate_cluster(service: str) -> str:
    """The same replicas once more, for whatever version is on its way in: it must not cost them their good name."""
    return f"{service}@candidate"


def _candidate_cluster(service: Service, folder: Path, replicas: Mapping[str, int]) -> Document:
    cluster = _cluster(service, folder, replicas)
    # Its failures are the new version's, not the replica's; without a replica its retries could not save anybody.
    del cluster["outlier_detection"]
    return {**cluster, "name": candidate_cluster(service.name)}


def _weight(shares: Mapping[str, int], site: str, replicas: int) -> Document:
    """A replica's part of its site's share; Envoy takes weights from 1 on, whatever they add up to."""
    return {"load_balancing_weight": max(1, shares[site] * 100 // replicas)} if site in shares else {}


def _assignment(
    service: Service,
    serving: Sequence[str],
    endpoints: Mapping[str, Sequence[tuple[str, int]]],
    shares: Mapping[str, int],
) -> Document:
    return {
        "cluster_name": service.name,
        "endpoints": [
            {
                "locality": {"zone": site},
                "lb_endpoints": [
                    {
                        "endpoint": {"address": _address(address)},
                        "health_status": "HEALTHY" if site in serving else "UNHEALTHY",
                        "metadata": {"filter_metadata": {"ninelives": {"site": site}}},
                        **_weight(shares, site, len(endpoints.get(site, ()))),
                    }
                    for address in endpoints.get(site, ())
                ],
            }
            for site in service.sites
        ],
    }
