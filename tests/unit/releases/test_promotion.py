from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.models import sum_model
from support.promotion import MODEL, Memory, MemoryReplica, killed_after, release_of

from ninelives.adapters.model_signing import ModelSigner, make_keys
from ninelives.errors import Corrupted, Refused
from ninelives.estate.model import Vault
from ninelives.estate.outside import Consumer, Datatype
from ninelives.releases import canary, promotion
from ninelives.releases.canary import Decision
from ninelives.releases.journal import Entry, Outcome, Stretch, at, history, of_run, read
from ninelives.releases.promotion import begin, promote, retire, roll_back, scan_artefact
from ninelives.releases.publish import BUCKET, newest_golden_version, read_release, signature_key, stage
from ninelives.releases.staging import stage_file
from ninelives.releases.status import release_history, release_status


def yes(metrics: Any, horizon: int) -> tuple[Decision, list[str]]:
    return Decision.PROMOTE, []


def no(metrics: Any, horizon: int) -> tuple[Decision, list[str]]:
    return Decision.ROLL_BACK, ["errors are higher"]


def unsure(metrics: Any, horizon: int) -> tuple[Decision, list[str]]:
    return Decision.INCONCLUSIVE, ["not enough data"]


@pytest.fixture(autouse=True)
def _gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate has tests of its own; here it has said yes."""
    monkeypatch.setattr(promotion, "verify_data", lambda systems, plan: {"evidence": {}})


def run(systems: Memory, judge: Any = yes) -> Any:
    return promote(systems, begin(systems, MODEL, "2", by="ada"), approve=lambda: None, judge=judge)  # type: ignore[arg-type]


def served(systems: Memory) -> tuple[set[str], str, set[str]]:
    """Pointers, alias, and what users get."""
    pointers = {read_release(store, MODEL).version for store in systems.stores().values()}  # type: ignore[arg-type, union-attr]
    return pointers, systems.registry().alias, systems.answering()


def agree(systems: Memory) -> None:
    """The gateway does what the journal says it may do; the alias follows only once all requests have moved."""
    journals = read(systems.ledger(), MODEL)
    if not journals:
        return
    journal = journals[-1]
    gateway = systems.gateway().used
    now = {version: share for version, share in gateway.shares.items() if share} if gateway else None
    if now is not None:
        assert now in [dict(one) for one in journal.shares]
    else:
        assert systems.answering() <= {version for one in journal.shares for version in one}
    if systems.registry().alias == "2":
        assert journal.find(Entry.TRAFFIC, "full")
    if journal.outcome and not journal.rolling_back:
        expected = "2" if journal.outcome is Outcome.PROMOTED else "1"
        assert served(systems) == ({expected}, expected, {expected})


def test_every_step_leaves_its_record_and_all_of_them_say_the_same_version_at_the_end(tmp_path: Path) -> None:
    systems = Memory(tmp_path)
    record = run(systems)
    assert record.facts["outcome"] == "promoted"
    assert served(systems) == ({"2"}, "2", {"2"})
    (journal,) = read(systems.ledger(), MODEL)
    assert journal.done == (
        "check_interface", "check_hardware", "scan_artefact", "verify_data", "approve", "warm_up", "shadow",
        "canary-5", "canary-50", "take_over",
    )  # fmt: skip
    assert run(systems) == record, "the same request twice is one run"
    assert retire(systems, journal.plan, now=datetime.now(UTC) + timedelta(days=1))  # type: ignore[arg-type]
    assert [one.beside for site in ("paris", "dublin") for one in systems.replicas(site)] == [{}, {}]
    with pytest.raises(Refused, match="not kept any more"):
        roll_back(systems, journal.plan, by="ada", reasons=["too late"])  # type: ignore[arg-type]


def test_a_worse_version_is_rolled_back_and_begins_anew_only_when_asked(tmp_path: Path) -> None:
    systems = Memory(tmp_path)
    record = run(systems, no)
    assert record.facts["outcome"] == "rolled back"
    assert "errors are higher" in record.facts["why"]
    assert served(systems) == ({"1"}, "1", {"1"})
    assert newest_golden_version(systems.home, MODEL) == "1", "no standby is behind for want of what was rolled back"
    assert run(systems) == record
    plan = begin(systems, MODEL, "2", by="ada", again=True)  # type: ignore[arg-type]
    assert plan.run == "promote-alpha-2-2"
    assert promote(systems, plan, approve=lambda: None, judge=yes).facts["outcome"] == "promoted"  # type: ignore[arg-type]


def test_a_version_that_was_warm_before_must_get_as_fast_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = Memory(tmp_path)
    run(systems, no)
    (first,) = (one.find(Entry.STEP, "warm_up") for one in read(systems.ledger(), MODEL))
    assert first
    assert first.facts["found"]["provisional"] == ["http://paris", "http://dublin"], "nobody knew how fast it is"
    replica, answer = systems.replicas("dublin")[0], MemoryReplica.infer_version

    def slow(model: str, version: str, rows: Any) -> Any:
        sleep(0.005)
        return answer(replica, model, version, rows)

    monkeypatch.setattr(replica, "infer_version", slow)
    monkeypatch.setattr(promotion, "KNOWN", replace(promotion.KNOWN, max_requests=120))
    again = begin(systems, MODEL, "2", by="ada", again=True)  # type: ignore[arg-type]
    ended = promote(systems, again, approve=lambda: None, judge=yes)  # type: ignore[arg-type]
    assert ended.facts["outcome"] == "rolled back"
    assert "http://dublin: latency of version 2 did not settle in 120 requests" in ended.facts["why"]
    assert "http://paris" not in ended.facts["why"]


def test_undecided_is_no_yes(tmp_path: Path) -> None:
    systems = Memory(tmp_path)
    record = run(systems, unsure)
    assert (record.facts["outcome"], served(systems)) == ("rolled back", ({"1"}, "1", {"1"}))
    assert "undecided after" in record.facts["why"]
    (journal,) = read(systems.ledger(), MODEL)
    assert journal.done[-1] == "canary-5", "a small share that cannot decide is followed by a larger one"


def test_what_a_step_has_counted_is_kept_and_the_next_goes_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary, "SHORTEST", 0.001)
    shown = list[tuple[int, int]]()

    def judge(metrics: Any, horizon: int) -> tuple[Decision, list[str]]:
        shown.append((len(metrics[0]["control"]), horizon))
        return Decision.PROMOTE, []

    steps = [{"share": 5, "hold": "50ms"}, {"share": 50, "hold": "50ms"}]
    systems = Memory(tmp_path, {"shadow_for": "20ms", "canary": steps})
    run(systems, judge)
    (journal,) = read(systems.ledger(), MODEL)
    copies, first, second = (journal.find(Entry.COUNTED, name) for name in ("shadow", "canary-5", "canary-50"))
    assert copies
    assert first
    assert second
    for name, counted in first.facts["looks"].items():
        assert 0 < len(counted) < len(second.facts["looks"][name])
        assert second.facts["looks"][name][: len(counted)] == counted
    assert {horizon for _, horizon in shown} == {20, 100}, "of the copies, and of both holds together"


def test_a_known_answer_that_turns_wrong_in_the_middle_ends_it_at_once(tmp_path: Path) -> None:
    systems = Memory(tmp_path)

    def spoil(metrics: Any, horizon: int) -> tuple[Decision, list[str]]:
        systems.replicas("paris")[0].beside["2"] = release_of("1", 0.0)[0]
        return Decision.PROMOTE, []

    record = run(systems, spoil)
    assert record.facts["outcome"] == "rolled back"
    assert "http://paris: wrong golden answer {'total': [3.5]}" in record.facts["why"]


def test_what_is_staged_must_be_what_the_registry_says(tmp_path: Path) -> None:
    systems = Memory(tmp_path)
    systems.registry().digests["2"] = "sha256:" + "0" * 64
    record = run(systems)
    assert record.facts["outcome"] == "rolled back"
    assert "staged is another" in record.facts["why"]


def test_whoever_relies_on_what_the_new_version_does_not_have_is_named(tmp_path: Path) -> None:
    systems: Any = Memory(tmp_path)
    shop = Consumer(
        name="shop",
        service=MODEL,
        contact="shop@example.org",
        sends={"a": Datatype.FP32, "b": Datatype.INT64, "tag": Datatype.BYTES},
        reads={"total": Datatype.FP32, "delay": Datatype.FP32},
    )
    systems.estate = systems.estate.model_copy(update={"consumers": (shop,)})
    assert "shop: delay is read, and the new version does not give it" in run(systems).facts["why"]
    shop = shop.model_copy(update={"reads": {"total": Datatype.FP32}})
    systems.estate = systems.estate.model_copy(update={"consumers": (shop,)})
    model = onnx.load_model_from_string(sum_model())
    model.graph.initializer[0].CopyFrom(onnx.helper.make_tensor("bias", onnx.TensorProto.FLOAT, [3], [0.0] * 3))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    stage(systems.store("paris"), *release_of("3", 2.0, bytes(model.SerializeToString())))
    with pytest.raises(Refused, match=r"shop: total has the shape \[any, 1\], and \[any, 3\] in the new version"):
        promotion.check_interface(systems, begin(systems, MODEL, "3", by="ada"))


def test_without_a_look_at_accelerators_only_a_model_that_needs_none_comes_in(tmp_path: Path) -> None:
    record = run(Memory(tmp_path, {"hardware": "accelerator"}))
    assert record.facts["outcome"] == "rolled back"
    assert "declares no machine with accelerators" in record.facts["why"]


def test_a_refused_approval_moves_nothing(tmp_path: Path) -> None:
    systems = Memory(tmp_path)

    def refuse() -> str | None:
        raise Refused("approval", ["grace answered Reject"])

    record = promote(systems, begin(systems, MODEL, "2", by="ada"), approve=refuse, judge=yes)  # type: ignore[arg-type]
    assert "grace answered Reject" in record.facts["why"]
    (journal,) = read(systems.ledger(), MODEL)
    assert journal.find(Entry.INTENT, "shadow") is None


def test_a_replica_that_was_started_anew_under_the_new_version_ends_it(tmp_path: Path) -> None:
    systems = Memory(tmp_path)

    def crash(metrics: Any, horizon: int) -> tuple[Decision, list[str]]:
        systems.replicas("paris")[0].boot = "2"
        return Decision.INCONCLUSIVE, []

    record = run(systems, crash)
    assert record.facts["outcome"] == "rolled back"
    assert "was started anew" in record.facts["why"]


def test_after_the_promotion_a_person_can_go_back_while_the_old_version_is_kept(tmp_path: Path) -> None:
    systems = Memory(tmp_path, {"keep_for": "1d"})
    run(systems)
    plan = read(systems.ledger(), MODEL)[-1].plan
    assert not retire(systems, plan)  # type: ignore[arg-type]
    record = roll_back(systems, plan, by="grace", reasons=["complaints"])  # type: ignore[arg-type]
    assert (record.facts["by"], served(systems)) == ("grace", ({"1"}, "1", {"1"}))
    pointer = read_release(systems.store("paris"), MODEL)  # type: ignore[arg-type]
    assert pointer
    assert pointer.created_at > systems.two[0].created_at, "the way back is newer than what it takes back"
    stretches = history(read(systems.ledger(), MODEL), Stretch(None, {"1": 100}, "train", None, "published"))
    first, last = stretches[0], at(stretches, datetime.now(UTC))
    assert (first.since, last.shares, last.decided_by, last.why) == (None, {"1": 100}, "grace", "complaints")
    assert {str(dict(one.shares)) for one in stretches} >= {"{'1': 95, '2': 5}", "{'1': 50, '2': 50}", "{'2': 100}"}


def test_who_may_not_change_the_traffic_changes_nothing_and_the_promotion_is_over(tmp_path: Path) -> None:
    systems = Memory(tmp_path)
    other = systems.ledger().take_lease(f"release:{MODEL}", "somebody else", timedelta(minutes=5))
    record = run(systems)
    (journal,) = read(systems.ledger(), MODEL)
    assert (record.facts["outcome"], journal.open, journal.find(Entry.INTENT, "canary-5")) == (
        "rolled back",
        False,
        None,
    )
    assert "somebody else holds it" in record.facts["why"]
    systems.ledger().release_lease(other)
    assert begin(systems, MODEL, "2", by="ada", again=True).run.endswith("-2")  # type: ignore[arg-type]


def test_a_retired_version_leaves_no_lease_in_the_way_of_the_next_and_history_says_who_approved(tmp_path: Path) -> None:
    systems = Memory(tmp_path, {"shadow": 0})
    plan = begin(systems, MODEL, "2", by="ada")  # type: ignore[arg-type]
    promote(systems, plan, approve=lambda: "grace", judge=yes)  # type: ignore[arg-type]
    assert retire(systems, plan, now=datetime.now(UTC) + timedelta(days=1))  # type: ignore[arg-type]
    assert systems.ledger().current_lease(f"release:{MODEL}") is None
    first, *rows = release_history(systems, MODEL)  # type: ignore[arg-type]
    assert (first["approved_by"], {(row["decided_by"], row["approved_by"]) for row in rows}) == (
        None,
        {("ada", "grace")},
    )


def test_two_versions_are_never_promoted_at_once_and_none_that_is_older(tmp_path: Path) -> None:
    systems = Memory(tmp_path)
    begin(systems, MODEL, "2", by="ada")  # type: ignore[arg-type]
    stage(systems.store("paris"), *release_of("3", 2.0))  # type: ignore[arg-type]
    with pytest.raises(Refused, match="promotion to version 2 is not over"):
        begin(systems, MODEL, "3", by="ada")  # type: ignore[arg-type]
    with pytest.raises(Refused, match="only a newer one"):
        begin(Memory(tmp_path / "other"), MODEL, "1", by="ada")  # type: ignore[arg-type]


ANYWHERE = {
    "kills": st.lists(st.integers(0, 70), min_size=1, max_size=3),
    "good": st.booleans(),
    "back": st.booleans(),
}


@settings(max_examples=5, deadline=None)
@example(kills=[34], good=True, back=True)  # the way back begins while a change is half made
@given(**ANYWHERE)
def test_killed_anywhere_and_run_again_registry_gateway_and_ledger_agree_at_every_instant(
    kills: list[int], good: bool, back: bool
) -> None:
    kill_and_go_on(kills, good, back)


@pytest.mark.soak
@settings(max_examples=150, deadline=None)
@given(**ANYWHERE)
def test_killed_anywhere_many_more_times(kills: list[int], good: bool, back: bool) -> None:
    kill_and_go_on(kills, good, back)


def kill_and_go_on(kills: list[int], good: bool, back: bool) -> None:
    with TemporaryDirectory() as folder:
        systems = Memory(Path(folder), {"shadow": 0})
        systems.fuse.watch = lambda: agree(systems)
        judge = yes if good else no
        for calls in kills:
            with killed_after(systems.fuse, calls):
                run(systems, judge)
            agree(systems)
        if back and read(systems.ledger(), MODEL):
            plan = read(systems.ledger(), MODEL)[-1].plan
            with killed_after(systems.fuse, kills[0]):
                roll_back(systems, plan, by="ada", reasons=["enough"])  # type: ignore[arg-type]
            agree(systems)
        record = run(systems, judge)
        agree(systems)
        journal = of_run(systems.ledger(), read(systems.ledger(), MODEL)[-1].plan)
        promoted = good and not journal.find(Entry.ROLL_BACK)
        assert record.facts["outcome"] == ("promoted" if promoted else "rolled back")


def test_status_says_when_ledger_gateway_stores_or_registry_disagree_and_when_a_version_is_forgotten(
    tmp_path: Path,
) -> None:
    systems: Any = Memory(tmp_path)
    assert release_status(systems, MODEL)["problems"] == []
    run(systems)
    now = datetime.now(UTC)
    found = release_status(systems, MODEL, now)
    assert (found["shares"], found["champion"], found["run"]["state"]) == ({"2": 100}, "2", "promoted")
    (forgotten,) = release_status(systems, MODEL, now + timedelta(days=1))["problems"]
    assert "version 1 was to be kept until" in forgotten
    assert retire(systems, read(systems.ledger(), MODEL)[-1].plan, now=now + timedelta(days=1))
    assert release_status(systems, MODEL, now + timedelta(days=1))["problems"] == []
    systems.registry().alias = "1"
    (wrong,) = release_status(systems, MODEL)["problems"]
    assert "the ledger says version 2, the registry's champion is 1" in wrong
    (then,) = release_history(systems, MODEL, now)
    assert (then["shares"], then["decided_by"]) == ({"2": 100}, "ada")


def test_an_estate_with_a_key_lets_in_only_what_that_key_has_signed(tmp_path: Path) -> None:
    systems: Any = Memory(tmp_path)
    systems.estate = systems.estate.model_copy(update={"vault": Vault(site="reykjavik", keeper="ada")})
    signer = ModelSigner(*make_keys())
    systems.signer = lambda: signer
    plan = begin(systems, MODEL, "2", by="ada")
    with pytest.raises(Refused, match="is not signed"):
        scan_artefact(systems, plan)
    stage_file(systems, MODEL, "2", systems.two[1], data_version="none")
    assert scan_artefact(systems, plan)["signed"]
    promotion.warm_up(systems, plan)
    signatures = {store.get(BUCKET, signature_key(MODEL, "2")) for store in systems.stores().values()}
    assert len(signatures) == 1, "it is at every site, as the version is"
    assert None not in signatures
    systems.signer = lambda: ModelSigner(*make_keys())
    with pytest.raises(Corrupted, match="not signed with the estate's key"):
        scan_artefact(systems, plan)
