"""What the promises of a service become: limits by class, rungs, and under which kept answers are valid."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.models import estate_of_two_sites

from ninelives.adapters.envoy import breaker_of
from ninelives.compilers.breaker import LADDER, UNDECLARED, counted, generation, limit
from ninelives.compilers.envoy import LISTENERS, ROUTES, compile_gateway
from ninelives.estate import Estate
from ninelives.ports import GatewayState, VersionSplit

BOTH = ("paris", "dublin")
STATE = GatewayState({"alpha": ("paris",), "beta": BOTH, "gamma": BOTH}, frozenset(), {})
SCOPES = ("service:beta", "release:beta", "breaker:beta", "site:paris", "site:dublin")


def estate(**fallback: Any) -> Estate:
    document = estate_of_two_sites().model_dump(mode="json")
    document["services"][1]["fallback"] |= fallback
    return Estate.model_validate(document)


def compiled(estate: Estate, state: GatewayState = STATE) -> dict[str, Any]:
    endpoints = {site: [("127.0.0.1", 1000)] for site in BOTH}
    listen, admin = ("127.0.0.1", 80), ("127.0.0.1", 81)
    return compile_gateway(estate, state, endpoints, folder=Path("/gateway"), listen=listen, admin=admin)


def routes(estate: Estate, service: str, state: GatewayState = STATE) -> list[dict[str, Any]]:
    host = compiled(estate, state)[ROUTES]["resources"][0]["virtual_hosts"][0]
    return [route for route in host["routes"] if route["name"] == service]


@pytest.mark.parametrize(("service", "expected"), [("alpha", 25), ("beta", 50)])
def test_half_of_what_little_s_law_allows_may_be_under_way_at_the_replicas_that_serve(
    service: str, expected: int
) -> None:
    declared = estate().service_by_name[service].model_copy(update={"capacity": 100})  # 250 ms, two replicas a site
    assert limit(declared, {"paris": 2, "dublin": 2}) == expected
    assert limit(declared.model_copy(update={"capacity": None}), {"paris": 2}) == UNDECLARED


def test_batch_is_matched_before_users_and_never_gets_a_fallback() -> None:
    batch, user, ready = routes(estate(cached_for="1h"), "beta")
    assert [header["name"] for header in batch["match"]["headers"]] == [":method"] + ["x-ninelives-class"] * 2
    assert (batch["route"]["priority"], user["route"]["priority"]) == ("DEFAULT", "HIGH")
    assert "typed_per_filter_config" not in batch
    assert "hedge_policy" not in batch["route"]
    assert LADDER in user["typed_per_filter_config"]
    assert ready["match"]["path"].endswith("/ready")


def test_an_estate_that_declares_no_middle_rung_has_no_filter_for_it() -> None:
    def filters(estate: Estate) -> list[str]:
        chain = compiled(estate)[LISTENERS]["resources"][0]["filter_chains"][0]["filters"][0]
        return [one["name"] for one in chain["typed_config"]["http_filters"]]

    assert LADDER not in filters(estate())
    assert LADDER in filters(estate(service="gamma"))


def test_an_open_breaker_asks_no_replica_on_any_route() -> None:
    split = VersionSplit(stable="1", shares={"1": 90, "2": 10})
    state = replace(STATE, open_breakers=frozenset({"beta"}), versions={"beta": split})
    found = routes(estate(), "beta", state)
    assert len(found) == 5
    assert all("route" not in route and route["direct_response"]["status"] == 503 for route in found)
    assert all("route" in route for route in routes(estate(), "gamma", state))


@given(st.dictionaries(st.sampled_from(SCOPES), st.integers(1, 9)), st.sampled_from(SCOPES), st.integers(1, 9))
def test_whatever_takes_a_newer_token_begins_a_new_generation(tokens: dict[str, int], scope: str, more: int) -> None:
    beta = estate().service_by_name["beta"]
    before = replace(STATE, tokens=tokens)
    after = replace(STATE, tokens={**tokens, scope: tokens.get(scope, 0) + more})
    assert generation(beta, before) != generation(beta, after)
    assert generation(beta, replace(before, tokens={**tokens, "service:gamma": more})) == generation(beta, before)


def test_each_step_of_a_promotion_begins_a_new_generation_and_keeps_answers_of_one_version_only() -> None:
    """As ``releases.promotion`` divides them, all under one token."""
    steps = [
        (None, ""),
        (VersionSplit("1", {"1": 100}, shadow="2", shadow_percent=20), "1"),
        (VersionSplit("1", {"1": 75, "2": 25}), "1"),
        (VersionSplit("1", {"2": 100, "1": 0}), "2"),
        (VersionSplit("2", {"2": 100}, beside=("1",)), "2"),
    ]
    contexts = []
    for split, kept in steps:
        state = replace(STATE, tokens={"release:beta": 7}, versions={"beta": split} if split else {})
        user = routes(estate(cached_for="1h"), "beta", state)[1]
        contexts.append(user["typed_per_filter_config"][LADDER]["filter_context"])
        assert contexts[-1]["stable"] == kept
    assert len({context["generation"] for context in contexts}) == len(steps)


def test_answers_are_counted_by_who_gave_them_and_shed_requests_by_class() -> None:
    name = "ninelives.answers.service.beta.class.{}.rung.{}.status.{}.flags.{}"
    stats = {
        name.format("inference", "", 200, "-"): 5,
        name.format("inference", "cached", 200, "UO"): 2,
        name.format("batch", "", 503, "UO"): 3,
        name.format("inference", "", 400, "-"): 1,
        name.format("inference", "", 200, "-").replace("beta", "gamma"): 9,
        "cluster.beta.circuit_breakers.high.rq_open": 1,
        "cluster.beta.circuit_breakers.default.remaining_rq": 4,
        "cluster.beta.upstream_rq_retry": 7,
    }
    seen = breaker_of("beta", False, stats, [])
    assert seen.answers == {"model": 5, "cached": 2, "error": 4}
    assert seen.shed == {"inference": 2, "batch": 3}
    assert seen.full == {"inference": ("requests",), "batch": ()}
    assert (seen.remaining["batch"], seen.retries) == (4, 7)
    assert counted("cluster.beta.upstream_rq_retry") is None
