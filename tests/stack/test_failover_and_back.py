"""Failover, its safety rules and the way back, on real stores, model servers and Envoy; each test leaves them whole."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer.testing
from support.models import publish
from support.processes import wait_until
from support.two_sites import Systems, World, two_sites

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.ledger import SqlLedger
from ninelives.cli import app
from ninelives.errors import Refused
from ninelives.evidence.verify import verify_ledger
from ninelives.injections import Injection, close_injection, open_injection
from ninelives.recovery import failback, safety
from ninelives.recovery.failback import plan_failback, record_failback, shift_traffic
from ninelives.recovery.failover import FailbackPlan, decide_failover, fail_over_here, warm_up
from ninelives.recovery.licences import current_holdings
from ninelives.recovery.playbook import keep_playbook, make_playbook
from ninelives.recovery.return_site import reconcile_site, reopen_site
from ninelives.recovery.standby import State, check_readiness, keep_readiness, kept_readiness
from ninelives.recovery.why import explain

pytestmark = pytest.mark.stack
LICENCE = {
    "name": "engine",
    "product": "Engine",
    "seats": 1,
    "grace": "1h",
    "models": ["alpha"],
    "expires": "2099-01-01",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with two_sites(tmp_path_factory.mktemp("sites")) as world:
        yield world


@pytest.fixture
def world(whole: World) -> World:
    """Both sites open, ``alpha`` at paris, nothing frozen."""
    systems = whole.systems()
    gateway, ledger = systems.gateway(), systems.ledger()
    safety.thaw(ledger, systems.estate, by="ada")
    token = ledger.take_lease("service:alpha", "test", timedelta(minutes=1))
    for site in whole.sites:
        gateway.open_site(site, token=token.token)
    # Envoy may still hold for healthy what was killed a moment ago.
    for replica in (one for site in whole.sites for one in systems.replicas(site)):
        wait_until(lambda one=replica: one.ready("alpha"), "a replica is ready")
    for model in ("alpha", "beta", "gamma"):
        whole.envoy.await_healthy(model, paris=1, dublin=1)
    gateway.move("alpha", "paris", token=token.token)
    ledger.release_lease(token)
    return whole


def declared_lost(systems: Systems, site: str = "paris", **more: Any) -> Any:
    run = f"run-{datetime.now(UTC).timestamp()}"
    return decide_failover(
        systems, lost_site=site, reasons=["store: down"], holder=run, declared_at=datetime.now(UTC), **more
    )


def by_hand(systems: Systems, site: str = "paris") -> Any:
    return fail_over_here(systems, lost_site=site, holder=f"run-{datetime.now(UTC).timestamp()}", by="ada")


def at_dublin(world: World, **changes: Any) -> Systems:
    """After a failover and the return of paris: users are at dublin, and nothing stands against going back."""
    systems = world.systems(**changes)
    ((record, problem),) = by_hand(systems)
    assert (record.facts["outcome"], problem) == ("moved", None)
    reopen_site(systems, "paris", holder=f"return-{record.seq}")
    return systems


def where(systems: Systems) -> tuple[str, ...]:
    return systems.gateway().state().active["alpha"]


def back(systems: Systems, holder: str = "") -> FailbackPlan:
    return plan_failback(systems, "alpha", holder=holder or f"back-{datetime.now(UTC).timestamp()}")


# --- safety rules ------------------------------------------------------------------------------------------------


def test_frozen_automation_moves_nothing_says_so_and_a_person_still_can(world: World) -> None:
    systems = world.systems()
    ledger = systems.ledger()
    frozen = safety.freeze(ledger, systems.estate, reason="works", by="ada", lasting=timedelta(hours=2))
    with pytest.raises(Refused, match=r"frozen by ada until .*works.*start fail_over with site paris by hand"):
        declared_lost(systems)
    assert (where(systems), systems.gateway().state().closed_sites) == (("paris",), frozenset())
    assert ledger.records(kind="failover", limit=1)[0].facts["outcome"] == "refused"
    assert [loss.subject for loss in safety.unanswered_losses(ledger, frozen.at)] == ["paris"]
    ((record, _),) = by_hand(systems)
    assert (record.facts["outcome"], where(systems)) == ("moved", ("dublin",))
    with pytest.raises(Refused, match="start return_site with site paris by hand"):
        reconcile_site(systems, "paris")
    assert reconcile_site(systems, "paris", by="ada")


def test_no_failover_goes_to_a_site_in_a_drill_and_the_site_that_answers_stays_open(world: World) -> None:
    systems, now = world.systems(), datetime.now(UTC)
    drill = Injection(
        id="drill-1", scenario="site-loss", site="dublin", service="alpha", started_at=now, expires_at=now
    )
    open_injection(world.home, drill)
    try:
        with pytest.raises(Refused, match=r"dublin is in a drill; paris still answers, and stays open"):
            declared_lost(systems, by="ada")
        assert "dublin is in a drill" in check_readiness(systems, only="alpha")[0].reason
    finally:
        close_injection(world.home, drill.id, by="test")
    assert (where(systems), systems.gateway().state().closed_sites) == (("paris",), frozenset())
    assert systems.ledger().current_lease("site:paris") is None, "a refusal holds nothing back"


def meanwhile(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Once, at the instant at which a failover takes the lease of ``alpha``, after all that it looked at before."""
    take, done = SqlLedger.take_lease, list[bool]()

    def late(ledger: SqlLedger, name: str, holder: str, ttl: timedelta) -> Any:
        if name == "service:alpha" and not done:
            done.append(True)
            act()
        return take(ledger, name, holder, ttl)

    patch.setattr(SqlLedger, "take_lease", late)


