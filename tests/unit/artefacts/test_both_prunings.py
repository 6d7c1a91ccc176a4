"""Versions of models and versions of data are pruned by two commands; whatever their order, what is needed stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from unit.artefacts.test_retention import MODEL, NOW, Estate, use
from unit.replication.memory import Killed
from unit.versions.estates import as_dvc

from ninelives.ports import ModelVersion
from ninelives.versions.objects import object_key, read_version
from ninelives.versions.prune import prune as prune_data

HOWS = ("hold", "gateway", "way back", "incident", "backup")
OLD = [str(number) for number in range(1, 8)]
"""Versions that the estate's retention lets go, where nobody needs them: see ``Estate``."""


class Both(Estate):
    """As ``Estate``, and each version was trained on data of its own, of which the next one has a part."""

    def __init__(self) -> None:
        super().__init__()
        self.data: dict[str, tuple[str, dict[str, bytes]]] = {}
        for at, one in enumerate(list(self.the_registry.registered)):
            files = {"a": one.version.encode(), "b": str(int(one.version) + 1).encode()}
            version = self.keep(files, at=NOW - timedelta(days=100 - at))
            self.data[one.version] = version, files
            self.the_registry.registered[at] = ModelVersion(
                one.model, one.version, one.digest, version, None, one.run, one.created_at
            )
        for store in self.sites.values():  # the estate's releases name data that this world does not have
            for key in store.objects("models"):
                if key.endswith(".json"):
                    number = key.removesuffix(".json").rpartition("/")[2]
                    data, _ = self.data["9" if number == "release" else number]
                    body = store.get("models", key) or b""
                    store.put("models", key, body.replace(b'"d.dir"', f'"{data}"'.encode()))

    def go(self, what: str) -> None:
        if what == "artefacts":
            self.prune()
        else:
            prune_data(self, what, lambda: NOW)  # type: ignore[arg-type]

    def registered(self) -> set[str]:
        return {one.version for one in self.the_registry.registered}

    def has_data(self, version: str) -> bool:
        data, files = self.data[version]
        return all(read_version(store, data) == files for store in self.sites.values())


orders = st.lists(st.sampled_from(["artefacts", "data"]), min_size=2, max_size=4)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(OLD), st.sampled_from(HOWS), max_size=3), orders, st.integers(0, 90))
@example({"3": "backup"}, ["data", "artefacts", "data"], 0)
@example({"3": "incident", "1": "hold"}, ["artefacts", "data"], 20)
def test_what_a_retained_model_a_backup_or_an_incident_needs_stays_whatever_goes_first_and_wherever_it_was_killed(
    uses: Mapping[str, str], order: Sequence[str], steps: int
) -> None:
    systems = Both()
    everything = [f"{MODEL}@{one}" for one in OLD]
    systems.the_ledger.append("backup", "estate", {"snapshot": "not in the vault any more", "releases": everything})
    systems.the_ledger.append("drill", "site-loss", {"served": everything})
    for version, how in uses.items():
        use(systems, how, version)
    needed = {"8", "9", *(one for one in uses if uses[one] != "gateway")}
    needed |= set([one for one in uses if uses[one] == "gateway"][-1:])  # of these the last one said stands
    systems.fuse.steps = steps
    for what in order:
        try:
            systems.go(what)
        except Killed:
            systems.the_ledger.leases.clear()  # it expires
            systems.fuse.steps = None
        assert all(systems.whole(one) and systems.has_data(one) for one in needed)
        assert all(systems.has_data(one) for one in systems.registered()), "of every model that is still there"
    systems.fuse.steps = None
    for what in ("artefacts", "data"):
        systems.go(what)
    assert systems.registered() == needed
    wanted = {object_key(name) for one in needed for name in as_dvc(systems.data[one][1])[1]}
    assert [systems.names(site) for site in systems.sites] == [wanted, wanted], "and nothing else is left"


def test_an_incident_that_is_written_down_after_the_deletion_still_keeps_the_data() -> None:
    systems: Any = Both()
    systems.go("artefacts")
    assert "3" not in systems.registered()
    incident = {"served": {"model": MODEL, "version": "3"}}  # found out later, of the time when it answered
    systems.the_ledger.append("incident", MODEL, incident)
    systems.go("data")
    assert systems.has_data("3")
    gone = object_key(systems.data["5"][0])
    assert gone not in systems.names("paris"), "of another deleted version, which nobody has named"
