"""The estate as Kubernetes manifests: what runs at each site, and each site's gateway. Pure.

A site is a cluster of its own, and the multi-cluster services API carries its replicas to the others: each service has
one Service a site, exported under its own name, so that a gateway can tell the sites apart. Every site's gateway has
the same routes. What steers traffic is in them alone, one HTTPRoute a service, with what was decided (``DECIDED``) and
by whose leases (``TOKENS``) in annotations of the same object: one write changes all three or none.

Deployments, and weights in the Gateway API, rather than KServe's InferenceService: ``canaryTrafficPercent`` works only
on Knative, divides between two revisions of one cluster, and knows neither sites nor copies of requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml

from ninelives.compilers import breaker
from ninelives.compilers.envoy import HEALTH_INTERVAL, HEALTH_TIMEOUT, MIN_TRY, serving_sites
from ninelives.errors import Refused
from ninelives.estate import Estate, Mode, Service
from ninelives.estate.kubernetes import Kubernetes
from ninelives.ports import GatewayState, RequestClass, VersionSplit
from ninelives.serving.protocol import (
    ARM_HEADER,
    CLASS_HEADER,
    DEGRADED_HEADER,
    MAX_BODY_BYTES,
    SITE_HEADER,
    STABLE_HEADER,
    VERSION_HEADER,
    WANTED_HEADER,
    encode_answer,
)

Document = dict[str, Any]

GATEWAY = "ninelives"
"""The Gateway of each site; its certificate is the Secret of the same name."""
ROUTES = "gateway.networking.k8s.io/v1"
POLICIES = "gateway.envoyproxy.io/v1alpha1"
DECIDED, TOKENS = "ninelives/decided", "ninelives/tokens"
"""Annotations of a route: its part of the gateway's state, and the highest fencing token of each scope."""
STEERING = "ninelives-steering"
"""The account that may steer traffic, and do nothing else but what ``AUDITING`` lets it read."""
AUDITING = "ninelives-auditing"
"""Who may see where replicas run and how many there are to be."""
LOOKING = "ninelives-looking"
"""The account that may start pods which look at accelerators, in a namespace where there is nothing else."""
OPERATORS = "ninelives/may-operate"
"""Label of namespaces whose pods may ask replicas directly: Airflow's, which loads and examines models."""
CONNECTIONS = "ninelives-connections"
"""The Secret with ``connections.json`` of this site's store and replicas."""
PORT = 8080
MAX_RULES = MAX_BACKENDS = 16
"""Of an HTTPRoute and of one of its rules; the limits are the Gateway API's."""
DRAIN = 10
"""Seconds that a replica goes on answering after it said that it is not ready: gateways of other sites hear of it
later than this site's."""
SLOWLY_DOWN = 600
"""Seconds of less load before an autoscaler takes replicas away: twice Kubernetes' default."""
USER = 50000
"""Of the image."""


def compile_site(estate: Estate, site: str) -> dict[str, list[Document]]:
    """The manifests of one site by file: what runs there, its gateway, and the routes as they begin.

    The first two may be applied again and again. The routes are steered, so a second application would undo what was
    decided since: they are created once.

    :raises Refused: the estate does not say how it runs on Kubernetes, or has nothing there at this site
    """
    declared = declaration(estate)
    if site not in {one.site for one in declared.sites}:
        raise Refused("kubernetes", [f"{site} is not in kubernetes.sites of the estate; add it with its pods"])
    here = estate.services_at(site)
    return {
        "replicas.yaml": [*_room(declared), *_looking(estate, declared, site),
                          *(one for service in here for one in _replicas(estate, service, site))],
        "gateway.yaml": [*_gateway(estate, declared), *(one for service in estate.services for one in _limits(estate,
                         service))],
        "routes.yaml": [compile_route(estate, service, beginning(estate)) for service in estate.services],
    }  # fmt: skip


