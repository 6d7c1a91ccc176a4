"""What a command prints for people is what it has to say, letter by letter."""

from __future__ import annotations

import pytest

from ninelives.cli.common import emit


@pytest.mark.parametrize(
    "said",
    [
        "{name: at, type: 'timestamp[us, UTC]', allowed: [ewr, jfk]}",
        "unexpected [/etc/passwd] and [red]",
        "/a/path/that/is/longer/than/a/terminal/" + "x" * 200,
    ],
)
def test_brackets_are_no_markup_and_long_lines_stay_whole(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    emit({}, as_json=False, text=lambda: said)
    assert capsys.readouterr().out == said + "\n"
