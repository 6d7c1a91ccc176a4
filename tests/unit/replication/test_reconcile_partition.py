"""Sites that lived apart: whatever they did and whenever somebody was killed, they meet and nothing is lost."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from unit.replication.memory import Killed
from unit.replication.partition import Partition, decide

from ninelives.errors import Corrupted
from ninelives.replication.agreed import read_agreed
from ninelives.replication.manifest import read_manifest
from ninelives.replication.merge import UNDECIDED, Side, merge, merge_value
from ninelives.replication.questions import DELETE, KEEP

sites = st.sampled_from(["paris", "dublin"])
keys = st.sampled_from([f"flights/{n}" for n in range(4)])
values = st.sampled_from(["1", "2", "3"])
states = st.dictionaries(keys, values)


class Apart(RuleBasedStateMachine):
    """Any interleaving of writes, deletions, lost objects, disks set back, runs killed at any step, and answers."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = Partition()
        self.written: set[tuple[str, bytes]] = set()
        self.deleted: set[tuple[str, bytes]] = set()
        """By somebody, and not written anew since."""
        self.deleted_here: set[tuple[str, str]] = set()
        """Site and key, since the sites last agreed. Written anew there with the same bytes, nobody can tell."""
        self.snapshots: dict[str, dict[str, dict[str, tuple[bytes, object]]]] = {}

    @rule(site=sites, key=keys, data=st.sampled_from([b"x", b"yy", b"zzz"]), commit=st.booleans())
    def write(self, site: str, key: str, data: bytes, commit: bool) -> None:
        recorded = read_manifest(self.pair.stores[site], "flights")
        if key in self.pair.objects(site) or (recorded and key in recorded.by_key):
            return  # objects are immutable
        self.pair.write(site, key, data, commit=commit)
        self.written.add((key, data))
        if (site, key) not in self.deleted_here:
            self.deleted.discard((key, data))

    @rule(site=sites, key=keys)
    def delete(self, site: str, key: str) -> None:
        self.pair.commit(site)
        if key in self.pair.objects(site) and not self.only_copy(site, key):
            self.deleted.add((key, self.pair.objects(site)[key]))
            self.deleted_here.add((site, key))
            self.pair.delete(site, key)

    def only_copy(self, site: str, key: str) -> bool:
        """The other site has lost the object: only a backup would have it, should a person say to keep it."""
        other = self.pair.stores["dublin" if site == "paris" else "paris"]
        recorded = read_manifest(other, "flights")
        return recorded is not None and key in recorded.by_key and key not in other.objects()

    @rule(site=sites, key=keys)
    def lose_object(self, site: str, key: str) -> None:
        other = "dublin" if site == "paris" else "paris"
        here = self.pair.objects(site).get(key)
        recorded = {s: read_manifest(self.pair.stores[s], "flights") for s in (site, other)}
        if (
            here is not None
            and self.pair.objects(other).get(key) == here
            and all(manifest and key in manifest.by_key for manifest in recorded.values())
        ):
            self.pair.stores[site].buckets["data"].pop(key)

    @rule(site=sites)
    def take_snapshot(self, site: str) -> None:
        self.snapshots[site] = {name: dict(held) for name, held in self.pair.stores[site].buckets.items()}

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def set_back(self, data: st.DataObject) -> None:
        """The disk as it was: only where that alone destroys no acknowledged write."""
        site = data.draw(st.sampled_from(sorted(self.snapshots)))
        other = "dublin" if site == "paris" else "paris"
        before = {(key, held[0]) for key, held in self.snapshots[site]["data"].items()}
        elsewhere = set(self.pair.stores[other].objects().items())
        only_here = {
            (key, value)
            for key, value in self.pair.stores[site].objects().items()
            if not key.startswith(("_manifests/", "_agreed/", "_questions/"))
        }
        if only_here <= before | elsewhere:
            self.pair.stores[site].buckets = {name: dict(held) for name, held in self.snapshots[site].items()}

    @rule(steps=st.none() | st.integers(0, 20), keeper=st.none() | sites, answer=st.booleans())
    def reconcile(self, steps: int | None, keeper: str | None, answer: bool) -> None:
        decisions = {}
        if answer:
            for question in self.pair.plan(keeper=keeper).questions:
                decisions |= decide(question, question.options[-1])
                if question.kind == "deletions":
                    held = self.pair.objects("dublin" if question.subject == "paris" else "paris")
                    self.deleted |= {(key, held[key]) for key in question.keys if key in held}
        self.pair.fuse.steps = steps
        try:
            self.pair.apply(decisions=decisions, keeper=keeper)
            self.deleted_here.clear()
        except (Killed, Corrupted):
            pass
        finally:
            self.pair.fuse.steps = None

    def teardown(self) -> None:
        for _ in range(12):
            questions = self.pair.plan().questions
            if not questions:
                break
            decisions = {}
            for question in questions:
                decisions |= decide(question, question.options[0])
            self.pair.apply(decisions=decisions)
        result = self.pair.apply()
        assert result.questions == ()
        assert result.fingerprints_equal
        at_paris, at_dublin = self.pair.objects("paris"), self.pair.objects("dublin")
        assert at_paris == at_dublin
        for store in self.pair.stores.values():
            manifest = read_manifest(store, "flights")
            assert manifest is not None
            assert sorted(manifest.by_key) == sorted(at_paris)
        agreements = [read_agreed(store, "flights", ("paris", "dublin")) for store in self.pair.stores.values()]
        assert agreements[0] == agreements[1]
        self._nothing_is_lost(at_paris)
        before = {site: dict(store.buckets["data"]) for site, store in self.pair.stores.items()}
        again = self.pair.apply()
        assert (again.copied_to_site, again.copied_to_other) == (0, 0)
        assert before == {site: dict(store.buckets["data"]) for site, store in self.pair.stores.items()}

    def _nothing_is_lost(self, objects: dict[str, bytes]) -> None:
        kept = {(key, store_key, data) for store_key, data in self._aside() for key in self._keys(store_key)}
        for key, data in self.written:
            aside = {place for k, place, found in kept if (k, found) == (key, data)}
            if (key, data) in self.deleted:
                continue
            assert objects.get(key) == data or any(p.startswith("_conflicts/") for p in aside), (key, data)

    def _aside(self) -> list[tuple[str, bytes]]:
        return [
            (key, data)
            for store in self.pair.stores.values()
            for prefix in ("_conflicts/", "_trash/")
            for key, data in store.objects(prefix=prefix).items()
        ]

    def _keys(self, place: str) -> list[str]:
        return ["/".join(place.split("/")[2:-1])]


