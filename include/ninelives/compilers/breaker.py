"""The gateway as circuit breaker and ladder: what the promises of a service become in Envoy's words. Pure.

Two classes of requests, as Envoy's two priorities: inference, and batch, which gives way. Each has a limit of its own
on what may be under way, so that no batch job, however eager, takes a place from a user. What is over the limit is
answered at once with 503 and ``retry-after``: a queue would only make everybody late.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from ninelives.estate import Estate, Mode, Service
from ninelives.ports import GatewayState, RequestClass, VersionSplit
from ninelives.serving.protocol import CLASS_HEADER, DEGRADED_HEADER

Document = dict[str, Any]

LADDER = "envoy.filters.http.lua"
"""The filter of the middle rungs; routes name it."""
UNDECLARED = 256
"""Requests of a service that may be under way where its capacity is not declared."""
BATCH_SHARE = 0.25
"""Of what inference may have under way."""
RETRY_AFTER = 1
"""Seconds after which a user who got 503 may come back."""
ANSWERS = "answers"
"""Envoy's counter of answers, by service, class, rung, status and Envoy's flags."""
_TYPE = "type.googleapis.com/envoy"


def limit(service: Service, replicas: Mapping[str, int]) -> int:
    """How many inferences may be under way at once.

    By Little's law ``capacity * latency`` requests under way wait just as long as was promised. Half of it is allowed,
    so that the promise holds when half of the replicas are gone.

    :param replicas: number of replicas per site
    """
    if service.capacity is None:
        return UNDECLARED
    counts = [replicas.get(site, 0) for site in service.sites]
    serving = max(counts) if service.mode is Mode.ACTIVE_PASSIVE else sum(counts)
    return max(2, int(service.capacity * serving * service.objective.latency.total_seconds() / 2))


def thresholds(service: Service, replicas: Mapping[str, int]) -> list[Document]:
    """Envoy's circuit breakers: limits on what is under way and on retries, by class."""
    most = limit(service, replicas)
    return [_threshold("HIGH", most), _threshold("DEFAULT", max(1, int(most * BATCH_SHARE)))]


def _threshold(priority: str, most: int) -> Document:
    return {
        "priority": priority,
        "max_connections": max(UNDECLARED, most),
        "max_pending_requests": most,
        "max_requests": most,
        "track_remaining": True,
        # A hung site holds half of all requests until their second try; a small budget would drop them. With a declared
        # capacity the limit is what keeps retries from making an overload worse.
        "retry_budget": {"budget_percent": {"value": 100}, "min_retry_concurrency": min(100, most)},
    }


def routes_by_class(infer: Document) -> list[Document]:
    """The route of inferences twice: for batch, which waits for a real answer, so it has no ladder, and for the others.

    A request says ``x-ninelives-class: batch``. Without the header it is a user's; with any other word than
    ``inference`` it counts as batch, so that a slip of the pen costs whoever made it and not the users.
    """
    match = infer["match"]
    named = [
        {"name": CLASS_HEADER, "present_match": True},
        {"name": CLASS_HEADER, "string_match": {"exact": RequestClass.INFERENCE}, "invert_match": True},
    ]
    kept = {key: value for key, value in infer.items() if key != "typed_per_filter_config"}
    route = {key: value for key, value in infer["route"].items() if key != "hedge_policy"}
    batch = {
        **kept,
        "match": {**match, "headers": [*match["headers"], *named]},
        "route": {**route, "priority": "DEFAULT"},
        "metadata": _class(RequestClass.BATCH),
    }
    user = {**infer, "route": {**infer["route"], "priority": "HIGH"}, "metadata": _class(RequestClass.INFERENCE)}
    return [batch, user]


def _class(name: RequestClass) -> Document:
    return {"filter_metadata": {"ninelives": {"class": name.value}}}


def taken_out(route: Document) -> Document:
    """The route while the service's breaker is open: no replica is asked, and the ladder has the word."""
    kept = {key: value for key, value in route.items() if key != "route"}
    body = {"inline_string": "the breaker of this service is open"}
    return {**kept, "direct_response": {"status": 503, "body": body}}


