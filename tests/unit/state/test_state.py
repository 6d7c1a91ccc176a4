"""States are canonical arrays, the log has each update once, and what does not fit is refused before anything."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.state.worlds import FIRST, HELD, SLOWER, WIDER, model, update, updates

from ninelives.adapters.river_model import RiverLinear
from ninelives.errors import Corrupted, Refused
from ninelives.state.arrays import Labelled, State
from ninelives.state.learner import Spec, migrate, read_spec
from ninelives.state.log import Update, UpdateLog

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
ARRAYS = st.dictionaries(st.text(min_size=1, max_size=5), st.dictionaries(st.text(max_size=5), NUMBERS), max_size=4)


@settings(max_examples=40, deadline=None)
@given(ARRAYS.filter(lambda arrays: "__metadata__" not in arrays))
def test_a_state_comes_back_bit_for_bit_and_equal_states_are_equal_bytes(arrays: dict[str, dict[str, float]]) -> None:
    state = State("form", {name: Labelled(tuple(one), np.array(list(one.values()))) for name, one in arrays.items()})
    data = state.encode()
    back = State.decode(data)
    assert back.encode() == data == State("form", dict(reversed(list(state.arrays.items())))).encode()
    for name, one in arrays.items():
        assert dict(zip(back.arrays[name].labels, back.arrays[name].values.tolist(), strict=True)) == one


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 60))
def test_exported_at_any_update_it_goes_on_with_the_very_bits_of_one_that_never_stopped(cut: int) -> None:
    straight, first = RiverLinear(WIDER), RiverLinear(WIDER)
    for number in range(60):
        straight.learn(update(number).features, update(number).target)
        if number < cut:
            first.learn(update(number).features, update(number).target)
    second = RiverLinear(WIDER, State.decode(first.export().encode()))
    for number in range(cut, 60):
        second.learn(update(number).features, update(number).target)
    assert second.export().encode() == straight.export().encode()


def test_without_the_optimisers_counters_it_would_learn_something_else() -> None:
    first = RiverLinear(FIRST)
    for number in range(30):
        first.learn(update(number).features, update(number).target)
    state = first.export()
    assert state.arrays["adam.iterations"].values.tolist() == [30]
    forgotten = dict(state.arrays) | {"adam.iterations": Labelled(("value",), np.array([0]))}
    right, wrong = RiverLinear(FIRST, state), RiverLinear(FIRST, State(state.form, forgotten))
    for learner in (right, wrong):
        learner.learn(update(30).features, update(30).target)
    assert right.answer(HELD[0]) != wrong.answer(HELD[0])


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: b"\xff" * 8 + d[8:], lambda d: b""]
)
def test_bytes_that_are_no_state_are_corrupted(damage: object) -> None:
    with pytest.raises(Corrupted):
        State.decode(damage(RiverLinear(FIRST).export().encode()))  # type: ignore[operator]


def test_a_model_that_has_diverged_is_not_kept() -> None:
    with pytest.raises(Refused, match="weights of a is not finite"):
        State("form", {"weights": Labelled(("a",), np.array([np.inf]))}).encode()


def test_what_a_version_adds_has_learnt_nothing_and_what_it_drops_is_forgotten() -> None:
    old = RiverLinear(FIRST)
    for number in range(20):
        old.learn(update(number).features, update(number).target)
    wider = RiverLinear(WIDER, migrate(old.export(), FIRST, WIDER))
    assert [wider.answer(row) for row in HELD] == [old.answer(row) for row in HELD]
    without = Spec(numbers=FIRST.numbers, drops=("carrier",))
    labels = {label for array in migrate(old.export(), FIRST, without).arrays.values() for label in array.labels}
    assert labels == {"hour", "distance", "value"}


@pytest.mark.parametrize(
    ("new", "reason"),
    [
        (WIDER.model_copy(update={"adds": ()}), "adds weekday, and declares that it adds nothing"),
        (SLOWER.model_copy(update={"numbers": ("hour",)}), "drops distance, and declares that it drops nothing"),
        (Spec(numbers=("hour", "distance", "carrier")), "carrier was a text and is a number"),
    ],
)
def test_a_migration_that_is_not_declared_is_refused(new: Spec, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        migrate(RiverLinear(FIRST).export(), FIRST, new)


def test_a_repeated_key_is_applied_once_and_never_with_other_contents(tmp_path: Path) -> None:
    delay = model(tmp_path)
    assert (delay.learn(updates(1, 2)).new, delay.learn(updates(2, 3, 3)).repeated) == (2, 2)
    state = delay.current().state
    with pytest.raises(Refused, match="other contents"):
        delay.learn([update(4), update(1).model_copy(update={"target": 0})])
    assert delay.current().state == state, "nothing of a refused batch is taken in"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Update(key="x", features={"hour": 1, "carrier": "A"}, target=1), "distance is missing"),
        (Update(key="x", features={"hour": "1", "distance": 1, "carrier": "A"}, target=1), "hour must be a number"),
        (Update(key="x", features={"hour": 1, "distance": 1, "carrier": "A"}, target=float("nan")), "target must be"),
        (Update(key="x", features={"hour": 2**60, "distance": 1, "carrier": "A"}, target=1), "no exact form"),
    ],
)
def test_an_update_that_cannot_be_learnt_is_refused_before_anything_is_written(
    tmp_path: Path, bad: Update, reason: str
) -> None:
    delay = model(tmp_path)
    with pytest.raises(Refused, match=reason):
        delay.learn([update(1), bad])
    assert delay.log.read() == []


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 2000))
def test_a_log_cut_at_any_byte_has_its_whole_lines_and_goes_on(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "updates.jsonl"
    UpdateLog(path).append(updates(1, 2, 3))
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % (len(whole) + 1)])
    left = whole[: cut % (len(whole) + 1)].count(b"\n")
    assert [entry.update.key for entry in UpdateLog(path).read()] == ["k1", "k2", "k3"][:left]
    assert UpdateLog(path).append(updates(1, 2, 3, 4)).new == 4 - left
    assert [entry.seq for entry in UpdateLog(path).read()] == [1, 2, 3, 4]


def _altered(lines: list[bytes]) -> list[bytes]:
    return [lines[0].replace(b'"hour":1', b'"hour":2'), *lines[1:]]


@pytest.mark.parametrize(
    "damage",
    [_altered, lambda lines: lines[1:], lambda lines: [lines[1], lines[0], lines[2]], lambda lines: [*lines, lines[0]]],
)
def test_an_altered_removed_swapped_or_doubled_update_is_found(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "updates.jsonl"
    UpdateLog(path).append(updates(1, 2, 3))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(damage(lines)))  # type: ignore[operator]
    with pytest.raises(Corrupted, match=r"updates\.jsonl:"):
        UpdateLog(path).read()


def test_a_log_that_ends_before_what_the_state_has_learnt_is_found(tmp_path: Path) -> None:
    delay = model(tmp_path)
    delay.learn(updates(1, 2, 3))
    path = delay.log.path
    whole = path.read_bytes()
    pointer = delay.folder / "current.json"
    document = json.loads(pointer.read_bytes())
    pointer.write_text(json.dumps(document | {"seq": 3, "hash": delay.log.read()[-1].hash}))
    path.write_bytes(whole[: whole.index(b"\n") + 1])
    with pytest.raises(Corrupted, match="has 1 updates"):
        model(tmp_path).rebuilt()


def test_a_spec_is_refused_where_it_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    for text, reason in (
        ('{"numbers": ["a"], "texts": ["a"]}', "once"),
        ("{}", "takes no feature"),
        ('{"numbers": ["a=b"]}', "numbers.0"),
        ("nonsense", "JSON"),
    ):
        file.write_text(text)
        with pytest.raises(Refused, match=reason):
            read_spec(file)
    with pytest.raises(Refused, match="it is there and differs"):
        model(tmp_path).add("2", FIRST)
    with pytest.raises(Refused, match="no version number"):
        model(tmp_path).add("../2", FIRST)
