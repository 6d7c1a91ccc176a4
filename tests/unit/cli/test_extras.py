"""Who installed less than a command needs is told so."""

from __future__ import annotations

import sys

import pytest

from ninelives.cli import main


def test_a_library_that_is_not_installed_is_an_error_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)  # as where the extra `local` was left out
    monkeypatch.delitem(sys.modules, "ninelives.stack.lifecycle", raising=False)
    monkeypatch.delitem(sys.modules, "ninelives.stack.ports", raising=False)
    monkeypatch.setattr(sys, "argv", ["ninelives", "stack", "status"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "psutil is not installed: this command needs an extra" in capsys.readouterr().err
