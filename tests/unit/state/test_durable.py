"""What a full disk, a second writer, a torn write, a cut log or a number too large does to a model that learns."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from unit.replication.memory import Killed
from unit.state.worlds import FIRST, HELD, killed_at, model, update, updates

from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.adapters.river_model import RiverLinear
from ninelives.cli import app
from ninelives.errors import Corrupted, Refused, Unavailable
from ninelives.state.learner import LARGEST, Spec
from ninelives.state.log import Update, UpdateLog
from ninelives.state.model import Pointer, StatefulModel, Stretch


def in_child(act: Callable[[], object]) -> int:
    """Run ``act`` in a process of its own; how it ended."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


SCALARS = st.one_of(st.text(max_size=5), st.integers(-(2**53) + 1, 2**53 - 1), st.floats(-LARGEST, LARGEST))


@settings(max_examples=25, deadline=None)
@given(
    features=st.dictionaries(st.text(min_size=1, max_size=5), SCALARS, min_size=1, max_size=3),
    target=st.floats(-LARGEST, LARGEST),
)
def test_each_line_of_the_log_is_rfc_8785_and_says_its_hash(
    features: dict[str, str | int | float], target: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = UpdateLog(tmp_path_factory.mktemp("log") / "updates.jsonl")
    one = Update(key="one", features=features, target=target)
    log.append([one, update(2)])
    lines = log.path.read_bytes().splitlines()
    assert [rfc8785.dumps(json.loads(line, parse_int=float)) for line in lines] == lines
    assert [entry.update for entry in UpdateLog(log.path).read()] == [one, update(2)]
    assert UpdateLog(log.path).append([one]).repeated == 1


def test_what_a_writer_that_was_killed_left_is_on_the_disk_before_its_repeat_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delay = model(tmp_path)
    with pytest.raises(Killed), killed_at(1):  # written, and not yet fsynced
        delay.learn(updates(1, 2))
    synced, real = list[int](), os.fsync

    def fsync(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    assert model(tmp_path).learn(updates(1, 2)).repeated == 2
    assert delay.log.path.stat().st_ino in synced


def test_on_a_full_disk_nothing_of_a_batch_is_taken_in_and_with_room_it_goes_on(tmp_path: Path) -> None:
    delay = model(tmp_path)
    delay.learn(updates(*range(20)))
    whole, state = delay.log.path.read_bytes(), delay.current().state

    def refused() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 1000, len(whole) + 1000))
        with pytest.raises(Unavailable, match="nothing was learnt"):
            delay.learn(updates(*range(20, 200)))

    assert in_child(refused) == 0
    assert (delay.log.path.read_bytes(), delay.current().state) == (whole, state)
    assert delay.learn(updates(*range(20, 200))).new == 180


def test_writers_at_once_take_turns_and_the_same_update_of_two_is_one(tmp_path: Path) -> None:
    model(tmp_path)

    def write(first: int) -> None:
        own = StatefulModel(tmp_path / "delay", RiverLinear)
        for number in range(first, first + 30, 3):
            own.learn(updates(number, number + 1, number + 2))

    children = [os.fork() for _ in range(3)]
    for number, child in enumerate(children):
        if child == 0:
            os._exit(in_child(lambda number=number: write(15 * number)) and 1)  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    found = StatefulModel(tmp_path / "delay", RiverLinear)
    assert sorted(int(entry.update.key[1:]) for entry in found.log.read()) == list(range(60))
    assert found.current().state == found.rebuilt().state


def test_a_log_that_lacks_what_the_state_has_learnt_answers_nobody_and_takes_nothing_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ninelives.state import model as module

    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 3)
    delay = model(tmp_path)
    delay.learn(updates(1, 2, 3))
    lines = delay.log.path.read_bytes().splitlines(keepends=True)
    delay.log.path.write_bytes(lines[0])
    for use in (lambda: model(tmp_path).current(), lambda: model(tmp_path).learn(updates(4))):
        with pytest.raises(Corrupted, match="was cut or written anew"):
            use()
    assert delay.log.path.read_bytes() == lines[0]


@pytest.mark.parametrize("number", [1e101, -1e101, 10**400, float("inf")])
def test_a_number_that_would_end_the_model_for_good_is_refused(tmp_path: Path, number: float) -> None:
    delay = model(tmp_path)
    for bad in (
        Update(key="x", features={"hour": number, "distance": 1, "carrier": "A"}, target=1),
        Update(key="x", features={"hour": 1, "distance": 1, "carrier": "A"}, target=number),
    ):
        with pytest.raises(Refused, match="must be a number between"):
            delay.learn([bad])
    assert delay.log.read() == []


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([LARGEST, -LARGEST, 0, 1e-300, 7]), st.sampled_from([LARGEST, -1]))))
def test_no_number_that_is_taken_makes_a_state_that_cannot_be_kept(pairs: list[tuple[float, float]]) -> None:
    learner = RiverLinear(FIRST.model_copy(update={"learning_rate": 10, "l2": 1}))
    for number, target in pairs:
        learner.learn({"hour": number, "distance": -number, "carrier": "A"}, target)
    learner.export().encode()