TestApart = Apart.TestCase
TestApart.settings = settings(
    max_examples=120, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


@settings(deadline=None, max_examples=25)
@given(st.dictionaries(st.integers(0, 40), st.sampled_from("kpdc"), min_size=1))
def test_what_one_site_deleted_is_deleted_and_what_it_created_is_copied(fates: dict[int, str]) -> None:
    """Of each object: kept, deleted at paris, deleted at dublin, or created at one of them since."""
    pair = Partition()
    old = {f"flights/{n:02}": bytes([n]) for n in range(60)}
    for key, data in old.items():
        pair.write("paris", key, data, commit=False)
    pair.commit("paris")
    pair.apply()
    gone = {fate: [f"flights/{n:02}" for n, f in fates.items() if f == fate] for fate in "pd"}
    gone = {fate: found[:10] for fate, found in gone.items()}  # more at once asks first
    pair.delete("paris", *gone["p"])
    pair.delete("dublin", *gone["d"])
    created = {f"flights/new-{n}": bytes([n, n]) for n, fate in fates.items() if fate == "c"}
    for number, (key, data) in enumerate(created.items()):
        pair.write(("paris", "dublin")[number % 2], key, data)
    before = {site: dict(store.buckets["data"]) for site, store in pair.stores.items()}
    planned = pair.plan()
    assert before == {site: dict(store.buckets["data"]) for site, store in pair.stores.items()}
    result = pair.apply()
    left = {key: data for key, data in old.items() if key not in {*gone["p"], *gone["d"]}}
    assert pair.objects("paris") == pair.objects("dublin") == {**left, **created}
    assert set(planned.deleted_at_other) == set(result.deleted_at_other) == set(gone["p"])
    assert set(planned.deleted_at_site) == set(result.deleted_at_site) == set(gone["d"])
    trash = {key.split("/", 2)[2].rpartition("/")[0] for key in pair.dublin.objects(prefix="_trash/")}
    assert trash == set(gone["p"])


def test_a_deletion_is_repeated_wherever_the_run_that_repeats_it_was_killed() -> None:
    """Also between the manifest that no longer lists the key and the deletion itself."""
    killed, steps = True, 0
    while killed:
        pair = Partition()
        for number in range(4):
            pair.write("paris", f"flights/{number}", bytes([number]))
        pair.apply()
        pair.delete("paris", "flights/0")
        pair.delete("dublin", "flights/1")
        pair.fuse.steps = steps
        with contextlib.suppress(Killed):
            pair.apply()
            killed = False
        pair.fuse.steps = None
        pair.apply()
        assert sorted(pair.objects("paris")) == sorted(pair.objects("dublin")) == ["flights/2", "flights/3"], steps
        steps += 1


@given(states, states, states, st.booleans(), st.booleans())
def test_the_merge_does_not_depend_on_who_is_named_first(
    base: dict[str, str], a: dict[str, str], b: dict[str, str], a_current: bool, b_current: bool
) -> None:
    one, two = Side("a", a, a_current), Side("b", b, b_current)
    forth, back = merge(base, one, two), merge(base, two, one)
    assert (forth.values, forth.undecided, forth.outlived) == (back.values, back.undecided, back.outlived)
    assert dict(forth.deletions) == dict(back.deletions)
    assert set(forth.values) | set(forth.undecided) == {*base, *a, *b}
    for key, value in forth.values.items():
        # Nothing is made up, and only what was agreed on before may go.
        assert value in {a.get(key), b.get(key), base.get(key)}
        if value is None:
            assert {a.get(key), b.get(key)} <= {None, base.get(key)}


@given(st.none() | values, st.none() | values, st.none() | values)
def test_a_write_is_never_given_up_for_a_deletion(base: str | None, a: str | None, b: str | None) -> None:
    merged = merge_value(base, a, b)
    for value in (a, b):
        if value is not None and value != base:
            assert merged in (value, a, b, UNDECIDED)
            assert merged is not None


def test_a_site_set_back_to_before_the_agreement_deletes_nothing() -> None:
    pair = Partition()
    pair.write("paris", "flights/1", b"one")
    pair.apply()
    old = dict(pair.dublin.buckets["data"])
    pair.write("paris", "flights/2", b"two")
    pair.apply()
    pair.dublin.buckets["data"] = old
    assert pair.plan().deleted_at_site == ()
    pair.apply()
    assert pair.objects("paris") == pair.objects("dublin") == {"flights/1": b"one", "flights/2": b"two"}


def test_a_lost_manifest_is_no_deletion() -> None:
    pair = Partition()
    pair.write("paris", "flights/1", b"one")
    pair.write("paris", "flights/2", b"two")
    pair.apply()
    for key in list(pair.dublin.objects()):
        if not key.startswith("_agreed/"):
            pair.dublin.buckets["data"].pop(key)
    assert pair.plan().questions == ()
    pair.apply()
    assert pair.objects("dublin") == {"flights/1": b"one", "flights/2": b"two"}


def test_an_object_lost_at_one_site_and_deleted_at_the_other_is_gone_and_asks_for_no_backup() -> None:
    pair = Partition()
    for number in range(30):
        pair.write("paris", f"flights/{number}", b"x", commit=False)
    pair.commit("paris")
    pair.apply()
    pair.paris.buckets["data"].pop("flights/3")
    pair.delete("dublin", "flights/3")
    assert pair.apply().fingerprints_equal
    assert "flights/3" not in {**pair.objects("paris"), **pair.objects("dublin")}


def test_many_deletions_at_once_ask_a_person_first() -> None:
    pair = Partition()
    for number in range(30):
        pair.write("paris", f"flights/{number}", b"x", commit=False)
    pair.commit("paris")
    pair.apply()
    pair.delete("dublin", *(f"flights/{number}" for number in range(12)))
    (question,) = pair.apply().questions
    assert (question.kind, question.subject, len(question.keys)) == ("deletions", "dublin", 12)
    assert len(pair.objects("paris")) == 30
    assert pair.apply(decisions=decide(question, KEEP)).decided[0].id == question.id
    assert len(pair.objects("dublin")) == 30

    pair.delete("dublin", *(f"flights/{number}" for number in range(12)))
    (question,) = pair.plan().questions
    pair.apply(decisions=decide(question, DELETE))
    assert len(pair.objects("paris")) == len(pair.objects("dublin")) == 18
    assert len(pair.paris.objects(prefix="_trash/")) == 12


def test_a_conflict_waits_for_a_person_and_both_versions_are_kept_at_both_sites() -> None:
    pair = Partition()
    pair.write("paris", "flights/1", b"at paris")
    pair.write("dublin", "flights/1", b"at dublin")
    pair.write("dublin", "flights/2", b"two")
    for _ in range(2):
        (question,) = pair.apply().questions
        assert question.options == ("paris", "dublin")
        assert pair.objects("paris") == {"flights/1": b"at paris", "flights/2": b"two"}
        assert pair.objects("dublin") == {"flights/1": b"at dublin", "flights/2": b"two"}
        for store in pair.stores.values():
            assert sorted(store.objects(prefix="_conflicts/").values()) == [b"at dublin", b"at paris"]
    result = pair.apply(decisions=decide(question, "paris"))
    assert [one.decision.choice for one in result.decided if one.decision] == ["paris"]
    assert pair.objects("paris") == pair.objects("dublin") == {"flights/1": b"at paris", "flights/2": b"two"}
    assert pair.apply().questions == ()


def test_what_the_keeper_settled_stays_a_question_and_can_be_decided_otherwise() -> None:
    pair = Partition()
    pair.write("paris", "flights/1", b"at paris")
    pair.write("dublin", "flights/1", b"at dublin")
    settled = pair.apply(keeper="dublin")
    assert pair.objects("paris") == pair.objects("dublin") == {"flights/1": b"at dublin"}
    (question,) = pair.plan().questions
    assert question.id == settled.questions[0].id
    for steps in range(12):
        pair.fuse.steps = steps
        try:
            pair.apply(decisions=decide(question, "paris") if steps == 3 else {})
        except Killed:
            continue
        finally:
            pair.fuse.steps = None
    pair.apply(decisions=decide(question, "paris"))
    assert pair.objects("paris") == pair.objects("dublin") == {"flights/1": b"at paris"}
    assert pair.plan().questions == ()


def test_a_decision_once_written_down_is_carried_out_by_the_next_run_after_a_kill() -> None:
    pair = Partition()
    pair.write("paris", "flights/1", b"at paris")
    pair.write("dublin", "flights/1", b"at dublin")
    (question,) = pair.apply().questions
    pair.fuse.steps = 2  # the question with its decision, at both sites
    with contextlib.suppress(Killed):
        pair.apply(decisions=decide(question, "dublin"))
    pair.fuse.steps = None
    assert pair.apply().questions == ()
    assert pair.objects("paris") == pair.objects("dublin") == {"flights/1": b"at dublin"}


@pytest.mark.parametrize("steps", range(16))
def test_a_key_written_anew_after_its_deletion_was_repeated_and_killed_is_a_new_write(steps: int) -> None:
    pair = Partition()
    for number in range(3):
        pair.write("paris", f"flights/{number}", b"x")
    pair.apply()
    pair.delete("dublin", "flights/1")
    pair.fuse.steps = steps
    with contextlib.suppress(Killed):
        pair.apply()
    pair.fuse.steps = None
    anew = "flights/1" not in pair.objects("paris")
    if anew:
        pair.write("paris", "flights/1", b"x")  # the same bytes, and so the same manifest as before
    pair.apply()
    assert pair.objects("paris") == pair.objects("dublin")
    if anew:
        assert pair.objects("dublin")["flights/1"] == b"x"
