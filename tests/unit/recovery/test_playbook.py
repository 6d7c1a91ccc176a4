"""Playbooks: every command can be pasted as it is, and a kept one is stale exactly when something behind it changed."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from support.models import estate_of_two_sites, sum_model
from unit.versions.estates import MemoryLedger

from ninelives.cli import app
from ninelives.errors import Corrupted
from ninelives.estate import Estate
from ninelives.home import Home
from ninelives.recovery.playbook import (
    Build,
    Playbook,
    audit_playbooks,
    front_matter,
    keep_playbook,
    make_playbook,
    render_playbook,
)
from ninelives.recovery.standby import Item, ServiceReadiness, Standby, State
from ninelives.releases.anatomy import anatomy_of

ESTATE = estate_of_two_sites()
BUILD = Build("3", "sha256:abc", "a1", "ai.onnx=17", "d1")
STOPPING = (
    "automation", "gateway", "drill", "store", "residency", "licence", "permissions", "release", "model", "replicas",
    "gate",
)  # fmt: skip


def systems(folder: Path = Path("/srv/my estate"), estate: Estate = ESTATE) -> Any:
    ledger = MemoryLedger()
    return SimpleNamespace(estate=estate, home=Home(folder), ledger=lambda: ledger)


def readiness(service: str = "alpha", *failing: str) -> ServiceReadiness:
    items = tuple(Item(name, State.FAIL, "", "", f"{name} fails at 12:01") for name in failing)
    mode = str(ESTATE.service_by_name[service].mode)
    return ServiceReadiness(service, mode, ("paris",), (Standby("dublin", items),), datetime.now(UTC))


def rendered(service: str = "alpha", *failing: str, build: Build = BUILD, of: Any = None) -> str:
    of = of or systems()
    return render_playbook(of, of.estate.service_by_name[service], readiness(service, *failing), build)


def commands(text: str) -> list[list[str]]:
    indented = (line.strip() for line in text.splitlines() if line.startswith("    "))
    quoted = itertools.chain.from_iterable(line.split("`")[1::2] for line in text.splitlines())
    return [shlex.split(one) for one in (*indented, *quoted) if one.startswith("ninelives ") and "..." not in one]


@pytest.mark.parametrize("service", ["alpha", "beta"])
def test_every_command_in_a_playbook_exists_and_takes_what_is_given(service: str) -> None:
    found = {tuple(words) for words in commands(rendered(service, *STOPPING))}
    assert len(found) > 15
    ninelives: Any = typer.main.get_command(app)
    for _, *words in found:
        command = ninelives
        context = command.make_context("ninelives", list(words), resilient_parsing=True)
        while hasattr(command, "get_command"):
            name, *words = words
            command = command.get_command(context, name)
            assert command, f"there is no {name} in ninelives {' '.join(words)}"
        command.make_context(name, list(words))  # raises for an option or argument that is not taken


def test_a_playbook_names_this_estate_and_can_be_pasted_where_its_home_has_spaces() -> None:
    text = rendered()
    assert "export NINELIVES_HOME='/srv/my estate'" in text
    for told in ("paris is lost while alpha is served there", "dublin is lost", "Back to paris", "5%, 25%, 50%, 100%"):
        assert told in text
    assert front_matter(text)["architecture"] == "a1"
    assert rendered("beta").count("## ") < text.count("## "), "an active-active service has no way back"


def test_each_thing_that_would_stop_a_failover_brings_its_own_step_and_nothing_that_changes_by_itself() -> None:
    whole = rendered()
    assert "Mend first" not in whole
    steps = {rendered("alpha", name) for name in STOPPING}
    assert len(steps) == len(STOPPING) - 1, "a release and its bytes come the same way"
    assert not any("12:01" in text for text in steps)


def test_a_playbook_is_stale_when_the_release_the_estate_or_readiness_has_changed(tmp_path: Path) -> None:
    now, of = rendered(), systems(tmp_path)
    assert Playbook("alpha", now, None).differences == ["no playbook is kept yet"]
    assert not Playbook("alpha", now, rendered()).stale
    document = ESTATE.model_dump(mode="json") | {"recovery": {"failback": {"shares": [10]}}}
    changed = systems(estate=Estate.model_validate(document))
    for kept in (
        rendered(build=replace(BUILD, architecture="a2")),
        rendered(build=replace(BUILD, dependency_hash="d2")),
        rendered("alpha", "model"),
        rendered(of=changed),
    ):
        assert Playbook("alpha", now, kept).differences, "what is different is shown"
    record = keep_playbook(of, Playbook("alpha", now, None), run="run")
    assert record
    assert record.facts["build"]["architecture"] == "a1"
    kept = (of.home.playbooks / "alpha.md").read_text()
    assert keep_playbook(of, Playbook("alpha", now, kept), run="run-2") is None
    assert len(of.ledger().all) == 1


def test_a_model_that_learned_other_numbers_has_the_same_anatomy_and_one_built_otherwise_another() -> None:
    one, again, other = (anatomy_of(sum_model(*how)) for how in ((0.0,), (5.0,), (0.0, "sum")))
    assert one == again
    assert one.dependencies == ("onnx-ir=9", "ai.onnx=17")
    assert other.architecture != one.architecture
    with pytest.raises(Corrupted, match="not an ONNX model"):
        anatomy_of(b"\xff" * 50)


def test_the_audit_finds_a_stale_playbook_leaves_evidence_and_renews_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, found = systems(tmp_path), [readiness("alpha")]
    monkeypatch.setattr("ninelives.recovery.playbook.find_build", lambda *_: BUILD)
    stale, _ = audit_playbooks(of, found, run="day-1")
    assert stale == {"alpha": "no playbook is kept yet"}
    keep_playbook(of, make_playbook(of, found[0]), run="look-1")
    kept = (of.home.playbooks / "alpha.md").read_text()
    assert audit_playbooks(of, found, run="day-2")[0] == {}

    other = replace(BUILD, version="4", architecture="a2")  # a release that changes it, and a look that never came
    monkeypatch.setattr("ninelives.recovery.playbook.find_build", lambda *_: other)
    stale, record = audit_playbooks(of, found, run="day-3")
    assert list(stale) == ["alpha"]
    assert stale["alpha"] == "-version: 3"
    assert (record.kind, record.facts["verdict"]) == ("playbook-audit", "missed")
    assert audit_playbooks(of, found, run="day-3")[1] == record, "a try that is repeated leaves one record"
    assert (of.home.playbooks / "alpha.md").read_text() == kept


PASS = Item("store", State.PASS, "")


@pytest.mark.parametrize(
    ("items", "state", "reason"),
    [
        ([PASS], State.PASS, ""),
        ([PASS, Item("gate", State.FAIL, "", "", "no", stops=False)], State.PASS, ""),
        ([PASS, Item("model", State.UNKNOWN, "", "", "unread")], State.UNKNOWN, "unread"),
        ([Item("model", State.UNKNOWN, "", "", "unread"), Item("gate", State.FAIL, "", "", "no")], State.FAIL, "no"),
    ],
)
def test_a_standby_is_as_good_as_its_worst_item_that_would_stop_a_failover(
    items: list[Item], state: State, reason: str
) -> None:
    standby = Standby("dublin", tuple(items))
    assert (standby.state, standby.first_reason) == (state, reason)


def test_an_active_passive_service_needs_one_good_standby_and_an_active_active_one_two_good_sites() -> None:
    good, bad = Standby("paris", (PASS,)), Standby("dublin", (Item("store", State.FAIL, "", "", "down"),))

    def of(mode: str, *standbys: Standby) -> ServiceReadiness:
        return ServiceReadiness("s", mode, ("rome",), standbys, datetime.now(UTC))

    assert of("active-passive", bad, good).state is State.PASS
    assert of("active-passive", bad).reason == "down"
    assert of("active-passive").state is State.FAIL
    assert of("active-active", good, good).state is State.PASS
    assert of("active-active", good, bad).reason == "down"
