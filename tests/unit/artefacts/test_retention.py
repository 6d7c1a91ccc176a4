"""A version that is used or held is never deleted, whenever a deletion was killed; what is due goes, on record."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.replication.memory import Killed
from unit.versions.estates import MemoryRegistry, TwoSites

from ninelives.artefacts.holds import KIND as HOLD
from ninelives.artefacts.holds import LEASE, place, release, standing
from ninelives.artefacts.orphans import find
from ninelives.artefacts.prune import KIND, prune, unfinished
from ninelives.artefacts.retention import plan
from ninelives.backups.run import estate_tag
from ninelives.errors import Refused, Unavailable
from ninelives.estate.artefacts import ArtefactRetention
from ninelives.ports import GatewayState, ModelVersion, Snapshot, VersionSplit
from ninelives.releases.publish import (
    GoldenAnswer,
    Release,
    candidate_key,
    digest_of,
    object_key,
    pointer_key,
    signature_key,
)

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MODEL, SERVICE = "arrival-delay", "arrival-delay"
RULE = ArtefactRetention(keep=2, keep_for=timedelta(days=30))


class Registry(MemoryRegistry):
    def __init__(self, systems: Any) -> None:
        super().__init__()
        self.systems, self.alias = systems, "9"

    def champion(self, model: str) -> str | None:
        self.ping()
        return self.alias

    def artefacts(self, version: ModelVersion) -> tuple[str, ...]:
        return (f"1/models/m-{version.version}/artifacts/",)

    def delete_version(self, model: str, version: str) -> None:
        assert version != self.alias
        self.systems.fuse.burn()
        self.registered = [one for one in self.registered if (one.model, one.version) != (model, version)]

    def known_artefacts(self) -> frozenset[str]:
        return frozenset(prefix for one in self.registered for prefix in self.artefacts(one))


class Estate(TwoSites):
    """Versions 1 to 9 of a model, 100 days old at most; 9 is the champion and served at both sites."""

    def __init__(self) -> None:
        super().__init__()
        models = [one.model_copy(update={"retention": RULE}) for one in self.estate.models]
        self.estate = self.estate.model_copy(update={"models": tuple(models)})
        self.the_registry: Any = Registry(self)
        self.split: VersionSplit | None = None
        self.snapshots = [Snapshot("there", NOW, (estate_tag(self.estate),))]
        for store in self.sites.values():
            store.ensure_bucket("mlflow")
            store.ensure_bucket("models")
        for number in range(1, 10):
            self.add(str(number), NOW - timedelta(days=110 - 10 * number))
        for store in self.sites.values():
            store.put("models", pointer_key(MODEL), release_of("9", b"9").model_dump_json().encode())

    def add(self, version: str, at: datetime, data: bytes | None = None) -> None:
        data = version.encode() if data is None else data
        made = release_of(version, data)
        self.the_registry.registered.append(ModelVersion(MODEL, version, made.digest, None, None, "run", at))
        for store in self.sites.values():
            store.put("models", candidate_key(MODEL, version), made.model_dump_json().encode())
            store.put("models", signature_key(MODEL, version), b"signed")
            store.put("models", made.object, data)
            store.put("mlflow", f"1/models/m-{version}/artifacts/model.pkl", data)

    def gateway(self) -> Any:
        return SimpleNamespace(
            state=lambda: GatewayState({}, frozenset(), {}, versions={SERVICE: self.split} if self.split else {})
        )

    def vault(self) -> Any:
        return SimpleNamespace(snapshots=lambda: self.snapshots)

    def whole(self, version: str) -> bool:
        """Whether everything of a version is at both sites and in the registry."""
        registered = {one.version: one for one in self.the_registry.registered}
        keys = [candidate_key(MODEL, version), signature_key(MODEL, version)]
        return version in registered and all(
            store.get("mlflow", f"1/models/m-{version}/artifacts/model.pkl") is not None
            and store.get("models", object_key(MODEL, str(registered[version].digest))) is not None
            and all(store.get("models", key) is not None for key in keys)
            for store in self.sites.values()
        )

    def left(self, version: str) -> list[str]:
        return [
            f"{site}/{bucket}/{key}"
            for site, store in self.sites.items()
            for bucket in ("models", "mlflow")
            for key in store.objects(bucket)
            if key in (candidate_key(MODEL, version), signature_key(MODEL, version))
            or key == object_key(MODEL, digest_of(version.encode()))
            or f"/m-{version}/" in key
        ]

    def prune(self, **options: Any) -> Any:
        return prune(self, "me", lambda: NOW, by="ada", **options)  # type: ignore[arg-type]


def release_of(version: str, data: bytes) -> Release:
    return Release(
        model=MODEL, version=version, digest=digest_of(data), object=object_key(MODEL, digest_of(data)),
        size=len(data), data_version="d.dir", tolerance=0.0, created_at=NOW,
        golden=(GoldenAnswer(inputs={"a": 1.0}, outputs={"y": (1.0,)}),),
    )  # fmt: skip


def use(systems: Estate, how: str, version: str) -> None:
    match how:
        case "hold":
            place(systems, MODEL, version, by="counsel", why="claim 7")  # type: ignore[arg-type]
        case "gateway":
            systems.split = VersionSplit("9", {"9": 100}, beside=(version,))
        case "way back":
            plan = {
                "run": f"p{version}",
                "service": SERVICE,
                "model": MODEL,
                "old": version,
                "new": "9",
                "by": "a",
                "begun_at": "",
            }
            facts = {"run": f"p{version}", "entry": "begun", "name": "", "promotion": plan}
            systems.the_ledger.append("promotion", SERVICE, facts)
        case "incident":
            systems.the_ledger.append("failover", SERVICE, {"served": {"model": MODEL, "version": version}})
        case "backup":
            facts = {"snapshot": "there", "releases": [f"{MODEL}@{version}"]}
            systems.the_ledger.append("backup", "estate", facts)
        case "release":
            data = release_of(version, version.encode()).model_dump_json().encode()
            systems.sites["dublin"].put("models", pointer_key(MODEL), data)
        case "champion":
            systems.the_registry.alias = version


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("1234567"),
        st.sampled_from(["hold", "gateway", "way back", "incident", "backup", "release", "champion"]),
        max_size=3,
    ),
    st.integers(0, 60),
)
def test_what_is_used_or_held_stays_whole_and_the_rest_goes_wherever_a_deletion_was_killed(
    uses: Mapping[str, str], steps: int
) -> None:
    systems = Estate()
    expired = {"snapshot": "not in the vault any more", "releases": [f"{MODEL}@{number}" for number in range(1, 10)]}
    systems.the_ledger.append("backup", "estate", expired)
    for version, how in uses.items():
        use(systems, how, version)
    needed = {one for one in uses if uses[one] in ("hold", "incident", "backup")}
    for how in ("gateway", "way back", "release", "champion"):  # of these the last one said stands, or all
        named = [one for one in uses if uses[one] == how]
        needed |= set(named if how == "way back" else named[-1:])
    systems.fuse.steps = steps
    try:
        systems.prune()
    except Killed:
        systems.the_ledger.leases.clear()  # it expires
    systems.fuse.steps = None
    systems.prune()
    assert all(systems.whole(one) for one in {*needed, "8", "9"})
    assert unfinished(systems.the_ledger) == []  # type: ignore[arg-type]
    gone = {one.facts["version"] for one in systems.the_ledger.records(kind=KIND) if one.facts["entry"] == "deleted"}
    # Version 8 and 9 are the newest; all up to 8 are older than 30 days.
    assert gone == set("1234567") - needed
    assert [systems.left(one) for one in sorted(gone)] == [[] for _ in gone]
    assert find(systems, NOW).orphans == ()  # type: ignore[arg-type]


versions = st.lists(
    st.builds(
        ModelVersion, st.sampled_from("ab"), st.integers(1, 30).map(str), st.none(), st.none(), st.none(), st.none(),
        st.one_of(st.none(), st.integers(0, 90).map(lambda days: NOW - timedelta(days=days))),
    ),
    unique_by=lambda one: (one.model, one.version), max_size=20,
)  # fmt: skip


@given(versions, st.integers(1, 5), st.integers(1, 60), st.sets(st.integers(1, 30).map(str)))
def test_every_version_either_stays_with_reasons_or_is_due_by_a_rule_that_it_meets(
    registered: list[ModelVersion], keep: int, days: int, used: set[str]
) -> None:
    rule = ArtefactRetention(keep=keep, keep_for=timedelta(days=days))
    uses = {("a", version): {"somebody"} for version in used}
    found = plan(registered, {"a": rule, "b": None}, uses, NOW)
    assert found.kept.keys() | found.due.keys() == {(one.model, one.version) for one in registered}
    assert not found.kept.keys() & found.due.keys()
    assert all(found.kept.values())
    for one in registered:
        newer = [other for other in registered if other.model == "a" and int(other.version) > int(one.version)]
        due = one.model == "a" and one.version not in used and len(newer) >= keep
        due = due and one.created_at is not None and NOW - one.created_at >= timedelta(days=days)
        assert ((one.model, one.version) in found.due) == due


def test_a_hold_says_who_and_why_keeps_until_it_is_released_and_cannot_come_while_versions_go() -> None:
    systems: Any = Estate()
    for wrong, why, until, says in (
        ("77", "claim", None, "no such version"),
        ("1", " ", None, "say why"),
        ("1", "claim", NOW - timedelta(days=365), "is past"),
    ):
        with pytest.raises(Refused, match=says):
            place(systems, MODEL, wrong, by="counsel", why=why, until=until)
    held = place(systems, MODEL, "1", by="counsel", why="claim 7")
    short = place(systems, MODEL, "2", by="counsel", why="audit", until=datetime.now(UTC) + timedelta(days=1))
    assert {one.version for one in standing(systems.ledger().records(kind=HOLD), datetime.now(UTC))} == {"1", "2"}
    later = datetime.now(UTC) + timedelta(days=2)
    assert [one.number for one in standing(systems.ledger().records(kind=HOLD), later)] == [held.seq]
    assert f"held by counsel until it is released: claim 7 (evidence {held.seq})" in str(
        systems.prune(dry_run=True).retention.kept[MODEL, "1"]
    )
    with pytest.raises(Refused, match="no hold has that number"):
        release(systems.ledger(), short.seq + 100, by="counsel", why="over")
    assert release(systems.ledger(), held.seq, by="counsel", why="settled") == release(
        systems.ledger(), held.seq, by="counsel", why="settled"
    )
    assert (MODEL, "1") in systems.prune(dry_run=True).retention.due
    systems.ledger().take_lease(LEASE, "prune", timedelta(minutes=1))
    with pytest.raises(Unavailable, match="artefacts are being kept or pruned"):
        place(systems, MODEL, "3", by="counsel", why="claim 8")


def test_a_dry_run_says_exactly_what_would_go_and_changes_nothing() -> None:
    systems = Estate()
    would = systems.prune(dry_run=True)
    assert all(systems.whole(str(number)) for number in range(1, 10))
    assert systems.the_ledger.records(kind=KIND) == []
    done = systems.prune()
    assert [(one.version, one.objects, one.bytes) for one in would.deleted] == [
        (one.version, one.objects, one.bytes) for one in done.deleted
    ]
    assert [one.version for one in done.deleted] == list("1234567")


def test_shared_bytes_are_left_and_a_deletion_of_what_is_used_by_now_is_given_up() -> None:
    systems = Estate()
    systems.add("10", NOW, data=b"1")  # the same weights as version 1, trained again
    systems.fuse.steps = 0
    with pytest.raises(Killed):
        systems.prune()
    systems.fuse.steps = None
    systems.the_ledger.leases.clear()
    assert "1" in [one.version for one in systems.prune(dry_run=True).deleted], "as the next one would finish it"
    assert [one.facts["version"] for one in unfinished(systems.the_ledger)] == ["1"]  # type: ignore[arg-type]
    use(systems, "champion", "1")
    done = systems.prune()
    assert done.spared == (f"{MODEL}@1: champion",)
    assert systems.whole("1")
    systems.the_registry.alias = "9"
    systems.prune()
    assert systems.whole("10")


def test_a_dry_run_says_what_a_killed_deletion_has_left_to_do() -> None:
    systems = Estate()
    systems.fuse.steps = 1  # out of the registry, and nothing more
    with pytest.raises(Killed):
        systems.prune()
    systems.fuse.steps = None
    systems.the_ledger.leases.clear()
    assert "1" not in [one.version for one in systems.the_registry.registered]
    would, done = systems.prune(dry_run=True).deleted, systems.prune().deleted
    assert [(one.version, one.objects) for one in would] == [(one.version, one.objects) for one in done]
    assert [one.version for one in would] == list("1234567")


def test_nothing_goes_while_somebody_who_may_need_it_cannot_be_asked() -> None:
    systems = Estate()
    for silent in (*systems.sites.values(), systems.the_registry, systems.the_ledger):
        silent.down = True
        with pytest.raises(Unavailable):
            systems.prune()
        silent.down = False
    assert all(systems.whole(str(number)) for number in range(1, 10))


def test_orphans_and_versions_whose_artefact_is_gone_are_named_and_young_objects_left_out() -> None:
    systems: Any = Estate()
    paris = systems.sites["paris"]
    paris.put("models", f"{MODEL}/sha256/{'0' * 64}.onnx", b"nobody's")
    paris.put("models", candidate_key(MODEL, "88"), b"{}")
    paris.put("models", "strange/file", b"x")
    paris.put("mlflow", "1/models/m-77/artifacts/model.pkl", b"x")
    paris.buckets["mlflow"]["1/models/m-78/artifacts/model.pkl"] = (b"x", NOW - timedelta(hours=1))
    for store in systems.sites.values():
        store.delete("models", object_key(MODEL, digest_of(b"4")))
        store.delete("mlflow", "1/models/m-5/artifacts/model.pkl")
    found = find(systems, NOW)
    assert [one.key for one in found.orphans] == [
        "1/models/m-77/artifacts/model.pkl", candidate_key(MODEL, "88"),
        f"{MODEL}/sha256/{'0' * 64}.onnx", "strange/file",
    ]  # fmt: skip
    assert [(one.version, one.what.split()[3][:6]) for one in found.gone] == [("4", "models"), ("5", "anythi")]
    assert found.verdict == "missed"