class _Plain(yaml.SafeDumper):
    """Writes everything out: what a person compares has no anchors in it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def format_manifests(file: str, documents: Sequence[Document]) -> str:
    """One file of ``compile_site`` as YAML; the same estate gives the same bytes."""
    once = file == "routes.yaml"
    how = "kubectl create, once: afterwards they are steered, and applied again they would undo that" if once else (
        "kubectl apply --server-side"
    )  # fmt: skip
    text = yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, explicit_start=True, width=1000)
    return f"# Compiled from the estate by `ninelives kubernetes compile`: change the estate instead.\n# {how}\n{text}"


def declaration(estate: Estate) -> Kubernetes:
    """What the estate says about Kubernetes; raises ``Refused`` where it says nothing."""
    if estate.kubernetes is None:
        raise Refused("kubernetes", ["the estate has no part kubernetes: add image, and sites with their pods"])
    return estate.kubernetes


def beginning(estate: Estate) -> GatewayState:
    """Every service at the sites where it is declared to begin."""
    active = {one.name: one.sites if one.mode is Mode.ACTIVE_ACTIVE else one.sites[:1] for one in estate.services}
    return GatewayState(active=active, closed_sites=frozenset(), tokens={})


# --- what runs at a site -----------------------------------------------------------------------------------------


def _room(declared: Kubernetes) -> list[Document]:
    """The namespace, in which nothing may reach anything that is not named, and who may steer."""
    space = declared.namespace
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": space, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "nothing-else", "namespace": space},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
        },
        _account(STEERING, space),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": STEERING, "namespace": space},
            "rules": [
                {
                    "apiGroups": ["gateway.networking.k8s.io"],
                    "resources": ["httproutes"],
                    "verbs": ["create", "get", "list", "patch", "watch"],
                },
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"]},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": STEERING, "namespace": space},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": STEERING},
            "subjects": [{"kind": "ServiceAccount", "name": STEERING, "namespace": space}],
        },
        *_rights(AUDITING, space, STEERING, [
            _may(["list"], "", "pods"),
            _may(["list"], "apps", "deployments"),
            _may(["list"], "policy", "poddisruptionbudgets"),
            _may(["list"], "autoscaling", "horizontalpodautoscalers"),
        ]),
        *_rights(AUDITING, None, STEERING, [_may(["list"], "", "nodes")], of=space),
    ]  # fmt: skip


def looks_namespace(declared: Kubernetes) -> str:
    """Where pods look at accelerators: apart from the replicas' Secrets, which whoever may start a pod can read."""
    return f"{declared.namespace}-looks"


def _looking(estate: Estate, declared: Kubernetes, site: str) -> list[Document]:
    """A namespace for the looks at this site's accelerators, whose pods reach nothing and hold nothing."""
    if not estate.site_by_name[site].accelerators:
        return []
    space = looks_namespace(declared)
    return [
        *(one for one in _room(declared.model_copy(update={"namespace": space}))
          if one["kind"] in ("Namespace", "NetworkPolicy")),
        _account(LOOKING, space),
        *_rights(LOOKING, space, LOOKING, [
            _may(["create", "delete", "get", "list", "patch"], "", "pods"),
            _may(["get"], "", "pods/log"),
        ]),
    ]  # fmt: skip


def _may(verbs: Sequence[str], group: str, resource: str) -> Document:
    return {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}


def _rights(name: str, space: str | None, account: str, rules: list[Document], *, of: str = "") -> list[Document]:
    """A Role of ``space``, or a ClusterRole, and what gives it to ``account`` of ``space`` or ``of``."""
    kind = "Role" if space else "ClusterRole"
    metadata = {"name": name, "namespace": space} if space else {"name": f"{name}-{of}"}
    api = "rbac.authorization.k8s.io"
    return [
        {"apiVersion": f"{api}/v1", "kind": kind, "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{api}/v1",
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "roleRef": {"apiGroup": api, "kind": kind, "name": metadata["name"]},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": space or of}],
        },
    ]


def _account(name: str, space: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": space},
        "automountServiceAccountToken": False,
    }


