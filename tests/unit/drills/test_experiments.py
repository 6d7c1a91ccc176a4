"""Experiments that users bring, on Chaos Toolkit's real library in real processes."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from support.processes import wait_until

from ninelives.adapters.connections import FileConnections
from ninelives.adapters.faults import SupervisedFaults
from ninelives.drills.experiments import experiment_facts, judge_experiment, read_experiment
from ninelives.drills.scenario import Drill
from ninelives.drills.scenarios import SCENARIOS
from ninelives.errors import Refused, Unavailable
from ninelives.home import Home
from ninelives.injections import Experiment, Injection, begin_undo, open_injection, open_injections
from ninelives.stack.keeper import undo_expired


class World:
    """A home folder, and nothing else: neither store nor supervisor."""

    def __init__(self, root: Path) -> None:
        self.home, self.mark = Home(root), root / "mark"
        self.faults = SupervisedFaults(FileConnections(root / "none.json"), self.home)

    def plan(self, **changes: Any) -> Experiment:
        """A valid experiment that writes a file and takes it away again, changed."""
        document = {
            "title": "mark",
            "description": "-",
            "method": [activity("make", "touch", self.mark)],
            "rollbacks": [activity("remove", "rm", f"-f {self.mark}")],
            **changes,
        }
        self.home.experiments.mkdir(exist_ok=True)
        (self.home.experiments / "mark.json").write_text(json.dumps(document))
        systems: Any = SimpleNamespace(home=self.home)
        (fault,) = SCENARIOS["experiment"].plan(systems, Drill("drill-1", "experiment", "beta", "mark"))
        assert isinstance(fault, Experiment)
        return fault

    def inject(self, **changes: Any) -> Experiment:
        now, fault = datetime.now(UTC), self.plan(**changes)
        open_injection(
            self.home,
            Injection(id="drill-1", scenario="experiment", site="mark", service="beta", started_at=now,
                      expires_at=now + timedelta(minutes=5), faults=(fault,)),
        )  # fmt: skip
        self.faults.inject(fault)
        return fault

    def keep(self) -> list[Injection]:
        return undo_expired(self.home, datetime.now(UTC) + timedelta(hours=1), self.faults)


def activity(name: str, path: str, arguments: Any, **more: Any) -> dict[str, Any]:
    provider = {"type": "process", "path": path, "arguments": str(arguments)}
    return {"type": "action", "name": name, "provider": provider, **more}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_it_runs_to_its_end_and_whoever_undoes_it_runs_its_rollbacks(world: World) -> None:
    fault = world.inject()
    journal = wait_until(lambda: read_experiment(world.home, "drill-1"), "the end of the method")
    assert world.mark.exists(), "the rollbacks are not the library's to run"
    assert judge_experiment(journal) == "met"
    world.mark.unlink()
    world.faults.inject(fault)
    assert not world.mark.exists(), "a task that is repeated does not run it again"
    world.mark.touch()
    assert [one.undone_by for one in world.keep()] == [None]
    assert not world.mark.exists()
    assert open_injections(world.home) == []


def test_one_that_must_stop_in_mid_pause_is_stopped_at_once(world: World) -> None:
    """Chaos Toolkit itself would wait for the rest of the pause."""
    fault = world.inject(method=[activity("make", "touch", world.mark, pauses={"after": 600})])
    wait_until(world.mark.exists, "the pause")
    (child,) = (one for one in psutil.Process().children() if "ninelives.adapters.chaos" in one.cmdline())
    begin_undo(world.home, "drill-1")
    began = time.monotonic()
    undoing = Thread(target=world.faults.undo, args=(fault,))
    undoing.start()
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "its end", every=0.005)
    assert time.monotonic() - began < 0.25
    undoing.join()
    assert not world.mark.exists()
    assert read_experiment(world.home, "drill-1") is None, "nothing is known of its hypothesis"


def test_a_rollback_that_fails_leaves_the_fault_open_to_be_tried_again(world: World) -> None:
    gate = world.home.root / "gate"
    fault = world.inject(rollbacks=[activity("ask", "test", f"-e {gate}")])
    wait_until(lambda: read_experiment(world.home, "drill-1"), "the end of the method")
    with pytest.raises(Unavailable, match="rollback of mark failed"):
        world.faults.undo(fault)
    assert world.keep() == []
    gate.touch()
    assert len(world.keep()) == 1


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dry": "activities"}, r"experiment\.dry: Chaos Toolkit ignores a dry that is text"),
        ({"method": [activity("make", "true", "", dry="actions")]}, r"method\[0\]\.dry"),
        ({"rollbacks": []}, "no rollbacks"),
        ({"rollbacks": [{"ref": "make"}]}, r"rollbacks\[0\]\.ref: rollbacks are run without the method"),
        ({"rollbacks": {"a": 1}}, "its rollbacks must be a list of activities"),
        ({"rollbacks": [None]}, "its rollbacks must be a list of activities"),
        ({"method": []}, "its method must be a list of activities that is not empty"),
        ({"method": "touch"}, "its method must be a list of activities"),
        ({"method": [{"type": "action", "name": "x"}]}, "Chaos Toolkit refuses it"),
        ({"method": [{"type": "action", "name": "x", "provider": "x"}]}, "something in it is of a wrong type"),
        ({"steady-state-hypothesis": [1]}, "something in it is of a wrong type"),
        ({"configuration": "x"}, "something in it is of a wrong type"),
    ],
    ids=["a dry run that would be real", "the same of one activity", "no way back", "a way back that is elsewhere",
         "no list", "no activity", "nothing to do", "no list of things to do", "not valid",
         "a provider of a wrong type", "a hypothesis of a wrong type", "a configuration of a wrong type"],
)  # fmt: skip
def test_one_that_would_not_do_what_it_says_is_refused_beforehand(
    world: World, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(Refused, match=why):
        world.faults.check(world.plan(**changes))


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 10_000, '{"title": ' * 10_000, "9" * 5_000])
def test_what_is_no_json_object_is_refused(world: World, text: str) -> None:
    with pytest.raises(Refused, match="it is not"):
        world.faults.check(world.plan().model_copy(update={"document": text}))


def test_a_file_that_cannot_be_read_is_refused_and_says_why(world: World) -> None:
    world.plan()
    file = world.home.experiments / "mark.json"
    plan = lambda: SCENARIOS["experiment"].plan(  # noqa: E731
        SimpleNamespace(home=world.home), Drill("d", "experiment", "beta", "mark")  # type: ignore[arg-type]
    )  # fmt: skip
    file.write_bytes(b'{"title": "caf\xe9"}')
    with pytest.raises(Refused, match="mark is not UTF-8"):
        plan()
    file.unlink()
    file.mkdir()
    with pytest.raises(Refused, match="mark cannot be read"):
        plan()


def test_one_that_was_changed_after_it_was_approved_is_not_run(world: World) -> None:
    world.plan()
    scenario, drill = SCENARIOS["experiment"], Drill("d", "experiment", "beta", "mark")
    systems: Any = SimpleNamespace(home=world.home)
    approved = replace(drill, fingerprint=scenario.fingerprint(systems, drill))
    assert scenario.plan(systems, approved) == scenario.plan(systems, drill)
    world.plan(title="another one")
    with pytest.raises(Refused, match="mark was changed since it was planned"):
        scenario.plan(systems, approved)


def test_one_whose_hypothesis_does_not_hold_beforehand_does_nothing_and_is_not_met(world: World) -> None:
    """To Chaos Toolkit it is completed, and has not deviated."""
    probe = {**activity("ask", "false", ""), "type": "probe", "tolerance": 0}
    world.inject(**{"steady-state-hypothesis": {"title": "x", "probes": [probe]}})
    journal = wait_until(lambda: read_experiment(world.home, "drill-1"), "the end of the method")
    assert (journal["status"], journal["deviated"], world.mark.exists()) == ("completed", False, False)
    assert judge_experiment(journal) == "unknown"
    (injection,) = open_injections(world.home)
    facts = experiment_facts(world.home, injection)
    assert facts
    assert (facts["name"], facts["hypothesis_held"]["before"], facts["activities"]) == ("mark", False, [])
    world.keep()


def test_its_evidence_says_which_one_it_was_and_which_activity_failed_and_not_what_that_put_out(world: World) -> None:
    fault = world.inject(method=[activity("make", "touch", world.mark), activity("say", "ls", "/secret/of/ours")])
    wait_until(lambda: read_experiment(world.home, "drill-1"), "the end of the method")
    (injection,) = open_injections(world.home)
    assert experiment_facts(world.home, injection) == {
        "name": "mark",
        "sha256": hashlib.sha256(fault.document.encode()).hexdigest(),
        "status": "completed",
        "hypothesis_held": {"before": None, "after": None},
        "activities": [{"name": "make", "succeeded": True}, {"name": "say", "succeeded": False}],
    }
    world.keep()


def test_what_is_valid_is_not_refused_and_one_that_is_not_there_is_named(world: World) -> None:
    world.faults.check(world.plan())
    systems: Any = SimpleNamespace(home=world.home)
    with pytest.raises(Refused, match=r"no experiment 'other' in .*; there is mark"):
        SCENARIOS["experiment"].plan(systems, Drill("d", "experiment", "beta", "other"))
