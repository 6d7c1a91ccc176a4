"""A learning model in a backup: whole as of one instant whoever learns meanwhile, and no damage passes for it."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from unit.state.worlds import HELD, model, updates
from unit.versions.estates import MemoryLedger

from ninelives.errors import Corrupted
from ninelives.state.kept import check_model, copy_model, models
from ninelives.state.log import Position


@pytest.fixture(scope="module")
def switched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt, was switched, and has learnt again."""
    one = model(tmp_path_factory.mktemp("kept"))
    one.learn(updates(*range(20)))
    one.switch("2", HELD, tolerance=0, ledger=MemoryLedger(), by="ada")
    one.learn(updates(*range(20, 30)))
    return one.folder


def test_a_copy_answers_as_the_model_did_and_more_is_learnt_from_there(switched: Path, tmp_path: Path) -> None:
    to = tmp_path / switched.name
    assert copy_model(switched, to) is None
    end = check_model(to)
    assert (models(tmp_path), end.seq) == ([to], 30)
    copied, original = model(tmp_path), model(switched.parent)
    assert copied.current().state == original.current().state == copied.rebuilt().state
    copied.learn(updates(30))
    assert check_model(to, end).seq == 31, "what the copy had is in what came of it"


def test_it_is_copied_whole_while_others_learn_and_without_what_a_killed_one_began(tmp_path: Path) -> None:
    one = model(tmp_path)
    stop = threading.Event()

    def learn() -> None:
        number = 0
        while not stop.is_set():
            one.learn(updates(*range(number, number + 3)))
            number += 3

    learner = threading.Thread(target=learn)
    learner.start()
    ends = []
    try:
        for number in range(30):
            copy_model(one.folder, tmp_path / "copies" / f"copy-{number}")
            ends.append(check_model(tmp_path / "copies" / f"copy-{number}").seq)
    finally:
        stop.set()
        learner.join()
    assert ends == sorted(ends)
    assert ends[-1] > 0
    end = check_model(one.folder)
    with one.log.path.open("ab") as log:
        log.write(b'{"hash":"0000')
    copy_model(one.folder, tmp_path / "copies" / "torn")
    assert check_model(tmp_path / "copies" / "torn", end) == end


def test_a_state_that_is_damaged_is_left_out_because_the_log_makes_it_anew(switched: Path, tmp_path: Path) -> None:
    damaged, to = tmp_path / "damaged" / "delay", tmp_path / "to" / "delay"
    copy_model(switched, damaged)
    (state,) = (damaged / "states").iterdir()
    state.write_bytes(state.read_bytes()[:-1] + b"\0")
    with pytest.raises(Corrupted, match="is not what was written"):
        check_model(damaged)
    assert "--mend" in str(copy_model(damaged, to))
    assert check_model(to).seq == 30
    assert model(to.parent).mend()
    assert model(to.parent).current().state == model(switched.parent).current().state


def test_no_damage_to_log_or_state_passes(switched: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole" / "delay"
    copy_model(switched, whole)
    end = check_model(whole)
    files = [whole / "updates.jsonl", *(whole / "states").iterdir()]
    chance = random.Random(7)
    for _ in range(300):
        path = chance.choice(files)
        data = path.read_bytes()
        at = chance.randrange(len(data))
        bad = chance.choice([data[:at], data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]])
        path.write_bytes(bad)
        with pytest.raises(Corrupted):
            check_model(whole, end)
        path.write_bytes(data)
    lines = (whole / "updates.jsonl").read_bytes().splitlines(keepends=True)
    for other in (lines[:-1], lines[1:], [lines[1], lines[0], *lines[2:]], [*lines, lines[-1]], []):
        (whole / "updates.jsonl").write_bytes(b"".join(other))
        with pytest.raises(Corrupted):
            check_model(whole, end)
    (whole / "updates.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(Corrupted, match="another one than was seen before"):
        check_model(whole, Position(5, "0" * 64))
    assert check_model(whole, end) == end