def _replicas(estate: Estate, service: Service, site: str) -> list[Document]:
    declared = declaration(estate)
    name = backend(service, site)
    labels = {"ninelives/service": service.name, "ninelives/site": site}

    def document(api: str, kind: str, spec: Document | None) -> Document:
        metadata = {"name": name, "namespace": declared.namespace, "labels": labels}
        return {"apiVersion": api, "kind": kind, "metadata": metadata} | ({"spec": spec} if spec else {})

    return [
        _account(name, declared.namespace),
        document("apps/v1", "Deployment", _deployment(estate, service, site, labels)),
        document(
            "v1",
            "Service",
            {"selector": labels, "ports": [{"name": "http", "port": PORT, "appProtocol": "http"}]},
        ),
        document("multicluster.x-k8s.io/v1alpha1", "ServiceExport", None),
        document(
            "policy/v1",
            "PodDisruptionBudget",
            # One at a time may be moved; one that serves nobody must not keep its node from being drained.
            {
                "selector": {"matchLabels": labels},
                "maxUnavailable": 1,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
            },
        ),
        document("networking.k8s.io/v1", "NetworkPolicy", _reach(declared, site, labels)),
        *([document("autoscaling/v2", "HorizontalPodAutoscaler", scaling)] if (scaling := _scaling(service, name))
          else []),
    ]  # fmt: skip


def _scaling(service: Service, name: str) -> Document | None:
    """Never below what is declared, and slowly down: the traffic of a lost site comes at once and may come again."""
    if (autoscale := service.pods.autoscale) is None:
        return None
    utilisation = {"type": "Utilization", "averageUtilization": autoscale.cpu}
    return {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": service.pods.replicas,
        "maxReplicas": autoscale.most,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": utilisation}}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": SLOWLY_DOWN}},
    }


def backend(service: Service, site: str) -> str:
    """The Service with the replicas of ``service`` at ``site``, and its import at every other site."""
    return f"{service.name}-{site}"


def _deployment(estate: Estate, service: Service, site: str, labels: Mapping[str, str]) -> Document:
    pods, warm_up = service.pods, estate.model_by_name[service.model].warm_up.total_seconds()
    memory: Document = {"memory": pods.memory}
    devices: Document = {pods.accelerator: str(pods.accelerators)} if pods.accelerators else {}
    environment = {
        "NINELIVES_SITE": site,
        "NINELIVES_HOST": "0.0.0.0",  # noqa: S104  the pod's own network, behind its NetworkPolicy
        "NINELIVES_PORT": str(PORT),
        "NINELIVES_MODELS": service.model,
        "NINELIVES_CONNECTIONS": "/etc/ninelives/connections.json",
        "NINELIVES_CACHE": "/var/cache/ninelives",
        "NINELIVES_DRAIN": str(DRAIN),
    }
    container = {
        "name": "replica",
        "image": declaration(estate).image,
        "command": ["python", "-m", "ninelives.serving.server"],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": {"requests": {"cpu": pods.cpu, **memory, **devices}, "limits": {**memory, **devices}},
        # Live at once, ready when every model is loaded, warm and right: a long warm-up must not kill it.
        "startupProbe": _probe("/v2/health/live", every=1, failures=60),
        "livenessProbe": _probe("/v2/health/live", every=5, failures=3),
        "readinessProbe": _probe(f"/v2/models/{service.model}/ready", every=2, failures=2),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "connections", "mountPath": "/etc/ninelives", "readOnly": True},
            {"name": "cache", "mountPath": "/var/cache/ninelives"},
            {"name": "temporary", "mountPath": "/tmp"},  # noqa: S108  the container's own
        ],
    }
    return {
        # An autoscaler's number is not to be taken back by the next apply.
        **({} if pods.autoscale else {"replicas": pods.replicas}),
        "selector": {"matchLabels": dict(labels)},
        # A new one first: fewer than declared would not bear the loss of the other site.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "progressDeadlineSeconds": int(2 * warm_up) + 600,
        "template": {
            "metadata": {"labels": dict(labels)},
            "spec": {
                "serviceAccountName": backend(service, site),
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": DRAIN + 20,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": USER,
                    "fsGroup": USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [_apart(labels)]}},
                "topologySpreadConstraints": [_spread(labels)],
                "containers": [container],
                "volumes": [
                    {"name": "connections", "secret": {"secretName": CONNECTIONS, "defaultMode": 0o440}},
                    {"name": "cache", "emptyDir": {}},
                    {"name": "temporary", "emptyDir": {}},
                ],
            },
        },
    }