def has_ladder(estate: Estate) -> bool:
    """Whether any service declares a rung between its model and its default."""
    return any(one.fallback and (one.fallback.service or one.fallback.cached_for) for one in estate.services)


def ladder_filter() -> Document:
    """For the listener; it does nothing but on routes that name it."""
    return {
        "name": LADDER,
        "disabled": True,
        "typed_config": {
            "@type": f"{_TYPE}.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": _script()},
        },
    }


@cache
def _script() -> str:
    return Path(__file__).with_name("ladder.lua").read_text("utf-8")


def rungs(estate: Estate, service: Service, state: GatewayState) -> Document:
    """What the route of a service's inferences says about its middle rungs; nothing where it declares none."""
    fallback = service.fallback
    if fallback is None or not (fallback.service or fallback.cached_for):
        return {}
    smaller = estate.service_by_name.get(fallback.service or "")
    context = {
        "service": service.name,
        "generation": generation(service, state),
        "stable": _lasting(state.versions.get(service.name)),
        "max_age": str(int(fallback.cached_for.total_seconds()) if fallback.cached_for else 0),
        "cluster": smaller.name if smaller else "",
        "path": f"/v2/models/{smaller.model}/infer" if smaller else "",
        "timeout_ms": str(int(smaller.objective.latency.total_seconds() * 1000)) if smaller else "0",
    }
    return {LADDER: {"@type": f"{_TYPE}.extensions.filters.http.lua.v3.LuaPerRoute", "filter_context": context}}


def _lasting(split: VersionSplit | None) -> str:
    """The version whose answers may be kept: the one that gets all requests, else the one that is on its way out or
    will stay; empty where the sites' own release answers.
    """
    if split is None:
        return ""
    serving = [version for version, share in split.shares.items() if share]
    return serving[0] if len(serving) == 1 else split.stable


def generation(service: Service, state: GatewayState) -> str:
    """Under which kept answers are valid. Whatever may change the model or the data behind an answer changes it: every
    move, opening and closing of the service or of its sites takes a new token, and every step of a promotion, which has
    one token from its begin to its end, divides the requests in another way.
    """
    split = state.versions.get(service.name)
    scopes = [f"{kind}:{service.name}" for kind in ("service", "release", "breaker")]
    scopes += [f"site:{site}" for site in service.sites]
    facts = {
        "tokens": [state.tokens.get(scope, 0) for scope in scopes],
        "active": state.active.get(service.name, ()),
        "closed": sorted(state.closed_sites & set(service.sites)),
        "open": service.name in state.open_breakers,
        "split": asdict(split) if split else None,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def shed_as_json() -> Document:
    """The gateway's own 503: an error in V2's form that says when to come back."""
    return {
        "filter": {
            "status_code_filter": {
                "comparison": {"op": "EQ", "value": {"default_value": 503, "runtime_key": "gateway.shed"}}
            }
        },
        "body_format_override": {"json_format": {"error": "%LOCAL_REPLY_BODY%"}},
        "headers_to_add": [{"header": {"key": "retry-after", "value": str(RETRY_AFTER)}}],
    }


def count_answers() -> Document:
    """Counters of what users got, which no statistic of Envoy's own tells: a fallback is a 200 like any other."""
    tags = {
        "service": "%ROUTE_NAME%",
        "class": "%METADATA(ROUTE:ninelives:class)%",
        "rung": f"%RESP({DEGRADED_HEADER})%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
    }
    counter = {"name": ANSWERS, "tags": [{"name": name, "value_format": value} for name, value in tags.items()]}
    return {
        "name": "envoy.access_loggers.stats",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.access_loggers.stats.v3.Config",
            "stat_prefix": "ninelives",
            "counters": [{"stat": counter, "value_fixed": 1}],
        },
    }


def counted(name: str) -> Mapping[str, str] | None:
    """The tags in the name of one of these counters; ``None`` for any other statistic."""
    prefix, _, rest = name.partition(f".{ANSWERS}.")
    if prefix != "ninelives" or not rest:
        return None
    parts: Sequence[str] = rest.split(".")
    return dict(zip(parts[::2], parts[1::2], strict=False))
