"""A look is the same after it was printed in one process and read in another; anything else is no look."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ninelives.accelerators.look import as_line, from_document, from_log, to_document
from ninelives.cli import app
from ninelives.ports import Device, Look, Unread, Xid

texts = st.text(max_size=8)
unread = st.builds(Unread, texts, st.booleans())
xids = st.lists(st.builds(Xid, st.integers(0, 200), texts, texts), max_size=3).map(tuple)
numbers = st.lists(st.integers() | unread, max_size=3).map(tuple)
readings = st.dictionaries(
    texts, st.none() | st.booleans() | st.integers() | texts | unread | xids | numbers, max_size=4
)
looks = st.builds(
    Look,
    devices=st.lists(st.builds(Device, texts, texts, readings), max_size=2).map(tuple),
    readings=readings,
    absent=st.none() | texts,
    broken=st.none() | texts,
)


@settings(max_examples=25, deadline=None)
@given(looks, st.lists(st.sampled_from(["", "a warning", "{}", '{"other": 1}']), max_size=3))
def test_what_is_read_is_what_was_printed_whatever_else_is_in_the_log(look: Look, around: list[str]) -> None:
    assert from_log("\n".join([*around, as_line(look), *around])) == look


@pytest.mark.parametrize(
    "change",
    [
        {"devices": None},
        {"devices": [{"uuid": "GPU-1", "name": "Stub"}]},
        {"devices": [{"uuid": 1, "name": "Stub", "readings": {}}]},
        {"readings": {"driver": {"unread": "x"}}},
        {"readings": {"driver": {"unread": "x", "lost": False, "more": 1}}},
        {"readings": []},
        {"absent": 0},
        {"more": 1},
    ],
)
def test_anything_else_is_no_look(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_document(to_document(Look()) | change)


@pytest.mark.parametrize("log", ["", "Traceback", "{}", f"{as_line(Look())}\n{as_line(Look())}"])
def test_a_log_has_one_look_or_none(log: str) -> None:
    with pytest.raises(ValueError, match="looks in"):
        from_log(log)


def test_the_command_prints_one_look_also_where_there_is_no_library() -> None:
    done = CliRunner().invoke(app, ["accelerators", "look", "--kind", "cpu"])
    assert done.exit_code == 0
    assert from_log(done.stdout).absent is not None
