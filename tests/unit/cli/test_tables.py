"""Names in tables are whole, whatever is narrow: people copy them from there."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rich.console import Group
from rich.table import Table

from ninelives.cli import common

NAME = "service-of-a-rather-long-name"


def table(columns: int) -> Table:
    found = Table(*(f"column {number}" for number in range(columns)))
    found.add_row(*(NAME for _ in range(columns)))
    return found


def test_a_pipe_gets_tables_as_wide_as_they_are() -> None:
    program = (
        "from unit.cli.test_tables import table\nfrom ninelives.cli.common import emit\n"
        "emit(0, as_json=False, text=lambda: table(5))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60,
        env={"PYTHONPATH": ":".join(sys.path), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert done.stdout.count(NAME) == 5


@pytest.mark.parametrize("grouped", [False, True])
def test_a_narrow_terminal_breaks_a_name_and_leaves_nothing_out(
    grouped: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common.console, "width", 24)
    common.emit(0, as_json=False, text=lambda: Group("before", table(1)) if grouped else table(1))
    out = capsys.readouterr().out
    assert "…" not in out
    assert NAME in "".join(line.strip("│ ") for line in out.splitlines() if "│" in line)
