"""Who installed less than a command needs is told so."""

from __future__ import annotations

import subprocess
import sys


def test_a_library_that_is_not_installed_is_an_error_and_no_traceback() -> None:
    """In a process of its own, as where the extra ``local`` was left out: here others have imported it already."""
    code = "import sys; sys.modules['psutil'] = None; from ninelives.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code, "stack", "status"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "psutil is not installed: this command needs an extra" in ended.stderr
    assert "Traceback" not in ended.stderr