def test_a_model_that_was_switched_daily_for_years_is_still_replayed(tmp_path: Path) -> None:
    delay = model(tmp_path)
    delay.learn(updates(*range(5)))
    file = delay.folder / "current.json"
    pointer = Pointer.model_validate_json(file.read_bytes())
    history = (
        Stretch(version="1", since=0),
        *(Stretch(version="21"[number % 2], since=5) for number in range(1500)),
    )
    last = delay.log.read()[-1].hash
    file.write_text(pointer.model_copy(update={"history": history, "since_hash": last}).model_dump_json())
    assert model(tmp_path).rebuilt().position.seq == 5


def test_an_update_that_the_version_before_could_not_learn_on_the_way_back_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate(url)
    ledger, delay = SqlLedger(url), model(tmp_path)
    delay.add("4", Spec(numbers=FIRST.numbers, drops=("carrier",)))
    delay.switch("4", HELD, tolerance=0, ledger=ledger, by="ada")
    with pytest.raises(Refused, match="carrier must be a text, it is 7"):
        delay.learn([Update(key="x", features={"hour": 1, "distance": 2, "carrier": 7}, target=1)])
    delay.learn([Update(key="x", features={"hour": 1, "distance": 2}, target=1)])
    assert delay.back(ledger=ledger, by="ada").facts["to"] == "1"


def test_a_switch_to_the_first_version_that_answers_leaves_no_evidence_of_a_switch(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    migrate(url)
    with pytest.raises(Refused, match="answers already"):
        model(tmp_path).switch("1", HELD, tolerance=0, ledger=SqlLedger(url), by="ada")
    assert list(SqlLedger(url).records()) == []


def test_a_damaged_state_is_made_anew_and_only_from_the_log_that_made_it(tmp_path: Path) -> None:
    delay = model(tmp_path)
    delay.learn(updates(1, 2, 3))
    assert not delay.mend(), "nothing is wrong"
    (file,) = (delay.folder / "states").iterdir()
    whole = file.read_bytes()
    for damage in (lambda: file.write_bytes(b"x"), file.unlink):
        damage()
        with pytest.raises(Corrupted, match="replay delay --mend"):
            delay.current()
        assert delay.mend()
        assert file.read_bytes() == whole
    file.unlink()
    (delay.folder / "versions" / "1.json").write_text(Spec(numbers=("hour",)).model_dump_json())
    with pytest.raises(Corrupted, match="makes another state"):
        delay.mend()


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "river", None)
    with pytest.raises(Refused, match=r"pip install 'ninelives\[online\]'"):
        model(tmp_path)


def test_by_hand_lines_end_where_lines_end_and_a_model_stays_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NINELIVES_HOME", str(tmp_path / "home"))
    spec, source = tmp_path / "spec.json", tmp_path / "in.jsonl"
    spec.write_text(FIRST.model_dump_json())

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["state", *arguments])
        return done.exit_code, done.output + str(done.exception)

    def learn() -> tuple[int, str]:
        return run("learn", "delay", "--input", str(source), "--json")

    source.write_text("")
    assert "--spec FILE" in learn()[1]
    for name in ("../delay", "..", ".", "", "Delay", "a/b"):
        assert run("add", name, "--version", "1", "--spec", str(spec))[0] == 2
    assert run("add", "delay", "--version", "1", "--spec", str(spec))[0] == 0
    code, said = run("replay", "delay", "--to", "9", "--held", str(spec))
    assert (code, "delay version 9: it is not there, only 1" in said) == (1, True), "an error, and no proof that failed"
    odd = {"key": "a\u2028b", "features": {"hour": 1, "distance": 2, "carrier": "A\x85"}, "target": 1}
    source.write_text("\n" + json.dumps(odd, ensure_ascii=False) + "\r\n\n{}\n", encoding="utf-8")
    assert f"{source}:4: key" in learn()[1]
    source.write_text(json.dumps(odd, ensure_ascii=False) + "\n", encoding="utf-8")
    assert json.loads(learn()[1].removesuffix("None")) == {"model": "delay", "new": 1, "repeated": 0}
    source.write_bytes(b"\xff\n")
    assert "JSON in UTF-8" in learn()[1]
