"""Switched from version to version, and killed anywhere: no update is lost, none is learnt twice."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from unit.replication.memory import Killed
from unit.state.worlds import HELD, killed_at, model, updates

from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.adapters.river_model import RiverLinear
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.state import model as module
from ninelives.state.model import KIND, StatefulModel


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> SqlLedger:
    url = f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.db'}"
    migrate(url)
    return SqlLedger(url)


def switched(delay: StatefulModel, version: str, ledger: SqlLedger, tolerance: float = 0.0) -> dict[str, object]:
    return dict(delay.switch(version, HELD, tolerance=tolerance, ledger=ledger, by="ada").facts)


def test_the_state_goes_over_is_proved_on_held_requests_and_then_answers(tmp_path: Path, ledger: SqlLedger) -> None:
    delay = model(tmp_path)
    delay.learn(updates(*range(50)))
    before = [delay.current().learner.answer(row) for row in HELD]
    facts = switched(delay, "3", ledger)
    assert (facts["from"], facts["to"], facts["after_update"], facts["by"]) == ("1", "3", 50, "ada")
    assert facts["proof"]["held"] == len(HELD)  # type: ignore[index]
    now = delay.current()
    assert (now.version, [now.learner.answer(row) for row in HELD]) == ("3", before)
    assert switched(delay, "3", ledger) == facts, "asked again it is the same switch"
    delay.learn(updates(*range(50, 80)))
    assert delay.current().state == delay.rebuilt().state
    assert delay.current().learner.export().arrays["scaler.counts"].labels == ("hour", "distance", "weekday")


def test_on_the_way_back_the_old_version_has_learnt_what_came_since(tmp_path: Path, ledger: SqlLedger) -> None:
    delay, alone = model(tmp_path / "a"), model(tmp_path / "b")
    for one in (delay, alone):
        one.learn(updates(*range(30)))
    switched(delay, "2", ledger)
    for one in (delay, alone):
        one.learn(updates(*range(30, 60)))
    assert delay.current().state != alone.current().state
    facts = delay.back(ledger=ledger, by="ada").facts
    assert (facts["from"], facts["to"], facts["back"]) == ("2", "1", True)
    assert delay.current().state == alone.current().state == delay.rebuilt().state
    assert delay.back(ledger=ledger, by="ada").facts == facts
    switched(delay, "2", ledger)
    delay.learn(updates(60))
    assert (delay.current().version, delay.current().state) == ("2", delay.rebuilt().state)


def test_without_held_requests_nothing_is_proved_and_nothing_switched(tmp_path: Path, ledger: SqlLedger) -> None:
    delay = model(tmp_path)
    with pytest.raises(Refused, match="nothing would be proved"):
        delay.switch("2", [], tolerance=0, ledger=ledger, by="ada")
    with pytest.raises(Refused, match="held request 1: carrier is missing"):
        delay.switch("2", [{"hour": 1, "distance": 2}], tolerance=0, ledger=ledger, by="ada")
    assert delay.pointer().version == "1"


def test_an_answer_that_differs_by_more_than_the_tolerance_keeps_the_old_version(
    tmp_path: Path, ledger: SqlLedger
) -> None:
    delay = model(tmp_path)
    delay.learn(updates(*range(50)))
    delay.add("4", delay.spec("1").model_copy(update={"texts": (), "drops": ("carrier",)}))
    with pytest.raises(Refused, match="answers differ"):
        switched(delay, "4", ledger)
    assert delay.pointer().version == "1"
    assert switched(delay, "4", ledger, tolerance=50)["to"] == "4", "who declares that it may, may"


def test_without_a_ledger_nothing_is_switched(tmp_path: Path) -> None:
    delay = model(tmp_path)
    with pytest.raises(Unavailable):
        switched(delay, "2", SqlLedger(f"sqlite:///{tmp_path}/none.db"))
    assert delay.pointer().version == "1"


def test_a_damaged_state_is_found_and_the_log_gives_it_back(tmp_path: Path) -> None:
    delay = model(tmp_path)
    delay.learn(updates(*range(9)))
    state = delay.current().state
    (file,) = (delay.folder / "states").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Corrupted, match="is not the state"):
        delay.current()
    assert delay.rebuilt().state == state


def test_states_are_kept_along_the_way_so_that_opening_need_not_learn_all_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 10)
    delay = model(tmp_path)
    for number in range(25):
        delay.learn(updates(number))
    assert delay.pointer().seq == 20
    assert delay.current().state == delay.rebuilt().state
    assert len(list((delay.folder / "states").iterdir())) == 1


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["learn", "learn", "1", "2", "3", "back"]), st.integers(1, 4),
        st.one_of(st.none(), st.integers(0, 14)), st.floats(0, 1),
    ),
    max_size=8,
)  # fmt: skip


@settings(max_examples=20, deadline=None)
@example(steps=[("learn", 1, 0, 0.5), ("learn", 2, None, 0.0)])
@given(steps=STEPS)
def test_killed_between_any_two_changes_of_the_disk_no_update_is_lost_or_learnt_twice(
    steps: list[tuple[str, int, int | None, float]], ledger: SqlLedger
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "CHECKPOINT_EVERY", 3)
        number, acknowledged = 0, []
        model(Path(folder))
        for action, count, kill, torn in steps:
            delay = StatefulModel(Path(folder) / "delay", RiverLinear)
            version = delay.pointer().version
            batch = updates(*range(number, number + count)) if action == "learn" else []
            number += len(batch)
            try:
                with killed_at(kill, torn):
                    if action == "learn":
                        delay.learn(batch)
                        acknowledged += batch
                    elif action == "back" and len(delay.pointer().history) > 1:
                        delay.back(ledger=ledger, by="ada")
                    elif action not in ("back", version) and not (version == "3" and action != "3"):
                        delay.switch(action, HELD, tolerance=0, ledger=ledger, by="ada")
            except Killed:
                after = StatefulModel(delay.folder, RiverLinear)
                if action == "learn" and count % 2:  # its caller asks again, or never does
                    after.learn(batch)
                    acknowledged += batch
                elif action != "learn":
                    assert after.current().version in {version, action, *(["1", "2", "3"] if action == "back" else [])}
        found = StatefulModel(Path(folder) / "delay", RiverLinear)
        keys = [entry.update.key for entry in found.log.read()]
        assert len(keys) == len(set(keys))
        assert {one.key for one in acknowledged} <= set(keys)
        assert found.current().state == found.rebuilt().state, "each update once, in the log's order"


@pytest.mark.parametrize("lines", [1, 6, 13, 22])
def test_a_process_killed_with_9_loses_no_update_that_it_acknowledged(
    tmp_path: Path, ledger: SqlLedger, lines: int
) -> None:
    model(tmp_path)
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate(url)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            delay, own = StatefulModel(tmp_path / "delay", RiverLinear), SqlLedger(url)
            for number in range(10_000):
                delay.learn(updates(2 * number, 2 * number + 1))
                os.write(writing, f"k{2 * number}\nk{2 * number + 1}\n".encode())
                if number % 3 == 2:
                    switched(delay, "2" if delay.pointer().version == "1" else "1", own)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as acknowledgements:
        keys = [acknowledgements.readline().strip() for _ in range(lines)]
        os.kill(child, signal.SIGKILL)
        keys += [line.strip() for line in acknowledgements if line.endswith("\n")]
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    found = StatefulModel(tmp_path / "delay", RiverLinear)
    assert set(keys) <= {entry.update.key for entry in found.log.read()}
    assert found.current().state == found.rebuilt().state
    other = "2" if found.pointer().version == "1" else "1"
    switched(found, other, SqlLedger(url))
    told = [record.facts["to"] for record in SqlLedger(url).records(kind=KIND)]
    assert told == [one.version for one in reversed(found.pointer().history[1:])], "every switch has its evidence, once"
