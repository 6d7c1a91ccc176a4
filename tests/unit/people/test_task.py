"""Tasks for people: what is in them can be pasted, who answered what stays, and silence opens nothing."""

from __future__ import annotations

import itertools
import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from support.models import estate_of_two_sites
from unit.versions.estates import MemoryLedger

from ninelives.cli import app
from ninelives.errors import Corrupted, EstateError, Refused, Unavailable
from ninelives.estate import Estate
from ninelives.home import Home
from ninelives.people.task import (
    GIVE_UP,
    GO_ON,
    HumanTask,
    Stopped,
    close_task,
    is_for_people,
    open_task,
    open_tasks,
    render_task,
    say_mended,
    tell,
)
from ninelives.recovery.standby import Item, ServiceReadiness, Standby, State

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
STOPPED = Stopped("fail_over", "run-1", "fail_over_service.verify_data", "Refused: gate: no", ("alpha",), "dublin", 0)
EVERY_ITEM = (
    "automation", "gateway", "drill", "store", "residency", "licence", "permissions", "release", "model", "replicas",
    "gate",
)  # fmt: skip
STEPS = (
    "verify_data", "warm_up_standby", "move_traffic", "reconcile_data", "warm_up_target", "shift_traffic",
    "replicate_dataset", "merge_sites",
)  # fmt: skip
TOLD = Stopped("replicate_data", "run-1", "replicate_dataset", "Refused: gone", ("alpha",), "dublin", 1, waits=False)


def estate(**recovery: Any) -> Estate:
    document = estate_of_two_sites().model_dump(mode="json")
    people = [{"name": "ada", "roles": ["operator"]}, {"name": "grace", "roles": ["approver"]}]
    return Estate.model_validate(document | {"people": people, "recovery": recovery})


def systems(folder: Path = Path("/srv/my estate"), of: Estate | None = None) -> Any:
    ledger = MemoryLedger()
    return SimpleNamespace(estate=of or estate(), home=Home(folder), ledger=lambda: ledger)