def test_a_drill_that_begins_while_a_failover_decides_is_seen_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems, now = world.systems(), datetime.now(UTC)
    drill = Injection(
        id="drill-2", scenario="site-loss", site="dublin", service="alpha", started_at=now, expires_at=now
    )
    meanwhile(monkeypatch, lambda: open_injection(world.home, drill))
    try:
        with pytest.raises(Refused, match="dublin is in a drill"):
            declared_lost(systems, by="ada")
    finally:
        close_injection(world.home, drill.id, by="test")
    assert where(systems) == ("paris",)
    assert systems.ledger().current_lease("service:alpha") is None, "a refusal holds nothing back"


def test_of_two_failovers_that_decide_at_once_the_later_one_counts_the_earlier_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_dublin(world)
    ledger = world.systems().ledger()
    limit = 1 + sum(one.facts.get("outcome") == "moved" for one in ledger.records(kind="failover", subject="alpha"))
    systems = world.systems(recovery={"failovers_per_hour": limit})
    assert safety.too_many_failovers(ledger, systems.estate, "alpha") is None
    meanwhile(monkeypatch, lambda: ledger.append("failover", "alpha", {"outcome": "moved", "run": "the earlier one"}))
    with pytest.raises(Refused, match=f"moved {limit} times within the last hour, and the estate allows {limit}"):
        declared_lost(systems, "dublin")
    assert ledger.current_lease("service:alpha") is None