def _probe(path: str, *, every: int, failures: int) -> Document:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": every,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }


def _apart(labels: Mapping[str, str]) -> Document:
    """No two on one node. Only those of one roll-out count, or a new one would find no room beside the old ones."""
    return {
        "labelSelector": {"matchLabels": dict(labels)},
        "matchLabelKeys": ["pod-template-hash"],
        "topologyKey": "kubernetes.io/hostname",
    }


def _spread(labels: Mapping[str, str]) -> Document:
    """Even over the power and network zones of the site. A zone whose nodes are tainted as unreachable does not count,
    or the replicas of a lost zone would wait for it.
    """
    return {
        "labelSelector": {"matchLabels": dict(labels)},
        "matchLabelKeys": ["pod-template-hash"],
        "topologyKey": "topology.kubernetes.io/zone",
        "maxSkew": 1,
        "whenUnsatisfiable": "DoNotSchedule",
        "nodeTaintsPolicy": "Honor",
    }


def _reach(declared: Kubernetes, site: str, labels: Mapping[str, str]) -> Document:
    """Gateways, this site's and the others', and Airflow may ask; it asks the store and names."""
    names = "kubernetes.io/metadata.name"
    allowed: list[Document] = [
        {"namespaceSelector": {"matchLabels": {names: declared.gateway_namespace}}},
        {"namespaceSelector": {"matchLabels": {OPERATORS: "true"}}},
        *({"ipBlock": {"cidr": other.pods}} for other in declared.sites if other.site != site),
    ]
    resolver = {"namespaceSelector": {"matchLabels": {names: "kube-system"}}}
    return {
        "podSelector": {"matchLabels": dict(labels)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": allowed, "ports": [{"port": PORT, "protocol": "TCP"}]}],
        "egress": [
            {"to": [resolver], "ports": [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]},
            {"ports": [{"port": 443, "protocol": "TCP"}]},
        ],
    }


# --- the gateway -------------------------------------------------------------------------------------------------


def _gateway(estate: Estate, declared: Kubernetes) -> list[Document]:
    space = declared.namespace
    told = [SITE_HEADER, VERSION_HEADER, DEGRADED_HEADER, WANTED_HEADER, STABLE_HEADER, ARM_HEADER]
    return [
        {
            "apiVersion": ROUTES,
            "kind": "Gateway",
            "metadata": {"name": GATEWAY, "namespace": space},
            "spec": {
                "gatewayClassName": declared.gateway_class,
                "listeners": [
                    {
                        "name": "users",
                        "port": 443,
                        "protocol": "HTTPS",
                        "tls": {"mode": "Terminate", "certificateRefs": [{"kind": "Secret", "name": GATEWAY}]},
                        "allowedRoutes": {"namespaces": {"from": "Same"}},
                    }
                ],
            },
        },
        {
            "apiVersion": POLICIES,
            "kind": "ClientTrafficPolicy",
            "metadata": {"name": GATEWAY, "namespace": space},
            "spec": {
                "targetRefs": [_target("Gateway", GATEWAY)],
                # What users may not tell. The class is theirs to tell.
                "headers": {"earlyRequestHeaders": {"remove": told}, "withUnderscoresAction": "RejectRequest"},
                "path": {"escapedSlashesAction": "RejectRequest"},
                "timeout": {"http": {"requestReceivedTimeout": "10s"}},
                "connection": {"connectionLimit": {"value": 10_000}, "bufferLimit": f"{2 * MAX_BODY_BYTES >> 20}Mi"},
            },
        },
    ]


def _target(kind: str, name: str, section: str | None = None) -> Document:
    target = {"group": "gateway.networking.k8s.io", "kind": kind, "name": name}
    return target if section is None else {**target, "sectionName": section}


def _limits(estate: Estate, service: Service) -> list[Document]:
    """Limits, retries and who is taken out; the default answer; and what answers where no replica may be asked."""
    space = declaration(estate).namespace
    replicas = dict.fromkeys(service.sites, service.pods.replicas)
    most = breaker.limit(service, replicas)
    fewer = max(1, int(most * breaker.BATCH_SHARE))

    def policy(rule: str | None, most: int, **more: Any) -> Document:
        return {
            "apiVersion": POLICIES,
            "kind": "BackendTrafficPolicy",
            "metadata": {"name": f"{service.name}.{rule}" if rule else service.name, "namespace": space},
            "spec": {
                "targetRefs": [_target("HTTPRoute", service.name, rule)],
                "circuitBreaker": {
                    "maxConnections": max(breaker.UNDECLARED, most),
                    "maxPendingRequests": most,
                    "maxParallelRequests": most,
                    "retryBudget": {"percent": {"numerator": 100}, "minRetryConcurrency": min(100, most)},
                },
                "retry": _retries(service),
                "healthCheck": _health(service),
                "loadBalancer": {
                    "type": "LeastRequest" if service.mode is Mode.ACTIVE_ACTIVE else "RoundRobin",
                },
                "timeout": {"tcp": {"connectTimeout": "250ms"}, "http": {"connectionIdleTimeout": "30s"}},
                "requestBuffer": {"limit": f"{MAX_BODY_BYTES >> 20}Mi"},
                **more,
            },
        }

    documents = [policy(None, most), policy("batch", fewer), _answering(service, space, 503)]
    if service.fallback is not None:
        default = {"match": {"statusCodes": [{"type": "Range", "range": {"start": 500, "end": 599}}]}}
        override = [{**default, "response": _default(service)}]
        documents += [policy("inference", most, responseOverride=override), _answering(service, space, 200)]
    return documents


def _retries(service: Service) -> Document:
    latency = max(service.objective.latency.total_seconds(), MIN_TRY)
    return {
        "numRetries": tries(service) - 1,
        # It is given up, where the local gateway asks a second replica beside it: so it may take twice the promise.
        "perRetry": {
            "timeout": _milliseconds(2 * latency),
            "backOff": {"baseInterval": "5ms", "maxInterval": "50ms"},
        },
        "retryOn": {
            "triggers": ["connect-failure", "refused-stream", "reset", "retriable-status-codes"],
            "httpStatusCodes": [500, 502, 503, 504],
        },
    }


def tries(service: Service) -> int:
    """One more than a whole site that just died, and one for bad luck."""
    return service.pods.replicas + 2


def _health(service: Service) -> Document:
    return {
        "active": {
            "type": "HTTP",
            "http": {"path": f"/v2/models/{service.model}/ready", "expectedStatuses": [200]},
            "interval": _milliseconds(HEALTH_INTERVAL),
            "timeout": _milliseconds(HEALTH_TIMEOUT),
            "unhealthyThreshold": 2,
            "healthyThreshold": 1,
        },
        "passive": {
            "consecutiveGatewayErrors": 3,
            "consecutive5XxErrors": 5,
            "interval": "1s",
            "baseEjectionTime": "5s",
            "maxEjectionPercent": 100,
        },
        "panicThreshold": 0,  # panic would send requests to replicas that are lost
    }


def _default(service: Service) -> Document:
    assert service.fallback is not None  # noqa: S101  narrows the type
    return {
        "statusCode": 200,
        "contentType": "application/json",
        "body": {"type": "Inline", "inline": json.dumps(encode_answer(service.model, service.fallback.answer))},
        "header": {"set": [{"name": DEGRADED_HEADER, "value": "default"}]},
    }


def _shed() -> Document:
    return {
        "statusCode": 503,
        "contentType": "application/json",
        "body": {"type": "Inline", "inline": json.dumps({"error": "no replica of this service is asked just now"})},
        "header": {"set": [{"name": "retry-after", "value": str(breaker.RETRY_AFTER)}]},
    }


def _answering(service: Service, space: str, status: int) -> Document:
    """What a route names while no replica may be asked."""
    return {
        "apiVersion": POLICIES,
        "kind": "HTTPRouteFilter",
        "metadata": {"name": _filter_name(service, status), "namespace": space},
        "spec": {"directResponse": _default(service) if status == 200 else _shed()},
    }


def _filter_name(service: Service, status: int) -> str:
    return f"{service.name}.{'default' if status == 200 else 'shed'}"


# --- what is steered ---------------------------------------------------------------------------------------------


def compile_route(estate: Estate, service: Service, state: GatewayState) -> Document:
    """The one object that says where the requests of ``service`` go.

    A rule asks replicas of the sites that may take the traffic; where there is none, or the breaker is open, it answers
    by itself: a rule without any would answer 500.

    :raises Refused: more versions or sites than an HTTPRoute holds, copies of requests, or an experiment on users
    """
    split = state.versions.get(service.name)
    if split and split.assignment:
        raise Refused(
            "kubernetes",
            [
                f"spec.rules[].backendRefs[].weight of the HTTPRoute {service.name}: the Gateway API draws lots for "
                f"each request, and {split.assignment.experiment} needs the same version for a user every time"
            ],
        )
    if split and split.shadow and split.shadow_percent:
        raise Refused(
            "kubernetes",
            [
                f"spec.rules[].filters[].requestMirror of the HTTPRoute {service.name}: the Gateway API cannot tell a "
                f"copied request that version {split.shadow} is meant; declare release.shadow: 0"
            ],
        )
    model, path = f"/v2/models/{service.model}", f"/services/{service.name}"
    infer = f"{path}{model}/infer"
    out = service.name in state.open_breakers
    weights = {} if out else site_weights(service, state)
    divided = _divided(service, weights, split)
    default = 200 if service.fallback else 503
    total = _milliseconds(max(service.objective.latency.total_seconds(), MIN_TRY) * tries(service) + 0.5)

    def rule(name: str, matches: Sequence[Document], to: str, backends: Sequence[Document], status: int) -> Document:
        """``name``: what a policy calls it; none has to."""
        document: Document = {"matches": list(matches), "timeouts": {"request": total}}
        if name:
            document["name"] = name
        if backends:
            path = {"type": "ReplaceFullPath", "replaceFullPath": to}
            rewrite = {"type": "URLRewrite", "urlRewrite": {"path": path}}
            return {**document, "filters": [rewrite], "backendRefs": list(backends)}
        answer = {"group": "gateway.envoyproxy.io", "kind": "HTTPRouteFilter", "name": _filter_name(service, status)}
        return {**document, "filters": [{"type": "ExtensionRef", "extensionRef": answer}]}

    # An exact match outranks an expression: any other word than ``inference`` is batch, and none at all is a user's.
    users = [_match(infer, "POST", (CLASS_HEADER, "Exact", RequestClass.INFERENCE.value)), _match(infer, "POST")]
    inference = rule("inference", users, f"{model}/infer", divided, default)
    batch = [_match(infer, "POST", (CLASS_HEADER, "RegularExpression", ".+"))]
    plain = [_backend(service, site, weight) for site, weight in weights.items()]
    rules = [
        inference,
        rule("batch", batch, f"{model}/infer", divided, 503),
        rule("ready", [_match(f"{path}{model}/ready", "GET")], f"{model}/ready", plain, 503),
    ]
    for version in _addressable(split):
        to = f"{model}/versions/{version}/infer"
        one = rule("", [_match(f"{path}{to}", "POST")], to, plain, 503)
        if plain:
            one["filters"].append(_told(version, "beside", version))
        rules.append(one)
    if len(rules) > MAX_RULES or len(divided) > MAX_BACKENDS:
        raise Refused(
            "kubernetes",
            [f"spec.rules of the HTTPRoute {service.name}: {len(rules)} rules and {len(divided)} backends, where the "
             f"Gateway API has room for {MAX_RULES}; retire versions that stand beside the others"],
        )  # fmt: skip
    return {
        "apiVersion": ROUTES,
        "kind": "HTTPRoute",
        "metadata": {
            "name": service.name,
            "namespace": declaration(estate).namespace,
            "annotations": remember(service, state),
        },
        "spec": {"parentRefs": [{"name": GATEWAY, "sectionName": "users"}], "rules": rules},
    }


def site_weights(service: Service, state: GatewayState) -> dict[str, int]:
    """Percent of the traffic of each site that may take any, 100 in all; none where no site may."""
    serving = serving_sites(service, state)
    shares = {site: share for site, share in state.shares.get(service.name, {}).items() if site in serving and share}
    if not shares:
        shares = dict.fromkeys(serving, 1)
    return _of_a_hundred(shares)


def _of_a_hundred(shares: Mapping[str, int]) -> dict[str, int]:
    """In the same proportion, 100 in all, and none that was something becomes nothing."""
    whole = sum(shares.values())
    parts = {name: max(1, share * 100 // whole) for name, share in shares.items()}
    if parts:
        largest = max(parts, key=lambda name: (parts[name], -list(parts).index(name)))
        parts[largest] += 100 - sum(parts.values())
    return parts


def _divided(service: Service, weights: Mapping[str, int], split: VersionSplit | None) -> list[Document]:
    """Each site with its share, or each site's part of each version's."""
    if split is None:
        return [_backend(service, site, weight) for site, weight in weights.items()]
    return [
        {
            **_backend(service, site, weight * share),
            "filters": [_told(version, "stable" if version == split.stable else "canary", split.stable)],
        }
        for version, share in split.shares.items()
        for site, weight in weights.items()
        if share
    ]


def _backend(service: Service, site: str, weight: int | None = None) -> Document:
    reference: Document = {
        "group": "multicluster.x-k8s.io",
        "kind": "ServiceImport",
        "name": backend(service, site),
        "port": PORT,
    }
    return reference if weight is None else {**reference, "weight": weight}


def _addressable(split: VersionSplit | None) -> list[str]:
    return list(dict.fromkeys([split.stable, *split.shares, *split.beside])) if split else []


def _told(version: str, arm: str, stable: str) -> Document:
    headers = {WANTED_HEADER: version, STABLE_HEADER: stable, ARM_HEADER: arm}
    told = [{"name": name, "value": value} for name, value in headers.items()]
    return {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": told}}


def _match(path: str, method: str, *headers: tuple[str, str, str]) -> Document:
    match: Document = {"path": {"type": "Exact", "value": path}, "method": method}
    if headers:
        match["headers"] = [{"name": name, "type": kind, "value": value} for name, kind, value in headers]
    return match


def _milliseconds(seconds: float) -> str:
    """As the Gateway API writes durations (GEP-2257)."""
    return f"{round(seconds * 1000)}ms"


# --- what a route remembers --------------------------------------------------------------------------------------


def scopes(service: Service) -> list[str]:
    """The fencing scopes that a service's route is written under."""
    return [f"{kind}:{service.name}" for kind in ("service", "release", "breaker")] + [
        f"site:{site}" for site in service.sites
    ]


def remember(service: Service, state: GatewayState) -> dict[str, str]:
    """The service's part of the state, so that whoever steers next needs nothing but the route."""
    split = state.versions.get(service.name)
    decided = {
        "active": list(state.active.get(service.name, ())),
        "closed": sorted(state.closed_sites & set(service.sites)),
        "shares": dict(state.shares.get(service.name, {})),
        "split": asdict(split) if split else None,
        "open": service.name in state.open_breakers,
    }
    tokens = {scope: state.tokens[scope] for scope in scopes(service) if scope in state.tokens}
    return {DECIDED: json.dumps(decided, sort_keys=True), TOKENS: json.dumps(tokens, sort_keys=True)}


def remembered(service: Service, written: Mapping[str, str]) -> GatewayState:
    """The state in a route's annotations; raises ``ValueError`` where they are not what ``remember`` writes."""
    try:
        decided, tokens = json.loads(written[DECIDED]), json.loads(written[TOKENS])
        split, shares = decided["split"], decided["shares"]
        name = service.name
        return GatewayState(
            active={name: tuple(decided["active"])},
            closed_sites=frozenset(decided["closed"]),
            tokens={str(scope): int(token) for scope, token in tokens.items()},
            shares={name: {str(site): int(share) for site, share in shares.items()}} if shares else {},
            versions={
                name: VersionSplit(**{**split, "shares": dict(split["shares"]), "beside": tuple(split["beside"])})
            }
            if split
            else {},
            open_breakers=frozenset([name] if decided["open"] else ()),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{DECIDED} or {TOKENS} cannot be read: {error!r}") from error