@pytest.fixture(autouse=True)
def no_standby(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that stops a failover does so at the only standby."""
    items = tuple(Item(name, State.FAIL, "", "", f"{name} fails") for name in EVERY_ITEM)
    found = ServiceReadiness("alpha", "active-passive", ("paris",), (Standby("dublin", items),), NOW)
    monkeypatch.setattr("ninelives.people.task.check_readiness", lambda *_, **__: [found])


def commands(text: str) -> list[list[str]]:
    indented = (line.strip() for line in text.splitlines() if line.startswith("    "))
    quoted = itertools.chain.from_iterable(line.split("`")[1::2] for line in text.splitlines())
    return [shlex.split(one) for one in (*indented, *quoted) if one.startswith("ninelives ")]


@pytest.mark.parametrize("step", ["decide_failover", *STEPS])
def test_every_command_of_a_task_exists_and_takes_what_is_given(step: str) -> None:
    of = systems()
    site = None if step == "decide_failover" else "dublin"
    task = open_task(of, replace(STOPPED, task=f"group.{step}", site=site), NOW)
    assert task
    text = render_task(of, task)
    assert "export NINELIVES_HOME='/srv/my estate'" in text
    found = {tuple(words) for words in commands(text)}
    assert len(found) >= 4
    assert any("alpha" in words or "rows" in words for words in found), "they are about this estate"
    ninelives: Any = typer.main.get_command(app)
    for _, *words in found:
        command = ninelives
        context = command.make_context("ninelives", list(words), resilient_parsing=True)
        while hasattr(command, "get_command"):
            name, *words = words
            command = command.get_command(context, name)
            assert command, f"there is no {name} in ninelives {' '.join(words)}"
        command.make_context(name, list(words))  # raises for an option or argument that is not taken
    for one in task.steps:
        assert one.run, one.title
        assert one.expect, one.title
        assert one.undo, one.title


def test_where_no_standby_is_eligible_each_reason_has_its_step() -> None:
    task = open_task(systems(), replace(STOPPED, task="decide_failover", site=None), NOW)
    assert task
    titles = "\n".join(step.title for step in task.steps)
    for told in ("Thaw automation", "free or buy seats", "ask the gate again", "bring the release again"):
        assert told in titles


def test_a_task_says_why_until_when_and_who_and_is_the_same_when_read_from_the_ledger() -> None:
    of = systems()
    task = open_task(of, STOPPED, NOW)
    assert task
    (record,) = of.ledger().all
    assert (record.kind, record.subject, record.facts["state"]) == ("human-task", "alpha", "open")
    assert HumanTask.from_record(record) == task
    text = render_task(of, task)
    for told in ("Refused: gate: no", "waits for ada until 2026-11-26 13:00:00 UTC", GO_ON, GIVE_UP, "run-1"):
        assert told in text
    assert open_tasks(of.ledger(), NOW) == [task]


def test_a_try_that_was_killed_is_not_asked_twice_and_a_new_reason_is() -> None:
    of = systems()
    first = open_task(of, STOPPED, NOW)
    assert open_task(of, STOPPED, NOW + timedelta(minutes=1)) == first
    second = open_task(of, replace(STOPPED, why="Refused: gate: cannot say"), NOW + timedelta(minutes=2))
    assert first
    assert second
    assert second.evidence != first.evidence
    assert second.until == first.until, "a deadline does not move"
    assert open_tasks(of.ledger(), NOW) == [second]


@pytest.mark.parametrize(
    ("choice", "by", "state"),
    [
        (GO_ON, "ada", "done"),
        (GIVE_UP, "ada", "given up"),
        (None, None, "late"),
        (GO_ON, "grace", "not accepted"),  # she approves, and does not operate
        (GIVE_UP, "mallory", "not accepted"),
        (GIVE_UP, None, "not accepted"),  # marked as answered, by nobody
    ],
)
def test_the_ledger_keeps_who_answered_what_and_only_operators_end_a_run(
    choice: str | None, by: str | None, state: str
) -> None:
    of = systems()
    task = open_task(of, STOPPED, NOW)
    assert task
    for _ in range(2):  # a try that was killed after it
        record = close_task(of.ledger(), STOPPED, ("ada",), choice=choice, by=by, at=NOW + HOUR / 2)
    assert len(of.ledger().all) == 2
    facts = record.facts
    assert (facts["state"], facts["by"], facts["choice"], facts["opened"]) == (state, by, choice, task.evidence)
    assert facts["at"] == (NOW + HOUR / 2).isoformat()
    assert open_tasks(of.ledger(), NOW + HOUR / 2) == []


def test_what_still_stops_after_an_answer_asks_again_until_the_first_deadline() -> None:
    of = systems()
    open_task(of, STOPPED, NOW)
    close_task(of.ledger(), STOPPED, ("ada",), choice=GO_ON, by="ada", at=NOW + HOUR / 2)
    again = open_task(of, STOPPED, NOW + HOUR / 2)
    assert again
    assert again.until == NOW + HOUR
    assert open_tasks(of.ledger(), NOW + HOUR / 2) == [again]
    close_task(of.ledger(), STOPPED, ("ada",), choice=GO_ON, by="ada", at=NOW + HOUR)
    assert open_task(of, STOPPED, NOW + HOUR) is None
    assert open_tasks(of.ledger(), NOW + HOUR) == []


def test_nobody_is_asked_where_the_estate_says_so_or_has_no_operator() -> None:
    assert open_task(systems(of=estate(answer_within=None)), STOPPED, NOW) is None
    nobody = estate().model_copy(update={"people": estate().people[1:]})
    assert open_task(systems(of=nobody), STOPPED, NOW) is None


def test_an_approval_that_was_refused_and_a_wrong_estate_are_nobodys_task() -> None:
    assert not is_for_people(Refused("approval", ["grace answered Reject"]))
    assert not is_for_people(EstateError([]))
    assert all(is_for_people(one) for one in (Refused("gate", ["no"]), Unavailable("away"), Corrupted("rotten")))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stop", "stop otherwise", GO_ON, GIVE_UP]),
            st.sampled_from(["ada", "grace", None]),
            st.integers(0, 90),
        ),
        max_size=12,
    )
)
def test_whatever_happens_at_most_one_task_of_a_step_is_open_and_none_after_its_deadline(history: list[Any]) -> None:
    of, now = systems(), NOW
    for event, by, minutes in history:
        now += timedelta(minutes=minutes)
        if event.startswith("stop"):
            task = open_task(of, replace(STOPPED, why=event), now)
            assert task is None or task.until > now
        else:
            close_task(of.ledger(), STOPPED, ("ada",), choice=event, by=by, at=now)
        found = open_tasks(of.ledger(), now)
        assert len(found) <= 1
        assert all(now < one.until <= NOW + timedelta(minutes=90 * 12) + HOUR for one in found)
    untils = {record.facts["until"] for record in of.ledger().all if record.facts["state"] == "open"}
    assert len(untils) <= 1


def test_what_stops_a_run_that_comes_again_is_told_once_for_all_runs_and_shards_until_one_gets_through() -> None:
    of = systems()
    first = tell(of, TOLD, NOW)
    assert first
    again = replace(TOLD, run="run-2", why="Refused: more is gone")
    assert tell(of, again, NOW + HOUR) == first
    assert tell(of, replace(TOLD, map_index=2), NOW + HOUR) == first, "each shard meets the same source"
    ledger = of.ledger()
    assert open_tasks(ledger, NOW + 9 * HOUR) == [first], "nobody has to answer, so there is no deadline"
    assert say_mended(ledger, replace(TOLD, run="run-3", map_index=2), NOW + HOUR) is None, "not the one that stopped"
    mended = say_mended(ledger, replace(TOLD, run="run-3"), NOW + HOUR)
    assert mended
    assert (mended.facts["state"], mended.facts["by"], mended.facts["opened"]) == ("done", None, first.evidence)
    assert open_tasks(ledger, NOW + HOUR) == []
    assert say_mended(ledger, TOLD, NOW + HOUR) is None
    later = tell(of, again, NOW + 2 * HOUR)
    assert later
    assert later.stopped.why == "Refused: more is gone"


def test_what_is_told_says_that_nothing_waits_and_asks_for_no_answer() -> None:
    of = systems(of=estate(answer_within=None))
    task = tell(of, TOLD, NOW)
    assert task
    text = render_task(of, task)
    assert "nothing to answer" in text
    assert GO_ON not in text
    assert "--max-shrink 1" in text
    assert HumanTask.from_record(of.ledger().all[0]) == task
    nobody = estate().model_copy(update={"people": estate().people[1:]})
    assert tell(systems(of=nobody), TOLD, NOW) is None