def test_two_people_who_close_both_sites_at_the_same_instant_leave_one_open(world: World) -> None:
    systems, start, refused = world.systems(), threading.Barrier(2), list[str]()

    def close(site: str) -> None:
        start.wait()
        try:
            declared_lost(world.systems(), site, by="ada")
        except Refused as error:
            refused.append(str(error))

    threads = [threading.Thread(target=close, args=(site,)) for site in world.sites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(systems.gateway().state().closed_sites) == 1, refused
    assert any("last open site" in why or "stays open" in why for why in refused), refused
    held = systems.ledger().current_lease("service:alpha")
    if held:
        systems.ledger().release_lease(held)


def test_automation_moves_a_service_only_so_often_within_an_hour_and_a_person_still_can(world: World) -> None:
    at_dublin(world)
    systems = world.systems(recovery={"failovers_per_hour": 1})
    with pytest.raises(Refused, match=r"moved \d+ times within the last hour, and the estate allows 1"):
        declared_lost(systems, "dublin")
    assert "dublin" not in systems.gateway().state().closed_sites
    ((record, _),) = by_hand(systems, "dublin")
    assert (record.facts["outcome"], where(systems)) == ("moved", ("paris",))


def test_a_standby_takes_its_seats_when_it_is_activated_and_gives_them_back_when_the_service_is_home(
    world: World,
) -> None:
    refusing = world.systems(licences=[LICENCE | {"grace": None}])
    with pytest.raises(Refused, match=r"1 of 1 seats in use, and alpha at dublin needs 1 more.*paris still answers"):
        declared_lost(refusing)
    systems = at_dublin(world, licences=[LICENCE])
    licence = systems.estate.licences[0]
    holdings = current_holdings(systems.estate, systems.ledger(), licence)
    assert [one.site for one in holdings.held] == ["paris", "dublin"]
    assert holdings.beyond_since == holdings.held[1].since
    said = " ".join(one.text for one in explain(systems, systems.estate.services[0], look(systems)))
    assert "Licence engine: 2 seats are in use, and 1 were bought." in said
    plan = back(systems)
    shifted = shift_traffic(systems, plan)
    record_failback(systems, plan, {"shift_traffic": shifted}, approved_by="grace")
    assert [one.site for one in current_holdings(systems.estate, systems.ledger(), licence).held] == ["paris"]


# --- the way back ------------------------------------------------------------------------------------------------


def test_a_failback_is_refused_while_the_reason_for_the_failover_stands(world: World) -> None:
    systems = world.systems()
    with pytest.raises(Refused, match="served from paris, its first site, already"):
        back(systems)
    by_hand(systems)
    with pytest.raises(Refused, match=r"paris is lost since .* and was not taken back through the gate"):
        back(systems)
    reopen_site(systems, "paris", holder="return-refused")
    with pytest.raises(Refused, match=r"paris is back for only \d+ s, and the estate waits 300 s"):
        back(world.systems(recovery={}))
    newest, *_ = systems.ledger().records(kind="failback")
    assert newest.facts["outcome"] == "refused"
    with pytest.raises(Refused, match="active-active"):
        plan_failback(systems, "beta", holder="beta")
    assert back(systems).target == "paris"


def test_traffic_goes_back_step_by_step_and_the_evidence_says_how(world: World) -> None:
    systems = at_dublin(world, recovery={"failback": {"after": "1ms", "shares": [20, 50], "hold": "1s"}})
    plan = back(systems)
    steps: dict[str, Any] = {
        "reconcile_data": failback.reconcile_data(systems, plan),
        "verify_data": failback.verify_target(systems, plan),
        "shift_traffic": shift_traffic(systems, plan),
    }
    shares = {step["share"]: step["answered_by_target"] / step["sent"] for step in steps["shift_traffic"]["steps"]}
    assert list(shares) == [20, 50]
    assert shares[20] == pytest.approx(0.2, abs=0.15)
    assert shares[50] == pytest.approx(0.5, abs=0.15)
    record = record_failback(systems, plan, steps, approved_by="grace")
    assert record_failback(systems, plan, steps, approved_by="grace") == record
    assert (record.facts["outcome"], record.facts["served_from"]) == ("moved", ["paris"])
    assert (where(systems), systems.gateway().state().shares) == (("paris",), {})
    assert systems.ledger().current_lease("service:alpha") is None
    text = " ".join(one.text for one in explain(systems, systems.estate.services[0], look(systems)))
    assert "A failback moved it from dublin to paris" in text
    assert "grace approved that." in text
    assert verify_ledger(systems.ledger(), systems.stores()).verdict == "whole"


def test_killed_between_two_steps_it_goes_on_from_the_share_that_the_gateway_has(world: World) -> None:
    systems = at_dublin(world)
    plan = back(systems)
    failback._set_share(systems, plan, 0, 50)  # the last that it did
    done = shift_traffic(systems, plan)
    assert [step["share"] for step in done["steps"]] == [50]
    assert where(systems) == ("paris",)


def test_wrong_answers_on_the_way_turn_all_traffic_back(world: World) -> None:
    systems = at_dublin(world)
    paris = world.sites["paris"].store
    good = paris.get("models", "alpha/release.json")
    assert good
    publish(paris, "alpha", "2", bias=1.0)
    for replica in systems.replicas("paris"):
        replica.load("alpha")
    paris.put("models", "alpha/release.json", good)  # whose golden answers the model that runs does not give
    plan = back(systems)
    try:
        with pytest.raises(Refused, match="wrong golden answer"):
            shift_traffic(systems, plan)
        assert (where(systems), systems.gateway().state().shares) == (("dublin",), {})
        record = record_failback(systems, plan, {"shift_traffic": None}, approved_by=None)
        assert (record.facts["outcome"], record.facts["served_from"]) == ("failed", ["dublin"])
    finally:
        for replica in systems.replicas("paris"):
            replica.load("alpha")


def test_a_failover_in_the_middle_of_a_failback_wins_at_once(world: World) -> None:
    systems = at_dublin(world)
    plan, errors = back(systems), []

    def go_back() -> None:
        try:
            shift_traffic(slow, plan)
        except Refused as error:
            errors.append(str(error))

    slow = world.systems(recovery={"failback": {"after": "1ms", "shares": [20], "hold": "30s"}})
    thread = threading.Thread(target=go_back)
    thread.start()
    wait_until(lambda: systems.gateway().state().shares, "a share of the traffic is at paris")
    ((record, problem),) = by_hand(systems, "paris")
    assert (record.facts["outcome"], record.facts["to"], problem) == ("moved", "dublin", None)
    thread.join(10)
    assert not thread.is_alive()
    assert "moved by somebody else" in errors[0] or "paris was closed" in errors[0]
    assert where(systems) == ("dublin",)
    assert systems.gateway().state().closed_sites == {"paris"}


def test_whatever_ended_a_failback_half_way_its_record_leaves_the_traffic_in_one_place(world: World) -> None:
    systems = at_dublin(world)
    plan = back(systems)
    failback._set_share(systems, plan, 0, 20)
    record = record_failback(systems, plan, {"shift_traffic": None}, approved_by=None)
    assert (record.facts["outcome"], record.facts["turned_back"]) == ("failed", True)
    assert (where(systems), systems.gateway().state().shares) == (("dublin",), {})


# --- readiness ---------------------------------------------------------------------------------------------------


def look(systems: Systems, service: str = "alpha", **more: Any) -> Any:
    (found,) = check_readiness(systems, only=service, **more)
    return found


def states(found: Any, site: str = "dublin") -> dict[str, State]:
    (standby,) = (one for one in found.standbys if one.site == site)
    return {item.name: item.state for item in standby.items if item.state is not State.PASS}


def test_readiness_names_what_would_stop_a_failover_and_only_that(world: World) -> None:
    systems, dublin = world.systems(), world.sites["dublin"].store
    assert states(look(systems)) == {"last drill": State.UNKNOWN}
    assert look(systems).state is State.PASS
    key = publish(dublin, "alpha")["object"]
    whole = dublin.get("models", key)
    assert whole
    dublin.put("models", key, whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        damaged = look(systems)
        assert states(damaged) == {"model": State.FAIL, "last drill": State.UNKNOWN}
        assert "run replicate_data, which repairs it" in damaged.reason
    finally:
        dublin.put("models", key, whole)
    world.vouch("block", "dublin")
    try:
        assert states(look(systems))["gate"] is State.FAIL
        assert "the gate said no to rows at dublin" in look(systems).reason
    finally:
        world.vouch("pass", "dublin")
    world.sites["dublin"].replica_processes[0].kill()
    try:
        failing = {name for name, state in states(look(systems)).items() if state is State.FAIL}
        assert failing >= {"replicas", "capacity"}
    finally:
        world.sites["dublin"].replica_processes[0].start()


@contextmanager
def cold(world: World, site: str) -> Iterator[None]:
    """As replicas start at a standby that is not declared warm: nobody has had ``alpha`` loaded there."""
    systems = world.systems()
    for replica in systems.replicas(site):
        replica.unload("alpha")
    here = {"paris": 1, "dublin": 1, site: 0}
    wait_until(lambda: systems.gateway().healthy_sites("alpha") == here, "the gateway sees it")
    try:
        yield
    finally:
        for replica in systems.replicas(site):
            replica.load("alpha")


def kept(world: World, standby: str, *services: str) -> Systems:
    """An estate of these services alone, whose standbys are kept so."""
    declared = [one for one in world.estate().model_dump(mode="json")["services"] if one["name"] in services]
    return world.systems(services=[{**one, "standby": standby} for one in declared])


def test_a_cold_standby_is_ready_a_failover_loads_the_model_and_so_does_the_way_back(world: World) -> None:
    systems = world.systems()
    with cold(world, "dublin"):
        assert look(systems).state is State.PASS
        assert states(look(systems)) == {"last drill": State.UNKNOWN}
        ((record, problem),) = by_hand(systems)
        assert (record.facts["outcome"], problem) == ("moved", None)
    reopen_site(systems, "paris", holder=f"return-{record.seq}")
    with cold(world, "paris"):
        plan = back(systems)
        warm_up(systems, plan)
        wait_until(lambda: systems.gateway().healthy_sites("alpha")["paris"], "the gateway sees that it is loaded")
        shift_traffic(systems, plan)
    assert where(systems) == ("paris",)


def test_a_warm_standby_that_has_not_loaded_the_model_would_be_slower_than_promised(world: World) -> None:
    warm = kept(world, "warm", "alpha")
    assert states(look(warm)) == {"last drill": State.UNKNOWN}
    with cold(world, "dublin"):
        found = look(warm)
        assert (found.state, states(found)["gateway"]) == (State.PASS, State.FAIL)
        assert "dublin is no warm standby now: no replica there has alpha loaded" in found.standbys[0].remarks


def test_a_site_that_is_nothing_but_a_cold_standby_does_not_look_lost_to_the_gateway(world: World) -> None:
    with cold(world, "dublin"):
        assert kept(world, "cold", "alpha").gateway().unhealthy_sites() == {}
        assert set(kept(world, "warm", "alpha").gateway().unhealthy_sites()) == {"dublin"}


def test_evidence_is_left_when_something_has_changed_and_daily_and_a_model_is_not_read_again_meanwhile(
    world: World,
) -> None:
    systems, now = world.systems(), datetime.now(UTC)
    first = check_readiness(systems)
    keep_readiness(systems, first, run="look-1")
    again = check_readiness(systems, kept=kept_readiness(systems))
    assert keep_readiness(systems, again, run="look-2") == []
    (model,) = (item for item in again[0].standbys[0].items if item.name == "model")
    assert model.value.startswith("as it was at")
    tomorrow = [replace(one, checked_at=now + timedelta(days=1, minutes=1)) for one in first]
    assert len(keep_readiness(systems, tomorrow, run="look-3")) == 3
    safety.freeze(systems.ledger(), systems.estate, reason="works", by="ada", lasting=timedelta(hours=1))
    (record,) = keep_readiness(systems, check_readiness(systems), run="look-4")
    assert (record.subject, record.facts["state"]) == ("alpha", "fail"), "active-active services move nothing"
    assert "frozen by ada" in record.facts["reason"]


def test_the_commands_say_the_same_with_their_exit_codes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    systems = world.systems()
    monkeypatch.setenv("NINELIVES_HOME", str(world.home.root))
    monkeypatch.setattr("ninelives.adapters.connected.load_estate", lambda _: systems.estate)
    monkeypatch.setattr(ConnectedEstate, "ledger", lambda _: systems.ledger())

    def run(*arguments: str) -> tuple[int, str]:
        done = typer.testing.CliRunner().invoke(app, arguments)
        return done.exit_code, done.output

    assert run("readiness", "alpha")[0] == 0
    code, said = run("why", "alpha")
    assert code == 0
    assert "alpha (active-passive) is served from paris." in said
    assert "If paris were lost now, alpha would move to dublin by itself" in said
    assert "If paris were lost now, dublin would go on without a move." in run("why", "gamma")[1]
    assert run("playbook", "check", "alpha")[0] == 3
    assert run("playbook", "show", "alpha", "--keep")[0] == 0
    assert run("playbook", "check", "alpha") == (0, "alpha: fresh\n")
    assert run("licence", "status") == (0, "the estate declares no licence\n")
    over = LICENCE | {"product": "E [x]", "expires": "2026-01-31", "grace": "1d"}
    systems = world.systems(licences=[over])
    assert run("licence", "status") == (
        3,
        "engine (E [x]): missed; 1 of 1 seats, alpha at paris; term to 2026-01-31, grace until 2026-02-02T00:00 UTC\n"
        "  its term ended after 2026-01-31\nnext planned drill: none\n",
    )
    systems = world.systems()
    frozen = ("automation", "freeze", "--by", "ada", "--for", "2h", "--reason", "works")
    assert run(*frozen)[0] == 0
    assert run("automation", "status")[0] == 3
    code, said = run("readiness", "alpha")
    assert code == 3
    assert "frozen by ada" in " ".join(said.split())
    assert "nothing would take over, and users would get the declared fallback" in run("why", "alpha")[1]
    assert run("playbook", "check", "alpha")[0] == 3, "it now begins with what to mend"
    assert run("automation", "thaw", "--by", "ada")[1] == "automation acts\n"
    assert run("why", "nobody")[0] == 2
    assert run("playbook", "check", "")[0] == 2, "an empty name is not all of them"
    for wrong, says in (
        (["nonsense"], "there is no scenario 'nonsense'"),
        (["site-loss", "--service", "nobody"], "there is no service 'nobody'"),
        (["site-loss", "--site", "rome"], "is not at site 'rome'"),
        (["gateway-lost", "--site", "paris"], "not about one site"),
    ):
        code, said = run("drill", "run", *wrong)
        assert code == 2, "before Airflow is asked, which is not there"
        assert says in " ".join(said.replace("│", " ").split())


def test_a_playbook_follows_the_release_that_is_promoted(world: World) -> None:
    systems = world.systems()
    first = make_playbook(systems, look(systems))
    keep_playbook(systems, first, run="promotion-1")
    assert first.build["architecture"] != "unknown"
    known = {site: world.sites[site].store.get("models", "alpha/release.json") for site in world.sites}
    for site in world.sites:
        publish(world.sites[site].store, "alpha", "2", bias=2.0)
    try:
        second = make_playbook(systems, look(systems))
        assert second.stale
        assert second.build["digest"] != first.build["digest"]
        assert second.build["architecture"] == first.build["architecture"]
        record = keep_playbook(systems, second, run="promotion-2")
        assert record
        assert any("version: 2" in line for line in record.facts["differences"])
    finally:
        for site, release in known.items():
            assert release
            world.sites[site].store.put("models", "alpha/release.json", release)
